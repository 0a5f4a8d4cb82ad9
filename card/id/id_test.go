package id_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
)

func TestVectors(t *testing.T) {
	v := vectors.Load(t).Codings
	for digits, want := range v.EID {
		e, err := id.ParseEID(digits)
		require.NoError(t, err)
		assert.Equal(t, []byte(want), e[:])
		back, err := id.EIDFromBytes(want)
		require.NoError(t, err)
		assert.Equal(t, digits, back.String())
	}
	for digits, want := range v.ICCID {
		c, err := id.ParseICCID(digits)
		require.NoError(t, err)
		assert.Equal(t, []byte(want), c[:])
		back, err := id.ICCIDFromBytes(want)
		require.NoError(t, err)
		assert.Equal(t, digits, back.String())
	}
	for digits, want := range v.MCCMNC {
		m, err := id.ParseMCCMNC(digits)
		require.NoError(t, err)
		assert.Equal(t, []byte(want), m[:])
		back, err := id.MCCMNCFromBytes(want)
		require.NoError(t, err)
		assert.Equal(t, digits, back.String())
	}
}

const eid = "89049032000000000000000000424247"

func TestEIDCheckDigits(t *testing.T) {
	e, err := id.ParseEID(eid)
	require.NoError(t, err)
	for i := range eid {
		for d := byte('0'); d <= '9'; d++ {
			if eid[i] == d {
				continue
			}
			wrong := eid[:i] + string(d) + eid[i+1:]
			_, err := id.ParseEID(wrong)
			assert.ErrorIs(t, err, id.ErrInvalid, "%s differs in one digit", wrong)
		}
	}
	for i := range len(eid) - 1 {
		if eid[i] != eid[i+1] {
			swapped := eid[:i] + string(eid[i+1]) + string(eid[i]) + eid[i+2:]
			_, err := id.ParseEID(swapped)
			assert.ErrorIs(t, err, id.ErrInvalid, "%s has two digits swapped", swapped)
		}
	}
	for last := range byte(100) {
		broken := e
		broken[15] = last/10<<4 | last%10
		assert.Equal(t, e, broken.WithCheckDigits())
	}
	for n := range 1000 {
		var made id.EID
		copy(made[:], e[:])
		made[10] = byte(n / 100 % 10)
		made[11] = byte(n/10%10<<4 | n%10)
		assert.NoError(t, made.WithCheckDigits().Check())
	}
}

func TestInvalid(t *testing.T) {
	for _, s := range []string{
		"", eid[:31], eid + "0", strings.Repeat("0", 32),
		"8904903200000000000000000042424A", "8904903200000000000000000042424x", "+9049032000000000000000000424247",
		strings.Repeat("9", 1<<16),
	} {
		_, err := id.ParseEID(s)
		assert.ErrorIs(t, err, id.ErrInvalid, "%.40s", s)
		assert.Less(t, len(err.Error()), 200, "errors are bounded")
	}
	for _, b := range [][]byte{nil, make([]byte, 15), make([]byte, 17), make([]byte, 16), {0: 0xA0, 15: 0}} {
		_, err := id.EIDFromBytes(b)
		assert.ErrorIs(t, err, id.ErrInvalid)
	}
	for _, s := range []string{
		"", "89860112345678901", "898601123456789012345", "8986011234567890F2", "898601123456789012F",
		"8986 1123456789012", "8986０123456789", strings.Repeat("9", 1<<16),
	} {
		_, err := id.ParseICCID(s)
		assert.ErrorIs(t, err, id.ErrInvalid, "%.40s", s)
		assert.Less(t, len(err.Error()), 200)
	}
	for _, b := range [][]byte{
		nil, make([]byte, 9), make([]byte, 11),
		{0x98, 0x68, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}, // 16 digits
		{0x98, 0x68, 0, 0, 0, 0, 0, 0, 0xF0, 0xFF}, // 17 digits
		{0x98, 0x68, 0, 0, 0, 0, 0, 0, 0, 0x0F},    // a digit behind the padding
		{0x98, 0x6F, 0, 0, 0, 0, 0, 0, 0, 0},       // F in the middle
		{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
	} {
		_, err := id.ICCIDFromBytes(b)
		assert.ErrorIs(t, err, id.ErrInvalid, "%X", b)
	}
	for _, s := range []string{"", "4601", "4601100", "4601a", "46 11", "-6011", strings.Repeat("1", 1<<16)} {
		_, err := id.ParseMCCMNC(s)
		assert.ErrorIs(t, err, id.ErrInvalid, "%.40s", s)
		assert.Less(t, len(err.Error()), 200)
	}
	for _, b := range [][]byte{nil, {0x64, 0xF0}, {0x64, 0xF0, 0x11, 0}, {0xA4, 0xF0, 0x11}, {0x64, 0xA0, 0x11}, {0x64, 0xFA, 0x11}, {0x64, 0xF0, 0xF1}, {0xFF, 0xFF, 0xFF}} {
		_, err := id.MCCMNCFromBytes(b)
		assert.ErrorIs(t, err, id.ErrInvalid, "%X", b)
	}
	for _, s := range []string{"", "00", strings.Repeat("g", 32), strings.Repeat("0", 31), strings.Repeat("0", 36), "0011223344556677-8899-aabb-ccddeeff-0", strings.Repeat("0", 1<<16)} {
		_, err := id.ParseRequestID(s)
		assert.ErrorIs(t, err, id.ErrInvalid, "%.40s", s)
		assert.Less(t, len(err.Error()), 200)
	}
}

func TestICCID(t *testing.T) {
	for in, want := range map[string]string{
		"898601123456789012":   "98681021436587092 1FF",
		"8986011234567890123":  "986810214365870921F3",
		"89860112345678901234": "98681021436587092143",
		"898603d0a1b2c3e40042": "9868300D1A2B3C4E0024",
		"8986ABCDEABCDEABCDEA": "9868BADCAECBEDBADCAE",
	} {
		c, err := id.ParseICCID(in)
		require.NoError(t, err, in)
		assert.Equal(t, strings.ReplaceAll(want, " ", ""), fmt.Sprintf("%X", c[:]))
		assert.Equal(t, strings.ToUpper(in), c.String())
	}
}

func TestMCCMNC(t *testing.T) {
	for in, want := range map[string]string{"46000": "64F000", "460011": "641010", "310410": "130014", "00101": "00F110", "99999": "99F999"} {
		m, err := id.ParseMCCMNC(in)
		require.NoError(t, err)
		assert.Equal(t, want, fmt.Sprintf("%X", m[:]))
		assert.Equal(t, in, m.String())
	}
}

func TestRequestID(t *testing.T) {
	a, err := id.ParseRequestID("00112233445566778899AABBCCDDEEFF")
	require.NoError(t, err)
	b, err := id.ParseRequestID("00112233-4455-6677-8899-aabbccddeeff")
	require.NoError(t, err)
	assert.Equal(t, a, b)
	assert.Equal(t, "00112233-4455-6677-8899-aabbccddeeff", a.String())
}

func TestJSON(t *testing.T) {
	type all struct {
		EID    id.EID
		ICCID  id.ICCID
		MCCMNC id.MCCMNC
		ID     id.RequestID
	}
	const text = `{"EID":"` + eid + `","ICCID":"898603D0A1B2C3E40042","MCCMNC":"46011","ID":"00112233-4455-6677-8899-aabbccddeeff"}`
	var a all
	require.NoError(t, json.Unmarshal([]byte(text), &a))
	back, err := json.Marshal(a)
	require.NoError(t, err)
	assert.JSONEq(t, text, string(back))
	for _, bad := range []string{`{"EID":"1"}`, `{"ICCID":"1"}`, `{"MCCMNC":"1"}`, `{"ID":"1"}`} {
		assert.ErrorIs(t, json.Unmarshal([]byte(bad), &a), id.ErrInvalid)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", eid, "898601123456789012", "8986ABCDEABCDEABCDEA", "46011", "310410", "00112233-4455-6677-8899-aabbccddeeff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := id.ParseEID(s); err == nil {
			assert.Equal(t, s, e.String())
			assert.NoError(t, e.WithCheckDigits().Check())
		} else {
			assert.ErrorIs(t, err, id.ErrInvalid)
		}
		if c, err := id.ParseICCID(s); err == nil {
			assert.Equal(t, strings.ToUpper(s), c.String())
		} else {
			assert.ErrorIs(t, err, id.ErrInvalid)
		}
		if m, err := id.ParseMCCMNC(s); err == nil {
			assert.Equal(t, s, m.String())
		} else {
			assert.ErrorIs(t, err, id.ErrInvalid)
		}
		if r, err := id.ParseRequestID(s); err == nil {
			back, err := id.ParseRequestID(r.String())
			require.NoError(t, err)
			assert.Equal(t, r, back)
		} else {
			assert.ErrorIs(t, err, id.ErrInvalid)
		}
	})
}

func FuzzFromBytes(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x64, 0xF0, 0x11})
	f.Add([]byte{0x98, 0x68, 0x10, 0x21, 0x43, 0x65, 0x87, 0x09, 0x21, 0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := id.EIDFromBytes(b); err == nil {
			back, err := id.ParseEID(e.String())
			require.NoError(t, err)
			assert.Equal(t, b, back[:])
		}
		if c, err := id.ICCIDFromBytes(b); err == nil {
			back, err := id.ParseICCID(c.String())
			require.NoError(t, err)
			assert.Equal(t, b, back[:])
		}
		if m, err := id.MCCMNCFromBytes(b); err == nil {
			back, err := id.ParseMCCMNC(m.String())
			require.NoError(t, err)
			assert.Equal(t, b, back[:])
		}
	})
}

func Example() {
	e, err := id.ParseEID("89049032000000000000000000424247")
	fmt.Printf("%X %v\n", e[:], err)
	c, err := id.ParseICCID("898603D0A1B2C3E40042")
	fmt.Printf("%X %v\n", c[:], err)
	m, err := id.ParseMCCMNC("46011")
	fmt.Printf("%X %v\n", m[:], err)
	_, err = id.ParseEID("89049032000000000000000000424248")
	fmt.Println(err)
	// Output:
	// 89049032000000000000000000424247 <nil>
	// 9868300D1A2B3C4E0024 <nil>
	// 64F011 <nil>
	// invalid identifier: EID 89049032000000000000000000424248 has wrong check digits (mod 97 is 2, not 1)
}
