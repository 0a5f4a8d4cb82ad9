// Package inventory knows which EID is in which reader now.
//
// It reads the EID of every card that appears: of the management applet, and where
// a card has none, of its ISD-R, by ES10. An EID is read in the clear, so
// it is a hint: several readers may claim the same one, and only authentication
// tells which of them, if any, has the card. That a card is a plain eUICC is one
// too: how it is managed is for its record to say.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

const (
	readTimeout = 10 * time.Second // for one reading of an EID
	tidyTimeout = time.Second      // for what is left to be said to the card after one
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 30 * time.Second
	// maxRefusals is how often a card may refuse to say its EID before it is
	// asked at maxBackoff only: it is hardly one of ours.
	maxRefusals = 4
)

// Inventory watches readers. It is safe for concurrent use.
type Inventory struct {
	source reader.Source
	log    *slog.Logger

	mu       sync.Mutex
	slots    map[string]*slot
	claims   map[id.EID][]*slot // the slots whose card claims an EID
	appeared func(id.EID, *uint32)
	reading  sync.WaitGroup
}

// Place is where a card is. The name opens it and may come to mean another
// reader; ID is the reader's own (reader.Reader.ID).
type Place struct {
	Name, ID string
	Plain    bool // the card shows an ISD-R and no management applet
}

// slot is one reader.
type slot struct {
	Place
	hold chan struct{} // has one place: whoever fills it has the card to itself

	card  bool // guarded by Inventory.mu, as all below
	eid   id.EID
	known bool
	stop  context.CancelFunc // ends the reading of the card that is in it
}

// New makes an inventory of a source's readers.
func New(source reader.Source, log *slog.Logger) *Inventory {
	return &Inventory{source: source, log: log, slots: map[string]*slot{}, claims: map[id.EID][]*slot{}, appeared: func(id.EID, *uint32) {}}
}

// Notify sets the function that is called whenever a card's EID becomes known,
// with its event counter: like the EID a hint, and nil where a plain eUICC has
// none. It must not block. It is set before Run.
func (inv *Inventory) Notify(appeared func(eid id.EID, counter *uint32)) { inv.appeared = appeared }

// Check asks the source whether it can see readers, where it can say so.
func (inv *Inventory) Check(ctx context.Context) error {
	if c, ok := inv.source.(reader.Checker); ok {
		return c.Check(ctx)
	}
	return nil
}

// Run watches the readers until ctx ends and returns ctx's error.
func (inv *Inventory) Run(ctx context.Context) error {
	err := inv.source.Watch(ctx, func(e reader.Event) { inv.event(ctx, e) })
	inv.mu.Lock()
	for _, s := range inv.slots {
		inv.forget(s)
	}
	inv.mu.Unlock()
	inv.reading.Wait()
	return err
}

func (inv *Inventory) event(ctx context.Context, e reader.Event) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	s := inv.slots[e.Reader.Name]
	if s == nil {
		s = &slot{Place: Place{Name: e.Reader.Name, ID: e.Reader.ID}, hold: make(chan struct{}, 1)}
		inv.slots[s.Name] = s
	}
	inv.forget(s)
	switch e.Kind {
	case reader.ReaderRemoved:
		delete(inv.slots, s.Name)
	case reader.CardInserted:
		s.card = true
		if e.Reader.Mute {
			inv.log.Warn("card does not answer to reset", "reader", s.Name)
			return
		}
		ctx, s.stop = context.WithCancel(ctx)
		inv.reading.Go(func() { inv.identify(ctx, s) })
	}
}

// forget drops what is known of the card in a reader; mu is held.
func (inv *Inventory) forget(s *slot) {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	if s.known {
		left := slices.DeleteFunc(inv.claims[s.eid], func(other *slot) bool { return other == s })
		if inv.claims[s.eid] = left; len(left) == 0 {
			delete(inv.claims, s.eid)
		}
	}
	s.card, s.known, s.eid, s.Plain = false, false, id.EID{}, false
}

// identify reads the EID of the card in s until it is known or ctx ends.
func (inv *Inventory) identify(ctx context.Context, s *slot) {
	wait, refusals, warned := minBackoff, 0, false
	for {
		var eid id.EID
		var counter *uint32
		err := inv.read(ctx, s, func(ctx context.Context, conn apdu.Conn, ch *apdu.Channel) (err error) {
			eid, err = card.ReadEID(ctx, ch)
			if card.NoApplet(err) {
				eid, err = es10.Identify(ctx, conn, ch)
				return err
			}
			if err != nil {
				return err
			}
			info, err := card.ReadInfo(ctx, ch)
			if err == nil {
				counter = &info.EventCounter
			}
			return err
		})
		if err == nil {
			inv.mu.Lock()
			// The card may have left, and another come, meanwhile.
			current := ctx.Err() == nil
			if current {
				s.eid, s.known, s.Plain = eid, true, counter == nil
				inv.claims[eid] = append(inv.claims[eid], s)
			}
			inv.mu.Unlock()
			if current {
				inv.log.Info("card identified", "reader", s.Name, "reader_id", s.ID, "eid", eid, "plain", counter == nil)
				inv.appeared(eid, counter)
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		var refused *apdu.Error
		if errors.As(err, &refused) || errors.Is(err, card.ErrMalformed) || errors.Is(err, es10.ErrMalformed) {
			refusals++
		}
		if refusals >= maxRefusals {
			wait = maxBackoff
		}
		level := slog.LevelDebug
		if !warned && (wait >= time.Second || refusals > 0) {
			level, warned = slog.LevelWarn, true // once for each card
		}
		inv.log.Log(ctx, level, "card not identified yet", "reader", s.Name, "error", err, "again", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, maxBackoff)
	}
}

// transactor is a connection that keeps other programs waiting from Begin to
// End.
type transactor interface {
	Begin(context.Context) error
	End(context.Context) error
}

// read shares the card in s for one reading. It leaves no logical channel open
// where it is given up: it waits for other programs' transactions before it
// sends anything, as a command that nobody waits for any more may still reach
// the card.
func (inv *Inventory) read(ctx context.Context, s *slot, what func(context.Context, apdu.Conn, *apdu.Channel) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	conn, err := inv.open(ctx, s, reader.Shared)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := conn.Close(); cerr != nil {
			inv.log.Debug("reader not closed cleanly", "reader", s.Name, "error", cerr)
		}
	}()
	tidy := func(failed string, f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
		defer cancel()
		if err := f(ctx); err != nil {
			inv.log.Debug(failed, "reader", s.Name, "error", err)
		}
	}
	if tx, ok := conn.Conn.(transactor); ok {
		if err := tx.Begin(ctx); err != nil {
			return err
		}
		defer tidy("transaction not ended", tx.End)
	}
	// A channel of our own where the card has one leaves alone what other
	// programs selected.
	ch := apdu.BasicChannel(conn)
	if apdu.ParseCapabilities(conn.ATR()).Channels > 1 {
		if own, err := ch.Open(ctx); err == nil {
			ch = own
			defer tidy("channel not closed", own.Close)
		}
	}
	return what(ctx, conn, ch)
}

// open waits for the reader's place and connects.
func (inv *Inventory) open(ctx context.Context, s *slot, mode reader.Mode) (*held, error) {
	select {
	case s.hold <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("reader %s: %w: %w", s.Name, apdu.ErrCardBusy, ctx.Err())
	}
	conn, err := inv.source.Open(ctx, s.Name, mode)
	if err != nil {
		<-s.hold
		return nil, fmt.Errorf("reader %s: %w", s.Name, err)
	}
	return &held{Conn: conn, release: sync.OnceFunc(func() { <-s.hold })}, nil
}

// held is a connection that gives the reader's place back when it is closed.
type held struct {
	apdu.Conn
	release func()
}

func (h *held) Close() error {
	defer h.release()
	return h.Conn.Close()
}

// ShortOnly hands on what the connection says.
func (h *held) ShortOnly() bool {
	s, ok := h.Conn.(apdu.ShortOnly)
	return ok && s.ShortOnly()
}

// Open connects the card in a reader, exclusively: other programs and the
// inventory itself keep away until the connection is closed. A place whose name
// has come to mean another reader is gone.
func (inv *Inventory) Open(ctx context.Context, at Place) (apdu.Conn, error) {
	inv.mu.Lock()
	s := inv.slots[at.Name]
	inv.mu.Unlock()
	if s == nil || s.ID != at.ID {
		return nil, fmt.Errorf("reader %s: %w", at.Name, apdu.ErrNoReader)
	}
	h, err := inv.open(ctx, s, reader.Exclusive)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Readers are the readers whose card claims this EID, by name.
func (inv *Inventory) Readers(eid id.EID) []Place {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	var out []Place
	for _, s := range inv.claims[eid] {
		out = append(out, s.Place)
	}
	slices.SortFunc(out, func(a, b Place) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// EIDs are those that cards claim, each once, in no order.
func (inv *Inventory) EIDs() []id.EID {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return slices.Collect(maps.Keys(inv.claims))
}

// Entry is one reader and what is in it.
type Entry struct {
	Reader string
	Card   bool
	EID    *id.EID // as the card claims it; nil where it is not known
	Plain  bool    // Place.Plain
}

// List is all readers, by name.
func (inv *Inventory) List() []Entry {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	out := make([]Entry, 0, len(inv.slots))
	for name, s := range inv.slots {
		e := Entry{Reader: name, Card: s.card}
		if s.known {
			eid := s.eid
			e.EID, e.Plain = &eid, s.Plain
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Reader, b.Reader) })
	return out
}
