package rules

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
)

const aRequest = `"request":{"eid":"89049032000000000000000000424247"}`

func TestParseInput(t *testing.T) {
	in, err := ParseInput([]byte("{" + aRequest + "}"))
	require.NoError(t, err)
	eid, err := id.ParseEID("89049032000000000000000000424247")
	require.NoError(t, err)
	assert.Equal(t, &Input{EID: eid}, in)

	in, err = ParseInput([]byte(`{` + aRequest + `, "operator": {"mccmnc": "46011"}, "card": {"profiles": [{"iccid": "89860000000000000018", "mccmnc": "46011", "state": "disabled"}]}}`))
	require.NoError(t, err)
	assert.True(t, in.Card.Registered, "as it mostly is")
	assert.Equal(t, []Profile{{ICCID: iccid(t, "89860000000000000018"), Owner: plmn(t, "46011"), DisableAllowed: true}}, in.Card.Profiles)
}

// What an audit trail has of an input is that input.
func TestInputRoundTrip(t *testing.T) {
	request, err := id.ParseRequestID("00112233445566778899aabbccddeeff")
	require.NoError(t, err)
	in := allowed(t)
	in.Request, in.LeaveUnconnected = &request, true
	in.EID = id.EID{0x89}.WithCheckDigits()
	in.History = History{Operator: Counts{1, 2, 3, 4, 5, 6}, Groups: map[string]Counts{"meters": {Asked: 7}}}
	in.Card.Registered, in.Card.Unsettled, in.Card.EventCounter = false, true, 0xFFFFFFFF
	in.Card.RegisteredAt = time.Date(2025, 1, 1, 0, 0, 0, 1, time.UTC)
	p := &in.Card.Profiles[1]
	p.DisableAllowed, p.PPR1, p.PPR2, p.Fallback, p.Class, p.Provider, p.Name = false, true, true, true, "operational", "p", "ñ"
	for _, in := range []*Input{in, {EID: in.EID}, {EID: in.EID, Operator: in.Operator, Card: &Card{Profiles: []Profile{}}}} {
		b, err := json.Marshal(in)
		require.NoError(t, err)
		back, err := ParseInput(b)
		require.NoError(t, err, "%s", b)
		if in.Card != nil && len(in.Card.Profiles) == 0 {
			in.Card.Profiles = nil
		}
		assert.Equal(t, in, back, "%s", b)
	}
}

func TestInputErrors(t *testing.T) {
	profile := func(members string) string {
		return `{` + aRequest + `, "card": {"profiles": [{"iccid": "89860000000000000018", "mccmnc": "46011", "state": "enabled"}, {` + members + `}]}}`
	}
	for _, tt := range []struct{ text, want string }{
		{``, "line 1: unexpected EOF"},
		{`null`, "request is missing"},
		{`[]`, "a [ where an object is wanted"},
		{`{}`, "request is missing"},
		{`{"request":{}}`, "request.eid is missing"},
		{`{"request":{"eid":null}}`, "request.eid is missing"},
		{`{"request":{"eid":7}}`, "request.eid: a number where a text is wanted"},
		{`{"request":{"eid":"7"}}`, `request.eid: invalid identifier: EID "7"`},
		{`{"request":{"eid":"89049032000000000000000000424248"}}`, "request.eid: invalid identifier: EID 89049032000000000000000000424248 has wrong check digits"},
		{`{` + aRequest + `,` + aRequest + `}`, "line 1: request: duplicate object member name"},
		{"{\n" + aRequest + "}\nx", "line 3: invalid character 'x'"},
		{"{\n\"request\": {,", "line 2: request: invalid character ','"},
		{`{` + aRequest + `,"Card":{}}`, "Card: no such member"},
		{`{"request":{"eid":"89049032000000000000000000424247","resaon":1}}`, "request.resaon: no such member"},
		{`{"request":{"eid":"89049032000000000000000000424247","reason":256}}`, "request.reason: a number where a whole number, 0 to 255, is wanted"},
		{`{"request":{"eid":"89049032000000000000000000424247","reason":"1"}}`, "request.reason: a string where a whole number, 0 to 255, is wanted"},
		{`{"request":{"eid":"89049032000000000000000000424247","leave_unconnected":1}}`, "request.leave_unconnected: a number where true or false is wanted"},
		{`{"request":{"eid":"89049032000000000000000000424247","iccid":""}}`, "request.iccid: invalid identifier"},
		{`{` + aRequest + `,"operator":{}}`, "operator.mccmnc is missing"},
		{`{` + aRequest + `,"operator":{"mccmnc":"4601"}}`, `operator.mccmnc: invalid identifier: MCCMNC "4601"`},
		{`{` + aRequest + `,"card":{"profiles":{}}}`, "card.profiles: a { where an array is wanted"},
		{`{` + aRequest + `,"card":{"known":true}}`, "card.known: no such member"},
		{`{` + aRequest + `,"card":{"groups":[1]}}`, "card.groups.0: a number where a text is wanted"},
		{`{` + aRequest + `,"card":{"event_counter":-1}}`, "card.event_counter: a number where a whole number is wanted"},
		{`{` + aRequest + `,"history":{"groups":{"a":{"max":1.5}}}}`, "history.groups.a.max: a number where a whole number is wanted"},
		{`{` + aRequest + `,"now":"yesterday"}`, `now: parsing time "yesterday"`},
		{`{` + aRequest + `,"now":5}`, "now: a number where a text is wanted"},
		{profile(`"mccmnc": "46011", "state": "enabled"`), "card.profiles.1.iccid is missing"},
		{profile(`"iccid": "89860000000000000018", "state": "enabled"`), "card.profiles.1.mccmnc is missing"},
		{profile(`"iccid": "89860000000000000018", "mccmnc": "46011"`), `card.profiles.1.state: "" is none of enabled, disabled, absent`},
		{profile(`"iccid": "89860000000000000018", "mccmnc": "46011", "state": "on"`), `card.profiles.1.state: "on" is none of`},
		{profile(`"iccid": "8986"`), "card.profiles.1.iccid: invalid identifier"},
		{profile(`"iccid": "89860000000000000018", "mccmnc": "46011", "state": "enabled", "disable_allowed": "no"`), "card.profiles.1.disable_allowed: a string where true or false is wanted"},
		{`{` + aRequest + `,"` + strings.Repeat("x", 5000) + `":1}`, "no such member"},
		{strings.Repeat(" ", MaxInput+1), "1048577 bytes, at most 1048576"},
		{strings.Repeat("[", 100_000), "a [ where an object is wanted"},
	} {
		in, err := ParseInput([]byte(tt.text))
		require.Error(t, err, "%.200s", tt.text)
		assert.Nil(t, in)
		assert.Contains(t, err.Error(), tt.want, "%.200s", tt.text)
		assert.Less(t, len(err.Error()), 400)
	}
}
