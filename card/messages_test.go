package card

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
)

// commandOf is the command whose data are b.
func commandOf(t testing.TB, ins byte, b []byte) Command {
	t.Helper()
	r := reader{rest: b}
	c := Command{INS: ins, RequestID: id.RequestID(r.fixed(0x82, 16)), Operator: id.MCCMNC(r.fixed(0x81, 3))}
	if r.next(0x80) {
		c.ICCID = r.iccid(0x80)
	}
	c.Reason, c.Counter = r.byte(0x83), r.uint32(0x84)
	require.NoError(t, r.end())
	return c
}

func TestVectorAnswers(t *testing.T) {
	for set, s := range vectors.Load(t).Sets {
		w := newWorld(t, set)
		for _, q := range s.Sessions {
			status, err := parseStatus(q.Exchanges[0].ResponseData)
			require.NoError(t, err)
			require.Len(t, status.Profiles, 2)
			assert.Equal(t, Profile{
				ICCID: everyday, Owner: mobile, State: status.Profiles[0].State, Class: Operational,
				Provider: "Operator Eleven", Name: "Everyday", PPR2: true,
			}, status.Profiles[0])
			assert.Equal(t, Profile{
				ICCID: abroad, Owner: foreign, State: Disabled, Class: Provisioning,
				Provider: "Opérateur 310-410", Name: "Abroad", PPR1: true,
			}, status.Profiles[1])
			_, enabled := status.Enabled()
			assert.Equal(t, status.Profiles[0].State == Enabled, enabled)

			e := q.Exchanges[1]
			cmd := commandOf(t, e.HeaderInMAC[1], e.CommandData)
			assert.Equal(t, []byte(e.CommandData), cmd.Data())
			assert.Equal(t, []byte(q.HCInput), append([]byte{cmd.INS}, cmd.Data()...))
			sw := apdu.StatusWord(e.InnerSW[0])<<8 | apdu.StatusWord(e.InnerSW[1])
			ans, err := parseAnswer(nil, w.target, cmd, sw, e.ResponseData)
			require.NoError(t, err)
			assert.Equal(t, []byte(e.Receipt.SignedResponse), ans.Data)
			assert.Equal(t, []byte(e.Receipt.Value), ans.Receipt)
			assert.Equal(t, everyday, *ans.ICCID)
			assert.Equal(t, Disabled, ans.State)
			assert.Equal(t, cryptogram.Suite(s.Suite), ans.Suite)
			assert.Equal(t, sw == apdu.SWSuccess, ans.Result == Done)
			assert.Equal(t, cmd.Counter, status.EventCounter)
			assert.NoError(t, Verify(w.target, cmd, ans.Data, ans.Receipt))
		}
	}
}

func TestNegativeVectors(t *testing.T) {
	f := vectors.Load(t)
	for _, n := range f.Negative {
		if n.InputIs != "answer" {
			continue
		}
		_, q := f.Find(n)
		cmd := commandOf(t, q.HCInput[0], q.HCInput[1:])
		_, err := parseAnswer(nil, newWorld(t, 0).target, cmd, apdu.SWSuccess, n.Input)
		var open *cryptogram.OpenError
		assert.ErrorAs(t, err, &open, n.Name)
		return
	}
	require.Fail(t, "no negative vector of an answer")
}

// The server's side of a session, byte for byte.
func TestVectorSession(t *testing.T) {
	for set, s := range vectors.Load(t).Sets {
		for _, q := range s.Sessions {
			w := newWorld(t, set)
			terminal := w.terminal
			terminal.Rand = bytes.NewReader(bytes.Join([][]byte{q.RS, q.RK, q.M2.EnvelopeKey, q.M2.OAEPSeed}, nil))
			play := &player{t: t, steps: [][2][]byte{
				{q.InternalAuthenticate.Extended, apdu.SWSuccess.Append(bytes.Clone(q.M1.Envelope))},
				{q.ExternalAuthenticate.Extended, {0x90, 0}},
			}}
			for _, e := range q.Exchanges {
				play.steps = append(play.steps, [2][]byte{e.APDU.Extended, e.ResponseAPDU})
			}
			session, err := terminal.Authenticate(t.Context(), apdu.BasicChannel(play), w.target, cryptogram.HashCommand(q.HCInput[0], q.HCInput[1:]))
			require.NoError(t, err)
			status, err := session.Status(t.Context())
			require.NoError(t, err)
			assert.Len(t, status.Profiles, 2)
			out, _, verified, err := session.secured(t.Context(), "DEACTIVATE", INSDeactivate, q.Exchanges[1].CommandData)
			require.NoError(t, err)
			assert.True(t, verified)
			assert.Equal(t, []byte(q.Exchanges[1].ResponseData), out)
			assert.Empty(t, play.steps)
		}
	}
}

func TestSelectAndGetData(t *testing.T) {
	c := vectors.Load(t).Codings
	eid := vectors.Load(t).Sets[0].EID
	ch := func(steps ...[2][]byte) *apdu.Channel { return apdu.BasicChannel(&short{player{t: t, steps: steps}}) }
	ok := func(b []byte) []byte { return apdu.SWSuccess.Append(bytes.Clone(b)) }
	getEID := []byte{0x80, 0xCA, 0, 0x5A, 0}

	applet, err := Select(t.Context(), ch([2][]byte{c.SelectAPDU, ok(c.SelectAnswer)}))
	require.NoError(t, err)
	assert.Equal(t, &Applet{Suites: []byte{1, 3}, MaxCommandData: 0x0800}, applet)
	info, err := ReadInfo(t.Context(), ch([2][]byte{c.CardInfoAPDU, ok(c.CardInfoAnswer)}))
	require.NoError(t, err)
	assert.Equal(t, &Info{EventCounter: 0x101, Failures: []Failures{{1, 3}, {15, 0}}}, info)
	packed := c.EID[eid]
	got, err := ReadEID(t.Context(), ch([2][]byte{c.SelectAPDU, ok(c.SelectAnswer)}, [2][]byte{getEID, ok(tlv.Append(nil, 0x5A, packed...))}))
	require.NoError(t, err)
	assert.Equal(t, eid, got.String())

	for i := range c.SelectAnswer {
		_, err := Select(t.Context(), ch([2][]byte{c.SelectAPDU, ok(c.SelectAnswer[:i])}))
		assert.ErrorIs(t, err, ErrMalformed, "cut after %d bytes", i)
	}
	for i := range c.CardInfoAnswer {
		_, err := ReadInfo(t.Context(), ch([2][]byte{c.CardInfoAPDU, ok(c.CardInfoAnswer[:i])}))
		assert.ErrorIs(t, err, ErrMalformed, "cut after %d bytes", i)
	}
	for _, bad := range [][]byte{
		append(bytes.Clone(c.SelectAnswer), 0),
		bytes.Replace(c.SelectAnswer, []byte("bridge"), []byte("BRIDGE"), 1),
		bytes.Replace(c.SelectAnswer, []byte{0x80, 1, 1}, []byte{0x80, 1, 2}, 1),
	} {
		_, err := Select(t.Context(), ch([2][]byte{c.SelectAPDU, ok(bad)}))
		assert.ErrorIs(t, err, ErrMalformed, "%X", bad)
	}
	// What is told of a liar's sets goes into texts and onto the record.
	list := append([]byte{0xE1, 56, 0x80, 4, 0, 0, 0, 0, 0x81, 48}, bytes.Repeat([]byte{1, 0, 0}, 16)...)
	_, err = ReadInfo(t.Context(), ch([2][]byte{c.CardInfoAPDU, ok(list)}))
	assert.ErrorIs(t, err, ErrMalformed, "sixteen sets of fifteen")
	list[1], list[9] = 53, 45
	info, err = ReadInfo(t.Context(), ch([2][]byte{c.CardInfoAPDU, ok(list[:len(list)-3])}))
	require.NoError(t, err)
	assert.Len(t, info.Failures, 15, "one set, again and again, is one set")
	_, err = ReadInfo(t.Context(), ch([2][]byte{c.CardInfoAPDU, ok([]byte{0xE1, 9, 0x80, 4, 0, 0, 0, 0, 0x81, 1, 1})}))
	assert.ErrorIs(t, err, ErrMalformed, "half a pair")
	for _, bad := range [][]byte{nil, packed, tlv.Append(nil, 0x5A, packed[1:]...), tlv.Append(nil, 0x5B, packed...), append(tlv.Append(nil, 0x5A, packed...), 0), tlv.Append(nil, 0x5A, make([]byte, 16)...)} {
		_, err := ReadEID(t.Context(), ch([2][]byte{c.SelectAPDU, ok(c.SelectAnswer)}, [2][]byte{getEID, ok(bad)}))
		assert.ErrorIs(t, err, ErrMalformed, "%X", bad)
	}
	_, err = Select(t.Context(), ch([2][]byte{c.SelectAPDU, {0x6A, 0x82}}))
	var refused *apdu.Error
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "SELECT", refused.Op)
}

func TestStatusMalformed(t *testing.T) {
	good := statusData(Enabled, 7)
	_, err := parseStatus(good)
	require.NoError(t, err)
	none, err := parseStatus([]byte{0x94, 4, 0, 0, 0, 9})
	require.NoError(t, err)
	assert.Equal(t, &Status{EventCounter: 9}, none)
	for i := range good {
		_, err := parseStatus(good[:i])
		assert.ErrorIs(t, err, ErrMalformed, "cut after %d bytes", i)
	}
	change := func(old, new string) []byte {
		out := bytes.Replace(good, []byte(old), []byte(new), 1)
		require.NotEqual(t, good, out)
		return out
	}
	profile := func(n int, b ...byte) []byte { // n times the profile, then 94
		e3 := good[:len(good)-6]
		return append(append(bytes.Repeat(e3, n), b...), good[len(good)-6:]...)
	}
	for name, bad := range map[string][]byte{
		"something behind":   append(bytes.Clone(good), 0x90, 0),
		"a state of 02":      change("\x9F\x70\x01\x01", "\x9F\x70\x01\x02"),
		"a class of 03":      change("\x95\x01\x02", "\x95\x01\x03"),
		"not UTF-8":          change("Everyday", "Everyd\xFFy"),
		"fallback 02":        change("\xDF\x01\x01\x00", "\xDF\x01\x01\x02"),
		"order":              change("\x91\x0FOperator Eleven\x92\x08Everyday", "\x92\x08Everyday\x91\x0FOperator Eleven"),
		"owner not digits":   change("\x80\x03\x64\xF0\x11", "\x80\x03\x64\xA0\x11"),
		"ICCID not digits":   change(string(everyday[:2]), "\xFF\xFF"),
		"no BIT STRING":      change("\x99\x01\x00", "\x99\x01\x08"),
		"unused of nothing":  change("\x99\x01\x00", "\x99\x01\x06"),
		"the same twice":     profile(2),
		"more than bounded":  profile(maxProfiles + 1),
		"another object":     profile(1, 0x85, 0),
		"a counter of three": append(good[:len(good)-6:len(good)-6], 0x94, 3, 0, 0, 0),
	} {
		_, err := parseStatus(bad)
		assert.ErrorIs(t, err, ErrMalformed, name)
	}
}

func TestPolicyRules(t *testing.T) {
	for name, b := range vectors.Load(t).Codings.PolicyRules {
		r := reader{rest: tlv.Append(nil, 0x99, b...)}
		ppr1, ppr2 := r.policy(0x99)
		require.NoError(t, r.end())
		assert.Equal(t, strings.Contains(name, "ppr1"), ppr1, name)
		assert.Equal(t, strings.Contains(name, "ppr2"), ppr2, name)
	}
}

func TestCommandData(t *testing.T) {
	c := deactivate()
	assert.Len(t, c.Data(), 18+5+12+3+6)
	c.ICCID = nil
	assert.Equal(t, commandOf(t, INSDeactivate, c.Data()), c)
}

func recordJSONOf(t testing.TB, w *world) map[string]any {
	t.Helper()
	public, err := cryptogram.EncodePublic(w.target.Keys)
	require.NoError(t, err)
	return map[string]any{
		"eid": w.target.EID, "keys": public, "suites": []int{1}, "policy": map[string]any{"require_triple": false},
		"profiles": []map[string]any{{
			"iccid": everyday, "mccmnc": "46011", "state": "enabled", "class": "operational",
			"provider": "Operator Eleven", "name": "Everyday", "ppr1": false, "ppr2": true, "fallback": false,
		}},
		"event_counter": 7,
	}
}

func TestRecord(t *testing.T) {
	w := newWorld(t, 1)
	j := recordJSONOf(t, w)
	j["suites"] = []int{1, 3}
	b, err := json.Marshal(j)
	require.NoError(t, err)
	r, err := ParseRecord(b)
	require.NoError(t, err)
	assert.Equal(t, uint32(7), r.EventCounter)
	p, ok := r.Profile(everyday)
	assert.True(t, ok)
	assert.Equal(t, Profile{ICCID: everyday, Owner: mobile, State: Enabled, Class: Operational, Provider: "Operator Eleven", Name: "Everyday", PPR2: true}, p)
	_, ok = r.Profile(reserve)
	assert.False(t, ok)
	assert.Equal(t, cryptogram.Suite01, r.Target().Suite)
	r.RequireTriple = true
	assert.Equal(t, cryptogram.Suite03, r.Target().Suite)
	r.RequireTriple, r.Suites = false, []cryptogram.Suite{cryptogram.Suite03}
	assert.Equal(t, cryptogram.Suite03, r.Target().Suite)
	back, err := json.Marshal(r)
	require.NoError(t, err)
	again, err := ParseRecord(back)
	require.NoError(t, err)
	assert.Equal(t, r, again)

	j["runtime"] = map[string]any{"anything": 1}
	b, err = json.Marshal(j)
	require.NoError(t, err)
	_, err = ParseRecord(b)
	assert.NoError(t, err, "an emulator's member is ignored")
}

func TestRecordMalformed(t *testing.T) {
	w := newWorld(t, 0)
	profile := func(j map[string]any) map[string]any { return j["profiles"].([]map[string]any)[0] }
	with := func(j map[string]any, key string, v any) map[string]any {
		p := map[string]any{}
		for k, v := range profile(j) {
			p[k] = v
		}
		p[key] = v
		return p
	}
	for name, spoil := range map[string]func(map[string]any){
		"no EID":                func(j map[string]any) { delete(j, "eid") },
		"EID":                   func(j map[string]any) { j["eid"] = "89049032000000000000000000424248" },
		"no keys":               func(j map[string]any) { delete(j, "keys") },
		"private keys":          func(j map[string]any) { j["keys"] = w.pem.card },
		"no suites":             func(j map[string]any) { j["suites"] = []int{} },
		"suite 2":               func(j map[string]any) { j["suites"] = []int{2} },
		"suite 257":             func(j map[string]any) { j["suites"] = []int{257} },
		"suite -255":            func(j map[string]any) { j["suites"] = []int{-255} },
		"suite 03 with one key": func(j map[string]any) { j["suites"] = []int{1, 3} },
		"suite 01 twice":        func(j map[string]any) { j["suites"] = []int{1, 1} },
		"triple without suite":  func(j map[string]any) { j["policy"] = map[string]any{"require_triple": true} },
		"unknown member":        func(j map[string]any) { j["pin"] = 1 },
		"server_keysets":        func(j map[string]any) { j["server_keysets"] = []int{} },
		"counter":               func(j map[string]any) { j["event_counter"] = -1 },
		"counter of 33 bits":    func(j map[string]any) { j["event_counter"] = int64(1) << 32 },
		"state":                 func(j map[string]any) { profile(j)["state"] = "on" },
		"class":                 func(j map[string]any) { profile(j)["class"] = "vip" },
		"ICCID":                 func(j map[string]any) { profile(j)["iccid"] = "1" },
		"no ICCID":              func(j map[string]any) { delete(profile(j), "iccid") },
		"MCCMNC":                func(j map[string]any) { profile(j)["mccmnc"] = "1" },
		"no MCCMNC":             func(j map[string]any) { delete(profile(j), "mccmnc") },
		"unknown member inside": func(j map[string]any) { profile(j)["ppr3"] = true },
		"profile twice":         func(j map[string]any) { j["profiles"] = []any{profile(j), profile(j)} },
		"two enabled":           func(j map[string]any) { j["profiles"] = []any{profile(j), with(j, "iccid", abroad)} },
		"two fallbacks": func(j map[string]any) {
			profile(j)["fallback"] = true
			second := with(j, "iccid", abroad)
			second["state"] = "disabled"
			j["profiles"] = []any{profile(j), second}
		},
	} {
		j := recordJSONOf(t, w)
		spoil(j)
		b, err := json.Marshal(j)
		require.NoError(t, err)
		_, err = ParseRecord(b)
		assert.ErrorIs(t, err, ErrRecord, name)
		assert.NotContains(t, err.Error(), "BEGIN", name)
	}
	for _, b := range [][]byte{nil, []byte("{"), []byte("null"), []byte("[]"), []byte("{}{}"), bytes.Repeat([]byte(" "), maxRecord+1)} {
		_, err := ParseRecord(b)
		assert.ErrorIs(t, err, ErrRecord)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x94, 4, 0, 0, 0, 9})
	f.Add(statusData(Enabled, 7))
	f.Add([]byte(vectors.Load(f).Sets[0].Sessions[0].Exchanges[0].ResponseData))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStatus(b)
		if err != nil {
			assert.ErrorIs(t, err, ErrMalformed)
			return
		}
		assert.NoError(t, checkProfiles(s.Profiles))
	})
}

// No bytes but the card's own are an answer.
func FuzzParseAnswer(f *testing.F) {
	w := newWorld(f, 0)
	q := vectors.Load(f).Sets[0].Sessions[0]
	cmd := commandOf(f, q.HCInput[0], q.HCInput[1:])
	good := []byte(q.Exchanges[1].ResponseData)
	f.Add(good)
	f.Add([]byte{})
	f.Add(done().bytes())
	f.Add(append(done().bytes(), 0x9E, 0))
	for _, n := range vectors.Load(f).Negative {
		if n.InputIs == "answer" {
			f.Add([]byte(n.Input))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseAnswer(nil, w.target, cmd, apdu.SWSuccess, b); err == nil {
			assert.Equal(t, good, b, "a forgery")
		}
		if body, err := parseAnswerBody(b); err != nil {
			assert.ErrorIs(t, err, ErrMalformed)
		} else {
			assert.Equal(t, b, body.Data)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	b, err := json.Marshal(recordJSONOf(f, newWorld(f, 0)))
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"eid":"89049032000000000000000000424247","suites":[1],"profiles":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			assert.ErrorIs(t, err, ErrRecord)
			return
		}
		out, err := json.Marshal(r)
		require.NoError(t, err)
		_, err = ParseRecord(out)
		assert.NoError(t, err)
	})
}
