package uicc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/id"
)

const (
	pinStatus  = "C612 900150 830101 830181 950100 830111 83010A"
	fcpMF      = "6229 82027821 83023F00 A503800171 8A0105 8B032F0607" + pinStatus
	fcpUSIM    = "623B 82027821 83027FFF 8410A0000000871002FFFFFFFF8907090000 A503800171 8A0105 8B032F0607" + pinStatus
	fcpTelecom = "6229 82027821 83027F10 A503800171 8A0105 8B032F0607" + pinStatus
	fcpICCID   = "6217 82024121 83022FE2 8A0105 8B032F0601 8002000A 880110"
	fcpIMSI    = "6217 82024121 83026F07 8A0105 8B036F0604 80020009 880138"
)

func TestSelect(t *testing.T) {
	for name, steps := range map[string][][2]string{
		"FCP of the MF":               {{"00A40004023F00", fcpMF + "9000"}, {"00A4000400", fcpMF + "9000"}},
		"no data":                     {{"00A4000C023F00", "9000"}},
		"P2 00":                       {{"00A40000023F00", fcpMF + "9000"}},
		"FCP of an EF":                {{"00A40004022FE2", fcpICCID + "9000"}},
		"of records":                  {{"00A40004022F00", "621A 8205422100 2602 83022F00 8A0105 8B032F0601 8002004C 8801F0 9000"}},
		"the USIM":                    {{"00A4040407A0000000871002", fcpUSIM + "9000"}, {"00A40004026F07", fcpIMSI + "9000"}},
		"cyclic, without SFI":         {{selectUSIM, "9000"}, {"00A40004026F39", "6219 82054621000303 83026F39 8A0105 8B036F0606 80020009 8800 9000"}},
		"current ADF":                 {{selectUSIM, "9000"}, {"00A4000C023F00", "9000"}, {"00A40004027FFF", fcpUSIM + "9000"}},
		"no current ADF":              {{"00A4000C027FFF", "6A82"}, {"00A4080C047FFF6F07", "6A82"}},
		"absent":                      {{"00A4000C022F99", "6A82"}, {"00A4000C026F07", "6A82"}},
		"an absent file changes none": {{selectUSIM, "9000"}, {"00A4000C026F07", "9000"}, {"00A4000C026FFF", "6A82"}, {"00B0000001", "089000"}},
		"child and itself":            {{"00A4000C027F10", "9000"}, {"00A4000C025F3A", "9000"}, {"00A4000C025F3A", "9000"}, {"00A4000C024F30", "9000"}},
		"parent by identifier":        {{"00A4000C027F10", "9000"}, {"00A4000C025F3A", "9000"}, {"00A4000C027F10", "9000"}},
		"sibling":                     {{"00A4000C027F10", "9000"}, {"00A4000C027F20", "9000"}, {"00A4000C026F07", "9000"}},
		"sibling EF is not there":     {{"00A4000C027F10", "9000"}, {"00A4000C022FE2", "6A82"}},
		"parent":                      {{"00A4000C027F10", "9000"}, {"00A4000C025F3A", "9000"}, {"00A4030400", fcpTelecom + "9000"}, {"00A40304", fcpMF + "9000"}},
		"parent of the MF":            {{"00A4030C", "6A82"}, {"00A4030C0100", "6700"}},
		"parent of the ADF":           {{selectUSIM, "9000"}, {"00A40304", fcpMF + "9000"}},
		"child DF":                    {{"00A4010C027F10", "9000"}, {"00A4010C026F3A", "6A82"}, {"00A4010C025F3A", "9000"}},
		"path from the MF":            {{"00A4080C047F106F3C", "9000"}, {"00A4080C022FE2", "9000"}, {"00A4080C067F105F3A4F30", "9000"}},
		"path from the current ADF":   {{selectUSIM, "9000"}, {"00A4080C022FE2", "9000"}, {"00A40804047FFF6F07", fcpIMSI + "9000"}, {"00A4080C067FFF5F3B4F20", "9000"}},
		"path from the current DF":    {{selectUSIM, "9000"}, {"00A4090C045F3B4F20", "9000"}, {"00A4090C024F52", "9000"}},
		"path that ends":              {{"00A4080C067F106F3C6F3C", "6A82"}, {"00A4080C047F106F99", "6A82"}},
		"lengths":                     {{"00A4000C013F", "6700"}, {"00A4080C037F106F", "6700"}, {"00A4080C", "6700"}, {"00A4010C", "6700"}},
		"parameters":                  {{"00A4020C022FE2", "6A86"}, {"00A4000D023F00", "6A86"}, {"00A40008023F00", "6A86"}, {"00A404EC07A0000000871002", "6A86"}, {"00A4041C07A0000000871002", "6A86"}},
		"termination":                 {{selectUSIM, "9000"}, {"00A4044C07A0000000871002", "9000"}, {"00A4000C027FFF", "6A82"}},
		"channels":                    {{selectUSIM, "9000"}, {"01A4000C026F07", "6A82"}, {"00A4000C026F07", "9000"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCard(t, Data{})
			c.run(steps...)
		})
	}
}

func TestDerivedContent(t *testing.T) {
	c := newUSIM(t, Data{})
	for sfi, want := range map[byte]string{
		0x07: "084906112132440024",                   // IMSI 460111223440042
		0x03: "00000002",                             // AD
		0x06: "0004",                                 // ACC: class 2
		0x12: "05",                                   // HPPLMN
		0x0B: "FFFFFFFF64F011FFFEFF01",               // LOCI
		0x0C: "FFFFFFFFFFFFFF64F011FFFEFF01",         // PSLOCI
		0x1E: "FFFFFFFFFFFFFFFFFFFFFFFF64F011FFFE01", // EPSLOCI
		0x13: "64F011C880FFFFFF0000",                 // HPLMNwAcT
		0x1D: "64F011FFFFFFFFFFFF",                   // EHPLMN
		0x05: "00",                                   // EST
		0x0F: "F00000F00000",                         // START-HFN
	} {
		assert.Equal(t, want+"9000", c.send(fmt.Sprintf("00B0%02X0000", 0x80|sfi)), "SFI %02X", sfi)
	}
	c.run(
		[2]string{"00A4000C026F46", "9000"}, [2]string{"00B0000000", "004F70657261746F7220456C6576656EFF9000"},
		[2]string{"00A4000C023F00", "9000"},
		[2]string{"00B0820000", "9868300D1A2B3C4E0024" + "9000"},
		[2]string{"00B20 1F426", "61184F10A0000000871002FFFFFFFF8907090000" + "50045553494D" + strings.Repeat("FF", 12) + "9000"},
		[2]string{"00B2 02F4 26", strings.Repeat("FF", 38) + "9000"},
		[2]string{"00B0850000", "656EFFFF9000"},
		[2]string{"00B0880000", "3C0500FFFF9000"},
	)
}

func TestServiceTable(t *testing.T) {
	c := newUSIM(t, Data{})
	data := c.send("00B0840000")
	var on []int
	for i := range 16 * 8 {
		var b byte
		_, err := fmt.Sscanf(data[i/8*2:i/8*2+2], "%X", &b)
		require.NoError(t, err)
		if b>>(i%8)&1 == 1 {
			on = append(on, i+1)
		}
	}
	assert.Equal(t, services, on)
}

func TestDerivedIMSI(t *testing.T) {
	for _, tt := range [][3]string{
		{"898603D0A1B2C3E40042", "46011", "460111223440042"},
		{"89014100000000000434", "310410", "310410000000434"},
		{"898600000000000001", "46000", "460000000000001"},
	} {
		iccid, err := id.ParseICCID(tt[0])
		require.NoError(t, err)
		owner, err := id.ParseMCCMNC(tt[1])
		require.NoError(t, err)
		assert.Equal(t, tt[2], derivedIMSI(iccid, owner))
	}
}

// An IMSI of its own, of an even number of digits.
func TestPersonalised(t *testing.T) {
	c := newUSIM(t, Data{IMSI: "00101012345678", Files: map[string]Hex{"EF.PL": {0x64, 0x65, 0xFF, 0xFF}, "ADF.USIM/EF.GID1": {1, 2, 3, 4}}})
	c.run(
		[2]string{"00B0870000", "0801101010325476F8" + "9000"},
		[2]string{"00B0860000", "01009000"},
		[2]string{"00A4000C026F3E", "9000"}, [2]string{"00B0000000", "010203049000"},
		[2]string{"00A4080C047F206F3E", "9000"}, [2]string{"00B0000000", "010203049000"},
		[2]string{"00A4080C022F05", "9000"}, [2]string{"00B0000000", "6465FFFF9000"},
	)
}

func TestAlphaIdentifier(t *testing.T) {
	for text, want := range map[string]string{
		"Plain (1)": "Plain (1)", "": "", "0123456789abcdefg": "0123456789abcdef",
		"Zürich": "\x80\x00Z\x00\xFC\x00r\x00i\x00c\x00h", "a_b": "\x80\x00a\x00_\x00b", "中国移动通信集团": "\x80\x4E\x2D\x56\xFD\x79\xFB\x52\xA8\x90\x1A\x4F\xE1\x96\xC6",
		"😀": "\x80\xFF\xFD",
	} {
		assert.Equal(t, want, string(alphaIdentifier(text, 16)), text)
	}
}

// Every EF can be selected by its path and read as its FCP says.
func TestEveryFile(t *testing.T) {
	c := newUSIM(t, Data{})
	c.run([2]string{"002000 0A 083838383838383838", "9000"}, [2]string{"00200081083030303 0FFFFFFFF", "9000"})
	seen := 0
	var walk func(dir *file, path string)
	walk = func(dir *file, path string) {
		for _, f := range dir.children {
			here := fmt.Sprintf("%s%04X", path, f.id)
			capdu := fmt.Sprintf("00A40804%02X%s", len(here)/2, here)
			if f.isDir() {
				c.run([2]string{capdu, "…9000"})
				walk(f, here)
				continue
			}
			seen++
			require.Equal(t, strings.ToUpper(fmt.Sprintf("%x9000", f.fcp)), c.send(capdu), f.path)
			require.LessOrEqual(t, f.size, 0xFFFF)
			if f.descriptor == transparent {
				require.Len(t, c.send("00B0000000"), 2*min(f.size, 256)+4, f.path)
				continue
			}
			for n := 1; n <= f.records(); n++ {
				require.Len(t, c.send(fmt.Sprintf("00B2%02X0400", n)), 2*f.record+4, f.path)
			}
			require.Equal(t, "6A83", c.send(fmt.Sprintf("00B2%02X0400", f.records()+1)), f.path)
		}
	}
	walk(mf, "")
	walk(usim, "7FFF")
	assert.Greater(t, seen, 80)
}

// SFIs and identifiers are each file's own where it is.
func TestNoTwoAreTheSame(t *testing.T) {
	var walk func(dir *file)
	walk = func(dir *file) {
		ids, sfis := map[uint16]bool{}, map[byte]bool{}
		for _, f := range dir.children {
			assert.False(t, ids[f.id], f.path)
			assert.False(t, f.sfi != 0 && sfis[f.sfi], f.path)
			ids[f.id], sfis[f.sfi] = true, true
			walk(f)
		}
	}
	walk(mf)
	walk(usim)
}

// Without a profile there is the MF with its own files and nothing else.
func TestWithoutProfile(t *testing.T) {
	c := newCard(t, Data{})
	c.u.Switch(nil)
	assert.False(t, c.u.Subscribed())
	c.run(
		[2]string{"00A40004023F00", "621D 82027821 83023F00 A503800171 8A0105 8B032F0607 C606 900100 830101 9000"},
		[2]string{"00A4000C022FE2", "9000"}, [2]string{"00B0000000", "FFFFFFFFFFFFFFFFFFFF9000"},
		[2]string{"00B201F400", strings.Repeat("FF", 38) + "9000"},
		[2]string{"00B0850000", "656EFFFF9000"}, [2]string{"00D6850001 00", "6982"},
		[2]string{"00A4000C027F10", "6A82"}, [2]string{"00A4000C027F20", "6A82"}, [2]string{"00A4080C047F106F3C", "6A82"},
		[2]string{"00A4000C027FFF", "6A82"},
		[2]string{"0020000100", "6A88"}, [2]string{"0020000A083838383838383838", "6A88"}, [2]string{"002C000100", "6A88"},
		[2]string{"00880081221000000000000000000000000000000000" + "1000000000000000000000000000000000", "6985"},
	)
}

func TestStatus(t *testing.T) {
	c := newCard(t, Data{})
	c.run(
		[2]string{"80F2000000", fcpMF + "9000"}, [2]string{"80F20000", fcpMF + "9000"}, [2]string{"80F200002B", fcpMF + "9000"}, [2]string{"80F2000010", "6C2B"},
		[2]string{"80F2000C", "9000"}, [2]string{"80F2000100", "6985"},
		[2]string{selectUSIM, "9000"}, [2]string{"80F2010000", fcpUSIM + "9000"}, [2]string{"80F2000112", "8410A0000000871002FFFFFFFF89070900009000"},
		[2]string{"00A4000C026F07", "9000"}, [2]string{"80F2000000", fcpUSIM + "9000"}, // the EF stays selected
		[2]string{"00B0000001", "089000"},
		[2]string{"80F2030000", "6A86"}, [2]string{"80F2000200", "6A86"}, [2]string{"80F200000100", "6700"},
	)
}

func TestGetChallenge(t *testing.T) {
	c := newCard(t, Data{})
	c.run([2]string{"0084000008", "C5C5C5C5C5C5C5C59000"}, [2]string{"0084010008", "6A86"}, [2]string{"00840000", "6700"}, [2]string{"008400000100", "6700"})
	assert.Len(t, c.send("0084000000"), 2*258)
	for range 3 {
		c.send("0084000000")
	}
	c.run([2]string{"0084000000", "6581"})
}

func TestUnknownInstruction(t *testing.T) {
	c := newCard(t, Data{})
	_, sw := c.u.Process(0, apdu.Command{INS: 0xE0})
	assert.Equal(t, apdu.SWInstructionNotSupported, sw)
	assert.Len(t, Instructions(), len(commands))
}
