package docs_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim/control"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
)

// emulator.md has every fault, every timing profile and every request.
func TestEmulatorPage(t *testing.T) {
	page, err := os.ReadFile("emulator.md")
	require.NoError(t, err)
	words := append(control.Ops(), fault.Profiles()...)
	for _, k := range fault.Kinds() {
		words = append(words, string(k))
	}
	for _, w := range words {
		assert.Contains(t, string(page), "`"+w+"`")
	}
}
