package cardtest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
)

// Existing is the Source of one card that exists, a physical one: it serves the
// tests whose personality is the card's, and its profiles are brought back into
// their states after each.
func Existing(c Card) Source {
	return func(t *testing.T, p Personality) (*Card, error) {
		t.Helper()
		c := c
		c.Restore = true
		rec := *c.Record
		b := newBench(t, &c, func(string) {})
		status := b.readStatus()
		atr := b.conn.ATR()
		b.close()
		rec.Profiles, rec.EventCounter = status.Profiles, status.EventCounter
		c.Record = &rec
		return &c, p.fits(&rec, atr)
	}
}

// fits says what of p the card is not.
func (p Personality) fits(r *card.Record, atr []byte) error {
	for _, s := range p.Suites {
		if !slices.Contains(r.Suites, s) {
			return fmt.Errorf("the card has no suite %s", s)
		}
	}
	switch {
	case len(p.Suites) != len(r.Suites):
		return fmt.Errorf("the card has %d suites, not %d", len(r.Suites), len(p.Suites))
	case p.RequireTriple != r.RequireTriple:
		return fmt.Errorf("the card's policy has require_triple %t", r.RequireTriple)
	case p.Failures != 0:
		return fmt.Errorf("the card's count of failures cannot be set")
	case p.EncBits != 0 && r.Keys.Enc.N.BitLen() != p.EncBits:
		return fmt.Errorf("the card's enc key has not %d bits", p.EncBits)
	case p.ShortOnly == apdu.ParseCapabilities(atr).ExtendedLength:
		return fmt.Errorf("the card announces extended length: %t", p.ShortOnly)
	}
	free := slices.Clone(r.Profiles)
	for _, want := range p.Profiles {
		i := slices.IndexFunc(free, func(q card.Profile) bool { return kindOf(q) == kindOf(want) })
		if i < 0 {
			return fmt.Errorf("the card has no further profile that is %s", kindOf(want))
		}
		free = slices.Delete(free, i, i+1)
	}
	for _, q := range free {
		if q.Fallback || q.State == card.Enabled {
			return fmt.Errorf("the card has a profile that is %s", kindOf(q))
		}
	}
	return nil
}

// kind is what the tests distinguish profiles by.
type kind struct {
	state    card.State
	ppr1     bool
	fallback bool
}

func kindOf(p card.Profile) kind { return kind{p.State, p.PPR1, p.Fallback} }

func (k kind) String() string {
	s := k.state.String()
	if k.ppr1 {
		s += ", not to be disabled (PPR1)"
	}
	if k.fallback {
		s += ", the fallback"
	}
	return s
}
