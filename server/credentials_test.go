package server_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

// why is what whoever is turned away is told.
func (r *rig) why(token string) string {
	_, err := r.Authenticate(r.Context(), token)
	assert.ErrorIs(r, err, server.ErrUnauthenticated)
	var told *server.Unauthenticated
	require.ErrorAs(r, err, &told)
	return told.Detail
}

func TestTokens(t *testing.T) {
	r := newRig(t)
	op, _, token, err := server.AddToken(t.Context(), r.store, "one", "default", server.Labelled("new"))
	require.NoError(t, err)
	assert.Regexp(t, regexp.MustCompile(`^cbt_[0-9A-Za-z]{49}$`), token)
	got, err := r.Authenticate(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, op, got)

	broken := r.why("nonsense")
	assert.Contains(t, broken, "checksum")
	for i := range token {
		typo := []byte(token)
		if typo[i]++; typo[i] == token[0] {
			typo[i]++
		}
		assert.Equal(t, broken, r.why(string(typo)))
		assert.Equal(t, broken, r.why(token[:i]+token[i+1:]))
	}
	assert.Equal(t, broken, r.why(token+"0"))
	assert.Contains(t, r.why(""), "bearer token is needed")

	// One made before there were checksums.
	var secret [32]byte
	rand.Read(secret[:])
	old := "cbt_" + base64.RawURLEncoding.EncodeToString(secret[:])
	nobodys := r.why(old)
	assert.Contains(t, nobodys, "cardbridge operator user token add")
	_, _, err = r.store.AddCredential(t.Context(), "one", "default", store.Grant{Hash: sha256.Sum256([]byte(old))})
	require.NoError(t, err)
	got, err = r.Authenticate(t.Context(), old)
	require.NoError(t, err)
	assert.Equal(t, op, got)
}

// A token is good for no more than its scope and its time, and what was taken
// away reads like what never was.
func TestTokensEnd(t *testing.T) {
	r := newRig(t)
	now := r.store.Now()
	_, c, scoped, err := server.AddToken(t.Context(), r.store, "one", "default", server.Scoped(store.MayRead))
	require.NoError(t, err)
	assert.WithinDuration(t, now.Add(server.DefaultLifetime), *c.ExpiresAt, time.Minute)
	op, err := r.Authenticate(t.Context(), scoped)
	require.NoError(t, err)
	assert.Equal(t, store.MayRead, op.User.Roles)

	// Uses are told to the record, beside the request.
	require.Eventually(t, func() bool {
		list, err := r.store.Credentials(t.Context(), "one", "", store.Token)
		require.NoError(t, err)
		return list[len(list)-1].UsedAt != nil
	}, 10*time.Second, time.Millisecond)

	_, _, brief, err := server.AddToken(t.Context(), r.store, "one", "default", server.Expires(r.store.Now().Add(50*time.Millisecond)))
	require.NoError(t, err)
	require.Eventually(t, func() bool { _, err := r.Authenticate(t.Context(), brief); return err != nil }, 10*time.Second, time.Millisecond)
	assert.Regexp(t, `^the token expired at 20.*Z; ask .* operator user token add`, r.why(brief))
	assert.Contains(t, r.log.String(), "credential refused")
	assert.NotContains(t, r.log.String(), brief)

	_, _, err = server.AddOperator(t.Context(), r.store, "elsewhere", r.other.MCCMNC, "", store.AllRoles)
	require.NoError(t, err)
	_, _, stranger, err := server.AddToken(t.Context(), r.store, "elsewhere", "default")
	require.NoError(t, err)
	_, _, _, err = server.NewToken(t.Context(), r.store, "elsewhere", "default")
	require.NoError(t, err)
	nobodys := r.why(stranger)
	_, err = r.store.RevokeCredential(t.Context(), "one", "default", store.Token, c.ID)
	require.NoError(t, err)
	assert.Equal(t, nobodys, r.why(scoped))
	assert.NotContains(t, nobodys, "revoked")
	_, _, err = r.store.RemoveUser(t.Context(), "one", "default", false)
	require.NoError(t, err)
	assert.Equal(t, nobodys, r.why(brief), "revoked before expired")

	_, _, _, err = server.AddToken(t.Context(), r.store, "elsewhere", "default", server.Expires(now.Add(-time.Second)))
	assert.ErrorIs(t, err, server.ErrInvalid)
	for _, label := range []string{"a\x1bb", strings.Repeat("l", 65), "\xff"} {
		_, _, _, err = server.AddToken(t.Context(), r.store, "elsewhere", "default", server.Labelled(label))
		assert.ErrorIs(t, err, server.ErrInvalid)
	}
}
