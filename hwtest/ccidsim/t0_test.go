package ccidsim_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

func TestT0CommandTPDUs(t *testing.T) {
	card := &echo{}
	_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, card)
	card.history()
	say := func(tpdu string) string { return hexOf(h.xfr(bytesOf(tpdu))) }

	for _, tt := range []struct{ name, tpdu, answer, seen string }{
		{"case 1", "00A40000", "9000", "00A40000"},
		{"case 2", "00EE000004", "000102039000", "00EE000004"},
		{"case 3", "00EE000002AABB", "9000", "00EE000002AABB"},
		{"wrong Le", "00CA000000", "6C04", "00CA000000"},
		{"right Le, of the answer that the card has", "00CA000004", "000102039000", ""},
		{"the same once more is another command", "00CA000004", "000102039000", "00CA000004"},
		{"data that was not asked for", "00D7000001AA", "610A", "00D7000001AA"},
		{"more than there is", "00C000000B", "6C0A", ""},
		{"some", "00C0000003", "0001026107", ""},
		{"the rest", "00C0000007", "030405060708099000", ""},
		{"and no more: it is the card's own", "00C0000001", "009000", "00C0000001"},
	} {
		assert.Equal(t, tt.answer, say(tt.tpdu), tt.name)
		if history := card.history(); tt.seen == "" {
			assert.Empty(t, history, tt.name)
		} else {
			assert.Equal(t, []string{tt.seen}, history, tt.name)
		}
	}
	for _, tpdu := range []string{"", "00A400", "00EE000002AA", "00EE000002AABBCC"} {
		assert.Equal(t, byte(1), h.fails(bytesOf(tpdu)), tpdu)
	}
}

func TestT0SingleBytes(t *testing.T) {
	card := &echo{}
	_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU, SingleBytes: true}, card)
	card.history()
	assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00EE000002AABB"))))
	assert.Equal(t, "000102039000", hexOf(h.xfr(bytesOf("00EE000004"))))
	assert.Equal(t, []string{"00EE000002AABB", "00EE000004"}, card.history())
}

// chars is XfrBlock at the character level: it asks for want bytes.
func (h *host) chars(b string, want byte) string {
	head, data := h.do(0x6F, 0, [3]byte{0, want}, bytesOf(b))
	assert.Equal(h.t, []byte{0, 0}, head[7:9], "% X", head)
	return hexOf(data)
}

func TestCharacterLevel(t *testing.T) {
	t.Run("T=0", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{}, &echo{})
		assert.Equal(t, "A4", h.chars("00A4000002", 1))
		assert.Equal(t, "90", h.chars("3F00", 1))
		assert.Equal(t, "00", h.chars("", 1))
		assert.Equal(t, "CA000102039000", h.chars("00CA000004", 7))
		assert.Equal(t, "6C04", h.chars("00CA000008", 11))
		assert.Equal(t, "", h.chars("00CA", 0))
		assert.Equal(t, "CA0001", h.chars("000004", 3))
		assert.Equal(t, "02039000", h.chars("", 4))
		assert.Equal(t, "A4", h.chars("0CA4000002", 1), "secure messaging has data")
		head, _ := h.do(0x6F, 0, [3]byte{0, 1}, nil)
		assert.Equal(t, byte(0xFE), head[8], "it waits for data")
	})
	t.Run("T=0, single bytes", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{SingleBytes: true}, &echo{})
		assert.Equal(t, "5B", h.chars("00A4000002", 1))
		assert.Equal(t, "5B", h.chars("3F", 1))
		assert.Equal(t, "9000", h.chars("00", 2))
		assert.Equal(t, "35003501350235039000", h.chars("00CA000004", 20))
	})
	t.Run("NULL", func(t *testing.T) {
		cfg := ccidsim.Config{CardExtension: time.Millisecond}
		release := working(&cfg)
		_, h := reader(t, cfg, &echo{})
		got := h.chars("00CA000004", 7)
		assert.Equal(t, "60", got)
		release()
		for got == "60" {
			got = h.chars("", 1)
		}
		got += h.chars("", 6)
		assert.Equal(t, "CA000102039000", got)
	})
	t.Run("T=1", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{}, ccidsim.WithATR(&echo{}, ccidsim.ATR{Protocols: []byte{1}}))
		assert.Equal(t, "000002", h.chars("00000400A40000A0", 3))
		assert.Equal(t, "900092", h.chars("", 3))
	})
	t.Run("another instruction table", func(t *testing.T) {
		cfg := ccidsim.Config{HasData: func(header []byte) bool { return header[1] == 0xCA }}
		_, h := reader(t, cfg, &echo{})
		assert.Equal(t, "CA", h.chars("00CA000001", 1))
		assert.Equal(t, "9000", h.chars("00", 2))
	})
}

func TestPPS(t *testing.T) {
	both := ccidsim.ATR{Protocols: []byte{0, 1}, TA1: 0x95, IFSC: 0xFE}
	setT1 := bytesOf("95 10 00 4D 00 FE 00")
	t.Run("T=1 at the card's rate", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, ccidsim.WithATR(&echo{}, both))
		assert.Equal(t, "FF11957B", hexOf(h.xfr(bytesOf("FF11957B"))))
		_, p := h.do(0x61, 0, [3]byte{1}, setT1)
		assert.Equal(t, setT1, p)
		assert.Equal(t, "000002900092", hexOf(h.xfr(bytesOf("00 00 04 00A40000 A0"))))
	})
	t.Run("a rate that the card has not", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, ccidsim.WithATR(&echo{}, both))
		assert.Equal(t, "FF01FE", hexOf(h.xfr(bytesOf("FF11947A"))))
		h.do(0x61, 0, [3]byte{1}, append(bytesOf("11"), setT1[1:]...))
		assert.Equal(t, "000002900092", hexOf(h.xfr(bytesOf("00 00 04 00A40000 A0"))))
	})
	t.Run("the reader does not follow", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, ccidsim.WithATR(&echo{}, both))
		h.xfr(bytesOf("FF11957B"))
		h.do(0x61, 0, [3]byte{1}, append(bytesOf("11"), setT1[1:]...))
		assert.Equal(t, byte(0xFE), h.fails(bytesOf("00 00 04 00A40000 A0")))
		h.power()
		assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))), "T=0 after a reset")
	})
	for name, request := range map[string]string{"wrong PCK": "FF11957A", "T=2": "FF02FD", "short": "FF11", "long": "FF00FF00"} {
		t.Run(name, func(t *testing.T) {
			_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, ccidsim.WithATR(&echo{}, both))
			assert.Equal(t, byte(0xFE), h.fails(bytesOf(request)))
			assert.Equal(t, byte(0xFE), h.fails(bytesOf("00A40000")), "mute until a reset")
			h.power()
			assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
		})
	}
	t.Run("by the reader", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU, Automatic: ccidsim.AutoPPS}, ccidsim.WithATR(&echo{}, both))
		_, p := h.do(0x61, 0, [3]byte{1}, setT1)
		assert.Equal(t, setT1, p)
		assert.Equal(t, "000002900092", hexOf(h.xfr(bytesOf("00 00 04 00A40000 A0"))))
	})
	t.Run("specific mode", func(t *testing.T) {
		a := both
		a.Protocols, a.Specific = []byte{1}, true
		_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU, Automatic: ccidsim.AutoConfig}, ccidsim.WithATR(&echo{}, a))
		head, p := h.do(0x6C, 0, [3]byte{}, nil)
		assert.Equal(t, byte(1), head[9])
		assert.Equal(t, setT1, p)
		assert.Equal(t, "000002900092", hexOf(h.xfr(bytesOf("00 00 04 00A40000 A0"))))
	})
	t.Run("automatic", func(t *testing.T) {
		_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU, Automatic: ccidsim.AutoParameters}, ccidsim.WithATR(&echo{}, both))
		_, p := h.do(0x6C, 0, [3]byte{}, nil)
		assert.Equal(t, "95000000"+"00", hexOf(p[:1])+"000000"+hexOf(p[4:]))
		assert.Equal(t, "9000", hexOf(h.xfr(bytesOf("00A40000"))))
	})
}

func TestSetParametersRefuses(t *testing.T) {
	_, h := reader(t, ccidsim.Config{Level: ccidsim.TPDU}, ccidsim.WithATR(&echo{}, ccidsim.ATR{Protocols: []byte{1}}))
	for _, tt := range []struct {
		protocol byte
		data     string
		err      byte
	}{
		{0, "1100000A00", 7},
		{2, "1100000A00", 7},
		{1, "1110004D00FE", 1},
		{1, "0010004D00FE00", 10},
		{1, "7110004D00FE00", 10},
		{1, "9810004D00FE00", 10}, // 93,750 baud is fine, F=512 D=12
	} {
		head, _ := h.do(0x61, 0, [3]byte{tt.protocol}, bytesOf(tt.data))
		if tt.data[:2] == "98" {
			assert.Equal(t, byte(0), head[7])
			continue
		}
		assert.Equal(t, []byte{0x40, tt.err}, head[7:9], "%+v", tt)
	}
	head, p := h.do(0x6D, 0, [3]byte{}, nil)
	assert.Equal(t, byte(0), head[9], "reset to what it began with")
	assert.Equal(t, "1100000A00", hexOf(p))
}
