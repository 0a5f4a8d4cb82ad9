package fault

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// card is a Set that is given commands and answers each of them itself.
type card struct {
	Set
	t       *testing.T
	strikes []Strike
}

func newCard(t *testing.T, faults ...Fault) *card {
	c := &card{t: t}
	c.OnStrike = func(s Strike) { c.strikes = append(c.strikes, s) }
	for _, f := range faults {
		_, err := c.Add(f)
		require.NoError(t, err)
	}
	return c
}

// send sends a command that makes a number of writes, and gives what came of it
// in a few letters.
func (c *card) send(ins byte, writes int) string {
	v := c.Begin([]byte{0x00, ins, 0, 0, 0})
	switch {
	case v.Leave:
		return "left"
	case v.Skip && v.Answer == nil:
		return "mute"
	}
	answer := v.Answer
	if !v.Skip {
		answer = append(v.CAPDU[1:2:2], 0x90, 0x00)
	}
	for range writes {
		if f := c.Write(); f.Kind != "" {
			c.End(nil)
			return string(f.Kind)
		}
	}
	out := c.End(answer)
	switch {
	case out.Leave:
		return "left after"
	case out.Answer == nil:
		return "lost"
	case out.Delay > 0:
		return fmt.Sprintf("%X after %s", out.Answer, out.Delay)
	}
	return fmt.Sprintf("%X", out.Answer)
}

// sent is send for one command after the other.
func (c *card) sent(n int, ins byte, writes int) (out []string) {
	for range n {
		out = append(out, c.send(ins, writes))
	}
	return out
}

func TestWhen(t *testing.T) {
	ok, lost := "A49000", "lost"
	for name, tt := range map[string]struct {
		fault Fault
		want  []string
	}{
		"the next":               {Fault{Kind: Lost}, []string{lost, ok, ok, ok}},
		"the third":              {Fault{Kind: Lost, APDU: 3}, []string{ok, ok, lost, ok}},
		"from the second, twice": {Fault{Kind: Lost, APDU: 2, Times: 2}, []string{ok, lost, lost, ok}},
		"always":                 {Fault{Kind: Lost, APDU: 2, Times: Always}, []string{ok, lost, lost, lost}},
		"another INS":            {Fault{Kind: Lost, INS: []byte{0xB0}}, []string{ok, ok, ok, ok}},
		"this INS":               {Fault{Kind: Lost, INS: []byte{0xB0, 0xA4}, APDU: 2}, []string{ok, lost, ok, ok}},
		"the third write":        {Fault{Kind: Lost, Write: 3}, []string{ok, lost, ok, ok}},
	} {
		c := newCard(t, tt.fault)
		assert.Equal(t, tt.want, c.sent(4, 0xA4, 2), name)
	}
	c := newCard(t, Fault{Kind: Lost, INS: []byte{0xA4}, APDU: 2})
	assert.Equal(t, []string{"B09000", ok, "B09000", lost, "B09000", ok}, []string{
		c.send(0xB0, 0), c.send(0xA4, 0), c.send(0xB0, 0), c.send(0xA4, 0), c.send(0xB0, 0), c.send(0xA4, 0)})
	require.Len(t, c.strikes, 1)
	assert.Equal(t, `fault 1 at APDU 4 INS A4, write 0, reset 0: {"kind":"lost","apdu":2,"ins":"A4"}`, c.strikes[0].String())
	assert.Empty(t, c.List(), "it struck as often as it should")
}

func TestWhat(t *testing.T) {
	for _, tt := range []struct {
		fault Fault
		want  string
	}{
		{Fault{Kind: WriteFails}, "write-fails"},
		{Fault{Kind: WornOut}, "worn-out"},
		{Fault{Kind: CutBefore}, "cut-before"},
		{Fault{Kind: CutTorn, Bytes: 1}, "cut-torn"},
		{Fault{Kind: CutAfter}, "cut-after"},
		{Fault{Kind: RemoveBefore}, "left"},
		{Fault{Kind: RemoveAfter}, "left after"},
		{Fault{Kind: Mute}, "mute"},
		{Fault{Kind: Late, Delay: time.Second}, "A49000 after 1s"},
		{Fault{Kind: Slow, Timing: &Timing{Byte: time.Second, Write: time.Minute}}, "A49000 after 1m8s"},
		{Fault{Kind: Refuse, SW: 0x6F00}, "6F00"},
		{Fault{Kind: WrongSW, SW: 0x6F00}, "A46F00"},
		{Fault{Kind: Partial, Bytes: 1}, "A4"},
		{Fault{Kind: Partial}, ""},
		{Fault{Kind: Partial, Bytes: 99}, "A49000"},
	} {
		assert.Equal(t, tt.want, newCard(t, tt.fault).send(0xA4, 1), "%s", tt.fault)
	}
}

func TestWornOut(t *testing.T) {
	c := newCard(t, Fault{Kind: WornOut, Write: 3})
	assert.Equal(t, []string{"A49000", "A49000", "worn-out", "worn-out", "worn-out"}, c.sent(5, 0xA4, 1))
	assert.Len(t, c.strikes, 1, "told once")
}

func TestMuteUntilReset(t *testing.T) {
	c := newCard(t, Fault{Kind: Mute, Until: UntilReset, APDU: 2, INS: []byte{0xA4}})
	assert.Equal(t, []string{"A49000", "mute", "mute"}, c.sent(3, 0xA4, 0))
	assert.Equal(t, "mute", c.send(0xB0, 0), "to all commands")
	c.Reset()
	assert.Equal(t, []string{"A49000", "A49000"}, c.sent(2, 0xA4, 0))
	assert.Empty(t, c.List())
}

func TestATR(t *testing.T) {
	c := newCard(t, Fault{Kind: ATR, ATR: []byte{0x3B, 0x00}})
	assert.Equal(t, []byte{0x3B, 0x00}, c.ATR(), "at once")
	c.Reset()
	assert.Equal(t, []byte{0x3B, 0x00}, c.ATR(), "for good")
	assert.True(t, c.Clear(1))
	assert.Nil(t, c.ATR())

	c = newCard(t, Fault{Kind: ATR, Reset: 2, Times: 1, ATR: []byte{0x3F}})
	for _, want := range [][]byte{nil, nil, {0x3F}, nil, nil} {
		assert.Equal(t, want, c.ATR())
		c.Reset()
	}
	assert.Len(t, c.strikes, 1)
}

// TestSeed: a fault as it is told repeats its strikes, and another seed does not.
func TestSeed(t *testing.T) {
	c := newCard(t, Fault{Kind: Flip, Bits: 5, Probability: 0.5, Times: Always})
	first := c.sent(64, 0xA4, 0)
	require.NotEmpty(t, c.strikes)
	told := c.strikes[0].Fault
	require.NotZero(t, told.Seed)
	assert.Equal(t, first, newCard(t, told).sent(64, 0xA4, 0))
	told.Seed++
	assert.NotEqual(t, first, newCard(t, told).sent(64, 0xA4, 0))
	assert.InDelta(t, 32, len(c.strikes), 24, "half of 64")
}

func TestFlip(t *testing.T) {
	for _, bits := range []int{0, 1, 8, 23, 24, 60} {
		a := newCard(t, Fault{Kind: Flip, Bits: bits}).armed[0]
		flipped := 0
		for _, b := range a.flip(make([]byte, 3)) {
			for ; b != 0; b &= b - 1 {
				flipped++
			}
		}
		assert.Equal(t, min(max(bits, 1), 24), flipped)
		assert.Empty(t, a.flip(nil))
	}
	v := (&newCard(t, Fault{Kind: FlipCommand}).Set).Begin([]byte{0, 0, 0, 0})
	assert.NotEqual(t, []byte{0, 0, 0, 0}, v.CAPDU)
}

func TestManyFaults(t *testing.T) {
	c := newCard(t)
	for n := range MaxArmed {
		id, err := c.Add(Fault{Kind: Lost, APDU: n + 2})
		require.NoError(t, err)
		assert.Equal(t, n+1, id)
	}
	_, err := c.Add(Fault{Kind: Lost})
	require.ErrorIs(t, err, ErrInvalid)
	assert.False(t, c.Clear(99))
	assert.True(t, c.Clear(1))
	assert.Equal(t, []string{"A49000", "A49000", "lost"}, c.sent(3, 0xA4, 0))
	apdus, writes, resets := c.Counts()
	assert.Equal(t, []int{3, 0, 0}, []int{apdus, writes, resets})
	assert.Len(t, c.List(), MaxArmed-2)
	assert.True(t, c.Clear(0))
	assert.Empty(t, c.List())
}

// TestFirstOfTwo: of two faults at one write the first strikes, and the other is
// not late.
func TestFirstOfTwo(t *testing.T) {
	c := newCard(t, Fault{Kind: WriteFails}, Fault{Kind: CutAfter})
	assert.Equal(t, "write-fails", c.send(0xA4, 1))
	assert.Equal(t, "cut-after", c.send(0xA4, 1))
	assert.Equal(t, "A49000", c.send(0xA4, 1))
	assert.Equal(t, Fault{}, c.Write(), "outside of any command")
}
