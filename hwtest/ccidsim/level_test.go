package ccidsim_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

var protocols = map[string]ccidsim.ATR{"T=0": {}, "T=1": {Protocols: []byte{1}}}

func TestShortAPDULevel(t *testing.T) {
	for name, a := range protocols {
		t.Run(name, func(t *testing.T) {
			card := &echo{}
			_, h := reader(t, ccidsim.Config{Level: ccidsim.ShortAPDU, Automatic: ccidsim.AutoConfig}, ccidsim.WithATR(card, a))
			for _, tt := range []struct{ capdu, rapdu string }{
				{"00A40000", "9000"},
				{"00CA000000", "000102039000"},
				{"00EE000004", "000102039000"},
				{"00EE000002AABB", "9000"},
				{"00EE000002AABB00", "AABB9000"},
				{"00EE000002AABB02", "AABB9000"},
			} {
				if name == "T=0" && tt.capdu == "00EE000002AABB00" {
					tt.rapdu = "9000" // the card sees a case 3 command and has nothing to fetch
				}
				if name == "T=0" && tt.capdu == "00EE000002AABB02" {
					continue
				}
				assert.Equal(t, tt.rapdu, hexOf(h.xfr(bytesOf(tt.capdu))), tt.capdu)
			}
			assert.Equal(t, byte(1), h.fails(bytesOf("00EE0000000001AA")), "extended length")
			assert.Equal(t, byte(1), h.fails(bytesOf("00EE00")))
			head, _ := h.do(0x6F, 0, [3]byte{}, make([]byte, 262))
			assert.Equal(t, []byte{0x40, 1}, head[7:9])
		})
	}
	t.Run("GET RESPONSE by the reader", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{Level: ccidsim.ShortAPDU}, &echo{})
		assert.Equal(t, "000102030405060708099000", hexOf(h.xfr(bytesOf("00D7000001AA00"))))
		assert.Equal(t, "0001026107", hexOf(h.xfr(bytesOf("00D7000001AA03"))), "no more than Le")
		assert.Equal(t, "610A", hexOf(h.xfr(bytesOf("00D7000001AA"))), "none where none is asked for")
		head, _ := h.do(0x6A, 0, [3]byte{1, 0xA0}, nil)
		assert.Equal(t, byte(0), head[7])
		assert.Equal(t, "000102030405060708099000", hexOf(h.xfr(bytesOf("00D7000001AA00"))))
	})
}

func TestExtendedAPDULevel(t *testing.T) {
	for name, a := range protocols {
		for _, size := range []int{0, 10 + 100} {
			_, h := reader(t, ccidsim.Config{Level: ccidsim.ExtendedAPDU, MaxMessage: size, Automatic: ccidsim.AutoConfig},
				ccidsim.WithATR(&echo{}, a))
			if size == 0 {
				size = 65554
			}
			for _, n := range []int{1, 255, 256, 4096, 65535} {
				capdu := append([]byte{0, 0xEE, 0, 0, 0, byte(n >> 8), byte(n)}, counting(n)...)
				capdu = append(capdu, 0, 0)
				want := append(counting(n), 0x90, 0)
				assert.Equal(t, want, h.chained(capdu, size-10), "%s, %d bytes in messages of %d", name, n, size)
			}
		}
	}
}

// chained is an APDU at the extended level in messages of size data bytes.
func (h *host) chained(capdu []byte, size int) []byte {
	level := byte(0)
	for first := true; len(capdu) > size; first = false {
		level = 3
		if first {
			level = 1
		}
		head, data := h.do(0x6F, 0, [3]byte{0, level}, capdu[:size])
		assert.Equal(h.t, []byte{0, 0, 0x10}, head[7:10])
		assert.Empty(h.t, data)
		capdu = capdu[size:]
		level = 2
	}
	head, data := h.do(0x6F, 0, [3]byte{0, level}, capdu)
	rapdu := data
	for want := byte(1); head[9] == 1 || head[9] == 3; want = 3 {
		assert.Equal(h.t, want, head[9])
		head, data = h.do(0x6F, 0, [3]byte{0, 0x10}, nil)
		rapdu = append(rapdu, data...)
	}
	return rapdu
}

func TestExtendedLevelRefuses(t *testing.T) {
	_, h := reader(t, ccidsim.Config{Level: ccidsim.ExtendedAPDU}, &echo{})
	for _, level := range []byte{2, 3, 4, 0x10, 0x11} {
		head, _ := h.do(0x6F, 0, [3]byte{0, level}, bytesOf("00A40000"))
		assert.Equal(t, []byte{0x40, 8}, head[7:9], "wLevelParameter %02X", level)
	}
	assert.Equal(t, byte(1), h.fails(bytesOf("00A400")))
}
