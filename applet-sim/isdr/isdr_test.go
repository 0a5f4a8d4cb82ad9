package isdr

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

// memory is an eUICC's memory, which counts what is written.
type memory struct {
	state  State
	writes int
	count  uint32 // profiles' changes
	err    error
}

func (m *memory) State() State {
	s := m.state
	s.Profiles = slices.Clone(s.Profiles)
	s.Notifications = slices.Clone(s.Notifications)
	return s
}

func (m *memory) SetState(s State, changed bool) error {
	if m.err != nil {
		return m.err
	}
	m.state = s
	m.writes++
	if changed {
		m.count++
	}
	return nil
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

const (
	everyday = "98940000000000000010" // enabled
	spare    = "981014000000004043F4"
	kept     = "988906000000000000F5" // PPR1 and PPR2
	tester   = "98940000000000000030"
	short    = "986800214365870921FF" // 18 digits
	absent   = "98940000000000000099"
)

func newCard(t testing.TB) (*ISDR, *memory) {
	t.Helper()
	eid, err := id.ParseEID("89049032000000000000000000000066")
	require.NoError(t, err)
	m := &memory{state: State{EID: eid, DefaultDP: "dp.example.com", InitialDP: "dp.example.com", RootDS: "ds.example.com"}}
	for i, p := range []Profile{
		{Enabled: true, Provider: "Lab", Name: "everyday", Class: Operational, NotifyAddress: "dp.example.com"},
		{Provider: "Lab", Class: Operational, Nickname: "spare", NotifyAddress: "dp2.example.com"},
		{Provider: "Lab", Name: "kept", Class: Provisioning, PPR1: true, PPR2: true},
		{Name: "tester", Class: Test},
		{Name: "old", Class: Operational},
	} {
		p.ICCID = id.ICCID(unhex(t, []string{everyday, spare, kept, tester, short}[i]))
		p.AID = unhex(t, "A0000005591010FFFFFFFF890000110"+string(rune('0'+i)))
		p.Owner = id.MCCMNC{0x62, 0xF2, 0x10}
		m.state.Profiles = append(m.state.Profiles, p)
	}
	return &ISDR{Memory: m, Rand: strings.NewReader(strings.Repeat("0123456789abcdef", 4))}, m
}

func (d *ISDR) do(t testing.TB, request string) (string, apdu.StatusWord) {
	t.Helper()
	answer, sw, _ := d.Process(unhex(t, request), false)
	return strings.ToUpper(hex.EncodeToString(answer)), sw
}

// object is a data object in hexadecimal.
func object(tag tlv.Tag, parts ...string) string {
	value, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		panic(err)
	}
	return strings.ToUpper(hex.EncodeToString(tlv.Append(nil, tag, value...)))
}

func byICCID(function tlv.Tag, iccid, flag string) string {
	return object(function, object(0xA0, object(0x5A, iccid)), object(0x81, flag))
}

func byAID(function tlv.Tag, n, flag string) string {
	return object(function, object(0xA0, object(0x4F, "A0000005591010FFFFFFFF890000110"+n)), object(0x81, flag))
}

func ascii(s string) string { return hex.EncodeToString([]byte(s)) }

// step is a request, and what answers it: data that a status of 9000 comes with,
// or a status word.
type step struct{ request, want string }

func run(t *testing.T, d *ISDR, steps ...step) {
	t.Helper()
	for i, s := range steps {
		got, sw := d.do(t, s.request)
		if sw != apdu.SWSuccess {
			assert.Empty(t, got)
			got = sw.Hex()
		}
		require.Equal(t, strings.ToUpper(strings.ReplaceAll(s.want, " ", "")), got, "step %d: %s", i+1, s.request)
	}
}

func TestReading(t *testing.T) {
	info := func(n int) string {
		return []string{
			"5A0A" + everyday + "4F10A0000005591010FFFFFFFF8900001100 9F700101 9103" + ascii("Lab") + "9208" + ascii("everyday") + "950102",
			"5A0A" + spare + "4F10A0000005591010FFFFFFFF8900001101 9F700100 9005" + ascii("spare") + "9103" + ascii("Lab") + "9200 950102",
			"5A0A" + kept + "4F10A0000005591010FFFFFFFF8900001102 9F700100 9103" + ascii("Lab") + "9204" + ascii("kept") + "950101 99020560",
			"5A0A" + tester + "4F10A0000005591010FFFFFFFF8900001103 9F700100 9100 9206" + ascii("tester") + "950100",
			"5A0A" + short + "4F10A0000005591010FFFFFFFF8900001104 9F700100 9100 9203" + ascii("old") + "950102",
		}[n]
	}
	profiles := func(which ...int) string {
		var all string
		for _, n := range which {
			all += object(0xE3, info(n))
		}
		return object(0xBF2D, object(0xA0, all))
	}
	const incorrect = "BF2D03810101"
	ci := hex.EncodeToString(testCI().id)
	d, m := newCard(t)
	before := m.State()
	run(t, d,
		step{"BF3E035C015A", "BF3E125A1089049032000000000000000000000066"},
		step{"BF3E035C015B", "6A80"},
		step{"BF3E00", "6A80"},

		step{"BF2D00", profiles(0, 1, 2, 3, 4)},
		step{object(0xBF2D, object(0xA0, object(0x5A, spare))), profiles(1)},
		step{object(0xBF2D, object(0xA0, "4F10A0000005591010FFFFFFFF8900001102")), profiles(2)},
		step{object(0xBF2D, object(0xA0, "950102")), profiles(0, 1, 4)},
		step{object(0xBF2D, object(0xA0, object(0x5A, absent))), profiles()},
		step{object(0xBF2D, object(0xA0, "5A09"+short[:18])), profiles(4)},
		step{"BF2D055C035A9F70", object(0xBF2D, object(0xA0, object(0xE3, "5A0A"+everyday+"9F700101"), object(0xE3, "5A0A"+spare+"9F700100"), object(0xE3, "5A0A"+kept+"9F700100"), object(0xE3, "5A0A"+tester+"9F700100"), object(0xE3, "5A0A"+short+"9F700100")))},
		step{object(0xBF2D, object(0xA0, object(0x5A, everyday)), "5C03B6B799"), object(0xBF2D, object(0xA0, object(0xE3,
			object(0xB6, object(0x30, "800204F0", object(0x81, ascii("dp.example.com")))), "B705800362F210")))},
		step{object(0xBF2D, object(0xA0, object(0x5A, everyday)), "5C03939498"), object(0xBF2D, object(0xA0, "E300"))},
		step{"BF2D035C019F", incorrect},
		step{"BF2D04A0029000", incorrect},
		step{"BF2D02A000", incorrect},
		step{"BF2D04 5A00 5A00", "6A80"},

		step{"BF3C00", object(0xBF3C, object(0x80, ascii("dp.example.com")), object(0x81, ascii("ds.example.com")))},
		step{"BF2E00", "BF2E1280103031323334353637383961626364656 6"},
		step{"BF4300", "BF4315 A013 3011 80020560 A107 3005 8003EEEEEE 82020780"},
		step{"BF2000", object(0xBF20, "8203020202", object(0xA9, object(0x04, ci)), object(0xAA, object(0x04, ci)))},
		step{"BF2200", object(0xBF22, "8103020301 8203020202 8303010000 840F 810105 820400080000 830400004000 85020348 8703020300 88020410",
			object(0xA9, object(0x04, ci)), object(0xAA, object(0x04, ci)), "8B0101 0403010000", object(0x0C, ascii("CB-TEST-0000")))},
		step{"BF2800", "BF2802A000"},
		step{"BF2B00", "BF2B03810101"},

		step{"BF3600", "6A88"},
		step{"", "6A80"},
		step{"BF2D0000", "6A80"},
		step{"BF2D8100", "6A80"},
	)
	assert.Equal(t, before, m.State())
	assert.Zero(t, m.writes)
}

func TestChanges(t *testing.T) {
	const (
		enable  tlv.Tag = 0xBF31
		disable tlv.Tag = 0xBF32
		remove  tlv.Tag = 0xBF33
	)
	ok := func(tag tlv.Tag) string { return object(tag, "800100") }
	code := func(tag tlv.Tag, c string) string { return object(tag, "8001"+c) }
	for name, tt := range map[string]struct {
		steps   []step
		enabled string // afterwards
		changes uint32
	}{
		"disable": {[]step{{byICCID(disable, everyday, "00"), ok(disable)}, {byICCID(disable, everyday, "00"), code(disable, "02")}}, "", 1},
		"disable by AID, as pySim-shell has TRUE": {[]step{{byAID(disable, "0", "01"), ok(disable)}}, "", 1},
		"disable: not found":                      {[]step{{byICCID(disable, absent, "FF"), code(disable, "01")}, {byAID(disable, "9", "FF"), code(disable, "01")}}, everyday, 0},
		"disable: another is enabled":             {[]step{{byICCID(disable, spare, "FF"), code(disable, "02")}}, everyday, 0},
		"enable takes the place":                  {[]step{{byICCID(enable, spare, "FF"), ok(enable)}}, spare, 1},
		"enable: it is":                           {[]step{{byICCID(enable, everyday, "FF"), code(enable, "02")}}, everyday, 0},
		"enable: not found":                       {[]step{{byICCID(enable, absent, "FF"), code(enable, "01")}}, everyday, 0},
		"18 digits without padding":               {[]step{{byICCID(enable, short[:18], "00"), ok(enable)}}, short, 1},
		"PPR1": {[]step{
			{byICCID(enable, kept, "00"), ok(enable)}, {byICCID(disable, kept, "00"), code(disable, "03")},
			{byICCID(enable, everyday, "00"), code(enable, "03")}, {byICCID(enable, tester, "00"), code(enable, "03")},
		}, kept, 1},
		"PPR2":            {[]step{{object(remove, object(0x5A, kept)), code(remove, "03")}}, everyday, 0},
		"delete":          {[]step{{object(remove, object(0x5A, spare)), ok(remove)}, {byICCID(enable, spare, "00"), code(enable, "01")}}, everyday, 1},
		"delete by AID":   {[]step{{object(remove, "4F10A0000005591010FFFFFFFF8900001104"), ok(remove)}}, everyday, 1},
		"delete: enabled": {[]step{{object(remove, object(0x5A, everyday)), code(remove, "02")}}, everyday, 0},
		"delete: absent":  {[]step{{object(remove, object(0x5A, absent)), code(remove, "01")}}, everyday, 0},
		"after a test profile the one of before": {[]step{
			{byICCID(enable, tester, "00"), ok(enable)}, {byICCID(enable, spare, "00"), code(enable, "04")}, {byICCID(enable, everyday, "00"), ok(enable)},
		}, everyday, 2},
		"a test profile disabled": {[]step{
			{byICCID(enable, tester, "00"), ok(enable)}, {byICCID(disable, tester, "00"), ok(disable)}, {byICCID(enable, spare, "00"), ok(enable)},
		}, spare, 3},
		"a test profile after nothing": {[]step{
			{byICCID(disable, everyday, "00"), ok(disable)}, {byICCID(enable, tester, "00"), ok(enable)}, {byICCID(enable, spare, "00"), ok(enable)},
		}, spare, 3},
		"memory reset, test profiles": {[]step{{"BF3404 82020640", ok(0xBF34)}, {"BF3404 82020640", code(0xBF34, "01")}}, everyday, 1},
		"memory reset, all": {[]step{
			{"BF3404 820205E0", ok(0xBF34)}, {object(0xBF2D, "5C015A"), object(0xBF2D, object(0xA0, object(0xE3, "5A0A"+kept)))},
			{"BF3404 820205E0", code(0xBF34, "01")},
		}, "", 1},
		"malformed": {[]step{
			{object(disable, object(0xA0, object(0x5A, everyday))), "6A80"},
			{object(disable, object(0x5A, everyday), "8101FF"), "6A80"},
			{object(disable, object(0xA0, object(0x5A, everyday), object(0x5A, spare)), "8101FF"), "6A80"},
			{object(disable, object(0xA0, object(0x5B, everyday)), "8101FF"), "6A80"},
			{object(disable, object(0xA0, object(0x5A, everyday)), "8102FFFF"), "6A80"},
			{"BF3300", "6A80"}, {"BF3400", "6A80"}, {"BF34028200", "6A80"}, {"BF3403820107", "6A80"}, {"BF3404 82020860", "6A80"},
			{byICCID(disable, everyday+"00", "00"), code(disable, "01")},
		}, everyday, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d, m := newCard(t)
			run(t, d, tt.steps...)
			want := id.ICCID{}
			if tt.enabled != "" {
				want = id.ICCID(unhex(t, tt.enabled))
			}
			assert.Equal(t, want, m.state.enabledICCID())
			assert.Equal(t, tt.changes, m.count)
		})
	}
}

func TestRefreshAndBusy(t *testing.T) {
	for name, request := range map[string]string{
		"enable":       byICCID(0xBF31, spare, "FF"),
		"disable":      byICCID(0xBF32, everyday, "FF"),
		"memory reset": "BF340482020780",
	} {
		t.Run(name, func(t *testing.T) {
			d, m := newCard(t)
			answer, sw, refresh := d.Process(unhex(t, request), true)
			assert.Equal(t, request[:4]+"03800105", strings.ToUpper(hex.EncodeToString(answer)))
			assert.Equal(t, apdu.SWSuccess, sw)
			assert.False(t, refresh)
			assert.Zero(t, m.writes)
			answer, _, refresh = d.Process(unhex(t, request), false)
			assert.Equal(t, request[:4]+"03800100", strings.ToUpper(hex.EncodeToString(answer)))
			assert.True(t, refresh)
		})
	}
	d, _ := newCard(t)
	answer, _, refresh := d.Process(unhex(t, byICCID(0xBF32, everyday, "00")), true)
	assert.Equal(t, unhex(t, "BF3203800100"), answer, "without a refresh a proactive session does not matter")
	assert.False(t, refresh)
	_, _, refresh = d.Process(unhex(t, "BF340482020640"), false)
	assert.False(t, refresh, "the enabled profile is as it was")
}

func TestOptions(t *testing.T) {
	d, m := newCard(t)
	d.Options = Options{RefuseBy69E1: true, SettleByReset: true}
	run(t, d,
		step{object(0xBF33, object(0x5A, kept)), "69E1"},
		step{byICCID(0xBF31, kept, "00"), "BF3103800100"},
		step{"BF2D00", "6985"},
	)
	d.Reset()
	run(t, d,
		step{byICCID(0xBF32, kept, "00"), "69E1"},
		step{byICCID(0xBF31, spare, "00"), "69E1"},
		step{object(0xBF33, object(0x5A, kept)), "BF3303800102"},
	)
	assert.EqualValues(t, 1, m.count)
}

func TestNicknameAndAddress(t *testing.T) {
	d, m := newCard(t)
	name := func(iccid, nickname string) string {
		return object(0xBF29, object(0x5A, iccid), object(0x90, hex.EncodeToString([]byte(nickname))))
	}
	run(t, d,
		step{name(everyday, "Wörkshop"), "BF2903800100"},
		step{name(absent, "x"), "BF2903800101"},
		step{name(spare, ""), "BF2903800100"},
		step{name(everyday, strings.Repeat("x", 65)), "6A80"},
		step{name(everyday, "\xFF"), "6A80"},
		step{object(0xBF29, object(0x5A, everyday)), "6A80"},
		step{object(0xBF3F, object(0x80, ascii("new.example.com"))), "BF3F03800100"},
		step{"BF3C00", object(0xBF3C, object(0x80, ascii("new.example.com")), object(0x81, ascii("ds.example.com")))},
		step{"BF3404 82020520", "BF3403800100"},
		step{"BF3404 82020520", "BF3403800101"},
		step{"BF3F028000", "BF3F03800100"},
		step{"BF3C00", object(0xBF3C, object(0x81, ascii("ds.example.com")))},
		step{"BF3F00", "6A80"},
	)
	assert.Equal(t, "Wörkshop", m.state.Profiles[0].Nickname)
	assert.Empty(t, m.state.Profiles[1].Nickname)
	assert.Zero(t, m.count, "no profile changed its state")
}

func TestNotifications(t *testing.T) {
	d, m := newCard(t)
	note := func(n, event, address, iccid string) string {
		return object(0xBF2F, object(0x80, n), "8102"+event, object(0x0C, ascii(address)), object(0x5A, iccid))
	}
	m.state.Sequence = 126
	off := note("7F", "0520", "dp.example.com", everyday)
	on := note("0080", "0640", "dp2.example.com", spare)
	gone := note("0081", "0410", "dp.example.com", everyday)
	run(t, d,
		step{byICCID(0xBF31, spare, "00"), "BF3103800100"},
		step{object(0xBF33, object(0x5A, everyday)), "BF3303800100"},
		step{object(0xBF33, object(0x5A, tester)), "BF3303800100"}, // which tells nobody
		step{"BF2800", object(0xBF28, object(0xA0, off, on, gone))},
		step{"BF2804 81020400", object(0xBF28, object(0xA0, off, on, gone))},
		step{"BF2804 81020640", object(0xBF28, object(0xA0, on))},
		step{"BF2804 81020430", object(0xBF28, object(0xA0, off, gone))},
		step{"BF2804 81020840", "6A80"},
		step{"BF3003 80017F", "BF3003800100"},
		step{"BF3003 80017F", "BF3003800101"},
		step{"BF3003 800180", "BF3003800100"}, // without the leading zero
		step{"BF3000", "6A80"},
		step{"BF3008 8006010000000000", "6A80"},
		step{"BF2800", object(0xBF28, object(0xA0, gone))},
		step{"BF2B05A0038001 01", "BF2B03810101"},
		step{"BF2B06A00481020640", "BF2B03810101"},
	)
	for _, request := range []string{"BF2B00", "BF2B06A00480020081", "BF2B06A00481020410"} {
		answer, sw, _ := d.Process(unhex(t, request), false)
		require.Equal(t, apdu.SWSuccess, sw)
		verifySigned(t, answer, gone, m.state.EID)
	}
	again, _, _ := d.Process(unhex(t, "BF2B00"), false)
	twice, _, _ := d.Process(unhex(t, "BF2B00"), false)
	assert.Equal(t, again, twice, "a card signs alike each time")
}

// verifySigned checks an answer to RetrieveNotificationsList that has this one
// notification.
func verifySigned(t *testing.T, answer []byte, metadata string, eid id.EID) {
	t.Helper()
	expect := func(b []byte, tag tlv.Tag) (value, rest []byte) {
		value, rest, err := tlv.Expect(b, tag)
		require.NoError(t, err)
		return value, rest
	}
	in, rest := expect(answer, 0xBF2B)
	require.Empty(t, rest)
	in, _ = expect(in, 0xA0)
	in, rest = expect(in, 0x30)
	require.Empty(t, rest)
	o, in, err := tlv.Read(in)
	require.NoError(t, err)
	require.Equal(t, metadata, strings.ToUpper(hex.EncodeToString(o.Raw)))
	signature, in := expect(in, 0x5F37)
	require.Len(t, signature, 64)
	first, in, err := tlv.Read(in)
	require.NoError(t, err)
	second, in, err := tlv.Read(in)
	require.NoError(t, err)
	require.Empty(t, in)
	euicc, err := x509.ParseCertificate(first.Raw)
	require.NoError(t, err)
	eum, err := x509.ParseCertificate(second.Raw)
	require.NoError(t, err)
	require.NoError(t, euicc.CheckSignatureFrom(eum))
	assert.Equal(t, eid.String(), euicc.Subject.SerialNumber)
	assert.Equal(t, testCI().id, eum.AuthorityKeyId)
	digest := sha256.Sum256(o.Raw)
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	assert.True(t, ecdsa.Verify(euicc.PublicKey.(*ecdsa.PublicKey), digest[:], r, s))
}

func TestNotificationsAreBounded(t *testing.T) {
	d, m := newCard(t)
	for i := range 2 * MaxNotifications {
		request := byICCID(0xBF32, everyday, "00")
		if i%2 == 1 {
			request = byICCID(0xBF31, everyday, "00")
		}
		_, sw := d.do(t, request)
		require.Equal(t, apdu.SWSuccess, sw)
	}
	require.Len(t, m.state.Notifications, MaxNotifications)
	assert.EqualValues(t, MaxNotifications+1, m.state.Notifications[0].Sequence)
	answer, sw, _ := d.Process(unhex(t, "BF2B00"), false)
	assert.Equal(t, apdu.SWSuccess, sw)
	in, _, err := tlv.Expect(answer, 0xBF2B)
	require.NoError(t, err)
	_, _, err = tlv.Expect(in, 0xA0)
	assert.NoError(t, err, "all of them fit one answer")
}

func TestMemoryFails(t *testing.T) {
	d, m := newCard(t)
	m.err = errors.New("worn out")
	before := m.State()
	run(t, d,
		step{byICCID(0xBF32, everyday, "FF"), "BF320380017F"},
		step{byICCID(0xBF31, spare, "FF"), "BF310380017F"},
		step{object(0xBF33, object(0x5A, spare)), "BF330380017F"},
		step{object(0xBF3F, "8000"), "BF3F0380017F"},
	)
	assert.Equal(t, before, m.State())
	d.Rand = strings.NewReader("")
	run(t, d, step{"BF2E00", "6581"})
}

func TestTooLong(t *testing.T) {
	d, m := newCard(t)
	for i := range m.state.Profiles {
		m.state.Profiles[i].Name = strings.Repeat("x", 14000)
	}
	run(t, d, step{"BF2D00", "BF2D0381017F"})
}

func TestBlocks(t *testing.T) {
	request := unhex(t, object(0xBF29, object(0x5A, everyday), object(0x90, ascii(strings.Repeat("n", 64)))))
	for size := 1; size <= 255; size++ {
		var b Blocks
		for n, rest := 0, request; len(rest) > 0; n++ {
			part := rest[:min(size, len(rest))]
			rest = rest[len(part):]
			p1 := byte(moreBlocks)
			if len(rest) == 0 {
				p1 = lastBlock
			}
			got, sw := b.Add(p1, byte(n), part)
			require.Equal(t, apdu.SWSuccess, sw)
			if len(rest) == 0 {
				require.Equal(t, request, got, size)
			} else {
				require.Nil(t, got)
			}
		}
		require.Equal(t, Blocks{}, b)
	}

	var b Blocks
	add := func(p1, p2 byte, n int, want apdu.StatusWord) []byte {
		t.Helper()
		got, sw := b.Add(p1, p2, make([]byte, n))
		require.Equal(t, want, sw)
		return got
	}
	add(moreBlocks, 1, 5, apdu.SWIncorrectP1P2)
	add(moreBlocks, 0, 5, apdu.SWSuccess)
	add(moreBlocks, 2, 5, apdu.SWIncorrectP1P2)
	add(moreBlocks, 1, 5, apdu.SWIncorrectP1P2) // it is gone
	add(moreBlocks, 0, 5, apdu.SWSuccess)
	assert.Len(t, add(lastBlock, 0, 7, apdu.SWSuccess), 7, "block 0 begins anew")
	add(0x88, 0, 5, apdu.SWIncorrectP1P2)
	add(lastBlock, 0, 0, apdu.SWWrongLength)
	for n := range 257 { // block numbers begin again after 255
		add(moreBlocks, byte(n), 1, apdu.SWSuccess)
	}
	assert.Len(t, add(lastBlock, 1, 1, apdu.SWSuccess), 258)
	for n := range maxRequest / 255 {
		add(moreBlocks, byte(n), 255, apdu.SWSuccess)
	}
	add(lastBlock, maxRequest/255, 255, swNotEnough)
}

func TestSelectAnswer(t *testing.T) {
	aid := unhex(t, "A0000005591010FFFFFFFF8900000100")
	assert.Equal(t, unhex(t, "6F1F8410A0000005591010FFFFFFFF8900000100A5049F6501FFE0058203020202"), SelectAnswer(aid))
}

// FuzzProcess sends a sequence of requests, each behind its length, and holds the
// memory against what may never be.
func FuzzProcess(f *testing.F) {
	seed := func(requests ...string) {
		var all []byte
		for _, r := range requests {
			b := unhex(f, r)
			all = append(append(all, byte(len(b))), b...)
		}
		f.Add(all, false)
	}
	seed(byICCID(0xBF31, spare, "FF"), byAID(0xBF32, "1", "00"), object(0xBF33, object(0x5A, spare)), "BF2800", "BF2B00", "BF3003800101")
	seed("BF2D00", object(0xBF2D, object(0xA0, object(0x5A, spare)), "5C045A9F7099"), "BF3E035C015A", "BF2E00", "BF2000", "BF2200", "BF3C00", "BF4300")
	seed(object(0xBF29, object(0x5A, spare), object(0x90, ascii("x"))), "BF3404820205E0", "BF3F028000", "BF2D00")
	seed(byICCID(0xBF31, kept, "00"), byICCID(0xBF31, tester, "00"), byICCID(0xBF32, kept, "00"), "BF340482020780")
	f.Fuzz(func(t *testing.T, in []byte, busy bool) {
		d, m := newCard(t)
		for n := 0; len(in) > 0 && n < 20; n++ {
			size := min(int(in[0])+1, len(in))
			request := in[1:size]
			in = in[size:]
			before, writes, count := m.State(), m.writes, m.count
			answer, sw, refresh := d.Process(request, busy)
			if sw != apdu.SWSuccess {
				require.Empty(t, answer)
				require.Equal(t, writes, m.writes)
				continue
			}
			asked, _, err := tlv.Read(request)
			require.NoError(t, err)
			_, rest, err := tlv.Expect(answer, asked.Tag)
			require.NoError(t, err)
			require.Empty(t, rest)
			checkStep(t, before, m.State(), asked.Tag, m.count-count, refresh)
		}
	})
}

func checkStep(t *testing.T, before, after State, function tlv.Tag, changes uint32, refresh bool) {
	on := 0
	for _, p := range after.Profiles {
		if p.Enabled {
			on++
		}
	}
	require.LessOrEqual(t, on, 1)
	require.GreaterOrEqual(t, after.Sequence, before.Sequence)
	require.LessOrEqual(t, len(after.Notifications), MaxNotifications)
	left := map[id.ICCID]Profile{}
	for _, p := range after.Profiles {
		left[p.ICCID] = p
	}
	moved := uint32(0)
	for _, p := range before.Profiles {
		now, there := left[p.ICCID]
		if there && now.Enabled == p.Enabled {
			continue
		}
		moved = 1
		require.Contains(t, []tlv.Tag{0xBF31, 0xBF32, 0xBF33, 0xBF34}, function)
		if function != 0xBF34 {
			require.False(t, !there && p.PPR2, "PPR2")
			require.False(t, p.Enabled && p.PPR1, "PPR1")
		}
	}
	require.Equal(t, moved, changes)
	require.False(t, refresh && changes == 0)
}

func BenchmarkProfilesInfo(b *testing.B) {
	d, _ := newCard(b)
	request := unhex(b, "BF2D00")
	b.ReportAllocs()
	for b.Loop() {
		d.Process(request, false)
	}
}
