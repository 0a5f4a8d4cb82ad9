package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) != "" {
		main()
		return
	}
	rig.Enter()
	os.Exit(m.Run())
}

// The figures are the bench's; that there are any is this test's.
func TestAgainst(t *testing.T) {
	ratio, err := against(t.Context(), options{rounds: 2, count: 3})
	require.NoError(t, err)
	assert.Greater(t, ratio, 0.0)
}

func TestAlone(t *testing.T) {
	require.NoError(t, memory(3))
	require.NoError(t, startUp(t.Context(), 1))
}
