package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

func TestRecorder(t *testing.T) {
	var out bytes.Buffer
	r := newRecorder(&out, Header{Card: "89049032", Reader: "Virtual # PCD\n00", Origin: Emulator}, clock())
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
	assert.Equal(t, Header{Card: "89049032", Reader: "Virtual PCD 00", Date: time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC), Origin: Emulator}, parsed.Header)
	var back bytes.Buffer
	_, err = parsed.WriteTo(&back)
	require.NoError(t, err)
	assert.Equal(t, string(want), back.String(), "written as it was read")
	assert.Equal(t, Entry{
		Kind: Response, Data: []byte{0x5A, 0x90, 0x00}, At: 6 * time.Millisecond, Took: 1500 * time.Microsecond, Line: 9,
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
		{"# cardbridge trace 2\n", 1},
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
		at, took := parseTimes(comment)
		assert.Equal(t, want, [2]time.Duration{at, took}, comment)
	}
}

func FuzzParse(f *testing.F) {
	seed, err := os.ReadFile("testdata/recorded.trace")
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte(firstLine + "\n# card: x\n> 00A4 0400 # +1s\n< 9000 # +1.1s 2ms\n! x \xff y#\n! reset 3B00"))
	f.Add([]byte(firstLine + "\n# date: 0000-01-01T00:00:00+23:59\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
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
	r := newRecorder(os.Stdout, Header{Card: "test card", Origin: Emulator}, clock()) // NewRecorder outside an example
	c := r.Wrap(card)
	defer c.Close()
	_, _, _ = apdu.BasicChannel(c).Transmit(context.Background(), apdu.Command{INS: 0xA4, P1: 4, Data: []byte{0xA0}})
	// Output:
	// # cardbridge trace 1
	// # card: test card
	// # date: 2025-03-01T12:00:00Z
	// # origin: emulator
	// ! connected 3B00 # +0.001500s
	// > 00A4040001A0 # +0.003000s
	// < 6A82 # +0.004500s 1.500ms
	// ! closed # +0.006000s
}
