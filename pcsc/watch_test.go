package pcsc_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// events watches for the test and gives what is seen.
func events(t *testing.T) <-chan reader.Event { return eventsOf(t, pcsc.New()) }

func eventsOf(t *testing.T, src *pcsc.Source) <-chan reader.Event {
	ctx, cancel := context.WithCancel(context.Background())
	seen := make(chan reader.Event, 256)
	ended := make(chan error, 1)
	go func() { ended <- src.Watch(ctx, func(e reader.Event) { seen <- e }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			assert.ErrorIs(t, err, context.Canceled)
		case <-time.After(20 * time.Second):
			assert.Fail(t, "Watch outlives its context")
		}
	})
	return seen
}

// next is one event.
func next(t *testing.T, seen <-chan reader.Event) reader.Event {
	t.Helper()
	select {
	case e := <-seen:
		return e
	case <-deadline(t).Done():
		require.Fail(t, "nothing happens")
		return reader.Event{}
	}
}

func event(k reader.EventKind, name string) reader.Event {
	return reader.Event{Kind: k, Reader: reader.Reader{Name: name, ID: "name:" + name}}
}

func inserted(name string, atr []byte) reader.Event {
	return reader.Event{Kind: reader.CardInserted, Reader: reader.Reader{Name: name, ID: "name:" + name, Card: true, ATR: atr}}
}

func TestWatch(t *testing.T) {
	p := rig.Start(t, rig.Options{Slots: 2})
	a, b := p.Slots()[0], p.Slots()[1]
	seen := events(t)
	assert.Equal(t, event(reader.ReaderAdded, a.Reader), next(t, seen))
	assert.Equal(t, event(reader.ReaderAdded, b.Reader), next(t, seen))

	sim := insert(t, b, atrT1)
	assert.Equal(t, inserted(b.Reader, atrT1), next(t, seen))

	t.Run("connections are no events, a return is two", func(t *testing.T) {
		c := connect(t, b, pcsc.Options{})
		_, err := c.Transmit(deadline(t), []byte{0, insPull, 0, 0})
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		require.NoError(t, c.Close())
		assert.Equal(t, event(reader.CardRemoved, b.Reader), next(t, seen))
		assert.Equal(t, inserted(b.Reader, atrT1), next(t, seen))
	})
	t.Run("removed", func(t *testing.T) {
		sim.pull()
		assert.Equal(t, event(reader.CardRemoved, b.Reader), next(t, seen))
	})
	t.Run("mute", func(t *testing.T) {
		dumb := insert(t, a, make([]byte, 40)) // more than an answer to reset has
		e := next(t, seen)
		assert.Equal(t, reader.CardInserted, e.Kind)
		assert.True(t, e.Reader.Mute)
		assert.Empty(t, e.Reader.ATR)
		_, err := pcsc.New().Open(deadline(t), a.Reader, reader.Shared)
		assert.ErrorIs(t, err, pcsc.CodeUnpoweredCard)
		dumb.pull()
		assert.Equal(t, event(reader.CardRemoved, a.Reader), next(t, seen))
	})
	t.Run("service killed and restarted", func(t *testing.T) {
		sim.insert()
		assert.Equal(t, inserted(b.Reader, atrT1), next(t, seen))
		require.NoError(t, p.Kill())
		assert.Equal(t, event(reader.ReaderRemoved, a.Reader), next(t, seen))
		assert.Equal(t, event(reader.CardRemoved, b.Reader), next(t, seen))
		assert.Equal(t, event(reader.ReaderRemoved, b.Reader), next(t, seen))
		require.NoError(t, p.Restart(deadline(t)))
		assert.Equal(t, event(reader.ReaderAdded, a.Reader), next(t, seen))
		assert.Equal(t, event(reader.ReaderAdded, b.Reader), next(t, seen))
		assert.Equal(t, inserted(b.Reader, atrT1), next(t, seen))
	})
}

// As many readers as pcscd has room for are watched like any other.
func TestWatchFull(t *testing.T) {
	slots := rig.Start(t, rig.Options{Slots: rig.MaxSlots}).Slots()
	seen := events(t)
	for _, s := range slots {
		assert.Equal(t, event(reader.ReaderAdded, s.Reader), next(t, seen))
	}
	last := slots[len(slots)-1]
	sim := insert(t, last, atrT1)
	assert.Equal(t, inserted(last.Reader, atrT1), next(t, seen))
	sim.pull()
	assert.Equal(t, event(reader.CardRemoved, last.Reader), next(t, seen))
}

// A service that serves and fails, again and again, is not tried as fast as it
// can fail.
func TestWatchFailingService(t *testing.T) {
	rig.Start(t, rig.Options{Slots: 1})
	const socket, real = "/run/pcscd/pcscd.comm", "/run/pcscd/real.comm"
	require.NoError(t, os.Rename(socket, real))
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var clients atomic.Int32
	relaying := make(chan struct{})
	go func() {
		defer close(relaying)
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			daemon, err := net.Dial("unix", real)
			if !assert.NoError(t, err) {
				return
			}
			clients.Add(1)
			go func() { _, _ = io.Copy(daemon, client) }()
			go func() { _, _ = io.Copy(client, daemon) }()
			time.AfterFunc(20*time.Millisecond, func() { client.Close(); daemon.Close() })
		}
	}()
	seen := events(t)
	for range 6 { // times that two readers come and go
		for _, kind := range []reader.EventKind{reader.ReaderAdded, reader.ReaderAdded, reader.ReaderRemoved, reader.ReaderRemoved} {
			assert.Equal(t, kind, next(t, seen).Kind)
		}
	}
	time.Sleep(time.Second)
	assert.Less(t, clients.Load(), int32(6+10), "the waits have grown to a second")
	require.NoError(t, l.Close())
	<-relaying
	require.NoError(t, os.Rename(real, socket))
}

func TestWatchWithoutReaders(t *testing.T) {
	seen := events(t) // before there is a service
	p := rig.Start(t, rig.Options{})
	readers, err := pcsc.New().Readers(deadline(t))
	require.NoError(t, err)
	assert.Empty(t, readers)
	require.NoError(t, p.Stop())

	p = rig.Start(t, rig.Options{Slots: 1})
	assert.Equal(t, event(reader.ReaderAdded, p.Slots()[0].Reader), next(t, seen))
}

func TestWaitCard(t *testing.T) {
	src := pcsc.New()
	short := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	_, err := src.WaitCard(short(t), "x")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorIs(t, err, pcsc.ErrNoService)

	found := make(chan reader.Reader, 1)
	go func() {
		r, err := src.WaitCard(context.WithoutCancel(t.Context()), "A 00 00")
		assert.NoError(t, err)
		found <- r
	}()
	slots := rig.Start(t, rig.Options{Slots: 2}).Slots()
	_, err = src.WaitCard(short(t), "x")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorIs(t, err, apdu.ErrNoReader)
	_, err = src.WaitCard(short(t), slots[0].Reader)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorIs(t, err, apdu.ErrNoCard)
	_, err = src.WaitCard(deadline(t), "Virtual")
	var which *pcsc.FindError
	require.ErrorAs(t, err, &which)
	assert.Equal(t, []string{slots[0].Reader, slots[1].Reader}, which.Matches)

	insert(t, slots[0], atrT1)
	assert.Equal(t, reader.Reader{Name: slots[0].Reader, ID: "name:" + slots[0].Reader, Card: true, ATR: atrT1}, <-found)
}

// Many watch and ask for the same readers at once.
func TestManyClients(t *testing.T) {
	slot := rig.Start(t, rig.Options{Slots: 1}).Slots()[0]
	ended := make(chan error, 8)
	for range cap(ended) {
		go func() {
			ctx := context.WithoutCancel(t.Context())
			_, err := pcsc.New().WaitCard(ctx, slot.Reader)
			for range 20 {
				if err == nil {
					_, err = pcsc.New().Readers(ctx)
				}
			}
			ended <- err
		}()
	}
	insert(t, slot, atrT1)
	for range cap(ended) {
		assert.NoError(t, <-ended)
	}
}
