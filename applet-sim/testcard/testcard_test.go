package testcard_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
)

func TestImages(t *testing.T) {
	eids, iccids := map[id.EID]bool{}, map[id.ICCID]bool{}
	for _, n := range []int{0, 1, 9, 10, 99, 100, 9999, 10000, testcard.Max - 1} {
		im := testcard.Image(n)
		c, err := appletsim.New(im)
		require.NoError(t, err)
		assert.Equal(t, im, c.Image())
		eids[im.EID] = true
		for _, p := range im.Profiles {
			iccids[p.ICCID] = true
		}
		b, err := im.Record()
		require.NoError(t, err)
		record, err := card.ParseRecord(b)
		require.NoError(t, err)
		assert.Equal(t, im.EID, record.EID)
	}
	assert.Len(t, eids, 9)
	assert.Len(t, iccids, 27)
	for _, n := range []int{-1, testcard.Max} {
		assert.Panics(t, func() { testcard.Image(n) })
	}
	broken := testcard.Image(0)
	broken.Keys.Enc = ""
	_, err := broken.Record()
	require.Error(t, err)
}
