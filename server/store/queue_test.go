package store

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestQueue(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		q, err := f.Queue(t.Context())
		require.NoError(t, err)
		assert.Equal(t, Queue{}, q)
		f.settled(t)
		first := f.submit(t, 1)
		began := f.clock.now()
		f.clock.add(time.Second)
		f.submit(t, 2)
		held, err := f.Submit(t.Context(), f.submission(3), func(*Moment) Verdict {
			return Verdict{ICCID: &f.iccid, Hold: "h", HoldUntil: f.clock.now().Add(time.Hour)}
		})
		require.NoError(t, err)
		q, err = f.Queue(t.Context())
		require.NoError(t, err)
		assert.Equal(t, Queue{Open: 2, Held: 1, Oldest: &began}, q)
		f.claim(t)
		require.NoError(t, f.send(t, first))
		sent := f.clock.now()
		q, err = f.Queue(t.Context())
		require.NoError(t, err)
		assert.Equal(t, Queue{Open: 2, Held: 1, Sending: 1, Oldest: &began, Sent: &sent}, q)
		require.NoError(t, f.Lost(t.Context(), f.work.Claim, first.ID, nil, Event{Kind: "unknown"}))
		q, err = f.Queue(t.Context())
		require.NoError(t, err)
		assert.Equal(t, Queue{Open: 2, Held: 1, Unknown: 1, Oldest: &began, Sent: &sent}, q)
		_, err = f.Cancel(t.Context(), f.op, held.ID)
		require.NoError(t, err)

		guarded, err := f.Guarded(t.Context(), 10)
		require.NoError(t, err)
		require.Len(t, guarded, 1)
		assert.Equal(t, "one", guarded[0].Name)
		assert.Equal(t, f.op.MCCMNC, guarded[0].MCCMNC)
		assert.Equal(t, int64(1), guarded[0].Scope.Fleet)
	})
}

// Looking at the queue walks what is open, by an index of it, and never all
// requests that there ever were.
func TestQueueUsesIndexes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		explain := `EXPLAIN QUERY PLAN `
		if f.Shared() {
			explain = `EXPLAIN `
		}
		for i, q := range []struct{ query, index string }{
			{queueOpen, "deactivations_(queue|open|by_deadline)"}, {queueHeld, "deactivations_held"}, {queueSent, "deactivations_sent"},
			{queueOldest, "deactivations_queue"}, {queueDeliveries, "webhook_deliveries_(due|by_request)"},
		} {
			lines := plan(t, f, explain, f.dialect.bind(q.query), i)
			assert.Regexp(t, q.index, strings.Join(lines, "\n"), q.query)
		}
	})
}

// Each request that comes into a state is told of once, when that is durable.
func TestArrivals(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var mu sync.Mutex
		got := map[arrival]int{}
		commits := 0
		f.Store = f.open(t, WithArrivals(func(state State, by string) {
			mu.Lock()
			defer mu.Unlock()
			got[arrival{state, by}]++
		}), WithCommits(func(writes int, took time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			commits++
			assert.Positive(t, writes)
			assert.NoError(t, err)
		}))
		f.settled(t)
		r := f.submit(t, 1)
		f.claim(t)
		require.NoError(t, f.send(t, r))
		require.NoError(t, f.Lost(t.Context(), f.work.Claim, r.ID, nil, Event{Kind: "unknown"}))
		f.claim(t)
		require.NoError(t, f.Lost(t.Context(), f.work.Claim, r.ID, nil, Event{Kind: "unknown"}), "again is not anew")
		f.claim(t)
		_, err := f.Finish(t.Context(), f.work.Claim, r.ID, Outcome{State: Done, Answer: &Answer{Receipt: []byte{1}}})
		require.NoError(t, err)
		hold := func(*Moment) Verdict {
			return Verdict{ICCID: &f.iccid, Hold: "h", HoldUntil: f.clock.now().Add(time.Minute)}
		}
		for n := byte(2); n <= 4; n++ {
			_, err = f.Submit(t.Context(), f.submission(n), hold)
			require.NoError(t, err)
		}
		op, err := f.AddUser(t.Context(), "one", User{Name: "second", Roles: AllRoles}, Grant{Hash: [32]byte{2}})
		require.NoError(t, err)
		_, err = f.Approve(t.Context(), op, requestID(2))
		require.NoError(t, err)
		_, err = f.Cancel(t.Context(), f.op, requestID(2))
		require.NoError(t, err)
		_, err = f.Reject(t.Context(), op, requestID(3), Refusal{Rule: "four-eyes", Text: "no"})
		require.NoError(t, err)
		f.clock.add(time.Hour)
		_, err = f.Expire(t.Context(), 10)
		require.NoError(t, err)
		_, err = f.Submit(t.Context(), f.submission(5), func(*Moment) Verdict { return Verdict{Refusal: &Refusal{Rule: "r", Text: "no"}} })
		require.NoError(t, err)
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, map[arrival]int{
			{Accepted, ByServer}: 1, {Unknown, ByServer}: 1, {Done, ByCard}: 1, {Held, ByServer}: 3, {Accepted, ByUser}: 1,
			{Cancelled, ByUser}: 1, {Refused, ByUser}: 1, {Expired, ByServer}: 1, {Refused, ByRule}: 1,
		}, got)
		assert.Greater(t, commits, 10)
	})
}
