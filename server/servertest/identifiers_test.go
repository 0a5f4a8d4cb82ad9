package servertest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func TestIdentifiers(t *testing.T) {
	for n, digits := range map[int]string{
		0:          "89049032000000000000000000000066",
		1:          "89049032000000000000000000000163",
		99:         "89049032000000000000000000009960",
		100:        "89049032000000000000000000010057",
		1_000_000:  "89049032000000000000000100000082",
		99_999_999: "89049032000000000000009999999920",
	} {
		eid := servertest.EID(n)
		assert.NoError(t, eid.Check())
		assert.Equal(t, digits, eid.String(), n)
	}
	eids, iccids := map[id.EID]bool{}, map[id.ICCID]bool{}
	for n := 0; n <= 1_000_000; n += 97 {
		require.NoError(t, servertest.EID(n).Check())
		eids[servertest.EID(n)] = true
		for i := range 3 {
			iccids[servertest.ICCID(n, i)] = true
		}
	}
	assert.Len(t, eids, 1_000_000/97+1)
	assert.Len(t, iccids, 3*len(eids))
}
