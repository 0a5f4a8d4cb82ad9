package ccidsim_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

// t1Reader is a TPDU reader that has set T=1.
func t1Reader(t *testing.T, cfg ccidsim.Config, a ccidsim.ATR) (*ccidsim.Device, *host, *echo) {
	card := &echo{}
	a.Protocols = []byte{1}
	cfg.Level, cfg.Automatic = ccidsim.TPDU, ccidsim.AutoConfig
	d, h := reader(t, cfg, ccidsim.WithATR(card, a))
	card.history()
	return d, h, card
}

// The checksums are worked out by hand.
func TestT1Blocks(t *testing.T) {
	_, h, card := t1Reader(t, ccidsim.Config{}, ccidsim.ATR{})
	say := func(block string) string { return hexOf(h.xfr(bytesOf(block))) }

	assert.Equal(t, "000002900092", say("00 00 04 00A40000 A0"), "I(0,0)")
	assert.Equal(t, "00400401029000D7", say("00 40 08 00EE000002010202 A5"), "I(1,0) with 2 bytes echoed")
	assert.Equal(t, []string{"00A40000", "00EE000002010202"}, card.history())
	assert.Equal(t, "00400401029000D7", say("00 90 00 90"), "R(1): the same again")
	assert.Equal(t, "00820082", say("00 40 04 00A40000 E0"), "a wrong N(S)")
	assert.Equal(t, "00810081", say("00 00 04 00A40000 A1"), "a wrong LRC")
	assert.Equal(t, "00820082", say("00 00 05 00A40000 A1"), "a wrong length")
	assert.Equal(t, "00820082", say("00"))
	assert.Equal(t, "00E10110F0", say("00 C1 01 10 D0"), "S(IFS)")
	assert.Equal(t, "00820082", say("00 C1 01 00 C0"), "no IFSD")
	assert.Equal(t, "00E000E0", say("00 C0 00 C0"), "S(RESYNCH)")
	assert.Equal(t, "00E200E2", say("00 C2 00 C2"), "S(ABORT)")
	assert.Equal(t, "00820082", say("00 E3 01 01 E3"), "WTX that was not asked for")
	assert.Equal(t, "21E000C1", say("12 C0 00 D2"), "the answer goes from DAD to SAD")
	assert.Empty(t, card.history())
}

func TestT1CRC(t *testing.T) {
	_, h, _ := t1Reader(t, ccidsim.Config{}, ccidsim.ATR{CRC: true})
	// The CRC that catalogues name MCRF4XX.
	assert.Equal(t, "00000290009C6D", hexOf(h.xfr(bytesOf("00 00 04 00A40000 3229"))))
	assert.Equal(t, ccidsim.Block(0, 0x91, nil, true), h.xfr(bytesOf("00 40 04 00A40000 0000")))
}

// exchange is one APDU over T=1, in blocks of at most size bytes.
func (h *host) exchange(capdu []byte, size int, ns, nr *byte) []byte {
	for len(capdu) > size {
		got := h.xfr(ccidsim.Block(0, *ns<<6|0x20, capdu[:size], false))
		*ns ^= 1
		require.Equal(h.t, ccidsim.Block(0, 0x80|*ns<<4, nil, false), got)
		capdu = capdu[size:]
	}
	got := h.xfr(ccidsim.Block(0, *ns<<6, capdu, false))
	*ns ^= 1
	var rapdu []byte
	for {
		for got[1] == 0xC3 {
			got = h.xfr(ccidsim.Block(0, 0xE3, got[3:4], false))
		}
		require.Equal(h.t, *nr<<6, got[1]&^0x20, "% X", got)
		*nr ^= 1
		rapdu = append(rapdu, got[3:len(got)-1]...)
		if got[1]&0x20 == 0 {
			return rapdu
		}
		got = h.xfr(ccidsim.Block(0, 0x80|*nr<<4, nil, false))
	}
}

func TestT1Chaining(t *testing.T) {
	_, h, _ := t1Reader(t, ccidsim.Config{}, ccidsim.ATR{IFSC: 0x20})
	var ns, nr byte
	data := counting(600)
	capdu := append(append(bytesOf("00EE0000 00 0258"), data...), 0, 0)
	assert.Equal(t, append(data, 0x90, 0), h.exchange(capdu, 32, &ns, &nr))
	h.xfr(bytesOf("00 C1 01 FE 3E"))
	assert.Equal(t, append(data, 0x90, 0), h.exchange(capdu, 32, &ns, &nr))
	assert.Equal(t, "00820082", hexOf(h.xfr(ccidsim.Block(0, ns<<6, counting(33), false))), "longer than IFSC")
}

func TestT1WaitingTimeExtension(t *testing.T) {
	cfg := ccidsim.Config{CardExtension: 5 * time.Millisecond, Extension: 3 * time.Millisecond}
	release := working(&cfg)
	_, h, card := t1Reader(t, cfg, ccidsim.ATR{})
	got := h.xfr(bytesOf("00 00 04 00A40000 A0"))
	assert.Equal(t, "00C30101C3", hexOf(got))
	assert.Equal(t, "00C30101C3", hexOf(h.xfr(bytesOf("00 80 00 80"))), "asked again")
	for n := 0; hexOf(got) == "00C30101C3"; n++ {
		if n == 3 {
			release()
		}
		got = h.xfr(bytesOf("00 E3 01 01 E3"))
	}
	assert.Equal(t, "000002900092", hexOf(got))
	assert.Equal(t, []string{"00A40000"}, card.history())
}

func TestT1LineHook(t *testing.T) {
	var answers [][]byte
	cfg := ccidsim.Config{}
	cfg.Hooks.Line = func(_ int, received, sent []byte) []byte {
		if len(answers) == 0 {
			return sent
		}
		a := answers[0]
		answers = answers[1:]
		return a
	}
	_, h, _ := t1Reader(t, cfg, ccidsim.ATR{})
	answers = [][]byte{{0xFF, 0x00, 0x00, 0x00}, nil}
	assert.Equal(t, "FF000000", hexOf(h.xfr(bytesOf("00 00 04 00A40000 A0"))))
	assert.Equal(t, byte(0xFE), h.fails(bytesOf("00 40 04 00A40000 E0")), "silent this time")
	assert.Equal(t, "00E000E0", hexOf(h.xfr(bytesOf("00 C0 00 C0"))))
}
