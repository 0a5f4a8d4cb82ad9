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
	// work is what came with its claim, to be begun with; guarded by Server.mu.
	work *taken
	// more says that something came up since the runner last looked; guarded by
	// Server.mu.
	more bool
	// inserted gets a value when the card appears anew.
	inserted chan struct{}
}

// taken is work that was claimed, at since or later.
type taken struct {
	store.Work
	since time.Time
	fresh bool // the request was judged just now
}

// suspect is a reader that says it has a card; one that takes over another's
// name does not take over what it said.
type suspect struct {
	eid   id.EID
	place inventory.Place
}

// mistrust is what is left of failed authentications with a suspect. It outlives
// the runner, so that coming and going does not speed up attempts; and it is
// the reader's, so that a liar does not keep the card itself from being tried.
type mistrust struct {
	wait  time.Duration
	until time.Time
}

// kick has somebody look what there is to do for a card, beginning with work
// where that is claimed. It reports whether there is anybody to do so.
func (s *Server) kick(eid id.EID, work *taken, inserted bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil || s.ctx.Err() != nil {
		return false
	}
	if r := s.runners[eid]; r != nil {
		r.more = true
		if work != nil {
			r.work = work
		}
		if inserted {
			select {
			case r.inserted <- struct{}{}:
			default:
			}
		}
		return true
	}
	ctx, cancel := context.WithCancel(s.ctx)
	r := &runner{eid: eid, cancel: cancel, work: work, inserted: make(chan struct{}, 1)}
	s.runners[eid] = r
	s.running.Go(func() { s.run(ctx, r) })
	return true
}

// begin is what a runner begins with, once.
func (s *Server) begin(r *runner) *taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	work := r.work
	r.work = nil
	return work
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
	no      again = iota // it is finished
	soon                 // the transport or the store failed
	later                // authentication failed
	nothing              // there was nothing to do
	more                 // there may be more to do
)

func (s *Server) run(ctx context.Context, r *runner) {
	defer func() {
		if work := s.begin(r); work != nil {
			s.release(work.Claim)
		}
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
			if work := s.begin(r); work != nil {
				s.release(work.Claim)
			}
			if calm == 0 && s.leave(r) {
				return
			}
			s.sleep(ctx, r, calm)
			continue
		}
		next := s.step(ctx, r, readers)
		s.looked.publish(r.eid)
		switch next {
		case nothing, no:
			if s.leave(r) {
				return
			}
			wait = 0
		case soon:
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

// readers are those that say they have the card and are not to be left alone
// for now. Where all of them are, calm is how long; 0 where no reader says so.
func (s *Server) readers(eid id.EID) (places []inventory.Place, calm time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, place := range s.Inventory.Readers(eid) {
		left := s.mistrust[suspect{eid, place}].until.Sub(now)
		switch {
		case left <= 0:
			places = append(places, place)
		case calm == 0 || left < calm:
			calm = left
		}
	}
	return places, calm
}

func (s *Server) distrust(c suspect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mistrust[c]
	m.wait = s.AuthRetry.next(m.wait)
	m.until = time.Now().Add(m.wait)
	s.mistrust[c] = m
}

func (s *Server) trust(c suspect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mistrust, c)
}

// step does what is next for a card, in a worker's place: it tries the readers
// that say they have it, one after the other and each under a claim of its own,
// until one brings the matter to an end. A liar among them costs an
// authentication.
func (s *Server) step(ctx context.Context, r *runner, readers []inventory.Place) again {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return soon
	}
	worst := later
	for i, place := range readers {
		if ctx.Err() != nil {
			return soon
		}
		work := s.begin(r)
		if work != nil && time.Since(work.since) > s.Lease/2 {
			// It waited for a place, and nobody renewed it.
			s.release(work.Claim)
			work = nil
		}
		if work == nil {
			var err error
			work, err = s.claim(ctx, r.eid)
			if errors.Is(err, store.ErrNotFound) {
				if i == 0 {
					return nothing
				}
				return soon
			}
			if err != nil {
				if ctx.Err() == nil {
					s.Log.Error("card not claimed", "eid", r.eid, "error", err)
				}
				return soon
			}
		}
		switch next := s.carryOut(work, place); next {
		case no, more:
			return next
		case soon:
			worst = soon
		case later:
			s.distrust(suspect{r.eid, place})
		}
	}
	return worst
}

// claim claims a card that has something to do. The error matches
// store.ErrNotFound where there is nothing, or another server does it.
func (s *Server) claim(ctx context.Context, eid id.EID) (*taken, error) {
	if seen, ok := s.hint(eid); ok {
		c, err := s.Store.Card(ctx, eid, 0)
		if err == nil && !c.Unsettled && changed(c, seen) {
			why := store.Event{Kind: "card unsettled", Internal: true, Detail: map[string]any{"event_counter": seen}}
			if c.Management == store.ES10c {
				why.Detail = map[string]any{"management": store.ES10c}
			}
			err = s.Store.Unsettle(ctx, eid, why)
		}
		if err != nil {
			if !errors.Is(err, store.ErrNotFound) { // somebody's card, not registered here
				s.unhinted(eid, seen)
			}
			return nil, err
		}
	}
	since := time.Now()
	work, err := s.Store.Claim(ctx, s.self, eid)
	return &taken{Work: work, since: since}, err
}

// changed reports whether a card that appears may be in another state than the
// recorded one. A plain eUICC counts no events: it may be whenever it appears.
func changed(c *store.Card, seen *uint32) bool {
	if c.Management == store.ES10c {
		return true
	}
	return seen != nil && *seen != c.EventCounter
}

// release gives a claim back early, with what there is to tell of the card; one
// that is not passes by itself.
func (s *Server) release(c store.Claim, events ...store.Event) {
	ctx, cancel := s.recording()
	defer cancel()
	if err := s.Store.Release(ctx, c, events...); err != nil {
		s.Log.Debug("claim not given back", "eid", c.EID, "error", err)
	}
}

// hint is the event counter that a card gave when it appeared, once; nil of one
// that looks like a plain eUICC.
func (s *Server) hint(eid id.EID) (counter *uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counter, ok = s.hints[eid]
	delete(s.hints, eid)
	return counter, ok
}

// unhinted keeps a hint for the next time, unless there is a newer one.
func (s *Server) unhinted(eid id.EID, counter *uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, newer := s.hints[eid]; !newer {
		s.hints[eid] = counter
	}
}
