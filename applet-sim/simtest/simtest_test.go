package simtest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/applet-sim/simtest"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

func TestThreeLines(t *testing.T) {
	sim := simtest.New(t)
	_, report, err := sim.Terminal().Run(t.Context(), sim.Target(), sim.Deactivation())
	require.NoError(t, err)
	assert.Equal(t, card.OutcomeDone, report.Outcome)
	assert.False(t, sim.Enabled())
}

// TestOptions: the operation comes through faults, and to its right end.
func TestOptions(t *testing.T) {
	own, err := cryptogram.Generate(1, 2048)
	require.NoError(t, err)
	for name, tt := range map[string]struct {
		options []simtest.Option
		want    card.Outcome
	}{
		"another card":      {[]simtest.Option{simtest.Number(7)}, card.OutcomeDone},
		"a policy rule":     {[]simtest.Option{simtest.Change(func(im *appletsim.Image) { im.Profiles[0].PPR1 = true })}, card.OutcomeRefused},
		"the card's policy": {[]simtest.Option{simtest.Policy(appletsim.Policy{RequireTriple: true})}, card.OutcomeDone},
		"one profile":       {[]simtest.Option{simtest.Profiles(testcard.Image(3).Profiles[0])}, card.OutcomeDone},
		"short APDUs":       {[]simtest.Option{simtest.With(appletsim.WithoutExtendedLength())}, card.OutcomeDone},
		"power cuts": {[]simtest.Option{simtest.Faults(
			fault.Fault{Kind: fault.CutBefore, Write: 1, Away: time.Millisecond},
			fault.Fault{Kind: fault.CutAfter, Write: 2, Away: time.Millisecond})}, card.OutcomeDone},
		"own keys": {[]simtest.Option{
			simtest.Keys(own, cryptogram.KeySetPEM{ID: 2, KeysPEM: own}),
			simtest.Change(func(im *appletsim.Image) { im.Suites = []int{1} })}, card.OutcomeDone},
	} {
		t.Run(name, func(t *testing.T) {
			sim := simtest.New(t, tt.options...)
			_, report, err := sim.Terminal().Run(t.Context(), sim.Target(), sim.Deactivation())
			require.NoError(t, err)
			assert.Equal(t, tt.want, report.Outcome)
			assert.Equal(t, tt.want == card.OutcomeRefused, sim.Enabled())
		})
	}
}

func TestActivation(t *testing.T) {
	sim := simtest.New(t, simtest.Profiles(func() appletsim.Profile {
		p := testcard.Image(0).Profiles[0]
		p.State = appletsim.Disabled
		return p
	}()))
	_, report, err := sim.Terminal().Run(t.Context(), sim.Target(), sim.Activation())
	require.NoError(t, err)
	assert.Equal(t, card.OutcomeDone, report.Outcome)
	assert.True(t, sim.Enabled())
}

func TestPlain(t *testing.T) {
	sim := simtest.New(t, simtest.Plain())
	_, err := card.Select(t.Context(), sim.Channel())
	require.ErrorIs(t, err, apdu.SWFileNotFound)
}
