package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

// Bounds of what an operator may ask for.
const (
	DefaultTimeout = 10 * time.Minute
	MaxTimeout     = 7 * 24 * time.Hour
	maxKey         = 255 // characters of an idempotency key
)

// Deactivation is what an operator asks for.
type Deactivation struct {
	EID    id.EID
	ICCID  *id.ICCID // nil: the profile that is recorded as enabled
	Reason byte
	// LeaveUnconnected says that the asker knows that no profile may stay enabled.
	LeaveUnconnected bool
	// Timeout ends what was not sent that long after it was let in; 0 is
	// DefaultTimeout.
	Timeout time.Duration
	// Key makes the same request come back where it is handed in again.
	Key string
}

// hash is of all that was asked for, as it was asked for.
func (d *Deactivation) hash() ([sha256.Size]byte, error) {
	b, err := json.Marshal(struct {
		EID              id.EID
		ICCID            *id.ICCID
		Reason           byte
		Timeout          time.Duration
		LeaveUnconnected bool `json:",omitempty"`
	}{d.EID, d.ICCID, d.Reason, d.Timeout, d.LeaveUnconnected})
	return sha256.Sum256(b), err
}

// Deactivate holds a request against the management rules and the guard and
// takes it in, or records its refusal: then Request.Refusal is set and no card is
// touched. One that has to be approved is in state store.Held. replayed says
// that the same request came before under this key. The error matches
// ErrInvalid, store.ErrKeyReused, or ErrEnding: once the server was told to end
// only what came before is answered.
func (s *Server) Deactivate(ctx context.Context, op store.Operator, d Deactivation) (r store.Request, replayed bool, err error) {
	if len(d.Key) > maxKey {
		return r, false, fmt.Errorf("%w: idempotency key of %d characters, at most %d", ErrInvalid, len(d.Key), maxKey)
	}
	if d.Timeout < 0 || d.Timeout > MaxTimeout {
		return r, false, fmt.Errorf("%w: timeout of %s, at most %s", ErrInvalid, d.Timeout, MaxTimeout)
	}
	hash, err := d.hash()
	if err != nil {
		return r, false, err
	}
	fresh, err := uuid.NewRandomFromReader(rand.Reader)
	if err != nil {
		return r, false, fmt.Errorf("random bytes: %w", err)
	}
	if d.Timeout == 0 {
		d.Timeout = DefaultTimeout
	}
	sub := store.Submission{
		ID: id.RequestID(fresh), Operator: op, EID: d.EID, ICCID: d.ICCID, Reason: d.Reason, LeaveUnconnected: d.LeaveUnconnected,
		Timeout: d.Timeout, Key: d.Key, BodyHash: hash,
	}
	if errors.Is(s.engine(), ErrEnding) {
		if d.Key == "" {
			return r, false, ErrEnding
		}
		r, err = s.Store.Before(ctx, sub)
		if errors.Is(err, store.ErrNotFound) {
			err = ErrEnding
		}
		return r, err == nil, err
	}
	s.refresh(ctx, op, d.EID)
	if places, _ := s.readers(d.EID); len(places) > 0 && s.idle(d.EID) {
		sub.Claim = &s.self
	}
	if len(s.Inventory.Readers(d.EID)) == 0 {
		sub.Await = "the card is in no reader whose card could be identified"
	}
	since := time.Now()
	out, err := s.Store.Submit(ctx, sub, func(m *store.Moment) store.Verdict {
		return s.verdict(ask{op: op, request: sub.ID, eid: d.EID, iccid: d.ICCID, reason: d.Reason, unconnected: d.LeaveUnconnected}, m)
	})
	if err != nil || out.Replayed {
		return out.Request, out.Replayed, err
	}
	r = out.Request
	switch {
	case r.Refusal != nil:
		s.Log.InfoContext(ctx, "request refused by a rule", "request", r.ID, "eid", r.EID, "operator", op.Name, "rule", r.Refusal.Rule)
		return r, false, nil
	case r.State == store.Held:
		s.Log.InfoContext(ctx, "request waits for an approval", "request", r.ID, "eid", r.EID, "operator", op.Name, "why", r.HeldWhy)
		return r, false, nil
	}
	s.Log.InfoContext(ctx, "request accepted", "request", r.ID, "eid", r.EID, "operator", op.Name)
	var work *taken
	if out.Work != nil {
		work = &taken{*out.Work, since, true}
	}
	if !s.kick(r.EID, work, false) && work != nil {
		s.release(work.Claim)
	}
	return r, false, nil
}

// idle reports whether nobody here works on a card.
func (s *Server) idle(eid id.EID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx != nil && s.runners[eid] == nil
}

// refresh has a request wait while the record of its card, which is there, is
// being settled, so that it is not judged by a state that the card is in no
// longer. Where that does not come about in time it is judged by the record as
// it is. A record that is settled costs no APDU.
func (s *Server) refresh(ctx context.Context, op store.Operator, eid id.EID) {
	c, err := s.Store.Card(ctx, eid, op.ID)
	if err != nil || !c.Unsettled || !c.Registered {
		return // Submit has the last word
	}
	s.awaitSettled(ctx, eid)
}

// awaitSettled waits until the record of a card that is there is settled, for
// Settle at most.
func (s *Server) awaitSettled(ctx context.Context, eid id.EID) {
	ctx, cancel := context.WithTimeout(ctx, s.Settle)
	defer cancel()
	next, unsubscribe := s.looked.subscribe(eid)
	defer unsubscribe()
	s.kick(eid, nil, false)
	for {
		if c, err := s.Store.Card(ctx, eid, 0); err != nil || !c.Unsettled {
			return
		}
		if readers, _ := s.readers(eid); len(readers) == 0 {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		case <-s.ending:
			return
		}
	}
}

// Request is a request of an operator's own. The error matches
// store.ErrNotFound also where it is another's.
func (s *Server) Request(ctx context.Context, op store.Operator, request id.RequestID) (store.Request, error) {
	r, err := s.Store.Request(ctx, request)
	if err == nil && r.Operator != op.ID {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Request{}, fmt.Errorf("request %s: %w", request, err)
	}
	return r, nil
}

// Requests lists an operator's requests, newest first, after a place, as
// store.ListRequests does.
func (s *Server) Requests(ctx context.Context, op store.Operator, f store.RequestFilter, after store.Place, limit int) ([]store.Request, *store.Place, error) {
	return s.Store.ListRequests(ctx, op.ID, f, after, limit)
}

// maxEvents is the most steps that are given at once.
const maxEvents = 200

// Steps are the steps of an operator's request after the one numbered after.
// Where there is none it waits for one, for wait at most and not once the
// request is finished.
func (s *Server) Steps(ctx context.Context, op store.Operator, request id.RequestID, after int64, wait time.Duration) ([]store.Event, store.Request, error) {
	next, cancel := s.hub.subscribe(request)
	defer cancel()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for last := wait <= 0; ; {
		r, err := s.Request(ctx, op, request)
		if err != nil {
			return nil, r, err
		}
		events, err := s.Store.RequestEvents(ctx, request, after, false, maxEvents)
		if err != nil || len(events) > 0 || r.FinishedAt != nil || last {
			return events, r, err
		}
		select {
		case <-next:
		case <-timer.C:
			last = true
		case <-s.ending:
			last = true
		case <-ctx.Done():
			return nil, r, ctx.Err()
		}
	}
}
