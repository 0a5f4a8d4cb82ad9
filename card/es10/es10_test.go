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
	e, err := Open(t.Context(), card, Options{})
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
	e, err := Open(t.Context(), card, Options{})
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
	_, err := Open(t.Context(), card, Options{AIDs: []string{ISDRs[0], "A000000087"}})
	assert.ErrorIs(t, err, ErrNoISDR)
	assert.ErrorIs(t, err, apdu.SWFileNotFound)
	assert.Empty(t, card.steps)

	for _, bad := range []string{"A0", "XX00000000", strings.Repeat("00", 17)} {
		_, err = Open(t.Context(), &script{t: t, steps: [][2]string{{capability, "9000"}, {openOne, "019000"}}}, Options{AIDs: []string{bad}})
		assert.ErrorContains(t, err, "5 to 16 bytes")
	}
}

func TestTransportFails(t *testing.T) {
	whole := golden(t).steps
	for i := range whole {
		card := &script{t: t, steps: append(append([][2]string{}, whole[:i]...), [2]string{whole[i][0], ""})}
		e, err := Open(t.Context(), card, Options{})
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
	e, err := Open(t.Context(), card, Options{})
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
		for i := range n { // ICCIDs of their own
			in[i*len(one)+11] = byte(i)/10<<4 | byte(i)%10
			in[i*len(one)+10] = byte(i / 100)
		}
		out := append([]byte{0xA0, 0x82, byte(len(in) >> 8), byte(len(in))}, in...)
		return append([]byte{0xBF, 0x2D, 0x82, byte(len(out) >> 8), byte(len(out))}, out...)
	}
	got, err := parseProfiles(profiles(maxProfiles))
	require.NoError(t, err)
	assert.Len(t, got, maxProfiles)
	_, err = parseProfiles(profiles(maxProfiles + 1))
	assert.ErrorContains(t, err, "more than 128 profiles")
	twice := profiles(30)
	copy(twice[len(twice)-len(one):], twice[len(twice)-2*len(one):])
	_, err = parseProfiles(twice)
	assert.ErrorContains(t, err, "twice")
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

func TestMalformedFunctions(t *testing.T) {
	const note = "800101810206400C00"
	for name, c := range map[string]struct {
		answer string
		parse  func([]byte) error
	}{
		"result of no byte":    {"BF32028000", result},
		"result of two":        {"BF320480020000", result},
		"another function":     {"BF3103800100", result},
		"trailing":             {"BF320380010000", result},
		"address not UTF-8":    {"BF3C038101FF", addresses},
		"address twice":        {"BF3C0481008100", addresses},
		"version of two bytes": {"BF220482020202", info},
		"memory of nine bytes": {"BF220D840B8209000000000000000000", info},
		"issuer of another":    {"BF2204A9020500", info},
		"rules of nothing":     {"BF22029900", info},
		"no list":              {"BF2800", notifications},
		"no metadata":          {"BF2804A0023000", notifications},
		"no number":            {"BF2809A007BF2F0481020640", notifications},
		"number of ten bytes":  {"BF2813A011BF2F0E800A00000000000000000000" + "8100", notifications},
		"two events":           {"BF280CA00ABF2F07800101810206C0", notifications},
		"event 5":              {"BF280CA00ABF2F0780010181020304", notifications},
		"ICCID short":          {"BF2812A010BF2F0D" + note + "5A0298F9", notifications},
		"nothing pending":      {"BF2B02A000", pending},
		"another object":       {"BF2B04A0023100", pending},
		"installation without": {"BF2B05A003BF3700", pending},
	} {
		err := malformed(listNotifications, c.parse(unhex(t, c.answer)))
		assert.ErrorIs(t, err, ErrMalformed, name)
	}
	assert.NoError(t, notifications(unhex(t, "BF280EA00CBF2F09"+note)))
	assert.NoError(t, pending(unhex(t, "BF2B1AA018BF3715BF27128001AABF2F09"+note+"060100")), "a profile installation result")
	many := bytes.Repeat(unhexed("BF2F09"+note), maxNotifications+1)
	many = append([]byte{0xA0, 0x82, byte(len(many) >> 8), byte(len(many))}, many...)
	many = append([]byte{0xBF, 0x28, 0x82, byte(len(many) >> 8), byte(len(many))}, many...)
	assert.ErrorContains(t, notifications(many), "more than 1024")
}

func result(b []byte) error        { return parseResult(b, disableProfile) }
func addresses(b []byte) error     { _, err := parseAddresses(b); return err }
func info(b []byte) error          { _, err := parseInfo(b, getInfo2); return err }
func notifications(b []byte) error { _, err := parseNotifications(b); return err }
func pending(b []byte) error       { _, err := parsePending(b); return err }

// Every code has a meaning that errors.Is finds.
func TestMeanings(t *testing.T) {
	for f, codes := range codes {
		for code, want := range codes {
			err := &Error{Function: f, Code: code}
			assert.ErrorIs(t, err, want)
			assert.ErrorContains(t, err, want.Error())
		}
	}
	assert.ErrorIs(t, &Error{Function: deleteProfile.name, Code: 127}, ErrUndefined)
	assert.Equal(t, "es10: DeleteProfile: error 9", (&Error{Function: deleteProfile.name, Code: 9}).Error())
}

func TestOwner(t *testing.T) {
	for owner, want := range map[string]string{"B705800362F210": "26201", "B7058003EEEEEE": "", "B708800362F2108101AA": "26201"} {
		got, err := parseProfiles(unhex(t, list(wholeICCID+enabled+owner)))
		require.NoError(t, err)
		if want == "" {
			assert.Nil(t, got[0].Owner)
		} else {
			assert.Equal(t, want, got[0].Owner.String())
		}
	}
}

// FuzzParse has each answer of no profiles parsed: what is read of a notification
// is of the form that it has.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"BF3203800105", "BF3C06800161810162", "BF22058203020202", "BF280EA00CBF2F09800101810206400C00",
		"BF2B0EA00C300ABF2F09800101810206400C00", "BF220F8203020202A90304016184038201059900", "BF2B03810101",
	} {
		f.Add(unhexed(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = result(b)
		_ = addresses(b)
		_ = info(b)
		if p, err := parsePending(b); err == nil {
			assert.LessOrEqual(t, p.Event, EventDelete)
			assert.NotEmpty(t, p.Raw)
		}
		list, err := parseNotifications(b)
		if err != nil {
			assert.Nil(t, list)
		}
		assert.LessOrEqual(t, len(list), maxNotifications)
	})
}
