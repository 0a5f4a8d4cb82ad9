package appletsim

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

func TestATR(t *testing.T) {
	atr := newCard(t, testImage(t)).ATR()
	tck := byte(0)
	for _, b := range atr[1:] {
		tck ^= b
	}
	assert.Zero(t, tck)
	assert.Equal(t, byte(0x3B), atr[0])
	assert.Zero(t, atr[2]&0x0F, "T=0 first")
	assert.Equal(t, byte(1), atr[3]&0x0F, "then T=1")
	assert.Equal(t, apdu.Capabilities{CommandChaining: true, ExtendedLength: true, Channels: 8}, apdu.ParseCapabilities(atr))

	short := newCard(t, testImage(t), WithoutExtendedLength()).ATR()
	assert.Equal(t, apdu.Capabilities{CommandChaining: true, Channels: 8}, apdu.ParseCapabilities(short))
}

// TestCommands is every answer that takes no authentication, each on a card of
// its own with the applet selected on channel 0.
func TestCommands(t *testing.T) {
	tests := []struct {
		name  string
		steps []step
	}{
		{"SELECT, Le absent", []step{
			{"00A404000BF063617264627269646765", "611C"},
			{"00C000001C", selectResponse + "9000"}}},
		{"SELECT, Le too small", []step{{"00A404000BF06361726462726964676501", "6C1C"}}},
		{"SELECT, Le exact", []step{{"00A404000BF0636172646272696467651C", selectResponse + "9000"}}},
		{"SELECT, Le larger", []step{{"00A404000BF063617264627269646765FF", selectResponse + "9000"}}},
		{"SELECT, extended", []step{{"00A4040000000BF0636172646272696467650000", selectResponse + "9000"}}},
		{"SELECT, another AID", []step{{"00A404000BF06361726462726964676600", "6A82"}, {getEID, eidResponse + "9000"}}},
		{"SELECT, part of the AID", []step{{"00A404000AF063617264627269646700", "6A82"}}},
		{"SELECT, no AID", []step{{"00A4040000", "6A82"}}},
		{"SELECT, P1 P2", []step{{"00A40000023F00", "6A86"}, {"00A404020BF06361726462726964676500", "6A86"}}},
		{"SELECT, CLA", []step{{"80A404000BF06361726462726964676500", "6E00"}, {"A0A40000023F00", "6E00"}, {"20A4040000", "6E00"}}},
		{"GET DATA, Le absent", []step{{"80CA005A", "6112"}, {"80C0000000", eidResponse + "9000"}}},
		{"GET DATA, Le too small", []step{{"80CA005A11", "6C12"}, {"80CA00E10F", "6C10"}}},
		{"GET DATA, Le extended", []step{{"80CA005A000000", eidResponse + "9000"}, {"80CA005A000001", "6C12"}}},
		{"GET DATA, card info", []step{{"80CA00E100", "E10E800400000100" + "8106010000" + "0F0000" + "9000"}}},
		{"GET DATA, no such object", []step{{"80CA005B00", "6A88"}, {"80CA015A00", "6A88"}, {"80CA9F7000", "6A88"}}},
		{"GET DATA, with data", []step{{"80CA005A010000", "6700"}}},
		{"GET DATA, CLA", []step{{"00CA005A00", "6E00"}, {"A0CA005A00", "6E00"}, {"FFCA005A00", "6E00"}}},
		{"unknown INS", []step{{"80E2000000", "6D00"}, {"00B0000000", "6D00"}, {"A0B0000000", "6D00"}, {"80CB005A00", "6D00"}}},
		{"needs secure messaging", []step{{"80F2000000", "6982"}, {"8004000000", "6982"}, {"8044000000", "6982"}}},
		{"wrong class before that", []step{{"00F2000000", "6E00"}, {"0004000000", "6E00"}, {"0044000000", "6E00"}}},
		{"secure messaging without a session", []step{{"8CF200000E970200008E08000000000000000000", "6982"}}},
		{"secure messaging, none", []step{{"0CA4040000", "6882"}, {"8CCA005A00", "6882"}, {"0C700000 01", "6882"}, {"0C88010100", "6882"}, {"0C82010100", "6882"}}},
		{"secure messaging of another kind", []step{{"84F2000000", "6882"}, {"88F2000000", "6882"}}},
		{"secure messaging in another class", []step{{"0CF2000000", "6E00"}}},
		{"no parse", []step{{"", "6700"}, {"00", "6700"}, {"00A404", "6700"}, {"00A404000B00", "6700"}, {"80CA005A0000", "6700"}, {"00A4040000000000", "6700"}}},
		{"GET RESPONSE, nothing pending", []step{{"00C0000000", "6985"}}},
		{"chaining, not supported", []step{{"10A4040000", "6884"}, {"90CA005A00", "6884"}, {"9004000000", "6884"}, {"10700000", "6884"}, {"10C0000000", "6884"}}},
		{"chaining, unknown INS", []step{{"90E2000000", "6D00"}}},
		{"INTERNAL AUTHENTICATE, suite", []step{{"008802011000000000000000000000000000000000", "6A86"}, {"008800011000000000000000000000000000000000", "6A86"}}},
		{"INTERNAL AUTHENTICATE, kid", []step{{"008801021000000000000000000000000000000000", "6A88"}, {"008801001000000000000000000000000000000000", "6A88"}}},
		{"INTERNAL AUTHENTICATE, one key for suite 03", []step{{"0088030F1000000000000000000000000000000000", "6A88"}}},
		{"INTERNAL AUTHENTICATE, length", []step{{"008801010F" + strings.Repeat("00", 15), "6700"}, {"0088010100", "6700"}, {"0088010111" + strings.Repeat("00", 17), "6700"}}},
		{"EXTERNAL AUTHENTICATE, no challenge", []step{{"0082010101FF", "6985"}, {"0082010100", "6985"}, {"0082070101FF", "6985"}, {"0082010901FF", "6985"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCard(t, testImage(t))
			run(t, c, step{selectApplet, "…9000"})
			for i := range tt.steps {
				tt.steps[i].capdu = strings.ReplaceAll(tt.steps[i].capdu, " ", "")
			}
			run(t, c, tt.steps...)
		})
	}
}

// TestNotSelected: a command of the applet before it is selected is 6985; what
// the card has beside the applet works.
func TestNotSelected(t *testing.T) {
	c := newCard(t, testImage(t))
	run(t, c,
		step{getEID, "6985"}, step{"80CA00E100", "6985"}, step{"80CA123400", "6985"},
		step{"80F2000000", "6985"}, step{"8004000000", "6985"}, step{"8044000000", "6985"},
		step{"008801011000000000000000000000000000000000", "6985"},
		step{"0082010100", "6985"}, step{"1082010100", "6985"},
		step{"8CF2000000", "6985"},
		step{"00C0000000", "6985"},
		step{"00CA005A00", "6E00"}, step{"80E2000000", "6D00"},
		step{"00A40400010000", "6A82"}, step{getEID, "6985"},
		step{"00A404000BF06361726462726964676501", "6C1C"}, step{getEID, "6985"}, // nothing was done
		step{"0070000001", "019000"}, step{"81CA005A00", "6985"},
		step{selectApplet, selectResponse + "9000"}, step{getEID, eidResponse + "9000"},
		step{"81CA005A00", "6985"},
	)
}

func TestChannels(t *testing.T) {
	c := newCard(t, testImage(t))
	run(t, c,
		step{selectApplet, "…9000"},
		step{"81CA005A00", "6881"}, step{"01C0000000", "6881"}, step{"CFCA005A00", "6881"}, step{"01", "6881"},
		step{"0070000001", "019000"}, // the card's choice
		step{"0070000000", "029000"},
		step{"00700001", "6881"},     // open already
		step{"0070001300", "9000"},   // the host's choice
		step{"0070001400", "6881"},   // there are 20
		step{"00700000", "6101"},     // Le absent
		step{"00C0000001", "039000"}, //
		step{"4F70000001", "049000"}, // from any channel
		step{"0070000001", "059000"},
		step{"00708000", "6881"}, // the basic channel stays
		step{"00708006", "6881"}, // not open
		step{"007080FF", "6881"},
		step{"00704000", "6A86"},
		step{"0070000001FF", "6700"},
		step{"8070000001", "6E00"},
		step{"01A404000BF06361726462726964676500", selectResponse + "9000"},
		step{"81CA005A00", eidResponse + "9000"},
		step{"4FA404000BF06361726462726964676500", selectResponse + "9000"},
		step{"CFCA005A00", eidResponse + "9000"},
		step{"82CA005A00", "6985"},
		step{"00708001", "9000"}, // closed by another
		step{"81CA005A00", "6881"},
		step{"4F708000", "9000"}, // closed by itself
		step{"CFCA005A00", "6881"},
		step{"0070000001", "019000"},
		step{"81CA005A00", "6985"}, // opened anew: nothing selected
		step{getEID, eidResponse + "9000"},
	)
	for n := 6; n < 20; n++ {
		require.Equal(t, fmt.Sprintf("%02X9000", n), send(c, "0070000001"))
	}
	run(t, c, step{"0070000001", "6881"})
	c.Reset()
	run(t, c, step{"81CA005A00", "6881"}, step{getEID, "6985"}, step{"0070000001", "019000"})
}

func TestGetResponse(t *testing.T) {
	c := newCard(t, testImage(t))
	run(t, c, step{selectApplet, "…9000"}, step{"0070000001", "019000"}, step{"01A404000BF06361726462726964676500", "…9000"})
	rs := strings.Repeat("00", 16)

	// M1 has 352 bytes.
	whole := send(c, "00880101000010"+rs+"0000")
	require.Len(t, whole, 2*354)

	t.Run("pieces", func(t *testing.T) {
		run(t, c,
			step{"80CA005A", "6112"},
			step{"80C0000005", eidResponse[:10] + "610D"},
			step{"00C00000", "610D"}, // Le absent
			step{"00C0010001", "6A86"}, step{"00C000000100", "6700"},
			step{"00C000000D", eidResponse[10:] + "9000"},
		)
	})
	t.Run("any class of the channel", func(t *testing.T) {
		for _, cla := range []string{"00", "80", "0C", "8C", "A0"} {
			run(t, c, step{"80CA005A", "6112"}, step{cla + "C0000012", eidResponse + "9000"})
		}
	})
	t.Run("larger Le", func(t *testing.T) {
		run(t, c, step{"80CA005A", "6112"}, step{"00C0000000", eidResponse + "9000"}, step{"00C0000000", "6985"})
		run(t, c, step{"80CA005A", "6112"}, step{"00C00000000000", eidResponse + "9000"})
	})
	t.Run("lost on another command of its channel", func(t *testing.T) {
		run(t, c, step{"80CA005A", "6112"}, step{"80E2000000", "6D00"}, step{"00C0000012", "6985"})
		run(t, c, step{"80CA005A", "6112"}, step{"1088010101FF", "9000"}, step{"00C0000012", "6883"}, step{"00C0000012", "6985"})
	})
	t.Run("not on one of another channel", func(t *testing.T) {
		run(t, c, step{"80CA005A", "6112"}, step{"81CA005A00", eidResponse + "9000"}, step{"01C0000000", "6985"},
			step{"00C0000012", eidResponse + "9000"})
	})
	t.Run("lost with its channel", func(t *testing.T) {
		run(t, c, step{"81CA005A", "6112"}, step{"00708001", "9000"}, step{"0070000001", "019000"}, step{"01C0000012", "6985"})
	})
	t.Run("lost on reset", func(t *testing.T) {
		run(t, c, step{"80CA005A", "6112"})
		c.Reset()
		run(t, c, step{"00C0000012", "6985"})
	})
}

// TestLongResponses follows SW2 through a response of more than 256 bytes.
func TestLongResponses(t *testing.T) {
	c := newCard(t, testImage(t))
	internal := "0088010110" + strings.Repeat("00", 16)
	run(t, c, step{selectApplet, "…9000"})
	for _, tt := range []struct {
		capdu string
		parts []string // of the 352 bytes: length and status word each
	}{
		{internal, []string{"0 6100", "256 6160", "96 9000"}},
		{internal + "00", []string{"256 6160", "96 9000"}},
		{internal + "60", []string{"96 6100", "256 9000"}},
		{internal + "61", []string{"97 61FF", "255 9000"}},
		{"00880101000010" + strings.Repeat("00", 16) + "0000", []string{"352 9000"}},
		{"00880101000010" + strings.Repeat("00", 16) + "0101", []string{"257 615F", "95 9000"}},
	} {
		capdu := tt.capdu
		for i, part := range tt.parts {
			r := send(c, capdu)
			require.Equal(t, part, fmt.Sprintf("%d %s", len(r)/2-2, last(r, 4)), "%.12s part %d", tt.capdu, i+1)
			capdu = "00C00000" + last(r, 2)
		}
	}
}

func TestWithoutExtendedLength(t *testing.T) {
	c := newCard(t, testImage(t), WithoutExtendedLength())
	run(t, c,
		step{"00A4040000000BF0636172646272696467650000", "6700"},
		step{selectApplet, "…9000"},
		step{"80CA005A000000", "6700"},
		step{getEID, eidResponse + "9000"},
		step{"80CA005A", "6112"},
		step{"00C00000000000", "6700"}, // transport: what waits goes on waiting
		step{"00C0000000", eidResponse + "9000"},
	)
	m := newTerminal(t, c)
	m.internal(1)
	envelope := hexBytes(m.m2([32]byte{}))
	run(t, c, step{"10820101FF" + envelope[:510], "9000"}, step{fmt.Sprintf("00820101%02X", len(envelope)/2-255) + envelope[510:], "9000"})
	_, sw := m.secured(insGetStatus, nil)
	assert.Equal(t, apdu.SWSuccess, sw)
}

func TestChaining(t *testing.T) {
	fill := func(n int) string { return strings.Repeat("00", n) }
	tests := []struct {
		name  string
		steps []step
	}{
		{"in parts", []step{{"1088010108" + fill(8), "9000"}, {"1088010104" + fill(4), "9000"}, {"0088010104" + fill(4) + "00", "…6160"}}},
		{"an empty part", []step{{"10880101", "9000"}, {"0088010110" + fill(16), "6100"}}},
		{"Le in a part", []step{{"1088010108" + fill(8) + "00", "9000"}, {"0088010108" + fill(8), "6100"}}},
		{"another INS", []step{{"1088010108" + fill(8), "9000"}, {getEID, "6883"}, {getEID, eidResponse + "9000"}}},
		{"another P2", []step{{"1088010108" + fill(8), "9000"}, {"0088010F08" + fill(8), "6883"}, {"0088010108" + fill(8), "6700"}}},
		{"another P1, as a part", []step{{"1088010108" + fill(8), "9000"}, {"1088030108" + fill(8), "6883"}, {"0088010108" + fill(8), "6700"}}},
		{"another class", []step{{"1088010108" + fill(8), "9000"}, {"8088010108" + fill(8), "6883"}}},
		{"GET RESPONSE", []step{{"1088010108" + fill(8), "9000"}, {"00C0000000", "6883"}, {"0088010108" + fill(8), "6700"}}},
		{"no parse, same header", []step{{"1088010108" + fill(8), "9000"}, {"0088010109" + fill(8), "6700"}, {"0088010108" + fill(8), "6700"}}},
		{"no parse, no header", []step{{"1088010108" + fill(8), "9000"}, {"00", "6883"}, {"0088010108" + fill(8), "6700"}}},
		{"another channel", []step{{"0070000001", "019000"}, {"1088010108" + fill(8), "9000"},
			{"01A404000BF06361726462726964676500", "6883"}, {"0088010108" + fill(8), "6700"}}},
		{"a closed channel", []step{{"1088010108" + fill(8), "9000"}, {"81CA005A00", "6883"}, {"81CA005A00", "6881"}}},
		{"reset", []step{{"1088010108" + fill(8), "9000"}, {"reset", ""}, {selectApplet, "…9000"}, {"0088010108" + fill(8), "6700"}}},
		{"too long", []step{{"1082010100 0400" + fill(1024), "9000"}, {"1082010100 0400" + fill(1024), "9000"}, {"10820101 01" + fill(1), "6985"}}},
		{"too long, INTERNAL", []step{{"1088010100 0800" + fill(2048), "9000"}, {"10880101 01" + fill(1), "6700"}, {getEID, eidResponse + "9000"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCard(t, testImage(t))
			run(t, c, step{selectApplet, "…9000"})
			for _, s := range tt.steps {
				if s.capdu == "reset" {
					c.Reset()
					continue
				}
				s.capdu = strings.ReplaceAll(s.capdu, " ", "")
				run(t, c, s)
			}
		})
	}
}
