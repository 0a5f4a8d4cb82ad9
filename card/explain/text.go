package explain

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// Text writes explained sessions for a person to read. Whatever a trace holds,
// nothing in the output but its own colours tells a terminal what to do.
type Text struct {
	w        *bufio.Writer
	colour   bool
	sessions int
	line     []byte
}

// NewText writes to w, which stays the caller's, with the colours of a terminal
// or without.
func NewText(w io.Writer, colour bool) *Text {
	return &Text{w: bufio.NewWriterSize(w, 64<<10), colour: colour}
}

// The graphic renditions of ECMA-48.
const (
	bold   = "1"
	faint  = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

var levelColours = [...]string{Plain: "", Good: green, Note: yellow, Bad: red}

const (
	margin   = 24 // columns before fields
	maxShown = 64 // bytes of an APDU that are shown
)

// Session implements Renderer.
func (t *Text) Session(h trace.Header) error {
	if t.sessions++; t.sessions > 1 {
		t.line = append(t.line, '\n')
	}
	title := "session " + strconv.Itoa(t.sessions)
	if h.Title != "" {
		title += ": " + h.Title
	}
	t.paint(bold, title)
	for _, f := range headerFields(h) {
		t.line = append(t.line, "\n  "...)
		t.paint("", f.Name+" "+f.Value)
	}
	t.line = append(t.line, '\n')
	return t.flush()
}

// headerFields is what a header says beside the title.
func headerFields(h trace.Header) []Field {
	var out []Field
	add := func(name, value string) {
		if value != "" {
			out = append(out, Field{Name: name, Value: value})
		}
	}
	add("card", h.Card)
	add("reader", h.Reader)
	add("tool", h.Tool)
	if !h.Date.IsZero() {
		add("date", h.Date.UTC().Format(time.RFC3339))
	}
	add("origin", string(h.Origin))
	if h.Redacted {
		add("redacted", "yes")
	}
	return out
}

// Entry implements Renderer.
func (t *Text) Entry(e Explained) error {
	t.line = appendRight(t.line, e.Line, 6)
	at := len(t.line)
	if e.At > 0 {
		t.line = append(t.line, "  +"...)
		t.line = strconv.AppendFloat(t.line, e.At.Seconds(), 'f', 6, 64)
		t.line = append(t.line, "s "...)
	}
	for len(t.line)-at < margin-8 {
		t.line = append(t.line, ' ')
	}
	t.line = append(t.line, byte(e.Kind), ' ')
	if e.Channel > 0 {
		t.line = append(t.line, "channel "...)
		t.line = append(strconv.AppendInt(t.line, int64(e.Channel), 10), ": "...)
	}
	colour := levelColours[e.Level]
	if e.Kind == trace.Command && colour == "" {
		colour = bold
	}
	t.paint(colour, e.Title)
	if e.Took > 0 {
		t.line = append(t.line, "  "...)
		t.paint(faint, took(e.Took))
	}
	t.line = append(t.line, '\n')
	if e.Kind != trace.Event && len(e.Data) > 0 {
		t.blank(margin)
		t.paint(faint, maskedHex(e.Entry, maxShown))
		t.line = append(t.line, '\n')
	}
	for _, f := range e.Fields {
		t.blank(margin + 2*f.Depth)
		name := f.Name
		if f.Tag != "" {
			name = strings.TrimSuffix(f.Tag+" "+name, " ")
		}
		if f.Value != "" {
			name += ": "
		}
		t.paint("", name)
		t.paint(levelColours[f.Level], f.Value)
		t.line = append(t.line, '\n')
	}
	return t.flush()
}

// Close implements Renderer.
func (t *Text) Close() error { return t.w.Flush() }

func (t *Text) flush() error {
	_, err := t.w.Write(t.line)
	t.line = t.line[:0]
	return err
}

func (t *Text) blank(n int) {
	for range n {
		t.line = append(t.line, ' ')
	}
}

func (t *Text) paint(colour, s string) {
	s = printable(s)
	if !t.colour || colour == "" {
		t.line = append(t.line, s...)
		return
	}
	t.line = append(append(append(t.line, "\x1b["...), colour...), 'm')
	t.line = append(append(t.line, s...), "\x1b[0m"...)
}

// appendRight writes n at the right of so many columns; 0 is blank.
func appendRight(b []byte, n, columns int) []byte {
	s := ""
	if n > 0 {
		s = strconv.Itoa(n)
	}
	for range columns - len(s) {
		b = append(b, ' ')
	}
	return append(b, s...)
}

func took(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 3, 64) + " ms"
}

// maskedHex is the data in hexadecimal, what was redacted as **, cut off at so
// many bytes where limit is not 0.
func maskedHex(e trace.Entry, limit int) string {
	const digits = "0123456789ABCDEF"
	n := len(e.Data)
	if limit > 0 {
		n = min(n, limit)
	}
	b := make([]byte, 0, 2*n+16)
	mask := e.Mask
	for i, v := range e.Data[:n] {
		for len(mask) > 0 && i >= mask[0].To {
			mask = mask[1:]
		}
		if len(mask) > 0 && i >= mask[0].From {
			b = append(b, '*', '*')
			continue
		}
		b = append(b, digits[v>>4], digits[v&15])
	}
	if n < len(e.Data) {
		b = fmt.Appendf(b, "… (%d bytes)", len(e.Data))
	}
	return string(b)
}
