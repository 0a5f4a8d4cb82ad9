// Package trace records APDU exchanges as line-oriented text, docs/trace.md,
// and reads such text back. A Recorder wraps any apdu.Conn, a Redactor masks
// what is secret.
package trace

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Origin says where the answers of a trace come from.
type Origin string

// The origins of a trace.
const (
	Hardware Origin = "hardware" // a physical card
	Emulator Origin = "emulator"
	Hand     Origin = "hand" // written by somebody
)

// Header is what stands before the first line of a session. Every member may be
// empty.
type Header struct {
	Title    string // what the session shows
	Card     string // what the card is: its EID, its name
	Reader   string
	Tool     string    // the program whose log this was, where another wrote it
	Date     time.Time // start of the recording
	Origin   Origin
	Redacted bool // a Redactor was at work
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

// Span is the bytes From to To, the latter excluded.
type Span struct{ From, To int }

// Entry is one line of a trace.
type Entry struct {
	Kind Kind
	Data []byte        // the APDU, or the ATR
	Mask []Span        // the bytes of Data that were redacted, ascending; they read as 00
	Name string        // of an event: one word
	Text string        // what else is said of an event
	At   time.Duration // since the beginning, in microseconds; 0 where unknown
	Took time.Duration // of a response: since its command, in microseconds; 0 where unknown
	Line int           // where a Reader found it, from 1; not written
}

// Masked reports whether byte i of Data was redacted.
func (e Entry) Masked(i int) bool {
	for _, s := range e.Mask {
		if s.From <= i && i < s.To {
			return true
		}
	}
	return false
}

// Source is a stream of sessions: a Reader, or the reader of another format.
type Source interface {
	// NextSession begins the next session, the first one too, and leaves
	// out what of the session before was not read. io.EOF follows the last.
	NextSession() (Header, error)
	// Next is the session's next entry, the caller's to keep; io.EOF follows
	// the last.
	Next() (Entry, error)
}

// Sink takes a stream of sessions: a Writer, or the writer of another format.
type Sink interface {
	Begin(Header) error // begins a session
	Write(Entry) error  // does not keep what the entry points to
	Close() error       // writes what is held back; what is below stays open
}

// Copy hands every session of src to dst; it does not close dst.
func Copy(dst Sink, src Source) error {
	for {
		h, err := src.NextSession()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := dst.Begin(h); err != nil {
			return err
		}
		for {
			e, err := src.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if err := dst.Write(e); err != nil {
				return err
			}
		}
	}
}

// Trace is one session, in memory.
type Trace struct {
	Header
	Entries []Entry
}

const (
	maxLine    = 1 << 18          // bytes; an extended APDU has 2 × 65,544 digits
	maxAPDU    = 65535 + 9        // bytes of the longest command; a response is shorter
	maxEntries = 1 << 20          // lines that are read into memory
	maxText    = 200              // bytes of a header's or an event's text
	maxTime    = 1000 * time.Hour // bounds offsets and durations
)

// SyntaxError says that a text is not a trace.
type SyntaxError struct {
	Line   int // from 1
	Reason string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("trace: line %d: %s", e.Line, e.Reason) }

// Parse reads a trace of one session into memory; longer ones are for a Reader.
// The error is a *SyntaxError where the text is not one, else r's.
func Parse(r io.Reader) (*Trace, error) {
	all, err := parse(r, 1)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// ParseAll is Parse for a trace of one session or many.
func ParseAll(r io.Reader) ([]*Trace, error) { return parse(r, maxEntries) }

func parse(r io.Reader, sessions int) ([]*Trace, error) {
	var all []*Trace
	entries := 0
	for in := NewReader(r); ; {
		h, err := in.NextSession()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if len(all) == sessions {
			return nil, &SyntaxError{in.Line(), fmt.Sprintf("more than %d sessions", sessions)}
		}
		t := &Trace{Header: h}
		all = append(all, t)
		for {
			e, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			if entries++; entries > maxEntries {
				return nil, &SyntaxError{e.Line, fmt.Sprintf("more than %d entries", maxEntries)}
			}
			t.Entries = append(t.Entries, e)
		}
	}
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
