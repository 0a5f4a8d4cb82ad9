package ccidsim_test

import (
	"context"
	"encoding/binary"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

var _ ccidsim.Card = (*appletsim.Card)(nil)

func TestClassDescriptor(t *testing.T) {
	d := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Automatic: ccidsim.AutoVoltage | ccidsim.AutoBaud, Slots: 2, Voltages: ccidsim.Volt3})
	assert.Equal(t, "3621100101020300"+"0000A00F0000A00F000000002A00002940050037FE000000000000000000"+"0000"+
		"280001000F010000"+"FFFF"+"0000"+"0001", hexOf(d.ClassDescriptor()))
	assert.Len(t, d.ClassDescriptor(), 54)
}

func TestDescriptors(t *testing.T) {
	for _, cfg := range []ccidsim.Config{{}, {FullSpeed: true, NoInterrupt: true}, {Serial: "4711"}} {
		d := ccidsim.New(cfg)
		h := open(t, d)
		get := func(kind, index byte) []byte {
			b := make([]byte, 512)
			n, err := h.Control(h.ctx(), 0x80, 6, uint16(kind)<<8|uint16(index), 0, b)
			require.NoError(t, err)
			return b[:n]
		}
		device := get(1, 0)
		assert.Len(t, device, 18)
		assert.Equal(t, "E608"+"3344", hexOf(device[8:12]))
		assert.Equal(t, device, d.DeviceDescriptor())
		config := get(2, 0)
		assert.Equal(t, config, d.ConfigDescriptor())
		assert.Equal(t, len(config), int(binary.LittleEndian.Uint16(config[2:])))
		kinds := ""
		for b := config; len(b) > 0; b = b[b[0]:] {
			kinds += hexOf(b[1:2])
			if b[1] == 5 && b[3] == 2 {
				assert.Equal(t, cfg.FullSpeed, binary.LittleEndian.Uint16(b[4:]) == 64)
			}
		}
		if cfg.NoInterrupt {
			assert.Equal(t, "0204210505", kinds)
		} else {
			assert.Equal(t, "020421050505", kinds)
		}
		assert.Equal(t, "04030904", hexOf(get(3, 0)))
		assert.Equal(t, "63006100", hexOf(get(3, 1)[2:6]))
		if cfg.Serial != "" {
			assert.Equal(t, "0A033400370031003100", hexOf(get(3, device[16])))
		} else {
			assert.Zero(t, device[16])
		}
	}
}

func TestControl(t *testing.T) {
	d := ccidsim.New(ccidsim.Config{})
	h := open(t, d)
	b := make([]byte, 256)
	for _, tt := range []struct {
		kind, request uint8
		value         uint16
		want          string
	}{
		{0x80, 0, 0, "0000"}, {0x80, 8, 0, "00"}, {0x00, 9, 1, ""}, {0x80, 8, 0, "01"},
		{0x81, 10, 0, "00"}, {0x01, 11, 0, ""}, {0x02, 1, 0, ""}, {0x00, 5, 7, ""},
		{0xA1, 2, 0, "A00F0000"},
	} {
		n, err := h.Control(h.ctx(), tt.kind, tt.request, tt.value, 0, b)
		require.NoError(t, err, "%+v", tt)
		if tt.kind&0x80 != 0 {
			assert.Equal(t, tt.want, hexOf(b[:n]), "%+v", tt)
		}
	}
	n, err := h.Control(h.ctx(), 0xA1, 3, 0, 0, b)
	require.NoError(t, err)
	assert.Equal(t, 4*int(d.ClassDescriptor()[27]), n, "as many data rates as the descriptor says")
	rates := map[uint32]bool{}
	for r := b[:n]; len(r) > 0; r = r[4:] {
		rates[binary.LittleEndian.Uint32(r)] = true
	}
	assert.True(t, rates[10752] && rates[250000] && rates[344086], "%v", rates)
	assert.False(t, rates[688172])
	for _, r := range [][4]uint16{{0xC0, 1}, {0x80, 6, 0x0300 + 9}, {0x80, 6, 0x0F00}, {0x00, 9, 2}, {0x01, 11, 1},
		{0xA1, 9}, {0xA1, 2, 0, 1}, {0x21, 1, 5}, {0x81, 10, 0, 1}, {0x02, 3}} {
		_, err := h.Control(h.ctx(), byte(r[0]), byte(r[1]), r[2], r[3], b)
		assert.ErrorIs(t, err, ccidsim.ErrStall, "%X", r)
		assert.ErrorIs(t, err, syscall.EPIPE)
	}
}

func TestSlotStates(t *testing.T) {
	card := &echo{}
	d := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Automatic: ccidsim.ClockStop, Voltages: ccidsim.Volt3, Patience: time.Millisecond})
	h := open(t, d)
	status := func() string { head, _ := h.do(0x65, 0, [3]byte{}, nil); return hexOf(head[7:10]) }

	assert.Equal(t, "020001", status(), "empty")
	head, _ := h.do(0x62, 0, [3]byte{2}, nil)
	assert.Equal(t, "42FE00", hexOf(head[7:10]))
	assert.Equal(t, byte(0xFE), h.fails(bytesOf("00A40000")))

	d.Insert(0, card)
	assert.Equal(t, "010001", status(), "inactive")
	assert.Equal(t, byte(0xFE), h.fails(bytesOf("00A40000")))
	for _, sel := range []byte{0, 1, 3, 4} {
		head, _ := h.do(0x62, 0, [3]byte{sel}, nil)
		assert.Equal(t, "410700", hexOf(head[7:10]), "voltage %d", sel)
	}
	head, atr := h.do(0x62, 0, [3]byte{2}, nil)
	assert.Equal(t, "000000", hexOf(head[7:10]))
	assert.Equal(t, card.ATR(), atr)
	assert.Equal(t, "000000", status(), "active")

	head, _ = h.do(0x6E, 0, [3]byte{1}, nil)
	assert.Equal(t, "000001", hexOf(head[7:10]), "clock stopped")
	assert.Equal(t, "000001", status())
	assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
	assert.Equal(t, "000000", status())
	head, _ = h.do(0x6E, 0, [3]byte{2}, nil)
	assert.Equal(t, "4007", hexOf(head[7:9]))

	h.do(0x62, 0, [3]byte{2}, nil)
	assert.Equal(t, []string{"on", "00A40000", "reset"}, card.history())
	head, _ = h.do(0x63, 0, [3]byte{}, nil)
	assert.Equal(t, "010001", hexOf(head[7:10]))
	assert.Equal(t, []string{"off"}, card.history())
	h.do(0x62, 0, [3]byte{2}, nil)
	d.Remove(0)
	assert.Equal(t, "020001", status())
	d.Reinsert(0)
	d.Reinsert(0)
	assert.Equal(t, "010001", status())
	assert.Equal(t, []string{"on", "off"}, card.history())
}

func TestMessagesThatAreRefused(t *testing.T) {
	_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU, MaxMessage: 271}, &echo{})
	ask := func(kind byte, slot int, specific [3]byte, data []byte) string {
		head, _ := h.do(kind, slot, specific, data)
		return hexOf(append(head[:1:1], head[7:9]...))
	}
	assert.Equal(t, "814000", ask(0x99, 0, [3]byte{}, nil), "no such command")
	assert.Equal(t, "834000", ask(0x6B, 0, [3]byte{}, []byte{1}), "escape")
	assert.Equal(t, "814000", ask(0x71, 0, [3]byte{}, nil), "mechanics")
	assert.Equal(t, "804000", ask(0x69, 0, [3]byte{}, nil), "PIN pad")
	assert.Equal(t, "814000", ask(0x6A, 0, [3]byte{}, nil), "T0APDU at the TPDU level")
	assert.Equal(t, "814000", ask(0x6E, 0, [3]byte{1}, nil), "clock")
	assert.Equal(t, "804205", ask(0x6F, 1, [3]byte{}, nil), "no such slot")
	assert.Equal(t, "804001", ask(0x6F, 0, [3]byte{}, make([]byte, 262)), "too long")
	assert.Equal(t, "804008", ask(0x6F, 0, [3]byte{0, 1}, bytesOf("00A40000")), "wLevelParameter")
	head, rate := h.do(0x73, 0, [3]byte{}, make([]byte, 8))
	assert.Equal(t, byte(0x84), head[0])
	assert.Equal(t, "A00F0000002A0000", hexOf(rate))

	h.out([]byte{0x65, 0, 0}) // no header: there is nothing to answer to
	m := h.message(0x6F, 0, [3]byte{}, bytesOf("00A40000"))
	h.out(m[:12])
	assert.Equal(t, "4001", hexOf(h.in()[7:9]), "shorter than it says")
	h.out(append(h.message(0x6F, 0, [3]byte{}, bytesOf("00A40000")), 0))
	assert.Equal(t, "4001", hexOf(h.in()[7:9]), "longer than it says")
	assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
}

func TestEscape(t *testing.T) {
	_, h := reader(t, ccidsim.Config{Escape: func(in []byte) []byte { return append(in, 0xEE) }}, &echo{})
	head, data := h.do(0x6B, 0, [3]byte{}, []byte{1, 2})
	assert.Equal(t, "830000", hexOf(append(head[:1:1], head[7:9]...)))
	assert.Equal(t, "0102EE", hexOf(data))
}

func TestAMuteCard(t *testing.T) {
	_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, &echo{mute: true})
	assert.Equal(t, byte(0xFE), h.fails(bytesOf("00A40000")))
	d := ccidsim.New(ccidsim.Config{})
	d.Insert(0, ccidsim.RawATR(&echo{}, nil))
	h = open(t, d)
	head, _ := h.do(0x62, 0, [3]byte{1}, nil)
	assert.Equal(t, "41FE", hexOf(head[7:9]), "no answer to reset")
	a := ccidsim.ATR{Classes: 0x04}
	d.Insert(0, ccidsim.RawATR(&echo{}, a.Bytes()))
	head, _ = h.do(0x62, 0, [3]byte{1}, nil)
	assert.Equal(t, "41F5", hexOf(head[7:9]), "a card for 1.8 V")
	head, _ = h.do(0x62, 0, [3]byte{3}, nil)
	assert.Equal(t, "0000", hexOf(head[7:9]))
}

func TestTransfers(t *testing.T) {
	_, h := reader(t, ccidsim.Config{Level: ccidsim.ExtendedAPDU}, &echo{})
	t.Run("a command in several", func(t *testing.T) {
		capdu := append(bytesOf("00EE0000 00 0800"), counting(2048)...)
		m := h.message(0x6F, 0, [3]byte{}, capdu)
		h.out(m[:512])
		h.out(m[512:1536])
		h.out(m[1536:])
		assert.Equal(t, "9000", hexOf(h.in()[10:]))
	})
	t.Run("an answer in several, with an empty packet", func(t *testing.T) {
		const n = 1024 - 10 - 2
		h.out(h.message(0x6F, 0, [3]byte{}, []byte{0, 0xEE, 0, 0, 0, n >> 8, n & 0xFF}))
		b := make([]byte, 512)
		for _, want := range []int{512, 512, 0} {
			got, err := h.In(h.ctx(), b)
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
		h.out(h.message(0x6F, 0, [3]byte{}, []byte{0, 0xEE, 0, 0, 0, n >> 8, n & 0xFF}))
		assert.Len(t, h.in(), 1024)
		assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))), "no empty packet where there was room")
	})
	t.Run("that are given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(5*time.Millisecond, cancel)
		_, err := h.In(ctx, make([]byte, 512))
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, h.Out(ctx, []byte{1}), context.Canceled)
		_, err = h.Control(ctx, 0x80, 0, 0, 0, nil)
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
	})
}

func TestPipesClose(t *testing.T) {
	d, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, &echo{})
	ended := make(chan error, 1)
	go func() { _, err := h.In(context.Background(), make([]byte, 512)); ended <- err }()
	require.NoError(t, h.Close())
	require.NoError(t, h.Close())
	assert.ErrorIs(t, <-ended, ccidsim.ErrClosed)
	assert.ErrorIs(t, h.Out(h.ctx(), nil), ccidsim.ErrClosed)
	h2 := open(t, d)
	assert.Equal(t, "9000", hexOf(h2.xfr(bytesOf("00A40000"))), "the card stayed active")
}

func TestSlotChanges(t *testing.T) {
	d := ccidsim.New(ccidsim.Config{Slots: 5})
	h := open(t, d)
	next := func() string {
		b := make([]byte, 16)
		n, err := h.Interrupt(h.ctx(), b)
		require.NoError(t, err)
		return hexOf(b[:n])
	}
	d.Insert(0, &echo{})
	d.Insert(4, &echo{})
	assert.Equal(t, "500303", next())
	d.Remove(0)
	assert.Equal(t, "500201", next())
	d.InjectInterrupt([]byte{0x51, 0, 0, 1})
	assert.Equal(t, "51000001", next())

	got := make(chan string)
	go func() { got <- next() }()
	d.Reinsert(0)
	assert.Equal(t, "500301", <-got)

	_, err := h.Control(h.ctx(), 0x00, 9, 1, 0, nil)
	require.NoError(t, err)
	assert.Equal(t, "500303", next(), "a host that comes new hears of every card")

	none := ccidsim.New(ccidsim.Config{NoInterrupt: true})
	_, err = open(t, none).Interrupt(h.ctx(), make([]byte, 16))
	assert.ErrorIs(t, err, ccidsim.ErrStall)
}

func TestUnplug(t *testing.T) {
	card := &echo{}
	d, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, card)
	ended := make(chan error, 2)
	go func() { _, err := h.In(context.Background(), make([]byte, 512)); ended <- err }()
	go func() {
		for {
			if _, err := h.Interrupt(context.Background(), make([]byte, 512)); err != nil {
				ended <- err
				return
			}
		}
	}()
	gone := d.Unplugged()
	d.Unplug()
	d.Unplug()
	<-gone
	for range 2 {
		err := <-ended
		assert.ErrorIs(t, err, ccidsim.ErrUnplugged)
		assert.ErrorIs(t, err, apdu.ErrNoReader)
		assert.ErrorIs(t, err, syscall.ENODEV)
	}
	assert.ErrorIs(t, h.Out(h.ctx(), nil), ccidsim.ErrUnplugged)
	_, err := h.Control(h.ctx(), 0x80, 0, 0, 0, nil)
	assert.ErrorIs(t, err, ccidsim.ErrUnplugged)
	assert.Equal(t, []string{"on", "off"}, card.history())

	d.Plug()
	d.Plug()
	h = open(t, d)
	head, _ := h.do(0x65, 0, [3]byte{}, nil)
	assert.Equal(t, byte(1), head[7], "inactive")
	h.power()
	assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
}

func TestSeveralSlots(t *testing.T) {
	release := make(chan struct{})
	cfg := ccidsim.Config{Level: ccidsim.TPDU, Slots: 3, BusySlots: 2, Patience: time.Millisecond}
	cfg.Hooks.Before = func(slot int, _ []byte) ccidsim.Fate {
		if slot < 2 {
			<-release
		}
		return ccidsim.Fate{}
	}
	d := ccidsim.New(cfg)
	h := open(t, d)
	for i := range 3 {
		d.Insert(i, &echo{})
		h.do(0x62, i, [3]byte{1}, nil)
	}
	first := h.message(0x6F, 0, [3]byte{}, bytesOf("00A40000"))
	second := h.message(0x6F, 1, [3]byte{}, bytesOf("00A40000"))
	h.out(first)
	h.out(second)
	head, _ := h.do(0x6F, 2, [3]byte{}, bytesOf("00A40000"))
	assert.Equal(t, "40E0", hexOf(head[7:9]), "two slots are busy")
	head, _ = h.do(0x6F, 0, [3]byte{}, bytesOf("00A40000"))
	assert.Equal(t, "40E0", hexOf(head[7:9]), "the slot is busy")
	close(release)
	seen := map[byte]byte{}
	for range 2 {
		b := h.in()
		seen[b[5]] = b[6]
		assert.Equal(t, "9000", hexOf(b[10:]))
	}
	assert.Equal(t, map[byte]byte{0: first[6], 1: second[6]}, seen)
}

func TestAbort(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	cfg := ccidsim.Config{Level: ccidsim.TPDU}
	d, h := reader(t, cfg, &echo{})
	d.SetHooks(ccidsim.Hooks{Before: func(_ int, capdu []byte) ccidsim.Fate {
		if capdu[1] == 0xEE {
			<-release
		}
		return ccidsim.Fate{}
	}})
	control := func(seq byte) {
		_, err := h.Control(h.ctx(), 0x21, 1, uint16(seq)<<8, 0, nil)
		require.NoError(t, err)
	}
	t.Run("control first", func(t *testing.T) {
		m := h.message(0x6F, 0, [3]byte{}, bytesOf("00EE0000"))
		h.out(m)
		control(h.seq)
		b := h.in()
		assert.Equal(t, []byte{m[6], 0x40, 0xFF}, b[6:9], "the command under way")
		refused := h.message(0x65, 0, [3]byte{}, nil)
		h.seq--
		h.out(refused)
		assert.Equal(t, "40FF", hexOf(h.in()[7:9]), "every command fails until the other half")
		head, _ := h.do(0x72, 0, [3]byte{}, nil)
		assert.Equal(t, "810000", hexOf(append(head[:1:1], head[7:9]...)))
		assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
	})
	t.Run("bulk first", func(t *testing.T) {
		m := h.message(0x6F, 0, [3]byte{}, bytesOf("00EE0000"))
		h.out(m)
		stop := h.message(0x72, 0, [3]byte{}, nil)
		h.out(stop)
		control(stop[6])
		assert.Equal(t, []byte{m[6], 0x40, 0xFF}, h.in()[6:9])
		assert.Equal(t, []byte{stop[6], 0x00, 0x00}, h.in()[6:9])
		assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
	})
	t.Run("another sequence number", func(t *testing.T) {
		control(h.seq + 1)
		h.out(h.message(0x72, 0, [3]byte{}, nil))
		head, _ := func() ([]byte, []byte) {
			m := h.message(0x72, 0, [3]byte{}, nil)
			h.out(m)
			control(m[6])
			return h.in(), nil
		}()
		assert.Equal(t, "00", hexOf(head[7:8]))
	})
}

func TestTimeExtension(t *testing.T) {
	for _, level := range []ccidsim.Level{ccidsim.TPDU, ccidsim.ShortAPDU} {
		extends(t, level)
	}
}

// extends: the host hears that a T=0 card works, from the reader or by the
// card's NULL bytes.
func extends(t *testing.T, level ccidsim.Level) {
	cfg := ccidsim.Config{Level: level, Extension: 3 * time.Millisecond, CardExtension: 2 * time.Millisecond}
	release := working(&cfg)
	_, h := reader(t, cfg, &echo{})
	h.out(h.message(0x6F, 0, [3]byte{}, bytesOf("00A40000")))
	b := h.in()
	assert.Equal(t, "8001", hexOf(b[7:9]))
	release()
	for b[7] == 0x80 {
		assert.Len(t, b, 10)
		b = h.in()
	}
	assert.Equal(t, "9000", hexOf(b[10:]))
}

func TestFaults(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(map[bool]string{false: "before", true: "after"}[after], func(t *testing.T) {
			card := &echo{}
			seen := func(n int) []string {
				h := card.history()
				if after {
					n++
				}
				require.Len(t, h, n)
				return h
			}
			d, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, card)
			card.history()
			done := 0
			d.Arm(0, ccidsim.Fault{Command: 2, After: after, Fate: ccidsim.Fate{Kind: ccidsim.Pull}, Do: func() { done++ }})
			assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
			head, _ := h.do(0x6F, 0, [3]byte{}, bytesOf("00A40000"))
			assert.Equal(t, "42FE", hexOf(head[7:9]), "the card left")
			d.Reinsert(0)
			h.power()
			seen(3) // a command, off, on
			assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))), "once only")
			assert.Equal(t, 1, done)
			assert.Equal(t, 3, d.Commands(0))
			card.history()

			d.Arm(0, ccidsim.Fault{Command: 1, After: after, Fate: ccidsim.Fate{Kind: ccidsim.Mute}})
			assert.Equal(t, byte(0xFE), h.fails(bytesOf("00A40000")))
			assert.Equal(t, byte(0xFE), h.fails(bytesOf("00A40000")), "until a reset")
			seen(0)
			h.power()
			assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))

			d.Arm(0, ccidsim.Fault{Command: 1, After: after, Fate: ccidsim.Fate{Kind: ccidsim.Unplug}})
			card.history()
			h.out(h.message(0x6F, 0, [3]byte{}, bytesOf("00A40000")))
			_, err := h.In(h.ctx(), make([]byte, 512))
			assert.ErrorIs(t, err, ccidsim.ErrUnplugged)
			d.Plug()
			h.power()
			seen(2)
			d.Arm(0, ccidsim.Fault{Command: 1, Fate: ccidsim.Fate{Kind: ccidsim.Mute}})
			d.Disarm(0)
			assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
		})
	}
}

func TestACardThatComesBackByItself(t *testing.T) {
	cfg := ccidsim.Config{Level: ccidsim.TPDU}
	d, h := reader(t, cfg, &echo{})
	d.SetHooks(ccidsim.Hooks{After: func(slot int, capdu, rapdu []byte) ccidsim.Fate {
		assert.Equal(t, "00A40000", hexOf(capdu))
		assert.Equal(t, "9000", hexOf(rapdu))
		return ccidsim.Fate{Kind: ccidsim.Pull, Away: 10 * time.Millisecond}
	}})
	b := make([]byte, 16)
	_, err := h.Interrupt(h.ctx(), b) // the insertion
	require.NoError(t, err)
	h.fails(bytesOf("00A40000"))
	for b[1] = 0; b[1]&1 == 0; { // absent, and present again, or both in one
		_, err := h.Interrupt(h.ctx(), b)
		require.NoError(t, err)
	}
	h.power()
}

// TestACardThatWorksOn: what a card was doing when it was pulled ends before it
// is powered again, and its answer reaches nobody.
func TestACardThatWorksOn(t *testing.T) {
	card := &echo{}
	working, release := make(chan struct{}), make(chan struct{})
	d, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, blocking{card, working, release})
	card.history()
	h.out(h.message(0x6F, 0, [3]byte{}, bytesOf("00EE0000")))
	<-working
	removed := make(chan struct{})
	go func() { d.Remove(0); close(removed) }()
	assert.Equal(t, "42FE", hexOf(h.in()[7:9]))
	close(release)
	<-removed
	d.Reinsert(0)
	h.power()
	assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
	assert.Equal(t, []string{"00EE0000", "off", "on", "00A40000"}, card.history())
}

// blocking is a card that waits in INS EE.
type blocking struct {
	*echo
	working, release chan struct{}
}

func (b blocking) Process(capdu []byte) []byte {
	if capdu[1] == 0xEE {
		close(b.working)
		<-b.release
	}
	return b.echo.Process(capdu)
}

func TestReplyHook(t *testing.T) {
	d, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, &echo{})
	d.SetHooks(ccidsim.Hooks{Reply: func(command, answer []byte) [][]byte {
		assert.Equal(t, command[6], answer[6])
		d.Inject([]byte{9, 9})
		return [][]byte{answer[:5], answer[5:], {1}}
	}})
	h.out(h.message(0x6F, 0, [3]byte{}, bytesOf("00A40000")))
	var got []byte
	sizes := []int{}
	for range 4 {
		b := h.in()
		sizes = append(sizes, len(b))
		got = append(got, b...)
	}
	assert.Equal(t, []int{2, 5, 7, 1}, sizes)
	assert.Equal(t, "9000", hexOf(got[12:14]))
}

func TestAHostThatDoesNotRead(t *testing.T) {
	d, h := reader(t, ccidsim.Config{}, &echo{})
	for range 1000 {
		h.out(h.message(0x65, 0, [3]byte{}, nil))
		d.Inject([]byte{1})
		d.InjectInterrupt([]byte{1})
	}
	n := 0
	for ctx := canceledAfter(t, 20*time.Millisecond); ; n++ {
		if _, err := h.In(ctx, make([]byte, 64)); err != nil {
			assert.True(t, errors.Is(err, context.DeadlineExceeded))
			break
		}
	}
	assert.LessOrEqual(t, n, 64)
}

func canceledAfter(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestWorks(t *testing.T) {
	cfg := ccidsim.Config{Level: ccidsim.TPDU}
	cfg.Hooks.Works = func(_ int, capdu []byte) time.Duration { return time.Duration(capdu[1]) * time.Microsecond }
	_, h := reader(t, cfg, &echo{})
	assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
}
