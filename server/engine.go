package server

import (
	"context"
	"errors"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/store"
)

// runner works on one card: there is one for each EID that is in a reader and
// has something to do.
type runner struct {
	eid    id.EID
	cancel context.CancelFunc
	// more says that something came up since the runner last looked; guarded by
	// Server.mu.
	more bool
	// inserted gets a value when the card appears anew.
	inserted chan struct{}
}

// claim is a reader's claim to have a card; a reader that takes over another's
// name does not take over its claims.
type claim struct {
	eid   id.EID
	place inventory.Place
}

// mistrust is what is left of failed authentications on a claim. It outlives
// the runner, so that coming and going does not speed up attempts; and it is
// the reader's, so that a liar does not keep the card itself from being tried.
type mistrust struct {
	wait  time.Duration
	until time.Time
}

// kick has somebody look what there is to do for a card.
func (s *Server) kick(eid id.EID, inserted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil || s.ctx.Err() != nil {
		return
	}
	if r := s.runners[eid]; r != nil {
		r.more = true
		if inserted {
			select {
			case r.inserted <- struct{}{}:
			default:
			}
		}
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	r := &runner{eid: eid, cancel: cancel, inserted: make(chan struct{}, 1)}
	s.runners[eid] = r
	s.running.Go(func() { s.run(ctx, r) })
}

// leave ends a runner unless something came up.
func (s *Server) leave(r *runner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.more {
		r.more = false
		return false
	}
	delete(s.runners, r.eid)
	r.cancel()
	return true
}

// again says how an attempt left things.
type again int

const (
	no    again = iota // the request is finished
	soon               // the transport or the store failed
	later              // authentication failed
)

func (s *Server) run(ctx context.Context, r *runner) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.runners[r.eid] == r {
			delete(s.runners, r.eid)
		}
		r.cancel()
	}()
	var wait time.Duration
	for ctx.Err() == nil {
		readers, calm := s.readers(r.eid)
		if len(readers) == 0 {
			if calm == 0 && s.leave(r) {
				return
			}
			s.sleep(ctx, r, calm)
			continue
		}
		next, idle := s.step(ctx, r.eid, readers)
		s.looked.publish(r.eid)
		switch {
		case idle && s.leave(r):
			return
		case idle:
		case next == soon:
			wait = s.Retry.next(wait)
			s.sleep(ctx, r, wait)
		default:
			wait = 0
		}
	}
}

// sleep waits for a time, or for the card to appear anew, or for ctx to end.
func (s *Server) sleep(ctx context.Context, r *runner, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.inserted:
	case <-ctx.Done():
	}
}

// readers are those that claim the card and are not to be left alone for now.
// Where all of them are, calm is how long; 0 where no reader claims the card.
func (s *Server) readers(eid id.EID) (places []inventory.Place, calm time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, place := range s.Inventory.Readers(eid) {
		left := s.mistrust[claim{eid, place}].until.Sub(now)
		switch {
		case left <= 0:
			places = append(places, place)
		case calm == 0 || left < calm:
			calm = left
		}
	}
	return places, calm
}

func (s *Server) distrust(c claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mistrust[c]
	m.wait = s.AuthRetry.next(m.wait)
	m.until = time.Now().Add(m.wait)
	s.mistrust[c] = m
}

func (s *Server) trust(c claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mistrust, c)
}

// step does what is next for a card, in a worker's place. idle says that there
// is nothing.
func (s *Server) step(ctx context.Context, eid id.EID, readers []inventory.Place) (next again, idle bool) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return soon, false
	}
	req, err := s.Store.NextRequest(ctx, eid)
	open := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.Log.Error("queue not read", "eid", eid, "error", err)
		return soon, false
	}
	c, err := s.Store.Card(ctx, eid)
	if errors.Is(err, store.ErrNotFound) {
		return no, true // somebody's card, not registered here
	}
	if err != nil {
		s.Log.Error("card not read", "eid", eid, "error", err)
		return soon, false
	}
	if seen, ok := s.hint(eid); ok && seen != c.EventCounter && !c.Unsettled {
		why := store.Event{Kind: "card unsettled", Internal: true, Detail: map[string]any{"event_counter": seen}}
		if err := s.Store.Unsettle(ctx, eid, why); err != nil {
			s.Log.Error("card not marked unsettled", "eid", eid, "error", err)
		}
		c.Unsettled = true
	}
	// The rules, and a first sending, start from a record that is the card's.
	// In recovery GET STATUS is read anyhow.
	if c.Unsettled && (!open || req.SentAt == nil) {
		var waiting *store.Request
		if open {
			waiting = &req
		}
		return s.settle(ctx, c, waiting, readers), false
	}
	if !open {
		return no, true
	}
	return s.carryOut(ctx, req, c, readers), false
}

// hint is the event counter that a card gave when it appeared, once.
func (s *Server) hint(eid id.EID) (counter uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counter, ok = s.hints[eid]
	delete(s.hints, eid)
	return counter, ok
}

// eachReader tries the readers that claim a card, one after the other, until
// one brings the matter to an end. A liar among them costs an authentication.
func (s *Server) eachReader(ctx context.Context, eid id.EID, readers []inventory.Place, try func(inventory.Place) again) again {
	worst := later
	for _, place := range readers {
		if ctx.Err() != nil {
			return soon
		}
		switch try(place) {
		case no:
			return no
		case soon:
			worst = soon
		case later:
			s.distrust(claim{eid, place})
		}
	}
	return worst
}
