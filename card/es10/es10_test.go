package es10

import (
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/card/id"
)

// script answers commands as they are written down, in order.
type script struct {
	t     testing.TB
	steps [][2]string // command and response in hexadecimal
}

func (s *script) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	require.NotEmpty(s.t, s.steps, "command %X too many", capdu)
	step := s.steps[0]
	s.steps = s.steps[1:]
	require.Equal(s.t, step[0], strings.ToUpper(hex.EncodeToString(capdu)))
	if step[1] == "" {
		return nil, apdu.ErrCardRemoved
	}
	return unhex(s.t, step[1]), nil
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// golden is the exchange in testdata/euicc.trace.
func golden(t testing.TB) *script {
	t.Helper()
	b, err := os.ReadFile("testdata/euicc.trace")
	require.NoError(t, err)
	tr, err := trace.Parse(bytes.NewReader(b))
	require.NoError(t, err)
	require.Equal(t, trace.Hand, tr.Header.Origin)
	s := &script{t: t}
	for i := 0; i+1 < len(tr.Entries); i += 2 {
		s.steps = append(s.steps, [2]string{
			strings.ToUpper(hex.EncodeToString(tr.Entries[i].Data)), strings.ToUpper(hex.EncodeToString(tr.Entries[i+1].Data)),
		})
	}
	return s
}

func iccid(t testing.TB, s string) id.ICCID {
	t.Helper()
	c, err := id.ParseICCID(s)
	require.NoError(t, err)
	return c
}

func TestGolden(t *testing.T) {
	card := golden(t)
	e, err := Open(t.Context(), card)
	require.NoError(t, err)
	assert.Equal(t, ISDRs[1], e.AID())
	eid, err := e.EID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "89049032000000000000000000000066", eid.String())
	profiles, err := e.Profiles(t.Context())
	require.NoError(t, err)
	aid := func(n string) []byte { return unhex(t, "A0000005591010FFFFFFFF890000"+n) }
	assert.Equal(t, []Profile{
		{ICCID: iccid(t, "8949000000000000017"), AID: aid("1100"), State: Enabled, Nickname: "Werkstatt", Provider: "Opérateur", Name: "everyday", Class: Operational, PPR1: true},
		{ICCID: iccid(t, "898600123456789012"), AID: aid("1101"), State: Disabled, Provider: "运营商", Name: "test profile", Class: Test},
		{ICCID: iccid(t, "89014100000000000434"), AID: aid("1102"), State: Disabled, Provider: "Lab", Name: "bootstrap, kept", Class: Provisioning, PPR1: true, PPR2: true},
	}, profiles)
	require.NoError(t, e.Close(t.Context()))
	assert.Empty(t, card.steps, "commands that were not sent")
}

const (
	capability = "80AA00000AA9088100820101830107"
	openOne    = "0070000001"
	standard   = "A4040010A0000005591010FFFFFFFF8900000100"
)

func TestBasicChannelWhereThereIsNoOther(t *testing.T) {
	card := &script{t: t, steps: [][2]string{
		{capability, "9000"}, {openOne, "6881"}, {"00" + standard, "9110"},
		{"80E2910006BF3E035C015A00", "6D00"},
	}}
	e, err := Open(t.Context(), card)
	require.NoError(t, err)
	_, err = e.EID(t.Context())
	assert.ErrorIs(t, err, apdu.SWInstructionNotSupported)
	assert.ErrorContains(t, err, "GetEID")
	require.NoError(t, e.Close(t.Context()))
	assert.Empty(t, card.steps)
}

func TestNoEUICC(t *testing.T) {
	card := &script{t: t, steps: [][2]string{
		{capability, "6D00"}, {openOne, "039000"}, {"03" + standard, "6A82"}, {"03A4040005A000000087", "6A82"}, {"00708003", "9000"},
	}}
	_, err := Open(t.Context(), card, ISDRs[0], "A000000087")
	assert.ErrorIs(t, err, ErrNoISDR)
	assert.ErrorIs(t, err, apdu.SWFileNotFound)
	assert.Empty(t, card.steps)

	for _, bad := range []string{"A0", "XX00000000", strings.Repeat("00", 17)} {
		_, err = Open(t.Context(), &script{t: t, steps: [][2]string{{capability, "9000"}, {openOne, "019000"}}}, bad)
		assert.ErrorContains(t, err, "5 to 16 bytes")
	}
}

func TestTransportFails(t *testing.T) {
	whole := golden(t).steps
	for i := range whole {
		card := &script{t: t, steps: append(append([][2]string{}, whole[:i]...), [2]string{whole[i][0], ""})}
		e, err := Open(t.Context(), card)
		if err == nil {
			_, err = e.EID(t.Context())
		}
		if err == nil {
			_, err = e.Profiles(t.Context())
		}
		if err == nil {
			err = e.Close(t.Context())
		}
		assert.ErrorIs(t, err, apdu.ErrCardRemoved, "step %d", i)
	}
}

// A request that does not fit one block goes out in several, which the card
// takes one by one.
func TestBlocks(t *testing.T) {
	long := bytes.Repeat([]byte{0x5A}, 300)
	first := append([]byte{0xBF, 0x2D, 0x82, 0x01, 0x2C}, long[:250]...)
	open := [][2]string{{capability, "9000"}, {openOne, "019000"}, {"01" + standard, "9000"}}
	hexed := func(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }
	card := &script{t: t, steps: append(open,
		[2]string{"81E21100FF" + hexed(first), "9000"},
		[2]string{"81E2910132" + hexed(long[250:]) + "00", "BF2D02A0009000"},
		[2]string{"81E21100FF" + hexed(first), "6A80"},
	)}
	e, err := Open(t.Context(), card)
	require.NoError(t, err)
	answer, err := e.call(t.Context(), getProfilesInfo, long)
	require.NoError(t, err)
	profiles, err := parseProfiles(answer)
	require.NoError(t, err)
	assert.Empty(t, profiles)
	_, err = e.call(t.Context(), getProfilesInfo, long)
	assert.ErrorIs(t, err, apdu.SWIncorrectData)
	assert.Empty(t, card.steps)
}

func TestErrorCodes(t *testing.T) {
	for code, text := range map[string]string{"01": "incorrect input values", "7F": "undefined error", "05": "error 5"} {
		_, err := parseProfiles(unhex(t, "BF2D038101"+code))
		err = malformed(getProfilesInfo, err)
		var refused *Error
		require.ErrorAs(t, err, &refused)
		assert.ErrorContains(t, err, text)
		assert.ErrorContains(t, err, "GetProfilesInfo")
		assert.NotErrorIs(t, err, ErrMalformed)
	}
}

const (
	wholeICCID = "5A0A98940000000000000010"
	enabled    = "9F700101"
)

// list is a GetProfilesInfo answer of one profile.
func list(members string) string {
	n := len(members) / 2
	b := unhexed(members)
	out := append([]byte{0xE3, byte(n)}, b...)
	out = append([]byte{0xA0, byte(len(out))}, out...)
	out = append([]byte{0xBF, 0x2D, byte(len(out))}, out...)
	return hex.EncodeToString(out)
}

func unhexed(s string) []byte { b, _ := hex.DecodeString(s); return b }

func TestMalformed(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":               "",
		"another function":      "BF3E00",
		"nothing inside":        "BF2D00",
		"trailing":              "BF2D02A00000",
		"trailing inside":       "BF2D03A00000",
		"cut off":               "BF2D05A000",
		"error of two bytes":    "BF2D0481020001",
		"neither":               "BF2D03820100",
		"no profile":            "BF2D04A0025A00",
		"no ICCID":              list(enabled),
		"no state":              list(wholeICCID),
		"short ICCID":           list("5A0298F9" + enabled),
		"state 2":               list(wholeICCID + "9F700102"),
		"state of no byte":      list(wholeICCID + "9F7000"),
		"class 3":               list(wholeICCID + enabled + "950103"),
		"name twice":            list(wholeICCID + enabled + "92009200"),
		"no UTF-8":              list(wholeICCID + enabled + "9201FF"),
		"AID of four bytes":     list(wholeICCID + enabled + "4F04A0000005"),
		"rules without a count": list(wholeICCID + enabled + "9900"),
		"rules of nothing":      list(wholeICCID + enabled + "990107"),
		"too many unused bits":  list(wholeICCID + enabled + "99020840"),
	} {
		_, err := parseProfiles(unhex(t, answer))
		assert.ErrorIs(t, malformed(getProfilesInfo, err), ErrMalformed, name)
	}
	for name, answer := range map[string]string{
		"nothing":         "",
		"another tag":     "BF3E025900",
		"short":           "BF3E035A0189",
		"check digits":    "BF3E125A1089049032000000000000000000000067",
		"trailing":        "BF3E125A108904903200000000000000000000006600",
		"trailing inside": "BF3E135A108904903200000000000000000000006600",
	} {
		_, err := parseEID(unhex(t, answer))
		assert.ErrorIs(t, malformed(getEID, err), ErrMalformed, name)
	}
}

func TestBounds(t *testing.T) {
	one := unhexed(list(wholeICCID + enabled))[5:]
	profiles := func(n int) []byte {
		in := bytes.Repeat(one, n)
		out := append([]byte{0xA0, 0x82, byte(len(in) >> 8), byte(len(in))}, in...)
		return append([]byte{0xBF, 0x2D, 0x82, byte(len(out) >> 8), byte(len(out))}, out...)
	}
	got, err := parseProfiles(profiles(maxProfiles))
	require.NoError(t, err)
	assert.Len(t, got, maxProfiles)
	_, err = parseProfiles(profiles(maxProfiles + 1))
	assert.ErrorContains(t, err, "more than 128 profiles")
}

// Members that a later version has are left out; icons are the usual one.
func TestUnknownMembers(t *testing.T) {
	got, err := parseProfiles(unhex(t, list(wholeICCID+enabled+"930101"+"9402FFD8"+"9F7B00")))
	require.NoError(t, err)
	assert.Equal(t, []Profile{{ICCID: iccid(t, "89490000000000000001"), State: Enabled, Class: Operational}}, got)
}

func TestWords(t *testing.T) {
	for want, got := range map[string]interface{ MarshalText() ([]byte, error) }{
		"enabled": Enabled, "disabled": Disabled, "state 07": State(7),
		"test": Test, "provisioning": Provisioning, "operational": Operational, "class 09": Class(9),
	} {
		text, err := got.MarshalText()
		require.NoError(t, err)
		assert.Equal(t, want, string(text))
	}
}

func FuzzParseProfiles(f *testing.F) {
	for _, s := range golden(f).steps {
		f.Add(unhexed(s[1]))
	}
	f.Add(unhexed("BF2D03810101"))
	f.Add(unhexed(list(wholeICCID + enabled + "99020560")))
	f.Fuzz(func(t *testing.T, b []byte) {
		profiles, err := parseProfiles(b)
		if err != nil {
			assert.Nil(t, profiles)
			return
		}
		for _, p := range profiles {
			again, err := id.ICCIDFromBytes(p.ICCID[:])
			assert.NoError(t, err)
			assert.Equal(t, p.ICCID, again)
			assert.LessOrEqual(t, p.State, Enabled)
			assert.LessOrEqual(t, p.Class, Operational)
		}
	})
}

func FuzzParseEID(f *testing.F) {
	f.Add(unhexed("BF3E125A1089049032000000000000000000000066"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if eid, err := parseEID(b); err == nil {
			assert.NoError(t, eid.Check())
		}
	})
}
