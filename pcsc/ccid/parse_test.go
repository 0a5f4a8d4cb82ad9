package ccid

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/atr"
)

func errorIsOneOf(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

func TestDescriptor(t *testing.T) {
	class := ccidsim.New(ccidsim.Config{Level: ccidsim.ExtendedAPDU, Slots: 3, BusySlots: 2, MaxIFSD: 200}).ClassDescriptor()
	d, err := ParseDescriptor(class)
	require.NoError(t, err)
	assert.Equal(t, uint16(0x0110), d.BCD)
	assert.Equal(t, 3, d.Slots())
	assert.Equal(t, 2, d.BusySlots())
	assert.Equal(t, 200, d.IFSD())
	assert.Equal(t, 4000, d.Clock())
	assert.Equal(t, ExtendedAPDU, d.Features.Level())
	assert.Equal(t, 65554, d.MaxMessage())
	assert.True(t, d.Speaks(0) && d.Speaks(1))
	assert.Empty(t, d.Problems())
	assert.NotContains(t, fmt.Sprint(d.Lines()), "problem")

	lies := Descriptor{MaxSlotIndex: 255, MaxIFSD: 1 << 31, MaxMessageLength: 1 << 31, Features: levels, MaxDataRate: 1 << 31, MaxBusySlots: 255}
	assert.Equal(t, 16, lies.Slots())
	assert.Equal(t, 254, lies.IFSD())
	assert.Equal(t, maxMessage, lies.MaxMessage())
	assert.Equal(t, 16, lies.BusySlots())
	assert.Equal(t, 64, Descriptor{}.MaxMessage())
	assert.Equal(t, fallbackRate, Descriptor{}.Rate())
	assert.Len(t, lies.Problems(), 8)
	assert.Contains(t, fmt.Sprint(lies.Lines()), "dwMaxCCIDMessageLength")

	for _, bad := range [][]byte{nil, class[:53], append([]byte{0x35}, class[1:]...), append([]byte{0x36, 0x22}, class[2:]...), append([]byte{0xFF}, class[1:]...)} {
		_, err := ParseDescriptor(bad)
		assert.ErrorIs(t, err, ErrDescriptor)
	}
}

func TestCodes(t *testing.T) {
	for c, want := range map[Code]string{
		CodeMute: "ICC_MUTE", CodeSlotBusy: "CMD_SLOT_BUSY", 0x05: "no such slot", 0x07: "byte 7", 0xC0: "C0", CodeNotSupported: "no such command",
	} {
		err := error(&Error{Op: "transmit", Reader: "R", Err: c})
		assert.ErrorContains(t, err, want)
		assert.ErrorIs(t, err, c)
		assert.Equal(t, c == CodeMute, errors.Is(err, apdu.ErrTimeout))
		assert.Equal(t, c != CodeMute, errors.Is(err, apdu.ErrTransport))
	}
	assert.ErrorIs(t, &Error{Err: ErrUnplugged}, apdu.ErrNoReader)
	assert.ErrorIs(t, &Error{Err: ErrUnplugged}, apdu.ErrCardRemoved)
	assert.ErrorIs(t, &Error{Err: ErrReader}, apdu.ErrTransport)
	assert.EqualError(t, &Error{Op: "watch", Err: ErrNoUSB}, "ccid: watch: "+ErrNoUSB.Error())
}

func TestBestSpeed(t *testing.T) {
	for _, c := range []struct {
		ta1     atr.Speed
		highest int
		rates   []uint32
		want    string
	}{
		{0x11, 344105, nil, "F=372 D=1"},
		{0x96, 344105, nil, "F=512 D=32"},
		{0x96, 200000, nil, "F=372 D=16"},
		{0x96, 10753, nil, "F=372 D=1"},
		{0x96, 344105, []uint32{10752, 125000}, "F=512 D=16"},
		{0x96, 344105, []uint32{9600}, "F=372 D=1"},
		{0x18, 344105, nil, "F=372 D=12"},
		{0x94, 1, nil, "F=372 D=1"},
		{0x7F, 344105, nil, "F=372 D=1"}, // reserved
		{0x97, 600000, []uint32{500000}, "F=512 D=64"},
	} {
		assert.Equal(t, c.want, bestSpeed(c.ta1, 4000, c.highest, c.rates).String(), "%02X, %d, %v", byte(c.ta1), c.highest, c.rates)
	}
}

func TestParameters(t *testing.T) {
	a, err := atr.Parse(ccidsim.ATR{Protocols: []byte{0, 1}, TA1: 0x96, Guard: 3, WI: 12, IFSC: 200, Waiting: 0x45, CRC: true, Classes: 0xC3}.Bytes())
	require.NoError(t, err)
	assert.Equal(t, []byte{0x96, 0x00, 3, 12, 3}, parameters(a, T0, 0x96))
	assert.Equal(t, []byte{0x96, 0x11, 3, 0x45, 3, 200, 0}, parameters(a, T1, 0x96))
	a.Inverse = true
	assert.Equal(t, byte(0x02), parameters(a, T0, 0x11)[1])
	assert.Equal(t, byte(0x13), parameters(a, T1, 0x11)[1])
}

func TestSlotChange(t *testing.T) {
	assert.Equal(t, []slotChange{{true, true}, {false, false}, {false, true}, {true, false}, {true, true}},
		parseSlotChange([]byte{0x50, 0x63, 0x03}, 5))
	assert.Len(t, parseSlotChange([]byte{0x50, 0x63}, 5), 4)
	for _, other := range [][]byte{nil, {0x50}, {0x51, 0, 0, 1}, {0}} {
		assert.Nil(t, parseSlotChange(other, 4))
	}
}

func FuzzDescriptor(f *testing.F) {
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Slots: 2})
	f.Add(sim.ClassDescriptor())
	f.Add(append(sim.DeviceDescriptor(), sim.ConfigDescriptor()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseDescriptor(b); err == nil {
			assert.LessOrEqual(t, d.Slots(), 16)
			assert.LessOrEqual(t, d.MaxMessage(), maxMessage)
			assert.GreaterOrEqual(t, d.MaxMessage(), minMessage)
			assert.NotEmpty(t, d.Lines())
		} else {
			assert.ErrorIs(t, err, ErrDescriptor)
		}
		found, err := findInterfaces(b)
		if err != nil {
			assert.ErrorIs(t, err, ErrDescriptor)
		}
		for _, i := range found {
			assert.True(t, i.complete())
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte{0x80, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0x90, 0x00})
	f.Add([]byte{0x50, 3})
	f.Add([]byte{0x82, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x11}) // as QEMU's reader has it
	f.Fuzz(func(t *testing.T, b []byte) {
		parseSlotChange(b, maxSlots)
		a, err := parseAnswer(b)
		if err != nil {
			assert.ErrorIs(t, err, ErrReader)
			return
		}
		if claimed := int(binary.LittleEndian.Uint32(b[1:])); claimed != 0 || a.kind != ansParameters {
			assert.Len(t, a.data, claimed)
		}
	})
}

// script is a reader whose bulk-IN transfers are the fuzzer's.
type script struct{ in []byte }

func (s *script) Out(context.Context, []byte) error { return nil }
func (s *script) Interrupt(context.Context, []byte) (int, error) {
	return 0, errors.ErrUnsupported
}
func (s *script) Control(context.Context, uint8, uint8, uint16, uint16, []byte) (int, error) {
	return 0, nil
}
func (s *script) Close() error { return nil }
func (s *script) In(_ context.Context, b []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, ErrUnplugged
	}
	n := min(int(s.in[0]), len(s.in)-1, len(b))
	copy(b, s.in[1:1+n])
	s.in = s.in[1+n:]
	return n, nil
}

// A reader that says anything: errors, no panic, and an end.
func FuzzReader(f *testing.F) {
	f.Add(uint32(LevelTPDU), []byte{10, 0x81, 0, 0, 0, 0, 0, 1, 1, 0, 0})
	f.Add(uint32(LevelExtAPDU), []byte{10, 0x81, 0, 0, 0, 0, 0, 1, 1, 0, 0, 14, 0x80, 4, 0, 0, 0, 0, 3, 0, 0, 0, 0x3B, 0x80, 0x01, 0x81})
	f.Fuzz(func(t *testing.T, features uint32, in []byte) {
		ctx := context.Background()
		d, err := Attach(ctx, &script{in}, Descriptor{Features: Features(features), MaxSlotIndex: 1, Voltages: 7}, "fuzz")
		if err != nil {
			return
		}
		defer d.Close()
		c, err := d.Connect(ctx, 0, Options{})
		if err != nil {
			var typed *Error
			assert.ErrorAs(t, err, &typed)
			return
		}
		defer c.Close()
		for range 3 {
			_, err = c.Transmit(ctx, []byte{0, 0xA4, 0, 0, 2, 0x3F, 0, 0})
		}
		assert.Error(t, err)
	})
}

func FuzzT1(f *testing.F) {
	f.Add(false, []byte{5, 0, 0, 2, 0x90, 0x00, 0x92})
	f.Add(true, []byte{1, 0xFF, 4, 0, 0xC3, 1, 1})
	f.Fuzz(func(t *testing.T, crc bool, in []byte) {
		machine := newT1(atr.T1{IFSC: 32, CRC: crc}, 254, 271)
		machine.exchange = func(_ context.Context, block []byte, _ byte) ([]byte, error) {
			if _, err := parseBlock(block, crc); err != nil {
				t.Errorf("% X: %v", block, err)
			}
			if len(in) == 0 {
				return nil, CodeHardware
			}
			n := min(int(in[0]), len(in)-1)
			out := bytes.Clone(in[1 : 1+n])
			in = in[1+n:]
			if n > 2 { // a block that parses, most of the time
				out = appendBlock(nil, out[1], out[3:], crc)
			}
			return out, nil
		}
		for range 4 {
			rapdu, err := machine.transmit(context.Background(), make([]byte, 70))
			if err == nil {
				assert.LessOrEqual(t, len(rapdu), maxResponse)
			}
		}
	})
}

func FuzzT0(f *testing.F) {
	f.Add([]byte{0, 0xA4, 0, 0, 2, 0x3F, 0}, []byte{0xA4, 0x90, 0x00})
	f.Add([]byte{0, 0xB0, 0, 0, 2}, []byte{0x60, 0x4F, 1, 0xB0, 2, 0x90, 0x00})
	f.Fuzz(func(t *testing.T, capdu, in []byte) {
		tpdu, ne, err := tpduT0(nil, capdu)
		if err != nil {
			assert.True(t, errorIsOneOf(err, apdu.ErrMalformed, ErrExtended))
			return
		}
		require.GreaterOrEqual(t, len(tpdu), 5)
		sent := 0
		rapdu, err := procedureT0(context.Background(), func(_ context.Context, send []byte, n int) ([]byte, error) {
			sent += len(send)
			return gather(n, func(want int) ([]byte, error) {
				if len(in) == 0 {
					return nil, CodeMute
				}
				m := min(want, len(in))
				out := in[:m]
				in = in[m:]
				return out, nil
			})
		}, tpdu, ne)
		assert.LessOrEqual(t, sent, len(tpdu))
		if err == nil {
			assert.LessOrEqual(t, len(rapdu), ne+2)
		}
	})
}
