package vectors_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

func TestLoad(t *testing.T) {
	f := vectors.Load(t)
	require.Len(t, f.Sets, 3)
	assert.Len(t, f.Negative, 16)
	for _, s := range f.Sets {
		for _, name := range append(append([]string{s.Keys.ServerEnc, s.Keys.CardEnc}, s.Keys.ServerAuth...), s.Keys.CardAuth...) {
			assert.Contains(t, f.Keys, name)
		}
		assert.Len(t, s.Sessions, 2)
	}
	for _, n := range f.Negative {
		set, session := f.Find(n)
		assert.NotNil(t, set, n.Name)
		assert.NotNil(t, session, n.Name)
	}
}
