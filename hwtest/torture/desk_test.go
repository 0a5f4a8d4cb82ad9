package torture

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// desk is a stack without a reader: calls.
type desk struct {
	shortOnly bool // as T=0: short commands, and no Le beside data

	mu    sync.Mutex
	card  *Card
	out   bool
	pulls int
	tell  func(reader.Event)
}

func (d *desk) Name() string    { return "calls" }
func (d *desk) Faults() []Fault { return []Fault{Pulled, Bounced, Mute} }
func (d *desk) Reader() string  { return "desk" }

func (d *desk) Source(wait time.Duration) reader.Source { return &deskSource{d, wait} }

func (d *desk) Put(c *Card) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.card = c
}

func (d *desk) Strike(f Fault) error {
	if f != Mute {
		d.pull()
	}
	return nil
}

func (d *desk) pull() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out, d.pulls = true, d.pulls+1
	d.card.Power(false)
	if d.tell != nil {
		d.tell(reader.Event{Kind: reader.CardRemoved, Reader: reader.Reader{Name: d.Reader()}})
	}
}

func (d *desk) Mend(context.Context, Fault) error {
	d.pull()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out = false
	d.card.Power(true)
	if d.tell != nil {
		d.tell(reader.Event{Kind: reader.CardInserted, Reader: reader.Reader{Name: d.Reader(), Card: true}})
	}
	return nil
}

type deskSource struct {
	*desk
	wait time.Duration
}

func (s *deskSource) Watch(ctx context.Context, fn func(reader.Event)) error {
	s.mu.Lock()
	s.tell = fn
	fn(reader.Event{Kind: reader.ReaderAdded, Reader: reader.Reader{Name: s.Reader()}})
	fn(reader.Event{Kind: reader.CardInserted, Reader: reader.Reader{Name: s.Reader(), Card: true}})
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = nil
	return ctx.Err()
}

func (s *deskSource) Open(_ context.Context, name string, _ reader.Mode) (apdu.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case name != s.Reader():
		return nil, apdu.ErrNoReader
	case s.out:
		return nil, apdu.ErrNoCard
	}
	return &deskConn{s, s.card, s.pulls}, nil
}

type deskConn struct {
	*deskSource
	card  *Card
	pulls int
}

func (c *deskConn) ATR() []byte                 { return c.card.ATR() }
func (c *deskConn) Reset(context.Context) error { c.card.Reset(); return nil }
func (c *deskConn) Close() error                { return nil }
func (c *deskConn) ShortOnly() bool             { return c.shortOnly }

func (c *deskConn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pulls != c.desk.pulls
}

func (c *deskConn) Transmit(_ context.Context, capdu []byte) ([]byte, error) {
	if c.shortOnly && len(capdu) > 6 && len(capdu) == 6+int(capdu[4]) {
		capdu = capdu[:len(capdu)-1]
	}
	for _, left := range []bool{true, false} {
		if c.gone() {
			return nil, apdu.ErrCardRemoved
		}
		if left {
			if rapdu := c.card.Process(capdu); rapdu != nil {
				return rapdu, nil
			}
		}
	}
	time.Sleep(c.wait)
	return nil, fmt.Errorf("%w in %s", apdu.ErrTimeout, c.wait)
}
