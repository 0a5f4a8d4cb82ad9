package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/audit"
	"github.com/cardbridge/cardbridge/server/webhook"
)

func newAuditKey(t testing.TB) *audit.Key {
	secret, err := audit.NewKey("test")
	require.NoError(t, err)
	key, err := audit.ParseKey(secret)
	require.NoError(t, err)
	return key
}

// report is what a verification finds in the record.
func (f *fixture) report(t testing.TB, key *audit.Key, kept ...string) audit.Report {
	trail, err := f.Trail(t.Context())
	require.NoError(t, err)
	defer trail.Close()
	trusted, err := audit.Trust(key.Verifier())
	require.NoError(t, err)
	v, err := audit.NewVerifier(trusted, kept...)
	require.NoError(t, err)
	defer v.Close()
	r, err := trail.Verify(v, nil)
	require.NoError(t, err)
	return r
}

func (f *fixture) sign(t testing.TB, key *audit.Key, before string) string {
	note, err := f.Checkpoint(t.Context(), key, before)
	require.NoError(t, err)
	return note
}

// refused is a request that a rule refused: it is at its end.
func (f *fixture) refused(t testing.TB, n byte) {
	_, err := f.Submit(t.Context(), f.submission(n), func(*Moment) Verdict { return Verdict{Refusal: &Refusal{Rule: "r", Text: "no"}} })
	require.NoError(t, err)
}

func TestCheckpoints(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := newAuditKey(t)
		found := f.report(t, key)
		require.Len(t, found.Problems, 1)
		assert.Contains(t, found.Problems[0].Text, "no checkpoint")
		first := f.sign(t, key, "")
		require.NotEmpty(t, first)
		assert.Empty(t, f.sign(t, key, first), "nothing happened since")
		f.refused(t, 1)
		assert.Equal(t, int64(2), f.report(t, key).Unproven)
		f.clock.add(-time.Hour)
		second := f.sign(t, key, first)
		require.NotEmpty(t, second)
		r := f.report(t, key, first, second)
		assert.Empty(t, r.Problems, "also where the clock went back")
		assert.Zero(t, r.Unproven)
		assert.Equal(t, int64(1), r.Requests)
		assert.Equal(t, int64(2), r.Checkpoints)

		// An export is the same trail.
		trail, err := f.Trail(t.Context())
		require.NoError(t, err)
		defer trail.Close()
		f.refused(t, 2) // after its moment
		var b bytes.Buffer
		w := audit.NewWriter(&b)
		for l, err := range trail.Lines() {
			require.NoError(t, err)
			require.NoError(t, w.Write(l))
		}
		require.NoError(t, w.Close())
		trusted, err := audit.Trust(key.Verifier())
		require.NoError(t, err)
		v, err := audit.NewVerifier(trusted, second)
		require.NoError(t, err)
		defer v.Close()
		in := audit.NewReader(&b)
		for {
			l, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			require.NoError(t, v.Add(l))
		}
		out := v.End()
		assert.Empty(t, out.Problems)
		assert.Equal(t, r.Events, out.Events)

		for _, q := range []string{`UPDATE audit_checkpoints SET note = ''`, `DELETE FROM audit_checkpoints`} {
			_, err := f.db.Exec(q)
			assert.ErrorContains(t, err, "append-only", q)
		}
	})
}

// behindTriggers changes what only somebody with the database in hands can.
func (f *fixture) behindTriggers(t testing.TB, queries ...string) {
	var mend []string
	for table, names := range map[string][]string{
		"events": {"events_no_update", "events_no_delete", "events_no_replace", "events_chained"}, "audit_checkpoints": {"audit_checkpoints_no_update", "audit_checkpoints_no_delete"},
	} {
		if f.Shared() {
			_, err := f.db.Exec(`ALTER TABLE ` + table + ` DISABLE TRIGGER USER`)
			require.NoError(t, err)
			mend = append(mend, `ALTER TABLE `+table+` ENABLE TRIGGER USER`)
			continue
		}
		for _, name := range names {
			var create string
			require.NoError(t, f.db.QueryRow(`SELECT sql FROM sqlite_master WHERE name = ?`, name).Scan(&create))
			_, err := f.db.Exec(`DROP TRIGGER ` + name)
			require.NoError(t, err)
			mend = append(mend, create)
		}
	}
	for _, q := range append(queries, mend...) {
		_, err := f.db.Exec(q)
		require.NoError(t, err, q)
	}
}

// Whatever is changed in the database, around all its triggers, is found.
func TestTampering(t *testing.T) {
	for name, c := range map[string]struct{ change, why string }{
		"detail":             {`UPDATE events SET detail = '{}' WHERE kind = 'decision'`, "its hash is not"},
		"time":               {`UPDATE events SET at = at + 1 WHERE kind = 'accepted'`, "its hash is not"},
		"operator":           {`UPDATE events SET operator_id = NULL WHERE kind = 'accepted'`, "its hash is not"},
		"internal":           {`UPDATE events SET internal = NOT internal WHERE kind = 'accepted'`, "its hash is not"},
		"hash":               {`UPDATE events SET hash = (SELECT hash FROM events WHERE kind = 'decision') WHERE kind = 'accepted'`, "its hash is not"},
		"number":             {`UPDATE events SET n = n + 1 WHERE kind = 'accepted'`, "of chain"},
		"removed":            {`DELETE FROM events WHERE kind = 'accepted'`, "events were removed"},
		"first removed":      {`DELETE FROM events WHERE kind = 'chain begun'`, ""},
		"last removed":       {`DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)`, "it covers"},
		"unchained":          {`UPDATE events SET chain = NULL, n = NULL, hash = NULL WHERE kind = 'accepted'`, ""},
		"checkpoint":         {`UPDATE audit_checkpoints SET note = replace(note, 'events', 'Events') WHERE number = 1`, "signature"},
		"checkpoint removed": {`DELETE FROM audit_checkpoints WHERE number = 1`, ""},
		"end cut off":        {`DELETE FROM audit_checkpoints WHERE number > 1`, "cut off"},
		"request":            {`UPDATE deactivations SET state = 'expired', finished_at = 1`, "the record says"},
		"request removed":    {`DELETE FROM deactivations`, "it was removed"},
		"keys":               {`UPDATE cards SET public_keys = '{"k":2}'`, "keys of card"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, f *fixture) {
				key := newAuditKey(t)
				first := f.sign(t, key, "")
				f.submit(t, 1)
				second := f.sign(t, key, first)
				require.Empty(t, f.report(t, key, second).Problems)
				if f.Shared() && name == "unchained" {
					f.behindTriggers(t, `ALTER TABLE events DROP CONSTRAINT events_chained`)
				}
				change := c.change
				if f.Shared() {
					change = strings.Replace(change, `= '{"k":2}'`, `= '{"k":2}'::BYTEA`, 1)
				}
				f.behindTriggers(t, change)
				r := f.report(t, key, second)
				require.NotZero(t, r.Found)
				said := fmt.Sprint(r.Problems)
				assert.Contains(t, said, c.why)
			})
		})
	}
}

// A server that signed a checkpoint notices that it is another, or gone.
func TestCheckpointThatIsAnother(t *testing.T) {
	for name, change := range map[string]string{
		"gone": `DELETE FROM audit_checkpoints`, "another": `UPDATE audit_checkpoints SET note = note || 'x'`,
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, f *fixture) {
				key := newAuditKey(t)
				note := f.sign(t, key, "")
				f.behindTriggers(t, change)
				f.refused(t, 1)
				_, err := f.Checkpoint(t.Context(), key, note)
				assert.ErrorIs(t, err, ErrRewritten)
			})
		})
	}
}

// Several servers write and sign at the same time: one of them wins each number,
// and nothing is left out.
func TestServersSignTogether(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := newAuditKey(t)
		stores := []*Store{f.Store, f.open(t), f.open(t)}
		var wg, writers sync.WaitGroup
		done := make(chan struct{})
		for _, s := range stores {
			wg.Go(func() {
				last := ""
				for {
					note, err := s.Checkpoint(context.Background(), key, last)
					assert.NoError(t, err)
					if note != "" {
						last = note
					}
					select {
					case <-done:
						return
					default:
					}
				}
			})
		}
		for w := range 12 {
			writers.Go(func() {
				for n := range 15 {
					sub := f.submission(0)
					sub.ID = id.RequestID{0: byte(w), 1: byte(n), 2: 1}
					_, err := stores[w%3].Submit(context.Background(), sub, func(*Moment) Verdict { return Verdict{Window: time.Hour} })
					assert.NoError(t, err)
				}
			})
		}
		writers.Wait()
		close(done)
		wg.Wait()
		f.sign(t, key, "")
		r := f.report(t, key)
		assert.Empty(t, r.Problems)
		assert.Zero(t, r.Unproven)
		assert.Equal(t, int64(12*15), r.Requests)
		assert.Greater(t, r.Checkpoints, int64(1))
	})
}

// What another transaction has not committed is waited for, and one that never
// comes is not.
func TestCheckpointWaitsForNobody(t *testing.T) {
	f := onPostgres(t)
	key := newAuditKey(t)
	first := f.sign(t, key, "")
	other := f.open(t)
	inside, proceed := make(chan struct{}), make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- other.write(context.Background(), "slow", func(tx *tx) error {
			err := tx.addEvents(Event{Kind: "slow"}, Event{Kind: "slow"})
			close(inside)
			<-proceed
			return err
		})
	}()
	<-inside
	assert.Error(t, f.write(t.Context(), "undone", func(tx *tx) error {
		if err := tx.addEvents(Event{Kind: "undone"}); err != nil {
			return err
		}
		return errors.New("no")
	}))
	f.refused(t, 1)
	second := f.sign(t, key, first)
	c, err := audit.ParseCheckpoint(second)
	require.NoError(t, err)
	assert.NotEmpty(t, c.Missing)
	assert.Empty(t, f.report(t, key).Problems)
	close(proceed)
	require.NoError(t, <-ended)
	r := f.report(t, key)
	assert.Empty(t, r.Problems)
	assert.Equal(t, int64(3), r.Unproven, "its chain's beginning too")
	third := f.sign(t, key, second)
	r = f.report(t, key)
	assert.Empty(t, r.Problems)
	assert.Zero(t, r.Unproven)
	c, err = audit.ParseCheckpoint(third)
	require.NoError(t, err)
	assert.NotEmpty(t, c.Missing, "the number of what was undone")
	f.clock.add(audit.Patience + time.Minute)
	f.refused(t, 2)
	c, err = audit.ParseCheckpoint(f.sign(t, key, third))
	require.NoError(t, err)
	assert.Empty(t, c.Missing, "for ever")
	assert.Empty(t, f.report(t, key).Problems)
}

// A server that dies at a checkpoint's commit leaves it whole or not there.
func TestCheckpointOverFaults(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := newAuditKey(t)
		for _, committed := range []bool{false, true} {
			f.refused(t, map[bool]byte{false: 1, true: 2}[committed])
			died := errors.New("died")
			s := f.open(t, WithFaults(func(write string, c bool) error {
				if write == "checkpoint" && c == committed {
					return died
				}
				return nil
			}))
			_, err := s.Checkpoint(t.Context(), key, "")
			assert.ErrorIs(t, err, died)
			note := f.sign(t, key, "")
			assert.Equal(t, !committed, note != "")
			r := f.report(t, key)
			assert.Empty(t, r.Problems)
			assert.Zero(t, r.Unproven)
		}
	})
}

// Entries from before there were chains come first, and are held against what
// the first chain says of them.
func TestTrailOfAMigratedRecord(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		before := int64(4)
		if f.Shared() {
			before = 2
		}
		require.NoError(t, f.Downgrade(t.Context(), before))
		require.NoError(t, f.Close())
		f.Store = f.open(t)
		key := newAuditKey(t)
		f.refused(t, 1)
		require.NotEmpty(t, f.sign(t, key, ""))
		r := f.report(t, key)
		assert.Empty(t, r.Problems)
		assert.Greater(t, r.Earlier, int64(4))
		if f.Shared() {
			f.behindTriggers(t, `ALTER TABLE events DROP CONSTRAINT events_chained`)
		}
		f.behindTriggers(t, `UPDATE events SET kind = 'x' WHERE seq = 2`)
		r = f.report(t, key)
		require.NotZero(t, r.Found)
		assert.Contains(t, r.Problems[0].Text, "before there were chains")
	})
}

// What an operator's users do is in the trail, with who did it.
func TestAdministrativeActsAreEvents(t *testing.T) {
	f := onSQLite(t)
	require.NoError(t, f.SetCardGroups(t.Context(), f.op, f.eid, []string{"a"}))
	require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, f.iccid, false))
	secret, err := webhook.NewSecret()
	require.NoError(t, err)
	w, _, err := f.AddWebhook(t.Context(), f.op, Webhook{ID: "hook", URL: "https://example.org/secret", Secret: secret})
	require.NoError(t, err)
	d, _, err := f.TestWebhook(t.Context(), f.op, w.ID, "msg_1")
	require.NoError(t, err)
	_, err = f.Redeliver(t.Context(), f.op, w.ID, d.ID)
	require.NoError(t, err)
	f.clock.add(KeepPending + time.Hour)
	_, err = f.PruneDeliveries(t.Context(), 10)
	require.NoError(t, err)
	require.NoError(t, f.RemoveWebhook(t.Context(), f.op, w.ID))
	events, err := f.Events(t.Context(), 0, 100)
	require.NoError(t, err)
	users := map[string]any{}
	for _, e := range events {
		users[e.Kind] = e.Detail["user"]
	}
	for _, kind := range []string{"card registered", "groups set", "policy set", "webhook added", "webhook tested", "webhook message sent again", "webhook removed"} {
		assert.Equal(t, "first", users[kind], kind)
	}
	assert.Contains(t, users, "webhook messages forgotten")
	b, err := json.Marshal(events)
	require.NoError(t, err)
	assert.NotContains(t, string(b), "/secret")
}
