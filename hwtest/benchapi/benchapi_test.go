package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Everything is measured that can be, for moments: the figures mean nothing.
func TestRun(t *testing.T) {
	o := options{dir: os.TempDir(), clients: 2, cards: 4, rounds: 2, slice: 20 * time.Millisecond}
	ratios, err := o.run(t.Context())
	require.NoError(t, err)
	var names []string
	for _, r := range ratios {
		names = append(names, r.name)
		assert.Positive(t, r.value, r.name)
	}
	assert.Equal(t, []string{
		"api-read/database", "api-read/http", "api-list/database", "api-list/http", "api-create/database", "api-create/http", "audit/none",
		"api-read/database-postgres", "api-read/http-postgres", "api-list/database-postgres", "api-list/http-postgres",
		"api-create/database-postgres", "api-create/http-postgres", "audit/none-postgres",
	}, names)
}
