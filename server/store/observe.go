package store

import "time"

// Who brought a request into a state.
const (
	ByServer = "server"
	ByRule   = "rule"
	ByUser   = "user"
	ByCard   = "card"
)

// WithCommits has f told of each transaction that wrote: how many writes shared
// it, how long it took from its beginning until it was durable, and what its
// commit failed with. f is called by several goroutines.
func WithCommits(f func(writes int, took time.Duration, err error)) Option {
	return func(s *Store) { s.committed = f }
}

// WithArrivals has f told of each request that comes into a state that matters to
// whoever counts them: Accepted, Held, Unknown, and all that end it; and who
// brought it there, one of ByServer and its like. f is told once that is durable,
// and is called by several goroutines.
func WithArrivals(f func(state State, by string)) Option {
	return func(s *Store) { s.arrived = f }
}

type arrival struct {
	state State
	by    string
}

// came notes an arrival, for when the transaction is committed.
func (t *tx) came(state State, by string) {
	if t.s.arrived != nil {
		t.arrivals = append(t.arrivals, arrival{state, by})
	}
}

// observed tells of a transaction that was begun at a moment.
func (s *Store) observed(c *session, writes int, began time.Time, err error) {
	if s.committed != nil {
		s.committed(writes, time.Since(began), err)
	}
	if err != nil {
		return
	}
	for _, a := range c.arrivals {
		s.arrived(a.state, a.by)
	}
}

// by is who brought a request to its end. What is done or refused by ES10c was
// read from the card, without an Answer.
func (o *Outcome) by() string {
	switch {
	case o.User:
		return ByUser
	case o.Refusal != nil:
		return ByRule
	case o.Answer != nil, o.State == Failed, o.State == Done, o.State == Refused:
		return ByCard
	}
	return ByServer
}
