//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

const (
	softhsm = "/usr/lib/softhsm/libsofthsm2.so"
	pin     = "648219"
)

// hsm is a SoftHSM of a test's own: the configuration and the token are in its
// directory.
type hsm struct {
	testing.TB
	dir string
}

func newHSM(t testing.TB) *hsm {
	h := &hsm{t, t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(h.dir, "tokens"), 0o700))
	conf := filepath.Join(h.dir, "softhsm2.conf")
	require.NoError(t, os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(h.dir, "tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	t.Setenv("SOFTHSM2_CONF", conf)
	h.init("bench")
	return h
}

func (h *hsm) init(label string) {
	h.tool("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", "73519842")
}

// tool runs a real tool on the tokens.
func (h *hsm) tool(name string, args ...string) string {
	h.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(h, err, "%s %v: %s", name, args, out)
	return string(out)
}

// vectorKey is a private key of the protocol's vectors.
func vectorKey(t testing.TB, name string) (pem string, key *rsa.PrivateKey) {
	f, err := vectors.Read()
	require.NoError(t, err)
	k, err := cryptogram.ParsePrivate(f.Keys[name])
	require.NoError(t, err)
	return f.Keys[name], k
}

// put imports a key of the vectors, under its name; SoftHSM's tool has it both
// sign and decrypt.
func (h *hsm) put(name, id string) *rsa.PrivateKey {
	h.Helper()
	pem, key := vectorKey(h, name)
	file := filepath.Join(h.TempDir(), "key.pem")
	require.NoError(h, os.WriteFile(file, []byte(pem), 0o600))
	h.tool("softhsm2-util", "--import", file, "--token", "bench", "--label", name, "--id", id, "--pin", pin)
	return key
}

// remove takes the token away, restore puts it back.
func (h *hsm) remove() {
	require.NoError(h, os.Rename(filepath.Join(h.dir, "tokens"), filepath.Join(h.dir, "away")))
	require.NoError(h, os.Mkdir(filepath.Join(h.dir, "tokens"), 0o700))
}

func (h *hsm) restore() {
	require.NoError(h, os.RemoveAll(filepath.Join(h.dir, "tokens")))
	require.NoError(h, os.Rename(filepath.Join(h.dir, "away"), filepath.Join(h.dir, "tokens")))
}

func fixedPIN(p string) func(context.Context, URI, string) (string, error) {
	return func(context.Context, URI, string) (string, error) { return p, nil }
}

// provider is one over SoftHSM.
func (h *hsm) provider() *Provider { return h.providerWith(Config{PIN: fixedPIN(pin)}) }

func (h *hsm) providerWith(c Config) *Provider {
	c.Module = softhsm
	p := New(c)
	h.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, CodeNotInitialized) {
			h.Error(err)
		}
	})
	return p
}

func (h *hsm) key(p *Provider, uri string) *Key {
	h.Helper()
	u, err := ParseURI(uri)
	require.NoError(h, err)
	k, err := p.Key(h.Context(), u)
	require.NoError(h, err)
	return k
}

// same verifies that a token's key does what the plain key does.
func same(t testing.TB, k *Key, plain *rsa.PrivateKey) {
	t.Helper()
	require.True(t, k.Public().Equal(&plain.PublicKey))
	soft, err := cryptogram.NewKey(plain)
	require.NoError(t, err)
	for _, c := range [][]byte{
		bytes.Repeat([]byte{0x5A}, plain.Size()),
		append(make([]byte, plain.Size()-1), 2),
		append(make([]byte, plain.Size()-1), 1),
		make([]byte, plain.Size()),
	} {
		want, err := soft.Private(t.Context(), c)
		require.NoError(t, err)
		got, err := k.Private(t.Context(), c)
		require.NoError(t, err)
		require.Equal(t, hex.EncodeToString(want), hex.EncodeToString(got))
	}
}
