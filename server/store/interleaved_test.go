package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server/guard"
)

// onPostgres is a fixture with a connection of its own to get in the way of the
// store.
func onPostgres(t *testing.T) *fixture { return newFixture(t, postgres.Shared(t).NewDatabase(t, "")) }

// behind runs do while somebody else's transaction has done query, and lets that
// one commit once do waits for it and meanwhile was called.
func (f *fixture) behind(t *testing.T, meanwhile func(), do func() error, query string, args ...any) error {
	tx, err := f.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.ExecContext(t.Context(), query, args...)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- do() }()
	require.Eventually(t, func() bool {
		var n int
		err := f.db.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
		return err == nil && n > 0
	}, 10*time.Second, time.Millisecond, "it waits")
	meanwhile()
	require.NoError(t, tx.Commit())
	return <-done
}

// A mark that waits for a lock while its lease, or its deadline, passes is none.
func TestMarkThatWaitsPastItsLeaseOrDeadline(t *testing.T) {
	for name, after := range map[string]time.Duration{"lease": time.Minute, "deadline": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			f := onPostgres(t)
			f.settled(t)
			if name == "deadline" {
				f.me.Lease = 4 * time.Minute
			}
			sub := f.submission(1)
			sub.Timeout = 2 * time.Minute
			out, err := f.Submit(t.Context(), sub, func(*Moment) Verdict { return Verdict{Window: time.Hour} })
			require.NoError(t, err)
			f.claim(t)
			err = f.behind(t, func() { f.clock.add(after) }, func() error { return f.send(t, out.Request) },
				`SELECT 1 FROM guard_scopes WHERE operator_id = $1 FOR UPDATE`, f.op.ID)
			assert.Error(t, err)
			r, err := f.Request(t.Context(), out.ID)
			require.NoError(t, err)
			assert.Nil(t, r.SentAt)
		})
	}
}

// A request that is cancelled while a server takes over its card stays cancelled.
func TestClaimMeetsCancel(t *testing.T) {
	f := onPostgres(t)
	f.settled(t)
	r := f.submit(t, 1)
	require.NoError(t, f.Authenticate(t.Context(), f.claim(t), r.ID))
	f.clock.add(time.Minute - time.Second)
	require.NoError(t, f.Release(t.Context(), f.work.Claim))
	now := millis(f.clock.now())
	err := f.behind(t, func() {}, func() error {
		_, err := f.Claim(t.Context(), f.me, f.eid)
		return err
	}, `UPDATE deactivations SET state = 'cancelled', finished_at = $1 WHERE id = $2`, now, r.ID.String())
	assert.ErrorIs(t, err, ErrNotFound)
	r, err = f.Request(t.Context(), r.ID)
	require.NoError(t, err)
	assert.Equal(t, Cancelled, r.State)
}

// A request for a card with a command out does not overtake it.
func TestSubmitOvertakesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		first := f.submit(t, 1)
		f.mark(t, first)
		require.NoError(t, f.Lost(t.Context(), f.work.Claim, first.ID, nil, Event{Kind: "unknown"}))
		sub := f.submission(2)
		sub.Claim = &f.me
		out, err := f.Submit(t.Context(), sub, func(*Moment) Verdict { return Verdict{Window: time.Hour} })
		require.NoError(t, err)
		if out.Work != nil {
			assert.Equal(t, first.ID, out.Work.Request.ID, "one request for each EID at a time")
		}
	})
}

// A card that calls its profile by a name with NUL in it is a card like others.
func TestNameWithNUL(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		r := f.submit(t, 1)
		f.mark(t, r)
		c := f.card(t, f.eid)
		c.Profiles[0].Name = "N\x00"
		_, err := f.Finish(t.Context(), f.work.Claim, r.ID, Outcome{
			State: Done, Answer: &Answer{Receipt: []byte{1}}, Card: &CardState{EventCounter: 6, Complete: true, Profiles: c.Profiles},
		})
		assert.NoError(t, err)
	})
}

// Who writes once the record is closed is told so.
func TestWriteAfterClose(t *testing.T) {
	for range 20 {
		s, err := Open(t.Context(), filepath.Join(t.TempDir(), "record.db"))
		require.NoError(t, err)
		require.NoError(t, s.Close())
		done := make(chan error, 1)
		go func() { done <- s.Note(context.Background(), Event{Kind: "late"}) }()
		select {
		case err := <-done:
			assert.ErrorIs(t, err, errClosed)
		case <-time.After(10 * time.Second):
			require.Fail(t, "it waits for ever")
		}
	}
}

// Requests of several operators at once: no batch waits for another that waits
// for it. Where one did, its writes would be done twice.
func TestOperatorsDoNotDeadlock(t *testing.T) {
	f := onPostgres(t)
	ops := []Operator{f.op}
	for n := range 3 {
		op, err := f.AddOperator(t.Context(), fmt.Sprint("op", n), f.op.MCCMNC, User{Name: "u", Roles: AllRoles}, Grant{Hash: Hash{byte(n)}})
		require.NoError(t, err)
		_, err = f.Vouch(t.Context(), op, f.eid)
		require.NoError(t, err)
		ops = append(ops, op)
	}
	var decided atomic.Int64
	const callers, each = 64, 20
	var wg sync.WaitGroup
	for w := range callers {
		wg.Go(func() {
			for n := range each {
				sub := f.submission(0)
				sub.ID, sub.Operator = id.RequestID{0: byte(w), 1: byte(n), 2: 1}, ops[(w+n)%len(ops)]
				_, err := f.Submit(context.Background(), sub, func(m *Moment) Verdict {
					decided.Add(1)
					return budgeted{guard.NoLimit, guard.NoLimit}.admit(m)
				})
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, int64(callers*each), decided.Load())
}

// A claim that its server does not know of, since the answer to the commit was
// lost, passes, whatever else that server renews.
func TestClaimThatNobodyKnowsOfPasses(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		f.submit(t, 1)
		lost := errors.New("lost")
		var on atomic.Bool
		s := f.open(t, WithFaults(func(write string, committed bool) error {
			if on.Load() && committed {
				return lost
			}
			return nil
		}))
		on.Store(true)
		_, err := s.Claim(t.Context(), f.me, f.eid)
		require.ErrorIs(t, err, lost)
		on.Store(false)
		require.NoError(t, s.RegisterCard(t.Context(), f.op, f.card(t, testEID(2))))
		other, err := s.Claim(t.Context(), f.me, testEID(2))
		require.NoError(t, err)
		for range 3 {
			f.clock.add(f.me.Lease / 2)
			renewed, err := s.Renew(t.Context(), f.me, []id.EID{other.Claim.EID})
			require.NoError(t, err)
			assert.Equal(t, []id.EID{other.Claim.EID}, renewed)
		}
		_, err = f.Claim(t.Context(), Server{"another", time.Minute}, f.eid)
		assert.NoError(t, err)
	})
}

// A claim of a server that died before the clock went back passes all the same.
func TestClaimOfAClockThatWentBack(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		f.submit(t, 1)
		_, err := f.Claim(t.Context(), Server{"dead", 15 * time.Second}, f.eid)
		require.NoError(t, err)
		f.clock.add(-time.Minute)
		_, err = f.Claim(t.Context(), f.me, f.eid)
		assert.ErrorIs(t, err, ErrNotFound)
		f.clock.add(-time.Hour)
		waiting, err := f.Waiting(t.Context(), []id.EID{f.eid}, 1)
		require.NoError(t, err)
		assert.Len(t, waiting, 1)
		_, err = f.Claim(t.Context(), f.me, f.eid)
		assert.NoError(t, err)
	})
}
