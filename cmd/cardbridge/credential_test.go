package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
	assert.Regexp(t, `(?m)^\d+ +kim +read,request .* revoked *$`, out)
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
