// Package guard counts deactivations against budgets: the mass-deactivation
// guard.
//
// A budget holds for one scope: an operator, or one of its card groups. Within
// a window at most Max requests are sent without an approval, and at most
// Ceiling are asked for at all; one more trips the operator's breaker. What was
// let in and not sent yet is pending and counts as if it were sent now, so that
// no window ever holds more than Max, however late its cards turn up.
package guard

import (
	"fmt"
	"math"
	"time"
)

// NoLimit stands for a budget that nothing exceeds.
const NoLimit = math.MaxInt64

// Limits are a scope's budget for the size its fleet has now.
type Limits struct {
	Max     int64 // sent and pending without an approval
	Ceiling int64 // asked for
}

// Scope is what is counted of an operator (Group is empty), or of one of its
// card groups.
type Scope struct {
	ID         int64
	Group      string
	Fleet      int64 // cards
	Pending    int64 // let in, not sent yet
	Epoch      int64 // grows when the breaker trips: what was let in before must be approved anew
	Counts     Counts
	TrippedAt  *time.Time // of the operator's own scope
	TrippedWhy string
	// Webhooks is how many endpoints are told of the operator's requests, of its
	// own scope. The guard does not look at it: it is here because every decision
	// reads the scope.
	Webhooks int64
}

func (s *Scope) name() string {
	if s.Group == "" {
		return "the operator"
	}
	return fmt.Sprintf("card group %q", s.Group)
}

// Kind says what the guard does with a request.
type Kind int

// What the guard does.
const (
	Pass    Kind = iota
	Hold         // wait for the approval of a second user
	Tripped      // the breaker is open
	Trip         // this request trips the breaker
)

// Decision is the guard's.
type Decision struct {
	Kind Kind
	Why  string // in words, for the operator; empty for Pass
}

// Admit decides on one more request. scopes[0] is the operator's own; limits
// are theirs, in the same order.
func Admit(scopes []Scope, limits []Limits, now time.Time, window time.Duration) Decision {
	if scopes[0].TrippedAt != nil {
		return tripped(&scopes[0])
	}
	for i := range scopes {
		asked, _ := scopes[i].Counts.Sum(now, window)
		if asked >= limits[i].Ceiling {
			return Decision{Trip, fmt.Sprintf("%s asked for more than %d deactivations within %s", scopes[i].name(), limits[i].Ceiling, words(window))}
		}
	}
	for i := range scopes {
		_, sent := scopes[i].Counts.Sum(now, window)
		if sent+scopes[i].Pending >= limits[i].Max {
			return over(&scopes[i], limits[i], window)
		}
	}
	return Decision{}
}

// Send decides on a request that was let in under an epoch, when it is about to
// be sent: its own place is among the pending. An approved one passes every
// budget but not the breaker.
func Send(scopes []Scope, limits []Limits, epoch int64, approved bool, now time.Time, window time.Duration) Decision {
	op := &scopes[0]
	if op.TrippedAt != nil {
		return tripped(op)
	}
	if op.Epoch != epoch {
		return Decision{Hold, "the breaker tripped after the request was let in"}
	}
	for i := range scopes {
		if _, sent := scopes[i].Counts.Sum(now, window); !approved && sent >= limits[i].Max {
			return over(&scopes[i], limits[i], window)
		}
	}
	return Decision{}
}

func tripped(op *Scope) Decision { return Decision{Tripped, Tripping(op.TrippedWhy)} }

// Tripping says in words that a breaker has tripped, why, and what to do.
func Tripping(why string) string {
	return "the operator's breaker has tripped (" + why + "); the server's administrator resets it (cardbridge guard reset)"
}

func over(s *Scope, l Limits, window time.Duration) Decision {
	return Decision{Hold, fmt.Sprintf("%s has used its budget of %d deactivations within %s", s.name(), l.Max, words(window))}
}

// words is a duration without the units that are zero.
func words(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0 && d > 24*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return d.String()
}
