package rules

import (
	"math"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// Budget is how many deactivations a window may have, and where the breaker
// trips. The zero Budget bounds nothing.
type Budget struct {
	Max     int64   `json:"max"`      // 0: none
	Ceiling int64   `json:"ceiling"`  // 0: none
	Share   float64 `json:"share"`    // of the fleet, 0 to 1; 0: none
	AtLeast int64   `json:"at_least"` // what a small fleet's share is raised to
}

// Allowance is how many deactivations of a fleet of so many cards need no
// approval: math.MaxInt64 where nothing bounds them.
func (b Budget) Allowance(fleet int64) int64 {
	n := int64(math.MaxInt64)
	if b.Share > 0 {
		n = max(b.AtLeast, shareOf(b.Share, max(fleet, 0)))
	}
	if b.Max > 0 {
		n = min(n, b.Max)
	}
	return n
}

// shareOf is share × fleet, rounded up. What floating point adds to a whole
// number is no reason to round up.
func shareOf(share float64, fleet int64) int64 {
	x := share * float64(fleet)
	if share >= 1 {
		return fleet
	}
	if r := math.Round(x); math.Abs(x-r) < 1e-9*max(1, r) {
		return int64(r)
	}
	return int64(math.Ceil(x))
}

// guard is the budgets of the mass-deactivation guard.
type guard struct {
	window    time.Duration
	operators map[id.MCCMNC]Budget
	operator  Budget // of the others
	groups    map[string]Budget
	group     Budget // of the others
}

// Window is how long a budget lasts.
func (s *Set) Window() time.Duration { return s.guard.window }

// OperatorBudget is an operator's own budget, else the one of all operators
// that have none.
func (s *Set) OperatorBudget(m id.MCCMNC) Budget {
	if b, ok := s.guard.operators[m]; ok {
		return b
	}
	return s.guard.operator
}

// GroupBudget is a card group's own budget, else the one of all groups that
// have none.
func (s *Set) GroupBudget(group string) Budget {
	if b, ok := s.guard.groups[group]; ok {
		return b
	}
	return s.guard.group
}
