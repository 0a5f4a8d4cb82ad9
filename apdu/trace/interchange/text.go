package interchange

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/internal/lines"
)

const (
	maxLine = 1 << 18   // bytes; the longest APDU has 65,544 bytes in hex, blanks between
	maxAPDU = 65535 + 9 // bytes
)

// decoder takes the lines of one format. The error says why a line is left
// out; lines that are known to have no APDU are just passed over.
type decoder interface {
	line(out *output, b []byte) error // b is valid until it returns
	end(out *output) error            // the text ended
}

var errNotUnderstood = errors.New("not understood")

// output is what a decoder has understood.
type output struct {
	warn    *warner
	header  trace.Header
	entries []trace.Entry
	begun   bool // an entry was understood: the header is complete
	at      time.Duration
	place   Warning
}

func (o *output) doubt(reason string) {
	w := o.place
	w.Reason = reason
	o.warn.add(w)
}

func (o *output) add(e trace.Entry) {
	e.At, e.Line = o.at.Truncate(time.Microsecond), o.place.Line
	o.entries = append(o.entries, e)
	o.begun = true
}

func (o *output) command(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("a command of %d bytes", len(b))
	}
	if _, err := apdu.ParseCommand(b); err != nil {
		o.doubt("a command whose length field is false: cut off?")
	}
	o.add(trace.Entry{Kind: trace.Command, Data: b})
	return nil
}

func (o *output) response(b []byte, took time.Duration) error {
	if len(b) < 2 {
		return fmt.Errorf("a response of %d bytes", len(b))
	}
	o.add(trace.Entry{Kind: trace.Response, Data: b, Took: took})
	return nil
}

func (o *output) event(name string, data []byte, text string) {
	o.add(trace.Entry{Kind: trace.Event, Name: name, Data: data, Text: text})
}

// reader is what the header says of the reader; the first that is named counts.
func (o *output) reader(name []byte) {
	if o.header.Reader == "" && !o.begun {
		o.header.Reader = string(name[:min(len(name), 200)])
	}
}

// textSource is a Source of one session.
type textSource struct {
	lines   *lines.Reader
	decoder decoder
	out     output
	state   int
	err     error // io.EOF or what broke the reading off
}

const (
	before = iota
	within
	after
)

func (t *textSource) NextSession() (trace.Header, error) {
	if t.state != before {
		for t.err == nil {
			t.out.entries = t.out.entries[:0]
			t.pump()
		}
		t.state = after
		return trace.Header{}, t.err
	}
	t.state = within
	t.pump()
	if len(t.out.entries) == 0 && !errors.Is(t.err, io.EOF) {
		return trace.Header{}, t.err
	}
	return t.out.header, nil
}

func (t *textSource) Next() (trace.Entry, error) {
	if t.state == before {
		if _, err := t.NextSession(); err != nil {
			return trace.Entry{}, err
		}
	}
	if t.state == after {
		return trace.Entry{}, t.err
	}
	t.pump()
	if len(t.out.entries) == 0 {
		return trace.Entry{}, t.err
	}
	e := t.out.entries[0]
	t.out.entries = t.out.entries[:copy(t.out.entries, t.out.entries[1:])]
	return e, nil
}

// pump reads until there is an entry or nothing is left.
func (t *textSource) pump() {
	for len(t.out.entries) == 0 && t.err == nil {
		b, err := t.lines.Next()
		t.out.place = Warning{Line: t.lines.Line()}
		switch {
		case err == nil:
			b = plain(b)
			if err = t.decoder.line(&t.out, b); err == errNotUnderstood && b[0] == '#' { // a comment
				err = nil
			}
		case errors.Is(err, lines.ErrTooLong):
			err = fmt.Errorf("longer than %d bytes", maxLine)
		default:
			t.err = err
			if !errors.Is(err, io.EOF) {
				t.err = fmt.Errorf("interchange: line %d: %w", t.lines.Line()+1, err)
			}
			err = t.decoder.end(&t.out)
		}
		if err != nil {
			t.out.doubt(err.Error())
		}
	}
}

// plain is a line without the sequences that colour it in a terminal and
// without blanks around.
func plain(b []byte) []byte {
	if bytes.IndexByte(b, 0x1B) < 0 {
		return bytes.TrimSpace(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != 0x1B || i+1 == len(b) || b[i+1] != '[' {
			out = append(out, b[i])
			continue
		}
		i += 2
		for i < len(b) && (b[i] == ';' || '0' <= b[i] && b[i] <= '9') {
			i++
		} // at the letter
	}
	return bytes.TrimSpace(out)
}

func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// hexBytes takes digits in either case, blanks or colons between bytes.
func hexBytes(s []byte) ([]byte, error) {
	out := make([]byte, 0, min(len(s)/2, maxAPDU))
	for i := 0; i < len(s); {
		if s[i] == ' ' || s[i] == '\t' || s[i] == ':' {
			i++
			continue
		}
		if i+1 == len(s) || digit(s[i]) < 0 || digit(s[i+1]) < 0 {
			return nil, errors.New("not whole bytes in hexadecimal")
		}
		if len(out) == maxAPDU {
			return nil, fmt.Errorf("more than %d bytes", maxAPDU)
		}
		out = append(out, byte(digit(s[i])<<4|digit(s[i+1])))
		i += 2
	}
	return out, nil
}

// isHex reports whether s is whole bytes in hexadecimal, at least n.
func isHex(s []byte, n int) bool {
	digits := 0
	for i := 0; i < len(s); i++ {
		switch {
		case digit(s[i]) >= 0:
			digits++
		case s[i] != ' ' || digits%2 != 0:
			return false
		}
	}
	return digits%2 == 0 && digits >= 2*n
}

// utf8Reader turns UTF-16 into UTF-8.
type utf8Reader struct {
	r    *bufio.Reader
	big  bool
	buf  []byte
	rest []byte // of buf, not read yet
	err  error
}

// newUTF8 is r without a byte order mark, and in UTF-8 where r is UTF-16.
func newUTF8(r io.Reader) io.Reader {
	b := bufio.NewReaderSize(r, headSize)
	head, _ := b.Peek(3)
	switch {
	case bytes.HasPrefix(head, []byte("\xEF\xBB\xBF")):
		_, _ = b.Discard(3)
	case bytes.HasPrefix(head, []byte("\xFF\xFE")), bytes.HasPrefix(head, []byte("\xFE\xFF")):
		_, _ = b.Discard(2)
		return &utf8Reader{r: b, big: head[0] == 0xFE}
	case len(head) >= 2 && head[0] != 0 && head[1] == 0:
		return &utf8Reader{r: b}
	case len(head) >= 2 && head[0] == 0 && head[1] != 0:
		return &utf8Reader{r: b, big: true}
	}
	return b
}

func (u *utf8Reader) Read(p []byte) (int, error) {
	if len(u.rest) == 0 && u.err == nil {
		u.fill()
	}
	if len(u.rest) == 0 {
		return 0, u.err
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

func (u *utf8Reader) fill() {
	out := u.buf[:0]
	for range 4096 {
		c, err := u.unit()
		if err != nil {
			u.err = err
			break
		}
		if utf16.IsSurrogate(c) {
			low, err := u.unit()
			if err != nil {
				u.err = err
			}
			c = utf16.DecodeRune(c, low)
		}
		out = utf8.AppendRune(out, c)
	}
	u.buf, u.rest = out, out
}

func (u *utf8Reader) unit() (rune, error) {
	b, err := u.r.Peek(2)
	if len(b) < 2 {
		return 0, err // half a unit at the end is left out
	}
	c := rune(b[0]) | rune(b[1])<<8
	if u.big {
		c = rune(b[0])<<8 | rune(b[1])
	}
	_, _ = u.r.Discard(2)
	return c, nil
}
