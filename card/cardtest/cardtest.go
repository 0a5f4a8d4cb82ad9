// Package cardtest is the conformance suite for anything that answers as our
// card: an emulator, an emulator behind a real PC/SC service, a physical card.
//
// It tests what docs/protocol.md says of the card, by APDUs alone, and its tests
// are named after the page's sections. What a run could not test, for want of
// such a card or of a hand on its power, stands in the Summary.
package cardtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// Card is a card under test and what the suite may do to it. The suite raises
// its event counter and its counts of failed authentications and replaces its
// stored answers.
type Card struct {
	// Open connects to the card and resets it. It waits for a card that a Fault
	// took away. The suite closes the connection.
	Open func(*testing.T) apdu.Conn
	// Record is the card as it is registered, with its profiles as they are.
	Record *card.Record
	// Server is a key set that the card has registered.
	Server cryptogram.ServerKeys
	// Other is a second one with one auth key; nil if there is none.
	Other *cryptogram.ServerKeys
	// PowerCycle takes the card's power away and gives it back; the suite opens
	// the card anew. It may be nil.
	PowerCycle func(*testing.T, apdu.Conn)
	// Inject arranges for a fault at the next persistent write. It may be nil.
	Inject func(*testing.T, Fault)
	// Restore has each test leave the profiles in the states in which it found
	// them, and leaves out the tests that cannot.
	Restore bool
}

// Fault is what goes wrong at a persistent write.
type Fault int

// The faults.
const (
	WriteFails Fault = iota + 1 // the memory refuses the write
	CutBefore                   // the card leaves before the write
	CutAfter                    // the card leaves after the write, before it answers
)

// Personality is what a test asks of the card that it runs on.
type Personality struct {
	Suites        []cryptogram.Suite // one auth key, or three where suite 03 is among them
	RequireTriple bool
	Profiles      []card.Profile
	EventCounter  uint32
	Failures      uint16 // failed authentications counted before, under Card.Server
	EncBits       int    // of the card's enc key; 0: 2048
	ShortOnly     bool   // the card does not announce extended length
}

// Source gives the card that a test runs on, in no state. Where it has none of
// that personality the error says why.
type Source func(*testing.T, Personality) (*Card, error)

// Omission is a test, or part of one, that was not run.
type Omission struct{ Test, Reason string }

// Summary is what a run tested.
type Summary struct {
	Ran    []string
	NotRun []Omission
}

func (s Summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d tests ran, %d did not", len(s.Ran), len(s.NotRun))
	for _, o := range s.NotRun {
		fmt.Fprintf(&b, "\nnot run: %s: %s", o.Test, o.Reason)
	}
	return b.String()
}

// test is one test of the suite.
type test struct {
	section string
	name    string
	on      Personality
	needs   need
	run     func(*bench)
}

// need is what a test needs beside a card of its personality.
type need uint

const (
	extended   need = 1 << iota // extended length: announced and carried
	exactLe                     // a transport that carries Le as it is; T=0 does not
	otherSet                    // Card.Other
	twoSuites                   // suites 01 and 03
	powerCycle                  // Card.PowerCycle
	faults                      // Card.Inject
	lasting                     // leave to change a profile for good
)

// Run runs the suite on the cards of a source and logs what it did not run.
func Run(t *testing.T, source Source) Summary {
	t.Helper()
	var sum Summary
	tests := slices.Concat(identifiers, layers, authentication, states, secureMessaging, commands, lengths, chains, channels, profiles, operations, answers, atomicity)
	for len(tests) > 0 {
		section := tests[0].section
		n := slices.IndexFunc(tests, func(x test) bool { return x.section != section })
		if n < 0 {
			n = len(tests)
		}
		group := tests[:n]
		tests = tests[n:]
		t.Run(section, func(t *testing.T) {
			for _, x := range group {
				t.Run(x.name, func(t *testing.T) { x.start(t, source, &sum) })
			}
		})
	}
	t.Log(sum)
	return sum
}

func (x test) start(t *testing.T, source Source, sum *Summary) {
	name := x.section + "/" + x.name
	omit := func(reason string) {
		if o := (Omission{Test: name, Reason: reason}); !slices.Contains(sum.NotRun, o) {
			sum.NotRun = append(sum.NotRun, o)
			t.Log("not run: " + reason)
		}
	}
	c, err := source(t, x.on)
	if err != nil {
		omit(err.Error())
		return
	}
	b := newBench(t, c, omit)
	defer b.end()
	if reason := b.lacks(x.needs); reason != "" {
		omit(reason)
		return
	}
	sum.Ran = append(sum.Ran, name)
	x.run(b)
}

// lacks says what of n there is not, "" if all is there.
func (b *bench) lacks(n need) string {
	suites := b.rec.Suites
	for _, l := range []struct {
		need
		there bool
		what  string
	}{
		{extended, b.basic.Extended(), "no extended length on this card and transport"},
		{exactLe, !b.shortOnly(), "the transport does not carry Le as it is (T=0)"},
		{otherSet, b.card.Other != nil, "the card has no second key set"},
		{twoSuites, slices.Contains(suites, cryptogram.Suite01) && slices.Contains(suites, cryptogram.Suite03), "the card has one suite"},
		{powerCycle, b.card.PowerCycle != nil, "nothing takes the card's power away"},
		{faults, b.card.Inject != nil, "nothing injects faults into the card"},
		{lasting, !b.card.Restore, "it would leave the card in another state"},
	} {
		if n&l.need != 0 && !l.there {
			return l.what
		}
	}
	return ""
}
