package ccid_test

import (
	"context"
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// echo is a card that gives a case 4 command's data back, and to a case 2 command
// (INS B0) as many bytes as it asks for, up to P1-P2.
type echo struct {
	mu   sync.Mutex
	done []string
}

func (e *echo) note(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done = append(e.done, s)
}

func (e *echo) history() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.done
	e.done = nil
	return h
}

func (e *echo) ATR() []byte { return ccidsim.ATR{Historical: []byte("echo")}.Bytes() }

func (e *echo) Power(on bool) {
	if on {
		e.note("on")
	} else {
		e.note("off")
	}
}

func (e *echo) Reset() { e.note("reset") }

func (e *echo) Process(capdu []byte) []byte {
	e.note("apdu")
	c, err := apdu.ParseCommand(capdu)
	switch {
	case err != nil:
		return []byte{0x67, 0x00}
	case c.Ne > 0 && len(c.Data) > 0:
		return append(append([]byte(nil), c.Data...), 0x90, 0x00)
	case c.Ne > 0:
		return append(counting(min(c.Ne, int(c.P1)<<8|int(c.P2))), 0x90, 0x00)
	case len(c.Data) > 0 && c.INS == 0xA4: // T=0: what a case 4 command has
		return append(append([]byte(nil), c.Data...), 0x90, 0x00)
	}
	return []byte{0x90, 0x00}
}

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func soon(t testing.TB) context.Context { return within(t, 30*time.Second) }

// command is a command APDU's bytes.
func command(t testing.TB, c apdu.Command) []byte {
	t.Helper()
	b, err := c.AppendBinary(nil)
	require.NoError(t, err)
	return b
}

// attach attaches to a model of a reader.
func attach(t testing.TB, sim *ccidsim.Device) *ccid.Device {
	t.Helper()
	desc, err := ccid.ParseDescriptor(sim.ClassDescriptor())
	require.NoError(t, err)
	d, err := ccid.Attach(soon(t), sim.Open(), desc, "model")
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// connect makes a model of a reader with a card in it, and connects it.
func connect(t testing.TB, cfg ccidsim.Config, card ccidsim.Card, o ccid.Options) (*ccidsim.Device, *ccid.Conn) {
	t.Helper()
	if cfg.Patience == 0 {
		cfg.Patience = 20 * time.Millisecond
	}
	sim := ccidsim.New(cfg)
	sim.Insert(0, card)
	c, err := attach(t, sim).Connect(soon(t), 0, o)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return sim, c
}

// withATR is an echo with an answer to reset.
func withATR(a ccidsim.ATR) (ccidsim.Card, *echo) {
	e := &echo{}
	return ccidsim.WithATR(e, a), e
}

// works checks that a connection carries commands.
func works(t testing.TB, c apdu.Conn) {
	t.Helper()
	for _, n := range []int{1, 40, 255} {
		data, sw, err := apdu.BasicChannel(c).Transmit(soon(t), apdu.Command{INS: 0xA4, Data: counting(n), Ne: 256})
		require.NoError(t, err)
		require.Equal(t, apdu.SWSuccess, sw)
		require.Equal(t, counting(n), data)
	}
	for _, n := range []int{1, 33, 254, 255, 256} {
		data, sw, err := apdu.BasicChannel(c).Transmit(soon(t), apdu.Command{INS: 0xB0, P1: byte(n >> 8), P2: byte(n), Ne: 256})
		require.NoError(t, err)
		require.Equal(t, apdu.SWSuccess, sw)
		require.Equal(t, counting(n), data)
	}
	rapdu, err := c.Transmit(soon(t), []byte{0, 0x70, 0x80, 1})
	require.NoError(t, err)
	require.Equal(t, []byte{0x90, 0x00}, rapdu)
}

// bench is a Bus of models.
type bench struct {
	mu      sync.Mutex
	plugged []*model
}

type model struct {
	sim *ccidsim.Device
	usb reader.USB
	err error // what opening it gives
}

func (b *bench) List(context.Context) ([]ccid.Plugged, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []ccid.Plugged
	for _, m := range b.plugged {
		desc, err := ccid.ParseDescriptor(m.sim.ClassDescriptor())
		all = append(all, ccid.Plugged{USB: m.usb, Manufacturer: "Maker", Product: "Model", Descriptor: desc, Err: err})
	}
	return all, nil
}

func (b *bench) Open(_ context.Context, p ccid.Plugged) (ccid.Endpoints, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.plugged {
		if m.usb == p.USB {
			if m.err != nil {
				return nil, m.err
			}
			return m.sim.Open(), nil
		}
	}
	return nil, ccid.ErrUnplugged
}

func (b *bench) set(models ...*model) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plugged = models
}
