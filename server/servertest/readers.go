package servertest

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Next carries an APDU on to the card.
type Next func(capdu []byte) ([]byte, error)

// Intercept stands between a reader and its card: whoever carries the APDUs is
// not trusted (docs/protocol.md).
type Intercept func(capdu []byte, next Next) ([]byte, error)

// Readers is a reader.Source of emulated cards.
type Readers struct {
	mu     sync.Mutex
	cards  map[string]*slot
	watch  func(reader.Event)
	events sync.Mutex // one event at a time
	broken error
}

type slot struct {
	id        string // the reader's
	card      *appletsim.Card
	intercept Intercept
	exclusive bool
	shared    int
	sent      [][]byte // all C-APDUs so far
}

// NewReaders makes a source with no reader.
func NewReaders() *Readers { return &Readers{cards: map[string]*slot{}} }

// Insert puts a card into a new reader. intercept may be nil.
func (r *Readers) Insert(name string, c *appletsim.Card, intercept Intercept) {
	s := &slot{id: "id of " + name, card: c, intercept: intercept}
	r.mu.Lock()
	r.cards[name] = s
	r.mu.Unlock()
	r.tell(reader.CardInserted, name, s)
}

// Swap has two readers change names, as happens when a PC/SC service counts its
// readers anew. Nothing happens to the cards.
func (r *Readers) Swap(a, b string) {
	r.mu.Lock()
	was := map[string]*slot{a: r.cards[a], b: r.cards[b]}
	now := map[string]*slot{a: was[b], b: was[a]}
	maps.Copy(r.cards, now)
	r.mu.Unlock()
	for name, s := range was {
		r.tell(reader.ReaderRemoved, name, s)
	}
	for name, s := range now {
		r.tell(reader.ReaderAdded, name, s)
		r.tell(reader.CardInserted, name, s)
	}
}

// Remove takes the card and its reader away; the card loses its power.
func (r *Readers) Remove(name string) {
	r.mu.Lock()
	s := r.cards[name]
	delete(r.cards, name)
	r.mu.Unlock()
	s.card.Remove()
	s.card.Insert()
	r.tell(reader.ReaderRemoved, name, s)
}

func (r *Readers) tell(kind reader.EventKind, name string, s *slot) {
	r.events.Lock()
	defer r.events.Unlock()
	r.mu.Lock()
	fn := r.watch
	r.mu.Unlock()
	if fn != nil {
		fn(reader.Event{Kind: kind, Reader: reader.Reader{Name: name, ID: s.id, Card: kind == reader.CardInserted}})
	}
}

// Sent are the C-APDUs that a reader was given so far.
func (r *Readers) Sent(name string) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]byte(nil), r.cards[name].sent...)
}

// Watch implements reader.Source.
func (r *Readers) Watch(ctx context.Context, fn func(reader.Event)) error {
	r.events.Lock()
	r.mu.Lock()
	r.watch = fn
	now := maps.Clone(r.cards)
	r.mu.Unlock()
	for name, s := range now {
		fn(reader.Event{Kind: reader.ReaderAdded, Reader: reader.Reader{Name: name, ID: s.id}})
		fn(reader.Event{Kind: reader.CardInserted, Reader: reader.Reader{Name: name, ID: s.id, Card: true}})
	}
	r.events.Unlock()
	<-ctx.Done()
	r.events.Lock()
	defer r.events.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch = nil
	return ctx.Err()
}

// Fail has Check fail; nil: not any more.
func (r *Readers) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = err
}

// Check implements reader.Checker.
func (r *Readers) Check(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken
}

// Open implements reader.Source.
func (r *Readers) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.cards[name]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case s == nil:
		return nil, fmt.Errorf("reader %s: %w", name, apdu.ErrNoReader)
	case s.exclusive || mode == reader.Exclusive && s.shared > 0:
		return nil, fmt.Errorf("reader %s: %w", name, apdu.ErrCardBusy)
	}
	if mode == reader.Exclusive {
		s.exclusive = true
	} else {
		s.shared++
	}
	return &conn{Conn: s.card.Connect(), readers: r, slot: s, mode: mode}, nil
}

type conn struct {
	*appletsim.Conn
	readers *Readers
	slot    *slot
	mode    reader.Mode
}

// Transmit goes through the reader's Intercept.
func (c *conn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	c.readers.mu.Lock()
	c.slot.sent = append(c.slot.sent, append([]byte(nil), capdu...))
	c.readers.mu.Unlock()
	next := func(b []byte) ([]byte, error) { return c.Conn.Transmit(ctx, b) }
	if c.slot.intercept == nil {
		return next(capdu)
	}
	return c.slot.intercept(capdu, next)
}

// Close gives the reader back.
func (c *conn) Close() error {
	c.readers.mu.Lock()
	defer c.readers.mu.Unlock()
	if c.mode == reader.Exclusive {
		c.slot.exclusive = false
	} else {
		c.slot.shared--
	}
	return c.Conn.Close()
}

// INS of commands, as Intercepts meet them.
const (
	INSInternalAuthenticate = 0x88
	INSExternalAuthenticate = 0x82
	INSDeactivate           = 0x04
	INSGetStatus            = 0xF2
)
