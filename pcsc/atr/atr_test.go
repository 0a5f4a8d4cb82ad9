package atr_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/pcsc/atr"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// Answers to reset of cards that many know.
func TestKnown(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		protocols []int
		speed     string
		t1        atr.T1
		classes   string
		history   string
		tck       bool
	}{
		{
			"USIM", "3B 9F 96 80 1F C7 80 31 A0 73 BE 21 13 67 43 20 07 18 00 00 01 A5",
			[]int{0}, "F=512 D=32", atr.T1{IFSC: 32, BWI: 4, CWI: 13}, "ABC", "80 31 A0 73 BE 21 13 67 43 20 07 18 00 00 01", true,
		},
		{
			"OpenPGP card", "3B DA 18 FF 81 B1 FE 75 1F 03 00 31 C5 73 C0 01 40 00 90 00 0C",
			[]int{1}, "F=372 D=12", atr.T1{IFSC: 254, BWI: 7, CWI: 5}, "AB", "00 31 C5 73 C0 01 40 00 90 00", true,
		},
		{
			"YubiKey", "3B FD 13 00 00 81 31 FE 15 80 73 C0 21 C0 57 59 75 62 69 4B 65 79 40",
			[]int{1}, "F=372 D=4", atr.T1{IFSC: 254, BWI: 1, CWI: 5}, "A", "80 73 C0 21 C0 57 59 75 62 69 4B 65 79", true,
		},
		{
			"eID, Belgium", "3B 98 13 40 0A A5 03 01 01 01 AD 13 11",
			[]int{0}, "F=372 D=4", atr.T1{IFSC: 32, BWI: 4, CWI: 13}, "A", "A5 03 01 01 01 AD 13 11", false,
		},
		{
			"storage card, contactless by PC/SC", "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00 6A",
			[]int{0, 1}, "F=372 D=1", atr.T1{IFSC: 32, BWI: 4, CWI: 13}, "A", "80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00", true,
		},
		{"the least", "3B 00", []int{0}, "F=372 D=1", atr.T1{IFSC: 32, BWI: 4, CWI: 13}, "A", "", false},
		{
			"T=1 with CRC", "3B F0 11 00 00 81 71 FE 45 01 AB",
			[]int{1}, "F=372 D=1", atr.T1{IFSC: 254, BWI: 4, CWI: 5, CRC: true}, "A", "", true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := atr.Parse(unhex(t, c.raw))
			require.NoError(t, err)
			assert.Equal(t, c.protocols, a.Protocols())
			assert.Equal(t, c.speed, a.TA1().String())
			assert.Equal(t, c.t1, a.T1())
			assert.Equal(t, c.classes, a.Classes().String())
			assert.Equal(t, unhex(t, c.history), append([]byte{}, a.Historical...))
			assert.Equal(t, c.tck, a.TCK.Present)
			assert.Equal(t, strings.ReplaceAll(c.raw, " ", ""), strings.ReplaceAll(a.String(), " ", ""))
			assert.False(t, a.Inverse)
		})
	}
}

func TestMalformed(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		want      error
		field     string
		offset    int
	}{
		{"nothing", "", atr.ErrTruncated, "TS", 0},
		{"TS", "3C 00", atr.ErrTS, "TS", 0},
		{"no T0", "3B", atr.ErrTruncated, "T0", 1},
		{"no TA1", "3B 10", atr.ErrTruncated, "TA1", 2},
		{"no TD1", "3B 90 11", atr.ErrTruncated, "TD1", 3},
		{"no TB2", "3B 80 20", atr.ErrTruncated, "TB2", 3},
		{"TD for ever", "3B 80 80 80 80", atr.ErrTruncated, "TD4", 5},
		{"history", "3B 03 01 02", atr.ErrTruncated, "historical bytes", 4},
		{"no TCK", "3B 80 01", atr.ErrChecksum, "TCK", 3},
		{"wrong TCK", "3B 80 01 80", atr.ErrChecksum, "TCK", 3},
		{"bytes behind", "3B 00 00", atr.ErrTrailing, "end", 2},
		{"34 bytes", strings.Repeat("3B", 34), atr.ErrTooLong, "length", 33},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := atr.Parse(unhex(t, c.raw))
			assert.ErrorIs(t, err, atr.ErrMalformed)
			assert.ErrorIs(t, err, c.want)
			var e *atr.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, c.field, e.Field)
			assert.Equal(t, c.offset, e.Offset)
			usable := c.want == atr.ErrChecksum || c.want == atr.ErrTrailing
			assert.Equal(t, usable, len(a.Groups) > 0)
		})
	}
}

func TestInterfaceBytes(t *testing.T) {
	// TA1 95, TC1 10; T=0: TA2 specific, TC2 20; T=1: TA3 F0; T=15: clock, class.
	a, err := atr.Parse(unhex(t, "3F D0 95 10 D0 90 20 91 F0 1F 86 CD"))
	require.NoError(t, err)
	assert.True(t, a.Inverse)
	s, specific := a.Specific()
	assert.True(t, specific)
	assert.Equal(t, atr.Specific{T: 0, Implicit: true, Changeable: false}, s)
	assert.Equal(t, 0, a.First())
	assert.Equal(t, []int{0, 1}, a.Protocols())
	assert.True(t, a.Offers(1))
	assert.Equal(t, 16, a.ExtraGuardTime())
	assert.Equal(t, 32, a.WI())
	assert.Equal(t, 240, a.T1().IFSC)
	assert.Equal(t, atr.ClockStopHigh, a.ClockStop())
	assert.Equal(t, atr.ClassB|atr.ClassC, a.Classes())

	plain, err := atr.Parse(unhex(t, "3B 00"))
	require.NoError(t, err)
	_, specific = plain.Specific()
	assert.False(t, specific)
	assert.False(t, plain.SaysClasses())
	assert.Equal(t, 10, plain.WI())
}

func TestTimes(t *testing.T) {
	a, err := atr.Parse(unhex(t, "3B 90 11 81 21 45 F4"))
	require.ErrorIs(t, err, atr.ErrChecksum)
	a, err = atr.Parse(append(a.Raw[:6:6], atr.Checksum(a.Raw[1:6])))
	require.NoError(t, err)
	const kHz = 3720 // 1 etu is 100 µs
	assert.Equal(t, 100*time.Microsecond, a.TA1().ETU(kHz))
	assert.Equal(t, 960*time.Millisecond, a.WWT(kHz))
	assert.Equal(t, 1536*time.Millisecond+1100*time.Microsecond, a.BWT(atr.DefaultSpeed, kHz))
	assert.Equal(t, 43*100*time.Microsecond, a.CWT(atr.DefaultSpeed, kHz))
	assert.Equal(t, 12*100*time.Microsecond, a.GuardTime(atr.DefaultSpeed, kHz))
	assert.Zero(t, atr.DefaultSpeed.ETU(0))
	assert.InDelta(t, 10000, atr.DefaultSpeed.Baud(kHz), 0.01)

	fast := atr.NewSpeed(9, 6)
	assert.Equal(t, 512, fast.F())
	assert.Equal(t, 32, fast.D())
	assert.Equal(t, 5000, fast.MaxClock())
	assert.True(t, fast.Valid())
	for _, reserved := range []atr.Speed{0x10, 0x1A, 0x71, 0xE1} {
		assert.False(t, reserved.Valid())
		assert.Positive(t, reserved.F())
		assert.Positive(t, reserved.D())
		assert.Positive(t, reserved.MaxClock())
	}
}

func TestHistoricalBytes(t *testing.T) {
	a, err := atr.Parse(unhex(t, "3B 9F 96 80 1F C7 80 31 A0 73 BE 21 13 67 43 20 07 18 00 00 01 A5"))
	require.NoError(t, err)
	assert.Equal(t, []atr.Object{
		{Tag: atr.TagServices, Value: []byte{0xA0}},
		{Tag: atr.TagCapabilities, Value: []byte{0xBE, 0x21, 0x13}},
		{Tag: atr.TagPreIssuing, Value: []byte{0x43, 0x20, 0x07, 0x18, 0x00, 0x00, 0x01}},
	}, a.Objects())
	c, ok := a.Capabilities()
	assert.True(t, ok)
	assert.Equal(t, atr.Capabilities{Selection: 0xBE, DataCoding: 0x21, Channels: 4}, c)
	assert.Empty(t, a.Status())

	for history, want := range map[string]struct {
		status       string
		capabilities bool
	}{
		"00 73 00 21 C0 05 90 00": {"05 90 00", true},
		"80 83 05 90 00":          {"05 90 00", false},
		"80 82 90 00":             {"90 00", false},
		"00 90 00":                {"", false},
		"10 01":                   {"", false},
		"80 7F 00":                {"", false},
		"":                        {"", false},
	} {
		h := unhex(t, history)
		a, err := atr.Parse(append([]byte{0x3B, byte(len(h))}, h...))
		require.NoError(t, err)
		assert.Equal(t, unhex(t, want.status), append([]byte{}, a.Status()...), history)
		c, ok := a.Capabilities()
		assert.Equal(t, want.capabilities, ok, history)
		assert.GreaterOrEqual(t, c.Channels, 1)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "3B00", "3B9F96801FC78031A073BE21136743200718000001A5", "3FD0951090D02091F01F86", "3B80808080"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := atr.Parse(raw)
		if err != nil {
			assert.ErrorIs(t, err, atr.ErrMalformed)
		}
		if len(a.Groups) == 0 {
			require.Error(t, err)
			return
		}
		assert.NotEmpty(t, a.Protocols())
		assert.LessOrEqual(t, len(a.Historical), 15)
		assert.NotEmpty(t, a.Lines(4000))
		p := a.T1()
		assert.True(t, p.IFSC >= 1 && p.IFSC <= 254 && p.BWI <= 9)
		a.Objects()
		a.Status()
		assert.NotZero(t, a.Classes())
		assert.Equal(t, raw, a.Raw)
	})
}
