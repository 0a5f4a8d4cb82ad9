package api_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api"
)

// Every type of problem has its place on the page that it points at, once.
func TestProblemPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/problems.md")
	require.NoError(t, err)
	var there []string
	for _, m := range regexp.MustCompile("<a id=\"([a-z-]+)\"></a>`([a-z-]+)`").FindAllStringSubmatch(string(page), -1) {
		assert.Equal(t, m[1], m[2])
		there = append(there, m[1])
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(api.ProblemTitles)), there)
}
