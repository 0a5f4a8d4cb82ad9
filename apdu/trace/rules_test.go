package trace

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// free shows what may differ: a dot for each byte that may, in the APDU's
// digits.
func free(b []byte, f freedom) string {
	out := []byte(strings.ToUpper(hex.EncodeToString(b)))
	for _, s := range f.spans {
		for i := s.From; i < s.To; i++ {
			out[2*i], out[2*i+1] = '.', '.'
		}
	}
	return string(out)
}

func bytesOf(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// Commands (>) and responses (<), and what may differ in them.
func TestDefaultRules(t *testing.T) {
	for _, c := range []struct{ apdus, want []string }{
		{[]string{">00A4040002A000", "<6F009000"}, []string{"00A4040002A000", "6F009000"}},
		{[]string{">0088010102AABB00", "<CAFE9000"}, []string{"0088010102....00", "....9000"}},
		{[]string{">0088030F 000002 AABB 0000", "<CA6105", ">00C0000005", "<1122334455 9000"}, []string{"0088030F000002....0000", "..6105", "00C0000005", "..........9000"}},
		{[]string{">1082010102AABB", "<9000", ">0082010101CC", "<9000"}, []string{"1082010102....", "9000", "0082010101..", "9000"}},
		{[]string{">8CF2000010 97020000 8E08 1122334455667788 0000", "<8705 01AABBCCDD 9902 9000 8E08 1122334455667788 9000"},
			[]string{"8CF2000010" + "970200008E08................0000", "8705..........990290008E08................9000"}},
		// A response that comes in parts, cut within a value and within a header.
		{[]string{">8C04000000", "<8703AA 6104", ">00C0000004", "<BBCC 99 6104", ">00C0000004", "<02 9000 8E 6102", ">00C0000002", "<01EE 9000"},
			[]string{"8C04000000", "8703..6104", "00C0000004", "....996104", "00C0000004", "0290008E6102", "00C0000002", "01..9000"}},
		// On another channel something else goes on.
		{[]string{">8D04000000", "<8703AA 6102", ">0084000004", "<DEADBEEF9000", ">01C0000002", "<BBCC9000"},
			[]string{"8D04000000", "8703..6102", "0084000004", "........9000", "01C0000002", "....9000"}},
		{[]string{">80CA00E100", "<E10D 8004 00000001 8105 0100020F00 9000"}, []string{"80CA00E100", "E10D8004........8105..........9000"}},
		{[]string{">80E2910003BF2E00", "<BF2E 05 80 03 112233 9000"}, []string{"80E2910003BF2E00", "BF2E058003......9000"}},
		{[]string{">80F2000010", "<62058703AABBCC9000"}, []string{"80F2000010", "62058703AABBCC9000"}},
		{[]string{">8050000002AABB00", "<0000111111111111111103020099889000"}, []string{"8050000002....00", "000011111111111111110302......9000"}},
	} {
		m := masker{rules: DefaultRules()}
		var got []string
		for _, a := range c.apdus {
			b := bytesOf(t, a[1:])
			if a[0] == '>' {
				got = append(got, free(b, m.command(b)))
			} else {
				got = append(got, free(b, m.response(b)))
			}
		}
		assert.Equal(t, c.want, got)
	}
}

func TestParseRules(t *testing.T) {
	rules, err := ParseRules(strings.NewReader(`
version: 1
builtin: false
atr: any
rules:
- name: anything of 12
  match: 80 12
  command: any
  response: [any, sw]
- name: part of 13
  match: [80 13 01, 84 13 XF]
  command: [bytes 1-2, bytes 4]
  response: [tag 7C/82, tag 5F37]
`))
	require.NoError(t, err)
	a := text(t, "! connected 3B00", "> 801200000101", "< 9000", "> 8013010005 0000000000", "< 7C0482020000 5F370100 9000", "> 8013020001 00", "< 9000")
	b := text(t, "! connected 3B01", "> 80120000030101FF", "< 01 6A80", "> 8413010005 0022330055", "< 7C0482021122 5F370144 9000", "> 8013020001 00", "< 9000")
	a.Entries[3].Data[0] = 0x84
	got, sum := outline(t, a, b, DiffOptions{Rules: rules})
	assert.Equal(t, "~2/2 ~3/3 !5/5 =7/7", got, "bytes 4 of 5, and no channel rule for 84 13 01")
	assert.False(t, sum.Equal())
	b.Entries[3].Data[0], a.Entries[3].Data[0] = 0x80, 0x80
	got, _ = outline(t, a, b, DiffOptions{Rules: rules})
	assert.Equal(t, "~2/2 ~3/3 ~5/5 =7/7", got)

	got, _ = outline(t, a, b, DiffOptions{Rules: &Rules{}})
	assert.Equal(t, "!2/2 !3/3 !5/5 =7/7", got, "the zero Rules let nothing differ")

	with, err := ParseRules(strings.NewReader("version: 1\n"))
	require.NoError(t, err)
	assert.Equal(t, DefaultRules().rules, with.rules)
}

func TestRulesThatAreNone(t *testing.T) {
	one := "version: 1\nrules:\n- "
	for _, c := range []struct {
		text string
		line int
	}{
		{"", 0},
		{"version: 2", 0},
		{"version: 1\nmore: 1", 0},
		{"version: 1\n---\nversion: 1", 0},
		{"version: [", 0},
		{"version: 1\natr: maybe", 0},
		{"version: 1\ntiming: {factor: 0.5}", 0},
		{"version: 1\ntiming: {factor: .inf}", 0},
		{"version: 1\ntiming: {factor: 2, slack: -1s}", 0},
		{one + "name: x", 3},
		{one + "match: 00", 3},
		{one + "word", 3},
		{one + "name: x\n  match: 0", 3},
		{one + "name: x\n  match: 00 A4 00 00 00", 3},
		{one + "name: x\n  match: 0Z", 3},
		{one + "name: x\n  match: {a: b}", 3},
		{one + "name: x\n  match: 00\n  answer: data", 3},
		{one + "name: x\n  match: 00\n  command: some", 3},
		{one + "name: x\n  match: 00\n  command: sw", 3},
		{one + "name: x\n  match: 00\n  command: bytes", 3},
		{one + "name: x\n  match: 00\n  command: bytes 5-4", 3},
		{one + "name: x\n  match: 00\n  command: bytes 0-99999999999", 3},
		{one + "name: x\n  match: 00\n  response: tag", 3},
		{one + "name: x\n  match: 00\n  response: tag 7C/", 3},
		{one + "name: x\n  match: 00\n  response: tag 5F", 3},
		{one + "name: x\n  match: 00\n  response: tag 7C82", 3},
		{one + "name: x\n  match: 00\n  response: tag " + strings.Repeat("7C/", 8) + "82", 3},
		{"version: 1\nrules:\n" + strings.Repeat("- {}\n", maxRules+1), 0},
		{strings.Repeat("#", maxRulesFile+1), 0},
	} {
		_, err := ParseRules(strings.NewReader(c.text))
		var bad *RulesError
		require.ErrorAs(t, err, &bad, "%.60q", c.text)
		assert.Equal(t, c.line, bad.Line, "%.60q: %v", c.text, err)
		assert.Less(t, len(err.Error()), 300)
	}
	_, err := ParseRules(iotest.ErrReader(io.ErrUnexpectedEOF))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = ParseRules(strings.NewReader("version: 1\nmore: 1"))
	assert.EqualError(t, err, "trace rules: line 2: field more not found")
	_, err = ParseRules(strings.NewReader(one + "name: [x]\n  match: 00"))
	assert.EqualError(t, err, "trace rules: line 3: cannot unmarshal !!seq into string")
}

func FuzzParseRules(f *testing.F) {
	f.Add(defaultRules, []byte{0x8C, 0xF2, 0, 0, 3, 0x87, 1, 9}, []byte{0x87, 0x81, 0x10, 1, 2, 0x90, 0})
	f.Add("version: 1\nrules:\n- {name: x, match: XX, command: [any, tag 7C/82], response: [tag 5F37/80, bytes 3-, sw]}",
		[]byte{0, 1, 2, 3, 0, 0, 5, 0x7C, 3, 0x82, 1, 1}, []byte{0x5F, 0x37, 0x84, 1, 2, 3, 4})
	f.Add("a: &a [*a]", []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, text string, capdu, rapdu []byte) {
		rules, err := ParseRules(strings.NewReader(text))
		if err != nil {
			var bad *RulesError
			assert.ErrorAs(t, err, &bad)
			return
		}
		m := masker{rules: rules}
		inside := func(b []byte, f freedom) {
			for _, s := range f.spans {
				require.True(t, 0 <= s.From && s.From < s.To && s.To <= len(b), fmt.Sprint(s))
			}
		}
		for i := range len(rapdu) + 1 {
			inside(capdu, m.command(capdu))
			inside(rapdu[:i], m.response(rapdu[:i]))
			m.command([]byte{0, insGetResponse, 0, 0, 0})
			inside(rapdu[i:], m.response(rapdu[i:]))
		}
	})
}
