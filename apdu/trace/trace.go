// Package trace records APDU exchanges as line-oriented text, docs/trace.md,
// and reads such text back. A Recorder wraps any apdu.Conn.
package trace

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Origin says where the answers of a trace come from.
type Origin string

// The origins of a trace.
const (
	Hardware Origin = "hardware" // a physical card
	Emulator Origin = "emulator"
	Hand     Origin = "hand" // written by somebody
)

// Header is what stands before the first line. Every member may be empty.
type Header struct {
	Card   string // what the card is: its EID, its name
	Reader string
	Date   time.Time // start of the recording
	Origin Origin
}

// Kind is the kind of an entry.
type Kind byte

// The kinds of entries, by the sign that begins their lines.
const (
	Command  Kind = '>'
	Response Kind = '<'
	Event    Kind = '!'
)

// Events that a Recorder writes.
const (
	Connected = "connected" // Data is the ATR
	Reset     = "reset"     // Data is the ATR
	Removed   = "removed"   // the card left in mid-exchange
	Closed    = "closed"
	Error     = "error" // Text says which; the command before it has no response
)

// Entry is one line of a trace.
type Entry struct {
	Kind Kind
	Data []byte        // the APDU, or the ATR
	Name string        // of an event: one word
	Text string        // what else is said of an event
	At   time.Duration // since the beginning, in microseconds; 0 where unknown
	Took time.Duration // of a response: since its command, in microseconds; 0 where unknown
	Line int           // where Parse found it, from 1; not written
}

// Trace is a whole trace.
type Trace struct {
	Header
	Entries []Entry
}

const (
	firstLine  = "# cardbridge trace 1"
	maxLine    = 1 << 18          // bytes; an extended APDU has 2 × 65,544 digits
	maxAPDU    = 65535 + 9        // bytes of the longest command; a response is shorter
	maxEntries = 1 << 20          // lines
	maxText    = 200              // bytes of a header's or an event's text
	maxTime    = 1000 * time.Hour // bounds offsets and durations
)

// SyntaxError says that a text is not a trace.
type SyntaxError struct {
	Line   int // from 1
	Reason string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("trace: line %d: %s", e.Line, e.Reason) }

// Parse reads a trace. The error is a *SyntaxError where the text is not one,
// else r's.
func Parse(r io.Reader) (*Trace, error) {
	t := &Trace{}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, 4096), maxLine)
	line := 0
	for scanner.Scan() {
		line++
		if err := t.parseLine(scanner.Text(), line); err != nil {
			return nil, err
		}
	}
	switch err := scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, &SyntaxError{line + 1, fmt.Sprintf("longer than %d bytes", maxLine)}
	case err != nil:
		return nil, fmt.Errorf("trace: %w", err)
	case line == 0:
		return nil, &SyntaxError{1, "empty"}
	}
	return t, nil
}

func (t *Trace) parseLine(s string, line int) error {
	s = strings.TrimRightFunc(s, unicode.IsSpace)
	if line == 1 {
		if s != firstLine {
			return &SyntaxError{line, fmt.Sprintf("not %q", firstLine)}
		}
		return nil
	}
	if s == "" {
		return nil
	}
	body, comment, _ := strings.Cut(s, "#")
	if body == "" {
		if len(t.Entries) > 0 {
			return nil // a comment
		}
		return t.parseHeader(comment, line)
	}
	if len(t.Entries) == maxEntries {
		return &SyntaxError{line, fmt.Sprintf("more than %d entries", maxEntries)}
	}
	e := Entry{Kind: Kind(body[0]), Line: line}
	body = strings.TrimSpace(body[1:])
	var err error
	switch e.Kind {
	case Command, Response:
		least := map[Kind]int{Command: 4, Response: 2}[e.Kind]
		if e.Data, err = parseHex(body); err == nil && len(e.Data) < least {
			err = fmt.Errorf("%d bytes, at least %d wanted", len(e.Data), least)
		}
	case Event:
		e.Name, e.Text, _ = strings.Cut(body, " ")
		e.Text = clean(e.Text)
		switch {
		case e.Name == "" || e.Name != clean(e.Name):
			err = errors.New("an event without a name")
		case e.Name == Connected || e.Name == Reset:
			e.Data, err = parseHex(e.Text)
			e.Text = ""
		}
	default:
		err = fmt.Errorf("begins with none of > < ! #")
	}
	if err != nil {
		return &SyntaxError{line, err.Error()}
	}
	e.At, e.Took = parseTimes(comment)
	if e.Kind != Response {
		e.Took = 0
	}
	t.Entries = append(t.Entries, e)
	return nil
}

// parseHeader takes "key: value"; any other comment is just that.
func (t *Trace) parseHeader(comment string, line int) error {
	key, value, ok := strings.Cut(strings.TrimSpace(comment), ":")
	if !ok {
		return nil
	}
	value = clean(value)
	switch key {
	case "card":
		t.Card = value
	case "reader":
		t.Reader = value
	case "origin":
		switch o := Origin(value); o {
		case Hardware, Emulator, Hand:
			t.Origin = o
		default:
			return &SyntaxError{line, fmt.Sprintf("origin %.20q is none of hardware, emulator, hand", value)}
		}
	case "date":
		d, err := time.Parse(time.RFC3339, value)
		if d = d.UTC(); err != nil || d.Year() < 1 || d.Year() > 9999 {
			return &SyntaxError{line, fmt.Sprintf("date %.40q is not one of RFC 3339", value)}
		}
		t.Date = d
	}
	return nil
}

// parseTimes reads "+1.000200s 0.200ms"; any other comment has no times.
func parseTimes(comment string) (at, took time.Duration) {
	for i, f := range strings.Fields(comment) {
		if i > 1 || (f[0] == '+') != (i == 0) {
			break
		}
		d, err := time.ParseDuration(f)
		if err != nil || d < 0 || d > maxTime {
			break
		}
		if i == 0 {
			at = d.Truncate(time.Microsecond)
		} else {
			took = d.Truncate(time.Microsecond)
		}
	}
	return at, took
}

// parseHex takes digits in either case, blanks between them.
func parseHex(s string) ([]byte, error) {
	digits := bytes.Join(bytes.Fields([]byte(s)), nil)
	if len(digits) > 2*maxAPDU {
		return nil, fmt.Errorf("%d hexadecimal digits, at most %d", len(digits), 2*maxAPDU)
	}
	n, err := hex.Decode(digits, digits)
	if err != nil {
		return nil, errors.New("not whole bytes in hexadecimal")
	}
	if n == 0 {
		return nil, nil
	}
	return digits[:n], nil
}

// clean makes text fit into a line and read back as it is written.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '#' || r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxText {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:maxText], ""))
	}
	return s
}

// WriteTo writes the trace in the form that Parse reads.
func (t *Trace) WriteTo(w io.Writer) (int64, error) {
	b := appendHeader(nil, t.Header)
	for _, e := range t.Entries {
		b = appendEntry(b, e)
	}
	n, err := w.Write(b)
	return int64(n), err
}

func appendHeader(b []byte, h Header) []byte {
	b = append(b, firstLine+"\n"...)
	date := ""
	if !h.Date.IsZero() {
		date = h.Date.UTC().Format(time.RFC3339)
	}
	for _, f := range [][2]string{{"card", h.Card}, {"reader", h.Reader}, {"date", date}, {"origin", string(h.Origin)}} {
		if v := clean(f[1]); v != "" {
			b = fmt.Appendf(b, "# %s: %s\n", f[0], v)
		}
	}
	return b
}

func appendEntry(b []byte, e Entry) []byte {
	b = append(b, byte(e.Kind))
	if e.Kind == Event {
		b = append(append(b, ' '), e.Name...)
		if text := clean(e.Text); text != "" {
			b = append(append(b, ' '), text...)
		}
	}
	if len(e.Data) > 0 {
		b = fmt.Appendf(b, " %X", e.Data)
	}
	at := e.At.Microseconds()
	b = fmt.Appendf(b, " # +%d.%06ds", at/1e6, at%1e6)
	if e.Kind == Response {
		took := e.Took.Microseconds()
		b = fmt.Appendf(b, " %d.%03dms", took/1e3, took%1e3)
	}
	return append(b, '\n')
}
