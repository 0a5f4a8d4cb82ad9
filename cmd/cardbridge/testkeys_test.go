package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
)

// TestWarnsOfTestKeys: whatever takes a key set or a card record says that its
// keys are public, and goes on.
func TestWarnsOfTestKeys(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	set, err := json.Marshal(testkeys.Server())
	require.NoError(t, err)
	record, err := testcard.Image(0).Record()
	require.NoError(t, err)
	keyset, card := write("server.json", set), write("record.json", record)
	own := newKeySet(t)

	warning := func(file string) string { return "warning: " + file + ": " + testkeys.Warning }
	_, stderr, status := cli(t, "card", "status", "--reader", "none", "--wait", "1ms", "--keyset", keyset, "--card", card)
	assert.NotZero(t, status)
	assert.Contains(t, stderr, warning(keyset))
	assert.Contains(t, stderr, warning(card))
	_, stderr, _ = cli(t, "card", "register", "--server", "https://127.0.0.1:1", "--token-file", write("token", []byte("x")), "--pin", strings.Repeat("0", 64), "--card", card)
	assert.Contains(t, stderr, warning(card))
	for file, warns := range map[string]bool{keyset: true, own: false} {
		out := t.TempDir()
		_, stderr, status = cli(t, "card", "new", "--single", "--keyset", file, "--image", filepath.Join(out, "i"), "--record", filepath.Join(out, "r"))
		require.Zero(t, status, stderr)
		assert.Equal(t, warns, stderr == warning(file)+"\n", stderr)
	}
}
