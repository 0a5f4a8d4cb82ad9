package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The assembly in the repository is what this program writes, byte for byte.
func TestGenerated(t *testing.T) {
	const folder = "../.."
	written := files()
	found, err := filepath.Glob(filepath.Join(folder, "*.s"))
	require.NoError(t, err)
	assert.Len(t, found, len(written))
	for name, text := range written {
		b, err := os.ReadFile(filepath.Join(folder, name))
		require.NoError(t, err)
		assert.True(t, string(b) == text, "%s is not what go generate writes", name)
	}
}
