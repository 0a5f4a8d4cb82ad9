package rules

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
)

// A plain eUICC is refused unless an allowance of the file is for it; every
// other card goes by the rules alone.
func TestPlainEUICC(t *testing.T) {
	before := head + oneRule // a file of a time when there were no allowances
	for name, tt := range map[string]struct {
		file, by string
		ran      []Result // after the rules
	}{
		"no es10c":      {before, "", []Result{{PlainEUICC, Refuses, notAllowed}}},
		"no allowance":  {before + "es10c: []\n", "", []Result{{PlainEUICC, Refuses, notAllowed}}},
		"false":         {before + "es10c: [{name: a, allow: \"false\"}]\n", "", []Result{{Rule: "a", Outcome: DoesNotApply}, {PlainEUICC, Refuses, notAllowed}}},
		"by its EID":    {before + "es10c: [{name: a, allow: 'card.eid == \"89049032000000000000000000424247\"'}]\n", "a", []Result{{Rule: "a", Outcome: Allows}}},
		"by what it is": {before + "es10c: [{name: a, allow: 'card.management == \"es10c\"'}, {name: b, allow: 'false'}]\n", "a", []Result{{Rule: "a", Outcome: Allows}}},
		"by operator":   {before + "es10c: [{name: a, allow: 'operator.mccmnc == \"26201\"'}, {name: b, allow: '\"meters\" in card.groups'}]\n", "b", []Result{{Rule: "a", Outcome: DoesNotApply}, {Rule: "b", Outcome: Allows}}},
		"it fails":      {before + "es10c: [{name: a, allow: '1 / size(card.groups[1]) == 1'}]\n", "", []Result{{"a", Failed, "allow: index out of bounds: 1"}, {PlainEUICC, Refuses, notAllowed}}},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Parse("f", []byte(tt.file))
			require.NoError(t, err)
			in := allowed(t)
			require.NoError(t, in.EID.UnmarshalText([]byte("89049032000000000000000000424247")))
			assert.Nil(t, set.Evaluate(in).Refusal, "a card with the applet")
			assert.Empty(t, set.Evaluate(in).AllowedBy)
			in.Card.Plain = true
			d := set.Evaluate(in)
			assert.Equal(t, tt.ran, d.Ran[len(set.Rules()):])
			assert.Equal(t, tt.by, d.AllowedBy)
			if tt.by == "" {
				require.NotNil(t, d.Refusal)
				assert.Equal(t, Refusal{PlainEUICC, "8.1.1", "1.2", notAllowed}, *d.Refusal)
				assert.Equal(t, d.Refusal, d.Face)
			} else {
				assert.Nil(t, d.Refusal)
			}
			in.Card.Registered = false
			if d := Default().Evaluate(in); assert.NotNil(t, d.Refusal) {
				assert.Equal(t, CardRegistered, d.Face.Rule, "what it is, is not told to others")
			}
		})
	}
	assert.Empty(t, Default().Allowances())
}

// What wants an approval is refused all the same.
func TestPlainEUICCWithApproval(t *testing.T) {
	in := allowed(t)
	in.Card.Groups, in.Card.Plain = []string{"critical"}, true
	d := Default().Evaluate(in)
	assert.NotNil(t, d.Refusal)
	assert.Nil(t, d.Approval)
	d = changed(t, "es10c: []", "es10c: [{name: a, allow: 'true'}]").Evaluate(in)
	assert.Nil(t, d.Refusal)
	assert.NotNil(t, d.Approval)
}

func TestPlainInput(t *testing.T) {
	in := allowed(t)
	in.EID = id.EID{0x89}.WithCheckDigits()
	in.Card.Plain = true
	b, err := json.Marshal(in)
	require.NoError(t, err)
	back, err := ParseInput(b)
	require.NoError(t, err)
	assert.True(t, back.Card.Plain)
	_, err = ParseInput([]byte(`{` + aRequest + `, "card": {"management": "ES10c", "profiles": []}}`))
	assert.ErrorContains(t, err, "card.management")
}
