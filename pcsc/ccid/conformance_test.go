package ccid_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// The emulated card in the model of a reader passes the suite for cards: it
// answers here as it does in process and behind PC/SC.
func TestConformance(t *testing.T) {
	im := servertest.Image(0)
	locked := im.Profiles[1]
	locked.ICCID, locked.PPR1 = servertest.ICCID(0, 3), true
	im.Profiles = append(im.Profiles, locked)
	rec, err := card.ParseRecord(servertest.Record(im))
	require.NoError(t, err)
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU})
	sim.Insert(0, ccidsim.WithATR(servertest.Card(im), ccidsim.ATR{Protocols: []byte{1}, IFSC: 254}))
	d := attach(t, sim)
	sum := cardtest.Run(t, cardtest.Existing(cardtest.Card{
		Record: rec,
		Server: servertest.Terminal().Keys,
		Open: func(t *testing.T) apdu.Conn {
			c, err := d.Connect(soon(t), 0, ccid.Options{})
			require.NoError(t, err)
			return c
		},
		PowerCycle: func(t *testing.T, c apdu.Conn) { require.NoError(t, c.(*ccid.Conn).ColdReset(soon(t))) },
	}))
	assert.Greater(t, len(sum.Ran), 40)
}
