package appletsim

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

func TestConn(t *testing.T) {
	c := newCard(t, testImage(t))
	conn := c.Connect()
	assert.Equal(t, c.ATR(), conn.ATR())
	ctx := t.Context()

	ch := apdu.BasicChannel(conn)
	data, sw, err := ch.Transmit(ctx, apdu.Command{INS: insSelect, P1: 4, Data: appletID, Ne: ch.MaxNe()})
	require.NoError(t, err)
	assert.Equal(t, apdu.SWSuccess, sw)
	assert.Equal(t, selectResponse, hexBytes(data))

	r, err := conn.Transmit(ctx, unhex(getEID))
	require.NoError(t, err)
	assert.Equal(t, eidResponse+"9000", hexBytes(r))

	over, cancel := context.WithCancel(ctx)
	cancel()
	_, err = conn.Transmit(over, unhex(getEID))
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, conn.Reset(over), context.Canceled)

	other := c.Connect()
	r, err = other.Transmit(ctx, unhex(getEID))
	require.NoError(t, err)
	assert.Equal(t, eidResponse+"9000", hexBytes(r), "shared: what the one selected the other sees")

	require.NoError(t, other.Reset(ctx))
	_, err = conn.Transmit(ctx, unhex(getEID))
	assert.ErrorIs(t, err, apdu.ErrCardReset)
	assert.ErrorIs(t, conn.Reset(ctx), apdu.ErrCardReset)
	r, err = other.Transmit(ctx, unhex(getEID))
	require.NoError(t, err)
	assert.Equal(t, "6985", hexBytes(r))

	require.NoError(t, other.Close())
	_, err = other.Transmit(ctx, unhex(getEID))
	assert.ErrorIs(t, err, apdu.ErrTransport)
}

func TestConnRemoved(t *testing.T) {
	ctx := t.Context()
	c := newCard(t, testImage(t))
	before := c.Connect()
	c.Remove()
	left, away := c.Away()
	assert.True(t, away)
	assert.Zero(t, left)
	during := c.Connect()
	for _, conn := range []*Conn{before, during} {
		_, err := conn.Transmit(ctx, unhex(getEID))
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
	}
	c.Insert()
	for _, conn := range []*Conn{before, during} {
		_, err := conn.Transmit(ctx, unhex(getEID))
		assert.ErrorIs(t, err, apdu.ErrCardRemoved, "a new Conn is needed")
		assert.ErrorIs(t, conn.Reset(ctx), apdu.ErrCardRemoved)
	}
	r, err := c.Connect().Transmit(ctx, unhex(getEID))
	require.NoError(t, err)
	assert.Equal(t, "6985", hexBytes(r))
}

func TestConnLostAnswer(t *testing.T) {
	ctx := t.Context()
	c := newCard(t, testImage(t))
	c.Inject(Fault{Write: 1, Kind: CutAfter, Away: 20 * time.Millisecond})
	m := newTerminal(t, c)
	data := order{1, eleven, nil, 0x100}.data()
	m.authenticate(1, insDeactivate, data)
	capdu, err := apdu.Command{CLA: 0x8C, INS: insDeactivate, Data: m.sm.Wrap(insDeactivate, 0, 0, data), Ne: 256}.AppendBinary(nil)
	require.NoError(t, err)
	_, err = c.Connect().Transmit(ctx, capdu)
	require.ErrorIs(t, err, apdu.ErrCardRemoved)
	assert.Equal(t, Disabled, c.Image().Profiles[0].State)
	require.Eventually(t, func() bool {
		_, err := c.Connect().Transmit(ctx, unhex(getEID))
		return err == nil
	}, time.Minute, time.Millisecond, "it comes back by itself")
}

func TestConnWithoutPower(t *testing.T) {
	c := newCard(t, testImage(t))
	c.Power(false)
	assert.Nil(t, c.Process(unhex(getEID)))
	_, err := c.Connect().Transmit(t.Context(), unhex(getEID))
	assert.ErrorIs(t, err, apdu.ErrCardRemoved)
	c.Power(true)
	run(t, c, step{selectApplet, "…9000"})
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	c := newCard(t, testImage(t))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				conn := c.Connect()
				_, _ = conn.Transmit(context.Background(), unhex(selectApplet))
				_ = conn.Reset(context.Background())
				c.Remove()
				c.Insert()
				_ = c.Process(unhex(getEID))
				_ = c.Image()
				_, _ = c.Away()
			}
		})
	}
	wg.Wait()
	run(t, c, step{selectApplet, "…9000"}, step{getEID, eidResponse + "9000"})
}
