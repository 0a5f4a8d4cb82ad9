package cardtest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

func TestInProcess(t *testing.T) {
	sum := cardtest.Run(t, inProcess)
	assert.Empty(t, sum.NotRun, "the emulator in process can do everything")
}

// TestExisting runs the suite as on a physical card: one card for all tests, no
// hand on its power or its memory.
func TestExisting(t *testing.T) {
	sim, c := emulate(t, cardtest.Personality{
		Suites:   []cryptogram.Suite{cryptogram.Suite01, cryptogram.Suite03},
		Profiles: existingProfiles(t),
	})
	c.Inject = nil
	c.Open = func(t *testing.T) apdu.Conn {
		conn := sim.Connect()
		require.NoError(t, conn.Reset(t.Context()))
		return conn
	}
	c.Record.Profiles[0].State, c.Record.Profiles[1].State = card.Enabled, card.Disabled // the record is out of date
	before := sim.Image()
	sum := cardtest.Run(t, cardtest.Existing(*c))
	assert.Equal(t, before.Profiles, sim.Image().Profiles, "the card is left as it was found")
	assert.Greater(t, len(sum.Ran), 60)
	reasons := map[string]string{}
	for _, o := range sum.NotRun {
		reasons[o.Test] = o.Reason
	}
	assert.Equal(t, "the card has 2 suites, not 1", reasons["§2/a card with one auth key"])
	assert.Equal(t, "nothing takes the card's power away", reasons["§4/power-off ends the state"])
	assert.Equal(t, "the card has no further profile that is disabled, the fallback", reasons["§7/the fallback attribute"])
	assert.Equal(t, "it would leave the card in another state", reasons["§8/PPR1 does not forbid ACTIVATE"])
}

func existingProfiles(t *testing.T) []card.Profile {
	t.Helper()
	out := []card.Profile{
		{Name: "one", Provider: "A", Class: card.Operational},
		{Name: "two", Provider: "B", Class: card.Operational, State: card.Enabled},
		{Name: "three", Provider: "C", Class: card.Test},
		{Name: "four", Provider: "D", Class: card.Operational, PPR1: true},
	}
	for i, iccid := range []string{"8986001234567890101", "8986001234567890102", "8986001234567890103", "8986001234567890104"} {
		require.NoError(t, out[i].ICCID.UnmarshalText([]byte(iccid)))
		require.NoError(t, out[i].Owner.UnmarshalText([]byte("46001")))
	}
	return out
}
