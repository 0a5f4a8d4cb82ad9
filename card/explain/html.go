package explain

import (
	"bufio"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

//go:embed page.html
var pageText string

// page escapes whatever a trace puts into it.
var page = template.Must(template.New("page").Parse(pageText))

// What a page shows of a trace without an end.
const (
	maxRows     = 5000 // exchanges
	maxBadRows  = 1000 // of those behind them that were refused or failed
	maxSections = 1000 // sessions
	maxPageHex  = 1024 // bytes of an APDU
)

// HTML writes explained sessions as one page that needs nothing but itself: a
// timeline for each session, and its exchanges to open one by one. Of a long
// trace the page has the first exchanges, the failures behind them, and the
// whole in the timeline.
type HTML struct {
	w        *bufio.Writer
	sessions int
	rows     int
	bad      int // rows behind maxRows
	open     *row
	now      *timeline
	hidden   int // exchanges of this session without a row
	began    bool
}

// NewHTML writes to w, which stays the caller's.
func NewHTML(w io.Writer) *HTML { return &HTML{w: bufio.NewWriterSize(w, 64<<10)} }

// row is an exchange, or an event, on the page.
type row struct {
	ID                int
	At, Took          string
	Channel           int
	Title, Answer     string
	Level             Level
	Event             bool
	Line              int
	Command, Response string
	Said, Answered    []Field
	point             point
}

func (h *HTML) run(name string, data any) error { return page.ExecuteTemplate(h.w, name, data) }

func (h *HTML) begin(title string) error {
	if h.began {
		return nil
	}
	h.began = true
	if title == "" {
		title = "APDU trace"
	}
	return h.run("head", printable(title))
}

// Session implements Renderer.
func (h *HTML) Session(head trace.Header) error {
	if err := h.begin(head.Title); err != nil {
		return err
	}
	if err := h.endSession(); err != nil {
		return err
	}
	h.sessions++
	h.now = newTimeline()
	h.hidden = 0
	if h.sessions > maxSections {
		return nil
	}
	return h.run("session", struct {
		Number int
		Title  string
		Fields []Field
	}{h.sessions, printable(head.Title), clean(headerFields(head))})
}

// Entry implements Renderer.
func (h *HTML) Entry(e Explained) error {
	if h.now == nil {
		if err := h.Session(trace.Header{}); err != nil {
			return err
		}
	}
	if e.Kind == trace.Response && h.open != nil {
		r := h.open
		r.Answer, r.Answered, r.Response = printable(e.Title), clean(e.Fields), maskedHex(e.Entry, maxPageHex)
		r.Level = max(r.Level, e.Level)
		if r.Level == Note && e.Level == Good { // the answer tells how it went
			r.Level = Good
		}
		r.point.took = e.Took
		if e.Took > 0 {
			r.Took = took(e.Took)
		}
		return h.endRow()
	}
	if err := h.endRow(); err != nil {
		return err
	}
	r := &row{Channel: e.Channel, Title: printable(e.Title), Level: e.Level, Line: e.Line, Said: clean(e.Fields), Event: e.Kind == trace.Event}
	if e.At > 0 {
		r.At = fmt.Sprintf("+%.6f s", e.At.Seconds())
	}
	if e.Kind != trace.Event {
		r.Command = maskedHex(e.Entry, maxPageHex)
	}
	r.point = point{at: e.At, channel: e.Channel}
	h.open = r
	if e.Kind != trace.Command {
		return h.endRow()
	}
	return nil
}

// clean is a copy of fields that may be printed.
func clean(f []Field) []Field {
	f = slices.Clone(f)
	for i := range f {
		f[i].Value = printable(f[i].Value)
	}
	return f
}

// endRow writes the exchange that is at hand, where the page has room.
func (h *HTML) endRow() error {
	r := h.open
	if r == nil {
		return nil
	}
	h.open = nil
	show := h.rows < maxRows && h.sessions <= maxSections
	if !show && r.Level == Bad && h.bad < maxBadRows {
		h.bad++
		show = true
	}
	if show {
		h.rows++
		r.ID = h.rows
	} else {
		h.hidden++
	}
	if !r.Event {
		r.point.level, r.point.row = r.Level, r.ID
		r.point.title = strings.TrimSuffix(r.Title+": "+r.Answer, ": ")
		h.now.add(r.point)
	}
	if !show {
		return nil
	}
	return h.run("row", r)
}

func (h *HTML) endSession() error {
	if err := h.endRow(); err != nil {
		return err
	}
	if h.now == nil || h.sessions > maxSections {
		return nil
	}
	t := h.now
	return h.run("end", struct {
		Exchanges, Bad, Hidden int
		End                    string
		Drawing                drawing
	}{t.n, t.bad, h.hidden, t.end.String(), t.draw()})
}

// Close implements Renderer.
func (h *HTML) Close() error {
	if err := h.begin(""); err != nil {
		return err
	}
	if err := h.endSession(); err != nil {
		return err
	}
	h.now = nil
	if err := h.run("tail", max(h.sessions-maxSections, 0)); err != nil {
		return err
	}
	return h.w.Flush()
}
