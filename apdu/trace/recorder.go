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
// it happens. Connections that take turns may share one; those that are used at
// the same time need one each, or their lines mix.
type Recorder struct {
	now   func() time.Time
	start time.Time

	mu  sync.Mutex
	w   io.Writer
	err error
	buf []byte
}

// NewRecorder begins a trace on w, which stays the caller's. A zero Date
// becomes the present.
func NewRecorder(w io.Writer, h Header) *Recorder { return newRecorder(w, h, time.Now) }

func newRecorder(w io.Writer, h Header, now func() time.Time) *Recorder {
	r := &Recorder{w: w, now: now, start: now()}
	if h.Date.IsZero() {
		h.Date = r.start
	}
	r.write(appendHeader(nil, h))
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
	r.add(Entry{Kind: Event, Name: Connected, Data: conn.ATR(), At: r.since()})
	return &recorded{Conn: conn, r: r}
}

func (r *Recorder) since() time.Duration { return r.now().Sub(r.start) }

func (r *Recorder) add(e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = appendEntry(r.buf[:0], e)
	r.write(r.buf)
}

func (r *Recorder) write(b []byte) {
	if r.err == nil {
		_, r.err = r.w.Write(b)
	}
}

// failed is the event that an error is.
func (r *Recorder) failed(err error) {
	e := Entry{Kind: Event, Name: Error, Text: err.Error(), At: r.since()}
	if errors.Is(err, apdu.ErrCardRemoved) {
		e.Name = Removed
	}
	r.add(e)
}

type recorded struct {
	apdu.Conn
	r *Recorder
}

func (c *recorded) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	sent := c.r.since()
	c.r.add(Entry{Kind: Command, Data: capdu, At: sent})
	rapdu, err := c.Conn.Transmit(ctx, capdu)
	if err != nil {
		c.r.failed(err)
		return rapdu, err
	}
	at := c.r.since()
	if len(rapdu) < 2 {
		c.r.add(Entry{Kind: Event, Name: Error, Text: apdu.ErrShortAnswer.Error(), At: at})
		return rapdu, nil
	}
	c.r.add(Entry{Kind: Response, Data: rapdu, At: at, Took: at - sent})
	return rapdu, nil
}

func (c *recorded) Reset(ctx context.Context) error {
	err := c.Conn.Reset(ctx)
	if err != nil {
		c.r.failed(err)
		return err
	}
	c.r.add(Entry{Kind: Event, Name: Reset, Data: c.ATR(), At: c.r.since()})
	return nil
}

func (c *recorded) Close() error {
	err := c.Conn.Close()
	c.r.add(Entry{Kind: Event, Name: Closed, At: c.r.since()})
	return err
}

// ShortOnly implements apdu.ShortOnly for what is wrapped.
func (c *recorded) ShortOnly() bool {
	s, ok := c.Conn.(apdu.ShortOnly)
	return ok && s.ShortOnly()
}
