package usbtest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// carried are tests of the suite for cards about what a reader carries: lengths,
// chains, channels, resets. All of it takes minutes on this processor, and runs
// on faster ones.
var carried = []string{
	"short_and_extended_length_and_chaining_come_to_the_same",
	"61xx_says_how_many_bytes_are_left",
	"Le_too_small_for_SELECT_and_GET_DATA",
	"INTERNAL_and_EXTERNAL_AUTHENTICATE_can_be_chained",
	"a_reset_ends_a_chain",
	"a_reset_closes_channels",
	"the_applet_is_selected_on_each_channel_by_itself",
}

// TestConformance runs some of the suite on one card, the way without pcscd.
func TestConformance(t *testing.T) {
	im := servertest.Image(0)
	locked := im.Profiles[1]
	locked.ICCID, locked.PPR1 = servertest.ICCID(0, 3), true
	im.Profiles = append(im.Profiles, locked)
	sim := servertest.Card(im)
	plug(t, 0, tpduReader("CONFORMS", ccidsim.WithATR(sim, t1)))

	existing := cardtest.Existing(cardtest.Card{
		Record: record(t, im),
		Server: servertest.Terminal().Keys,
		Open: func(t *testing.T) apdu.Conn {
			c, err := direct.open(deadline(t), identity(vendor, product, "CONFORMS"), true)
			require.NoError(t, err)
			return c
		},
		PowerCycle: func(t *testing.T, c apdu.Conn) { require.NoError(t, c.(*ccid.Conn).ColdReset(deadline(t))) },
	})
	sum := cardtest.Run(t, func(t *testing.T, p cardtest.Personality) (*cardtest.Card, error) {
		if !slices.ContainsFunc(carried, func(s string) bool { return strings.Contains(t.Name(), s) }) {
			return nil, errors.New("not about what a reader carries")
		}
		return existing(t, p)
	})
	assert.Len(t, sum.Ran, len(carried))
}
