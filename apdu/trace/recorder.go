package trace

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// Recorder writes what passes over the connections that it wraps, each line as
// it happens, secrets masked. Connections that take turns may share one; those
// that are used at the same time need one each, or their lines mix.
type Recorder struct {
	since func() time.Duration // since the beginning
	clear bool

	mu   sync.Mutex
	sink Sink
	err  error
}

// Option is a choice of a Recorder's.
type Option func(*Recorder)

// Unredacted leaves secrets in what is written.
func Unredacted() Option { return func(r *Recorder) { r.clear = true } }

// NewRecorder begins a trace on w, which stays the caller's. A zero Date
// becomes the present.
func NewRecorder(w io.Writer, h Header, options ...Option) *Recorder {
	return NewSinkRecorder(NewWriter(w), h, options...)
}

// NewSinkRecorder begins a session on s, which stays the caller's.
func NewSinkRecorder(s Sink, h Header, options ...Option) *Recorder {
	start := time.Now()
	return newRecorder(s, h, start, func() time.Duration { return time.Since(start) }, options...)
}

func newRecorder(s Sink, h Header, start time.Time, since func() time.Duration, options ...Option) *Recorder {
	r := &Recorder{sink: s, since: since}
	for _, o := range options {
		o(r)
	}
	if h.Date.IsZero() {
		h.Date = start
	}
	h.Redacted = h.Redacted || !r.clear
	r.err = s.Begin(h)
	return r
}

// Err is the first error of the writer. Cards go on where a trace cannot.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Wrap is conn, recorded. Like any Conn it serves one goroutine.
func (r *Recorder) Wrap(conn apdu.Conn) apdu.Conn {
	c := &recorded{Conn: conn, r: r}
	c.add(Entry{Kind: Event, Name: Connected, Data: conn.ATR(), At: r.since()})
	return c
}

type recorded struct {
	apdu.Conn
	r        *Recorder
	redactor Redactor
}

func (c *recorded) add(e Entry) {
	if !c.r.clear {
		e = c.redactor.Redact(e)
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.err == nil {
		c.r.err = c.r.sink.Write(e)
	}
}

// failed adds the event that an error is.
func (c *recorded) failed(err error) {
	e := Entry{Kind: Event, Name: Error, Text: err.Error(), At: c.r.since()}
	if errors.Is(err, apdu.ErrCardRemoved) {
		e.Name = Removed
	}
	c.add(e)
}

func (c *recorded) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	sent := c.r.since()
	c.add(Entry{Kind: Command, Data: capdu, At: sent})
	rapdu, err := c.Conn.Transmit(ctx, capdu)
	if err != nil {
		c.failed(err)
		return rapdu, err
	}
	at := c.r.since()
	if len(rapdu) < 2 {
		c.add(Entry{Kind: Event, Name: Error, Text: apdu.ErrShortAnswer.Error(), At: at})
		return rapdu, nil
	}
	c.add(Entry{Kind: Response, Data: rapdu, At: at, Took: at - sent})
	return rapdu, nil
}

func (c *recorded) Reset(ctx context.Context) error {
	err := c.Conn.Reset(ctx)
	if err != nil {
		c.failed(err)
		return err
	}
	c.add(Entry{Kind: Event, Name: Reset, Data: c.ATR(), At: c.r.since()})
	return nil
}

func (c *recorded) Close() error {
	err := c.Conn.Close()
	c.add(Entry{Kind: Event, Name: Closed, At: c.r.since()})
	return err
}

// ShortOnly implements apdu.ShortOnly for what is wrapped.
func (c *recorded) ShortOnly() bool {
	s, ok := c.Conn.(apdu.ShortOnly)
	return ok && s.ShortOnly()
}
