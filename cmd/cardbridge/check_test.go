package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func TestServeCheckOnPostgres(t *testing.T) {
	dir, url := t.TempDir(), postgres.Shared(t).NewDatabase(t, "")
	keys := filepath.Join(dir, "server.json")
	require.NoError(t, os.WriteFile(keys, servertest.KeySetFile(), 0o600))
	args := []string{"--data", dir, "--keyset", keys, "--store", url, "--listen", "127.0.0.1:0", "--driver", "usb"}
	for range 2 {
		found, out := faults(t, args...)
		assert.Empty(t, found)
		assert.Contains(t, out.Checks[4].Text, "made at the first start", "the check before made nothing")
	}
	_, _, status := cli(t, "operator", "add", "--store", url, "--mccmnc", "46011", "One")
	require.Zero(t, status)
	found, out := faults(t, args...)
	assert.Empty(t, found)
	assert.Regexp(t, `: schema version [1-9]`, out.Checks[4].Text)
}

// faults runs serve --check as the program and gives the faults by their check.
func faults(t *testing.T, args ...string) (map[string]string, checkJSON) {
	t.Helper()
	stdout, stderr, status := cli(t, append([]string{"serve", "--check", "--json"}, args...)...)
	var out checkJSON
	require.NoError(t, json.Unmarshal([]byte(stdout), &out), "%s%s", stdout, stderr)
	found := map[string]string{}
	for _, c := range out.Checks {
		if !c.OK {
			found[c.Check] = c.Text
			assert.NotEmpty(t, c.Do)
		}
	}
	assert.Equal(t, len(found) == 0, out.OK)
	assert.Equal(t, map[bool]int{true: 0, false: exitError}[out.OK], status)
	return found, out
}

func TestServeCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	keys := write("server.json", string(servertest.KeySetFile()), 0o600)
	data := filepath.Join(dir, "new", "data")
	config := write("config.yaml", "data: "+data+"\nkeyset: "+keys+"\nlisten: 127.0.0.1:0\ndriver: usb\n", 0o600)
	t.Setenv("CARDBRIDGE_LEASE", "20s")

	found, out := faults(t, "--config", config)
	assert.Empty(t, found, "nothing is there yet, and all can be made")
	assert.NoDirExists(t, data)
	assert.Contains(t, out.Settings, settingJSON{"lease", "20s", fromEnvironment})
	assert.Contains(t, out.Settings, settingJSON{"data", data, config + ":1"})

	// A record that is there is told with its version, and is not touched.
	_, _, status := cli(t, "operator", "add", "--data", data, "--mccmnc", "46011", "One")
	require.Zero(t, status)
	record := filepath.Join(data, recordFile)
	before, err := os.ReadFile(record)
	require.NoError(t, err)
	found, out = faults(t, "--config", config)
	assert.Empty(t, found)
	assert.Regexp(t, `record\.db: schema version [1-9]`, out.Checks[4].Text)
	after, err := os.ReadFile(record)
	require.NoError(t, err)
	assert.Equal(t, before, after)

	s := serve(t)
	for check, args := range map[string][]string{
		"settings":           {"--lease", "1ms"},
		"data directory":     {"--data", keys},
		"key sets":           {"--keyset", write("open.json", string(servertest.KeySetFile()), 0o644)},
		"rules":              {"--rules", write("rules.yaml", "version: 9\n", 0o600)},
		"record":             {"--store", "postgres://kim:hunter2@127.0.0.1:1/x"},
		"owner":              {"--data", s.record.data},
		"TLS and audit keys": {"--data", filepath.Dir(write("tls.key", "nonsense", 0o600))},
		"addresses":          {"--listen", s.ready.URL[len("https://"):]},
		"readers":            {"--driver", "telepathy"},
	} {
		found, out := faults(t, append([]string{"--config", config}, args...)...)
		assert.Contains(t, found, check)
		if check != "data directory" { // a file in its place has no record either
			assert.Len(t, found, 1, "%s: %v", check, found)
		}
		text, err := json.Marshal(out)
		require.NoError(t, err)
		assert.NotContains(t, string(text), "hunter2")
	}
	for _, url := range []string{"postgres://kim:1234/hunter2@127.0.0.1:1/x", "postgres://kim:1234#hunter2@127.0.0.1:1/x", "postgres://kim:hunter2@1234?@127.0.0.1:1/x"} {
		_, out := faults(t, "--config", config, "--store", url)
		text, err := json.Marshal(out)
		require.NoError(t, err)
		assert.NotContains(t, string(text), "1234", "a password that is not escaped")
		assert.NotContains(t, string(text), "hunter2")
	}
	stdout, _, status := cli(t, "serve", "--check", "--config", config, "--lease", "1ms")
	assert.Equal(t, exitError, status)
	assert.Regexp(t, `settings +FAULT +--lease`, stdout)
	assert.Regexp(t, `lease +1ms +flag`, stdout)
}
