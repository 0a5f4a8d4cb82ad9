package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	cards "github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
)

// cli runs the program in this process; it must end well.
func cli(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), args, &out, &errs), "%v: %s", args, errs.String())
	return out.String(), errs.String()
}

// TestNew: the files fit each other, and are said to have public keys.
func TestNew(t *testing.T) {
	dir := t.TempDir()
	image, keyset, record := filepath.Join(dir, "card.json"), filepath.Join(dir, "server.json"), filepath.Join(dir, "record.json")
	stdout, stderr := cli(t, "new", image, "--keyset", keyset, "--record", record, "--number", "3", "--json")
	assert.Contains(t, stderr, testkeys.Warning)
	var made struct{ EID string }
	require.NoError(t, json.Unmarshal([]byte(stdout), &made))
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return b
	}
	im, err := appletsim.ParseImage(read(image))
	require.NoError(t, err)
	rec, err := cards.ParseRecord(read(record))
	require.NoError(t, err)
	set, err := cryptogram.ParseKeySet(read(keyset))
	require.NoError(t, err)
	_, err = set.Private()
	require.NoError(t, err)
	assert.Equal(t, []string{im.EID.String(), im.EID.String()}, []string{made.EID, rec.EID.String()})

	info, err := os.Stat(image)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())

	other := filepath.Join(dir, "other.json")
	var errs bytes.Buffer
	assert.Equal(t, 1, run(t.Context(), []string{"new", other, "--record", record}, &bytes.Buffer{}, &errs))
	assert.Contains(t, errs.String(), "No file is overwritten")
	assert.NoFileExists(t, other, "all or none")
	assert.Equal(t, 1, run(t.Context(), []string{"new", other, "--number", "-1"}, &bytes.Buffer{}, &errs))
}

// TestInspectAndDiff: what changed between two images, and never a secret.
func TestInspectAndDiff(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")
	cli(t, "new", a)
	text, err := os.ReadFile(a)
	require.NoError(t, err)
	im, err := appletsim.ParseImage(text)
	require.NoError(t, err)
	im.EventCounter, im.Profiles[0].State, im.Profiles[0].PPR1, im.Profiles[1].Name = 7, appletsim.Disabled, true, "bell\a"
	im.Keys.Enc = testkeys.Server().Enc
	text, err = im.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(b, text, 0o600))

	shown, stderr := cli(t, "inspect", b)
	assert.Contains(t, stderr, testkeys.Warning)
	assert.Regexp(t, `8988001000000000000 +disabled +operational +00101 +Test network +Working +ppr1`, shown)
	assert.Contains(t, shown, "bell·")
	assert.Regexp(t, `keys\.enc +secret`, shown)
	assert.Regexp(t, `event_counter +7`, shown)
	asJSON, _ := cli(t, "inspect", b, "--json")
	assert.Equal(t, 1, strings.Count(asJSON, "\n"))

	changed, _ := cli(t, "diff", a, b)
	assert.Equal(t, strings.Join([]string{
		"keys.enc                             changed",
		"profiles[8988001000000000000].state  enabled → disabled",
		"profiles[8988001000000000000].ppr1   false → true",
		"profiles[8988001000000000001].name   Spare → bell·",
		"event_counter                        0 → 7",
	}, "\n")+"\n", changed)
	diffJSON, _ := cli(t, "diff", a, b, "--json")
	var parsed struct {
		Changes []appletsim.Change `json:"changes"`
	}
	require.NoError(t, json.Unmarshal([]byte(diffJSON), &parsed))
	assert.Len(t, parsed.Changes, 5)
	same, _ := cli(t, "diff", a, a, "--json")
	assert.Contains(t, same, `"changes":[]`)

	for _, out := range []string{shown, asJSON, changed, diffJSON} {
		assert.NotContains(t, out, "PRIVATE")
	}
	var errs bytes.Buffer
	require.NoError(t, os.WriteFile(b, []byte("{}"), 0o600))
	assert.Equal(t, 1, run(t.Context(), []string{"diff", a, b}, &bytes.Buffer{}, &errs))
	assert.Contains(t, errs.String(), "bad card image")
}
