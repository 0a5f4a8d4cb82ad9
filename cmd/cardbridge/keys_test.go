package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
)

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

func readSet(t testing.TB, file string) cryptogram.KeySetPEM {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	set, err := cryptogram.ParseKeySet(b)
	require.NoError(t, err)
	return set
}

// encryptedKeySet is a key set under a passphrase, and a file of that.
func encryptedKeySet(t testing.TB, args ...string) (keyset, passphrase string) {
	t.Helper()
	dir := t.TempDir()
	keyset, passphrase = filepath.Join(dir, "server.json"), write(t, filepath.Join(dir, "passphrase"), []byte("a secret of many words\nnot this\n"))
	_, stderr, status := cli(t, append([]string{"keys", "new", "--encrypt", "--passphrase-file", passphrase, keyset}, args...)...)
	require.Zero(t, status, stderr)
	return keyset, passphrase
}

func TestEncryptedKeySet(t *testing.T) {
	keyset, passphrase := encryptedKeySet(t)
	info, err := os.Stat(keyset)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	set := readSet(t, keyset)
	for _, s := range append(set.Auth, set.Enc) {
		assert.True(t, strings.HasPrefix(s, "-----BEGIN ENCRYPTED PRIVATE KEY-----"))
	}

	shown := func(env []string, args ...string) map[string]any {
		t.Helper()
		cmd := program(t.Context(), append([]string{"keys", "show", "--json", keyset}, args...)...)
		cmd.Env = append(cmd.Env, env...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		assert.NotContains(t, string(out)+stderr.String(), "a secret of many words")
		assert.NotContains(t, string(out), "PRIVATE")
		var v struct {
			Sets []map[string]any `json:"key_sets"`
		}
		require.NoError(t, json.Unmarshal(out, &v))
		require.Len(t, v.Sets, 1)
		return v.Sets[0]
	}
	byFile := shown(nil, "--passphrase-file", passphrase)
	assert.EqualValues(t, 1, byFile["id"])
	assert.Len(t, byFile["sid"], 64)
	keys := byFile["keys"].([]any)
	require.Len(t, keys, 4)
	last := keys[3].(map[string]any)
	assert.Equal(t, "enc", last["role"])
	assert.EqualValues(t, 2048, last["bits"])
	assert.Equal(t, "file, encrypted", last["where"])
	assert.Contains(t, last["public_key"], "BEGIN PUBLIC KEY")

	assert.Equal(t, byFile, shown([]string{"CARDBRIDGE_PASSPHRASE=a secret of many words"}))
	credentials := t.TempDir()
	write(t, filepath.Join(credentials, "cardbridge-passphrase"), []byte("a secret of many words"))
	assert.Equal(t, byFile, shown([]string{"CREDENTIALS_DIRECTORY=" + credentials}))
	wrong := write(t, filepath.Join(t.TempDir(), "wrong"), []byte("wrong\n"))
	assert.Equal(t, byFile, shown(nil, "--passphrase-file", wrong, "--passphrase-file", passphrase), "several, for several key sets")

	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"none":     {nil, "CARDBRIDGE_PASSPHRASE"},
		"wrong":    {[]string{"--passphrase-file", wrong}, "wrong passphrase"},
		"no file":  {[]string{"--passphrase-file", wrong + "x"}, "no such file"},
		"an empty": {[]string{"--passphrase-file", write(t, filepath.Join(t.TempDir(), "empty"), []byte("\nsecond\n"))}, "empty"},
	} {
		_, stderr, status := cli(t, append([]string{"keys", "show", keyset}, c.args...)...)
		assert.Equal(t, exitError, status, name)
		assert.Contains(t, stderr, c.says, name)
	}
	require.NoError(t, os.Chmod(passphrase, 0o644))
	_, stderr, status := cli(t, "keys", "show", keyset, "--passphrase-file", passphrase)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "chmod 600 "+passphrase)
}

// openssl's own encryption of a key stands in a key set like ours.
func TestKeySetWithOpenSSLKeys(t *testing.T) {
	plain := newKeySet(t)
	set := readSet(t, plain)
	seal := func(s string, args ...string) string {
		cmd := exec.Command("openssl", append([]string{"pkcs8", "-topk8", "-passout", "pass:word"}, args...)...)
		cmd.Stdin = strings.NewReader(s)
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	set.Auth[1], set.Enc = seal(set.Auth[1]), seal(set.Enc, "-scrypt")
	b, err := json.Marshal(set)
	require.NoError(t, err)
	mixed := write(t, filepath.Join(t.TempDir(), "mixed.json"), b)
	passphrase := write(t, filepath.Join(t.TempDir(), "passphrase"), []byte("word\r\n"))
	want, _, status := cli(t, "keys", "public", plain)
	require.Zero(t, status)
	got, stderr, status := cli(t, "keys", "public", mixed, "--passphrase-file", passphrase)
	require.Zero(t, status, stderr)
	assert.Equal(t, want, got)
}

func TestKeysEncrypt(t *testing.T) {
	plain, dir := newKeySet(t), t.TempDir()
	one, two := write(t, filepath.Join(dir, "one"), []byte("one\n")), write(t, filepath.Join(dir, "two"), []byte("two\n"))
	first, second := filepath.Join(dir, "first.json"), filepath.Join(dir, "second.json")
	_, stderr, status := cli(t, "keys", "encrypt", plain, first, "--passphrase-file", one)
	require.Zero(t, status, stderr)
	_, stderr, status = cli(t, "keys", "encrypt", first, second, "--old-passphrase-file", one, "--passphrase-file", two)
	require.Zero(t, status, stderr)
	want, _, _ := cli(t, "keys", "public", plain)
	got, stderr, status := cli(t, "keys", "public", second, "--passphrase-file", two)
	require.Zero(t, status, stderr)
	assert.Equal(t, want, got)
	for name, args := range map[string][]string{
		"exists":          {"keys", "encrypt", plain, first, "--passphrase-file", one},
		"wrong":           {"keys", "encrypt", first, filepath.Join(dir, "x"), "--old-passphrase-file", two, "--passphrase-file", two},
		"no passphrase":   {"keys", "encrypt", plain, filepath.Join(dir, "x")},
		"two passphrases": {"keys", "encrypt", plain, filepath.Join(dir, "x"), "--passphrase-file", one, "--passphrase-file", two},
		"in the clear":    {"keys", "new", filepath.Join(dir, "x"), "--passphrase-file", one},
	} {
		_, _, status := cli(t, args...)
		assert.Equal(t, exitError, status, name)
	}
	_, err := os.Stat(filepath.Join(dir, "x"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// Whatever reads private keys wants them to be their owner's alone; public halves
// may be read by all.
func TestExposedKeySets(t *testing.T) {
	keyset, dir := newKeySet(t), t.TempDir()
	public, _, status := cli(t, "keys", "public", keyset)
	require.Zero(t, status)
	half := filepath.Join(dir, "public.json")
	require.NoError(t, os.WriteFile(half, []byte(public), 0o644))
	require.NoError(t, os.Chmod(keyset, 0o640))
	record := filepath.Join(dir, "record.json")
	_, stderr, status := cli(t, "card", "new", "--single", "--keyset", half, "--image", filepath.Join(dir, "image.json"), "--record", record)
	require.Zero(t, status, stderr)
	for name, args := range map[string][]string{
		"serve":       {"serve", "--data", filepath.Join(dir, "data"), "--keyset", keyset, "--listen", "127.0.0.1:0"},
		"card status": {"card", "status", "--reader", "none", "--wait", "1ms", "--keyset", keyset, "--card", record},
		"card new":    {"card", "new", "--keyset", keyset, "--image", filepath.Join(dir, "i"), "--record", filepath.Join(dir, "r")},
		"public":      {"keys", "public", keyset},
		"show":        {"keys", "show", keyset},
		"encrypt":     {"keys", "encrypt", keyset, filepath.Join(dir, "e")},
		"trace show":  {"trace", "show", "--keys", keyset, record},
	} {
		_, stderr, status := cli(t, args...)
		assert.Equal(t, exitError, status, name)
		assert.Contains(t, stderr, "chmod 600 "+keyset, name)
	}
	out, status := object(t, "keys", "show", half)
	require.Zero(t, status)
	key := out["key_sets"].([]any)[0].(map[string]any)["keys"].([]any)[0].(map[string]any)
	assert.Equal(t, "public half only", key["where"])
}

func TestServeRefusesTwoSetsUnderOneKID(t *testing.T) {
	one, two := newKeySet(t), newKeySet(t)
	_, stderr, status := cli(t, "serve", "--data", t.TempDir(), "--keyset", one, "--keyset", two, "--listen", "127.0.0.1:0")
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, one+" and "+two+" both have the id (kid) 1")
}
