package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func TestExpiry(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000).UTC()
	for text, want := range map[string]time.Time{
		"never": {}, "90d": now.AddDate(0, 0, 90), "12h": now.Add(12 * time.Hour), "1s": now.Add(time.Second), "36600d": now.AddDate(0, 0, 36600),
	} {
		var e expiry
		require.NoError(t, e.Set(text))
		assert.Equal(t, want, e.from(now), text)
		var again expiry
		require.NoError(t, again.Set(e.String()))
		assert.Equal(t, e, again)
	}
	for _, text := range []string{"", "d", "0d", "0", "-1d", "-1h", "1", "36601d", "65536d", "99999999999d", "1.5d", "1ms", "Never", "for ever"} {
		var e expiry
		assert.Error(t, e.Set(text), text)
	}
}

// A token is changed without a gap: both are good until the one before is
// revoked.
func TestTokenRotation(t *testing.T) {
	s := serve(t, "--insecure-http")
	s.addUser("kim", "read,request")
	token := func(args ...string) (string, error) {
		out, _, err := s.administer(newOperatorCmd(), append([]string{"user", "token"}, append(args, "--operator", "One")...)...)
		return out, err
	}
	asked := func(file string) error {
		_, _, err := s.askAs(file, newRequestsCmd())
		return err
	}
	out, err := token("add", "--label", "second", "--expires", "30d", "--token-file", s.path("second"), "--json", "kim")
	require.NoError(t, err)
	second := lines[operatorJSON](t, out)[0]
	assert.Equal(t, "read,request", second.Roles)
	require.NoError(t, asked("kim"))
	require.NoError(t, asked("second"))
	var list []credentialJSON
	require.Eventually(t, func() bool {
		out, err = token("list", "--json", "kim")
		require.NoError(t, err)
		list = lines[credentialJSON](t, out)
		return len(list) == 2 && list[0].Used != nil && list[1].Used != nil
	}, 10*time.Second, 10*time.Millisecond, "uses are told")
	assert.Equal(t, second.Credential, list[1].ID)
	assert.Equal(t, "second", list[1].Label)
	out, err = token("revoke", "kim", fmt.Sprint(list[0].ID))
	require.NoError(t, err)
	assert.Contains(t, out, "is revoked since")
	assert.ErrorContains(t, asked("kim"), "operator user token add")
	require.NoError(t, asked("second"))

	_, err = token("add", "--label", "dashboard", "--roles", "read", "--expires", "never", "--token-file", s.path("narrow"), "kim")
	require.NoError(t, err)
	require.NoError(t, asked("narrow"))
	_, _, err = s.askAs("narrow", newDeactivateCmd(), "--eid", servertest.EID(1).String())
	assert.ErrorContains(t, err, "role request")
	out, err = token("list")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^\d+ +default .* live *$`, out, "of all users")
	assert.Regexp(t, `(?m)^\d+ +kim +first +read,request .* revoked *$`, out)
	assert.Regexp(t, `(?m)^\d+ +kim +dashboard +read +\S+ \S+ +never .* live *$`, out)

	_, err = token("replace", "--token-file", s.path("third"), "kim")
	require.NoError(t, err)
	assert.Error(t, asked("second"))
	assert.Error(t, asked("narrow"))
	require.NoError(t, asked("third"))
	_, err = token("--token-file", s.path("fourth"), "kim")
	require.NoError(t, err, "as before there were commands of it")
	assert.Error(t, asked("third"))
	require.NoError(t, asked("fourth"))

	for want, args := range map[string][]string{
		"not have these roles": {"add", "--roles", "read,approve", "kim"},
		"not found":            {"add", "nobody"},
		"such as 90d":          {"add", "--expires", "soon", "kim"},
		"no ID":                {"revoke", "kim", "x"},
		"token 999":            {"revoke", "kim", "999"},
		"printable":            {"add", "--label", "a\x1bb", "kim"},
	} {
		_, err := token(args...)
		assert.ErrorContains(t, err, want)
	}
	out, _, err = s.administer(newAuditCmd(), "--json")
	require.NoError(t, err)
	kinds := map[string]int{}
	for _, e := range lines[eventJSON](t, out) {
		kinds[e.Kind]++
	}
	assert.Equal(t, []int{2, 1, 2}, []int{kinds["credential added"], kinds["credential revoked"], kinds["token replaced"]})
}

// The lines of docs/operations.md on credentials do what it says, one after the
// other, in a new directory.
func TestCredentialsByTheBook(t *testing.T) {
	s := &served{TB: t, readers: servertest.NewReaders(), dir: t.TempDir(), log: &bufferOf{}}
	s.record = recordFlags{data: s.path("data")}
	s.write("server.json", servertest.KeySetFile())
	_, _, err := s.administer(newOperatorCmd(), "add", "--mccmnc", "46011", "--user", "kim", "--roles", "read,request", "--token-file", s.path("kim.token"), "Example Mobile")
	require.NoError(t, err)
	s.start()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", ".")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	lines := section(t, text, "## Credentials")
	said := map[string]string{}
	for _, line := range lines {
		if strings.HasPrefix(line, "cardbridge serve ") {
			require.NoError(t, s.stop())
			s.startWith(func(v *serving) { v.insecure, v.clientCA = false, s.path("ca.pem") })
			continue
		}
		if strings.Contains(line, " user remove ") {
			_, _, err := s.askAs("dashboard.token", newRequestsCmd())
			assert.NoError(t, err, "good until then")
		}
		cmd := exec.Command("/bin/sh", "-c", strings.ReplaceAll(line, "https://cards.example:8443", s.ready.URL))
		cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "PIN="+s.ready.Pin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s: %s%s", line, out, stderr.String())
		said[line] = string(out)
	}
	assert.Len(t, lines, 15)
	for line, out := range said {
		switch {
		case strings.Contains(line, "token list"):
			assert.Regexp(t, `(?m)^1 +kim +first .* live *$`, out)
			assert.Regexp(t, `(?m)^2 +kim +next .* live *$`, out)
		case strings.Contains(line, "token revoke"):
			assert.Contains(t, out, "token 1 of user")
		case strings.Contains(line, "certificate list"):
			assert.Regexp(t, `(?m)^4 +kim +kim +read,request .* live +[0-9a-f]{64}$`, out)
		}
	}
	for _, file := range []string{"kim.token", "dashboard.token"} {
		_, _, err := s.askAs(file, newRequestsCmd())
		assert.ErrorContains(t, err, "not one of a user", file)
	}
}

func TestClientCertificateFlags(t *testing.T) {
	s := serve(t)
	for want, args := range map[string][]string{
		"--token-file (or $CARDBRIDGE_TOKEN_FILE)": nil,
		"client-key":   {"--client-cert", s.path("server.json")},
		"no such file": {"--client-cert", s.path("none"), "--client-key", s.path("none")},
		"PEM":          {"--client-cert", s.path("token"), "--client-key", s.path("token")},
	} {
		_, _, err := s.execute(newRequestsCmd(), append(args, "--server", s.ready.URL, "--pin", s.ready.Pin)...)
		assert.ErrorContains(t, err, want)
	}
	for want, file := range map[string]string{"certificate in PEM": s.path("token"), "no such file": s.path("none")} {
		_, _, err := s.administer(newOperatorCmd(), "user", "certificate", "add", "--operator", "One", "default", file)
		assert.ErrorContains(t, err, want)
	}
	require.NoError(t, s.stop())
	v := serving{recordFlags: s.record, keysets: []string{s.path("server.json")}, listen: "127.0.0.1:0", insecure: true, clientCA: s.path("ca.pem")}
	assert.ErrorContains(t, v.run(t.Context(), &printer{out: io.Discard, err: io.Discard}, s.readers), "needs TLS")
	v.insecure = false
	assert.ErrorIs(t, v.run(t.Context(), &printer{out: io.Discard, err: io.Discard}, s.readers), os.ErrNotExist)
}

// A user that is removed is said to leave requests behind, and can be had to take
// them along.
func TestUserRemove(t *testing.T) {
	s := serve(t, "--insecure-http")
	s.addUser("kim", "read,request")
	remove := func(args ...string) (removedJSON, error) {
		out, _, err := s.administer(newOperatorCmd(), append([]string{"user", "remove", "--operator", "One", "--json"}, args...)...)
		if err != nil {
			return removedJSON{}, err
		}
		return lines[removedJSON](t, out)[0], nil
	}
	s.insert(1, nil, nil)
	s.readers.Remove(servertest.EID(1).String())
	out, _, err := s.askAs("kim", newDeactivateCmd(), "--eid", servertest.EID(1).String(), "--json")
	require.NoError(t, err)
	asked := lines[deactivateJSON](t, out)[0]
	out, _, err = s.administer(newOperatorCmd(), "user", "remove", "--operator", "One", "kim")
	require.NoError(t, err)
	assert.Contains(t, out, "go on: 1; ")
	assert.Contains(t, out, "--cancel-requests")
	_, err = remove("kim")
	assert.ErrorContains(t, err, "not found")
	is, err := remove("--cancel-requests", "kim")
	require.NoError(t, err)
	assert.Equal(t, removedJSON{operatorJSON{Name: "One", MCCMNC: "46011", User: "kim"}, 0, 1}, is)
	out, _, err = s.askAs("token", newRequestsCmd(), "--json", "--state", "cancelled")
	require.NoError(t, err)
	assert.Contains(t, out, asked.RequestID)
	assert.Contains(t, out, "the user who asked was removed")
	step := client.Step{Step: "cancelled", Detail: map[string]any{"by": "administrator", "text": "why"}}
	assert.Contains(t, describe(step), "why")
	step.Detail = map[string]any{"user": "lee"}
	assert.Contains(t, describe(step), "by user lee")
	out, _, err = s.administer(newOperatorCmd(), "user", "remove", "--operator", "One", "--cancel-requests", "kim")
	require.NoError(t, err)
	assert.Contains(t, out, "cancelled: 0")
}
