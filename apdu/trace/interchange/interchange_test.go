package interchange

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

const (
	atr = "3B9F96801FC78031E073FE211367560327008901"
	fcp = "621F8202782183023F00A50B8001718304000300018A01058B032F0602C6039001"
)

// apdus is the session that every file of testdata has.
var apdus = []string{
	"> 00A40004023F00", "< 6121",
	"> 00C0000021", "< " + fcp + "9000",
	"> 00B000000A", "< 981010325476981032549000",
	"> 00A4040007A0000000871002", "< 6A82",
}

// show is an entry in one line, without its time.
func show(e trace.Entry) string {
	s := string(e.Kind) + " "
	if e.Kind == trace.Event {
		s += e.Name
		if len(e.Data) > 0 {
			s += " "
		}
	}
	s += strings.ToUpper(hex.EncodeToString(e.Data))
	if e.Text != "" {
		s += " " + e.Text
	}
	return s
}

// session is what was read of one session.
type session struct {
	header  trace.Header
	entries []trace.Entry
}

func (s session) lines() []string {
	var out []string
	for _, e := range s.entries {
		out = append(out, show(e))
	}
	return out
}

// all reads everything; nothing that a source may be given breaks it.
func all(t testing.TB, src trace.Source) (out []session, err error) {
	for {
		h, err := src.NextSession()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		s := session{header: h}
		for {
			e, err := src.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return append(out, s), err
			}
			require.Contains(t, []trace.Kind{trace.Command, trace.Response, trace.Event}, e.Kind)
			s.entries = append(s.entries, e)
		}
		out = append(out, s)
	}
}

// opened is all that Open reads of r.
func opened(t testing.TB, r io.Reader) (Format, []session, []string) {
	var warnings []string
	src, f, err := Open(r, func(w Warning) { warnings = append(warnings, w.String()) })
	require.NoError(t, err)
	out, err := all(t, src)
	require.NoError(t, err)
	return f, out, warnings
}

func TestFormats(t *testing.T) {
	connected, reset, closed := "! connected "+atr, "! reset "+atr, "! closed"
	for name, c := range map[string]struct {
		format      Format
		first, last string
		reader      string
		took        time.Duration // of the first response
	}{
		"scriptor.log":     {Scriptor, reset, "", "Bench Reader 00", 0},
		"pcscd.log":        {PCSCD, connected, "", "", 250 * time.Microsecond},
		"pyscard.log":      {PySCard, "! connected", closed, "Bench Reader 00", 0},
		"opensc-tool.log":  {OpenSCTool, "", "", "Bench Reader 00", 0},
		"opensc-debug.log": {OpenSCDebug, "", "", "Bench Reader 00", 0},
		"lpac.log":         {LPAC, "", "", "", 0},
		"gp.log":           {GPPro, connected, closed, "Bench Reader 00", 26 * time.Millisecond},
		"simtrace2.log":    {SIMtrace, connected, "", "", 0},
		"pysim.log":        {PySim, "", "", "", 0},
		"tca.log":          {TCA, "", "", "", 0},
		"session.jsonl":    {JSONLines, connected, "", "Bench Reader 00", 250 * time.Microsecond},
		"session.trace":    {Trace, connected, "", "Bench Reader 00", 0},
		"little.pcap":      {PCAP, connected, "", "", 0},
		"big-nanos.pcap":   {PCAP, connected, "", "", 0},
		"raw.pcap":         {PCAP, connected, "", "", 0},
		"null.pcap":        {PCAP, connected, "", "", 0},
		"sll.pcap":         {PCAP, connected, "", "", 0},
		"sll2.pcap":        {PCAP, connected, "", "", 0},
		"gsmtap.pcap":      {PCAP, connected, "", "", 0},
		"little.pcapng":    {PCAPNG, connected, "", "Bench Reader 00", 0},
		"big.pcapng":       {PCAPNG, connected, "", "Bench Reader 00", 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata", name))
			require.NoError(t, err)
			want := append([]string(nil), apdus...)
			if c.first != "" {
				want = append([]string{c.first}, want...)
			}
			if c.last != "" {
				want = append(want, c.last)
			}
			inputs := map[string][]byte{"as it is": b}
			if c.format != PCAP && c.format != PCAPNG {
				inputs["CRLF"] = bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
				inputs["UTF-8 with a mark"] = append([]byte("\xEF\xBB\xBF"), b...)
				little, big := []byte("\xFF\xFE"), []byte("\xFE\xFF")
				for _, u := range utf16.Encode([]rune(string(b))) {
					little = append(little, byte(u), byte(u>>8))
					big = append(big, byte(u>>8), byte(u))
				}
				inputs["UTF-16"], inputs["UTF-16 big"] = little, big
				inputs["UTF-16 without a mark"], inputs["UTF-16 big without a mark"] = little[2:], big[2:]
			}
			for how, in := range inputs {
				for _, r := range []io.Reader{bytes.NewReader(in), iotest.HalfReader(bytes.NewReader(in))} {
					f, sessions, warnings := opened(t, r)
					assert.Equal(t, c.format, f, how)
					assert.Empty(t, warnings, how)
					require.Len(t, sessions, 1, how)
					assert.Equal(t, want, sessions[0].lines(), how)
					assert.Equal(t, c.reader, sessions[0].header.Reader, how)
					for _, e := range sessions[0].entries {
						if e.Kind == trace.Response {
							assert.Equal(t, c.took, e.Took, how)
							break
						}
					}
				}
			}
		})
	}
}

// What the tools themselves printed (Debian 12: pcsc-tools 1.6, pcscd 1.9.9,
// OpenSC 0.23) of sessions with the emulated card in pcscd's virtual reader.
func TestRealTools(t *testing.T) {
	const (
		aid    = "> 00A404000BF06361726462726964676500"
		fci    = "< 6F1A840BF063617264627269646765A50B80010181020103820208009000"
		getEID = "> 80CA005A00"
		eid    = "< 5A10890490320000000000000000000001639000"
		rs     = "000102030405060708090A0B0C0D0E0F"
	)
	for name, c := range map[string]struct {
		format Format
		want   []string // beginnings
	}{
		"scriptor.log":     {Scriptor, []string{aid, fci, "> 00880101000010" + rs + "0000", "< BD806285", "! reset 3B8580B1FE451FC780738021DF5A", "> 00A40004023F00", "< 6A86", "> 00DB3FFF000300000102", "< 6D00"}},
		"pcscd.log":        {PCSCD, []string{"! connected 3B8580B1FE451FC780738021DF5A", aid, fci, "> 00880101000010" + rs + "0000", "< BD806285", "> 00A40004023F00", "< 6A86", "> 00DB3FFF000300000102", "< 6D00", aid, fci, getEID, eid}},
		"opensc-tool.log":  {OpenSCTool, []string{aid, fci, getEID, eid, "> 0088010110" + rs + "00", "< B156162D"}},
		"opensc-debug.log": {OpenSCDebug, []string{aid, fci, getEID, eid}},
	} {
		b, err := os.ReadFile(filepath.Join("testdata", "real", name))
		require.NoError(t, err)
		f, sessions, warnings := opened(t, bytes.NewReader(b))
		assert.Equal(t, c.format, f)
		assert.Empty(t, warnings, name)
		require.Len(t, sessions, 1)
		got := sessions[0].lines()
		require.Len(t, got, len(c.want), name)
		for i, l := range got {
			assert.Equal(t, c.want[i], l[:min(len(l), len(c.want[i]))], name)
			if strings.HasPrefix(l, "< B") {
				assert.Len(t, sessions[0].entries[i].Data, 352+2, name)
			}
		}
	}
}

// A script has no answers; what scriptor prints of one has each command twice.
func TestScript(t *testing.T) {
	b, err := os.ReadFile("testdata/scriptor.script")
	require.NoError(t, err)
	var want []string
	for _, l := range apdus {
		if l[0] == '>' {
			want = append(want, l)
		}
	}
	f, sessions, warnings := opened(t, bytes.NewReader(b))
	assert.Equal(t, Scriptor, f)
	assert.Empty(t, warnings)
	assert.Equal(t, append([]string{"! reset"}, want...), sessions[0].lines())

	f, sessions, warnings = opened(t, strings.NewReader("00A40400\n> 00 A4 04 00\n< 90 00 : Normal processing.\n00B0000001\n00B0000002\n> 00 B0 00 00 02\n< 01 90 00 : Normal processing.\n> RESET\n< KO: No card.\n"))
	assert.Equal(t, Scriptor, f)
	assert.Empty(t, warnings)
	assert.Equal(t, []string{"> 00A40400", "< 9000", "> 00B0000001", "> 00B0000002", "< 019000", "! error No card."}, sessions[0].lines())
}

func TestTimes(t *testing.T) {
	at := func(name string) (out []time.Duration, h trace.Header) {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		_, sessions, _ := opened(t, bytes.NewReader(b))
		for _, e := range sessions[0].entries {
			out = append(out, e.At)
		}
		return out, sessions[0].header
	}
	ms := time.Millisecond
	got, h := at("opensc-debug.log")
	assert.Equal(t, []time.Duration{0, 12 * ms, 100 * ms, 112 * ms, 200 * ms, 212 * ms, 300 * ms, 312 * ms}, got)
	assert.Equal(t, time.Date(2026, 11, 22, 9, 19, 0, 0, time.UTC), h.Date)
	for _, name := range []string{"little.pcap", "big-nanos.pcap"} {
		got, h = at(name)
		assert.Equal(t, []time.Duration{0, ms, ms, 2 * ms, 2 * ms, 3 * ms, 3 * ms, 4 * ms, 4 * ms}, got)
		assert.Equal(t, time.Unix(1795305600, 0).UTC(), h.Date)
	}
	got, h = at("big.pcapng")
	assert.Equal(t, []time.Duration{0, ms, ms, 2 * ms, 2 * ms, 2 * ms, 2 * ms, 4 * ms, 4 * ms}, got, "a simple packet has no time")
	assert.Equal(t, trace.Hand, h.Origin)
	got, _ = at("pcscd.log")
	assert.Equal(t, []time.Duration{100 * time.Microsecond, 1100 * time.Microsecond, 1350 * time.Microsecond}, got[:3])
}

// What is not understood is named with its place, and the rest is read.
func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		text     string
		format   Format
		want     []string
		warnings []string
	}{
		"mixed": {
			"-> 00a4000402 3f00\n<- 6121:\nReading ...\n[DEBUG] [APDU] [TX] CLA: 00, INS: A4\n<- 9000: 0\n-> 00a404\n<- 90: 00\n<- 9000: 01\n",
			PySim, []string{"> 00A40004023F00", "< 6121", "< 019000"},
			[]string{"line 3: not understood", "line 4: not understood", "line 5: not whole bytes in hexadecimal", "line 6: a command of 3 bytes", "line 7: no status word"},
		},
		"cut off": {
			"> 00 A4 00 04 02 3F 00\n< 61 21 : more\n> 00 A4 00 04 02 3F\n< 62 1F 82 02 78 21 83 02 3F 00 A5 0B 80 01 71 83 \n> 00 C0 00 00 21\n< 62 1F 82 02 78 21 83 02 3F 00 A5 0B 80 01 71 83\n",
			Scriptor, []string{"> 00A40004023F00", "< 6121", "> 00A40004023F", "< 621F8202782183023F00A50B80017183", "> 00C0000021", "< 621F8202782183023F00A50B80017183"},
			[]string{"line 3: a command whose length field is false: cut off?", "line 5: an answer without an end: cut off?", "line 6: an answer without an end: cut off?"},
		},
		"a dump that is cut off": {
			"Outgoing APDU (7 bytes):\n00 A4 00 0C 02 3F 00 .....?.\nIncoming APDU (20 bytes):\n62 1F 82 02 78 21 83 02 3F 00 A5 0B 80 01 71 83 b...x!..?.....q.\nsomething else\nIncoming APDU (2 bytes):\n90 00 ..\nIncoming APDU (1 bytes):\n90 .",
			OpenSCDebug, []string{"> 00A4000C023F00", "< 9000"},
			[]string{"line 5: an APDU before it lacks 4 bytes", "line 8: an APDU of 1 bytes"},
		},
		"digits beside digits": { // text that looks like bytes
			"Sending: 00 B0 00 00 04\nReceived (SW1=0x90, SW2=0x00):\n41 20 42 20 A B \nSending: 00 B0 00 00 02\nReceived (SW1=0x90, SW2=0x00):\n41 41 AA\nReceived (SW1=0x9, SW2=0x00)\n",
			OpenSCTool, []string{"> 00B0000004", "< 412042209000", "> 00B0000002", "< 41419000"},
			[]string{"line 7: no status word"},
		},
		"a long line": {
			"Command 00A40000\nCommand " + strings.Repeat("00", maxLine) + "\nResponse 9000\nResponse " + strings.Repeat("00", maxAPDU+1) + "\nResponse 90",
			TCA, []string{"> 00A40000", "< 9000"},
			[]string{"line 2: longer than 262144 bytes", "line 4: more than 65544 bytes", "line 5: a response of 1 bytes"},
		},
		"GlobalPlatformPro": {
			"A>> T=1 (4+0000) 00A40400 00\nA<< (0018+2) (26ms) 6F10 9000\nA>> nothing\nA<< (0000+2) 9000\n",
			GPPro, []string{"> 00A4040000", "< 6F109000", "< 9000"},
			[]string{"line 2: an answer of 2 bytes that says it has 18: cut off?", "line 3: not understood"},
		},
		"lpac": {
			"[DEBUG] [APDU] [TX] CLA: 80, INS: C0, P1: 00, P2: 00, Lc: 15, Data:\n[DEBUG] [APDU] [RX] SW1: 90, Data: 00\n[DEBUG] [APDU] [TX] CLA: 80, INS: C00, P1: 00\n[DEBUG] [APDU] [RX] SW1: 90, SW2: 00, BF\n",
			LPAC, []string{"> 80C0000015"},
			[]string{"line 2: no SW2", "line 3: INS is not a byte", "line 4: no Data"},
		},
		"simtrace2": {
			"TPDU: 00 a4 00 04 02 3f 00 61 2f \nTPDU (incomplete, checksum error): 00 a4 00 04 02 3f 90 00 \nTPDU: 00 a4 00 \nnoise\nATR: 3b 00 \nATR: 3b 01 \nCard state change: card ejected\n",
			SIMtrace, []string{"> 00A40004023F00", "< 612F", "> 00A40004023F", "< 9000", "! reset 3B00", "! reset 3B01", "! removed"},
			[]string{`line 2: the sniffer says "incomplete, checksum error"`, "line 2: a command whose length field is false: cut off?", "line 3: a TPDU of 3 bytes", "line 4: not understood"},
		},
		"JSON": {
			`{"type":"command","data":"00A40400"}` + "\n" + `{"type":"response","data":"9`[:25] + "\n" + `{"type":"what"}` + "\n\n" + `{"type":"response","data":"90"}` + "\n" + `{"type":"event","name":"a b","text":"c\nd"}` + "\n" + `{"type":"response","data":"**9000","at_us":-1,"took_us":99999999999999}`,
			JSONLines, []string{"> 00A40400", "! a-b c d", "< 009000"},
			[]string{"line 2: not understood", "line 3: not understood", "line 5: a response of 1 bytes"},
		},
		"ours": {
			"# cardbridge trace 1\n# origin: heaven\n> 00A40400\nx\n< 9000\n",
			Trace, []string{"> 00A40400", "< 9000"},
			[]string{`line 2: origin "heaven" is none of hardware, emulator, hand`, "line 4: begins with none of > < ! #"},
		},
		"half a unit of UTF-16": {
			"\xFF\xFE-\x00>\x00 \x000\x000\x00a\x004\x000\x000\x000\x000\x00\n\x00\x00\xD8<\x00\n\x00x",
			PySim, []string{"> 00A40000"}, []string{"line 2: not understood"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, sessions, warnings := opened(t, strings.NewReader(c.text))
			assert.Equal(t, c.format, f)
			require.Len(t, sessions, 1)
			assert.Equal(t, c.want, sessions[0].lines())
			assert.Equal(t, c.warnings, warnings)
		})
	}
}

func TestWarningsEnd(t *testing.T) {
	_, _, warnings := opened(t, strings.NewReader("Command 00A40000\n"+strings.Repeat("x\n", 1000)))
	require.Len(t, warnings, maxWarnings)
	assert.Contains(t, warnings[maxWarnings-1], "line 101: not understood; further warnings are left out")
}

func TestUnknown(t *testing.T) {
	for _, in := range []string{"", "hello\nworld\n", "\x7FELF\x02\x01\x01\x00\x00", "\xFF\xFE", strings.Repeat("\x00", 100_000)} {
		_, _, err := Open(strings.NewReader(in), nil)
		var unknown *UnknownFormatError
		assert.ErrorAs(t, err, &unknown, "%.10q", in)
	}
	_, _, err := Open(iotest.ErrReader(io.ErrClosedPipe), nil)
	assert.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = NewSource("nothing", strings.NewReader(""), nil)
	assert.EqualError(t, err, `interchange: no format "nothing"`)
	_, err = NewSink(PCAP, io.Discard)
	assert.Error(t, err)
}

// What came before a reader's error is read, and the error is told.
func TestReaderFails(t *testing.T) {
	broken := errors.New("broken")
	for _, f := range Formats() {
		files, err := filepath.Glob("testdata/*.*")
		require.NoError(t, err)
		for _, name := range files {
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			if got, _ := Detect(b); got != f {
				continue
			}
			src, err := NewSource(f, io.MultiReader(bytes.NewReader(b), iotest.ErrReader(broken)), nil)
			require.NoError(t, err)
			sessions, err := all(t, src)
			assert.ErrorIs(t, err, broken, name)
			require.Len(t, sessions, 1)
			assert.GreaterOrEqual(t, len(sessions[0].entries), 5, name)
			_, err = src.NextSession()
			assert.ErrorIs(t, err, broken, name)
		}
	}
}

// converted is the sessions in src written in format f and read again.
func converted(t testing.TB, f Format, src trace.Source) ([]byte, []session) {
	var b bytes.Buffer
	sink, err := NewSink(f, &b)
	require.NoError(t, err)
	require.NoError(t, trace.Copy(sink, src))
	require.NoError(t, sink.Close())
	in, err := NewSource(f, bytes.NewReader(b.Bytes()), func(w Warning) { assert.Fail(t, w.String()) })
	require.NoError(t, err)
	sessions, err := all(t, in)
	require.NoError(t, err)
	return b.Bytes(), sessions
}

const written = `# cardbridge trace 2
# title: one: two
# card: 8904
# reader: R 1
# tool: lpac
# date: 2026-11-22T01:02:03Z
# origin: emulator
# redacted: yes
! connected 3B00 # +0.001000s
> 00A40004023F00 # +0.002000s
< 6121 # +0.002250s 0.250ms
> 0020000102**** # +0.003000s
< 9000 # +0.003250s 0.250ms
! reset 3B00 # +0.004000s
! error no answer # +0.005000s
# cardbridge trace 2
# title: two
> 00A40400 # +0.000000s
< 6A82 # +0.000000s 0.000ms
`

func TestSinks(t *testing.T) {
	source := func() trace.Source { return trace.NewReader(strings.NewReader(written)) }
	want, err := all(t, source())
	require.NoError(t, err)
	strip := func(all []session) []session {
		for _, s := range all {
			for i := range s.entries {
				s.entries[i].Line = 0
			}
		}
		return all
	}
	for _, f := range []Format{Trace, JSONLines} {
		_, got := converted(t, f, source())
		assert.Equal(t, strip(want), strip(got), f)
	}
	b, got := converted(t, Scriptor, source())
	assert.Equal(t, `# a script for scriptor
# title: one: two
# card: 8904
# reader: R 1
# tool: lpac
# date: 2026-11-22T01:02:03Z
# origin: emulator
# redacted: yes
# ! connected 3B 00
00 A4 00 04 02 3F 00
# < 61 21
# redacted: 00 20 00 01 02 ** **
# < 90 00
reset
# ! error no answer
# a script for scriptor
# title: two
00 A4 04 00
# < 6A 82
`, string(b))
	assert.Equal(t, []string{"> 00A40004023F00", "! reset", "> 00A40400"}, got[0].lines())

	_, got = converted(t, PCAPNG, source())
	require.Len(t, got, 2)
	assert.Equal(t, want[0].header, got[0].header)
	assert.Equal(t, []string{"! connected 3B00", "> 00A40004023F00", "< 6121", "> 00200001020000", "< 9000", "! reset 3B00"}, got[0].lines())
	assert.Equal(t, 2250*time.Microsecond, got[0].entries[1].At)
	assert.Equal(t, "two", got[1].header.Title)
	assert.Equal(t, []string{"> 00A4040000", "< 6A82"}, got[1].lines(), "T=0 has P3 where there is neither data nor Le")
}

// As T=0 has it: long commands chained, answers to commands with data fetched.
func TestTPDUs(t *testing.T) {
	long := strings.Repeat("AB", 300)
	for _, c := range []struct{ command, response, want string }{
		{"00A40400", "9000", "00A4040000 9000"},
		{"00A40400", "01029000", "00A4040002 0102 9000"},
		{"00B0000000", "01029000", "00B0000000 0102 9000"},
		{"00B0000002", "6C03", "00B0000002 6C03"},
		{"00A40004023F0000", "6F009000", "00A4000402 3F00 6102|00C0000002 6F00 9000"},
		{"01A40004023F00", "6102", "01A4000402 3F00 6102"},
		{"81C0000002", "6F009000", "01C0000002 6F00 9000"},
		{"C5C0000002", "6F009000", "45C0000002 6F00 9000"},
		{"81E2910003BF2D00", "01029000", "81E2910003 BF2D00 6102|01C0000002 0102 9000"},
		{"00CA005A0000" + "00", long + "9000", "00CA005A00 " + long[:512] + " 612C|00C000002C " + long[512:] + " 9000"},
		{"0088010100012C" + long + "0000", long + "6300", "10880101FF " + long[:510] + " 9000|008801012D " + long[510:] + " 6100|00C0000000 " + long[:512] + " 612C|00C000002C " + long[512:] + " 6300"},
		{"00A4000403AA", "6700", "00A4000403 AA 6700"},
	} {
		command, err := hex.DecodeString(c.command)
		require.NoError(t, err)
		response, err := hex.DecodeString(c.response)
		require.NoError(t, err)
		var got []string
		emitTPDUs(command, response, func(head [5]byte, data []byte, sw [2]byte) {
			s := fmt.Sprintf("%X %X %X", head, data, sw)
			got = append(got, strings.ReplaceAll(s, "  ", " "))
		})
		assert.Equal(t, c.want, strings.Join(got, "|"), c.command)
	}
	for _, c := range [][2]string{
		{"00A40004023F009000", "00A40004023F00 9000"},
		{"00A40004023F006F009000", "00A40004023F00 6F009000"},
		{"00B000000201029000", "00B0000002 01029000"},
		{"0CB000000201029000", "0CB00000020102 9000"},
		{"84B000000201029000", "84B00000020102 9000"},
		{"E0B000000201029000", "E0B00000020102 9000"},
		{"80F200000201029000", "80F2000002 01029000"},
		{"80F24000024F009000", "80F24000024F00 9000"},
		{"A0C000000201029000", "A0C0000002 01029000"},
		{"00700000010190" + "00", "0070000001 019000"},
		{"00200001009000", "0020000100 9000"},
		{"00B000000001029000", "00B0000000 01029000"},
	} {
		b, err := hex.DecodeString(c[0])
		require.NoError(t, err)
		command, response, err := splitTPDU(b)
		require.NoError(t, err)
		assert.Equal(t, c[1], fmt.Sprintf("%X %X", command, response))
	}
}

// Captures that are broken give what can be read.
func TestBrokenCaptures(t *testing.T) {
	for _, name := range []string{"little.pcap", "big-nanos.pcap", "little.pcapng", "big.pcapng"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		for n := 4; n < len(b); n += 3 {
			src, _, err := Open(bytes.NewReader(b[:n]), nil)
			require.NoError(t, err)
			sessions, err := all(t, src)
			if err != nil {
				assert.ErrorContains(t, err, "not a capture")
				continue
			}
			require.Len(t, sessions, 1)
			assert.LessOrEqual(t, len(sessions[0].entries), 9)
		}
	}
	ng, err := os.ReadFile("testdata/little.pcapng")
	require.NoError(t, err)
	pc, err := os.ReadFile("testdata/little.pcap")
	require.NoError(t, err)
	changed := func(b []byte, at int, v ...byte) io.Reader {
		b = append([]byte(nil), b...)
		copy(b[at:], v)
		return bytes.NewReader(b)
	}
	_, s, w := opened(t, changed(pc, 24+8, 0xFF, 0xFF, 0xFF, 0xFF))
	assert.Empty(t, s[0].entries)
	assert.Equal(t, []string{"packet 1: a packet of 4294967295 bytes: what follows is left out", "no packet with GSMTAP SIM"}, w)
	_, s, w = opened(t, changed(pc, 20, 147))
	assert.Empty(t, s[0].entries)
	assert.Equal(t, []string{"no packet with GSMTAP SIM"}, w)
	first := bytes.Index(ng, []byte{6, 0, 0, 0})
	_, s, w = opened(t, changed(ng, first+8, 7))
	assert.Len(t, s[0].entries, 8)
	assert.Equal(t, []string{"packet 1: a packet of an interface that is not there, or longer than its block"}, w)
	_, s, w = opened(t, changed(ng, first+20, 0xFF, 0xFF, 0xFF, 0xFF))
	assert.Len(t, s[0].entries, 8)
	assert.Len(t, w, 1)
	_, s, w = opened(t, changed(ng, first+4, 1))
	assert.Empty(t, s[0].entries)
	assert.Equal(t, "packet 1: a block of 1 bytes: what follows is left out", strings.Replace(w[0], "129", "1", 1))
	_, _, err = Open(changed(ng, 8, 0), nil)
	require.NoError(t, err)

	huge := append([]byte(nil), ng...) // a block that announces 4 GB
	huge = append(huge, 6, 0, 0, 0, 0xF0, 0xFF, 0xFF, 0xFF)
	_, s, w = opened(t, bytes.NewReader(huge))
	assert.Len(t, s[0].entries, 9)
	assert.Equal(t, []string{"packet 6: cut off: what follows is left out"}, w)
}

// repeated gives head and then n times text.
type repeated struct {
	head, text []byte
	n          int
	rest       []byte
}

func (r *repeated) Read(b []byte) (int, error) {
	if r.head != nil {
		r.rest, r.head = r.head, nil
	}
	if len(r.rest) == 0 {
		if r.n == 0 {
			return 0, io.EOF
		}
		r.n--
		r.rest = r.text
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// bodies is the head of a sample and the part that may be repeated.
func sample(t testing.TB, name string) (head, body []byte) {
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	switch filepath.Ext(name) {
	case ".pcap":
		return b[:24], b[24:]
	case ".pcapng":
		at := bytes.Index(b, []byte{6, 0, 0, 0})
		return b[:at], b[at:]
	case ".trace":
		at := bytes.IndexByte(b, '\n')
		return b[:at+1], b[at+1:]
	case ".jsonl":
		at := bytes.IndexByte(b, '\n')
		return b[:at+1], b[at+1:]
	}
	return nil, b
}

var samples = []string{
	"session.trace", "session.jsonl", "little.pcapng", "little.pcap", "scriptor.log", "pcscd.log", "pyscard.log", "opensc-tool.log",
	"opensc-debug.log", "lpac.log", "gp.log", "simtrace2.log", "pysim.log", "tca.log",
}

// The memory of a reader does not grow with what it reads.
func TestFlat(t *testing.T) {
	const size = 8 << 20
	for _, name := range samples {
		head, body := sample(t, name)
		src, _, err := Open(&repeated{head: head, text: body, n: size / len(body)}, nil)
		require.NoError(t, err)
		var m runtime.MemStats
		n, most := 0, uint64(0)
		for {
			_, err := src.Next()
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				break
			}
			if n++; n%20_000 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
		assert.Greater(t, n, 20_000, name)
		assert.Less(t, most, uint64(4<<20), name)
	}
	// One line without an end.
	src, _, err := Open(&repeated{head: []byte("Command 00A40000\nResponse "), text: bytes.Repeat([]byte("00"), 1<<16), n: size >> 17}, nil)
	require.NoError(t, err)
	sessions, err := all(t, src)
	require.NoError(t, err)
	assert.Equal(t, []string{"> 00A40000"}, sessions[0].lines())
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	assert.Less(t, m.HeapAlloc, uint64(4<<20))
}

func FuzzOpen(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	require.NoError(f, err)
	for _, name := range files {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(uint8(0), b)
	}
	for i := range Formats() {
		f.Add(uint8(i+1), []byte("> 00A40400\n< 9000 : \n< OK: 3B\n\\\n00000001 APDU: 00\nOutgoing APDU (7 bytes):\n00 "))
	}
	f.Add(uint8(0), []byte(written))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		n := 0
		warn := func(w Warning) {
			n++
			assert.NotEmpty(t, w.Reason)
			assert.LessOrEqual(t, w.Line, bytes.Count(b, []byte("\n"))+1)
		}
		src, format, err := Open(bytes.NewReader(b), warn)
		if all := Formats(); which > 0 {
			format = all[int(which-1)%len(all)]
			src, err = NewSource(format, bytes.NewReader(b), warn)
		}
		if err != nil {
			return
		}
		sessions, err := all(t, src)
		if err != nil {
			return
		}
		require.LessOrEqual(t, n, maxWarnings)
		for _, s := range sessions {
			for _, e := range s.entries {
				require.True(t, e.Kind == trace.Event || len(e.Data) >= 2)
				require.True(t, 0 <= e.At && e.At <= maxTime && 0 <= e.Took && e.Took <= maxTime, "%v %v", e.At, e.Took)
			}
		}
		// Whatever is read can be written in our format and read back.
		src, err = NewSource(format, bytes.NewReader(b), nil)
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, trace.Copy(trace.NewWriter(&out), src))
		again, err := trace.ParseAll(&out)
		require.NoError(t, err, "%s", out.Bytes())
		require.Len(t, again, len(sessions))
		for i, s := range sessions {
			require.Len(t, again[i].Entries, len(s.entries))
			for j, e := range s.entries {
				require.Equal(t, e.Data, again[i].Entries[j].Data)
			}
		}
		for _, f := range SinkFormats() {
			sink, err := NewSink(f, io.Discard)
			require.NoError(t, err)
			src, err = NewSource(format, bytes.NewReader(b), nil)
			require.NoError(t, err)
			require.NoError(t, trace.Copy(sink, src))
		}
	})
}

// TestNotTheFirstLine: what begins like our format is not taken for another's.
func TestNotTheFirstLine(t *testing.T) {
	for text, want := range map[string]string{
		"\n# cardbridge trace 2\n> 00A40000\n< 9000\n": "which is the first line",
		"# cardbridge trace 3\n> 00A40000\n< 9000\n":   `version "3" of the format is not known`,
	} {
		src, format, err := Open(strings.NewReader(text), nil)
		require.NoError(t, err)
		assert.Equal(t, Trace, format)
		_, err = src.NextSession()
		assert.ErrorContains(t, err, want)
	}
}

// TestTooLongForAPacket: bytes that are no command do not end the writing.
func TestTooLongForAPacket(t *testing.T) {
	var out bytes.Buffer
	sink, err := NewSink(PCAPNG, &out)
	require.NoError(t, err)
	require.NoError(t, sink.Begin(trace.Header{}))
	for _, n := range []int{60000, 2} {
		require.NoError(t, sink.Write(trace.Entry{Kind: trace.Command, Data: append([]byte{0, 0xA4, 0, 4}, make([]byte, n)...)}))
		require.NoError(t, sink.Write(trace.Entry{Kind: trace.Response, Data: append(make([]byte, n), 0x90, 0)}))
	}
	src, _, err := Open(&out, nil)
	require.NoError(t, err)
	_, err = src.NextSession()
	require.NoError(t, err)
	e, err := src.Next()
	require.NoError(t, err)
	assert.Less(t, len(e.Data), 60000, "what follows is written")
}

// TestRedactedCapture: zeros that stand for a PIN are none when they are read
// back.
func TestRedactedCapture(t *testing.T) {
	for _, redacted := range []bool{true, false} {
		var out bytes.Buffer
		sink, err := NewSink(PCAPNG, &out)
		require.NoError(t, err)
		require.NoError(t, sink.Begin(trace.Header{Redacted: redacted}))
		require.NoError(t, sink.Write(trace.Entry{Kind: trace.Command, Data: []byte{0, 0x20, 0, 1, 2, 0, 0}, Mask: []trace.Span{{From: 5, To: 7}}}))
		require.NoError(t, sink.Write(trace.Entry{Kind: trace.Response, Data: []byte{0x90, 0}}))
		src, _, err := Open(&out, nil)
		require.NoError(t, err)
		_, err = src.NextSession()
		require.NoError(t, err)
		e, err := src.Next()
		require.NoError(t, err)
		assert.Equal(t, redacted, e.Masked(5))
	}
}
