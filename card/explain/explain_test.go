package explain

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// TestSessions compares what is said of whole sessions with texts that were
// checked by hand.
func TestSessions(t *testing.T) {
	for _, name := range []string{"lpac", "pysim", "modem", "globalplatform"} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata", name+".trace"))
			require.NoError(t, err)
			golden(t, name+".txt", text(t, trace.NewReader(bytes.NewReader(b)), nil))
		})
	}
}

func TestClass(t *testing.T) {
	for cla, want := range map[byte]class{
		0x00: {},
		0x03: {channel: 3},
		0x0C: {secure: true},
		0x10: {chained: true},
		0x80: {proprietary: true},
		0x81: {proprietary: true, channel: 1},
		0x8C: {proprietary: true, secure: true},
		0x8F: {proprietary: true, secure: true, channel: 3},
		0x9C: {proprietary: true, secure: true, chained: true},
		0x40: {channel: 4},
		0x4F: {channel: 19},
		0xC0: {proprietary: true, channel: 4},
		0xEF: {proprietary: true, secure: true, channel: 19},
		0xFE: {proprietary: true, secure: true, chained: true, channel: 18},
		0xFF: {proprietary: true},
		0xA0: {proprietary: true, gsm: true},
	} {
		assert.Equal(t, want, parseClass(cla), "%02X", cla)
	}
}

func TestStatusWords(t *testing.T) {
	for _, c := range []struct {
		capdu, rapdu, want string
		level              Level
	}{
		{"00A40004023F00", "9000", "9000 success", Good},
		{"00A40004023F00", "6A82", "6A82 file or application not found", Bad},
		{"00A40004023F00", "6283", "6283 the file or application is deactivated", Note},
		{"00A40004023F00", "6112", "6112 18 more response bytes", Plain},
		{"00A40004023F00", "9F12", "9F12 18 more response bytes", Plain},
		{"00B0000000", "6C0A", "6C0A wrong Le, 10 is right", Note},
		{"00B0000000", "6B00", "6B00 wrong P1 P2: outside the file", Bad},
		{"00200001", "63C2", "63C2 not verified yet, 2 tries left", Note},
		{"00200001", "9000", "9000 verified already, or disabled", Good},
		{"002000010831323334FFFFFFFF", "63C2", "63C2 verification failed, 2 tries left", Bad},
		{"002000010831323334FFFFFFFF", "6983", "6983 the PIN is blocked", Bad},
		{"80F2000000", "9110", "9110 success, a proactive command of 16 bytes is pending", Good},
		{"80F2000000", "9300", "9300 SIM Application Toolkit is busy", Bad},
		{"0088008100", "9862", "9862 authentication error: incorrect MAC", Bad},
		{"80E288000A3A084F06A00000055910", "69E1", "69E1 POL1 of the profile forbids it", Bad},
		{"00B0000000", "9203", "9203 success after 3 internal retries", Good},
		{"00B0000000", "6281", "6281 part of the data may be corrupted", Note},
		{"00B0000000", "6F42", "6F42 internal error", Bad},
		{"00B0000000", "9999", "9999 unknown", Bad},
		{"0082010100", "6983", "6983 too many failed authentications since the reset", Bad},
		{"0082010100", "6300", "6300 authentication failed", Bad},
	} {
		e := explained(t, nil, "> "+c.capdu, "< "+c.rapdu)[1]
		assert.Equal(t, c.want, e.Title)
		assert.Equal(t, c.level, e.Level, c.want)
	}
}

func TestNames(t *testing.T) {
	for capdu, want := range map[string]string{
		"00A4000402 6F07":                            "SELECT ADF.USIM/EF.IMSI (subscriber identity)",
		"00A40804067FFF5FC04F05":                     "SELECT ADF.USIM/DF.5GS/EF.5GAUTHKEYS (5G authentication keys) by path",
		"00A40804047F106F3A":                         "SELECT DF.TELECOM/EF.ADN (abbreviated dialling numbers) by path",
		"00A40004027F20":                             "SELECT DF.GSM",
		"00A40004024FFF":                             "SELECT EF 4FFF",
		"00A4030C":                                   "SELECT the DF above",
		"00A4040006A00000008710":                     "SELECT USIM by AID",
		"00A4040007A0000000871002":                   "SELECT USIM by AID",
		"00A4040010A06573746B6D65FFFFFFFF4953442D52": "SELECT ISD-R (eSTK.me) by AID",
		"00A4040005A000000151":                       "SELECT GlobalPlatform application by AID",
		"00A404000BF063617264627269646765":           "SELECT management applet (cardbridge) by AID",
		"00A4040005D276000099":                       "SELECT D276000099 by AID",
		"00A40400":                                   "SELECT the default application",
		"00B09E0004":                                 "READ BINARY ADF.USIM/EF.EPSLOCI (EPS location information)",
		"00B2010C00":                                 "READ RECORD ADF.USIM/EF.ECC (emergency call codes)",
		"00D6000002FFFF":                             "UPDATE BINARY",
		"00DC0104020000":                             "UPDATE RECORD",
		"80500000080102030405060708":                 "INITIALIZE UPDATE",
		"80E60C0000":                                 "INSTALL for install, make selectable",
		"80C2000006D3048202018100":                   "ENVELOPE: menu selection",
		"8010000003FFFFFF":                           "TERMINAL PROFILE",
		"0070000000":                                 "MANAGE CHANNEL: open a channel",
		"0070000200":                                 "MANAGE CHANNEL: open channel 2",
		"80CA9F7F00":                                 "GET DATA: production life cycle",
		"80CA00E100":                                 "GET DATA: card info",
		"80CA005A00":                                 "GET DATA: EID",
		"00FF0000":                                   "INS FF",
		"A0B000000A":                                 "READ BINARY",
		"8078000100":                                 "GET IDENTITY",
	} {
		assert.Equal(t, want, explained(t, nil, "> "+capdu)[0].Title, capdu)
	}
}

// TestFilesAreFoundWhereTheChannelStands: one identifier is another file
// elsewhere.
func TestFilesAreFoundWhereTheChannelStands(t *testing.T) {
	e := explained(t, nil,
		"> 00A4040007A0000000871004", "< 9000",
		"> 00A40004026F02", "< 9000",
		"> 00B0000000", "< 8003616263"+"9000",
		"> 00A40004026F05", "< 6A82",
		"> 00B0000000", "< 6982", // EF.IMPI is still the current file
		"> 01A40004026F07", "< 9000", // another channel, of which nothing is known
		"> 00A40004023F00", "< 9000",
		"> 00A40004022FE2", "< 6A82",
		"> 00B0000000", "< 6986",
		"> 0070000001", "< 029000",
		"> 02A40004022F00", "< 9000",
		"> 0070800200", "< 9000",
		"> 00A40004027FFF", "< 9000",
		"> 00A40004026F03", "< 9000",
	)
	assert.Equal(t, "SELECT ADF.ISIM/EF.IMPI (IMS private user identity)", e[2].Title)
	assert.Equal(t, `"abc"`, value(e[5], "identity"))
	assert.Equal(t, "SELECT ADF.ISIM/EF 6F05", e[6].Title)
	assert.Equal(t, "READ BINARY ADF.ISIM/EF.IMPI (IMS private user identity)", e[8].Title)
	assert.Equal(t, "SELECT ADF.USIM/EF.IMSI (subscriber identity)", e[10].Title)
	assert.Equal(t, 1, e[10].Channel)
	assert.Equal(t, "READ BINARY", e[16].Title, "no file is selected")
	assert.Equal(t, "SELECT MF/EF.DIR (application directory)", e[20].Title)
	assert.Equal(t, "MANAGE CHANNEL: close channel 2", e[22].Title)
	assert.Equal(t, "SELECT ADF.ISIM/EF.DOMAIN (home network domain)", e[26].Title)
}

func TestAResetForgets(t *testing.T) {
	e := explained(t, nil, "> 00A40804047F106F3A", "< 9000", "! reset 3B00", "> 00B2010400", "! removed gone", "< 9000")
	assert.Equal(t, "READ RECORD", e[3].Title)
	assert.Equal(t, "READ RECORD: not known", value(e[4], "outcome"))
	assert.Equal(t, Bad, e[4].Level)
	assert.Equal(t, "none before it", value(e[5], "command"))
}

func TestChainsAndPartsAreJoined(t *testing.T) {
	e := explained(t, nil,
		"> 00A4040010A0000005591010FFFFFFFF8900000100", "< 9000",
		"> 90E2910003BF3E03", "< 9000",
		"> 80E29100035C015A", "< 6108",
		"> 80C0000008", "< BF3E125A108904906"+"10D",
	)
	assert.Equal(t, "STORE DATA, part 1 of a chain", e[2].Title)
	assert.Equal(t, "ES10c.GetEID", e[4].Title)
	assert.Equal(t, "5A", value(e[4], "tags asked for"))
	assert.Equal(t, "GET RESPONSE of ES10c.GetEID", e[6].Title)

	e = explained(t, nil, "> 10880101080102030405060708", "< 9000", "> 00A4000C023F00", "< 9000")
	assert.Equal(t, "another command, INTERNAL AUTHENTICATE, part 1 of a chain is not complete", value(e[2], "chain"))
	assert.Equal(t, "SELECT MF", e[2].Title)
}

func TestMissingResponses(t *testing.T) {
	e := explained(t, nil, "> 00A4000C023F00", "> 00B0000000", "! error the card does not answer", "> 00B0000000", "< 9000")
	assert.Equal(t, "SELECT MF has no response here", value(e[1], "before"))
	assert.Equal(t, "READ BINARY: not known", value(e[2], "outcome"))
	assert.Equal(t, Good, e[4].Level)
}

// TestHostileTracesAreBounded: what an entry says has an end.
func TestHostileTracesAreBounded(t *testing.T) {
	many := strings.Repeat("8000", 30000)
	deep := strings.Repeat("30820100", 60) + "0500"
	e := explained(t, nil,
		"> 80E29100000000", "< 9000",
		"> 00A40004023F00", "< "+many+"9000",
		"> 00A40004023F00", "< "+deep+"9000",
		"> 00CA0000", "< "+strings.Repeat("FF", 60000)+"9000",
		"> 80CA005A"+"00", "< "+strings.Repeat("3F", 65000)+"9000",
	)
	for _, x := range e {
		assert.LessOrEqual(t, len(x.Fields), maxFields+1)
		for _, f := range x.Fields {
			assert.LessOrEqual(t, f.Depth, maxDepth)
			assert.LessOrEqual(t, len(f.Value), 8*maxValue)
		}
	}
	assert.Equal(t, "more than is shown", e[3].Fields[maxFields].Value)

	x := New(nil)
	part := trace.Entry{Kind: trace.Command, Data: append([]byte{0x10, 0x82, 1, 1, 255}, make([]byte, 255)...)}
	for range 2000 {
		x.Explain(part)
	}
	assert.LessOrEqual(t, len(x.channels[0].chain), maxGathered)
	block := trace.Entry{Kind: trace.Command, Data: append([]byte{0x80, 0xE2, 0x11, 1, 255}, make([]byte, 255)...)}
	for range 2000 {
		x.Explain(block)
	}
	assert.LessOrEqual(t, len(x.channels[0].es10), maxGathered)
	get := trace.Entry{Kind: trace.Response, Data: append(make([]byte, 256), 0x61, 0x00)}
	x.Explain(trace.Entry{Kind: trace.Command, Data: []byte{0, 0xB0, 0, 0, 0}})
	for range 2000 {
		x.Explain(get)
	}
	assert.LessOrEqual(t, len(x.channels[0].now.data), maxGathered)
}

// TestSecretsAreNotSaid: PINs, keys and what AUTHENTICATE answers are in none
// of the forms.
func TestSecretsAreNotSaid(t *testing.T) {
	const secret = "5EC2E75EC2E7"
	lines := []string{
		"> 0020000106" + secret, "< 9000",
		"> 002400010C" + secret + secret, "< 9000",
		"> 002C00010C" + secret + secret, "< 9000",
		"> 00A4040007A0000000871002", "< 9000",
		"> 00A40004026F08", "< 9000",
		"> 00B0000000", "< " + secret + "9000",
		"> 00B0880000", "< " + secret + "9000",
		"> 00D6000006" + secret, "< 9000",
		"> 0088008122" + "10" + strings.Repeat("11", 16) + "10" + strings.Repeat("22", 16), "< DB06" + secret + "9000",
		"> 0088008122" + "10" + strings.Repeat("11", 16) + "10" + strings.Repeat("22", 16), "< 6108",
		"> 00C0000008", "< DB06" + secret + "9000",
		"> 80D80081" + "0A" + "0188061111" + secret[:10], "< 9000",
		"> A0200001" + "06" + secret, "< 9804",
		"> 0020000106" + secret + "00FF", "< 6700", // lengths that do not fit
		"> 1020000103" + secret[:6], "< 9000",
		"> 0020000103" + secret[6:], "< 9000",
	}
	var textOut, jsonOut, page bytes.Buffer
	to := []Renderer{NewText(&textOut, true), NewJSON(&jsonOut), NewHTML(&page)}
	require.NoError(t, Show(parse(t, lines...), nil, nil, to...))
	for i, r := range to {
		require.NoError(t, r.Close())
		out := strings.ToUpper([]*bytes.Buffer{&textOut, &jsonOut, &page}[i].String())
		assert.Contains(t, out, "VERIFY PIN")
		assert.NotContains(t, out, secret[:6])
		assert.NotContains(t, out, secret[6:])
	}
}

func TestEventsAndATR(t *testing.T) {
	e := explained(t, nil, "! connected 3B9F96801FC78031A073BE21136743200718000001A5", "! connected", "! error x", "! strange y", "! closed")
	assert.Equal(t, "4 logical channels", value(e[0], "capabilities"))
	assert.Empty(t, e[1].Fields)
	assert.Equal(t, Bad, e[2].Level)
	assert.Equal(t, "strange", e[3].Title)
	assert.Equal(t, "y", value(e[3], "text"))
}

func TestMalformed(t *testing.T) {
	x := New(nil)
	for _, c := range []struct {
		e    trace.Entry
		want string
	}{
		{trace.Entry{Kind: trace.Command}, "not a command"},
		{trace.Entry{Kind: trace.Command, Data: []byte{0, 1}}, "not a command"},
		{trace.Entry{Kind: trace.Command, Data: []byte{0, 0xB0, 0, 0, 5, 1}}, "READ BINARY"},
		{trace.Entry{Kind: trace.Response}, "not a response"},
		{trace.Entry{Kind: trace.Response, Data: []byte{1, 2}}, "not a response"},
		{trace.Entry{}, ""},
	} {
		e := x.Explain(c.e)
		assert.Equal(t, c.want, e.Title)
		if c.e.Kind != 0 {
			assert.Equal(t, Bad, e.Level)
		}
	}
}

func ExampleExplainer() {
	x := New(nil)
	for _, e := range []trace.Entry{
		{Kind: trace.Command, Data: []byte{0x00, 0xA4, 0x00, 0x04, 0x02, 0x2F, 0xE2}},
		{Kind: trace.Response, Data: []byte{0x90, 0x00}},
		{Kind: trace.Command, Data: []byte{0x00, 0xB0, 0x00, 0x00, 0x0A}},
		{Kind: trace.Response, Data: []byte{0x98, 0x68, 0x30, 0x0D, 0x1A, 0x2B, 0x3C, 0x4E, 0x00, 0x24, 0x90, 0x00}},
	} {
		said := x.Explain(e)
		fmt.Println(said.Title)
		for _, f := range said.Fields {
			fmt.Printf("  %s: %s\n", f.Name, f.Value)
		}
	}
	// Output:
	// SELECT MF/EF.ICCID (card identity)
	// 9000 success
	// READ BINARY MF/EF.ICCID (card identity)
	//   Le: 10 bytes
	// 9000 success
	//   ICCID: 898603D0A1B2C3E40042
}
