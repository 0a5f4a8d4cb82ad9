package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
)

// addRequest writes a request as it may have come about.
func (f *fixture) addRequest(t *testing.T, r Request) {
	_, err := f.db.ExecContext(t.Context(), f.dialect.bind(
		`INSERT INTO deactivations (id, operator_id, user_id, mccmnc, eid, iccid, reason, timeout, deadline, state, created_at, updated_at)
		 VALUES (?, ?, ?, ?, ?, ?, ?, 1, 1, ?, ?, 1)`),
		r.ID.String(), f.op.ID, r.UserID, f.op.MCCMNC.String(), r.EID.String(), r.ICCID.String(), int64(r.Reason), string(r.State), millis(r.CreatedAt))
	require.NoError(t, err)
}

// What a filter lets through, page by page, is what a search by hand finds, in
// the order of before, whatever is taken in meanwhile.
func TestListRequests(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.scanned = 7
		second, err := f.AddUser(t.Context(), "one", User{Name: "second", Roles: AllRoles}, Grant{Hash: Hash{2}})
		require.NoError(t, err)
		other := f.card(t, testEID(2))
		require.NoError(t, f.RegisterCard(t.Context(), f.op, other))
		require.NoError(t, f.SetCardGroups(t.Context(), f.op, other.EID, []string{"meters", "north"}))
		random := rand.New(rand.NewPCG(1, 2))
		start := f.clock.now()
		pick := func(n byte) Request {
			iccid := testICCID(t, 1+random.IntN(2))
			return Request{
				ID: requestID(n), EID: testEID(byte(1 + random.IntN(2))), ICCID: &iccid, Reason: byte(random.IntN(3)),
				UserID:    []int64{f.op.User.ID, second.User.ID}[random.IntN(2)],
				State:     []State{Accepted, Held, Waiting, Failed, Cancelled}[random.IntN(5)],
				CreatedAt: start.Add(time.Duration(random.IntN(20)) * time.Second),
			}
		}
		for n := range byte(60) {
			f.addRequest(t, pick(n))
		}
		all, next, err := f.ListRequests(t.Context(), f.op.ID, RequestFilter{}, Place{}, 100)
		require.NoError(t, err)
		require.Len(t, all, 60)
		assert.Nil(t, next)
		assert.True(t, slices.IsSortedFunc(all, func(a, b Request) int {
			if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
				return c
			}
			return int(b.Seq - a.Seq)
		}))
		reason := byte(2)
		filters := []RequestFilter{
			{}, {EID: &other.EID}, {ICCID: &f.iccid}, {EID: &other.EID, ICCID: &f.iccid, Reason: &reason},
			{States: []State{Held}}, {States: []State{Held, Failed}}, {States: []State{Waiting}, User: "second"}, {States: []State{Done}}, {User: "nobody"},
			{Group: "meters"}, {Group: "north", States: []State{Held}}, {Group: "nor"}, {Reason: &reason},
			{Since: start.Add(5 * time.Second)}, {Until: start.Add(5 * time.Second)},
			{Since: start.Add(5 * time.Second), Until: start.Add(9 * time.Second), User: "first"},
		}
		for i, filter := range filters {
			var want, got []id.RequestID
			for _, r := range all {
				user := "first"
				if r.UserID == second.User.ID {
					user = "second"
				}
				if (filter.EID == nil || *filter.EID == r.EID) && (filter.ICCID == nil || *filter.ICCID == *r.ICCID) &&
					(len(filter.States) == 0 || slices.Contains(filter.States, r.State)) && (filter.User == "" || filter.User == user) &&
					(filter.Reason == nil || *filter.Reason == r.Reason) &&
					(filter.Group == "" || r.EID == other.EID && filter.Group != "nor") &&
					!r.CreatedAt.Before(filter.Since) && (filter.Until.IsZero() || r.CreatedAt.Before(filter.Until)) {
					want = append(want, r.ID)
				}
			}
			for place, pages := (Place{}), 0; ; pages++ {
				require.Less(t, pages, 40)
				list, next, err := f.ListRequests(t.Context(), f.op.ID, filter, place, 3)
				require.NoError(t, err)
				require.LessOrEqual(t, len(list), 3)
				for _, r := range list {
					got = append(got, r.ID)
				}
				if next == nil {
					break
				}
				place = *next
				late := pick(byte(100 + 5*i + pages%5)) // comes before all pages that are still to come
				late.CreatedAt = start.Add(time.Hour)
				if pages < 3 {
					f.addRequest(t, late)
				}
			}
			_, err := f.db.ExecContext(t.Context(), f.dialect.bind(`DELETE FROM deactivations WHERE created_at = ?`), millis(start.Add(time.Hour)))
			require.NoError(t, err)
			assert.Equal(t, want, got, "%+v", filter)
		}
		list, _, err := f.ListRequests(t.Context(), f.op.ID+1, RequestFilter{EID: &f.eid}, Place{}, 10)
		require.NoError(t, err)
		assert.Empty(t, list, "another operator's")
	})
}

func TestListCards(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.scanned = 4
		for n := byte(2); n <= 20; n++ {
			c := f.card(t, testEID(n))
			for i := range c.Profiles {
				c.Profiles[i].ICCID = testICCID(t, 10*int(n)+i)
			}
			if n%5 == 0 {
				c.Profiles[0].State = Disabled
			}
			require.NoError(t, f.RegisterCard(t.Context(), f.op, c))
			if n%3 == 0 {
				require.NoError(t, f.SetCardGroups(t.Context(), f.op, c.EID, []string{"meters"}))
			}
		}
		_, err := f.db.ExecContext(t.Context(), f.dialect.bind(`UPDATE cards SET unsettled = ?`), false)
		require.NoError(t, err)
		require.NoError(t, f.Unsettle(t.Context(), testEID(7), Event{Kind: "x"}))
		yes, no, iccid := true, false, testICCID(t, 121)
		for _, tt := range []struct {
			filter CardFilter
			want   func(n int) bool
		}{
			{CardFilter{}, func(int) bool { return true }},
			{CardFilter{Group: "meters"}, func(n int) bool { return n > 1 && n%3 == 0 }},
			{CardFilter{State: Enabled}, func(n int) bool { return n%5 != 0 }},
			{CardFilter{ICCID: &iccid}, func(n int) bool { return n == 12 }},
			{CardFilter{ICCID: &iccid, State: Enabled}, func(int) bool { return false }},
			{CardFilter{ICCID: &iccid, State: Disabled}, func(n int) bool { return n == 12 }},
			{CardFilter{Unsettled: &yes}, func(n int) bool { return n == 7 }},
			{CardFilter{Unsettled: &no, Group: "meters"}, func(n int) bool { return n > 1 && n%3 == 0 }},
		} {
			var want, got []string
			for n := 1; n <= 20; n++ {
				if tt.want(n) {
					want = append(want, testEID(byte(n)).String())
				}
			}
			slices.Sort(want)
			for after, pages := "", 0; ; pages++ {
				require.Less(t, pages, 30)
				list, next, err := f.ListCards(t.Context(), f.op, tt.filter, after, 3)
				require.NoError(t, err)
				for _, c := range list {
					got = append(got, c.EID.String())
					one, err := f.Card(t.Context(), c.EID, f.op.ID)
					require.NoError(t, err)
					assert.Equal(t, one, c)
				}
				if after = next; next == "" {
					break
				}
			}
			assert.Equal(t, want, got, "%+v", tt.filter)
		}
	})
}

// Each list finds its rows by the index that is made for it.
func TestListsUseTheirIndexes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		explain := `EXPLAIN QUERY PLAN `
		if f.Shared() {
			explain = `EXPLAIN `
		}
		const rest = ` AND (created_at, seq) < (?, ?) ORDER BY created_at DESC, seq DESC LIMIT ?`
		for i, tt := range []struct{ query, index string }{
			{`SELECT id FROM deactivations WHERE operator_id = ?` + rest, "deactivations_by_operator"},
			{`SELECT id FROM deactivations WHERE operator_id = ? AND created_at >= ?` + rest, "deactivations_by_operator"},
			{`SELECT id FROM deactivations WHERE operator_id = ? AND eid = ?` + rest, "deactivations_by_card"},
			{`SELECT id FROM deactivations WHERE operator_id = ? AND iccid = ?` + rest, "deactivations_by_profile"},
			{`SELECT id FROM deactivations WHERE operator_id = ? AND state = 'held'` + rest, "deactivations_held"},
			{`SELECT eid FROM registrations WHERE operator_id = ? AND eid > ? AND eid IN (SELECT eid FROM profiles WHERE iccid = ? AND mccmnc = ?)`, "profiles_by_iccid"},
		} {
			lines := strings.Join(plan(t, f, explain, f.dialect.bind(tt.query), i), "\n")
			assert.Contains(t, lines, fmt.Sprint(tt.index), tt.query)
		}
	})
}
