package store

import (
	"crypto/sha256"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lastEvent is the newest of the audit trail.
func (f *fixture) lastEvent(t *testing.T) Event {
	events, err := f.Events(t.Context(), 0, 1000)
	require.NoError(t, err)
	require.NotEmpty(t, events)
	return events[len(events)-1]
}

func TestCredentials(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		by := func(kind CredentialKind, hash Hash) (Credential, error) {
			op, c, err := f.OperatorByCredential(t.Context(), kind, hash)
			if err == nil {
				assert.Equal(t, f.op, op)
			}
			return c, err
		}
		first, err := by(Token, sha256.Sum256([]byte("one")))
		require.NoError(t, err)
		assert.Equal(t, AllRoles, first.Roles)
		assert.Equal(t, Live, first.State(f.clock.now()))

		at := f.clock.now().Add(time.Hour)
		op, c, err := f.AddCredential(t.Context(), "one", "first", Grant{Hash: Hash{2}, Label: "l", Roles: MayRead, Expires: at})
		require.NoError(t, err)
		assert.Equal(t, f.op, op)
		assert.Equal(t, Credential{ID: c.ID, Kind: Token, User: "first", Hash: Hash{2}, Label: "l", Roles: MayRead, CreatedAt: f.clock.now(), ExpiresAt: &at}, c)
		event := f.lastEvent(t)
		assert.Equal(t, "credential added", event.Kind)
		assert.True(t, event.Internal)
		assert.Equal(t, map[string]any{
			"credential": float64(c.ID), "kind": "token", "label": "l", "roles": "read", "expires": "2027-01-15T09:00:00Z", "user": float64(op.User.ID), "name": "first",
		}, event.Detail)
		got, err := by(Token, Hash{2})
		require.NoError(t, err)
		assert.Equal(t, c, got)
		_, err = by(Certificate, Hash{2})
		assert.ErrorIs(t, err, ErrNotFound, "a key is no token")
		_, err = by(Token, Hash{3})
		assert.ErrorIs(t, err, ErrNotFound)

		assert.Equal(t, Live, c.State(at.Add(-time.Millisecond)))
		assert.Equal(t, OutOfDate, c.State(at))
		f.clock.add(time.Minute)
		_, err = f.RevokeCredential(t.Context(), "one", "first", Certificate, c.ID)
		assert.ErrorIs(t, err, ErrNotFound)
		revoked, err := f.RevokeCredential(t.Context(), "one", "first", Token, c.ID)
		require.NoError(t, err)
		assert.Equal(t, TakenAway, revoked.State(at))
		assert.Equal(t, "credential revoked", f.lastEvent(t).Kind)
		seq := f.lastEvent(t).Seq
		f.clock.add(time.Minute)
		again, err := f.RevokeCredential(t.Context(), "one", "first", Token, c.ID)
		require.NoError(t, err)
		assert.Equal(t, revoked, again)
		assert.Equal(t, seq, f.lastEvent(t).Seq, "nothing happened")

		for _, g := range []Grant{{Hash: Hash{2}}, {Hash: first.Hash}} {
			_, _, err = f.AddCredential(t.Context(), "one", "first", g)
			assert.ErrorIs(t, err, ErrExists)
		}
		_, err = f.AddUser(t.Context(), "one", User{Name: "weak", Roles: MayRead}, Grant{Hash: Hash{2}})
		assert.ErrorIs(t, err, ErrExists)
		_, _, err = f.AddCredential(t.Context(), "one", "weak", Grant{Hash: Hash{4}})
		assert.ErrorIs(t, err, ErrNotFound, "and no user without a credential")
		weak, err := f.AddUser(t.Context(), "one", User{Name: "weak", Roles: MayRead}, Grant{Hash: Hash{5}})
		require.NoError(t, err)
		_, _, err = f.AddCredential(t.Context(), "one", "weak", Grant{Hash: Hash{6}, Roles: MayRead | MayApprove})
		assert.ErrorIs(t, err, ErrRoles)
		_, err = f.RevokeCredential(t.Context(), "one", "weak", Token, first.ID)
		assert.ErrorIs(t, err, ErrNotFound, "another user's")

		// In place of all tokens, and of no certificate.
		_, cert, err := f.AddCredential(t.Context(), "one", "weak", Grant{Kind: Certificate, Hash: Hash{7}})
		require.NoError(t, err)
		assert.Equal(t, "0700000000000000000000000000000000000000000000000000000000000000", f.lastEvent(t).Detail["spki"])
		_, extra, err := f.AddCredential(t.Context(), "one", "weak", Grant{Hash: Hash{8}})
		require.NoError(t, err)
		_, _, err = f.SetToken(t.Context(), "one", "weak", Grant{Hash: Hash{8}})
		assert.ErrorIs(t, err, ErrExists)
		list, err := f.Credentials(t.Context(), "one", "weak", Token)
		require.NoError(t, err)
		require.Len(t, list, 2)
		assert.Nil(t, list[0].RevokedAt, "nothing is revoked without another")
		_, fresh, err := f.SetToken(t.Context(), "one", "weak", Grant{Hash: Hash{9}})
		require.NoError(t, err)
		event = f.lastEvent(t)
		assert.Equal(t, "token replaced", event.Kind)
		assert.Equal(t, []any{float64(list[0].ID), float64(extra.ID)}, event.Detail["revoked"])
		state := func(c Credential) string {
			all, err := f.Credentials(t.Context(), "one", "", c.Kind)
			require.NoError(t, err)
			for _, one := range all {
				if one.ID == c.ID {
					return one.State(f.clock.now())
				}
			}
			return "none"
		}
		assert.Equal(t, []string{TakenAway, TakenAway, Live, Live, Live}, []string{state(list[0]), state(extra), state(fresh), state(cert), state(first)})

		_, _, err = f.RemoveUser(t.Context(), "one", weak.User.Name, false)
		require.NoError(t, err)
		assert.Equal(t, []any{float64(cert.ID), float64(fresh.ID)}, f.lastEvent(t).Detail["revoked"])
		assert.Equal(t, []string{TakenAway, TakenAway, Live}, []string{state(fresh), state(cert), state(first)})
		_, err = f.Credentials(t.Context(), "two", "", Token)
		assert.ErrorIs(t, err, ErrNotFound)

		for n := byte(0); ; n++ {
			if _, _, err = f.AddCredential(t.Context(), "one", "first", Grant{Hash: Hash{100, n}}); err != nil {
				assert.EqualValues(t, maxOfAUser-1, n)
				break
			}
		}
		assert.ErrorIs(t, err, ErrTooMany)
	})
}

// At most one write an hour says that a credential was used.
func TestCredentialsUsed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		credential := func() Credential {
			_, c, err := f.OperatorByCredential(t.Context(), Token, sha256.Sum256([]byte("one")))
			require.NoError(t, err)
			return c
		}
		c := credential()
		assert.Nil(t, c.UsedAt)
		assert.True(t, c.Stale(f.clock.now()))
		first := f.clock.now()
		require.NoError(t, f.CredentialsUsed(t.Context(), []int64{c.ID, 999}))
		f.clock.add(59 * time.Minute)
		require.NoError(t, f.CredentialsUsed(t.Context(), []int64{c.ID}))
		c = credential()
		assert.Equal(t, first, *c.UsedAt)
		assert.False(t, c.Stale(f.clock.now()))
		f.clock.add(time.Minute)
		assert.True(t, c.Stale(f.clock.now()))
		require.NoError(t, f.CredentialsUsed(t.Context(), []int64{c.ID}))
		assert.Equal(t, f.clock.now(), *credential().UsedAt)
	})
}

// Users keep their tokens on the way up; on the way down nothing gets to be good
// for more than it was.
func TestMigratesCredentials(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		before := int64(3)
		if f.Shared() {
			before = 1
		}
		p, err := f.provider()
		require.NoError(t, err)
		_, err = f.AddUser(t.Context(), "one", User{Name: "gone", Roles: MayRead}, Grant{Hash: Hash{2}})
		require.NoError(t, err)
		_, _, err = f.RemoveUser(t.Context(), "one", "gone", false)
		require.NoError(t, err)
		f.submit(t, 1) // who asked is a user
		down := func() {
			_, err := p.DownTo(t.Context(), before)
			require.NoError(t, err)
			if !f.Shared() {
				var broken string
				assert.ErrorIs(t, f.db.QueryRow(`PRAGMA foreign_key_check`).Scan(&broken), sql.ErrNoRows)
			}
		}
		tokenOf := func(user string) (hash Hash) {
			var b []byte
			require.NoError(t, f.db.QueryRow(`SELECT token_hash FROM users WHERE name = '`+user+`'`).Scan(&b))
			require.Len(t, b, len(hash))
			return Hash(b)
		}
		one := Hash(sha256.Sum256([]byte("one")))
		down()
		assert.Equal(t, one, tokenOf("first"))
		assert.NotEqual(t, Hash{2}, tokenOf("gone"))
		require.NoError(t, f.migrate(t.Context()))

		f.Store = f.open(t)
		op, c, err := f.OperatorByCredential(t.Context(), Token, one)
		require.NoError(t, err)
		assert.Equal(t, f.op, op)
		assert.Equal(t, Credential{ID: c.ID, Kind: Token, User: "first", Hash: one, Label: "first", Roles: AllRoles, CreatedAt: f.op.CreatedAt}, c)
		list, err := f.Credentials(t.Context(), "one", "gone", Token)
		require.NoError(t, err)
		assert.Empty(t, list, "a user that was removed has none")
		for _, g := range []Grant{
			{Hash: Hash{3}}, // the newest that is good for all
			{Hash: Hash{4}, Roles: MayRead},
			{Hash: Hash{5}, Expires: f.clock.now().Add(time.Hour)},
			{Kind: Certificate, Hash: Hash{6}},
		} {
			_, _, err = f.AddCredential(t.Context(), "one", "first", g)
			require.NoError(t, err)
		}
		_, c, err = f.AddCredential(t.Context(), "one", "first", Grant{Hash: Hash{7}})
		require.NoError(t, err)
		_, err = f.RevokeCredential(t.Context(), "one", "first", Token, c.ID)
		require.NoError(t, err)
		down()
		assert.Equal(t, Hash{3}, tokenOf("first"))
		require.NoError(t, f.migrate(t.Context()))
		f.Store = f.open(t)
		_, _, err = f.OperatorByCredential(t.Context(), Token, Hash{3})
		require.NoError(t, err)
		_, err = f.AddUser(t.Context(), "one", User{Name: "next", Roles: MayRead}, Grant{Hash: Hash{8}})
		assert.NoError(t, err)
		_, err = f.Request(t.Context(), requestID(1))
		assert.NoError(t, err)
	})
}
