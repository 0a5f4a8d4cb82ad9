package ccid_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func newModel(serial, path string, address, slots int) *model {
	return &model{
		sim: ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Slots: slots, Patience: 20 * time.Millisecond}),
		usb: reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: serial, Bus: 1, Address: address, Path: path},
	}
}

func TestSourceNames(t *testing.T) {
	a, b, c := newModel("S1", "1-1", 4, 1), newModel("S2", "1-2", 5, 2), newModel("S2", "1-3", 6, 1)
	d := newModel("", "1-4", 7, 1)
	card, e := withATR(ccidsim.ATR{})
	b.sim.Insert(1, card)
	src := ccid.NewSource(&bench{plugged: []*model{a, b, c, d}})
	readers, err := src.Readers(soon(t))
	require.NoError(t, err)
	assert.Equal(t, []reader.Reader{
		{Name: "USB 08e6:4433 Maker Model (S1) slot 0", ID: "usb:08e6:4433:serial=S1:0.0"},
		{Name: "USB 08e6:4433 Maker Model (1-2) slot 0", ID: "usb:08e6:4433:path=1-2:0.0"},
		{Name: "USB 08e6:4433 Maker Model (1-2) slot 1", ID: "usb:08e6:4433:path=1-2:0.1", Card: true},
		{Name: "USB 08e6:4433 Maker Model (1-3) slot 0", ID: "usb:08e6:4433:path=1-3:0.0"},
		{Name: "USB 08e6:4433 Maker Model (1-4) slot 0", ID: "usb:08e6:4433:path=1-4:0.0"},
	}, readers)
	assert.Empty(t, e.history(), "looking gives no power")

	for _, name := range []string{readers[2].Name, readers[2].ID, "slot 1"} {
		conn, err := src.Open(soon(t), name, reader.Exclusive)
		require.NoError(t, err)
		works(t, conn)
		_, err = src.Open(soon(t), name, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrCardBusy)
		now, err := src.Readers(soon(t))
		require.NoError(t, err)
		assert.True(t, now[2].Card && now[2].InUse && now[2].Exclusive)
		require.NoError(t, conn.Close())
	}
	_, err = src.Open(soon(t), "1-2", reader.Shared)
	assert.ErrorContains(t, err, "ambiguous")
	_, err = src.Open(soon(t), "nobody", reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrNoReader)
	_, err = src.Open(soon(t), readers[0].ID, reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrNoCard)
	_, err = ccid.NewSource(&bench{}).Open(soon(t), "", reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrNoReader)
}

// A reader that cannot be used is listed with what is wrong, and does not stop
// the others.
func TestDevices(t *testing.T) {
	free, held, forbidden := newModel("S1", "1-1", 4, 1), newModel("S2", "1-2", 5, 1), newModel("S3", "1-3", 6, 1)
	held.err = &ccid.BusyError{Holders: []ccid.Holder{{PID: 7, Name: "pcscd"}}}
	forbidden.err = ccid.ErrNoPermission
	src := ccid.NewSource(&bench{plugged: []*model{free, held, forbidden}})
	infos, err := src.Devices(soon(t))
	require.NoError(t, err)
	require.Len(t, infos, 3)
	assert.NoError(t, infos[0].Err)
	assert.ErrorIs(t, infos[1].Err, apdu.ErrCardBusy)
	assert.Contains(t, infos[1].Problem, "pcscd (pid 7)")
	assert.True(t, infos[1].Slots[0].InUse)
	assert.ErrorIs(t, infos[2].Err, ccid.ErrNoPermission)
	assert.Contains(t, infos[2].Problem, "udev")
	listed, err := src.List(soon(t))
	require.NoError(t, err)
	require.Len(t, listed, 3)
	for i, l := range listed {
		assert.Equal(t, infos[i].Name, l.Name)
		assert.NoError(t, l.Err, "nothing was claimed")
	}
	readers, err := src.Readers(soon(t))
	require.NoError(t, err)
	assert.Len(t, readers, 2, "those that can be used, or are in use")
	_, err = src.Open(soon(t), infos[1].Slots[0].ID, reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrCardBusy)
	_, err = src.Open(soon(t), infos[2].Slots[0].ID, reader.Shared)
	assert.ErrorIs(t, err, ccid.ErrNoPermission)
}

func TestSourceWatch(t *testing.T) {
	a, b := newModel("S1", "1-1", 4, 1), newModel("S2", "1-2", 5, 1)
	card, _ := withATR(ccidsim.ATR{})
	a.sim.Insert(0, card)
	bus := &bench{plugged: []*model{a}}
	src := ccid.NewSource(bus)
	ctx, cancel := context.WithCancel(soon(t))
	events := make(chan string, 20)
	ended := make(chan error)
	go func() {
		ended <- src.Watch(ctx, func(e reader.Event) { events <- fmt.Sprintf("%s %s", e.Kind, e.Reader.ID) })
	}()
	const idA, idB = "usb:08e6:4433:serial=S1:0.0", "usb:08e6:4433:serial=S2:0.0"
	assert.Equal(t, "reader added "+idA, <-events)
	assert.Equal(t, "card inserted "+idA, <-events)

	conn, err := src.Open(ctx, idA, reader.Shared) // beside the watch
	require.NoError(t, err)
	works(t, conn)
	a.sim.Remove(0)
	assert.Equal(t, "card removed "+idA, <-events)
	_, err = conn.Transmit(ctx, selectFile)
	assert.ErrorIs(t, err, apdu.ErrCardRemoved)
	require.NoError(t, conn.Close())
	a.sim.Reinsert(0)
	assert.Equal(t, "card inserted "+idA, <-events)

	bus.set(a, b)
	assert.Equal(t, "reader added "+idB, <-events)
	a.sim.Unplug()
	bus.set(b)
	assert.Equal(t, "card removed "+idA, <-events)
	assert.Equal(t, "reader removed "+idA, <-events)

	a.usb.Address, a.usb.Path = 9, "1-7" // plugged in elsewhere: the same reader
	a.sim.Plug()
	bus.set(a, b)
	assert.Equal(t, "reader added "+idA, <-events)
	assert.Equal(t, "card inserted "+idA, <-events)
	conn, err = src.Open(ctx, idA, reader.Shared)
	require.NoError(t, err)
	works(t, conn)
	require.NoError(t, conn.Close())
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)
	assert.Empty(t, events)
}

// What happens in one reader is told though another, which has just been
// unplugged, takes its time.
func TestSourceWatchBesideAReaderThatHangs(t *testing.T) {
	a, b := newModel("S1", "1-1", 4, 1), newModel("S2", "1-2", 5, 1)
	asked, answered := make(chan struct{}, 100), make(chan struct{})
	bus := &bench{plugged: []*model{a, b}}
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	events := make(chan string, 20)
	go ccid.NewSource(bus).Watch(ctx, func(e reader.Event) { events <- fmt.Sprintf("%s %s", e.Kind, e.Reader.ID) })
	const idA, idB = "usb:08e6:4433:serial=S1:0.0", "usb:08e6:4433:serial=S2:0.0"
	assert.Equal(t, "reader added "+idA, <-events)
	assert.Equal(t, "reader added "+idB, <-events)
	time.Sleep(100 * time.Millisecond) // both are followed
	const slotStatus = 0x65
	a.sim.SetHooks(ccidsim.Hooks{Reply: func(command, answer []byte) [][]byte {
		if command[0] == slotStatus {
			asked <- struct{}{}
			<-answered
		}
		return [][]byte{answer}
	}})
	<-asked // it looks whether a card has come
	bus.set(b)
	time.Sleep(time.Second) // its follower is waited for
	card, _ := withATR(ccidsim.ATR{})
	b.sim.Insert(0, card)
	time.Sleep(500 * time.Millisecond)
	close(answered)
	var seen []string
	for len(seen) < 2 && ctx.Err() == nil {
		select {
		case e := <-events:
			seen = append(seen, e)
		case <-ctx.Done():
		}
	}
	assert.ElementsMatch(t, []string{"reader removed " + idA, "card inserted " + idB}, seen)
}

// jealousBus opens a reader once at a time, as USB does.
type jealousBus struct {
	bench
	mu   sync.Mutex
	open bool
}

func (b *jealousBus) Open(ctx context.Context, p ccid.Plugged) (ccid.Endpoints, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		return nil, &ccid.BusyError{}
	}
	e, err := b.bench.Open(ctx, p)
	b.open = err == nil
	return jealousEndpoints{e, b}, err
}

type jealousEndpoints struct {
	ccid.Endpoints
	bus *jealousBus
}

func (e jealousEndpoints) Close() error {
	time.Sleep(5 * time.Millisecond) // libusb gives an interface up when its transfers have ended
	e.bus.mu.Lock()
	defer e.bus.mu.Unlock()
	e.bus.open = false
	return e.Endpoints.Close()
}

// A reader that this program is about to give up is not held against it.
func TestSourceOpensWhatItGivesUp(t *testing.T) {
	src := ccid.NewSource(&jealousBus{bench: bench{plugged: []*model{newModel("S1", "1-1", 4, 1)}}})
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for range 10 {
				infos, err := src.Devices(soon(t))
				assert.NoError(t, err)
				assert.NoError(t, infos[0].Err)
			}
		})
	}
	looking.Wait()
}

type brokenBus struct{ err error }

func (b brokenBus) List(context.Context) ([]ccid.Plugged, error) { return nil, b.err }
func (b brokenBus) Open(context.Context, ccid.Plugged) (ccid.Endpoints, error) {
	return nil, b.err
}

func TestSourceWithoutUSB(t *testing.T) {
	for _, want := range []error{ccid.ErrNoUSB, ccid.ErrNotBuilt} {
		src := ccid.NewSource(brokenBus{want})
		_, err := src.Readers(soon(t))
		assert.ErrorIs(t, err, want)
		assert.NotErrorIs(t, err, apdu.ErrTransport)
		_, err = src.Open(soon(t), "", reader.Shared)
		assert.ErrorIs(t, err, want)
		_, err = src.List(soon(t))
		assert.ErrorIs(t, err, want)
		assert.ErrorIs(t, src.Watch(soon(t), func(reader.Event) {}), want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	assert.ErrorIs(t, ccid.NewSource(brokenBus{errors.New("for now")}).Watch(ctx, func(reader.Event) {}), context.Canceled)
}
