package trace

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

func send(t testing.TB, c *Card, capdu string) string {
	t.Helper()
	return strings.ToUpper(shorten(Entry{Kind: Response, Data: c.Process(bytesOf(t, capdu))})[1:])
}

func TestCardIsATape(t *testing.T) {
	var misses []Miss
	c := NewCard(text(t, tape...), OnMiss(func(m Miss) { misses = append(misses, m) }))
	assert.Equal(t, []byte{0x3B, 0x80, 0x01}, c.ATR())
	c.Power(true)
	assert.Equal(t, 4, c.Left())
	assert.Equal(t, " 6F00", send(t, c, "00B0000010"))
	assert.Equal(t, " 6F01029000", send(t, c, "00A4040000"))
	assert.Equal(t, " 6F00", send(t, c, "00A4040000"))
	assert.Equal(t, 2, c.Misses())
	require.Len(t, misses, 2)
	assert.Equal(t, "> 00B0000010: line 3 has > 00A4040000 next", misses[0].String())
	assert.Nil(t, c.Process(bytesOf(t, "00B0000010")), "mute")
	c.Reset()
	assert.Nil(t, c.Process(bytesOf(t, "00B0000010")), "removed")
	left, away := c.Away()
	assert.True(t, away)
	assert.Positive(t, left)
	assert.Nil(t, c.Process(bytesOf(t, "00C0000002")), "away")
	c.Connect()
	assert.Equal(t, " 6A86", send(t, c, "00C0000002"))
	assert.Zero(t, c.Left())
	assert.Equal(t, " 6F00", send(t, c, "00C0000002"))
	assert.Equal(t, "> 00C0000002: the trace has no such command here", misses[2].String())
	c.Power(false)
	c.Power(true)
	assert.Equal(t, 4, c.Left(), "from the beginning")
}

func TestCardConn(t *testing.T) {
	c := NewCard(text(t, tape...))
	one := c.Connect()
	ctx := t.Context()
	assert.True(t, one.ShortOnly())
	_, err := one.Transmit(ctx, bytesOf(t, "00A4040000"))
	require.NoError(t, err)
	_, err = one.Transmit(ctx, bytesOf(t, "00B0000010"))
	assert.ErrorIs(t, err, apdu.ErrTimeout)
	two := c.Connect()
	require.NoError(t, two.Reset(ctx))
	_, err = two.Transmit(ctx, bytesOf(t, "00B0000010"))
	assert.ErrorIs(t, err, apdu.ErrCardRemoved)
	_, err = two.Transmit(ctx, bytesOf(t, "00C0000002"))
	assert.ErrorIs(t, err, apdu.ErrCardRemoved, "for good")
	assert.ErrorIs(t, two.Reset(ctx), apdu.ErrCardRemoved)
	three := c.Connect()
	rapdu, err := three.Transmit(ctx, bytesOf(t, "00C0000002"))
	require.NoError(t, err)
	assert.Equal(t, []byte{0x6A, 0x86}, rapdu)
	require.NoError(t, three.Close())
	_, err = three.Transmit(ctx, bytesOf(t, "00C0000002"))
	assert.ErrorIs(t, err, apdu.ErrTransport)
	assert.Equal(t, c.ATR(), c.Connect().ATR())
	assert.Equal(t, 4, c.Left(), "from the beginning")

	for text, want := range map[string]error{
		"": apdu.ErrTimeout, "reader x: card reset": apdu.ErrCardReset, "something else": apdu.ErrTransport, "answer without a status word": apdu.ErrShortAnswer,
	} {
		assert.ErrorIs(t, failed(Entry{Kind: Event, Name: Error, Text: text}), want, text)
	}
}

// The rules say what may differ, and a redacted byte is any byte.
func TestCardMatches(t *testing.T) {
	c := NewCard(text(t, "> 0084000004", "< 11**33449000", "> 0020000104********", "< 9000", "> 008801010411223344", "< 9000", "> 0020000104", "< 63C1"))
	assert.Equal(t, " 110033449000", send(t, c, "0084000004"))
	assert.Equal(t, " 9000", send(t, c, "002000010431323334"))
	assert.Equal(t, " 6F00", send(t, c, "008801020455667788"), "another P2")
	assert.Equal(t, " 9000", send(t, c, "008801010455667788"))
	assert.Equal(t, " 63C1", send(t, c, "0020000104"))

	// A trace that was not redacted knows the PIN.
	c = NewCard(text(t, "> 002000010431323334", "< 9000"))
	assert.Equal(t, " 6F00", send(t, c, "002000010431323335"))
	assert.Equal(t, " 9000", send(t, c, "002000010431323334"))
}

func TestCardBestMatch(t *testing.T) {
	c := NewCard(text(t,
		"> 00A40000023F00", "< 611A", "> 00C000001A", "< 019000", "> 00A40000022F00", "< 611B", "> 00C000001A", "< 029000",
		"> 0088010104AABBCCDD", "< 9000", "> 01A4040002A00000", "< 9000", "> 00A4000102AABB", "< 9000"), BestMatch())
	assert.Equal(t, " 611B", send(t, c, "00A40000022F00"))
	assert.Equal(t, " 029000", send(t, c, "00C000001A"))
	assert.Equal(t, " 019000", send(t, c, "00C000001A"), "round the end")
	assert.Equal(t, " 611A", send(t, c, "00A40000023F00"))
	assert.Equal(t, " 019000", send(t, c, "00C000001A"))
	assert.Equal(t, " 9000", send(t, c, "008801010455667788"), "by the rules")
	assert.Equal(t, " 9000", send(t, c, "02A4040002A000"), "another channel, no Le")
	assert.Equal(t, " 6F00", send(t, c, "02A4040002A001"))
	assert.Equal(t, " 6F00", send(t, c, "00A404"))
	assert.Equal(t, 2, c.Misses())
}

// Whatever a terminal sends, and whatever is in a trace, a Card answers.
func FuzzCard(f *testing.F) {
	f.Add([]byte(strings.Join(tape, "\n")), []byte{0, 0xA4, 4, 0, 0}, true)
	f.Add([]byte("> 0020000104********\n< **9000"), []byte{0, 0x20, 0, 1, 4, 1, 2, 3, 4}, false)
	f.Fuzz(func(t *testing.T, b, capdu []byte, best bool) {
		tr, err := Parse(strings.NewReader(firstLine + "\n" + string(b)))
		if err != nil {
			return
		}
		var opts []CardOption
		if best {
			opts = append(opts, BestMatch())
		}
		c := NewCard(tr, append(opts, OnMiss(func(m Miss) { _ = m.String() }))...)
		for _, e := range append(tr.Entries, Entry{Kind: Command, Data: capdu}) {
			switch {
			case e.Kind == Command:
				c.Connect()
				before, misses := c.Left(), c.Misses()
				c.Process(e.Data)
				if !best && len(e.Mask) == 0 {
					assert.True(t, c.Left() == before-1 || c.Misses() == misses+1)
				}
			case e.Name == Reset:
				c.Reset()
			}
		}
	})
}
