package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/cardbridge/cardbridge/apdu/trace/internal/lines"
)

// Reader reads a trace of any length, one session or many, in the memory of one
// line. It is a Source and serves one goroutine.
//
// After a *SyntaxError it goes on with the next line, so that a caller may take
// what can be read; with one of NextSession the session has begun all the same,
// except where the text is no trace at all.
type Reader struct {
	lines  *lines.Reader
	header Header
	held   []byte // a line that was read ahead: an entry's, or a session's first
	err    error  // what that line met
	state  int
}

const (
	before  = iota // no session yet
	within         // a session goes on
	between        // the session ended with the first line of the next
	after          // nothing is left
)

// NewReader reads the trace in r.
func NewReader(r io.Reader) *Reader { return &Reader{lines: lines.New(r, maxLine)} }

// Line is the number of the line that was read last, from 1.
func (r *Reader) Line() int { return r.lines.Line() }

// NextSession implements Source.
func (r *Reader) NextSession() (Header, error) {
	switch r.state {
	case before:
		r.state = after
		line, err := r.line()
		switch {
		case errors.Is(err, io.EOF):
			return Header{}, &SyntaxError{1, "empty"}
		case err != nil:
			return Header{}, err
		case !isFirst(line):
			return Header{}, &SyntaxError{r.Line(), notFirst(line)}
		}
		r.state = between
	case within:
		for {
			var syntax *SyntaxError
			if _, err := r.Next(); err != nil && !errors.As(err, &syntax) {
				break
			}
		}
	}
	if r.state == after {
		return Header{}, r.end()
	}
	r.state = within
	return r.readHeader()
}

// end is io.EOF, or what broke the reading off.
func (r *Reader) end() error {
	if r.err != nil {
		return r.err
	}
	return io.EOF
}

// readHeader reads up to the first entry, which it holds.
func (r *Reader) readHeader() (Header, error) {
	r.header = Header{}
	var first error
	for {
		line, err := r.line()
		switch comment, ok := bytes.CutPrefix(line, []byte{'#'}); {
		case err != nil || isFirst(line) || len(line) > 0 && !ok:
			r.held, r.err = line, err
			return r.header, first
		case ok:
			if err := r.header.parse(string(comment)); err != nil && first == nil {
				first = &SyntaxError{r.Line(), err.Error()}
			}
		}
	}
}

// Next implements Source; it begins the first session where NextSession did not.
func (r *Reader) Next() (Entry, error) {
	if r.state == before {
		if _, err := r.NextSession(); err != nil {
			return Entry{}, err
		}
	}
	for r.state == within {
		line, err := r.held, r.err
		r.held, r.err = nil, nil
		if line == nil && err == nil {
			line, err = r.line()
		}
		var syntax *SyntaxError
		switch {
		case errors.As(err, &syntax):
			return Entry{}, err
		case err != nil:
			r.state = after
			if !errors.Is(err, io.EOF) {
				r.err = err
			}
		case isFirst(line):
			r.state = between
		case len(line) > 0 && line[0] != '#':
			e, err := parseEntry(line)
			if err != nil {
				return Entry{}, &SyntaxError{r.Line(), err.Error()}
			}
			e.Line = r.Line()
			return e, nil
		}
	}
	if r.state == after {
		return Entry{}, r.end()
	}
	return Entry{}, io.EOF
}

// Header is that of the session that goes on.
func (r *Reader) Header() Header { return r.header }

func (r *Reader) line() ([]byte, error) {
	line, err := r.lines.Next()
	switch {
	case errors.Is(err, lines.ErrTooLong):
		return nil, &SyntaxError{r.Line(), fmt.Sprintf("longer than %d bytes", maxLine)}
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, fmt.Errorf("trace: line %d: %w", r.Line()+1, err)
	}
	return bytes.TrimRightFunc(line, unicode.IsSpace), nil
}

func isFirst(line []byte) bool {
	return string(line) == firstLine || string(line) == firstLine1
}

// notFirst says why a line is not the first of a trace.
func notFirst(line []byte) string {
	if version, ok := bytes.CutPrefix(line, []byte("# cardbridge trace ")); ok {
		return fmt.Sprintf("version %.20q of the format is not known, 1 and 2 are", version)
	}
	return fmt.Sprintf("not %q, which is the first line of a trace", firstLine)
}

// parse takes "key: value"; any other comment is just that.
func (h *Header) parse(comment string) error {
	key, value, ok := strings.Cut(strings.TrimSpace(comment), ":")
	if !ok {
		return nil
	}
	value = clean(value)
	switch key {
	case "title":
		h.Title = value
	case "card":
		h.Card = value
	case "reader":
		h.Reader = value
	case "tool":
		h.Tool = value
	case "redacted":
		if h.Redacted = value == "yes"; !h.Redacted && value != "no" {
			return fmt.Errorf("redacted %.20q is neither yes nor no", value)
		}
	case "origin":
		switch o := Origin(value); o {
		case Hardware, Emulator, Hand:
			h.Origin = o
		default:
			return fmt.Errorf("origin %.20q is none of hardware, emulator, hand", value)
		}
	case "date":
		d, err := time.Parse(time.RFC3339, value)
		if d = d.UTC(); err != nil || d.Year() < 1 || d.Year() > 9999 {
			return fmt.Errorf("date %.40q is not one of RFC 3339", value)
		}
		h.Date = d
	}
	return nil
}

func parseEntry(line []byte) (Entry, error) {
	body, comment, _ := bytes.Cut(line, []byte{'#'})
	e := Entry{Kind: Kind(body[0])}
	body = bytes.TrimSpace(body[1:])
	var err error
	switch e.Kind {
	case Command, Response:
		least := 4
		if e.Kind == Response {
			least = 2
		}
		if e.Data, e.Mask, err = parseHex(body); err == nil && len(e.Data) < least {
			err = fmt.Errorf("%d bytes, at least %d wanted", len(e.Data), least)
		}
	case Event:
		e.Name, e.Text, _ = strings.Cut(string(body), " ")
		e.Text = clean(e.Text)
		switch {
		case e.Name == "" || e.Name != clean(e.Name):
			err = errors.New("an event without a name")
		case e.Name == Connected || e.Name == Reset:
			e.Data, e.Mask, err = parseHex([]byte(e.Text))
			e.Text = ""
		}
	default:
		err = errors.New("begins with none of > < ! #")
	}
	if err != nil {
		return Entry{}, err
	}
	e.At, e.Took = parseTimes(comment)
	if e.Kind != Response {
		e.Took = 0
	}
	return e, nil
}

// parseTimes reads "+1.000200s 0.200ms"; any other comment has no times.
func parseTimes(comment []byte) (at, took time.Duration) {
	i := 0
	for f := range bytes.FieldsSeq(comment) {
		if i > 1 || (f[0] == '+') != (i == 0) {
			break
		}
		d, err := time.ParseDuration(string(f))
		if err != nil || d < 0 || d > maxTime {
			break
		}
		if i == 0 {
			at = d.Truncate(time.Microsecond)
		} else {
			took = d.Truncate(time.Microsecond)
		}
		i++
	}
	return at, took
}

// parseHex takes digits in either case and blanks between them; ** is a byte
// that was redacted.
func parseHex(s []byte) (data []byte, mask []Span, err error) {
	data = make([]byte, 0, min(len(s)/2, maxAPDU))
	high := -1 // the first digit of a byte, 16 for *
	for _, c := range s {
		digit := 0
		switch {
		case '0' <= c && c <= '9':
			digit = int(c - '0')
		case 'A' <= c && c <= 'F':
			digit = int(c-'A') + 10
		case 'a' <= c && c <= 'f':
			digit = int(c-'a') + 10
		case c == '*':
			digit = 16
		case c == ' ' || '\t' <= c && c <= '\r':
			continue
		default:
			return nil, nil, errNotHex
		}
		switch {
		case high < 0:
			high = digit
			continue
		case (high == 16) != (digit == 16):
			return nil, nil, errNotHex
		case len(data) == maxAPDU:
			return nil, nil, fmt.Errorf("more than %d bytes", maxAPDU)
		case digit == 16:
			if n := len(mask) - 1; n >= 0 && mask[n].To == len(data) {
				mask[n].To++
			} else {
				mask = append(mask, Span{len(data), len(data) + 1})
			}
			data = append(data, 0)
		default:
			data = append(data, byte(high<<4|digit))
		}
		high = -1
	}
	if high >= 0 {
		return nil, nil, errNotHex
	}
	if len(data) == 0 {
		return nil, nil, nil
	}
	return data, mask, nil
}

var errNotHex = errors.New("not whole bytes in hexadecimal")

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
