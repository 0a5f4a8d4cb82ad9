package appletsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

// tree is the test image as generic JSON, to bend.
func tree(t testing.TB) map[string]any {
	b, err := testImage(t).Marshal()
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, json.Unmarshal(b, &v))
	return v
}

func TestParseImage(t *testing.T) {
	want := testImage(t)
	want.Runtime = &Runtime{
		Answers:  []StoredAnswer{{Hash: make(Hex, 32), Response: unhex("9001009E0101")}},
		Failures: []Failures{{KID: 15, Count: 65535}},
	}
	b, err := want.Marshal()
	require.NoError(t, err)
	got, err := ParseImage(b)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	again, err := got.Marshal()
	require.NoError(t, err)
	assert.Equal(t, string(b), string(again))
	assert.Contains(t, string(b), `"provider": "Opérateur 310-410"`)
	assert.Contains(t, string(b), `"eid": "89049032000000000000000000424247"`)
}

func TestParseImageLeast(t *testing.T) {
	v := tree(t)
	delete(v, "policy")
	v["profiles"] = []any{}
	b, err := json.Marshal(v)
	require.NoError(t, err)
	im, err := ParseImage(b)
	require.NoError(t, err)
	m := newTerminal(t, newCard(t, im))
	m.authenticate(1, 0, nil)
	data, _ := m.secured(insGetStatus, nil)
	assert.Equal(t, "940400000100", hexBytes(data))
}

func TestParseImageErrors(t *testing.T) {
	type object = map[string]any
	profile := func(v object, i int) object { return v["profiles"].([]any)[i].(object) }
	keys := func(v object) object { return v["keys"].(object) }
	auth := func(v object) []any { return keys(v)["auth"].([]any) }
	keySet := func(v object, i int) object { return v["server_keysets"].([]any)[i].(object) }
	answer := func() object {
		return object{"request_id": strings.Repeat("00", 16), "hash": strings.Repeat("00", 32), "response": "9001009E0101"}
	}
	with := func(a object, name string, value any) object { a[name] = value; return a }
	runtime := func(answers ...any) func(object) {
		return func(v object) { v["runtime"] = object{"by": runtimeMark, "answers": answers} }
	}
	failures := func(counts ...any) func(object) {
		return func(v object) { v["runtime"] = object{"by": runtimeMark, "failures": counts} }
	}
	for name, bend := range map[string]func(v object){
		"unknown member":             func(v object) { v["x"] = 1 },
		"member in other letters":    func(v object) { v["EID"] = v["eid"]; delete(v, "eid") },
		"unknown member of keys":     func(v object) { keys(v)["x"] = 1 },
		"unknown member of policy":   func(v object) { v["policy"] = object{"x": true} },
		"unknown member of profile":  func(v object) { profile(v, 1)["x"] = 1 },
		"unknown member of key set":  func(v object) { keySet(v, 1)["x"] = 1 },
		"unknown member of runtime":  func(v object) { v["runtime"] = object{"by": runtimeMark, "x": 1} },
		"eid missing":                func(v object) { delete(v, "eid") },
		"eid null":                   func(v object) { v["eid"] = nil },
		"eid check digits":           func(v object) { v["eid"] = "89049032000000000000000000424248" },
		"eid short":                  func(v object) { v["eid"] = "8904" },
		"eid not decimal":            func(v object) { v["eid"] = strings.Repeat("A", 32) },
		"eid a number":               func(v object) { v["eid"] = 8904 },
		"keys missing":               func(v object) { delete(v, "keys") },
		"no auth key":                func(v object) { keys(v)["auth"] = []any{} },
		"two auth keys":              func(v object) { keys(v)["auth"] = auth(v)[:2] },
		"four auth keys":             func(v object) { keys(v)["auth"] = append(auth(v), auth(v)[0]) },
		"auth keys unordered":        func(v object) { a := auth(v); a[0], a[1] = a[1], a[0] },
		"auth key twice":             func(v object) { a := auth(v); a[1] = a[0] },
		"auth key not PEM":           func(v object) { auth(v)[2] = "x" },
		"auth key public":            func(v object) { auth(v)[2] = keySet(v, 0)["enc"] },
		"auth keys of two lengths":   func(v object) { auth(v)[2] = vectors.Load(t).Keys["server-enc-3072"] },
		"enc key missing":            func(v object) { delete(keys(v), "enc") },
		"enc key small":              func(v object) { keys(v)["enc"] = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n" },
		"key sets missing":           func(v object) { delete(v, "server_keysets") },
		"kid 0":                      func(v object) { keySet(v, 0)["id"] = 0 },
		"kid 16":                     func(v object) { keySet(v, 0)["id"] = 16 },
		"kid 257":                    func(v object) { keySet(v, 0)["id"] = 257 },
		"kid twice":                  func(v object) { keySet(v, 0)["id"] = 15 },
		"key set private":            func(v object) { keySet(v, 0)["enc"] = keys(v)["enc"] },
		"too many key sets":          func(v object) { v["server_keysets"] = make([]any, maxKeySets+1) },
		"suites missing":             func(v object) { delete(v, "suites") },
		"suite 2":                    func(v object) { v["suites"] = []any{1, 2} },
		"suite twice":                func(v object) { v["suites"] = []any{1, 1} },
		"suite 3 with one key":       func(v object) { keys(v)["auth"] = auth(v)[:1] },
		"suite as text":              func(v object) { v["suites"] = "AQM=" },
		"counter negative":           func(v object) { v["event_counter"] = -1 },
		"counter too large":          func(v object) { v["event_counter"] = 1 << 32 },
		"two enabled":                func(v object) { profile(v, 1)["state"] = "enabled" },
		"two with fallback":          func(v object) { profile(v, 0)["fallback"], profile(v, 1)["fallback"] = true, true },
		"iccid twice":                func(v object) { profile(v, 1)["iccid"] = profile(v, 0)["iccid"] },
		"iccid missing":              func(v object) { delete(profile(v, 1), "iccid") },
		"iccid short":                func(v object) { profile(v, 1)["iccid"] = "8986" },
		"iccid with F":               func(v object) { profile(v, 1)["iccid"] = "8986000000000000000F" },
		"mccmnc missing":             func(v object) { delete(profile(v, 1), "mccmnc") },
		"mccmnc short":               func(v object) { profile(v, 1)["mccmnc"] = "4601" },
		"state missing":              func(v object) { delete(profile(v, 1), "state") },
		"state unknown":              func(v object) { profile(v, 1)["state"] = "active" },
		"class missing":              func(v object) { delete(profile(v, 1), "class") },
		"class unknown":              func(v object) { profile(v, 1)["class"] = "2" },
		"name too long":              func(v object) { profile(v, 1)["name"] = strings.Repeat("x", maxName+1) },
		"provider too long":          func(v object) { profile(v, 1)["provider"] = strings.Repeat("x", maxName+1) },
		"too many profiles":          func(v object) { v["profiles"] = make([]any, maxProfiles+1) },
		"answer: hash":               runtime(with(answer(), "hash", "00")),
		"answer: not hexadecimal":    runtime(with(answer(), "hash", "XX")),
		"answer: request id":         runtime(with(answer(), "request_id", "00")),
		"answer: no response":        runtime(with(answer(), "response", "")),
		"answer: result 01":          runtime(with(answer(), "response", "9001019E0101")),
		"answer: no receipt":         runtime(with(answer(), "response", "900100")),
		"answer: not TLV":            runtime(with(answer(), "response", "9001009E02")),
		"answer: long":               runtime(with(answer(), "response", "900100"+"9E820300"+strings.Repeat("00", 0x300))),
		"answer: twice":              runtime(answer(), answer()),
		"answers: too many":          runtime(make([]any, maxAnswers+1)...),
		"failures: unknown key set":  failures(object{"id": 2, "count": 1}),
		"failures: key set twice":    failures(object{"id": 1, "count": 1}, object{"id": 1, "count": 2}),
		"failures: count too large":  failures(object{"id": 1, "count": 65536}),
		"failures: member not known": failures(object{"id": 1, "counts": 1}),
	} {
		t.Run(name, func(t *testing.T) {
			v := tree(t)
			bend(v)
			b, err := json.Marshal(v)
			require.NoError(t, err)
			_, err = ParseImage(b)
			require.ErrorIs(t, err, ErrImage)
			assert.NotContains(t, err.Error(), "BEGIN")
			assert.Less(t, len(err.Error()), 300)
		})
	}
	whole, err := testImage(t).Marshal()
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"empty":       nil,
		"null":        []byte("null"),
		"array":       []byte("[]"),
		"two values":  append(bytes.Clone(whole), whole...),
		"cut":         whole[:len(whole)-3],
		"not UTF-8":   bytes.Replace(whole, []byte("Everyday"), []byte("Every\xFFay"), 1),
		"much spaced": append(bytes.Clone(whole), bytes.Repeat([]byte(" "), maxImage)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseImage(b)
			assert.ErrorIs(t, err, ErrImage)
		})
	}
}

// TestNewCopies: neither what New was given nor what Image gives is the card's.
func TestNewCopies(t *testing.T) {
	im := testImage(t)
	c := newCard(t, im)
	for _, mine := range []*Image{im, c.Image()} {
		mine.Profiles[0].State = Disabled
		mine.Suites[0] = 7
		mine.ServerKeySets[0].Auth[0] = ""
		mine.EventCounter = 0
	}
	assert.Equal(t, testImage(t), c.Image())
}

func TestImagePrintsNoKeys(t *testing.T) {
	im := testImage(t)
	assert.Equal(t, "card image 89049032000000000000000000424247", fmt.Sprintf("%v", im))
	assert.NotContains(t, fmt.Sprintf("%+v %#v", im, im), "PRIVATE")
}

func TestNewChecks(t *testing.T) {
	_, err := New(&Image{})
	assert.ErrorIs(t, err, ErrImage)
	im := testImage(t)
	im.Suites = []int{int(cryptogram.Suite01), 5}
	_, err = New(im)
	assert.ErrorIs(t, err, ErrImage)
	im = testImage(t)
	im.Profiles[0].ICCID[0] = 0xFF
	_, err = New(im)
	assert.ErrorIs(t, err, ErrImage)
}

// A card that ran in another emulator starts here with nothing stored (§9).
func TestForeignRuntimeIsIgnored(t *testing.T) {
	b, err := testImage(t).Marshal()
	require.NoError(t, err)
	for _, runtime := range []string{`{"answers": [1], "x": "y"}`, `"gone"`, `[]`, `{"by": "somebody else", "answers": 1}`} {
		var v map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(b, &v))
		v["runtime"] = json.RawMessage(runtime)
		foreign, err := json.Marshal(v)
		require.NoError(t, err)
		im, err := ParseImage(foreign)
		require.NoError(t, err, runtime)
		assert.Empty(t, im.Runtime.Answers)
		assert.Empty(t, im.Runtime.Failures)
	}
}

// A card that no server is known to takes nobody's authentication.
func TestNoServerKeySets(t *testing.T) {
	im := testImage(t)
	im.ServerKeySets = []cryptogram.KeySetPEM{}
	c := newCard(t, im)
	run(t, c, step{selectApplet, "…9000"}, step{"0088010110" + strings.Repeat("00", 16), "6A88"})
}
