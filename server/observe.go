package server

import (
	"context"
	"errors"
	"time"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server/inventory"
)

// Observer is told of what happens in a server, by many goroutines. It must not
// block.
type Observer interface {
	// Attempted tells of what came of an attempt at a request, as card.Outcome has
	// it, or NotSent; or of reading a card's state: Settled or NotSettled. err is
	// what stood in the way.
	Attempted(at inventory.Place, outcome string, err error, took time.Duration)
	// ClaimsLost tells of claims on cards that passed, or were not renewed, while
	// work went on under them.
	ClaimsLost(n int)
	// Delivered tells of one sending of a webhook's message.
	Delivered(ok bool, took time.Duration)
}

// Outcomes beside those of package card.
const (
	NotSent    = "not_sent"
	Settled    = "settled"
	NotSettled = "not_settled"
)

// attempted tells of an attempt, and in the log of what stands in the way of all.
func (s *Server) attempted(at inventory.Place, outcome string, err error, took time.Duration) {
	if errors.Is(err, card.ErrKeys) && !errors.Is(err, context.Canceled) {
		s.Log.Error("keys not usable", "error", err)
	}
	s.Observer.Attempted(at, outcome, err, took)
}

func outcomeOf(rep card.Report) string {
	if rep.Outcome == card.OutcomeFailed && !rep.Sent {
		return NotSent
	}
	return rep.Outcome.String()
}

func settled(err error) string {
	if err != nil {
		return NotSettled
	}
	return Settled
}

type unobserved struct{}

func (unobserved) Attempted(inventory.Place, string, error, time.Duration) {}
func (unobserved) ClaimsLost(int)                                          {}
func (unobserved) Delivered(bool, time.Duration)                           {}

// Busy is how many cards are worked on now, of how many at most.
func (s *Server) Busy() (now, most int) { return len(s.places), cap(s.places) }

// OperatorGuard is what the guard counts of an operator as a whole.
type OperatorGuard struct {
	Operator string
	ScopeState
}

// Guards is what the guard counts of operators, the first of them first, at most
// limit.
func (s *Server) Guards(ctx context.Context, limit int) ([]OperatorGuard, error) {
	list, err := s.Store.Guarded(ctx, limit)
	if err != nil {
		return nil, err
	}
	set := s.Rules()
	out := make([]OperatorGuard, len(list))
	for i, g := range list {
		out[i] = OperatorGuard{g.Name, scopeState(set, g.MCCMNC, g.Scope, s.Store.Now())}
	}
	return out, nil
}
