package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every failure with --json is one object on one line, whatever failed.
func TestFailuresInJSON(t *testing.T) {
	keyset := newKeySet(t)
	dir := t.TempDir()
	record := filepath.Join(dir, "record.json")
	_, _, status := cli(t, "card", "new", "--keyset", keyset, "--image", filepath.Join(dir, "card.json"), "--record", record)
	require.Zero(t, status)
	given := []string{"--keyset", keyset, "--card", record}
	for name, args := range map[string][]string{
		"counter":          append([]string{"card", "deactivate", "--counter", "-1"}, given...),
		"reason":           append([]string{"card", "activate", "--reason", "256"}, given...),
		"unknown flag":     append([]string{"card", "status", "--nonsense"}, given...),
		"extra word":       append([]string{"card", "authenticate", "more"}, given...),
		"no reader named":  append([]string{"card", "status"}, given...),
		"no such reader":   append([]string{"card", "deactivate", "--reader", "none", "--wait", "100ms"}, given...),
		"--json comes 1st": append([]string{"card", "deactivate", "--json", "--attempts", "x"}, given...),
	} {
		t.Run(name, func(t *testing.T) {
			out, status := object(t, args...)
			assert.Equal(t, exitError, status)
			assert.Equal(t, false, out["authenticated"])
			assert.Equal(t, "failed", out["outcome"])
			assert.NotEmpty(t, out["error"])
		})
	}
	for name, args := range map[string][]string{
		"no PC/SC":        {"reader", "list"},
		"no card":         {"card", "info", "--reader", "none", "--wait", "100ms"},
		"no APDU":         {"apdu", "--reader", "none"},
		"bad APDU":        {"apdu", "--reader", "none", "00"},
		"missing flags":   {"deactivate", "--eid", "1"},
		"kid":             {"keys", "new", "--id", "300", filepath.Join(dir, "x")},
		"no key set":      {"serve", "--data", dir, "--keyset", filepath.Join(dir, "none")},
		"unknown command": {"nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := object(t, args...)
			assert.Equal(t, exitError, status)
			assert.Equal(t, "failed", out["outcome"])
			assert.NotEmpty(t, out["error"])
			assert.NotContains(t, out, "authenticated")
		})
	}
	stdout, stderr, status := cli(t, "card", "deactivate", "--counter", "-1")
	assert.Equal(t, exitError, status)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "--counter")
}

func TestWantsJSON(t *testing.T) {
	for _, yes := range [][]string{{"--json"}, {"a", "--json=true", "b"}, {"--json=false", "--json"}} {
		assert.True(t, wantsJSON(yes), "%q", yes)
	}
	for _, no := range [][]string{nil, {"json"}, {"--json=false"}, {"--json=x"}, {"--", "--json"}, {"--jsonx"}} {
		assert.False(t, wantsJSON(no), "%q", no)
	}
}
