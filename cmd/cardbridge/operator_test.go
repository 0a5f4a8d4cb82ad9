package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func TestTokenFile(t *testing.T) {
	s := &served{TB: t, dir: t.TempDir()}
	add := func(name string, args ...string) (string, string, error) {
		return s.execute(newOperatorCmd(), append([]string{"add", "--data", s.path("data"), "--mccmnc", "46011", name}, args...)...)
	}
	token := func() ([]byte, error) {
		r := remote{server: "http://127.0.0.1:1", tokenFile: s.path("token")}
		if _, err := r.client(); err != nil {
			return nil, err
		}
		return os.ReadFile(s.path("token"))
	}
	stdout, stderr, err := add("One", "--token-file", s.path("token"), "--json")
	require.NoError(t, err)
	info, err := os.Stat(s.path("token"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	first, err := token()
	require.NoError(t, err)
	assert.NotContains(t, stdout+stderr, strings.TrimSpace(string(first)))
	made := lines[operatorJSON](t, stdout)[0]
	assert.WithinDuration(t, time.Now().Add(server.DefaultLifetime), *made.Expires, time.Hour)
	made.Expires = nil
	assert.Equal(t, operatorJSON{Name: "One", MCCMNC: "46011", User: "default", Roles: "read,request,approve,administer", File: s.path("token")}, made)

	_, _, err = add("Two", "--token-file", s.path("token"))
	assert.ErrorIs(t, err, os.ErrExist)
	again, err := token()
	require.NoError(t, err)
	assert.Equal(t, string(first), string(again), "a token is not overwritten")
	_, _, err = add("Two", "--token-file", s.path("other"), "--mccmnc", "1")
	assert.Error(t, err)
	assert.NoFileExists(t, s.path("other"))
	s.write("file", nil)
	_, _, err = s.execute(newOperatorCmd(), "add", "--data", s.path("file"), "--mccmnc", "46011", "--token-file", s.path("other"), "One")
	assert.Error(t, err)
	assert.NoFileExists(t, s.path("other"), "no token, no file")
	stdout, _, err = s.execute(newAuditCmd(), "--data", s.path("data"), "--json")
	require.NoError(t, err)
	assert.Equal(t, 1, strings.Count(stdout, `"operator added"`), "one operator was added: %s", stdout)

	stdout, _, err = add("Two")
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(stdout, "cbt_"), "printed where no file is given")

	for _, mode := range []os.FileMode{0o640, 0o604, 0o644} {
		require.NoError(t, os.Chmod(s.path("token"), mode))
		_, err = token()
		assert.ErrorContains(t, err, "chmod 600")
	}
}

func TestAudit(t *testing.T) {
	s := serve(t, "--insecure-http")
	s.insert(1, nil, nil)
	s.insert(2, nil, nil)
	res, _, status := s.deactivate(1)
	require.Zero(t, status)
	s.deactivate(2)
	audit := func(args ...string) []eventJSON {
		out, _, err := s.execute(newAuditCmd(), append([]string{"--data", s.path("data"), "--json"}, args...)...)
		require.NoError(t, err)
		var events []eventJSON
		for line := range strings.Lines(out) {
			var e eventJSON
			require.NoError(t, json.Unmarshal([]byte(line), &e), "%s", line)
			events = append(events, e)
		}
		return events
	}
	all := audit() // while the server runs
	for i, e := range all {
		assert.False(t, e.At.IsZero())
		assert.True(t, i == 0 || e.Seq > all[i-1].Seq)
	}
	card := audit("--eid", servertest.EID(1).String())
	request := audit("--request", res.RequestID)
	assert.Greater(t, len(all), len(card))
	assert.Greater(t, len(card), len(request))
	var kinds []string
	for _, e := range request {
		kinds = append(kinds, e.Kind)
		assert.Equal(t, res.RequestID, e.RequestID.String())
	}
	assert.Subset(t, kinds, []string{"accepted", "authenticating", "sending", "done"})
	for _, e := range card {
		assert.Equal(t, servertest.EID(1), *e.EID)
	}
	for n := len(all); n <= 2*auditPage; n++ {
		_, _, err := s.execute(newOperatorCmd(), "add", "--data", s.path("data"), "--mccmnc", "46011", fmt.Sprint(n))
		require.NoError(t, err)
	}
	assert.Greater(t, len(audit()), 2*auditPage, "page after page")

	out, _, err := s.execute(newAuditCmd(), "--data", s.path("data"), "--request", res.RequestID)
	require.NoError(t, err)
	assert.Contains(t, out, "sending")
	assert.Equal(t, len(request), strings.Count(out, "\n"))

	for _, args := range [][]string{{"--data", s.path("none")}, {"--data", s.path("data"), "--eid", "1"}, {"--data", s.path("data"), "--request", "1"}} {
		_, _, err := s.execute(newAuditCmd(), args...)
		assert.Error(t, err)
	}
	assert.NoFileExists(t, s.path("none"))
}

// A session with a card goes on where its trace cannot.
func TestTracingFails(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	readers := servertest.NewReaders()
	readers.Insert("one", servertest.Card(servertest.Image(1)), nil)
	source := tracing{readers, filepath.Join(t.TempDir(), "gone")}
	conn, err := source.Open(t.Context(), "one", reader.Exclusive)
	require.NoError(t, err)
	_, err = conn.Transmit(t.Context(), []byte{0x80, 0xCA, 0x00, 0x5A, 0x00})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	assert.Contains(t, log.String(), "not traced")

	// The disk is full in the middle.
	source.dir = t.TempDir()
	conn, err = source.Open(t.Context(), "one", reader.Exclusive)
	require.NoError(t, err)
	require.NoError(t, conn.(*traced).file.Close())
	_, err = conn.Transmit(t.Context(), []byte{0x80, 0xCA, 0x00, 0x5A, 0x00})
	require.NoError(t, err)
	assert.NoError(t, conn.Close())
	assert.Contains(t, log.String(), "cut off")
}
