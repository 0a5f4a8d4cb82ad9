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

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
)

func TestTraceShow(t *testing.T) {
	file := traceOf(t, append(withPIN, readEID...)...)
	stdout, stderr, status := cli(t, "trace", "show", file)
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "session 1\n")
	assert.Contains(t, stdout, "> SELECT management applet (cardbridge) by AID\n")
	assert.Contains(t, stdout, "5A EID: 89049032000000000000000000424247\n")
	assert.Contains(t, stdout, "0020000104********\n")
	assert.NotContains(t, stdout, "\x1b", "no colours in a pipe")
	assert.NotContains(t, stdout, "31323334")

	stdout, _, status = cli(t, "trace", "show", file, file)
	assert.Zero(t, status)
	assert.Contains(t, stdout, "session 2: "+file+"\n")

	stdout, _, status = cli(t, "trace", "show", "--json", file)
	assert.Zero(t, status)
	var titles []string
	for line := range strings.Lines(stdout) {
		var m struct{ Kind, Title string }
		require.NoError(t, json.Unmarshal([]byte(line), &m), line)
		titles = append(titles, m.Kind+" "+m.Title)
	}
	assert.Len(t, titles, 9)
	assert.Equal(t, "command GET DATA: EID", titles[7])

	page := filepath.Join(t.TempDir(), "page.html")
	stdout, stderr, status = cli(t, "trace", "show", "--html", page, file)
	assert.Zero(t, status, stderr)
	assert.Empty(t, stdout)
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Contains(t, string(b), "GET DATA: EID")
	assert.NotContains(t, string(b), "31323334")
}

// TestTraceShowOtherFormats: what another tool wrote is shown as ours.
func TestTraceShowOtherFormats(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.log")
	require.NoError(t, os.WriteFile(file, []byte("> 00 A4 00 04 02 2F E2\n< 90 00 : Normal processing.\n> 00 B0 00 00 0A\n< 98 68 30 0D 1A 2B 3C 4E 00 24 90 00 : Normal processing.\n"), 0o600))
	for _, args := range [][]string{{file}, {"--from", "scriptor", file}} {
		stdout, stderr, status := cli(t, append([]string{"trace", "show"}, args...)...)
		assert.Zero(t, status, stderr)
		assert.Contains(t, stdout, "ICCID: 898603D0A1B2C3E40042")
	}
}

// TestTraceShowKeys explains a session of the emulator by the files that its
// card was made from.
func TestTraceShowKeys(t *testing.T) {
	dir := t.TempDir()
	keyset := newKeySet(t)
	image, record := filepath.Join(dir, "card.json"), filepath.Join(dir, "record.json")
	_, status := object(t, "card", "new", "--keyset", keyset, "--image", image, "--record", record)
	require.Zero(t, status)
	keys, err := newKeySource().open(t.Context(), keyset, plainSoftware)
	require.NoError(t, err)
	b, err := os.ReadFile(record)
	require.NoError(t, err)
	rec, err := card.ParseRecord(b)
	require.NoError(t, err)
	emulator, err := appletsim.Open(image)
	require.NoError(t, err)
	defer emulator.Close()
	var recording bytes.Buffer
	recorder := trace.NewRecorder(&recording, trace.Header{Origin: trace.Emulator})
	terminal := card.Terminal{Keys: keys}
	_, _, err = terminal.ReadStatus(t.Context(), apdu.BasicChannel(recorder.Wrap(emulator.Connect())), rec.Target())
	require.NoError(t, err)
	file := filepath.Join(dir, "x.trace")
	require.NoError(t, os.WriteFile(file, recording.Bytes(), 0o600))

	for _, c := range []struct {
		args   []string
		shows  []string
		hidden []string
	}{
		{nil, []string{"87 cryptogram: "}, []string{"verifies"}},
		{[]string{"--keys", image}, []string{"M2: verifies", "MAC: verifies", "E3 profile"}, []string{"M1: verifies"}},
		{[]string{"--keys", keyset, "--keys", record}, []string{"M1: verifies", "M2: not opened", "87 cryptogram: "}, []string{"MAC: verifies"}},
		{[]string{"--keys", image, "--keys", keyset}, []string{"M1: verifies", "M2: verifies", "E3 profile"}, nil},
	} {
		stdout, stderr, status := cli(t, append(append([]string{"trace", "show"}, c.args...), file)...)
		assert.Zero(t, status, stderr)
		for _, s := range c.shows {
			assert.Contains(t, stdout, s, "%v", c.args)
		}
		for _, s := range c.hidden {
			assert.NotContains(t, stdout, s, "%v", c.args)
		}
	}
}

func TestTraceShowFailures(t *testing.T) {
	file := traceOf(t, readEID...)
	dir := t.TempDir()
	page := filepath.Join(dir, "page.html")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no file":       {nil, "requires at least 1 arg"},
		"no such file":  {[]string{filepath.Join(dir, "none")}, "no such file"},
		"no trace":      {[]string{"--html", page, "/proc/self/exe"}, "not a trace"},
		"no such keys":  {[]string{"--keys", filepath.Join(dir, "none"), file}, "no such file"},
		"no keys in it": {[]string{"--keys", file, file}, "no key set, card image or card record"},
		"no folder":     {[]string{"--html", filepath.Join(dir, "none", "x.html"), file}, "no such file"},
		"no such form":  {[]string{"--from", "smoke", file}, "smoke"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, status := cli(t, append([]string{"trace", "show"}, c.args...)...)
			assert.Equal(t, exitError, status)
			assert.Contains(t, stderr, c.want)
		})
	}
	assert.NoFileExists(t, page, "half a page is none")

	bad := traceOf(t, "> 00A4000C023F00", "nonsense", "< 9000")
	stdout, stderr, status := cli(t, "trace", "show", bad)
	assert.Zero(t, status)
	assert.Contains(t, stderr, "line 3")
	assert.Contains(t, stdout, "SELECT MF")
	assert.Contains(t, stdout, "9000 success")
}
