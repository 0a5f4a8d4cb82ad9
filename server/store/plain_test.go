package store

import (
	"database/sql"
	"sync"
	"testing"
	"time"

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
		var mu sync.Mutex
		by := map[arrival]int{}
		f.Store = f.open(t, WithArrivals(func(state State, who string) {
			mu.Lock()
			defer mu.Unlock()
			by[arrival{state, who}]++
		}))
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
		mu.Lock()
		defer mu.Unlock()
		for _, state := range []State{Done, Refused, Failed} {
			assert.Equal(t, 1, by[arrival{state, ByCard}], "%s: it was read from the card", state)
		}
		assert.Equal(t, 5, by[arrival{Unknown, ByServer}], "four answers lost, and one for good")
	})
}

// A plain eUICC that has other profiles at each reading does not fill the record;
// what operators know of a profile is kept whatever it says.
func TestPlainEUICCWithEverNewProfiles(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.plain(t)
		const most = 128 // profiles of one reading
		ours := f.card(t, f.eid).Profiles
		named, policy, idle := ours[0], ours[1], testICCID(t, 3)
		read := func(first int, more ...Profile) {
			state := CardState{Complete: true, Profiles: more}
			for n := range most - len(more) {
				state.Profiles = append(state.Profiles, Profile{ICCID: testICCID(t, first+n), Owner: f.op.MCCMNC, State: Disabled, Class: "operational"})
			}
			require.NoError(t, f.Unsettle(t.Context(), f.eid, Event{Kind: "card unsettled"}))
			require.NoError(t, f.RecordCard(t.Context(), f.claim(t), state))
			f.work = Work{}
		}
		read(1000, named, policy, Profile{ICCID: idle, Owner: f.op.MCCMNC, State: Disabled})
		require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, policy.ICCID, false))
		_, err := f.Submit(t.Context(), f.submission(1), func(*Moment) Verdict {
			return Verdict{ICCID: &named.ICCID, Refusal: &Refusal{Rule: "r", Text: "no"}}
		})
		require.NoError(t, err)
		for round := range 3 {
			read(2000 + 1000*round)
			c, err := f.Card(t.Context(), f.eid, f.op.ID)
			require.NoError(t, err)
			assert.LessOrEqual(t, len(c.Profiles), maxProfiles)
			there := 0
			for i, p := range c.Profiles {
				if p.State != Absent {
					there++
				}
				assert.True(t, p.State == Absent || i >= len(c.Profiles)-most, "the newest come last")
			}
			assert.Equal(t, most, there)
			require.NotNil(t, c.Profile(named.ICCID), "a request names it")
			require.NotNil(t, c.Profile(policy.ICCID), "its policy was set")
			assert.False(t, c.Profile(policy.ICCID).DisableAllowed)
			assert.Equal(t, round == 0, c.Profile(idle) != nil)
		}
		forgotten, _ := f.lastEvent(t).Detail["forgotten"].([]any)
		assert.Len(t, forgotten, most)
		assert.Contains(t, forgotten, testICCID(t, 2000+2).String(), "the oldest of those that nobody cares for")
		read(9000, named, policy)
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, []ProfileState{Enabled, Disabled}, []ProfileState{c.Profile(named.ICCID).State, c.Profile(policy.ICCID).State}, "they are back")
		assert.False(t, c.Profile(policy.ICCID).DisableAllowed)
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

// What was read just now, and a refusal or a wait for an approval rests on, is on
// record with it.
func TestVerdictIsRecordedWithItsCard(t *testing.T) {
	for name, v := range map[string]Verdict{
		"refused": {Refusal: &Refusal{Rule: "r", SubjectCode: "8.2.3", ReasonCode: "3.8", Text: "no"}},
		"held":    {Hold: "many", HoldUntil: time.Now().Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, f *fixture) {
				f.plain(t)
				before, err := f.Card(t.Context(), f.eid, 0)
				require.NoError(t, err)
				require.Equal(t, Enabled, before.Profile(f.iccid).State)
				read := before.Profiles
				for i := range read {
					read[i].State = Disabled
				}
				v.Card = &CardState{Complete: true, Profiles: read}
				r := f.submit(t, 1)
				err = f.MarkSending(t.Context(), f.claim(t), r, 0, nil, Event{Kind: "sending"}, func(*Moment, *Request) Verdict { return v })
				require.Error(t, err)
				r, err = f.Request(t.Context(), r.ID)
				require.NoError(t, err)
				assert.Equal(t, State(name), r.State)
				after, err := f.Card(t.Context(), f.eid, 0)
				require.NoError(t, err)
				assert.Equal(t, Disabled, after.Profile(f.iccid).State)
				assert.False(t, after.Unsettled)
			})
		})
	}
}
