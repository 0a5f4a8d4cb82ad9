package pcsc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// raw is PC/SC without a Conn, for the test.
func raw(t *testing.T) pcsc.Raw {
	r, err := pcsc.EstablishRaw()
	require.NoError(t, err)
	t.Cleanup(r.Release)
	return r
}

func connectRaw(t *testing.T, slot rig.Slot) pcsc.Raw {
	r := raw(t)
	require.NoError(t, r.Connect(slot.Reader, false, pcsc.T1))
	return r
}

// TestScardTable holds what PC/SC shows for each event, and what a Conn makes of
// it: an error that says what happened.
func TestScardTable(t *testing.T) {
	p := rig.Start(t, rig.Options{Slots: 4})
	slot, zero, empty, partial := p.Slots()[0], p.Slots()[1], p.Slots()[2], p.Slots()[3]
	sim := insert(t, slot, atrT1)
	insert(t, zero, atrT0)
	inReader(t, slot)
	inReader(t, zero)
	src := pcsc.New()
	pull := []byte{0, insPull, 0, 0}

	t.Run("card dies during a transmit: no error and no bytes", func(t *testing.T) {
		r := connectRaw(t, slot)
		rapdu, err := r.Transmit(pull)
		assert.NoError(t, err)
		assert.Empty(t, rapdu)
		t.Run("the next: not transacted, then removed", func(t *testing.T) {
			_, err := r.Transmit(hello)
			assert.ErrorIs(t, err, pcsc.CodeNotTransacted)
			gone(t, r, slot)
			_, err = r.Transmit(hello)
			assert.ErrorIs(t, err, pcsc.CodeRemovedCard)
		})
		t.Run("the old handle after a re-insertion: removed", func(t *testing.T) {
			inReader(t, slot)
			_, err := r.Transmit(hello)
			assert.ErrorIs(t, err, pcsc.CodeRemovedCard)
			require.NoError(t, r.Reconnect(), "but for this: the card may be another")
			_, err = r.Transmit(hello)
			assert.NoError(t, err)
			require.NoError(t, r.Disconnect(pcsc.LeaveCard))
		})
		c := connect(t, slot, pcsc.Options{})
		_, err = c.Transmit(deadline(t), pull)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		assert.ErrorIs(t, err, apdu.ErrShortAnswer)
		for range 2 {
			_, err = c.Transmit(deadline(t), hello)
			assert.ErrorIs(t, err, apdu.ErrCardRemoved)
			inReader(t, slot)
		}
	})
	t.Run("card dies during a transmit: a partial answer", func(t *testing.T) {
		leave := brokenCard(t, partial)
		inReader(t, partial)
		c := connect(t, partial, pcsc.Options{})
		_, err := c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, apdu.ErrTransport, "one byte of three is no answer")
		assert.ErrorIs(t, err, apdu.ErrShortAnswer)
		leave()
		_, err = c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
	})
	t.Run("reset by another client", func(t *testing.T) {
		r, c, other := connectRaw(t, slot), connect(t, slot, pcsc.Options{}), connect(t, slot, pcsc.Options{})
		require.NoError(t, other.Reset(deadline(t)))
		for range 2 {
			_, err := r.Transmit(hello)
			assert.ErrorIs(t, err, pcsc.CodeResetCard)
			_, err = c.Transmit(deadline(t), hello)
			assert.ErrorIs(t, err, pcsc.CodeResetCard)
			assert.ErrorIs(t, err, apdu.ErrCardReset)
		}
		require.NoError(t, c.Reset(deadline(t)))
		answers(t, c)
	})
	t.Run("unpowered by another client", func(t *testing.T) {
		c, other := connect(t, slot, pcsc.Options{}), connectRaw(t, slot)
		require.NoError(t, other.Disconnect(pcsc.UnpowerCard))
		_, err := c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, pcsc.CodeResetCard)
		assert.ErrorIs(t, err, apdu.ErrCardReset)
		require.NoError(t, c.Reset(deadline(t)))
		answers(t, c)
		answers(t, connect(t, slot, pcsc.Options{}))
	})
	t.Run("a card that takes no power", func(t *testing.T) {
		dumb := insert(t, empty, make([]byte, 40)) // more than an answer to reset has
		state, _, err := raw(t).Status(empty.Reader, 0, 0)
		for r := raw(t); err == nil && state&pcsc.StatePresent == 0; {
			state, _, err = r.Status(empty.Reader, state, 10*time.Second)
		}
		require.NoError(t, err)
		_, err = src.Open(deadline(t), empty.Reader, reader.Shared)
		assert.ErrorIs(t, err, pcsc.CodeUnpoweredCard)
		assert.ErrorIs(t, err, apdu.ErrCardReset)
		dumb.pull()
		gone(t, raw(t), empty)
	})
	t.Run("exclusive against shared", func(t *testing.T) {
		c := connect(t, slot, pcsc.Options{Mode: reader.Exclusive})
		assert.ErrorIs(t, raw(t).Connect(slot.Reader, false, pcsc.T1), pcsc.CodeSharingViolation)
		_, err := src.Open(deadline(t), slot.Reader, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrCardBusy)
		answers(t, c)
	})
	t.Run("protocol mismatch", func(t *testing.T) {
		assert.ErrorIs(t, raw(t).Connect(zero.Reader, false, pcsc.T1), pcsc.CodeProtoMismatch)
		_, err := src.Connect(deadline(t), zero.Reader, pcsc.Options{Protocol: pcsc.T1})
		assert.ErrorIs(t, err, pcsc.CodeProtoMismatch)
		assert.ErrorIs(t, err, apdu.ErrTransport)
	})
	t.Run("empty reader", func(t *testing.T) {
		assert.ErrorIs(t, raw(t).Connect(empty.Reader, false, pcsc.T1), pcsc.CodeNoSmartcard)
		_, err := src.Open(deadline(t), empty.Reader, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoCard)
	})
	t.Run("unknown reader", func(t *testing.T) {
		assert.ErrorIs(t, raw(t).Connect("none", false, pcsc.T1), pcsc.CodeUnknownReader)
		_, err := src.Open(deadline(t), "none", reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoReader)
	})
	t.Run("status: timeout", func(t *testing.T) {
		r := raw(t)
		state, _, err := r.Status(empty.Reader, 0, 0)
		require.NoError(t, err)
		_, _, err = r.Status(empty.Reader, state, 10*time.Millisecond)
		assert.ErrorIs(t, err, pcsc.CodeTimeout)
		assert.ErrorIs(t, err, apdu.ErrTimeout)
	})
	t.Run("status: cancel", func(t *testing.T) {
		r := raw(t)
		state, _, err := r.Status(empty.Reader, 0, 0)
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, _, err := r.Status(empty.Reader, state, time.Minute)
			ended <- err
		}()
		for err = nil; err == nil; { // a cancel that comes before the wait is none
			r.Interrupt()
			select {
			case err = <-ended:
			case <-time.After(10 * time.Millisecond):
			}
		}
		assert.ErrorIs(t, err, pcsc.CodeCancelled)
	})
	t.Run("the state's answer to reset is stale", func(t *testing.T) {
		r := raw(t)
		state, atr, err := r.Status(slot.Reader, 0, 0)
		require.NoError(t, err)
		require.Equal(t, atrT1, atr)
		sim.pull()
		for state&pcsc.StatePresent != 0 {
			state, _, err = r.Status(slot.Reader, state, 10*time.Second)
			require.NoError(t, err)
		}
		readers, err := src.Readers(deadline(t))
		require.NoError(t, err)
		assert.False(t, readers[0].Card)
		assert.Nil(t, readers[0].ATR)
		sim.insert()
		inReader(t, slot)
	})
	t.Run("no command at all", func(t *testing.T) {
		c := connect(t, slot, pcsc.Options{})
		_, err := c.Transmit(deadline(t), nil)
		assert.ErrorIs(t, err, apdu.ErrMalformed)
		answers(t, c)
	})
	t.Run("card never answers", func(t *testing.T) {
		c := connect(t, slot, pcsc.Options{MaxWait: 100 * time.Millisecond})
		_, err := c.Transmit(deadline(t), []byte{0, insMute, 0, 0})
		assert.ErrorIs(t, err, apdu.ErrTimeout)
		ctx, cancel := context.WithTimeout(deadline(t), 100*time.Millisecond)
		defer cancel()
		_, err = src.Connect(ctx, slot.Reader, pcsc.Options{})
		assert.ErrorIs(t, err, apdu.ErrTimeout, "nor does the reader, to anybody")
		sim.pull()
		sim.insert()
		answers(t, eventually(t, src, slot))
	})
	t.Run("pcscd killed", func(t *testing.T) {
		r, waits, c := connectRaw(t, slot), raw(t), connect(t, slot, pcsc.Options{})
		state, _, err := waits.Status(empty.Reader, 0, 0)
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, _, err := waits.Status(empty.Reader, state, time.Minute)
			ended <- err
		}()
		time.Sleep(50 * time.Millisecond) // until it waits; a status after the end is no service too
		require.NoError(t, p.Kill())
		assert.ErrorIs(t, <-ended, pcsc.ErrNoService)
		_, err = r.Transmit(hello)
		assert.ErrorIs(t, err, pcsc.ErrNoService)
		_, err = c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, pcsc.ErrNoService)
		_, err = pcsc.EstablishRaw()
		assert.ErrorIs(t, err, pcsc.CodeNoService)

		require.NoError(t, p.Restart(deadline(t)))
		inReader(t, slot)
		_, err = r.Transmit(hello)
		assert.ErrorIs(t, err, pcsc.ErrNoService, "the old context never recovers")
		_, err = c.Transmit(deadline(t), hello)
		assert.ErrorIs(t, err, pcsc.ErrNoService)
		answers(t, connect(t, slot, pcsc.Options{}))
	})
}

// gone waits until the service has noticed that the card has left.
func gone(t *testing.T, r pcsc.Raw, slot rig.Slot) {
	state, _, err := r.Status(slot.Reader, 0, 0)
	for err == nil && state&pcsc.StatePresent != 0 {
		state, _, err = r.Status(slot.Reader, state, 10*time.Second)
	}
	require.NoError(t, err)
}

// brokenCard is a card that dies after the first of three bytes of an answer, and
// is back at once until it is told to leave.
func brokenCard(t *testing.T, slot rig.Slot) (leave func()) {
	conn, err := net.Dial("tcp", slot.Addr)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var length [2]byte
			if _, err := io.ReadFull(conn, length[:]); err != nil {
				return
			}
			message := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(conn, message); err != nil {
				return
			}
			switch {
			case len(message) > 1:
				_, err = conn.Write([]byte{0, 1, 0x90}) // vpcd hands on what came whole
			case message[0] == 4:
				_, err = conn.Write(append([]byte{0, byte(len(atrT1))}, atrT1...))
			}
			if err != nil && !errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	leave = func() {
		_ = conn.Close()
		<-ended
	}
	t.Cleanup(leave)
	return leave
}
