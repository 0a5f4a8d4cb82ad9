package main

import (
	"bytes"
	"context"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/applet-sim/uicc"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
)

// testKey is a private key whose operation costs nothing: it gives back what it
// is given, as testOps does for the public half. Everything around RSA is real.
type testKey struct{ public *rsa.PublicKey }

func (k testKey) Public() *rsa.PublicKey { return k.public }

func (k testKey) Private(_ context.Context, c []byte) ([]byte, error) { return bytes.Clone(c), nil }

func (k testKey) PrivateTo(_ context.Context, dst, c []byte) error { copy(dst, c); return nil }

type testOps struct{}

func (testOps) PublicTo(_ context.Context, _ *rsa.PublicKey, dst, x []byte) error {
	copy(dst, x)
	return nil
}

func withTestKeys(k cryptogram.PrivateKeys) cryptogram.PrivateKeys {
	out := cryptogram.PrivateKeys{Enc: testKey{k.Enc.Public()}, Ops: testOps{}}
	for _, a := range k.Auth {
		out.Auth = append(out.Auth, testKey{a.Public()})
	}
	return out
}

// memory is a persistent memory that holds one image: a write makes another one
// beside it and then the valid one, in one step.
type memory struct {
	holds   []byte
	began   []byte   // what it held at the beginning of the sequence
	written [][]byte // what was to be held, since forgotten

	// tear is what a write that is torn at byte n leaves; nil: as it should be.
	tear func(before, next []byte, n int) []byte
}

func (m *memory) Save(image []byte) error {
	m.written = append(m.written, image)
	m.holds = image
	return nil
}

func (m *memory) Tear(image []byte, n int) ([]byte, error) {
	m.written = append(m.written, image)
	switch {
	case m.tear != nil:
		m.holds = m.tear(m.holds, image, n)
	case n > len(image):
		m.holds = image
	}
	return m.holds, nil
}

// stream is the randomness of card and terminal: the same for each sequence.
type stream struct{ n uint64 }

func (s *stream) Read(b []byte) (int, error) {
	for i := range b {
		s.n = s.n*6364136223846793005 + 1442695040888963407 // Knuth's; it only has to differ
		b[i] = byte(s.n >> 56)
	}
	return len(b), nil
}

// Profiles of the card, in the order of its image.
const (
	working    = iota // enabled, under no rule
	spare             // of another operator
	ruled             // PPR1
	kept              // PPR2, of another operator
	bootstrap         // the fallback profile, where there is one
	laboratory        // a test profile
	profiles
)

// torment is a card and what it takes to play sequences on it.
type torment struct {
	card     *appletsim.Card
	memory   *memory
	random   *stream
	terminal *card.Terminal
	target   card.Target
	initial  map[string]*appletsim.Image // by personality

	// view stands between the card's memory and the checks; nil but where a test
	// breaks the card.
	view func(*appletsim.Image) *appletsim.Image

	// What the observer was told since it was asked.
	got      [][]byte // commands as the card got them
	restarts int
	cuts     []fault.Kind
	struck   int
}

// personalities are what the card is at the beginning of a sequence.
var personalities = map[string]func(*appletsim.Image){
	"plain":    func(*appletsim.Image) {},
	"fallback": func(im *appletsim.Image) { im.Profiles[bootstrap].Fallback = true },
	"ruled": func(im *appletsim.Image) {
		im.Profiles[working].State, im.Profiles[ruled].State = appletsim.Disabled, appletsim.Enabled
	},
	"triple": func(im *appletsim.Image) { im.Policy.RequireTriple = true },
	"off":    func(im *appletsim.Image) { im.Profiles[working].State = appletsim.Disabled },
	"at end": func(im *appletsim.Image) { im.EventCounter = 1<<32 - 2 },
}

// names are those of personalities, in order.
var names = func() (all []string) {
	for name := range personalities {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}()

// pin1 is the PIN of the USIMs, which is asked for.
const pin1 = "1234"

func image(personality string) *appletsim.Image {
	im := testcard.Image(0)
	for i := len(im.Profiles); i < profiles; i++ {
		im.Profiles = append(im.Profiles, testcard.Image(i).Profiles[1])
	}
	other := testcard.Image(0).Profiles[0].Owner
	other[2] ^= 0x10
	im.Profiles[spare].Owner, im.Profiles[kept].Owner = other, other
	im.Profiles[ruled].Class, im.Profiles[bootstrap].Class, im.Profiles[laboratory].Class = appletsim.Operational, appletsim.Provisioning, appletsim.Test
	im.Profiles[ruled].PPR1, im.Profiles[kept].PPR2 = true, true
	im.Runtime = &appletsim.Runtime{}
	for _, p := range im.Profiles[:ruled] {
		im.Runtime.USIMs = append(im.Runtime.USIMs, appletsim.USIM{ICCID: p.ICCID, Data: uicc.Data{
			PINs: map[uicc.PINName]uicc.PIN{uicc.PIN1: {Value: pin1, PUK: "11111111"}},
		}})
	}
	personalities[personality](im)
	return im
}

// newTorment makes a card; realKeys has it and the terminal do RSA.
func newTorment(realKeys bool) (*torment, error) {
	t := &torment{memory: &memory{}, random: &stream{}, initial: map[string]*appletsim.Image{}}
	im := image("plain")
	cardKeys, err := im.Keys.Private()
	if err != nil {
		return nil, err
	}
	server, err := testkeys.Server().Private()
	if err != nil {
		return nil, err
	}
	record, err := im.Record()
	if err != nil {
		return nil, err
	}
	registered, err := card.ParseRecord(record)
	if err != nil {
		return nil, err
	}
	t.target = registered.Target()
	if !realKeys {
		cardKeys, server.PrivateKeys = withTestKeys(cardKeys), withTestKeys(server.PrivateKeys)
	}
	t.terminal = &card.Terminal{Keys: server, Rand: t.random}
	for _, name := range names {
		t.initial[name] = image(name)
	}
	t.card, err = appletsim.New(im, appletsim.WithKeys(cardKeys), appletsim.WithStore(t.memory), appletsim.WithRand(t.random),
		appletsim.WithObserver(appletsim.Observer{
			Exchange: func(capdu, _ []byte) { t.got = append(t.got, bytes.Clone(capdu)) },
			Restart:  func() { t.restarts++ },
			Fault: func(s fault.Strike) {
				t.struck++
				if strings.HasPrefix(string(s.Fault.Kind), "cut-") {
					t.cuts = append(t.cuts, s.Fault.Kind)
				}
			},
		}))
	return t, err
}

// restore puts the card back to a personality, without faults.
func (t *torment) restore(personality string) error {
	t.card.ClearFault(0)
	t.random.n = 0
	im := t.initial[personality]
	if im == nil {
		return fmt.Errorf("no personality %q", personality)
	}
	if err := t.card.Restore(im); err != nil {
		return err
	}
	t.memory.written, t.memory.began = nil, t.memory.holds
	t.got, t.cuts, t.struck = nil, nil, 0
	return nil
}

// now is what the memory holds, as the checks see it.
func (t *torment) now() *appletsim.Image {
	im := t.card.Image()
	if t.view != nil {
		im = t.view(im)
	}
	return im
}
