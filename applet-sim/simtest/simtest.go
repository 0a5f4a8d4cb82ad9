// Package simtest gives a Go test an emulated card and the server's side of it:
//
//	sim := simtest.New(t)
//	_, report, err := sim.Terminal().Run(t.Context(), sim.Target(), sim.Deactivation())
//	// report.Outcome is card.OutcomeDone, sim.Enabled() is false
//
// Its keys are the public test keys, so that nothing waits for keys to be made.
package simtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
)

// Sim is an emulated card in a test.
type Sim struct {
	*appletsim.Card
	tb       testing.TB
	terminal *card.Terminal
	target   card.Target
}

// An Option changes the card that New makes.
type Option func(*recipe)

type recipe struct {
	number int
	change []func(*appletsim.Image)
	server cryptogram.KeySetPEM
	card   []appletsim.Option
	keys   *cryptogram.PrivateKeys // nil: the image's
}

// Number makes it the n-th card of testcard.Image, with an EID and ICCIDs of its
// own. The default is 0.
func Number(n int) Option { return func(r *recipe) { r.number = n } }

// Change has f change the image: its policy, its profiles, all that an image has.
func Change(f func(*appletsim.Image)) Option {
	return func(r *recipe) { r.change = append(r.change, f) }
}

// Profiles are the card's profiles in place of the usual three.
func Profiles(p ...appletsim.Profile) Option {
	return Change(func(im *appletsim.Image) { im.Profiles = p })
}

// Policy is what the card asks of every operation.
func Policy(p appletsim.Policy) Option {
	return Change(func(im *appletsim.Image) { im.Policy = p })
}

// Plain makes a plain eUICC: it has no management applet.
func Plain() Option {
	return Change(func(im *appletsim.Image) {
		im.Runtime = &appletsim.Runtime{About: &appletsim.EUICC{Plain: true}}
	})
}

// Keys are the private keys of card and server in place of the test keys.
func Keys(c cryptogram.KeysPEM, server cryptogram.KeySetPEM) Option {
	return func(r *recipe) {
		r.server, r.keys = server, nil
		Change(func(im *appletsim.Image) { im.Keys = c })(r)
	}
}

// Faults has faults strike. The test's log tells each strike, and what repeats it.
func Faults(f ...fault.Fault) Option { return With(appletsim.WithFaults(f...)) }

// With hands options on to appletsim.New.
func With(o ...appletsim.Option) Option {
	return func(r *recipe) { r.card = append(r.card, o...) }
}

// shared are the test keys, parsed once for all cards.
var shared = sync.OnceValues(func() (cryptogram.PrivateKeys, error) { return testkeys.Card().Private() })

// New makes a card for a test, powered on and in its reader, and closes it when
// the test ends. What cannot be made fails the test.
func New(tb testing.TB, opts ...Option) *Sim {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal("simtest: ", err)
		}
	}
	keys, err := shared()
	must(err)
	r := recipe{server: testkeys.Server(), keys: &keys}
	for _, o := range opts {
		o(&r)
	}
	server, err := r.server.Private()
	must(err)
	public, err := cryptogram.EncodePublic(server.Public())
	must(err)
	im := testcard.Image(r.number)
	im.ServerKeySets = []cryptogram.KeySetPEM{{ID: r.server.ID, KeysPEM: public}}
	for _, f := range r.change {
		f(im)
	}
	record, err := im.Record()
	must(err)
	registered := &card.Record{EID: im.EID} // a plain eUICC has no keys
	if !card.IsPlainRecord(record) {
		registered, err = card.ParseRecord(record)
		must(err)
	}
	all := []appletsim.Option{appletsim.OnFault(logTo(tb))}
	if r.keys != nil {
		all = append(all, appletsim.WithKeys(*r.keys))
	}
	c, err := appletsim.New(im, append(all, r.card...)...)
	must(err)
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error("simtest: ", err)
		}
	})
	return &Sim{Card: c, tb: tb, terminal: &card.Terminal{Keys: server}, target: registered.Target()}
}

// logTo tells a test's log of strikes, until the test ends.
func logTo(tb testing.TB) func(fault.Strike) {
	var mu sync.Mutex
	over := false
	tb.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	})
	return func(s fault.Strike) {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			tb.Log(s)
		}
	}
}

// Terminal is the server's side, with the server's keys.
func (s *Sim) Terminal() *card.Terminal { return s.terminal }

// Target is the card as its record has it. A plain eUICC has no keys.
func (s *Sim) Target() card.Target { return s.target }

// Open connects to the card; it waits for one that is away.
func (s *Sim) Open(ctx context.Context) (apdu.Conn, error) {
	for {
		left, away := s.Away()
		if !away {
			return s.Connect(), nil
		}
		if left == 0 {
			left = 10 * time.Millisecond // somebody may insert it
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", apdu.ErrNoCard, ctx.Err())
		case <-time.After(left):
		}
	}
}

// Channel is the card's basic channel, on a connection of its own.
func (s *Sim) Channel() *apdu.Channel { return apdu.BasicChannel(s.Connect()) }

// Deactivation deactivates the enabled profile: for Terminal.Run, which recovers
// what faults leave unknown, in up to four sendings.
func (s *Sim) Deactivation() card.Operation { return s.operation(card.INSDeactivate) }

// Activation activates the only disabled profile, or the one that the caller
// fills in.
func (s *Sim) Activation() card.Operation { return s.operation(card.INSActivate) }

func (s *Sim) operation(ins byte) card.Operation {
	op := card.Operation{INS: ins, Open: s.Open, Attempts: 4, Wait: 10 * time.Second}
	_, _ = rand.Read(op.RequestID[:]) // it never fails
	op.Step = func(format string, args ...any) { s.tb.Logf(format, args...) }
	return op
}

// Enabled reports whether a profile is enabled.
func (s *Sim) Enabled() bool {
	for _, p := range s.Image().Profiles {
		if p.State == appletsim.Enabled {
			return true
		}
	}
	return false
}
