package store

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// plain registers a plain eUICC, which the test goes on with.
func (f *fixture) plain(t testing.TB) {
	c := f.card(t, testEID(3))
	c.Management, c.PublicKeys, c.EventCounter = ES10c, nil, 0
	require.NoError(t, f.RegisterCard(t.Context(), f.op, c))
	f.eid = c.EID
}

// A plain eUICC's request ends without an answer, and tells how it was sent.
func TestPlainEUICC(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		applet := f.submit(t, 9)
		f.mark(t, applet)
		_, err := f.Finish(t.Context(), f.work.Claim, applet.ID, Outcome{State: Done, Detail: "done"})
		assert.ErrorIs(t, err, ErrState, "the applet's needs its receipt")
		f.work = Work{}

		f.plain(t)
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, ES10c, c.Management)
		assert.Empty(t, c.PublicKeys)
		for n, state := range map[byte]State{1: Done, 2: Refused, 3: Failed, 4: Unknown} {
			r := f.submit(t, n)
			assert.Empty(t, r.How)
			f.mark(t, r)
			answer := Outcome{State: state, Answer: &Answer{Receipt: []byte{1}}}
			if state != Failed {
				_, err := f.Finish(t.Context(), f.work.Claim, r.ID, answer)
				assert.ErrorIs(t, err, ErrState, "it has none")
			}
			require.NoError(t, f.Lost(t.Context(), f.work.Claim, r.ID, nil))
			f.work = Work{}
			r, err := f.Finish(t.Context(), f.claim(t), r.ID, Outcome{State: state, Detail: "as it was read"})
			f.work = Work{}
			require.NoError(t, err, state)
			back, err := f.Request(t.Context(), r.ID)
			require.NoError(t, err)
			assert.Equal(t, r, back)
			assert.Equal(t, ES10c, r.How)
			assert.Zero(t, r.Counter)
			assert.Equal(t, state, r.State)
			assert.NotNil(t, r.FinishedAt)
			assert.Nil(t, r.Answer)
		}
	})
}

// The database itself keeps the two kinds of cards apart.
func TestManagementInSQL(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		applet, plain := f.submit(t, 1), Request{}
		f.mark(t, applet)
		f.work = Work{}
		f.plain(t)
		plain = f.submit(t, 2)
		f.mark(t, plain)
		for _, q := range []string{
			`UPDATE deactivations SET state = 'done', how = 'es10c', counter = NULL WHERE id = '` + applet.ID.String() + `'`,
			`UPDATE deactivations SET state = 'done' WHERE id = '` + applet.ID.String() + `'`,
			`UPDATE deactivations SET how = NULL WHERE id = '` + applet.ID.String() + `'`,
			`UPDATE deactivations SET how = 'applet', counter = 5 WHERE id = '` + plain.ID.String() + `'`,
			`UPDATE deactivations SET receipt = 'r' WHERE id = '` + plain.ID.String() + `'`,
			`UPDATE deactivations SET counter = 5 WHERE id = '` + plain.ID.String() + `'`,
			`UPDATE cards SET management = 'es10c', public_keys = '' WHERE management = 'applet'`,
			`UPDATE cards SET management = 'applet', public_keys = '{}' WHERE management = 'es10c'`,
			`UPDATE cards SET public_keys = '' WHERE management = 'applet'`,
			`UPDATE cards SET management = 'nothing' WHERE management = 'applet'`,
		} {
			_, err := f.db.Exec(q)
			assert.Error(t, err, q)
		}
		_, err := f.db.Exec(`UPDATE deactivations SET state = 'done' WHERE id = '` + plain.ID.String() + `'`)
		assert.NoError(t, err)
	})
}

// A record with plain eUICCs goes back to a program that has none, and comes
// again; what is done without a receipt is unknown to that one.
func TestMigratesPlainEUICCs(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		applet := f.submit(t, 1)
		f.mark(t, applet)
		f.work = Work{}
		f.plain(t)
		done, open := f.submit(t, 2), f.submit(t, 3)
		f.mark(t, done)
		_, err := f.Finish(t.Context(), f.work.Claim, done.ID, Outcome{State: Done})
		require.NoError(t, err)

		before := int64(5)
		if f.Shared() {
			before = 3
		}
		p, err := f.provider()
		require.NoError(t, err)
		_, err = p.DownTo(t.Context(), before)
		require.NoError(t, err)
		var state string
		var keys []byte
		require.NoError(t, f.db.QueryRow(f.dialect.bind(`SELECT d.state, c.public_keys FROM deactivations d JOIN cards c ON c.eid = d.eid WHERE d.id = ?`),
			done.ID.String()).Scan(&state, &keys))
		assert.Equal(t, "unknown", state)
		assert.Equal(t, "null", string(keys), "no card record")

		require.NoError(t, f.migrate(t.Context()))
		s := f.open(t)
		c, err := s.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, ES10c, c.Management)
		assert.Empty(t, c.PublicKeys)
		for r, how := range map[Request]Management{applet: Applet, done: ES10c, open: ""} {
			now, err := s.Request(t.Context(), r.ID)
			require.NoError(t, err)
			assert.Equal(t, how, now.How)
		}
		if !f.Shared() {
			var broken string
			assert.ErrorIs(t, f.db.QueryRow(`PRAGMA foreign_key_check`).Scan(&broken), sql.ErrNoRows)
		}
	})
}
