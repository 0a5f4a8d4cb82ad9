package appletsim

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
)

// TestFaultsOfTheImage: they are armed whenever a card is made, and stay in the
// image.
func TestFaultsOfTheImage(t *testing.T) {
	im := testImage(t)
	im.Runtime = &Runtime{Faults: []Fault{{Kind: fault.Refuse, APDU: 2, SW: 0x6F00}}}
	b, err := im.Marshal()
	require.NoError(t, err)
	im, err = ParseImage(b)
	require.NoError(t, err)
	for range 2 {
		var strikes []fault.Strike
		c := newCard(t, im, WithFaults(Fault{Kind: fault.WrongSW, APDU: 3, SW: 0x6400}), OnFault(func(s fault.Strike) { strikes = append(strikes, s) }))
		run(t, c, step{selectApplet, "…9000"}, step{getEID, "6F00"}, step{getEID, eidResponse + "6400"}, step{getEID, eidResponse + "9000"})
		assert.Equal(t, im, c.Image())
		require.Len(t, strikes, 2)
		assert.Equal(t, "CA", strikes[0].INS)
		assert.Empty(t, c.Faults())
	}
	_, err = New(im, WithFaults(Fault{Kind: "explodes"}))
	require.ErrorIs(t, err, fault.ErrInvalid)
	_, err = ParseImage(bytes.Replace(b, []byte(`"6F00"`), []byte(`"6F"`), 1))
	require.ErrorIs(t, err, ErrImage)
	require.ErrorIs(t, err, fault.ErrInvalid)
}

// TestTornWrite cuts the power at every byte of a write to a file: whoever opens
// the file then, and the card itself, finds it as it was, and after the last
// byte as it should be.
func TestTornWrite(t *testing.T) {
	path := writeImage(t, testImage(t))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	next := testImage(t)
	next.EventCounter++
	after, err := next.Marshal()
	require.NoError(t, err)
	c := open(t, path)
	for n := 0; n <= len(after)+1; n += 1 + min(len(after)/97, max(0, len(after)-1-n)) {
		require.NoError(t, os.WriteFile(path, before, 0o600))
		want, counter := before, uint32(0x100)
		if n > len(after) {
			want, counter = after, 0x101
		}
		held, err := c.tear(next, n)
		require.NoError(t, err)
		assert.Equal(t, counter, held.EventCounter, "byte %d of %d", n, len(after))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "byte %d of %d", n, len(after))
		_, err = ParseImage(got)
		require.NoError(t, err)
	}
	// What is left beside is no obstacle to the next write.
	_, err = c.tear(next, 10)
	require.NoError(t, err)
	require.NoError(t, c.persist(next))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(after), string(got))
}

// TestTornDeactivation: the card comes back as its file is, and the operation
// goes on from there.
func TestTornDeactivation(t *testing.T) {
	for _, tt := range []struct {
		bytes int
		done  bool
	}{{0, false}, {100, false}, {1 << 20, true}} {
		c := open(t, writeImage(t, testImage(t)))
		m := newTerminal(t, c)
		data := order{1, eleven, nil, 0x100}.data()
		m.authenticate(1, insDeactivate, data)
		_, err := c.Inject(Fault{Kind: fault.CutTorn, Bytes: tt.bytes, INS: []byte{insDeactivate}})
		require.NoError(t, err)
		capdu, err := apdu.Command{CLA: 0x8C, INS: insDeactivate, Data: m.sm.Wrap(insDeactivate, 0, 0, data), Ne: 256}.AppendBinary(nil)
		require.NoError(t, err)
		assert.Nil(t, c.Process(capdu))
		_, away := c.Away()
		assert.True(t, away)
		assert.Equal(t, tt.done, c.Image().EventCounter == 0x101)
		c.Insert()
		m = newTerminal(t, c)
		m.authenticate(1, insDeactivate, data)
		_, sw := m.secured(insDeactivate, data)
		assert.Equal(t, apdu.SWSuccess, sw)
		assert.Equal(t, uint32(0x101), c.Image().EventCounter)
	}
}

func TestWornOutMemory(t *testing.T) {
	c := newCard(t, testImage(t), WithFaults(Fault{Kind: fault.WornOut, Write: 2}))
	for _, want := range []apdu.StatusWord{apdu.SWAuthenticationFailed, apdu.SWMemoryFailure, apdu.SWMemoryFailure} {
		m := newTerminal(t, c)
		m.internal(1)
		assert.Equal(t, want, m.external(make([]byte, 352)))
	}
	assert.EqualValues(t, 1, c.Image().failures(1))
}

func TestChangedATR(t *testing.T) {
	c := newCard(t, testImage(t), WithFaults(Fault{Kind: fault.ATR, Reset: 2, Times: 1, ATR: []byte{0x3B, 0x00}}))
	usual := c.ATR()
	c.Reset()
	assert.Equal(t, usual, c.ATR())
	c.Power(false)
	c.Power(true)
	assert.Equal(t, []byte{0x3B, 0x00}, c.ATR())
	c.Remove()
	c.Insert()
	assert.Equal(t, usual, c.ATR())
	_, _, resets := c.Counts()
	assert.Equal(t, 3, resets)
}

// TestConnFaults: what a reader's user sees of a card that answers late, never,
// or leaves.
func TestConnFaults(t *testing.T) {
	ctx := t.Context()
	c := newCard(t, testImage(t))
	conn := c.Connect()
	inject := func(f Fault) {
		_, err := c.Inject(f)
		require.NoError(t, err)
	}
	inject(Fault{Kind: fault.Late, Delay: 30 * time.Millisecond})
	start := time.Now()
	_, err := conn.Transmit(ctx, unhex(selectApplet))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(start), 30*time.Millisecond)

	inject(Fault{Kind: fault.Lost})
	_, err = conn.Transmit(ctx, unhex(getEID))
	require.ErrorIs(t, err, apdu.ErrTimeout)

	inject(Fault{Kind: fault.Mute, Until: fault.UntilReset})
	soon, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err = conn.Transmit(soon, unhex(getEID))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, conn.Reset(ctx))
	_, err = conn.Transmit(ctx, unhex(selectApplet))
	require.NoError(t, err)

	inject(Fault{Kind: fault.Late, Delay: time.Hour})
	went := make(chan error)
	go func() {
		_, err := conn.Transmit(ctx, unhex(getEID))
		went <- err
	}()
	require.Eventually(t, func() bool { apdus, _, _ := c.Counts(); return apdus == 5 }, 10*time.Second, time.Millisecond)
	c.Remove()
	assert.ErrorIs(t, <-went, apdu.ErrCardRemoved, "it leaves while its answer is awaited, which nobody waits for then")
	c.Insert()

	for _, kind := range []fault.Kind{fault.RemoveBefore, fault.RemoveAfter} {
		inject(Fault{Kind: kind, Away: time.Millisecond})
		_, err = c.Connect().Transmit(ctx, unhex(getEID))
		require.ErrorIs(t, err, apdu.ErrCardRemoved)
		require.Eventually(t, func() bool { _, away := c.Away(); return !away }, 10*time.Second, time.Millisecond)
	}
	assert.False(t, c.ClearFault(0))
	assert.True(t, c.Powered())
}

// FuzzFaults sends commands to a card that has any faults: it answers, or it
// does not, and its memory stays a card image.
func FuzzFaults(f *testing.F) {
	f.Add([]byte(`{"kind":"flip","bits":9,"seed":3,"times":-1}`), unhex(selectApplet))
	f.Add([]byte(`{"kind":"flip-command","bits":9,"seed":3,"times":-1,"probability":0.5}`), unhex(selectApplet))
	f.Add([]byte(`{"kind":"partial","bytes":1}`), unhex(getEID))
	f.Add([]byte(`{"kind":"cut-torn","bytes":1000}`), unhex("0082010100"))
	f.Fuzz(func(t *testing.T, text, capdu []byte) {
		fa, err := fault.Parse(text)
		if err != nil || fa.Delay > 0 || fa.Timing != nil {
			return
		}
		c := newCard(t, testImage(t))
		_, err = c.Inject(fa)
		require.NoError(t, err)
		for range 3 {
			c.Process(unhex(selectApplet))
			c.Process(capdu)
			c.Reset()
			c.Insert()
		}
		b, err := c.Image().Marshal()
		require.NoError(t, err)
		_, err = ParseImage(b)
		require.NoError(t, err)
	})
}

// TestRestore: a card can be put back to what it was, as it was then, and to
// nothing else.
func TestRestore(t *testing.T) {
	c := open(t, writeImage(t, testImage(t)))
	was := c.Image()
	m := newTerminal(t, c)
	m.do(1, insDeactivate, order{1, eleven, nil, 0x100}.data())
	c.Remove()
	require.NoError(t, c.Restore(was))
	assert.Equal(t, was, c.Image())
	run(t, c, step{getEID, "6985"}, step{selectApplet, "…9000"})
	held, err := c.store.(*FileStore).load()
	require.NoError(t, err)
	want, err := was.Marshal()
	require.NoError(t, err)
	assert.Equal(t, string(want), string(held))

	for _, spoil := range []func(*Image){
		func(im *Image) { im.EID[5] ^= 1 },
		func(im *Image) { im.Keys.Auth[0] = im.Keys.Enc },
		func(im *Image) { im.Suites = []int{1} },
		func(im *Image) { im.ServerKeySets = im.ServerKeySets[:1] },
		func(im *Image) { im.Profiles[1].State = Enabled },
		func(im *Image) { im.Runtime = &Runtime{About: &EUICC{Plain: true}} },
	} {
		im := was.clone()
		spoil(im)
		require.ErrorIs(t, c.Restore(im), ErrImage)
	}
	assert.Equal(t, was, c.Image())
}
