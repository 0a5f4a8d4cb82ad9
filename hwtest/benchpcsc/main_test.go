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

// The figure is the bench's; that there is one is this test's.
func TestRun(t *testing.T) {
	ratio, err := run(2, 5)
	require.NoError(t, err)
	assert.Greater(t, ratio, 0.0)
	ours, err := share(1)
	require.NoError(t, err)
	assert.Greater(t, ours, 0.0)
}

func TestMedian(t *testing.T) {
	assert.Equal(t, 2.0, median([]float64{3, 1, 2}))
	assert.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
}
