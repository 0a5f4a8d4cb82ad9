package pcsc_test

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// ladder notes the steps of a connection's recoveries.
type ladder struct{ steps []pcsc.Step }

func (l *ladder) options() pcsc.Options {
	return pcsc.Options{MaxWait: 5 * time.Second, OnRecovery: func(s pcsc.Step) { l.steps = append(l.steps, s) }}
}

// took holds which rungs were tried since the last time, and that the last alone
// did it, if any did.
func (l *ladder) took(t *testing.T, done bool, rungs ...pcsc.Rung) {
	t.Helper()
	var tried []pcsc.Rung
	for i, s := range l.steps {
		tried = append(tried, s.Rung)
		assert.Equal(t, done && i == len(l.steps)-1, s.Err == nil, "%s", s)
		assert.NotEmpty(t, s.Reader)
	}
	assert.Equal(t, rungs, tried)
	l.steps = nil
}

func TestRecovery(t *testing.T) {
	p := rig.Start(t, rig.Options{Slots: 1})
	slot := p.Slots()[0]
	sim := insert(t, slot, atrT1)
	inReader(t, slot)
	var l ladder
	c := connect(t, slot, l.options())

	t.Run("a reset does", func(t *testing.T) {
		require.NoError(t, c.Reset(deadline(t)))
		l.took(t, true, pcsc.RungReset)
		require.NoError(t, c.ColdReset(deadline(t)))
		l.took(t, true, pcsc.RungPowerCycle)
		answers(t, c)
	})
	t.Run("card pulled, and inserted again", func(t *testing.T) {
		sim.pull()
		_, err := c.Transmit(deadline(t), hello)
		require.ErrorIs(t, err, apdu.ErrCardRemoved)
		err = c.Reset(deadline(t))
		assert.ErrorIs(t, err, apdu.ErrCardRemoved, "what was wrong at first")
		assert.ErrorIs(t, err, apdu.ErrNoCard, "and at last")
		l.took(t, false, pcsc.RungReconnect)
		_, err = c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		sim.atr = atrBoth
		sim.insert()
		inReader(t, slot)
		require.NoError(t, c.Reset(deadline(t)))
		l.took(t, true, pcsc.RungReconnect)
		assert.Equal(t, atrBoth, c.ATR(), "it may be another card")
		answers(t, c)
	})
	t.Run("card pulled and inserted again, and nobody said so", func(t *testing.T) {
		sim.pull()
		gone(t, raw(t), slot)
		sim.insert()
		inReader(t, slot)
		require.NoError(t, c.Reset(deadline(t)))
		l.took(t, true, pcsc.RungReset)
		answers(t, c)
	})
	t.Run("service restarted", func(t *testing.T) {
		require.NoError(t, p.Kill())
		assert.ErrorIs(t, c.Reset(deadline(t)), pcsc.ErrNoService)
		l.took(t, false, pcsc.RungReset, pcsc.RungReconnect)
		require.NoError(t, p.Restart(deadline(t)))
		inReader(t, slot)
		require.NoError(t, c.Reset(deadline(t)))
		l.took(t, true, pcsc.RungReconnect)
		answers(t, c)
	})
	t.Run("a call that nobody waits for", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := c.Transmit(ctx, []byte{0, insMute, 0, 0})
		require.ErrorIs(t, err, apdu.ErrTimeout)
		err = c.Reset(deadline(t))
		assert.ErrorIs(t, err, pcsc.ErrStuck)
		assert.NotErrorIs(t, err, context.DeadlineExceeded, "at once")
		l.took(t, false, pcsc.RungReconnect)
		sim.pull()
		noneLeft(t)
		sim.insert()
		inReader(t, slot)
		require.NoError(t, c.Reset(deadline(t)))
		l.took(t, true, pcsc.RungReconnect)
		answers(t, c)
	})
	t.Run("another program holds the reader", func(t *testing.T) {
		other := connect(t, slot, pcsc.Options{MaxWait: 20 * time.Second})
		require.NoError(t, other.Begin(deadline(t)))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		assert.Error(t, c.Reset(ctx))
		assert.Len(t, l.steps, 1, "it climbs no further")
		l.steps = nil
		require.NoError(t, other.End(deadline(t)))
		answers(t, other)
		noneLeft(t)
		require.NoError(t, c.Reset(deadline(t)))
		l.steps = nil
		answers(t, c)
	})
	t.Run("exclusive", func(t *testing.T) {
		require.NoError(t, c.Close())
		o := l.options()
		o.Mode = reader.Exclusive
		c := connect(t, slot, o)
		sim.pull()
		_, err := c.Transmit(deadline(t), hello)
		require.ErrorIs(t, err, apdu.ErrCardRemoved)
		gone(t, raw(t), slot)
		sim.insert()
		inReader(t, slot)
		require.NoError(t, c.Reset(deadline(t)), "what it held before is no obstacle")
		answers(t, c)
		_, err = pcsc.New().Open(deadline(t), slot.Reader, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrCardBusy)
		l.steps = nil
		require.NoError(t, c.Close())
		assert.ErrorIs(t, c.Reset(deadline(t)), os.ErrClosed)
		assert.ErrorIs(t, c.ColdReset(deadline(t)), os.ErrClosed)
		assert.Empty(t, l.steps)
	})
}

// sulky is a card that answers to a warm reset with more than a card may, until
// it has lost its power.
type sulky struct{ sulks atomic.Bool }

func (s *sulky) ATR() []byte {
	if s.sulks.Load() {
		return make([]byte, 40)
	}
	return atrT1
}

func (s *sulky) Power(on bool)         { s.sulks.Store(s.sulks.Load() && on) }
func (s *sulky) Reset()                { s.sulks.Store(true) }
func (*sulky) Process(b []byte) []byte { return append(append([]byte(nil), b...), 0x90, 0) }

func TestRecoveryByPowerCycle(t *testing.T) {
	slot := rig.Start(t, rig.Options{Slots: 1}).Slots()[0]
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- vpcd.Serve(ctx, slot.Addr, &sulky{}) }()
	t.Cleanup(func() {
		cancel()
		assert.ErrorIs(t, <-served, context.Canceled)
	})
	inReader(t, slot)
	var l ladder
	c := connect(t, slot, l.options())
	require.NoError(t, c.Reset(deadline(t)))
	l.took(t, true, pcsc.RungReset, pcsc.RungPowerCycle)
	answers(t, c)
}
