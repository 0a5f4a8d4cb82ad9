package interchange

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/internal/lines"
)

// jsonLine is a line of JSON lines: a session's beginning or an entry. Data is
// in hexadecimal, ** for a byte that was redacted.
type jsonLine struct {
	Type string `json:"type"` // session, command, response, event

	Title    string `json:"title,omitempty"`
	Card     string `json:"card,omitempty"`
	Reader   string `json:"reader,omitempty"`
	Tool     string `json:"tool,omitempty"`
	Date     string `json:"date,omitempty"`
	Origin   string `json:"origin,omitempty"`
	Redacted string `json:"redacted,omitempty"`

	Data string `json:"data,omitempty"`
	Name string `json:"name,omitempty"`
	Text string `json:"text,omitempty"`
	At   int64  `json:"at_us,omitempty"`   // microseconds since the beginning
	Took int64  `json:"took_us,omitempty"` // microseconds, of a response
}

func isJSONLine(b []byte) bool {
	if len(b) == 0 || b[0] != '{' {
		return false
	}
	for _, t := range [...]string{"session", "command", "response", "event"} {
		if bytes.Contains(b, []byte(`"type":"`+t+`"`)) || bytes.Contains(b, []byte(`"type": "`+t+`"`)) {
			return true
		}
	}
	return false
}

type jsonSink struct {
	w io.Writer
}

func (s *jsonSink) Begin(h trace.Header) error {
	l := jsonLine{Type: "session"}
	for _, f := range headerFields(h) {
		*l.header(f[0]) = f[1]
	}
	return s.write(l)
}

// header is the member for one of headerFields.
func (l *jsonLine) header(key string) *string {
	return map[string]*string{
		"title": &l.Title, "card": &l.Card, "reader": &l.Reader, "tool": &l.Tool,
		"date": &l.Date, "origin": &l.Origin, "redacted": &l.Redacted,
	}[key]
}

var jsonKinds = map[trace.Kind]string{trace.Command: "command", trace.Response: "response", trace.Event: "event"}

func (s *jsonSink) Write(e trace.Entry) error {
	return s.write(jsonLine{
		Type: jsonKinds[e.Kind], Data: strings.ReplaceAll(string(appendSpaced(nil, e)), " ", ""),
		Name: e.Name, Text: oneLine(e.Text), At: e.At.Microseconds(), Took: e.Took.Microseconds(),
	})
}

func (s *jsonSink) write(l jsonLine) error {
	b, err := json.Marshal(l)
	if err == nil {
		_, err = s.w.Write(append(b, '\n'))
	}
	return err
}

func (s *jsonSink) Close() error { return nil }

// jsonSource is a Source of many sessions.
type jsonSource struct {
	lines *lines.Reader
	warn  *warner
	held  *jsonLine // was read ahead
	begun bool
	err   error
}

func newJSONSource(r io.Reader, w *warner) *jsonSource {
	return &jsonSource{lines: lines.New(r, maxLine), warn: w}
}

// next is the next line that is one of ours.
func (s *jsonSource) next() (*jsonLine, error) {
	if l := s.held; l != nil {
		s.held = nil
		return l, nil
	}
	for s.err == nil {
		b, err := s.lines.Next()
		reason := ""
		switch {
		case errors.Is(err, lines.ErrTooLong):
			reason = fmt.Sprintf("longer than %d bytes", maxLine)
		case err != nil:
			s.err = err
			if !errors.Is(err, io.EOF) {
				s.err = fmt.Errorf("interchange: line %d: %w", s.lines.Line()+1, err)
			}
			continue
		case len(bytes.TrimSpace(b)) == 0:
			continue
		default:
			var l jsonLine
			if json.Unmarshal(b, &l) == nil {
				switch l.Type {
				case "session", "command", "response", "event":
					return &l, nil
				}
			}
			reason = errNotUnderstood.Error()
		}
		s.warn.add(Warning{Line: s.lines.Line(), Reason: reason})
	}
	return nil, s.err
}

func (s *jsonSource) NextSession() (trace.Header, error) {
	for s.begun { // what is left of the session before
		l, err := s.next()
		if err != nil {
			return trace.Header{}, err
		}
		if l.Type == "session" {
			s.held = l
			break
		}
	}
	l, err := s.next()
	if err != nil && (s.begun || !errors.Is(err, io.EOF)) {
		return trace.Header{}, err
	}
	s.begun = true
	var h trace.Header
	switch {
	case l == nil:
	case l.Type != "session": // entries without a beginning
		s.held = l
	default:
		for _, key := range [...]string{"title", "card", "reader", "tool", "date", "origin", "redacted"} {
			setHeader(&h, key, *l.header(key))
		}
	}
	return h, nil
}

func (s *jsonSource) Next() (trace.Entry, error) {
	if !s.begun {
		if _, err := s.NextSession(); err != nil {
			return trace.Entry{}, err
		}
	}
	for {
		l, err := s.next()
		if err != nil {
			return trace.Entry{}, err
		}
		if l.Type == "session" {
			s.held = l
			return trace.Entry{}, io.EOF
		}
		e, err := l.entry()
		if err == nil {
			e.Line = s.lines.Line()
			return e, nil
		}
		s.warn.add(Warning{Line: s.lines.Line(), Reason: err.Error()})
	}
}

func (l *jsonLine) entry() (trace.Entry, error) {
	e := trace.Entry{Kind: trace.Event, At: micros(l.At)}
	var err error
	if e.Data, e.Mask, err = maskedHex(l.Data); err != nil {
		return e, err
	}
	switch l.Type {
	case "command":
		if e.Kind = trace.Command; len(e.Data) < 4 {
			return e, fmt.Errorf("a command of %d bytes", len(e.Data))
		}
	case "response":
		e.Kind, e.Took = trace.Response, micros(l.Took)
		if len(e.Data) < 2 {
			return e, fmt.Errorf("a response of %d bytes", len(e.Data))
		}
	default:
		switch e.Name = word(l.Name); {
		case e.Name == trace.Connected || e.Name == trace.Reset:
		case len(e.Data) > 0: // only an ATR has bytes
			e.Text = oneLine(l.Data + " " + l.Text)
			e.Data, e.Mask = nil, nil
		default:
			e.Text = oneLine(l.Text)
		}
	}
	return e, nil
}

// micros is a time within the bounds of a trace, else not known.
func micros(us int64) time.Duration {
	if us < 0 || us > maxTime.Microseconds() {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// maskedHex takes hexadecimal digits, ** for a byte that was redacted.
func maskedHex(s string) ([]byte, []trace.Span, error) {
	if !strings.Contains(s, "*") {
		b, err := hexBytes([]byte(s))
		if len(b) == 0 {
			b = nil
		}
		return b, nil, err
	}
	b, err := hexBytes([]byte(strings.ReplaceAll(s, "**", "00")))
	if err != nil || strings.ContainsAny(s, " \t:") {
		return nil, nil, errors.New("not whole bytes in hexadecimal")
	}
	var mask []trace.Span
	for i := range b {
		if s[2*i] != '*' {
			continue
		}
		if n := len(mask) - 1; n >= 0 && mask[n].To == i {
			mask[n].To++
		} else {
			mask = append(mask, trace.Span{From: i, To: i + 1})
		}
	}
	return b, mask, nil
}
