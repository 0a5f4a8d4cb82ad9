package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// The reader commands by a real PC/SC service.
func TestReaderCommands(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 2})
	c := newCard(t, newKeySet(t), pcscd.Slots()[0])
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := pcsc.New().WaitCard(ctx, c.reader)
	require.NoError(t, err)

	t.Run("info", func(t *testing.T) {
		out, status := object(t, "reader", "info", c.reader)
		require.Zero(t, status)
		of := out["reader"].(map[string]any)
		assert.Equal(t, c.reader, of["name"])
		assert.Equal(t, "name:"+c.reader, of["id"])
		assert.Equal(t, []any{"pcsc"}, of["worlds"])
		assert.NotEmpty(t, out["atr"], "in words")
		assert.Equal(t, of["atr"], out["pcsc"].(map[string]any)["atr"], "in hexadecimal")
		stdout, _, status := cli(t, "reader", "info", "name:"+c.reader)
		assert.Zero(t, status)
		assert.Contains(t, stdout, "T=1")
		_, stderr, status := cli(t, "reader", "info", "none")
		assert.Equal(t, exitError, status)
		assert.Contains(t, stderr, pcscd.Slots()[1].Reader, "what there is")
	})
	t.Run("reset", func(t *testing.T) {
		for _, args := range [][]string{{c.reader}, {c.reader, "--cold"}} {
			out, status := object(t, append([]string{"reader", "reset"}, args...)...)
			require.Zero(t, status, "%v", out)
			assert.NotEmpty(t, out["atr"])
			assert.Len(t, out["steps"], 1)
		}
		_, stderr, status := cli(t, "reader", "reset", c.reader, "--driver", "usb")
		assert.Equal(t, exitError, status)
		assert.Contains(t, stderr, "not seen by USB")
		_, stderr, status = cli(t, "reader", "reset", c.reader, "--driver", "serial")
		assert.Equal(t, exitError, status)
		assert.Contains(t, stderr, `driver "serial"`)
		_, stderr, status = cli(t, "reader", "reset", pcscd.Slots()[1].Reader, "--wait", "3s")
		assert.Equal(t, exitError, status)
		assert.Contains(t, stderr, "no card")
	})
	t.Run("a card that another program uses", func(t *testing.T) {
		mine, err := pcsc.New().Connect(t.Context(), c.reader, pcsc.Options{})
		require.NoError(t, err)
		_, stderr, status := cli(t, "reader", "reset", c.reader)
		assert.Equal(t, exitError, status)
		assert.Contains(t, stderr, "--force")
		assert.Contains(t, stderr, "perhaps", "this test is among the candidates")
		_, status = object(t, "reader", "reset", c.reader, "--force")
		assert.Zero(t, status)
		require.NoError(t, mine.Close())

		mine, err = pcsc.New().Connect(t.Context(), c.reader, pcsc.Options{Mode: reader.Exclusive})
		require.NoError(t, err)
		out, status := object(t, "reader", "list")
		require.Zero(t, status)
		of := out["readers"].([]any)[0].(map[string]any)
		assert.Equal(t, true, of["exclusive"])
		assert.NotEmpty(t, of["holders"])
		assert.NotEmpty(t, of["do"])
		require.NoError(t, mine.Close())
	})
	t.Run("watch", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		other := pcscd.Slots()[1].Reader
		cmd := program(ctx, "reader", "watch", "--json")
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(stdout)
		wait := func(event string) {
			t.Helper()
			for lines.Scan() {
				var e readerEventJSON
				require.NoError(t, json.Unmarshal(lines.Bytes(), &e))
				if e.Event == event && e.Name == other {
					assert.Equal(t, worldPCSC, e.World)
					assert.Equal(t, "name:"+other, e.ID)
					return
				}
			}
			require.Fail(t, "no event: "+event)
		}
		wait("reader added")
		inserted, pull := context.WithCancel(ctx)
		served := make(chan error, 1)
		go func() { served <- vpcd.Serve(inserted, pcscd.Slots()[1].Addr, c.card) }()
		wait("card inserted")
		pull()
		assert.ErrorIs(t, <-served, context.Canceled)
		wait("card removed")
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		assert.NoError(t, cmd.Wait(), "an interrupt is no failure")
	})
}

var gem = reader.USB{Vendor: 0x08e6, Product: 0x4433, Serial: "1", Bus: 1, Address: 2, Path: "1-2"}

func usbInfo(err error) ccid.Info {
	return ccid.Info{
		Plugged: ccid.Plugged{USB: gem}, Err: err,
		Slots: []reader.Reader{{Name: "USB 08e6:4433 (1) slot 0", ID: gem.ID(0, false)}},
	}
}

// What both worlds show becomes one list, with what is wrong and what to do.
func TestBothWorlds(t *testing.T) {
	byPCSC := reader.Reader{Name: "Gem 00 00", ID: gem.ID(0, false), Card: true}
	for name, c := range map[string]struct {
		view     view
		listed   []reader.Reader
		worlds   []string
		problem  string
		do       string
		problems int
	}{
		"one reader, held by the service": {
			view{usbDevices: []ccid.Info{usbInfo(&ccid.BusyError{Holders: []ccid.Holder{{PID: 1, Name: "pcscd"}}})}},
			[]reader.Reader{byPCSC}, []string{worldPCSC, worldUSB}, "", "", 0,
		},
		"no service, and the reader is free": {
			view{usbDevices: []ccid.Info{usbInfo(nil)}, pcscErr: pcsc.ErrNoService},
			nil, []string{worldUSB}, "", "--driver usb", 1,
		},
		"a service without its driver": {
			view{usbDevices: []ccid.Info{usbInfo(nil)}},
			nil, []string{worldUSB}, "does not list", "libccid", 0,
		},
		"no permission": {
			view{usbDevices: []ccid.Info{usbInfo(ccid.ErrNoPermission)}, pcscErr: pcsc.ErrNoService},
			nil, []string{worldUSB}, "no permission", "udevadm", 1,
		},
		"a driver of the kernel": {
			view{usbDevices: []ccid.Info{usbInfo(&ccid.BusyError{Driver: "some", Unbind: "unbind it"})}},
			nil, []string{worldUSB}, "unbind it", "as root", 0,
		},
		"a mute card": {
			view{usbErr: ccid.ErrNoUSB},
			[]reader.Reader{{Name: "A", ID: "name:A", Card: true, Mute: true}}, []string{worldPCSC}, "does not answer", "contacts", 0,
		},
		"a USB that cannot be listed": {
			view{usbErr: errors.New("libusb failed")},
			[]reader.Reader{{Name: "A", ID: "name:A"}}, []string{worldPCSC}, "", "", 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.view
			v.merge(c.listed)
			require.Len(t, v.Slots, 1)
			s := v.Slots[0]
			assert.Equal(t, c.worlds, s.Worlds)
			assert.Contains(t, s.Problem, c.problem)
			assert.Equal(t, c.problem == "", s.Problem == "")
			assert.Contains(t, s.Do, c.do)
			assert.Len(t, v.problems(), c.problems)
			var out bytes.Buffer
			v.print(&printer{out: &out})
			assert.Contains(t, out.String(), s.ID)
			assert.Contains(t, out.String(), c.do)
			found, err := v.find(s.ID)
			require.NoError(t, err)
			assert.Same(t, s, found)
		})
	}
}

// Where neither world can be seen, both are said why.
func TestNeitherWorld(t *testing.T) {
	v := view{pcscErr: pcsc.ErrNoService, usbErr: ccid.ErrNoUSB}
	_, err := v.find("")
	assert.ErrorIs(t, err, apdu.ErrNoReader)
	assert.ErrorIs(t, err, pcsc.ErrNoService)
	assert.ErrorIs(t, err, ccid.ErrNoUSB)
	assert.NotContains(t, err.Error(), `""`)
}

// A device's own name does not reach the terminal as it is.
func TestNamesThatSteerATerminal(t *testing.T) {
	v := view{}
	v.merge([]reader.Reader{{Name: "Gem (\x1b]0;x\a\r\n) 00 00", ID: "name:\x9b2J", Card: true, Mute: true}})
	var out bytes.Buffer
	p := &printer{out: &out}
	v.print(p)
	(&infoJSON{}).print(p, v.Slots[0])
	require.NoError(t, p.readerEvent(worldPCSC, reader.Event{Kind: reader.ReaderAdded, Reader: v.Slots[0].Reader}))
	for _, b := range []string{"\x1b", "\a", "\r", "\x9b"} {
		assert.NotContains(t, out.String(), b)
	}
}

// bus is a USB whose readers the test plugs.
type bus struct {
	mu     sync.Mutex
	inside []ccid.Plugged
}

func (b *bus) plug(p ...ccid.Plugged) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inside = p
}

func (b *bus) List(context.Context) ([]ccid.Plugged, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inside, nil
}

func (b *bus) Open(context.Context, ccid.Plugged) (ccid.Endpoints, error) {
	return nil, errors.New("watching must not claim a reader")
}

func TestWatchUSB(t *testing.T) {
	b := &bus{}
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan reader.Event)
	ended := make(chan error, 1)
	go func() { ended <- watchUSB(ctx, ccid.NewSource(b), func(e reader.Event) { events <- e }) }()
	again := gem
	again.Address = 9
	for _, step := range []struct {
		plugged []ccid.Plugged
		kind    reader.EventKind
	}{
		{[]ccid.Plugged{{USB: gem}}, reader.ReaderAdded},
		{nil, reader.ReaderRemoved},
		{[]ccid.Plugged{{USB: again}}, reader.ReaderAdded},
	} {
		b.plug(step.plugged...)
		e := <-events
		assert.Equal(t, step.kind, e.Kind)
		assert.Equal(t, gem.ID(0, false), e.Reader.ID, "another address, the same reader")
	}
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)
}

func TestPCSCClients(t *testing.T) {
	proc := t.TempDir()
	for pid, of := range map[string]struct{ name, maps string }{
		"4000017": {"scdaemon\n", "7f0 r-xp /usr/lib/libpcsclite.so.1.0.0\n"},
		"4000009": {"pcsc_scan\n", "7f0 r-xp /usr/lib/libpcsclite.so.1.0.0\n"},
		"4000010": {"pcscd\n", "7f0 r-xp /usr/lib/libpcsclite.so.1.0.0\n"},
		"4000011": {"bash\n", "7f0 r-xp /usr/lib/libc.so.6\n"},
	} {
		dir := filepath.Join(proc, pid)
		require.NoError(t, os.Mkdir(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "comm"), []byte(of.name), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "maps"), []byte(of.maps), 0o644))
	}
	assert.Equal(t, []ccid.Holder{{PID: 4000009, Name: "pcsc_scan"}, {PID: 4000017, Name: "scdaemon"}}, pcscClients(proc))
	assert.Empty(t, pcscClients(filepath.Join(proc, "none")))
}
