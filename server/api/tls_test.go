package api_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/api/client"
)

func TestCertificateAndPin(t *testing.T) {
	dir := t.TempDir()
	cert, pin, err := api.Certificate(dir, time.Now())
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "tls.key"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	again, samePin, err := api.Certificate(dir, time.Now())
	require.NoError(t, err)
	assert.Equal(t, cert.Certificate, again.Certificate, "it is kept")
	renewed, renewedPin, err := api.Certificate(dir, time.Now().AddDate(20, 0, 0))
	require.NoError(t, err)
	assert.NotEqual(t, cert.Certificate, renewed.Certificate)
	assert.Equal(t, []string{pin, pin}, []string{samePin, renewedPin}, "the pin outlives the certificate")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.crt"), []byte("half a fi"), 0o600))
	_, mended, err := api.Certificate(dir, time.Now())
	require.NoError(t, err)
	assert.Equal(t, pin, mended)

	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	srv.StartTLS()
	defer srv.Close()
	get := func(pin string) error {
		config, err := client.PinnedTLS(pin)
		require.NoError(t, err)
		c := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		res, err := c.Get(srv.URL)
		if err == nil {
			err = res.Body.Close()
		}
		return err
	}
	assert.NoError(t, get(pin))
	_, otherPin, err := api.Certificate(t.TempDir(), time.Now())
	require.NoError(t, err)
	assert.ErrorIs(t, get(otherPin), client.ErrPin)
	for _, bad := range []string{"", "x", pin[1:], pin + "00"} {
		_, err := client.PinnedTLS(bad)
		assert.Error(t, err)
	}
}

func TestBadKeyFile(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "no PEM": "x", "no key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.key"), []byte(content), 0o600))
			_, _, err := api.Certificate(dir, time.Now())
			assert.ErrorContains(t, err, "tls.key", "a key is never replaced in silence")
		})
	}
}

// Others must not be able to read the key that clients pin.
func TestKeyFileOthersCanRead(t *testing.T) {
	dir := t.TempDir()
	_, _, err := api.Certificate(dir, time.Now())
	require.NoError(t, err)
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604} {
		require.NoError(t, os.Chmod(filepath.Join(dir, "tls.key"), mode))
		_, _, err = api.Certificate(dir, time.Now())
		assert.ErrorContains(t, err, "chmod 600")
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "tls.key"), 0o400))
	_, _, err = api.Certificate(dir, time.Now())
	assert.NoError(t, err)
}
