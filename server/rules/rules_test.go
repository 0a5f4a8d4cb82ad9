package rules

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
)

func iccid(t testing.TB, s string) id.ICCID {
	c, err := id.ParseICCID(s)
	require.NoError(t, err)
	return c
}

func plmn(t testing.TB, s string) id.MCCMNC {
	m, err := id.ParseMCCMNC(s)
	require.NoError(t, err)
	return m
}

func TestDefault(t *testing.T) {
	mine, other, foreign, gone := iccid(t, "89860000000000000018"), iccid(t, "89860000000000000026"), iccid(t, "89860000000000000034"), iccid(t, "89860000000000000042")
	nobodys := iccid(t, "89860000000000000059")
	a, b, c := plmn(t, "46011"), plmn(t, "26201"), plmn(t, "00101")
	card := func(change ...func(*Card)) *Card {
		out := &Card{Registered: true, Profiles: []Profile{
			{ICCID: mine, Owner: a, Enabled: true, DisableAllowed: true},
			{ICCID: other, Owner: a, DisableAllowed: true},
			{ICCID: foreign, Owner: b, DisableAllowed: true},
			{ICCID: gone, Owner: a, Absent: true, DisableAllowed: true},
		}}
		for _, f := range change {
			f(out)
		}
		return out
	}
	pol2 := func(c *Card) { c.Profiles[0].DisableAllowed = false }
	unregistered := func(c *Card) { c.Registered = false }
	foreignEnabled := func(c *Card) { c.Profiles[0].Enabled, c.Profiles[2].Enabled = false, true }
	noneOn := func(c *Card) { c.Profiles[0].Enabled = false }
	op := func(m id.MCCMNC) *Operator { return &Operator{Name: "op", MCCMNC: m} }

	for _, tt := range []struct {
		name  string
		in    Input
		rule  string // that refuses, "" for none
		code  string // as the operator reads it
		face  string // the rule that the operator reads
		iccid *id.ICCID
	}{
		{"allowed", Input{Operator: op(a), ICCID: &mine, Card: card()}, "", "", "", &mine},
		{"allowed, the enabled one", Input{Operator: op(a), Card: card()}, "", "", "", &mine},
		{"nobody", Input{ICCID: &mine, Card: card()}, OperatorKnown, "1.1/1.2", OperatorKnown, &mine},
		{"unknown card", Input{Operator: op(a), ICCID: &mine}, CardRegistered, "8.1.1/1.1", CardRegistered, &mine},
		{"registered by others", Input{Operator: op(a), ICCID: &mine, Card: card(unregistered)}, CardRegistered, "8.1.1/1.1", CardRegistered, &mine},
		{"registered by others, no profile named", Input{Operator: op(a), Card: card(unregistered)}, CardRegistered, "8.1.1/1.1", CardRegistered, nil},
		{"unknown card, no profile named", Input{Operator: op(a)}, CardRegistered, "8.1.1/1.1", CardRegistered, nil},
		{"unknown profile", Input{Operator: op(a), ICCID: &nobodys, Card: card()}, ProfileKnown, "8.2.1/3.9", ProfileKnown, &nobodys},
		{"profile that left the card", Input{Operator: op(a), ICCID: &gone, Card: card()}, ProfileKnown, "8.2.1/3.9", ProfileKnown, &gone},
		{"another's profile", Input{Operator: op(a), ICCID: &foreign, Card: card()}, ProfileOwned, "8.2.1/3.9", ProfileKnown, &foreign},
		{"another's card", Input{Operator: op(c), ICCID: &mine, Card: card()}, ProfileOwned, "8.1.1/1.1", CardRegistered, &mine},
		{"another's card, unknown profile", Input{Operator: op(c), ICCID: &nobodys, Card: card()}, ProfileOwned, "8.1.1/1.1", CardRegistered, &nobodys},
		{"another's card, no profile named", Input{Operator: op(c), Card: card()}, ProfileOwned, "8.1.1/1.1", CardRegistered, nil},
		{"another's is enabled", Input{Operator: op(a), Card: card(foreignEnabled)}, ProfileOwned, "8.2.1/1.2", ProfileEnabled, nil},
		{"none is enabled", Input{Operator: op(a), Card: card(noneOn)}, ProfileEnabled, "8.2.1/1.2", ProfileEnabled, nil},
		{"not enabled", Input{Operator: op(a), ICCID: &other, Card: card()}, ProfileEnabled, "8.2.1/1.2", ProfileEnabled, &other},
		{"POL2", Input{Operator: op(a), ICCID: &mine, Card: card(pol2)}, DisableAllowed, "8.2.3/3.8", DisableAllowed, &mine},
		{"POL2, the enabled one", Input{Operator: op(a), Card: card(pol2)}, DisableAllowed, "8.2.3/3.8", DisableAllowed, &mine},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Default().Evaluate(&tt.in)
			assert.Equal(t, tt.iccid, d.ICCID)
			if tt.rule == "" {
				assert.Nil(t, d.Refusal)
				assert.Nil(t, d.Face)
				assert.Len(t, d.Ran, len(Default().Rules()))
				return
			}
			require.NotNil(t, d.Refusal)
			assert.Equal(t, tt.rule, d.Refusal.Rule)
			assert.Equal(t, tt.rule, d.Ran[len(d.Ran)-1].Rule)
			assert.Equal(t, tt.face, d.Face.Rule)
			assert.Equal(t, tt.code, d.Face.SubjectCode+"/"+d.Face.ReasonCode)
			assert.NotEmpty(t, d.Face.Text)
		})
	}
}

// What an operator reads of another's must be what it reads of nothing at all.
func TestFaceIsNoOracle(t *testing.T) {
	mine, foreign, nobodys := iccid(t, "89860000000000000018"), iccid(t, "89860000000000000034"), iccid(t, "89860000000000000059")
	a, b := plmn(t, "46011"), plmn(t, "26201")
	card := &Card{Profiles: []Profile{{ICCID: mine, Owner: a}, {ICCID: foreign, Owner: b, Enabled: true}}}
	read := func(in Input) any { return Default().Evaluate(&in).Face }

	opA, opC := &Operator{MCCMNC: a}, &Operator{MCCMNC: plmn(t, "00101")}
	assert.Equal(t, read(Input{Operator: opA, Card: card, ICCID: &nobodys}), read(Input{Operator: opA, Card: card, ICCID: &foreign}))
	assert.Equal(t, read(Input{Operator: opC, ICCID: &mine}), read(Input{Operator: opC, Card: card, ICCID: &mine}))
	none := &Card{Profiles: []Profile{{ICCID: mine, Owner: a}, {ICCID: foreign, Owner: b}}}
	assert.Equal(t, read(Input{Operator: opA, Card: none}), read(Input{Operator: opA, Card: card}))
}
