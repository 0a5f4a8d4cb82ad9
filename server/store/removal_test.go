package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A user that is removed leaves its requests, or takes those of which nothing was
// sent with it; those of others, and what was sent, go on.
func TestRemoveUserWithRequests(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		f.work = Work{}
		user := func(name string, n byte) Operator {
			op, err := f.AddUser(t.Context(), "one", User{Name: name, Roles: MayRequest}, Grant{Hash: Hash{n}})
			require.NoError(t, err)
			return op
		}
		asks := func(op Operator, n byte, hold string) {
			s := f.submission(n)
			s.Operator = op
			_, err := f.Submit(t.Context(), s, func(*Moment) Verdict {
				return Verdict{ICCID: &f.iccid, Window: time.Hour, Hold: hold, HoldUntil: f.clock.now().Add(time.Hour)}
			})
			require.NoError(t, err)
		}
		states := func() (out []State) {
			for n := byte(1); n <= 5; n++ {
				r, err := f.Request(t.Context(), requestID(n))
				require.NoError(t, err)
				out = append(out, r.State)
			}
			return out
		}
		kim := user("kim", 10)
		asks(kim, 1, "")
		f.mark(t, Request{ID: requestID(1), Operator: f.op.ID})
		asks(kim, 2, "")
		asks(kim, 3, "why")
		asks(f.op, 4, "")
		op, unsent, err := f.RemoveUser(t.Context(), "one", "kim", false)
		require.NoError(t, err)
		assert.Equal(t, "kim", op.User.Name)
		assert.Equal(t, 2, unsent)
		event := f.lastEvent(t)
		assert.Equal(t, "user removed", event.Kind)
		assert.Equal(t, []any{float64(2), false}, []any{event.Detail["unsent"], event.Detail["cancelled"]})
		asks(kim, 5, "") // it was under way
		assert.Equal(t, []State{Sending, Accepted, Held, Accepted, Accepted}, states())
		assert.EqualValues(t, 3, f.scope(t).Pending)

		_, _, err = f.RemoveUser(t.Context(), "one", "kim", false)
		assert.ErrorIs(t, err, ErrNotFound)
		_, unsent, err = f.RemoveUser(t.Context(), "one", "kim", true)
		require.NoError(t, err)
		assert.Equal(t, 3, unsent)
		assert.Equal(t, []State{Sending, Cancelled, Cancelled, Accepted, Cancelled}, states())
		assert.EqualValues(t, 1, f.scope(t).Pending, "their places are free")
		assert.Equal(t, "requests of a removed user cancelled", f.lastEvent(t).Kind)
		events, err := f.RequestEvents(t.Context(), requestID(3), 0, false, 100)
		require.NoError(t, err)
		last := events[len(events)-1]
		assert.Equal(t, []any{"cancelled", "administrator", "held"}, []any{last.Kind, last.Detail["by"], last.Detail["was"]})

		lee := user("lee", 11)
		asks(lee, 6, "")
		_, unsent, err = f.RemoveUser(t.Context(), "one", "lee", true)
		require.NoError(t, err)
		assert.Equal(t, 1, unsent)
		r, err := f.Request(t.Context(), requestID(6))
		require.NoError(t, err)
		assert.Equal(t, Cancelled, r.State)
		_, c, err := f.OperatorByCredential(t.Context(), Token, Hash{11})
		require.NoError(t, err)
		assert.Equal(t, TakenAway, c.State(f.clock.now()))
		for _, whose := range [][2]string{{"one", "none"}, {"none", "lee"}} {
			_, _, err = f.RemoveUser(t.Context(), whose[0], whose[1], true)
			assert.ErrorIs(t, err, ErrNotFound)
		}
	})
}
