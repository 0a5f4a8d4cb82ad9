package ccidsim_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

// FuzzOut holds that whatever a host sends, each message has one answer of its
// slot and sequence number, and the reader is usable afterwards.
func FuzzOut(f *testing.F) {
	f.Add(byte(2), bytesOf("62000000000000010000"))
	f.Add(byte(1), bytesOf("6F040000000001000000 00A40000"))
	f.Add(byte(3), bytesOf("6F040000000001000010 00A40000"))
	f.Add(byte(0), bytesOf("61050000000000010000 1100000A00"))
	f.Add(byte(0), bytesOf("72000000000000000000"))
	levels := []ccidsim.Level{ccidsim.Character, ccidsim.TPDU, ccidsim.ShortAPDU, ccidsim.ExtendedAPDU}
	f.Fuzz(func(t *testing.T, level byte, sent []byte) {
		d := ccidsim.New(ccidsim.Config{Level: levels[level%4], Patience: time.Nanosecond, Automatic: ccidsim.AutoConfig})
		d.Insert(0, &echo{})
		p := d.Open()
		defer p.Close()
		h := &host{t: t, Pipes: p}
		h.power()
		if len(sent) >= 10 {
			h.out(sent)
			if len(sent)%512 == 0 {
				h.out(nil)
			}
		}
		if len(sent) >= 10 && sent[0] != 0x72 {
			b := h.in()
			require.GreaterOrEqual(t, len(b), 10)
			assert.Equal(t, sent[5:7], b[5:7])
			assert.Equal(t, uint32(len(b)-10), binary.LittleEndian.Uint32(b[1:]))
		}
		// Whatever it was, an abort and a reset make the reader usable.
		h.seq = 7
		if len(sent) >= 10 {
			h.seq = sent[6] + 1
		}
		_, err := h.Control(h.ctx(), 0x21, 1, uint16(h.seq)<<8, 0, nil)
		require.NoError(t, err)
		m := h.message(0x72, 0, [3]byte{}, nil)
		h.out(m)
		for b := h.in(); b[5] != 0 || b[6] != m[6]; b = h.in() {
		}
		h.power()
	})
}

// FuzzT1 holds that a T=1 card answers to whatever it receives, with blocks that
// are whole, and that a RESYNCH makes it usable.
func FuzzT1(f *testing.F) {
	f.Add(bytesOf("00000400A40000A0"))
	f.Add(bytesOf("00C000C0"))
	f.Add(bytesOf("00C101FE3E"))
	f.Add(bytesOf("00C10101C1")) // RESYNCH takes it back
	f.Add(bytesOf("00200400A4000080"))
	f.Add(bytesOf("00800080"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) > 261 || len(sent) > 0 && sent[0] == 0xFF {
			return // no message holds it; a PPS
		}
		d := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Patience: time.Nanosecond, Automatic: ccidsim.AutoConfig})
		d.Insert(0, ccidsim.WithATR(&echo{}, ccidsim.ATR{Protocols: []byte{1}}))
		p := d.Open()
		defer p.Close()
		h := &host{t: t, Pipes: p}
		h.power()
		if len(sent) > 0 {
			b := h.xfr(sent)
			require.GreaterOrEqual(t, len(b), 4)
			assert.Equal(t, b, ccidsim.Block(b[0], b[1], b[3:len(b)-1], false))
		}
		assert.Equal(t, "00E000E0", hexOf(h.xfr(bytesOf("00C000C0"))))
		assert.Equal(t, "000002900092", hexOf(h.xfr(bytesOf("00000400A40000A0"))))
	})
}

// FuzzT0 holds that a T=0 card behind a TPDU reader answers to whatever it
// receives with a status word or an error, and is usable after a reset.
func FuzzT0(f *testing.F) {
	f.Add(bytesOf("00A40000"), bytesOf("00C0000000"), false)
	f.Add(bytesOf("00D7000001AA"), bytesOf("00C0000003"), true)
	f.Add(bytesOf("00CA000000"), bytesOf("00CA000004"), false)
	f.Fuzz(func(t *testing.T, first, second []byte, single bool) {
		d := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Patience: time.Nanosecond, SingleBytes: single})
		d.Insert(0, &echo{})
		p := d.Open()
		defer p.Close()
		h := &host{t: t, Pipes: p}
		h.power()
		for _, b := range [][]byte{first, second} {
			if len(b) > 261 {
				return
			}
			if head, data := h.do(0x6F, 0, [3]byte{}, b); head[7] == 0 {
				if len(b) > 0 && b[0] == 0xFF {
					return // a PPS: another rate, which the reader does not follow
				}
				assert.GreaterOrEqual(t, len(data), 2)
			}
		}
		h.power()
		assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
	})
}

// FuzzATR holds that any answer to reset makes some card, which the reader
// powers, and which is resettable whatever it then receives.
func FuzzATR(f *testing.F) {
	f.Add([]byte{0x3B}, bytesOf("00A4000000"))
	f.Add(bytesOf("3B9F96801FC78031A073BE21136743200718000001A5"), bytesOf("FF10967B"))
	f.Add(bytesOf("3BFFFFFFFFFFFFFFFF"), bytesOf("00"))
	f.Fuzz(func(t *testing.T, atr, sent []byte) {
		if len(atr) == 0 || len(atr) > 200 || len(sent) > 200 {
			return
		}
		d := ccidsim.New(ccidsim.Config{Level: ccidsim.Character, Patience: time.Nanosecond, Automatic: ccidsim.AutoParameters | ccidsim.AutoVoltage})
		d.Insert(0, ccidsim.RawATR(&echo{}, atr))
		p := d.Open()
		defer p.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		h := &host{t: t, Pipes: p}
		for range 2 {
			_, got := h.do(0x62, 0, [3]byte{}, nil)
			assert.Equal(t, atr, got)
			h.do(0x6F, 0, [3]byte{0, 1}, sent)
		}
		require.NoError(t, ctx.Err())
	})
}
