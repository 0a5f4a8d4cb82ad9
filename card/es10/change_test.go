package es10_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/servertest"
)

const cardNumber = 3

var (
	everyday = servertest.ICCID(cardNumber, 0) // enabled
	spare    = servertest.ICCID(cardNumber, 1)
	kept     = servertest.ICCID(cardNumber, 5) // PPR1, PPR2
	tester   = servertest.ICCID(cardNumber, 6)
	absent   = servertest.ICCID(cardNumber, 9)
)

// base is a card with no more keys than an image must have.
var base = sync.OnceValue(func() appletsim.Image {
	im := servertest.Image(cardNumber)
	im.Keys.Auth, im.Suites, im.ServerKeySets = im.Keys.Auth[:1], []int{1}, []cryptogram.KeySetPEM{}
	return *im
})

// newCard is a plain eUICC with four profiles.
func newCard(change ...func(*appletsim.Image)) *appletsim.Card {
	image := base()
	im := &image
	im.Profiles = slices.Clone(im.Profiles)
	im.Runtime = &appletsim.Runtime{About: &appletsim.EUICC{Plain: true}}
	more := im.Profiles[1]
	more.ICCID, more.PPR1, more.PPR2 = kept, true, true
	im.Profiles = append(im.Profiles[:2:2], more)
	more.ICCID, more.PPR1, more.PPR2, more.Class = tester, false, false, appletsim.Test
	im.Profiles = append(im.Profiles, more)
	for _, f := range change {
		f(im)
	}
	c, err := appletsim.New(im)
	if err != nil {
		panic(err)
	}
	return c
}

// way carries APDUs between a card and Run, and spoils what it is told to.
type way struct {
	card   *appletsim.Card
	spoil  func(n int, capdu []byte, carry func() []byte) ([]byte, error) // nil: nothing
	n      int                                                            // APDUs so far
	opened int
}

func (w *way) open(context.Context) (apdu.Conn, error) {
	w.card.Insert()
	w.opened++
	return &road{w.card.Connect(), w}, nil
}

type road struct {
	*appletsim.Conn
	way *way
}

func (r *road) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.way.n++
	if r.way.spoil == nil {
		return r.Conn.Transmit(ctx, capdu)
	}
	var err error
	rapdu, spoilt := r.way.spoil(r.way.n, capdu, func() (rapdu []byte) {
		rapdu, err = r.Conn.Transmit(ctx, capdu)
		return rapdu
	})
	return rapdu, errors.Join(spoilt, err)
}

func (w *way) run(t *testing.T, c es10.Change) (es10.Report, error) {
	t.Helper()
	c.BusyWait = time.Millisecond
	return es10.Run(t.Context(), c, es10.Recovery{Open: w.open, Wait: time.Second, Attempts: 3, Pause: time.Millisecond})
}

// states are the profiles' states in the card's memory.
func states(c *appletsim.Card) map[id.ICCID]string {
	out := map[id.ICCID]string{}
	for _, p := range c.Image().Profiles {
		out[p.ICCID] = string(p.State)
	}
	return out
}

func TestChanges(t *testing.T) {
	for name, tt := range map[string]struct {
		change  es10.Change
		image   func(*appletsim.Image)
		outcome card.Outcome
		answer  error
		after   map[id.ICCID]string // what differs; "" gone
	}{
		"disable the enabled one": {es10.Change{Op: es10.OpDisable}, nil, card.OutcomeDone, nil, map[id.ICCID]string{everyday: "disabled"}},
		"disable":                 {es10.Change{Op: es10.OpDisable, ICCID: &everyday, Refresh: true}, nil, card.OutcomeDone, nil, map[id.ICCID]string{everyday: "disabled"}},
		"disable, not enabled":    {es10.Change{Op: es10.OpDisable, ICCID: &spare}, nil, card.OutcomeRefused, es10.ErrState, nil},
		"disable, absent":         {es10.Change{Op: es10.OpDisable, ICCID: &absent}, nil, card.OutcomeRefused, es10.ErrNotFound, nil},
		"disable, PPR1": {es10.Change{Op: es10.OpDisable}, func(im *appletsim.Image) { im.Profiles[0].PPR1 = true },
			card.OutcomeRefused, es10.ErrPolicy, nil},
		"disable, 69E1": {es10.Change{Op: es10.OpDisable}, func(im *appletsim.Image) { im.Profiles[0].PPR1, im.Runtime.About.M2MRefusals = true, true },
			card.OutcomeRefused, apdu.StatusWord(0x69E1), nil},
		"disable, settles by a reset": {es10.Change{Op: es10.OpDisable}, func(im *appletsim.Image) { im.Runtime.About.SettleByReset = true },
			card.OutcomeDone, nil, map[id.ICCID]string{everyday: "disabled"}},
		"enable":          {es10.Change{Op: es10.OpEnable, ICCID: &spare}, nil, card.OutcomeDone, nil, map[id.ICCID]string{everyday: "disabled", spare: "enabled"}},
		"enable, enabled": {es10.Change{Op: es10.OpEnable, ICCID: &everyday}, nil, card.OutcomeRefused, es10.ErrState, nil},
		"enable after a test profile": {es10.Change{Op: es10.OpEnable, ICCID: &spare}, func(im *appletsim.Image) {
			im.Profiles[0].State, im.Profiles[3].State = appletsim.Disabled, appletsim.Enabled
			im.Runtime.EUICC = &appletsim.EUICCRuntime{BeforeTest: &everyday}
		}, card.OutcomeRefused, es10.ErrReenabling, nil},
		"enable, which?":  {es10.Change{Op: es10.OpEnable}, nil, card.OutcomeFailed, nil, nil},
		"delete":          {es10.Change{Op: es10.OpDelete, ICCID: &spare}, nil, card.OutcomeDone, nil, map[id.ICCID]string{spare: ""}},
		"delete, enabled": {es10.Change{Op: es10.OpDelete, ICCID: &everyday}, nil, card.OutcomeRefused, es10.ErrState, nil},
		"delete, PPR2":    {es10.Change{Op: es10.OpDelete, ICCID: &kept}, nil, card.OutcomeRefused, es10.ErrPolicy, nil},
		"delete, absent":  {es10.Change{Op: es10.OpDelete, ICCID: &absent}, nil, card.OutcomeRefused, es10.ErrNotFound, nil},
		"nickname":        {es10.Change{Op: es10.OpSetNickname, ICCID: &spare, Nickname: "Zweitkarte"}, nil, card.OutcomeDone, nil, nil},
		"nickname, none":  {es10.Change{Op: es10.OpSetNickname, ICCID: &absent, Nickname: "x"}, nil, card.OutcomeRefused, es10.ErrNotFound, nil},
		"memory reset": {es10.Change{Op: es10.OpMemoryReset, Reset: es10.MemoryReset{Operational: true, Test: true}}, nil, card.OutcomeDone, nil,
			map[id.ICCID]string{everyday: "", spare: "", kept: "", tester: ""}},
		"memory reset of nothing": {es10.Change{Op: es10.OpMemoryReset, Reset: es10.MemoryReset{DefaultDP: true}}, nil, card.OutcomeRefused, es10.ErrNothingToDelete, nil},
		"no operation":            {es10.Change{}, nil, card.OutcomeFailed, nil, nil},
		"long nickname":           {es10.Change{Op: es10.OpSetNickname, ICCID: &spare, Nickname: string(make([]byte, 65))}, nil, card.OutcomeFailed, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := &way{card: newCard()}
			if tt.image != nil {
				w.card = newCard(tt.image)
			}
			want := states(w.card)
			for iccid, state := range tt.after {
				if want[iccid] = state; state == "" {
					delete(want, iccid)
				}
			}
			rep, err := w.run(t, tt.change)
			assert.Equal(t, tt.outcome, rep.Outcome, "%v", err)
			assert.Equal(t, want, states(w.card))
			switch tt.outcome {
			case card.OutcomeDone:
				assert.NoError(t, err)
				assert.NoError(t, rep.Answer)
			case card.OutcomeRefused:
				assert.NoError(t, err)
				assert.ErrorIs(t, rep.Answer, tt.answer)
			default:
				assert.Error(t, err)
				assert.False(t, rep.Sent)
				return
			}
			require.NotNil(t, rep.After)
			read := map[id.ICCID]string{}
			for _, p := range rep.After {
				read[p.ICCID] = p.State.String()
			}
			assert.Equal(t, want, read, "what was read is what is")
			assert.Equal(t, w.card.Image().EID, *rep.EID)
			if tt.change.Op == es10.OpSetNickname && tt.outcome == card.OutcomeDone {
				p, _ := rep.Profile()
				assert.Equal(t, tt.change.Nickname, p.Nickname)
			}
		})
	}
}

// TestFaults has each APDU of a change go wrong, in each way that there is, and
// the outcome be what the card's memory says.
func TestFaults(t *testing.T) {
	lost := func(e error) func(*appletsim.Card, func() []byte) ([]byte, error) {
		return func(_ *appletsim.Card, carry func() []byte) ([]byte, error) { carry(); return nil, e }
	}
	status := func(sw apdu.StatusWord) func(*appletsim.Card, func() []byte) ([]byte, error) {
		return func(*appletsim.Card, func() []byte) ([]byte, error) { return sw.Append(nil), nil }
	}
	faults := map[string]func(*appletsim.Card, func() []byte) ([]byte, error){
		"answer lost":       lost(apdu.ErrTransport),
		"answer late":       lost(apdu.ErrTimeout),
		"answer without SW": func(_ *appletsim.Card, carry func() []byte) ([]byte, error) { return carry()[:1], nil },
		"never sent":        func(*appletsim.Card, func() []byte) ([]byte, error) { return nil, apdu.ErrCardBusy },
		"reset by itself":   func(c *appletsim.Card, carry func() []byte) ([]byte, error) { r := carry(); c.Reset(); return r, nil },
		"reset, answer lost": func(c *appletsim.Card, carry func() []byte) ([]byte, error) {
			carry()
			c.Reset()
			return nil, apdu.ErrCardReset
		},
		"reset before":   func(c *appletsim.Card, _ func() []byte) ([]byte, error) { c.Reset(); return nil, apdu.ErrCardReset },
		"removed before": func(c *appletsim.Card, _ func() []byte) ([]byte, error) { c.Remove(); return nil, apdu.ErrCardRemoved },
		"removed afterwards": func(c *appletsim.Card, carry func() []byte) ([]byte, error) {
			carry()
			c.Remove()
			return nil, apdu.ErrCardRemoved
		},
		"6985 after it":     func(_ *appletsim.Card, carry func() []byte) ([]byte, error) { carry(); return []byte{0x69, 0x85}, nil },
		"6F00 after it":     func(_ *appletsim.Card, carry func() []byte) ([]byte, error) { carry(); return []byte{0x6F, 0x00}, nil },
		"6F00 in its place": status(0x6F00),
		"6985 in its place": status(0x6985),
		"6D00 in its place": status(0x6D00),
		"cut before the write": func(c *appletsim.Card, carry func() []byte) ([]byte, error) {
			c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutBefore})
			return carry(), nil
		},
		"cut after the write": func(c *appletsim.Card, carry func() []byte) ([]byte, error) {
			c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
			return carry(), nil
		},
		"write fails": func(c *appletsim.Card, carry func() []byte) ([]byte, error) {
			c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.WriteFails})
			return carry(), nil
		},
		"worn out": func(c *appletsim.Card, carry func() []byte) ([]byte, error) {
			c.Inject(appletsim.Fault{Kind: fault.WornOut})
			return carry(), nil
		},
		"cut within the write": func(c *appletsim.Card, carry func() []byte) ([]byte, error) {
			c.Inject(appletsim.Fault{Kind: fault.CutTorn, Bytes: 100})
			return carry(), nil
		},
		"garbage": func(_ *appletsim.Card, carry func() []byte) ([]byte, error) {
			carry()
			return unhex("BF3204800100009000"), nil
		},
	}
	changes := map[string]es10.Change{
		"disable":      {Op: es10.OpDisable},
		"enable":       {Op: es10.OpEnable, ICCID: &spare, Refresh: true},
		"delete":       {Op: es10.OpDelete, ICCID: &spare},
		"refused":      {Op: es10.OpDelete, ICCID: &kept},
		"nickname":     {Op: es10.OpSetNickname, ICCID: &spare, Nickname: "x"},
		"memory reset": {Op: es10.OpMemoryReset, Reset: es10.MemoryReset{Operational: true}},
	}
	outcomes := map[card.Outcome]int{}
	for what, change := range changes {
		whole := &way{card: newCard()}
		_, err := whole.run(t, change)
		require.NoError(t, err)
		want := whole.card.Image()
		for name, fault := range faults {
			for _, settle := range []bool{false, true} {
				if settle && what != "disable" {
					continue
				}
				for at := 1; at <= whole.n; at++ {
					label := fmt.Sprintf("%s, %s at APDU %d of %d, settles by a reset: %t", what, name, at, whole.n, settle)
					w := &way{card: newCard(func(im *appletsim.Image) { im.Runtime.About.SettleByReset = settle })}
					before := w.card.Image()
					w.spoil = func(n int, _ []byte, carry func() []byte) ([]byte, error) {
						if n == at {
							return fault(w.card, carry)
						}
						return carry(), nil
					}
					rep, err := w.run(t, change)
					w.card.Insert()
					now := w.card.Image()
					changed := !assert.ObjectsAreEqual(before.Profiles, now.Profiles) || nicknames(before) != nicknames(now)
					if changed {
						require.Equal(t, want.Profiles, now.Profiles, "%s: wholly or not at all", label)
					}
					outcomes[rep.Outcome]++
					switch rep.Outcome {
					case card.OutcomeDone:
						require.NoError(t, err, label)
						require.True(t, changed, label)
						require.Equal(t, want.EventCounter, now.EventCounter, "%s: once", label)
					case card.OutcomeUnknown:
						require.ErrorIs(t, err, card.ErrOutcomeUnknown, label)
					default:
						require.False(t, changed, "%s: %v, %v", label, rep.Outcome, err)
					}
					if what == "refused" {
						require.NotEqual(t, card.OutcomeDone, rep.Outcome, label)
					}
				}
			}
		}
	}
	t.Logf("outcomes: %v", outcomes)
	assert.NotZero(t, outcomes[card.OutcomeRefused])
	assert.NotZero(t, outcomes[card.OutcomeFailed])
	assert.Greater(t, outcomes[card.OutcomeDone], 10*outcomes[card.OutcomeUnknown], "most is recovered")
}

func nicknames(im *appletsim.Image) string {
	if im.Runtime == nil || im.Runtime.EUICC == nil {
		return ""
	}
	var out string
	for _, p := range im.Runtime.EUICC.Profiles {
		out += p.Nickname
	}
	return out
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// TestGoldenChange is what passes in a change: its commands, the reset, and the reading
// afterwards.
func TestGoldenChange(t *testing.T) {
	c := newCard()
	for _, change := range []es10.Change{{Op: es10.OpDisable, Refresh: true}, {Op: es10.OpEnable, ICCID: &everyday, Options: es10.Options{Segment: 16}}, {Op: es10.OpDelete, ICCID: &kept}} {
		conn := trace.Golden(t, c.Connect(), "testdata/changes.apdu")
		rep, err := es10.Attempt(t.Context(), conn, change)
		require.NoError(t, err)
		assert.NotEqual(t, card.OutcomeUnknown, rep.Outcome)
		require.NoError(t, conn.Close())
	}
}

// TestUnknown: a card that does not come back leaves the outcome unknown, and the
// same change with Sent settles it, sending it again only where it was not done.
func TestUnknown(t *testing.T) {
	for name, kind := range map[string]appletsim.FaultKind{"done": appletsim.CutAfter, "not done": appletsim.CutBefore} {
		t.Run(name, func(t *testing.T) {
			c := newCard()
			c.Inject(appletsim.Fault{Write: 1, Kind: kind})
			var marked []es10.Report
			change := es10.Change{Op: es10.OpDisable, BeforeSend: func(_ context.Context, r es10.Report) error {
				marked = append(marked, r)
				return nil
			}}
			rep, err := es10.Attempt(t.Context(), c.Connect(), change)
			assert.Equal(t, card.OutcomeUnknown, rep.Outcome)
			require.ErrorIs(t, err, card.ErrOutcomeUnknown)
			assert.ErrorIs(t, err, apdu.ErrCardRemoved)
			require.Len(t, marked, 1)
			assert.Equal(t, everyday, *marked[0].ICCID)
			p, ok := marked[0].Profile()
			assert.True(t, ok)
			assert.Equal(t, es10.Enabled, p.State)
			assert.Equal(t, servertest.Owner, *p.Owner)

			c.Insert()
			change.ICCID, change.Sent = rep.ICCID, true
			rep, err = es10.Attempt(t.Context(), c.Connect(), change)
			require.NoError(t, err)
			assert.Equal(t, card.OutcomeDone, rep.Outcome)
			assert.True(t, rep.Sent)
			if kind == appletsim.CutAfter {
				assert.Len(t, marked, 1, "not sent again")
			} else {
				assert.Len(t, marked, 2)
			}
			assert.Equal(t, "disabled", states(c)[everyday])
		})
	}
}

func TestSentForWhichProfile(t *testing.T) {
	c := newCard()
	rep, err := es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: es10.OpDisable, Sent: true})
	assert.ErrorIs(t, err, card.ErrOutcomeUnknown)
	assert.ErrorContains(t, err, "for which profile")
	assert.Equal(t, card.OutcomeUnknown, rep.Outcome)
	assert.Equal(t, "enabled", states(c)[everyday])
}

func TestBeforeSendStops(t *testing.T) {
	c := newCard()
	rule := errors.New("a rule forbids it")
	rep, err := es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: es10.OpDisable, BeforeSend: func(context.Context, es10.Report) error { return rule }})
	assert.ErrorIs(t, err, rule)
	assert.Equal(t, card.OutcomeFailed, rep.Outcome)
	assert.False(t, rep.Sent)
	assert.Equal(t, "enabled", states(c)[everyday])
}

func TestAnotherCard(t *testing.T) {
	eid := servertest.Image(cardNumber + 1).EID
	c := newCard()
	rep, err := es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: es10.OpDisable, EID: &eid})
	assert.ErrorContains(t, err, eid.String())
	assert.Equal(t, card.OutcomeFailed, rep.Outcome)
	assert.Equal(t, "enabled", states(c)[everyday])

	// One that was swapped while the outcome was unknown tells nothing of it.
	w := &way{card: newCard()}
	w.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
	other := servertest.Card(servertest.Image(cardNumber + 1))
	first := true
	rep, err = es10.Run(t.Context(), es10.Change{Op: es10.OpDisable}, es10.Recovery{Wait: time.Second, Attempts: 2, Open: func(ctx context.Context) (apdu.Conn, error) {
		if !first {
			return other.Connect(), nil
		}
		first = false
		return w.open(ctx)
	}})
	assert.ErrorIs(t, err, card.ErrOutcomeUnknown)
	assert.Equal(t, card.OutcomeUnknown, rep.Outcome)
	assert.Equal(t, other.Image().Profiles, servertest.Image(cardNumber+1).Profiles)
}

// TestCATBusy: a card with a proactive command that nobody fetches is busy until
// it is reset; one that is busy for a while is waited for; one that stays busy is
// given up.
func TestCATBusy(t *testing.T) {
	w := &way{card: newCard()}
	w.card.Process(unhex("80100000080000800000000000")) // TERMINAL PROFILE with REFRESH
	change := es10.Change{Op: es10.OpEnable, ICCID: &spare, Refresh: true}
	conn := w.card.Connect()
	e, err := es10.Open(t.Context(), conn, es10.Options{})
	require.NoError(t, err)
	require.NoError(t, e.Enable(t.Context(), spare, true))
	require.ErrorIs(t, e.Disable(t.Context(), spare, true), es10.ErrCATBusy)
	change.ICCID = &everyday
	rep, err := w.run(t, change)
	require.NoError(t, err)
	assert.Equal(t, card.OutcomeDone, rep.Outcome)
	assert.Equal(t, 2, rep.Busy)
	assert.Equal(t, "enabled", states(w.card)[everyday])

	for _, busy := range []int{1, 4, 100} {
		w := &way{card: newCard()}
		left := busy
		w.spoil = func(_ int, capdu []byte, carry func() []byte) ([]byte, error) {
			if left > 0 && bytes.Contains(capdu, []byte{0xBF, 0x32}) {
				left--
				return unhex("BF32038001059000"), nil
			}
			return carry(), nil
		}
		rep, err := w.run(t, es10.Change{Op: es10.OpDisable, Refresh: true})
		if busy == 100 {
			assert.ErrorIs(t, err, es10.ErrCATBusy)
			assert.Equal(t, card.OutcomeFailed, rep.Outcome)
			assert.Equal(t, 5, rep.Busy)
			assert.Equal(t, "enabled", states(w.card)[everyday])
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, busy, rep.Busy)
		assert.Equal(t, card.OutcomeDone, rep.Outcome)
	}
}

// TestLies: what was read counts, not what was answered.
func TestLies(t *testing.T) {
	w := &way{card: newCard()}
	w.spoil = func(_ int, capdu []byte, carry func() []byte) ([]byte, error) {
		if bytes.Contains(capdu, []byte{0xBF, 0x32}) {
			return unhex("BF32038001009000"), nil
		}
		return carry(), nil
	}
	rep, err := w.run(t, es10.Change{Op: es10.OpDisable})
	assert.ErrorIs(t, err, es10.ErrNotDone)
	assert.Equal(t, card.OutcomeFailed, rep.Outcome)

	w = &way{card: newCard()}
	w.spoil = func(_ int, capdu []byte, carry func() []byte) ([]byte, error) {
		rapdu := carry()
		if bytes.Contains(capdu, []byte{0xBF, 0x32}) {
			return unhex("BF320380017F9000"), nil
		}
		return rapdu, nil
	}
	rep, err = w.run(t, es10.Change{Op: es10.OpDisable})
	require.NoError(t, err)
	assert.Equal(t, card.OutcomeDone, rep.Outcome)
	assert.ErrorIs(t, rep.Answer, es10.ErrUndefined)
}

func TestCancelled(t *testing.T) {
	w := &way{card: newCard()}
	ctx, cancel := context.WithCancel(t.Context())
	w.spoil = func(_ int, capdu []byte, carry func() []byte) ([]byte, error) {
		if bytes.Contains(capdu, []byte{0xBF, 0x32}) {
			cancel()
		}
		return carry(), nil
	}
	rep, err := es10.Run(ctx, es10.Change{Op: es10.OpDisable}, es10.Recovery{Open: w.open, Wait: time.Second, Attempts: 3, Pause: time.Millisecond})
	assert.ErrorIs(t, err, card.ErrOutcomeUnknown)
	assert.Equal(t, card.OutcomeUnknown, rep.Outcome)
	assert.Equal(t, 1, w.opened)
}

// TestReading reads all that an eUICC tells, by every segment size, on the basic
// channel too.
func TestReading(t *testing.T) {
	c := newCard(func(im *appletsim.Image) { im.Runtime.About.DefaultDP = "dp.example.com" })
	for _, segment := range []int{0, 1, 6, 120, 255} {
		e, err := es10.Open(t.Context(), c.Connect(), es10.Options{Segment: segment})
		require.NoError(t, err)
		addresses, err := e.Addresses(t.Context())
		require.NoError(t, err)
		assert.Equal(t, es10.Addresses{DefaultDP: "dp.example.com", RootDS: "ds.example.com"}, addresses)
		one, err := e.Info1(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "2.2.2", one.SVN.String())
		assert.Len(t, one.Signing, 1)
		two, err := e.Info2(t.Context())
		require.NoError(t, err)
		assert.Equal(t, one, two.Info1)
		assert.Equal(t, "2.3.1", two.Profile.String())
		assert.EqualValues(t, 0x80000, two.FreeMemory)
		assert.Equal(t, "CB-TEST-0000", two.Accreditation)
		require.NoError(t, e.Close(t.Context()))
	}
	for _, segment := range []int{-1, 256} {
		_, err := es10.Open(t.Context(), c.Connect(), es10.Options{Segment: segment})
		assert.ErrorContains(t, err, "segments")
	}
}

func TestNotifications(t *testing.T) {
	c := newCard()
	e, err := es10.Open(t.Context(), c.Connect(), es10.Options{})
	require.NoError(t, err)
	require.NoError(t, e.Enable(t.Context(), spare, false))
	require.NoError(t, e.SetDefaultDP(t.Context(), "new.example.com"))
	list, err := e.Notifications(t.Context())
	require.NoError(t, err)
	want := []es10.Notification{
		{Sequence: 1, Event: es10.EventDisable, Address: "dp.example.com", ICCID: &everyday},
		{Sequence: 2, Event: es10.EventEnable, Address: "dp.example.com", ICCID: &spare},
	}
	assert.Equal(t, want, list)
	for i := range want {
		p, err := e.RetrieveNotification(t.Context(), want[i].Sequence)
		require.NoError(t, err)
		assert.Equal(t, want[i], p.Notification)
		assert.Equal(t, byte(0x30), p.Raw[0])
		assert.Greater(t, len(p.Raw), 800, "signature and certificates")
		require.NoError(t, e.RemoveNotification(t.Context(), want[i].Sequence))
		assert.ErrorIs(t, e.RemoveNotification(t.Context(), want[i].Sequence), es10.ErrNothingToDelete)
	}
	_, err = e.RetrieveNotification(t.Context(), 1)
	assert.ErrorIs(t, err, es10.ErrNoResult)
	list, err = e.Notifications(t.Context())
	require.NoError(t, err)
	assert.Empty(t, list)
}

// TestAIDs: each AID is tried in turn.
func TestAIDs(t *testing.T) {
	for _, aid := range es10.ISDRs {
		c := newCard(func(im *appletsim.Image) { im.Runtime.About.ISDR = []appletsim.Hex{unhex(aid)} })
		rep, err := es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: es10.OpDisable})
		require.NoError(t, err)
		assert.Equal(t, aid, rep.ISDR)
	}
	own := "A000000559101001020304"
	c := newCard(func(im *appletsim.Image) { im.Runtime.About.ISDR = []appletsim.Hex{unhex(own)} })
	_, err := es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: es10.OpDisable})
	assert.ErrorIs(t, err, es10.ErrNoISDR)
	_, err = es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: es10.OpDisable, Options: es10.Options{AIDs: append(slices.Clone(es10.ISDRs), own)}})
	require.NoError(t, err)
}

// liar answers from a script, whatever it is asked, and leaves at its end.
type liar struct{ script []byte }

func (l *liar) Transmit(context.Context, []byte) ([]byte, error) {
	if len(l.script) == 0 {
		return nil, apdu.ErrCardRemoved
	}
	n := min(int(l.script[0]), len(l.script)-1)
	answer := l.script[1 : 1+n]
	l.script = l.script[1+n:]
	return bytes.Clone(answer), nil
}

func (l *liar) Reset(context.Context) error {
	if len(l.script) == 0 {
		return apdu.ErrCardRemoved
	}
	return nil
}

func (l *liar) ATR() []byte  { return nil }
func (l *liar) Close() error { return nil }

// FuzzAttempt has a card answer anything: an outcome always follows, and is what
// was read.
func FuzzAttempt(f *testing.F) {
	for op := es10.OpDisable; op <= es10.OpMemoryReset; op++ {
		var script []byte
		w := &way{card: newCard(), spoil: func(_ int, _ []byte, carry func() []byte) ([]byte, error) {
			rapdu := carry()
			script = append(append(script, byte(len(rapdu))), rapdu...)
			return rapdu, nil
		}}
		_, err := es10.Run(context.Background(), es10.Change{Op: op, ICCID: &everyday, Reset: es10.MemoryReset{Test: true}}, es10.Recovery{Open: w.open, Wait: time.Second, Attempts: 1})
		require.NoError(f, err)
		f.Add(script, byte(op))
	}
	f.Fuzz(func(t *testing.T, script []byte, op byte) {
		change := es10.Change{Op: es10.Op(op%5 + 1), ICCID: &everyday, Nickname: "x", BusyWait: 1}
		rep, err := es10.Attempt(context.Background(), &liar{script}, change)
		switch rep.Outcome {
		case card.OutcomeDone, card.OutcomeRefused:
			require.NoError(t, err)
			require.NotNil(t, rep.After)
		case card.OutcomeUnknown:
			require.ErrorIs(t, err, card.ErrOutcomeUnknown)
			require.True(t, rep.Sent)
		default:
			require.Error(t, err)
			require.True(t, !rep.Sent || rep.After != nil)
		}
		if p, there := rep.Profile(); there && rep.Outcome == card.OutcomeDone && change.Op == es10.OpDisable {
			require.Equal(t, es10.Disabled, p.State)
		}
	})
}
