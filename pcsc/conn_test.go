package pcsc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func TestConnect(t *testing.T) {
	slots := rig.Start(t, rig.Options{Slots: 4}).Slots()
	both, zero, one, empty := slots[0], slots[1], slots[2], slots[3]
	insert(t, both, atrBoth)
	insert(t, zero, atrT0)
	sim := insert(t, one, atrT1)
	for _, s := range slots[:3] {
		inReader(t, s)
	}
	src := pcsc.New()

	t.Run("list", func(t *testing.T) {
		readers, err := src.Readers(deadline(t))
		require.NoError(t, err)
		assert.Equal(t, []reader.Reader{
			{Name: both.Reader, ID: "name:" + both.Reader, Card: true, ATR: atrBoth},
			{Name: zero.Reader, ID: "name:" + zero.Reader, Card: true, ATR: atrT0},
			{Name: one.Reader, ID: "name:" + one.Reader, Card: true, ATR: atrT1},
			{Name: empty.Reader, ID: "name:" + empty.Reader},
		}, readers)
	})
	t.Run("protocol", func(t *testing.T) {
		for _, c := range []struct {
			slot      rig.Slot
			want, got pcsc.Protocol
		}{
			{both, pcsc.T1, pcsc.T1}, {zero, pcsc.T0, pcsc.T0}, {one, pcsc.T1, pcsc.T1},
			{both, pcsc.AnyProtocol, pcsc.T1}, {zero, pcsc.AnyProtocol, pcsc.T0}, {one, pcsc.AnyProtocol, pcsc.T1},
		} {
			conn, err := src.Connect(deadline(t), c.slot.Reader, pcsc.Options{Protocol: c.want, OnClose: pcsc.ResetCard})
			require.NoError(t, err, "%s %s", c.slot.Reader, c.want)
			assert.Equal(t, c.got, conn.Protocol())
			assert.Equal(t, c.got == pcsc.T0, conn.ShortOnly())
			answers(t, conn)
			require.NoError(t, conn.Close())
		}
	})
	t.Run("protocol mismatch", func(t *testing.T) {
		_, err := src.Connect(deadline(t), one.Reader, pcsc.Options{Protocol: pcsc.T0})
		assert.ErrorIs(t, err, pcsc.CodeProtoMismatch)
		assert.ErrorIs(t, err, apdu.ErrTransport)
		c := connect(t, both, pcsc.Options{Protocol: pcsc.T0, OnClose: pcsc.ResetCard})
		_, err = src.Connect(deadline(t), both.Reader, pcsc.Options{Protocol: pcsc.T1})
		assert.ErrorIs(t, err, pcsc.CodeProtoMismatch, "a program that uses T=0 is there first")
		follows := connect(t, both, pcsc.Options{})
		assert.Equal(t, pcsc.T0, follows.Protocol())
		answers(t, c)
	})
	t.Run("exclusive", func(t *testing.T) {
		c, err := src.Open(deadline(t), one.Reader, reader.Exclusive)
		require.NoError(t, err)
		_, err = src.Open(deadline(t), one.Reader, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrCardBusy)
		readers, err := src.Readers(deadline(t))
		require.NoError(t, err)
		assert.True(t, readers[2].Exclusive)
		require.NoError(t, c.Close())

		shared, err := src.Open(deadline(t), one.Reader, reader.Shared)
		require.NoError(t, err)
		_, err = src.Open(deadline(t), one.Reader, reader.Exclusive)
		assert.ErrorIs(t, err, apdu.ErrCardBusy)
		second, err := src.Open(deadline(t), one.Reader, reader.Shared)
		require.NoError(t, err)
		require.NoError(t, second.Close())
		require.NoError(t, shared.Close())
	})
	t.Run("nothing to connect to", func(t *testing.T) {
		_, err := src.Open(deadline(t), empty.Reader, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoCard)
		_, err = src.Open(deadline(t), "Virtual PCD", reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoReader)
		var failed *pcsc.Error
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, "connect", failed.Op)
		assert.Equal(t, "Virtual PCD", failed.Reader)
	})
	t.Run("transaction", func(t *testing.T) {
		a, b := connect(t, one, pcsc.Options{}), connect(t, one, pcsc.Options{})
		require.NoError(t, a.Begin(deadline(t)))
		answers(t, a)
		answered, begun := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := b.Transmit(context.WithoutCancel(t.Context()), []byte{0, insSum, 0, 0})
			answered <- err
			begun <- b.Begin(context.WithoutCancel(t.Context()))
		}()
		answers(t, a)
		assert.Equal(t, hello, sim.last(), "b's waits")
		require.NoError(t, a.End(deadline(t)))
		require.NoError(t, <-answered)
		require.NoError(t, <-begun)
		answers(t, b)

		ctx, cancel := context.WithTimeout(deadline(t), 50*time.Millisecond)
		defer cancel()
		err := a.Begin(ctx)
		assert.ErrorIs(t, err, apdu.ErrTimeout)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, b.End(deadline(t)))
		answers(t, b)
	})
	t.Run("reset by another", func(t *testing.T) {
		a, b := connect(t, one, pcsc.Options{}), connect(t, one, pcsc.Options{})
		for _, reset := range []func(context.Context) error{b.Reset, b.ColdReset} {
			require.NoError(t, reset(deadline(t)))
			answers(t, b)
			_, err := a.Transmit(deadline(t), hello)
			assert.ErrorIs(t, err, apdu.ErrCardReset)
			_, err = a.Transmit(deadline(t), hello)
			assert.ErrorIs(t, err, apdu.ErrCardReset)
			require.NoError(t, a.Reset(deadline(t)))
			answers(t, a)
			assert.Equal(t, atrT1, a.ATR())
			require.NoError(t, b.Reset(deadline(t)))
			require.NoError(t, a.Reset(deadline(t)))
			require.NoError(t, b.Reset(deadline(t)))
		}
	})
	t.Run("powered off by another", func(t *testing.T) {
		a := connect(t, one, pcsc.Options{})
		b := connect(t, one, pcsc.Options{OnClose: pcsc.UnpowerCard})
		require.NoError(t, b.Close())
		_, err := a.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, apdu.ErrCardReset)
		require.NoError(t, a.Reset(deadline(t)))
		answers(t, a)
	})
	t.Run("closed", func(t *testing.T) {
		c, err := src.Connect(deadline(t), one.Reader, pcsc.Options{})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, c.Close())
		_, err = c.Transmit(deadline(t), hello)
		assert.Error(t, err)
		assert.Error(t, c.Reset(deadline(t)))
	})
	t.Run("context that has ended", func(t *testing.T) {
		c := connect(t, one, pcsc.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Transmit(ctx, hello)
		assert.ErrorIs(t, err, context.Canceled)
		assert.NotErrorIs(t, err, apdu.ErrTimeout, "nothing was sent")
		answers(t, c)
		_, err = src.Open(ctx, one.Reader, reader.Shared)
		assert.ErrorIs(t, err, context.Canceled)

		other := connect(t, one, pcsc.Options{})
		_, err = c.Transmit(ctx, hello)
		require.Error(t, err)
		require.NoError(t, c.Close())
		answers(t, other) // nothing was sent: the card keeps its power
	})
}

func TestTransmit(t *testing.T) {
	slots := rig.Start(t, rig.Options{Slots: 2}).Slots()
	insert(t, slots[0], atrT1)
	simT0 := insert(t, slots[1], atrT0)
	inReader(t, slots[0])
	inReader(t, slots[1])
	c := connect(t, slots[0], pcsc.Options{})

	t.Run("lengths", func(t *testing.T) {
		for _, n := range []int{0, 1, 255, 256, 65526} {
			capdu, err := apdu.Command{INS: insSum, Data: make([]byte, n)}.AppendBinary(nil)
			require.NoError(t, err)
			rapdu, err := c.Transmit(deadline(t), capdu)
			require.NoError(t, err, n)
			assert.Equal(t, append(binary.BigEndian.AppendUint32(nil, uint32(len(capdu))), 0x90, 0), rapdu)
		}
		for _, n := range []uint32{2, 258, 65535} {
			capdu, err := apdu.Command{INS: insLong, Data: binary.BigEndian.AppendUint32(nil, n)}.AppendBinary(nil)
			require.NoError(t, err)
			rapdu, err := c.Transmit(deadline(t), capdu)
			require.NoError(t, err, n)
			assert.Len(t, rapdu, int(n))
		}
	})
	t.Run("no command", func(t *testing.T) {
		for _, capdu := range [][]byte{nil, {}, {0}, {0, 0xA4, 0}, make([]byte, 65545)} {
			_, err := c.Transmit(deadline(t), capdu)
			assert.ErrorIs(t, err, apdu.ErrMalformed, "%d bytes", len(capdu))
		}
		answers(t, c)
	})
	t.Run("short answer", func(t *testing.T) {
		_, err := c.Transmit(deadline(t), []byte{0, insShort, 0, 0})
		assert.ErrorIs(t, err, apdu.ErrShortAnswer)
		assert.ErrorIs(t, err, apdu.ErrTransport)
		answers(t, c)
	})
	t.Run("T=0 has no case 4", func(t *testing.T) {
		c := connect(t, slots[1], pcsc.Options{})
		for _, v := range []struct{ capdu, wire []byte }{
			{[]byte{0, 0xA4, 4, 0}, []byte{0, 0xA4, 4, 0}},
			{[]byte{0, 0xA4, 4, 0, 0}, []byte{0, 0xA4, 4, 0, 0}},
			{[]byte{0, 0xA4, 4, 0, 1, 0xAA}, []byte{0, 0xA4, 4, 0, 1, 0xAA}},
			{[]byte{0, 0xA4, 4, 0, 1, 0xAA, 0}, []byte{0, 0xA4, 4, 0, 1, 0xAA}},
			{[]byte{0, 0xA4, 4, 0, 2, 0xAA, 0xBB, 5}, []byte{0, 0xA4, 4, 0, 2, 0xAA, 0xBB}},
		} {
			_, err := c.Transmit(deadline(t), v.capdu)
			require.NoError(t, err)
			assert.Equal(t, v.wire, simT0.last())
		}
	})
}

func TestCardLeaves(t *testing.T) {
	slot := rig.Start(t, rig.Options{Slots: 1}).Slots()[0]
	sim := insert(t, slot, atrT1)
	inReader(t, slot)

	t.Run("in mid-exchange", func(t *testing.T) {
		c := connect(t, slot, pcsc.Options{})
		_, err := c.Transmit(deadline(t), []byte{0, insPull, 0, 0})
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		_, err = c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		assert.ErrorIs(t, c.Reset(deadline(t)), apdu.ErrCardRemoved)
	})
	t.Run("and comes back", func(t *testing.T) {
		inReader(t, slot)
		answers(t, connect(t, slot, pcsc.Options{}))
	})
	t.Run("between exchanges", func(t *testing.T) {
		c := connect(t, slot, pcsc.Options{})
		answers(t, c)
		sim.pull()
		_, err := c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		sim.insert()
		inReader(t, slot)
		_, err = c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved, "a connection from before stays dead")
		answers(t, connect(t, slot, pcsc.Options{}))
	})
}

func TestCardThatNeverAnswers(t *testing.T) {
	slots := rig.Start(t, rig.Options{Slots: 2}).Slots()
	sim := insert(t, slots[0], atrT1)
	insert(t, slots[1], atrT1)
	inReader(t, slots[0])
	inReader(t, slots[1])
	mute := []byte{0, insMute, 0, 0}

	other := connect(t, slots[1], pcsc.Options{})
	c := connect(t, slots[0], pcsc.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := c.Transmit(ctx, mute)
	assert.ErrorIs(t, err, apdu.ErrTimeout)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.Transmit(t.Context(), hello)
	assert.ErrorIs(t, err, apdu.ErrTimeout, "dead at once")
	assert.ErrorIs(t, c.Reset(t.Context()), apdu.ErrTimeout)
	assert.NoError(t, c.Close())
	answers(t, other)

	// The reader is stuck: a connect is too, and returns in time.
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = pcsc.New().Connect(ctx, slots[0].Reader, pcsc.Options{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	readers, err := pcsc.New().Readers(deadline(t))
	require.NoError(t, err)
	assert.Len(t, readers, 2)

	// The card dies: the reader is free again.
	sim.pull()
	answers(t, other)
	sim.insert()
	again := eventually(t, pcsc.New(), slots[0])
	answers(t, again)

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err := again.Transmit(ctx, mute)
		assert.ErrorIs(t, err, apdu.ErrTimeout)
		assert.ErrorIs(t, err, context.Canceled)
		sim.pull()
		sim.insert()
		again = eventually(t, pcsc.New(), slots[0])
	})
	t.Run("without a deadline", func(t *testing.T) {
		c := connect(t, slots[0], pcsc.Options{MaxWait: 100 * time.Millisecond})
		_, err := c.Transmit(context.Background(), mute)
		assert.ErrorIs(t, err, apdu.ErrTimeout)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		sim.pull()
	})
	noneLeft(t)
}

// left is how many calls to readers go on that nobody waits for.
func left() int {
	stacks := make([]byte, 1<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("pcsc.(*Source).await"))
}

func noneLeft(t *testing.T) {
	t.Helper()
	leaves(t, 0)
}

// leaves holds that so many calls go on that nobody waits for.
func leaves(t *testing.T, n int) {
	t.Helper()
	assert.Eventually(t, func() bool { return left() == n }, 20*time.Second, 10*time.Millisecond,
		"%d calls that nobody waits for, and they end with what they wait for", n)
}

// entries is how many a directory has; what cannot be read has none.
func entries(dir string) int {
	e, _ := os.ReadDir(dir)
	return len(e)
}

// A stuck reader costs one call, however often it is tried, and nobody else
// anything.
func TestStuckReader(t *testing.T) {
	noneLeft(t)
	slots := rig.Start(t, rig.Options{Slots: 2}).Slots()
	sim := insert(t, slots[0], atrT1)
	insert(t, slots[1], atrT1)
	inReader(t, slots[0])
	inReader(t, slots[1])
	src, another := pcsc.New(), pcsc.New()
	connecting := func(src *pcsc.Source) error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		c, err := src.Open(ctx, slots[0].Reader, reader.Shared)
		if err == nil {
			err = c.Close()
		}
		return err
	}

	c, err := src.Connect(deadline(t), slots[0].Reader, pcsc.Options{MaxWait: 50 * time.Millisecond})
	require.NoError(t, err)
	_, err = c.Transmit(t.Context(), []byte{0, insMute, 0, 0})
	require.ErrorIs(t, err, apdu.ErrTimeout)
	require.NoError(t, c.Close())
	assert.NotErrorIs(t, connecting(another), pcsc.ErrStuck, "a connect that hangs counts too")
	leaves(t, 2)

	threads, files := entries("/proc/self/task"), entries("/proc/self/fd")
	const attempts = 40
	for range attempts {
		for _, s := range []*pcsc.Source{src, another} {
			err := connecting(s)
			assert.ErrorIs(t, err, pcsc.ErrStuck)
			assert.ErrorIs(t, err, apdu.ErrTimeout)
			assert.NotErrorIs(t, err, context.DeadlineExceeded, "at once")
		}
	}
	leaves(t, 2)
	assert.Less(t, entries("/proc/self/task"), threads+attempts/2)
	assert.Less(t, entries("/proc/self/fd"), files+attempts/2, "each context is a socket, and a thread of pcscd")

	for range 3 {
		other, err := src.Connect(deadline(t), slots[1].Reader, pcsc.Options{})
		require.NoError(t, err)
		answers(t, other)
		require.NoError(t, other.Close())
	}
	readers, err := src.Readers(deadline(t))
	require.NoError(t, err)
	assert.Len(t, readers, 2)

	sim.pull()
	sim.insert()
	for _, s := range []*pcsc.Source{src, another} {
		answers(t, eventually(t, s, slots[0]))
	}
	noneLeft(t)
}

// A service that takes connections and never answers costs one call too.
func TestStuckService(t *testing.T) {
	noneLeft(t)
	const socket = "/run/pcscd/pcscd.comm"
	_ = os.Remove(socket) // the last pcscd's
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if assert.NoError(t, err) {
			accepted <- c
		}
	}()
	src := pcsc.New()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := src.Readers(ctx)
		assert.ErrorIs(t, err, apdu.ErrTimeout)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = src.Open(ctx, "R", reader.Shared)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
	}
	leaves(t, 1)

	require.NoError(t, (<-accepted).Close())
	require.NoError(t, l.Close())
	noneLeft(t)
	slot := rig.Start(t, rig.Options{Slots: 1}).Slots()[0]
	insert(t, slot, atrT1)
	answers(t, eventually(t, src, slot))
}

// eventually connects a card that answers, however often the reader still has to
// notice that the last one has gone.
func eventually(t *testing.T, src *pcsc.Source, slot rig.Slot) *pcsc.Conn {
	t.Helper()
	for ctx := deadline(t); ; {
		_, err := src.WaitCard(ctx, slot.Reader)
		require.NoError(t, err)
		c, err := src.Connect(ctx, slot.Reader, pcsc.Options{})
		if err == nil {
			if _, err = c.Transmit(ctx, hello); err == nil {
				t.Cleanup(func() { assert.NoError(t, c.Close()) })
				return c
			}
			require.NoError(t, c.Close())
		}
		require.False(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
		select {
		case <-ctx.Done():
			require.NoError(t, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestServiceDies(t *testing.T) {
	p := rig.Start(t, rig.Options{Slots: 1})
	slot := p.Slots()[0]
	insert(t, slot, atrT1)
	inReader(t, slot)
	c := connect(t, slot, pcsc.Options{})
	require.NoError(t, p.Kill())
	_, err := c.Transmit(deadline(t), hello)
	assert.ErrorIs(t, err, pcsc.ErrNoService)
	assert.ErrorIs(t, err, apdu.ErrTransport)
	_, err = pcsc.New().Readers(deadline(t))
	assert.ErrorIs(t, err, pcsc.ErrNoService)
	_, err = pcsc.New().Open(deadline(t), slot.Reader, reader.Shared)
	assert.ErrorIs(t, err, pcsc.ErrNoService)

	require.NoError(t, p.Restart(deadline(t)))
	_, err = c.Transmit(deadline(t), hello)
	assert.ErrorIs(t, err, pcsc.ErrNoService, "a connection from before stays dead")
	inReader(t, slot)
	answers(t, connect(t, slot, pcsc.Options{}))
}
