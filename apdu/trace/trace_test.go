package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// conn answers by a function.
type conn struct {
	answer func([]byte) ([]byte, error)
	short  bool
	reset  error
}

func (c *conn) Transmit(_ context.Context, b []byte) ([]byte, error) { return c.answer(b) }
func (c *conn) ATR() []byte                                          { return []byte{0x3B, 0x00} }
func (c *conn) Reset(context.Context) error                          { return c.reset }
func (c *conn) Close() error                                         { return nil }
func (c *conn) ShortOnly() bool                                      { return c.short }

// clock goes on by 1.5 ms whenever it is read.
func clock() func() time.Time {
	t := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
	return func() time.Time {
		t = t.Add(1500 * time.Microsecond)
		return t
	}
}

// recorderAt is NewRecorder with another clock.
func recorderAt(w io.Writer, h Header, now func() time.Time, options ...Option) *Recorder {
	start := now()
	return newRecorder(NewWriter(w), h, start, func() time.Duration { return now().Sub(start) }, options...)
}

func TestRecorder(t *testing.T) {
	var out bytes.Buffer
	r := recorderAt(&out, Header{Card: "89049032", Reader: "Virtual # PCD\n00", Origin: Emulator}, clock())
	answers := []struct {
		rapdu []byte
		err   error
	}{
		{rapdu: []byte{0x5A, 0x90, 0x00}},
		{err: fmt.Errorf("reader 1: %w", apdu.ErrTimeout)},
		{rapdu: []byte{0x90}},
		{err: fmt.Errorf("reader 1: %w", apdu.ErrCardRemoved)},
	}
	inner := &conn{short: true, answer: func([]byte) ([]byte, error) {
		a := answers[0]
		answers = answers[1:]
		return a.rapdu, a.err
	}}
	c := r.Wrap(inner)
	assert.True(t, c.(apdu.ShortOnly).ShortOnly())
	assert.False(t, r.Wrap(&conn{}).(apdu.ShortOnly).ShortOnly())
	assert.Equal(t, inner.ATR(), c.ATR())
	for _, a := range append(answers[:0:0], answers...) {
		rapdu, err := c.Transmit(t.Context(), []byte{0x80, 0xCA, 0x00, 0x5A, 0x00})
		assert.Equal(t, a.rapdu, rapdu)
		assert.Equal(t, a.err, err)
	}
	require.NoError(t, c.Reset(t.Context()))
	inner.reset = errors.New("mute\r\ncard")
	require.Error(t, c.Reset(t.Context()))
	require.NoError(t, c.Close())
	require.NoError(t, r.Err())
	want, err := os.ReadFile("testdata/recorded.trace")
	require.NoError(t, err)
	assert.Equal(t, string(want), out.String())

	parsed, err := Parse(&out)
	require.NoError(t, err)
	assert.Equal(t, Header{Card: "89049032", Reader: "Virtual PCD 00", Date: time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC), Origin: Emulator, Redacted: true}, parsed.Header)
	var back bytes.Buffer
	_, err = parsed.WriteTo(&back)
	require.NoError(t, err)
	assert.Equal(t, string(want), back.String(), "written as it was read")
	assert.Equal(t, Entry{
		Kind: Response, Data: []byte{0x5A, 0x90, 0x00}, At: 6 * time.Millisecond, Took: 1500 * time.Microsecond, Line: 10,
	}, parsed.Entries[3])
}

// Cards go on where a trace cannot.
func TestWriterFails(t *testing.T) {
	full := errors.New("disk full")
	r := NewRecorder(writer(func([]byte) (int, error) { return 0, full }), Header{})
	c := r.Wrap(&conn{answer: func([]byte) ([]byte, error) { return []byte{0x90, 0}, nil }})
	rapdu, err := c.Transmit(t.Context(), []byte{0, 0xA4, 4, 0})
	require.NoError(t, err)
	assert.Equal(t, []byte{0x90, 0}, rapdu)
	assert.Equal(t, full, r.Err())
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestParseByHand(t *testing.T) {
	tr, err := Parse(strings.NewReader(firstLine + `
# what this shows: a refusal
# origin: hand

! connected
> 00 a4 04 00 02 3f 00   # select the MF
<6A82
# card: too late for a header
! error no answer # +1.5s
`))
	require.NoError(t, err)
	assert.Equal(t, Header{Origin: Hand}, tr.Header)
	assert.Equal(t, []Entry{
		{Kind: Event, Name: Connected, Line: 5},
		{Kind: Command, Data: []byte{0, 0xA4, 4, 0, 2, 0x3F, 0}, Line: 6},
		{Kind: Response, Data: []byte{0x6A, 0x82}, Line: 7},
		{Kind: Event, Name: Error, Text: "no answer", At: 1500 * time.Millisecond, Line: 9},
	}, tr.Entries)
}

func TestParseMalformed(t *testing.T) {
	for _, c := range []struct {
		text string
		line int
	}{
		{"", 1},
		{"\n" + firstLine, 1},
		{"> 00A40400", 1},
		{"# cardbridge trace 3\n", 1},
		{firstLine + "\n# redacted: maybe", 2},
		{firstLine + "\n> 00A404*0", 2},
		{firstLine + "\n> 00A404***", 2},
		{firstLine + "\n> 00A40400\n" + firstLine1 + "\n", 3},
		{firstLine + "\n# date: yesterday", 2},
		{firstLine + "\n# origin: heaven", 2},
		{firstLine + "\n\n>", 3},
		{firstLine + "\n> 00A404", 2},
		{firstLine + "\n> 00A4040", 2},
		{firstLine + "\n> 00A4040G", 2},
		{firstLine + "\n< 90", 2},
		{firstLine + "\n<", 2},
		{firstLine + "\n!", 2},
		{firstLine + "\n! # +1s", 2},
		{firstLine + "\n! connected XY", 2},
		{firstLine + "\n? 00", 2},
		{firstLine + "\n  > 00A40400", 2},
		{firstLine + "\n> " + strings.Repeat("00", maxAPDU+1), 2},
		{firstLine + "\n\n> " + strings.Repeat("00", maxLine), 3},
	} {
		_, err := Parse(strings.NewReader(c.text))
		var syntax *SyntaxError
		require.ErrorAs(t, err, &syntax, "%.60q", c.text)
		assert.Equal(t, c.line, syntax.Line, "%.60q", c.text)
		assert.Less(t, len(err.Error()), 200)
	}
	_, err := Parse(iotest.ErrReader(io.ErrUnexpectedEOF))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = Parse(strings.NewReader(firstLine + "\n> " + strings.Repeat("00", maxAPDU)))
	assert.NoError(t, err, "the longest command")
}

func TestTimesThatAreNone(t *testing.T) {
	for comment, want := range map[string][2]time.Duration{
		"":                      {},
		" +1s 2ms":              {time.Second, 2 * time.Millisecond},
		" +1s 2ms and more":     {time.Second, 2 * time.Millisecond},
		" +1s +2ms":             {time.Second, 0},
		" 1s 2ms":               {},
		" +-1s":                 {},
		" +1s -2ms":             {time.Second, 0},
		" +9999999h":            {},
		" +1.0000009s 0.0009ms": {time.Second, 0},
		" select":               {},
	} {
		at, took := parseTimes([]byte(comment))
		assert.Equal(t, want, [2]time.Duration{at, took}, comment)
	}
}

// read takes all that a Reader gives, and returns it and what it could not read.
func read(t *testing.T, b []byte) (sessions []*Trace, bad []int) {
	r := NewReader(bytes.NewReader(b))
	for {
		h, err := r.NextSession()
		var syntax *SyntaxError
		if errors.Is(err, io.EOF) {
			return sessions, bad
		}
		if err != nil {
			require.ErrorAs(t, err, &syntax)
			bad = append(bad, syntax.Line)
		}
		tr := &Trace{Header: h}
		sessions = append(sessions, tr)
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				require.ErrorAs(t, err, &syntax)
				bad = append(bad, syntax.Line)
				continue
			}
			tr.Entries = append(tr.Entries, e)
		}
	}
}

func TestReaderSessions(t *testing.T) {
	const text = firstLine + `
# title: one
# redacted: yes
> 00200001 02****
< 9000
` + firstLine1 + `
# title: none
` + firstLine + `
# title: three
# a comment
! connected 3B00

> 00A40000
# cardbridge trace 7
`
	sessions, bad := read(t, []byte(text))
	assert.Empty(t, bad)
	assert.Equal(t, []*Trace{
		{Header{Title: "one", Redacted: true}, []Entry{
			{Kind: Command, Data: []byte{0, 0x20, 0, 1, 2, 0, 0}, Mask: []Span{{5, 7}}, Line: 4},
			{Kind: Response, Data: []byte{0x90, 0}, Line: 5},
		}},
		{Header{Title: "none"}, nil},
		{Header{Title: "three"}, []Entry{
			{Kind: Event, Name: Connected, Data: []byte{0x3B, 0}, Line: 11},
			{Kind: Command, Data: []byte{0, 0xA4, 0, 0}, Line: 13},
		}},
	}, sessions)

	all, err := ParseAll(strings.NewReader(text))
	require.NoError(t, err)
	assert.Equal(t, sessions, all)
	var out bytes.Buffer
	require.NoError(t, Copy(NewWriter(&out), NewReader(strings.NewReader(text))))
	again, err := ParseAll(&out)
	require.NoError(t, err)
	require.Len(t, again, 3)
	for i, tr := range again {
		assert.Equal(t, sessions[i].Header, tr.Header)
		assert.Len(t, tr.Entries, len(sessions[i].Entries))
	}

	r := NewReader(strings.NewReader(text))
	for range 3 { // what a session has is left out
		_, err := r.NextSession()
		require.NoError(t, err)
	}
	assert.Equal(t, "three", r.Header().Title)
	e, err := r.Next()
	require.NoError(t, err)
	assert.Equal(t, Connected, e.Name)
	for range 2 {
		_, err = r.NextSession()
		assert.Equal(t, io.EOF, err)
		_, err = r.Next()
		assert.Equal(t, io.EOF, err)
	}
}

// A line that cannot be read is passed over by who wants the rest.
func TestReaderGoesOn(t *testing.T) {
	sessions, bad := read(t, []byte(firstLine+"\n# origin: heaven\n# card: 1\n"+strings.Repeat("9", maxLine+1)+"\n> 00A40400\nx\n< 9000\n> 0\n"+
		firstLine+"\n# date: never\n# date: 2026-01-01T00:00:00Z\n< 6A82"))
	assert.Equal(t, []int{2, 4, 6, 8, 10}, bad)
	require.Len(t, sessions, 2)
	assert.Equal(t, "1", sessions[0].Card)
	assert.Len(t, sessions[0].Entries, 2)
	assert.Equal(t, 2026, sessions[1].Date.Year())
	assert.Len(t, sessions[1].Entries, 1)

	broken := errors.New("broken")
	r := NewReader(io.MultiReader(strings.NewReader(firstLine+"\n> 00A40400\n"), iotest.ErrReader(broken)))
	_, err := r.Next()
	require.NoError(t, err)
	for range 2 {
		_, err = r.Next()
		assert.ErrorIs(t, err, broken)
		_, err = r.NextSession()
		assert.ErrorIs(t, err, broken)
	}
}

// repeated is a reader of n times the same text after a first line.
type repeated struct {
	text string
	n    int
	rest string
}

func (r *repeated) Read(b []byte) (int, error) {
	if r.rest == "" {
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

// Entries that are read are forgotten: the memory is one line's.
func TestReaderIsFlat(t *testing.T) {
	const exchanges = 100_000
	r := NewReader(io.MultiReader(strings.NewReader(firstLine+"\n"),
		&repeated{text: "> 00B0000000 # +1.000000s\n< " + strings.Repeat("AB", 256) + "9000 # +1.000100s 0.100ms\n", n: exchanges}))
	n, most := 0, uint64(0)
	var m runtime.MemStats
	for {
		_, err := r.Next()
		if err != nil {
			require.Equal(t, io.EOF, err)
			break
		}
		if n++; n%(exchanges/4) == 0 {
			runtime.GC()
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
	assert.Equal(t, 2*exchanges, n)
	assert.Less(t, most, uint64(8<<20), "%d MB were read", exchanges*560>>20)
}

// The Recorder keeps nothing and allocates nothing.
func TestRecorderAllocatesNothing(t *testing.T) {
	rapdu := make([]byte, 258)
	rapdu[256] = 0x90
	capdu := []byte{0x00, 0xB0, 0x00, 0x00, 0x00}
	c := NewRecorder(io.Discard, Header{}).Wrap(&conn{answer: func([]byte) ([]byte, error) { return rapdu, nil }})
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = c.Transmit(t.Context(), capdu) }))
}

func FuzzParse(f *testing.F) {
	seed, err := os.ReadFile("testdata/recorded.trace")
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte(firstLine + "\n# card: x\n> 00A4 0400 # +1s\n< 9000 # +1.1s 2ms\n! x \xff y#\n! reset 3B00"))
	f.Add([]byte(firstLine1 + "\n# title: t\n# redacted: yes\n> 00**A4040*\n> **00A404\n\n" + firstLine + "\n" + firstLine + "\n# tool: x\n<9000"))
	f.Add([]byte(firstLine + "\n# date: 0000-01-01T00:00:00+23:59\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		read(t, b)
		tr, err := Parse(bytes.NewReader(b))
		if err != nil {
			var syntax *SyntaxError
			assert.ErrorAs(t, err, &syntax)
			return
		}
		var one, two bytes.Buffer
		_, err = tr.WriteTo(&one)
		require.NoError(t, err)
		again, err := Parse(bytes.NewReader(one.Bytes()))
		require.NoError(t, err, "%s", one.Bytes())
		require.Len(t, again.Entries, len(tr.Entries))
		for i, e := range tr.Entries {
			e.Line = again.Entries[i].Line
			assert.Equal(t, e, again.Entries[i])
		}
		_, err = again.WriteTo(&two)
		require.NoError(t, err)
		assert.Equal(t, one.String(), two.String())
	})
}

func Example() {
	card := &conn{answer: func([]byte) ([]byte, error) { return []byte{0x6A, 0x82}, nil }}
	r := recorderAt(os.Stdout, Header{Card: "test card", Origin: Emulator}, clock()) // NewRecorder outside an example
	c := r.Wrap(card)
	defer c.Close()
	_, _, _ = apdu.BasicChannel(c).Transmit(context.Background(), apdu.Command{INS: 0xA4, P1: 4, Data: []byte{0xA0}})
	// Output:
	// # cardbridge trace 2
	// # card: test card
	// # date: 2025-03-01T12:00:00Z
	// # origin: emulator
	// # redacted: yes
	// ! connected 3B00 # +0.001500s
	// > 00A4040001A0 # +0.003000s
	// < 6A82 # +0.004500s 1.500ms
	// ! closed # +0.006000s
}
