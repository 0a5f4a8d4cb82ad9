package trace

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// text is a trace of these lines.
func text(t testing.TB, lines ...string) *Trace {
	t.Helper()
	tr, err := Parse(strings.NewReader(firstLine + "\n" + strings.Join(lines, "\n") + "\n"))
	require.NoError(t, err)
	return tr
}

// outline diffs two traces and gives a sign for each exchange, the line of its
// command on either side: =12/12 ~ ! -12 +12.
func outline(t testing.TB, a, b *Trace, opts DiffOptions) (string, Summary) {
	t.Helper()
	var out []string
	sum, err := Diff(Sessions(a), Sessions(b), opts, func(d Difference) error {
		sign := [...]string{"=", "~", "!", "-", "+", "?"}[d.Verdict]
		switch d.Verdict {
		case Missing:
			sign += fmt.Sprint(d.A.Line())
		case Extra:
			sign += fmt.Sprint(d.B.Line())
		default:
			sign += fmt.Sprintf("%d/%d", d.A.Line(), d.B.Line())
		}
		out = append(out, sign)
		_ = d.String()
		return nil
	})
	require.NoError(t, err)
	return strings.Join(out, " "), sum
}

func TestDiffAligns(t *testing.T) {
	cmd := func(s string) []string {
		var out []string
		for _, c := range s {
			out = append(out, fmt.Sprintf("> 00A4%04X", c), "< 9000")
		}
		return out
	}
	for _, c := range []struct{ a, b, want string }{
		{"abc", "abc", "=2/2 =4/4 =6/6"},
		{"abc", "axbc", "=2/2 +4 =4/6 =6/8"},
		{"axbc", "abc", "=2/2 -4 =6/4 =8/6"},
		{"abcdef", "abXdef", "=2/2 =4/4 !6/6 =8/8 =10/10 =12/12"},
		{"abc", "", "-2 -4 -6"},
		{"", "ab", "+2 +4"},
		{"axbycz", "aubvcw", "=2/2 !4/4 =6/6 !8/8 =10/10 !12/12"},
		{"abcdefgh", "efghabcd", "+2 +4 +6 +8 =2/10 =4/12 =6/14 =8/16 -10 -12 -14 -16"},
	} {
		got, _ := outline(t, text(t, cmd(c.a)...), text(t, cmd(c.b)...), DiffOptions{})
		assert.Equal(t, c.want, got, "%s, %s", c.a, c.b)
	}
}

// What differs, and whether it may.
func TestDiffFields(t *testing.T) {
	rs := "00112233445566778899AABBCCDDEEFF"
	for _, c := range []struct {
		name, a, b string
		verdict    Verdict
		text       string
	}{
		{"same", "> 80CA005A00\n< 5A0101 9000", "> 80CA005A00\n< 5A0101 9000", Same, ""},
		{"data", "> 80CA005A00\n< 5A0101 9000", "> 80CA005A00\n< 5A0102 9000", Different, "response byte 2: 01, then 02\n"},
		{"status word", "> 80CA005A00\n< 9000", "> 80CA005A00\n< 6A88", Different, "status word: 9000, then 6A88\n"},
		{"length", "> 80CA005A00\n< 5A01019000", "> 80CA005A00\n< 5A0201029000", Different, "response bytes 1-2: 0101, then 020102\n"},
		{"nonce", "> 0088010110" + rs + "00\n< AA9000", "> 0088010110FF" + rs[2:] + "00\n< AB9000", May,
			"command byte 5: 00, then FF (may: nonce and M1)\n      response byte 0: AA, then AB (may: nonce and M1)\n"},
		{"nonce and more", "> 0088010110" + rs + "00\n< AAAA9000", "> 0088010110FF" + rs[2:] + "01\n< AB9000", Different,
			"command byte 5: 00, then FF (may: nonce and M1)\n      command byte 21: 00, then 01\n      response byte 0: AA, then AB (may: nonce and M1)\n      response byte 1: AA, then none\n"},
		{"no answer", "> 00A40000\n! error card does not answer", "> 00A40000\n< 9000", Different, "answer\n"},
		{"words", "> 00A40000\n! error card does not answer", "> 00A40000\n! error reader 1: card does not answer", May, "text (may: words of errors)\n"},
		{"event", "> 00A40000\n! error card does not answer", "> 00A40000\n! removed x", Different, "event\n"},
		{"ATR", "! connected 3B00", "! connected 3B80", Different, "ATR: 3B00, then 3B80\n"},
		{"redacted", "> 0020000104********\n< 9000", "> 002000010431323334\n< 9000", May, "command bytes 5-8: ********, then ******** (may: redacted)\n"},
		{"a secret", "> 002000010431323333\n< 9000", "> 002000010431323334\n< 9000", Different, "command byte 8: **, then **\n"},
		{"another file", "> 00A4000402 3F00\n< 9000", "> 00A4000402 2F00\n< 9000", Different, "command byte 5: 3F, then 2F\n"},
	} {
		var got []Difference
		_, err := Diff(Sessions(text(t, strings.Split(c.a, "\n")...)), Sessions(text(t, strings.Split(c.b, "\n")...)), DiffOptions{}, func(d Difference) error {
			got = append(got, d)
			return nil
		})
		require.NoError(t, err)
		require.Len(t, got, 1, c.name)
		assert.Equal(t, c.verdict, got[0].Verdict, c.name)
		_, fields, _ := strings.Cut(got[0].String(), "      ")
		assert.Equal(t, c.text, fields, c.name)
		assert.NotContains(t, got[0].String(), "3132333", c.name)
	}
}

func TestDifferenceInWords(t *testing.T) {
	a := text(t, "> 00A4040000", "< 6F0102 9000", "> 80CA005A00", "< "+strings.Repeat("5A", 100)+" 9000", "> 00000000", "< 9000")
	b := text(t, "> 00A4040000", "< 6F0103 9000", "> 80CA005A00", "< "+strings.Repeat("5A", 100)+" 9000", "> 00B00000", "< 9000")
	var out strings.Builder
	sum, err := Diff(Sessions(a), Sessions(b), DiffOptions{}, func(d Difference) error {
		out.WriteString(d.String())
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, Summary{Same: 1, Different: 1, Missing: 1, Extra: 1}, sum)
	assert.False(t, sum.Equal())
	assert.Equal(t, `line 2, line 2: different
    > 00A4040000
  - < 6F01029000
  + < 6F01039000
      response byte 2: 02, then 03
line 4, line 4: same
    > 80CA005A00
    < `+strings.Repeat("5A", 24)+".."+strings.Repeat("5A", 22)+`9000 (102 bytes)
line 6: missing
  - > 00000000
  - < 9000
line 6: extra
  + > 00B00000
  + < 9000
`, out.String())
}

// Sessions follow each other, and what is under way ends with them.
func TestDiffSessions(t *testing.T) {
	one, two := text(t, "! connected 3B00", "> 00A40400", "< 9000"), text(t, "> 00C0000001", "< 019000")
	sum, err := Diff(Sessions(one, two), Sessions(one, two), DiffOptions{}, func(d Difference) error {
		assert.Equal(t, d.A.Session, d.B.Session)
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, Summary{Same: 3}, sum)
	sum, err = Diff(Sessions(one, two), Sessions(two), DiffOptions{}, nil)
	require.NoError(t, err)
	assert.Equal(t, Summary{Same: 1, Missing: 2}, sum)
}

func TestDiffStops(t *testing.T) {
	enough := errors.New("enough")
	one := text(t, "> 00A40400", "< 9000", "> 00A40400", "< 9000")
	sum, err := Diff(Sessions(one), Sessions(one), DiffOptions{}, func(Difference) error { return enough })
	assert.ErrorIs(t, err, enough)
	assert.Equal(t, Summary{Same: 1}, sum)
	_, err = Diff(NewReader(strings.NewReader("nonsense")), Sessions(one), DiffOptions{}, nil)
	var syntax *SyntaxError
	require.ErrorAs(t, err, &syntax)
	assert.ErrorContains(t, err, "first trace")
}

// What is put in, taken out and changed at random places is found, and nothing
// else.
func TestDiffFindsWhatChanged(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var a, b Trace
		want := Summary{}
		exchange := func(n uint32, sw byte) []Entry {
			return []Entry{{Kind: Command, Data: []byte{0, 0xA4, byte(n >> 8), byte(n), 2, byte(n >> 16), 0}}, {Kind: Response, Data: []byte{0x90, sw}}}
		}
		for n := range uint32(3000) {
			e := exchange(n, 0)
			switch {
			case n%10 == 5 && r.IntN(4) == 0:
				a.Entries = append(a.Entries, e...)
				want.Missing++
			case n%10 == 5 && r.IntN(4) == 0:
				b.Entries = append(b.Entries, e...)
				want.Extra++
			case n%10 == 5:
				a.Entries = append(a.Entries, e...)
				b.Entries = append(b.Entries, exchange(n, 1)...)
				want.Different++
			default:
				a.Entries = append(a.Entries, e...)
				b.Entries = append(b.Entries, e...)
				want.Same++
			}
		}
		// A block that is longer than what one table aligns.
		for n := range uint32(3000) {
			b.Entries = append(b.Entries, exchange(1<<20|n, 0)...)
			want.Extra++
		}
		tail := exchange(1<<21, 0)
		for range 5 {
			a.Entries, b.Entries = append(a.Entries, tail...), append(b.Entries, tail...)
			want.Same++
		}
		sum, err := Diff(Sessions(&a), Sessions(&b), DiffOptions{}, nil)
		require.NoError(t, err)
		require.Equal(t, want, sum, "seed %d", seed)
	}
}

func TestDiffTiming(t *testing.T) {
	rules, err := ParseRules(strings.NewReader("version: 1\ntiming: {factor: 2, slack: 1ms}\n"))
	require.NoError(t, err)
	a := text(t, "> 00A40400", "< 9000 # +1s 10ms")
	for took, want := range map[time.Duration]Verdict{0: Same, 5 * time.Millisecond: Same, 21 * time.Millisecond: Same, 22 * time.Millisecond: Different} {
		b := text(t, "> 00A40400", "< 9000")
		b.Entries[1].Took = took
		_, err := Diff(Sessions(a), Sessions(b), DiffOptions{Rules: rules}, func(d Difference) error {
			assert.Equal(t, want, d.Verdict, "%s", took)
			return nil
		})
		require.NoError(t, err)
	}
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte("> 00A40400\n< 9000\n> 0088010110\n"), []byte("! connected 3B00\n> 00A40400\n< 6A82\n"))
	f.Add([]byte("> 8CF200000E970200008E081122334455667788\n< 87110100\n> 00C0000010\n< 00"), []byte("> 10820101FF00\n< 9000\n> 0082010101**\n! error x"))
	f.Add([]byte("> 80E2910006BF2E0301\n< BF2E12800F\n"), []byte("> 002000010431323334\n< 63C2"))
	f.Fuzz(func(t *testing.T, x, y []byte) {
		parse := func(b []byte) (*Trace, bool) {
			tr, err := Parse(strings.NewReader(firstLine + "\n" + string(b)))
			return tr, err == nil
		}
		a, ok := parse(x)
		b, ok2 := parse(y)
		if !ok || !ok2 || len(a.Entries) > 200 || len(b.Entries) > 200 {
			return
		}
		count := func(tr *Trace) (n int) {
			for in := newItems(Sessions(tr), DefaultRules()); ; n++ {
				if _, err := in.next(); err != nil {
					return n
				}
			}
		}
		sum, err := Diff(Sessions(a), Sessions(b), DiffOptions{}, func(d Difference) error { _ = d.String(); return nil })
		require.NoError(t, err)
		both := sum.Same + sum.May + sum.Different
		assert.Equal(t, count(a), both+sum.Missing, "each exchange once")
		assert.Equal(t, count(b), both+sum.Extra, "each exchange once")
		sum, err = Diff(Sessions(a), Sessions(a), DiffOptions{Rules: &Rules{}}, nil)
		require.NoError(t, err)
		assert.Equal(t, Summary{Same: count(a)}, sum, "a trace is itself")
	})
}

// A trace may have a thousand masks in one APDU, and rules as many spans:
// comparing takes no longer for that.
func TestDiffOfManyMasks(t *testing.T) {
	rules, err := ParseRules(strings.NewReader("version: 1\nrules:\n- {name: all of them, match: 00 CB, response: tag 80}\n"))
	require.NoError(t, err)
	masked := &Trace{Entries: []Entry{{Kind: Command, Data: []byte{0, 0xCB, 0, 0, 0, 0, 0}}, {Kind: Response}}}
	tags := &Trace{Entries: []Entry{masked.Entries[0], {Kind: Response}}}
	e, f := &masked.Entries[1], &tags.Entries[1]
	for i := 0; len(e.Data) < 60_000; i += 3 {
		e.Data = append(e.Data, 0x80, 1, 0)
		f.Data = append(f.Data, 0x80, 1, 1)
		e.Mask = append(e.Mask, Span{i + 2, i + 3})
	}
	e.Data, f.Data = append(e.Data, 0x90, 0), append(f.Data, 0x90, 0)
	got, _ := outline(t, masked, tags, DiffOptions{Rules: rules})
	assert.Equal(t, "~0/0", got)
	e.Mask = nil
	got, _ = outline(t, masked, tags, DiffOptions{Rules: rules})
	assert.Equal(t, "~0/0", got)
	got, _ = outline(t, masked, tags, DiffOptions{Rules: &Rules{}})
	assert.Equal(t, "!0/0", got)
}
