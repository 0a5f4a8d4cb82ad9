//go:build cgo && unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/server/servertest"
)

const (
	softhsm = "/usr/lib/softhsm/libsofthsm2.so"
	userPIN = "648219"
)

// newToken is a token "bench" in a SoftHSM of the test's own, and a file with its
// PIN.
func newToken(t testing.TB) (pinFile string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	t.Setenv("SOFTHSM2_CONF", write(t, filepath.Join(dir, "softhsm2.conf"), []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nlog.level = ERROR\n")))
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", userPIN, "--so-pin", "73519842").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return write(t, filepath.Join(dir, "pin"), []byte(userPIN+"\n"))
}

func inToken(t testing.TB) string {
	out, err := exec.Command("pkcs11-tool", "--module", softhsm, "--token-label", "bench", "--login", "--pin", userPIN, "--list-objects", "--type", "privkey").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestKeySetInToken(t *testing.T) {
	pinFile, dir := newToken(t), t.TempDir()
	keyset := filepath.Join(dir, "server.json")
	flags := []string{"--pkcs11-module", softhsm, "--pkcs11-pin-file", pinFile}
	made, status := object(t, append([]string{"keys", "new", "--id", "2", "--pkcs11", "pkcs11:token=bench", keyset}, flags...)...)
	require.Zero(t, status)
	assert.Equal(t, true, made["pkcs11"])
	set := readSet(t, keyset)
	require.Len(t, set.Auth, 3)
	for _, s := range append(set.Auth, set.Enc) {
		assert.True(t, strings.HasPrefix(s, "pkcs11:token=bench;object=cardbridge-02-"), s)
	}
	assert.Equal(t, 4, strings.Count(inToken(t), "never extractable"))

	shown, status := object(t, append([]string{"keys", "show", keyset}, flags...)...)
	require.Zero(t, status)
	one := shown["key_sets"].([]any)[0].(map[string]any)
	assert.Equal(t, made["sid"], one["sid"])
	assert.Equal(t, set.Auth[0], one["keys"].([]any)[0].(map[string]any)["where"])
	for name, env := range map[string]string{"environment": "CARDBRIDGE_PKCS11_PIN=" + userPIN, "credential": "CREDENTIALS_DIRECTORY=" + filepath.Dir(pinFile)} {
		if name == "credential" {
			require.NoError(t, os.Rename(pinFile, filepath.Join(filepath.Dir(pinFile), "cardbridge-pkcs11-pin")))
			pinFile = filepath.Join(filepath.Dir(pinFile), "cardbridge-pkcs11-pin")
		}
		cmd := program(t.Context(), "keys", "show", keyset, "--pkcs11-module", softhsm)
		cmd.Env = append(cmd.Env, env)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
		assert.NotContains(t, string(out), userPIN)
	}
	flags[3] = pinFile

	// URIs that name module and PIN need no flags.
	for i := range set.Auth {
		set.Auth[i] += "?module-path=" + softhsm + "&pin-source=file:" + pinFile
	}
	set.Enc += "?module-path=" + softhsm + "&pin-source=" + pinFile
	b, err := json.Marshal(set)
	require.NoError(t, err)
	whole := write(t, filepath.Join(dir, "whole.json"), b)
	public, stderr, status := cli(t, "keys", "public", whole)
	require.Zero(t, status, stderr)
	assert.Equal(t, 4, strings.Count(public, "BEGIN PUBLIC KEY"))

	wrong := write(t, filepath.Join(dir, "wrong"), []byte("1111\n"))
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"wrong PIN":     {[]string{"keys", "show", keyset, "--pkcs11-module", softhsm, "--pkcs11-pin-file", wrong}, "CKR_PIN_INCORRECT"},
		"no PIN":        {[]string{"keys", "show", keyset, "--pkcs11-module", softhsm}, "CARDBRIDGE_PKCS11_PIN"},
		"no module":     {[]string{"keys", "show", keyset}, "--pkcs11-module"},
		"encrypt":       {append([]string{"keys", "encrypt", keyset, filepath.Join(dir, "x"), "--passphrase-file", wrong}, flags[:0]...), "in a token"},
		"both":          {append([]string{"keys", "new", "--encrypt", "--passphrase-file", wrong, "--pkcs11", "pkcs11:token=bench", filepath.Join(dir, "x")}, flags...), "--encrypt"},
		"a PIN in view": {append([]string{"keys", "new", "--pkcs11", "pkcs11:token=bench?pin-value=" + userPIN, filepath.Join(dir, "x")}, flags...), "pin-source"},
		"a key":         {append([]string{"keys", "new", "--pkcs11", "pkcs11:token=bench;object=x", filepath.Join(dir, "x")}, flags...), "name a token"},
		"bits":          {append([]string{"keys", "new", "--bits", "1024", "--single", "--pkcs11", "pkcs11:token=bench", filepath.Join(dir, "x")}, flags...), "1024"},
		"cannot write":  {append([]string{"keys", "new", "--single", "--pkcs11", "pkcs11:token=bench", filepath.Join(keyset, "x")}, flags...), "not a directory"},
	} {
		_, stderr, status := cli(t, c.args...)
		assert.Equal(t, map[bool]int{true: exitPIN, false: exitError}[name == "wrong PIN"], status, name)
		assert.Contains(t, stderr, c.says, name)
		assert.NotContains(t, stderr, userPIN, name)
	}
	assert.Equal(t, 4, strings.Count(inToken(t), "never extractable"), "what failed left no keys behind")
}

// Without cgo the program says what is missing.
func TestTokensWithoutCgo(t *testing.T) {
	newToken(t)
	bin := filepath.Join(t.TempDir(), "cardbridge")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(bin, "keys", "new", "--pkcs11", "pkcs11:token=bench", "--pkcs11-module", softhsm, filepath.Join(t.TempDir(), "x")).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(out), "built without PKCS#11: build with CGO_ENABLED=1")
}

// The server that a token refuses ends by a status of its own, for which systemd
// does not start it again. A token that is pulled while the server runs costs time
// and nothing else: what was asked for waits, no reader is blamed, and it goes on
// once the token is back.
func TestServeByToken(t *testing.T) {
	pinFile, keyset := newToken(t), filepath.Join(t.TempDir(), "server.json")
	flags := []string{"--pkcs11-module", softhsm, "--pkcs11-pin-file", pinFile}
	_, stderr, status := cli(t, append([]string{"keys", "new", "--single", "--pkcs11", "pkcs11:token=bench", keyset}, flags...)...)
	require.Zero(t, status, stderr)
	wrong := write(t, filepath.Join(t.TempDir(), "wrong"), []byte("1111\n"))
	_, stderr, status = cli(t, "serve", "--data", t.TempDir(), "--keyset", keyset, "--listen", "127.0.0.1:0", "--pkcs11-module", softhsm, "--pkcs11-pin-file", wrong)
	assert.Equal(t, exitPIN, status, stderr)
	assert.Contains(t, stderr, "CKR_PIN_INCORRECT")
	unit, err := os.ReadFile("../deb/files/cardbridge.service")
	require.NoError(t, err)
	assert.Contains(t, string(unit), fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitPIN))

	public, stderr, status := cli(t, append([]string{"keys", "public", keyset}, flags...)...)
	require.Zero(t, status, stderr)
	set, err := cryptogram.ParseKeySet([]byte(public))
	require.NoError(t, err)
	s := serve(t, "--insecure-http")
	require.NoError(t, s.stop())
	keys := newKeySource()
	keys.tokens.module, keys.tokens.pin.files = softhsm, []string{pinFile}
	s.startWith(func(v *serving) { v.keysets, v.keys = []string{keyset}, *keys })
	ours := func(im *appletsim.Image) { im.ServerKeySets = []cryptogram.KeySetPEM{set} }
	c := s.insert(2, ours, nil)
	s.insert(1, ours, nil)
	res, stderr, status := s.deactivate(1)
	require.Zero(t, status, stderr)
	assert.EqualValues(t, "done", res.State)

	tokens := filepath.Join(filepath.Dir(pinFile), "tokens")
	require.NoError(t, os.Rename(tokens, tokens+".away"))
	require.NoError(t, os.Mkdir(tokens, 0o700))
	out, _, err := s.ask(newDeactivateCmd(), "--eid", servertest.EID(2).String(), "--json")
	require.NoError(t, err)
	asked := lines[deactivateJSON](t, out)[0]
	require.Eventually(t, func() bool {
		return strings.Contains(s.log.String(), `level=ERROR msg="keys not usable" error="the server's own keys cannot be used: pkcs11: find token`)
	}, 20*time.Second, 10*time.Millisecond)
	assert.Contains(t, s.log.String(), "CKR_TOKEN_NOT_PRESENT")
	require.NoError(t, os.Remove(tokens))
	require.NoError(t, os.Rename(tokens+".away", tokens))
	require.Eventually(t, func() bool {
		out, _, err := s.ask(newRequestsCmd(), "--state", "done", "--json")
		require.NoError(t, err)
		return strings.Contains(out, asked.RequestID)
	}, 30*time.Second, 50*time.Millisecond)
	assert.Equal(t, appletsim.Disabled, c.Image().Profiles[0].State)
	assert.NotContains(t, s.log.String(), userPIN)
}
