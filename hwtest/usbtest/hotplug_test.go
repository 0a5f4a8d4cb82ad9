package usbtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// watcher collects what a source tells.
type watcher struct {
	t     *testing.T
	seen  chan reader.Event
	early []reader.Event // seen, and not asked for yet
}

func watch(t *testing.T, src reader.Source) *watcher {
	w := &watcher{t: t, seen: make(chan reader.Event, 256)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- src.Watch(ctx, func(e reader.Event) { w.seen <- e }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			assert.ErrorIs(t, err, context.Canceled)
		case <-time.After(patience):
			assert.Fail(t, "Watch outlives its context")
		}
	})
	return w
}

// until waits for an event of a kind for each of some identities, in any order,
// and gives the readers' names by identity.
func (w *watcher) until(kind reader.EventKind, ids ...string) map[string]string {
	w.t.Helper()
	ctx := deadline(w.t)
	names := map[string]string{}
	wanted := func(e reader.Event) bool {
		_, got := names[e.Reader.ID]
		return e.Kind == kind && slices.Contains(ids, e.Reader.ID) && !got
	}
	w.early = slices.DeleteFunc(w.early, func(e reader.Event) bool {
		if !wanted(e) {
			return false
		}
		names[e.Reader.ID] = e.Reader.Name
		return true
	})
	for len(names) < len(ids) {
		select {
		case e := <-w.seen:
			if wanted(e) {
				names[e.Reader.ID] = e.Reader.Name
			} else {
				w.early = append(w.early, e)
			}
		case <-ctx.Done():
			require.Fail(w.t, "it does not happen", "%v of %v, only of %v, but %v", kind, ids, names, w.early)
		}
	}
	return names
}

func tpduReader(serial string, card ccidsim.Card) *ccidsim.Device {
	d := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Automatic: ccidsim.AutoVoltage, Vendor: vendor, Product: product, Serial: serial})
	if card != nil {
		d.Insert(0, card)
	}
	return d
}

func newCard(n int) ccidsim.Card {
	return ccidsim.WithATR(servertest.Card(servertest.Image(n)), t1)
}

// number is the end of a reader's name: with pcscd its number and the slot's.
func number(name string) string { return name[max(0, len(name)-len("NN SS")):] }

// Readers keep their identity, whatever they are called and wherever they are
// plugged in.
func TestHotPlug(t *testing.T) {
	for _, w := range []struct {
		way
		source func(*testing.T) reader.Source
	}{
		{direct, func(*testing.T) reader.Source { return ccid.New() }},
		{service, func(t *testing.T) reader.Source { startService(t); return pcsc.New() }},
	} {
		t.Run(w.name, func(t *testing.T) {
			src := w.source(t)
			events := watch(t, src)
			first, second, third := tpduReader("ONE", newCard(0)), tpduReader("TWO", newCard(1)), tpduReader("THREE", nil)
			one, two, three := identity(vendor, product, "ONE"), identity(vendor, product, "TWO"), identity(vendor, product, "THREE")
			firstPlug, secondPlug := plug(t, 0, first), plug(t, 1, second)
			plug(t, 2, third)
			before := events.until(reader.ReaderAdded, one, two, three)
			events.until(reader.CardInserted, one, two)
			third.Insert(0, newCard(2))
			events.until(reader.CardInserted, three)
			third.Remove(0)
			events.until(reader.CardRemoved, three)

			unplug(t, firstPlug)
			unplug(t, secondPlug)
			events.until(reader.ReaderRemoved, one, two)
			// pcscd numbers readers: the one that comes first gets the lower number.
			ids, devices := []string{one, two}, []*ccidsim.Device{first, second}
			if number(before[one]) < number(before[two]) {
				slices.Reverse(ids)
				slices.Reverse(devices)
			}
			after := map[string]string{}
			for i, id := range ids {
				plug(t, 4+i, devices[i])
				maps.Copy(after, events.until(reader.ReaderAdded, id))
				events.until(reader.CardInserted, id)
				if w.name == service.name {
					assert.NotEqual(t, before[id], after[id], "a name that moves")
				}
			}

			c, err := src.Open(deadline(t), after[one], reader.Shared)
			require.NoError(t, err)
			answers(t, c)
			require.NoError(t, c.Close())
		})
	}
}

// gone says that the card or its reader has left.
func gone(err error) bool {
	return errors.Is(err, apdu.ErrCardRemoved) || errors.Is(err, apdu.ErrNoReader)
}

// selectMF is a command that any card of ours answers.
var selectMF = []byte{0x00, 0xA4, 0x00, 0x04, 0x02, 0x3F, 0x00}

func answers(t *testing.T, c apdu.Conn) {
	t.Helper()
	rapdu, err := c.Transmit(deadline(t), selectMF)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, len(rapdu), 2)
}

// A reader that is unplugged in the middle of a command is an error that says
// so, and the reader works again once it is back.
func TestUnplugInMidCommand(t *testing.T) {
	for _, w := range []way{direct, service} {
		t.Run(w.name, func(t *testing.T) {
			if w.name == service.name {
				startService(t)
			}
			d := tpduReader("LEAVES", newCard(0))
			id := identity(vendor, product, "LEAVES")
			p := plug(t, 0, d)
			for _, after := range []bool{false, true} {
				c, err := w.open(deadline(t), id, true)
				require.NoError(t, err)
				answers(t, c)
				d.Arm(0, ccidsim.Fault{Command: 1, After: after, Fate: ccidsim.Fate{Kind: ccidsim.Unplug}})
				_, err = c.Transmit(deadline(t), selectMF)
				assert.True(t, gone(err), "%v", err)
				_, err = c.Transmit(deadline(t), selectMF)
				assert.True(t, gone(err), "%v", err)
				_ = c.Close()
				unplug(t, p)
				d.Plug()
				p = plug(t, 0, d)
			}
			c, err := w.open(deadline(t), id, true)
			require.NoError(t, err)
			answers(t, c)
			require.NoError(t, c.Close())
		})
	}
}

// While pcscd has a reader, nobody else can have it, and is told so.
func TestReaderInUse(t *testing.T) {
	startService(t)
	plug(t, 0, tpduReader("BUSY", newCard(0)))
	id := identity(vendor, product, "BUSY")
	c, err := service.open(deadline(t), id, true)
	require.NoError(t, err)
	_, err = ccid.New().Open(deadline(t), id, reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrCardBusy)
	answers(t, c)
	require.NoError(t, c.Close())
}
