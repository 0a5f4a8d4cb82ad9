package ccid_test

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
)

// forms are the reader and card that tests about what goes wrong use: each way to
// exchange once.
var forms = []struct {
	name  string
	level ccidsim.Level
	atr   ccidsim.ATR
}{
	{"character, T=0", ccidsim.Character, ccidsim.ATR{}},
	{"TPDU, T=0", ccidsim.TPDU, ccidsim.ATR{}},
	{"TPDU, T=1", ccidsim.TPDU, ccidsim.ATR{Protocols: []byte{1}, IFSC: 254}},
	{"short APDU", ccidsim.ShortAPDU, ccidsim.ATR{Protocols: []byte{1}}},
	{"extended APDU", ccidsim.ExtendedAPDU, ccidsim.ATR{Protocols: []byte{1}}},
}

var selectFile = []byte{0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00}

func TestCardPulled(t *testing.T) {
	for _, f := range forms {
		for _, after := range []bool{false, true} {
			t.Run(f.name, func(t *testing.T) {
				card, _ := withATR(f.atr)
				sim, conn := connect(t, ccidsim.Config{Level: f.level}, card, ccid.Options{})
				works(t, conn)
				sim.Arm(0, ccidsim.Fault{Command: 1, After: after, Fate: ccidsim.Fate{Kind: ccidsim.Pull}})
				_, err := conn.Transmit(soon(t), selectFile)
				assert.ErrorIs(t, err, apdu.ErrCardRemoved)
				_, err = conn.Transmit(soon(t), selectFile)
				assert.ErrorIs(t, err, apdu.ErrCardRemoved)
				assert.ErrorIs(t, conn.Reset(soon(t)), apdu.ErrNoCard)
				sim.Reinsert(0)
				_, err = conn.Transmit(soon(t), selectFile)
				assert.ErrorIs(t, err, apdu.ErrCardRemoved, "a connection does not outlive its card by itself")
				require.NoError(t, conn.Reset(soon(t)))
				works(t, conn)
			})
		}
	}
}

// A card that left and came back between two commands has lost its power.
func TestCardSwapped(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			card, _ := withATR(f.atr)
			sim, conn := connect(t, ccidsim.Config{Level: f.level}, card, ccid.Options{})
			sim.Remove(0)
			sim.Reinsert(0)
			_, err := conn.Transmit(soon(t), selectFile)
			require.Error(t, err)
			var is bool
			for _, e := range []error{apdu.ErrCardRemoved, apdu.ErrCardReset} { // by whether the reader has said so yet
				is = is || errors.Is(err, e)
			}
			assert.True(t, is, "%v", err)
			require.NoError(t, conn.ColdReset(soon(t)))
			works(t, conn)
		})
	}
}

// A reader that gives each card its power at once would have another card carry
// out what was meant for the one before.
func TestCardSwappedInAReaderThatActivates(t *testing.T) {
	const autoActivation, features = 0x04, 40
	for _, level := range []ccidsim.Level{ccidsim.TPDU, ccidsim.ExtendedAPDU} {
		card, _ := withATR(ccidsim.ATR{Protocols: []byte{1}})
		sim, conn := connect(t, ccidsim.Config{Level: level, Descriptor: func(d []byte) []byte {
			d[features] |= autoActivation
			return d
		}}, card, ccid.Options{})
		works(t, conn)
		var sent atomic.Int32
		sim.SetHooks(ccidsim.Hooks{Reply: func(command, answer []byte) [][]byte {
			if command[0] == xfrBlock {
				sent.Add(1)
			}
			return [][]byte{answer}
		}})
		sim.Remove(0)
		sim.Reinsert(0)
		time.Sleep(100 * time.Millisecond) // the reader's news arrive
		_, err := conn.Transmit(soon(t), selectFile)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		assert.Zero(t, sent.Load(), "nothing is sent to the card that came")
		require.NoError(t, conn.Reset(soon(t)))
		works(t, conn)
	}
}

func TestMute(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			card, _ := withATR(f.atr)
			sim, conn := connect(t, ccidsim.Config{Level: f.level}, card, ccid.Options{})
			sim.Arm(0, ccidsim.Fault{Command: 1, Fate: ccidsim.Fate{Kind: ccidsim.Mute}})
			_, err := conn.Transmit(soon(t), selectFile)
			assert.ErrorIs(t, err, apdu.ErrTimeout)
			assert.ErrorIs(t, err, ccid.CodeMute)
			_, err = conn.Transmit(soon(t), selectFile)
			assert.ErrorIs(t, err, apdu.ErrTimeout, "the connection is dead")
			require.NoError(t, conn.Reset(soon(t)))
			works(t, conn)
		})
	}
}

// A card that never answers, in a reader that waits for good, costs what the
// context allows; the reader is usable after it.
func TestContextEnds(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			card, _ := withATR(f.atr)
			sim, conn := connect(t, ccidsim.Config{Level: f.level, Patience: -1}, card, ccid.Options{})
			sim.Arm(0, ccidsim.Fault{Command: 1, Fate: ccidsim.Fate{Kind: ccidsim.Mute}})
			_, err := conn.Transmit(within(t, 20*time.Millisecond), selectFile)
			assert.ErrorIs(t, err, apdu.ErrTimeout)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			_, err = conn.Transmit(soon(t), selectFile)
			assert.ErrorIs(t, err, apdu.ErrTimeout)
			require.NoError(t, conn.Reset(soon(t)))
			works(t, conn)
		})
	}
}

func TestMaxWait(t *testing.T) {
	card, _ := withATR(ccidsim.ATR{})
	sim, conn := connect(t, ccidsim.Config{Level: ccidsim.TPDU, Patience: -1}, card, ccid.Options{MaxWait: 50 * time.Millisecond})
	sim.Arm(0, ccidsim.Fault{Command: 1, Fate: ccidsim.Fate{Kind: ccidsim.Mute}})
	_, err := conn.Transmit(context.Background(), selectFile)
	assert.ErrorIs(t, err, apdu.ErrTimeout)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// A context that has ended before costs nothing.
func TestContextEndedBefore(t *testing.T) {
	card, e := withATR(ccidsim.ATR{})
	_, conn := connect(t, ccidsim.Config{Level: ccidsim.TPDU}, card, ccid.Options{})
	e.history()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := conn.Transmit(ctx, selectFile)
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, apdu.ErrTimeout)
	assert.Empty(t, e.history())
	works(t, conn)
}

func TestUnplugged(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			card, _ := withATR(f.atr)
			sim, conn := connect(t, ccidsim.Config{Level: f.level}, card, ccid.Options{})
			sim.Arm(0, ccidsim.Fault{Command: 1, After: true, Fate: ccidsim.Fate{Kind: ccidsim.Unplug}})
			_, err := conn.Transmit(soon(t), selectFile)
			assert.ErrorIs(t, err, ccid.ErrUnplugged)
			assert.ErrorIs(t, err, apdu.ErrNoReader)
			assert.ErrorIs(t, err, apdu.ErrCardRemoved)
			assert.NotErrorIs(t, err, apdu.ErrTransport)
			assert.ErrorIs(t, conn.Reset(soon(t)), apdu.ErrNoReader)
			assert.NoError(t, conn.Close(), "what is gone needs no end")
		})
	}
}

// A card that works for long has the reader ask for time, or asks itself.
func TestSlowCard(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			card, _ := withATR(f.atr)
			cfg := ccidsim.Config{Level: f.level, Extension: 3 * time.Millisecond, CardExtension: 2 * time.Millisecond}
			sim, conn := connect(t, cfg, card, ccid.Options{})
			sim.SetHooks(ccidsim.Hooks{Works: func(int, []byte) time.Duration { return 20 * time.Millisecond }})
			works(t, conn)
		})
	}
}

func TestSlots(t *testing.T) {
	for _, busy := range []int{1, 3} {
		sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Slots: 3, BusySlots: busy})
		d := attach(t, sim)
		require.Equal(t, 3, d.Slots())
		var cards sync.WaitGroup
		for slot := range 3 {
			card, _ := withATR(forms[1+slot%2].atr)
			sim.Insert(slot, card)
			conn, err := d.Connect(soon(t), slot, ccid.Options{})
			require.NoError(t, err)
			cards.Go(func() {
				for range 5 {
					works(t, conn)
				}
				assert.NoError(t, conn.Close())
			})
		}
		cards.Wait()
	}
}

// A slot whose card works for long does not stop another, where the reader can
// do both.
func TestSlotsAtOnce(t *testing.T) {
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Slots: 2, BusySlots: 2})
	d := attach(t, sim)
	var conns [2]*ccid.Conn
	for slot := range conns {
		card, _ := withATR(ccidsim.ATR{})
		sim.Insert(slot, card)
		var err error
		conns[slot], err = d.Connect(soon(t), slot, ccid.Options{})
		require.NoError(t, err)
	}
	release := make(chan struct{})
	sim.SetHooks(ccidsim.Hooks{Before: func(slot int, _ []byte) ccidsim.Fate {
		if slot == 0 {
			<-release
		}
		return ccidsim.Fate{}
	}})
	first := make(chan error)
	go func() {
		_, err := conns[0].Transmit(context.Background(), selectFile)
		first <- err
	}()
	works(t, conns[1])
	close(release)
	assert.NoError(t, <-first)
}

func TestOneConnASlot(t *testing.T) {
	card, e := withATR(ccidsim.ATR{})
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU})
	sim.Insert(0, card)
	d := attach(t, sim)
	assert.Empty(t, e.history(), "Attach leaves the card alone")
	conn, err := d.Connect(soon(t), 0, ccid.Options{})
	require.NoError(t, err)
	_, err = d.Connect(soon(t), 0, ccid.Options{})
	assert.ErrorIs(t, err, apdu.ErrCardBusy)
	require.NoError(t, conn.Close())
	require.NoError(t, conn.Close(), "the second time does nothing")
	_, err = conn.Transmit(soon(t), selectFile)
	assert.ErrorIs(t, err, fs.ErrClosed)
	assert.Equal(t, []string{"on", "off"}, e.history())

	conn, err = d.Connect(soon(t), 0, ccid.Options{LeavePowered: true})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	assert.Equal(t, []string{"on"}, e.history())
	conn, err = d.Connect(soon(t), 0, ccid.Options{})
	require.NoError(t, err)
	assert.Equal(t, []string{"off", "on"}, e.history(), "whatever it is in the middle of ends")
	require.NoError(t, conn.Reset(soon(t)))
	assert.Equal(t, []string{"reset"}, e.history(), "warm")

	_, err = d.Connect(soon(t), 1, ccid.Options{})
	assert.ErrorIs(t, err, apdu.ErrNoReader)
	require.NoError(t, conn.Close())
	sim.Remove(0)
	_, err = d.Connect(soon(t), 0, ccid.Options{})
	assert.ErrorIs(t, err, apdu.ErrNoCard)
}

func TestDeviceWatch(t *testing.T) {
	for name, cfg := range map[string]ccidsim.Config{
		"interrupt": {Level: ccidsim.TPDU, Slots: 2}, "polled": {Level: ccidsim.TPDU, Slots: 2, NoInterrupt: true},
	} {
		t.Run(name, func(t *testing.T) {
			sim := ccidsim.New(cfg)
			card, _ := withATR(ccidsim.ATR{})
			sim.Insert(1, card)
			d := attach(t, sim)
			events := make(chan ccid.SlotEvent, 10)
			ended := make(chan error, 1)
			go func() { ended <- d.Watch(soon(t), func(e ccid.SlotEvent) { events <- e }) }()
			assert.Equal(t, ccid.SlotEvent{Slot: 1, Present: true}, <-events)
			sim.Remove(1)
			assert.Equal(t, ccid.SlotEvent{Slot: 1}, <-events)
			sim.Insert(0, card)
			assert.Equal(t, ccid.SlotEvent{Slot: 0, Present: true}, <-events)
			sim.Reinsert(1)
			assert.Equal(t, ccid.SlotEvent{Slot: 1, Present: true}, <-events)
			sim.Unplug()
			if cfg.NoInterrupt { // it looks, and finds no reader
				assert.ErrorIs(t, <-ended, apdu.ErrNoReader)
				return
			}
			require.NoError(t, d.Close())
			assert.ErrorIs(t, <-ended, apdu.ErrNoReader)
			assert.Empty(t, events)
		})
	}
}

func TestEscape(t *testing.T) {
	card, _ := withATR(ccidsim.ATR{})
	cfg := ccidsim.Config{Level: ccidsim.TPDU, Escape: func(in []byte) []byte { return append([]byte{0xEE}, in...) }}
	_, conn := connect(t, cfg, card, ccid.Options{})
	_, err := conn.Escape(soon(t), []byte{1})
	assert.ErrorIs(t, err, ccid.ErrEscape)
	_, conn = connect(t, cfg, card, ccid.Options{AllowEscape: true})
	out, err := conn.Escape(soon(t), []byte{1, 2})
	require.NoError(t, err)
	assert.Equal(t, []byte{0xEE, 1, 2}, out)
	works(t, conn)
}

// The voltages are tried from the lowest; a card is left at one that it takes.
func TestVoltages(t *testing.T) {
	for name, c := range map[string]struct {
		voltages byte
		classes  byte
		fails    bool
	}{
		"class A card":           {voltages: 7, classes: 1},
		"class B and C":          {voltages: 7, classes: 6},
		"class B":                {voltages: 7, classes: 2},
		"a reader of 5 V alone":  {voltages: 1, classes: 3},
		"no voltage in common":   {voltages: 1, classes: 4, fails: true},
		"a reader without 1.8 V": {voltages: 3, classes: 7},
	} {
		t.Run(name, func(t *testing.T) {
			card, _ := withATR(ccidsim.ATR{Protocols: []byte{1}, Classes: c.classes})
			sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Voltages: c.voltages})
			sim.Insert(0, card)
			conn, err := attach(t, sim).Connect(soon(t), 0, ccid.Options{})
			if c.fails {
				assert.ErrorIs(t, err, ccid.CodeClass)
				return
			}
			require.NoError(t, err)
			works(t, conn)
		})
	}
}

func TestAbort(t *testing.T) {
	card, _ := withATR(ccidsim.ATR{})
	_, conn := connect(t, ccidsim.Config{Level: ccidsim.TPDU}, card, ccid.Options{})
	require.NoError(t, conn.Abort(soon(t)))
	works(t, conn)
}

// A reader that does not know aborts is asked for its status instead.
func TestReaderWithoutAbort(t *testing.T) {
	card, _ := withATR(ccidsim.ATR{})
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU})
	sim.Insert(0, card)
	desc, err := ccid.ParseDescriptor(sim.ClassDescriptor())
	require.NoError(t, err)
	d, err := ccid.Attach(soon(t), withoutAbort{sim.Open()}, desc, "model")
	require.NoError(t, err)
	defer d.Close()
	conn, err := d.Connect(soon(t), 0, ccid.Options{})
	require.NoError(t, err)
	sim.SetHooks(ccidsim.Hooks{Reply: bend(func([]byte) [][]byte { return nil })})
	_, err = conn.Transmit(within(t, 10*time.Millisecond), selectFile)
	assert.ErrorIs(t, err, apdu.ErrTimeout)
	sim.SetHooks(ccidsim.Hooks{})
	require.NoError(t, conn.Reset(soon(t)))
	works(t, conn)
}

type withoutAbort struct{ ccid.Endpoints }

func (w withoutAbort) Out(ctx context.Context, b []byte) error {
	if b[0] == 0x72 {
		return nil
	}
	return w.Endpoints.Out(ctx, b)
}

func (w withoutAbort) Control(context.Context, uint8, uint8, uint16, uint16, []byte) (int, error) {
	return 0, ccidsim.ErrStall
}

// What the interrupt pipe brings that is no slot change does not stop it.
func TestInterrupts(t *testing.T) {
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Slots: 2})
	d := attach(t, sim)
	events := make(chan ccid.SlotEvent, 10)
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	go d.Watch(ctx, func(e ccid.SlotEvent) { events <- e })
	for _, b := range []string{"", "50", "51", "51070001", "FF", "51010901"} {
		sim.InjectInterrupt(unhex(t, b))
	}
	assert.Equal(t, ccid.SlotEvent{Slot: 1, Hardware: 1}, <-events)
	card, _ := withATR(ccidsim.ATR{})
	sim.Insert(0, card)
	assert.Equal(t, ccid.SlotEvent{Slot: 0, Present: true}, <-events)
	for range 100 { // nothing but nonsense: the slots are asked from then on
		sim.InjectInterrupt([]byte{0xEE})
	}
	sim.Remove(0)
	assert.Equal(t, ccid.SlotEvent{Slot: 0}, <-events)
}
