package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type fixture struct {
	*Store
	where string // as Open wants it
	clock *clock
	op    Operator
	eid   id.EID
	iccid id.ICCID
	me    Server
	work  Work // the claim that the test works under
}

func TestMain(m *testing.M) { postgres.Main(m) }

// each runs a test on both kinds of record: they behave alike.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Run("sqlite", func(t *testing.T) { test(t, newFixture(t, filepath.Join(t.TempDir(), "record.db"))) })
	t.Run("postgres", func(t *testing.T) {
		pg := postgres.Shared(t)
		require.NoError(t, pg.Template(t.Context(), "migrated", func(dsn string) error {
			s, err := Open(t.Context(), dsn)
			if err != nil {
				return err
			}
			return s.Close()
		}))
		test(t, newFixture(t, pg.NewDatabase(t, "migrated")))
	})
}

func onSQLite(t *testing.T) *fixture { return newFixture(t, filepath.Join(t.TempDir(), "record.db")) }

func testEID(n byte) id.EID {
	return id.EID{0x89, 0x04, 0x90, 0x32, 14: n/10<<4 | n%10}.WithCheckDigits()
}

func testICCID(t testing.TB, n int) id.ICCID {
	c, err := id.ParseICCID(fmt.Sprintf("898600%014d", n))
	require.NoError(t, err)
	return c
}

func newFixture(t testing.TB, where string) *fixture {
	f := &fixture{where: where, clock: &clock{t: time.UnixMilli(1_800_000_000_000).UTC()}, me: Server{"me", time.Minute}}
	f.Store = f.open(t)
	owner, err := id.ParseMCCMNC("46011")
	require.NoError(t, err)
	f.op, err = f.AddOperator(t.Context(), "one", owner, User{Name: "first", Roles: AllRoles}, Grant{Hash: sha256.Sum256([]byte("one"))})
	require.NoError(t, err)
	f.eid, f.iccid = testEID(1), testICCID(t, 1)
	require.NoError(t, f.RegisterCard(t.Context(), f.op, f.card(t, f.eid)))
	return f
}

// open opens the record once more, as another server would.
func (f *fixture) open(t testing.TB, opts ...Option) *Store {
	s, err := Open(t.Context(), f.where, append([]Option{WithClock(f.clock.now)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (f *fixture) card(t testing.TB, eid id.EID) Card {
	return Card{EID: eid, Management: Applet, PublicKeys: []byte(`{"k":1}`), EventCounter: 5, Profiles: []Profile{
		{ICCID: testICCID(t, 1), Owner: f.op.MCCMNC, State: Enabled, Class: "operational", Provider: "P", Name: "N", PPR2: true, DisableAllowed: true},
		{ICCID: testICCID(t, 2), Owner: f.op.MCCMNC, State: Disabled, Class: "test", Fallback: true, DisableAllowed: true},
	}}
}

func requestID(n byte) id.RequestID { return id.RequestID{15: n} }

func (f *fixture) submission(n byte) Submission {
	return Submission{ID: requestID(n), Operator: f.op, EID: f.eid, ICCID: &f.iccid, Reason: 7, Timeout: time.Minute}
}

func (f *fixture) submit(t testing.TB, n byte) Request {
	out, err := f.Submit(t.Context(), f.submission(n), func(*Moment) Verdict { return Verdict{ICCID: &f.iccid, Window: time.Hour} })
	require.NoError(t, err)
	require.False(t, out.Replayed)
	return out.Request
}

func allow(*Moment, *Request) Verdict { return Verdict{Window: time.Hour} }

// claim claims the card, which is free or not.
func (f *fixture) claim(t testing.TB) Claim {
	if f.work.Claim.Token != 0 {
		require.NoError(t, f.Release(t.Context(), f.work.Claim))
	}
	var err error
	f.work, err = f.Claim(t.Context(), f.me, f.eid)
	require.NoError(t, err)
	return f.work.Claim
}

func (f *fixture) send(t testing.TB, r Request) error {
	return f.MarkSending(t.Context(), f.work.Claim, r, 5, []Event{{Kind: "authenticating"}}, Event{Kind: "sending"}, allow)
}

func (f *fixture) mark(t testing.TB, r Request) {
	f.claim(t)
	require.NoError(t, f.send(t, r))
}

// settled reads the card's state, as it is on file.
func (f *fixture) settled(t testing.TB) {
	require.NoError(t, f.RecordCard(t.Context(), f.claim(t), CardState{EventCounter: 5, Complete: true, Profiles: f.card(t, f.eid).Profiles}))
}

func (f *fixture) kinds(t testing.TB, r Request) []string {
	events, err := f.RequestEvents(t.Context(), r.ID, 0, true, 100)
	require.NoError(t, err)
	var out []string
	for _, e := range events {
		out = append(out, e.Kind)
	}
	return out
}

func TestOpenKeepsPrivate(t *testing.T) {
	f := onSQLite(t)
	info, err := os.Stat(f.where)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		require.NoError(t, f.db.QueryRow("PRAGMA "+pragma).Scan(&got))
		assert.Equal(t, want, got, pragma)
	}
}

func TestOpenOddPathAndBadFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c#d%20")
	require.NoError(t, os.Mkdir(dir, 0o700))
	s, err := Open(t.Context(), filepath.Join(dir, "x&y=z.db"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	assert.FileExists(t, filepath.Join(dir, "x&y=z.db"))

	bad := filepath.Join(t.TempDir(), "bad.db")
	require.NoError(t, os.WriteFile(bad, make([]byte, 8192), 0o600))
	require.NoError(t, os.WriteFile(bad, []byte("this is no database, it only says so, at some length"), 0o600))
	_, err = Open(t.Context(), bad)
	assert.ErrorContains(t, err, "not a database")
}

func TestTwoOpenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.db")
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			s, err := Open(context.Background(), path)
			if errs[i] = err; err == nil {
				errs[i] = s.Close()
			}
		})
	}
	wg.Wait()
	assert.NoError(t, errors.Join(errs...))
}

func TestOneOwner(t *testing.T) {
	f := onSQLite(t)
	second, err := Open(t.Context(), f.where)
	require.NoError(t, err)
	defer second.Close()
	release, err := f.Own(t.Context())
	require.NoError(t, err)
	_, err = second.Own(t.Context())
	assert.ErrorIs(t, err, ErrInUse)
	_, err = second.AddOperator(t.Context(), "two", f.op.MCCMNC, User{Name: "u", Roles: AllRoles}, Grant{Hash: Hash{2}})
	assert.NoError(t, err, "records can be added all the same")
	require.NoError(t, release())
	release, err = second.Own(t.Context())
	require.NoError(t, err)
	require.NoError(t, release())
}

// Only a lock says that another server works; anything else names the file.
func TestOwnerFile(t *testing.T) {
	f := onSQLite(t)
	release, err := f.Own(t.Context())
	require.NoError(t, err)
	info, err := os.Stat(f.where + ".owner")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, err = f.Own(t.Context())
	assert.ErrorIs(t, err, ErrInUse)
	assert.ErrorContains(t, err, f.where+".owner")
	require.NoError(t, release())
	require.NoError(t, os.WriteFile(f.where+".owner", []byte("this is no database, it only says so, at some length"), 0o600))
	_, err = f.Own(t.Context())
	assert.NotErrorIs(t, err, ErrInUse)
	assert.ErrorContains(t, err, f.where+".owner")
	require.NoError(t, os.Remove(f.where+".owner"))
	require.NoError(t, os.Mkdir(f.where+".owner", 0o700))
	_, err = f.Own(t.Context())
	assert.NotErrorIs(t, err, ErrInUse)
	assert.ErrorContains(t, err, f.where+".owner")
}

// What was well a while ago need not be now.
func TestPing(t *testing.T) {
	f := onSQLite(t)
	require.NoError(t, f.Ping(t.Context()))
	_, err := f.db.Exec(`CREATE TRIGGER broken BEFORE UPDATE ON health BEGIN SELECT RAISE(ABORT, 'disk full'); END`)
	require.NoError(t, err)
	assert.NoError(t, f.Ping(t.Context()), "a write went well just now")
	f.clock.add(time.Minute)
	assert.ErrorContains(t, f.Ping(t.Context()), "disk full")
	_, err = f.db.Exec(`DROP TRIGGER broken`)
	require.NoError(t, err)
	assert.NoError(t, f.Ping(t.Context()))
}

func TestVouch(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		second, err := f.AddOperator(t.Context(), "two", f.op.MCCMNC, User{Name: "u", Roles: AllRoles}, Grant{Hash: Hash{2}})
		require.NoError(t, err)
		assert.ErrorIs(t, f.SetDisableAllowed(t.Context(), second, f.eid, f.iccid, false), ErrNotFound, "it has not registered the card")
		list, _, err := f.ListCards(t.Context(), second, CardFilter{}, "", 10)
		require.NoError(t, err)
		assert.Empty(t, list)
		for _, want := range []bool{true, false} {
			fresh, err := f.Vouch(t.Context(), second, f.eid)
			require.NoError(t, err)
			assert.Equal(t, want, fresh)
		}
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.True(t, c.Registered)
		c, err = f.Card(t.Context(), f.eid, second.ID)
		require.NoError(t, err)
		assert.True(t, c.Registered)
		c, err = f.Card(t.Context(), f.eid, 0)
		require.NoError(t, err)
		assert.False(t, c.Registered)
		assert.NoError(t, f.SetDisableAllowed(t.Context(), second, f.eid, f.iccid, false))
		stranger := second
		stranger.MCCMNC, err = id.ParseMCCMNC("26201")
		require.NoError(t, err)
		_, err = f.Vouch(t.Context(), stranger, f.eid)
		assert.ErrorIs(t, err, ErrNotFound)
		_, err = f.Vouch(t.Context(), second, testEID(9))
		assert.ErrorIs(t, err, ErrNotFound)
	})
}

// The last word before sending is the rules', by the record of that moment.
func TestMarkSendingRefused(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		r := f.submit(t, 1)
		require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, f.iccid, false))
		before := []Event{{Kind: "authenticating"}}
		err := f.MarkSending(t.Context(), f.claim(t), r, 5, before, Event{Kind: "sending"}, func(m *Moment, _ *Request) Verdict {
			assert.False(t, m.Card.Profile(f.iccid).DisableAllowed)
			return Verdict{Refusal: &Refusal{Rule: "r", SubjectCode: "8.2.3", ReasonCode: "3.8", Text: "no"}}
		})
		assert.ErrorIs(t, err, ErrRefused)
		r, err = f.Request(t.Context(), r.ID)
		require.NoError(t, err)
		assert.Equal(t, Refused, r.State)
		assert.Equal(t, "r", r.Refusal.Rule)
		assert.Nil(t, r.SentAt)
		assert.NotNil(t, r.FinishedAt)
		assert.Equal(t, []string{"decision", "accepted", "authenticating", "decision", "refused"}, f.kinds(t, r))
	})
}

func TestOperators(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		got, _, err := f.OperatorByCredential(t.Context(), Token, sha256.Sum256([]byte("one")))
		require.NoError(t, err)
		assert.Equal(t, f.op, got)
		_, _, err = f.OperatorByCredential(t.Context(), Token, sha256.Sum256([]byte("two")))
		assert.ErrorIs(t, err, ErrNotFound)
		_, err = f.AddOperator(t.Context(), "one", f.op.MCCMNC, User{Name: "u", Roles: AllRoles}, Grant{Hash: Hash{1}})
		assert.ErrorIs(t, err, ErrExists)
	})
}

func TestCards(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		want := f.card(t, f.eid)
		got, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		want.Profiles[0].EnabledAt = f.clock.now()
		assert.Equal(t, want.Profiles, got.Profiles)
		assert.Equal(t, want.EventCounter, got.EventCounter)
		assert.JSONEq(t, string(want.PublicKeys), string(got.PublicKeys))
		assert.True(t, got.Registered)
		assert.True(t, got.Unsettled, "the registrant's word")

		assert.ErrorIs(t, f.RegisterCard(t.Context(), f.op, want), ErrExists)
		_, err = f.Card(t.Context(), testEID(9), 0)
		assert.ErrorIs(t, err, ErrNotFound)

		bare := Card{EID: testEID(2), Management: Applet, PublicKeys: []byte("{}")}
		require.NoError(t, f.RegisterCard(t.Context(), f.op, bare))
		got, err = f.Card(t.Context(), bare.EID, 0)
		require.NoError(t, err)
		assert.Empty(t, got.Profiles)

		require.NoError(t, f.RegisterCard(t.Context(), f.op, f.card(t, testEID(3))))
		list, next, err := f.ListCards(t.Context(), f.op, CardFilter{}, "", 10)
		require.NoError(t, err)
		require.Len(t, list, 2)
		assert.ElementsMatch(t, []id.EID{f.eid, testEID(3)}, []id.EID{list[0].EID, list[1].EID})
		assert.Empty(t, next)
		again, err := f.Card(t.Context(), list[1].EID, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, again, list[1])
	})
}

func TestPolicy(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, f.iccid, false))
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.False(t, c.Profile(f.iccid).DisableAllowed)

		other := f.op
		other.MCCMNC, err = id.ParseMCCMNC("26201")
		require.NoError(t, err)
		assert.ErrorIs(t, f.SetDisableAllowed(t.Context(), other, f.eid, f.iccid, true), ErrNotFound)
		assert.ErrorIs(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, testICCID(t, 8), true), ErrNotFound)
		events, err := f.Events(t.Context(), 0, 100)
		require.NoError(t, err)
		last := events[len(events)-1]
		assert.Equal(t, "policy set", last.Kind)
		assert.Equal(t, map[string]any{"iccid": f.iccid.String(), "disable_allowed": false, "user": "first"}, last.Detail)
	})
}

func TestAuditTrailOnlyGrows(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		queries := []string{`UPDATE events SET kind = 'x'`, `DELETE FROM events`, `DELETE FROM events WHERE seq = 1`}
		if f.Shared() {
			queries = append(queries, `TRUNCATE events`,
				`INSERT INTO events (seq, at, kind, internal, detail, chain, n, hash) OVERRIDING SYSTEM VALUE VALUES (1, 0, 'x', FALSE, '{}', '', 1, '') ON CONFLICT (seq) DO UPDATE SET kind = 'x'`)
		} else {
			queries = append(queries, `UPDATE OR IGNORE events SET seq = 99 WHERE seq = 1`,
				`INSERT OR REPLACE INTO events (seq, at, kind, internal, detail, chain, n, hash) VALUES (1, 0, 'x', 0, '{}', x'00', 1, x'00')`)
		}
		for _, q := range queries {
			_, err := f.db.Exec(q)
			assert.ErrorContains(t, err, "append-only", q)
		}
		events, err := f.Events(t.Context(), 0, 10)
		require.NoError(t, err)
		var kinds []string
		for _, e := range events {
			if e.Kind != "chain begun" {
				kinds = append(kinds, e.Kind)
			}
		}
		assert.Equal(t, []string{"schema migrated", "operator added", "user added", "card registered"}, kinds)
	})
}

func TestRequestDone(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		r := f.submit(t, 1)
		assert.Equal(t, Accepted, r.State)
		assert.Equal(t, byte(7), r.Reason)
		f.mark(t, r)
		answer := &Answer{SW: 0x9000, Suite: 3, EventCounter: 6, Command: []byte{1}, Response: []byte{2}, Receipt: []byte{3}}
		r, err := f.Finish(t.Context(), f.work.Claim, r.ID, Outcome{
			State: Done, Answer: answer, Steps: []Event{{Kind: "done"}},
			Card: &CardState{EventCounter: 6, Profiles: []Profile{{ICCID: f.iccid, State: Disabled}, {ICCID: testICCID(t, 2), State: Enabled}}},
		})
		require.NoError(t, err)
		assert.Equal(t, Done, r.State)
		assert.Equal(t, answer, r.Answer)
		assert.NotNil(t, r.SentAt)
		assert.NotNil(t, r.FinishedAt)
		assert.Equal(t, []string{"decision", "accepted", "authenticating", "sending", "done"}, f.kinds(t, r))
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, uint32(6), c.EventCounter)
		assert.Equal(t, Disabled, c.Profiles[0].State)
		assert.Equal(t, Enabled, c.Profiles[1].State)
		assert.True(t, c.Profiles[0].PPR2, "only the state changes")

		f.claim(t) // the record is unsettled still
		assert.Nil(t, f.work.Request, "there is no next one")
		_, err = f.Finish(t.Context(), f.work.Claim, r.ID, Outcome{State: Done, Answer: answer})
		assert.ErrorIs(t, err, ErrState, "an end is an end")
	})
}

func TestRefusedByRule(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		refusal := &Refusal{Rule: "r", SubjectCode: "8.2.3", ReasonCode: "3.8", Text: "no"}
		sub := f.submission(1)
		sub.EID = testEID(9)
		out, err := f.Submit(t.Context(), sub, func(m *Moment) Verdict {
			assert.Nil(t, m.Card)
			return Verdict{Refusal: refusal}
		})
		require.NoError(t, err)
		r := out.Request
		assert.Equal(t, Refused, r.State)
		assert.Equal(t, refusal, r.Refusal)
		assert.NotNil(t, r.FinishedAt)
		assert.Nil(t, r.ICCID)
		assert.Nil(t, r.SentAt)
		assert.Equal(t, []string{"decision", "refused"}, f.kinds(t, r))
	})
}

// What a request may become, by whether its command was sent.
func TestEndsThatAreNotAllowed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		answer := &Answer{Receipt: []byte{1}}
		r := f.submit(t, 1)
		claim := f.claim(t)
		for _, o := range []Outcome{{State: Done, Answer: answer}, {State: Unknown, Answer: answer}, {State: Refused, Answer: answer}, {State: Refused}, {State: Waiting}} {
			_, err := f.Finish(t.Context(), claim, r.ID, o)
			assert.ErrorIs(t, err, ErrState, "%s before it was sent", o.State)
		}
		assert.ErrorIs(t, f.Lost(t.Context(), claim, r.ID, nil), ErrState)
		assert.ErrorIs(t, f.Again(t.Context(), claim, r.ID), ErrState)
		require.NoError(t, f.send(t, r))
		assert.ErrorIs(t, f.send(t, r), ErrState, "sent already")
		assert.ErrorIs(t, f.Wait(t.Context(), claim, r.ID), ErrState)
		assert.ErrorIs(t, f.Authenticate(t.Context(), claim, r.ID), ErrState)
		_, err := f.Cancel(t.Context(), f.op, r.ID)
		assert.ErrorIs(t, err, ErrState)
		require.NoError(t, f.Lost(t.Context(), claim, r.ID, nil, Event{Kind: "unknown"}))
		claim = f.claim(t)
		for _, o := range []Outcome{{State: Failed}, {State: Done}, {State: Unknown}, {State: Refused, Refusal: &Refusal{Rule: "r"}}, {State: Expired}, {State: Cancelled}} {
			_, err := f.Finish(t.Context(), claim, r.ID, o)
			assert.ErrorIs(t, err, ErrState, "%s after it was sent", o.State)
		}
		_, err = f.Finish(t.Context(), claim, r.ID, Outcome{State: Unknown, Answer: answer})
		assert.NoError(t, err)
		claim = f.claim(t)
		assert.ErrorIs(t, f.Lost(t.Context(), claim, r.ID, nil), ErrState, "what is finished stays")
		assert.NotContains(t, f.kinds(t, r), "")
	})
}

func TestExpire(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		waiting, sent, late := f.submit(t, 1), f.submit(t, 2), f.submit(t, 3)
		require.NoError(t, f.Wait(t.Context(), f.claim(t), waiting.ID, Event{Kind: "waiting"}))
		f.mark(t, sent)
		require.NoError(t, f.Authenticate(t.Context(), f.work.Claim, late.ID, Event{Kind: "authenticating"}))
		list, err := f.Expire(t.Context(), 10)
		require.NoError(t, err)
		assert.Empty(t, list)
		f.clock.add(59 * time.Second)
		_, err = f.Renew(t.Context(), f.me, []id.EID{f.eid})
		require.NoError(t, err)
		f.clock.add(time.Second)
		assert.ErrorIs(t, f.send(t, late), ErrState, "the deadline has passed")
		list, err = f.Expire(t.Context(), 10)
		require.NoError(t, err)
		assert.Len(t, list, 2)
		for _, r := range []Request{waiting, late} {
			r, err := f.Request(t.Context(), r.ID)
			require.NoError(t, err)
			assert.Equal(t, Expired, r.State)
		}
		scopes, err := f.Guard(t.Context(), f.op.ID)
		require.NoError(t, err)
		assert.Zero(t, scopes[0].Pending, "their places are given back")
		f.claim(t)
		require.NotNil(t, f.work.Request)
		assert.Equal(t, sent.ID, f.work.Request.ID, "what was sent does not expire")
	})
}

func TestIdempotency(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		decided := 0
		submit := func(n byte, op Operator, body string) (Request, bool, error) {
			sub := f.submission(n)
			sub.Operator, sub.Key, sub.BodyHash = op, "key", sha256.Sum256([]byte(body))
			out, err := f.Submit(t.Context(), sub, func(*Moment) Verdict { decided++; return Verdict{ICCID: &f.iccid} })
			return out.Request, out.Replayed, err
		}
		first, replayed, err := submit(1, f.op, "a")
		require.NoError(t, err)
		assert.False(t, replayed)
		again, replayed, err := submit(2, f.op, "a")
		require.NoError(t, err)
		assert.True(t, replayed)
		assert.Equal(t, first, again)
		_, _, err = submit(3, f.op, "b")
		assert.ErrorIs(t, err, ErrKeyReused)
		other, err := f.AddOperator(t.Context(), "two", f.op.MCCMNC, User{Name: "u", Roles: AllRoles}, Grant{Hash: Hash{2}})
		require.NoError(t, err)
		_, replayed, err = submit(4, other, "b")
		require.NoError(t, err)
		assert.False(t, replayed, "keys are each operator's own")
		assert.Equal(t, 2, decided)
	})
}

func TestConcurrentKeysMakeOneRequest(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		second := f.open(t)
		var wg sync.WaitGroup
		ids := make([]id.RequestID, 16)
		errs := make([]error, len(ids))
		for i := range ids {
			wg.Go(func() {
				s := f.Store
				if i%2 == 1 {
					s = second
				}
				sub := f.submission(byte(i + 1))
				sub.Key = "key"
				out, err := s.Submit(context.Background(), sub, func(*Moment) Verdict { return Verdict{ICCID: &f.iccid} })
				ids[i], errs[i] = out.ID, err
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		for _, r := range ids {
			assert.Equal(t, ids[0], r)
		}
		list, _, err := f.ListRequests(t.Context(), f.op.ID, RequestFilter{}, Place{}, 100)
		require.NoError(t, err)
		assert.Len(t, list, 1)
	})
}

func TestSettle(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, f.iccid, false))
		stale := CardState{EventCounter: 5, Profiles: []Profile{{ICCID: f.iccid, State: Disabled}}}
		require.NoError(t, f.RecordCard(t.Context(), f.claim(t), stale))
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, Enabled, c.Profiles[0].State, "an answer that is not newer changes nothing")

		// The first profile left the card, a third came.
		fresh := CardState{EventCounter: 9, Complete: true, Profiles: []Profile{
			{ICCID: testICCID(t, 2), Owner: f.op.MCCMNC, State: Disabled, Class: "test"},
			{ICCID: testICCID(t, 3), Owner: f.op.MCCMNC, State: Enabled, Class: "operational"},
		}}
		require.NoError(t, f.RecordCard(t.Context(), f.claim(t), fresh))
		c, err = f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		require.Len(t, c.Profiles, 3)
		assert.Equal(t, uint32(9), c.EventCounter)
		assert.Equal(t, Absent, c.Profile(f.iccid).State)
		assert.False(t, c.Profile(f.iccid).DisableAllowed, "policy outlives the profile")
		assert.Equal(t, Enabled, c.Profile(testICCID(t, 3)).State)
		assert.True(t, c.Profile(testICCID(t, 3)).DisableAllowed)
		assert.False(t, c.Profile(testICCID(t, 2)).Fallback)
	})
}

func TestUnsettled(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		r := f.submit(t, 1)
		f.mark(t, r)
		_, err := f.Finish(t.Context(), f.work.Claim, r.ID, Outcome{State: Done, Answer: &Answer{Receipt: []byte{1}}, Unsettled: true})
		require.NoError(t, err)
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.True(t, c.Unsettled)
		require.NoError(t, f.RecordCard(t.Context(), f.claim(t), CardState{EventCounter: 8, Profiles: []Profile{{ICCID: f.iccid, State: Disabled}}}))
		c, err = f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.True(t, c.Unsettled, "only GET STATUS settles")
		require.NoError(t, f.RecordCard(t.Context(), f.claim(t), CardState{EventCounter: 8, Complete: true}))
		c, err = f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.False(t, c.Unsettled)
	})
}

// What another server left in the middle goes on from where it can.
func TestTakenOver(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		auth := f.submit(t, 1)
		require.NoError(t, f.Authenticate(t.Context(), f.claim(t), auth.ID, Event{Kind: "authenticating"}))
		f.claim(t)
		assert.Equal(t, Waiting, f.work.Request.State)
		_, err := f.Cancel(t.Context(), f.op, auth.ID)
		require.NoError(t, err)
		sent := f.submit(t, 2)
		f.mark(t, sent)
		before := f.work.Claim
		f.work = Work{}
		f.clock.add(f.me.Lease + time.Second) // it died
		f.claim(t)
		r := f.work.Request
		require.NotNil(t, r)
		assert.Equal(t, sent.ID, r.ID)
		assert.Equal(t, Unknown, r.State)
		assert.Nil(t, r.FinishedAt)
		assert.Equal(t, uint32(5), r.Counter, "the command can be sent again as it was")
		assert.Greater(t, f.work.Claim.Token, before.Token)
		got, err := f.Request(t.Context(), sent.ID)
		require.NoError(t, err)
		assert.Equal(t, *r, got, "it is handed out as it is on file")
	})
}

// A transaction that fails in the middle leaves nothing, not even its events.
func TestFailureInTransactionLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		r := f.submit(t, 1)
		f.mark(t, r)
		before := f.kinds(t, r)
		_, err := f.Finish(t.Context(), f.work.Claim, r.ID, Outcome{
			State: Done, Answer: &Answer{Receipt: []byte{1}},
			Card:  &CardState{EventCounter: 6, Profiles: []Profile{{ICCID: f.iccid, State: "sideways"}}},
			Steps: []Event{{Kind: "done"}},
		})
		require.Error(t, err)
		got, err := f.Request(t.Context(), r.ID)
		require.NoError(t, err)
		assert.Equal(t, Sending, got.State)
		assert.Equal(t, before, f.kinds(t, r))
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, uint32(5), c.EventCounter)
	})
}

// A crash within a transaction, seen from the file: a copy taken while the
// transaction is open has all that was committed and nothing else.
func TestCrashInTransaction(t *testing.T) {
	f := onSQLite(t)
	r := f.submit(t, 1)
	tx, err := f.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Exec(`UPDATE deactivations SET state = 'failed', finished_at = 1`)
	require.NoError(t, err)
	_, err = tx.Exec(`INSERT INTO events (at, kind, request_id, internal, detail, chain, n, hash) VALUES (1, 'failed', ?, FALSE, '{}', x'00', 1, x'00')`, r.ID.String())
	require.NoError(t, err)
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(f.where + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "copy.db"+suffix), b, 0o600))
	}
	require.NoError(t, tx.Rollback())
	s, err := Open(t.Context(), filepath.Join(dir, "copy.db"))
	require.NoError(t, err)
	defer s.Close()
	got, err := s.Request(t.Context(), r.ID)
	require.NoError(t, err)
	assert.Equal(t, Accepted, got.State)
	events, err := s.RequestEvents(t.Context(), r.ID, 0, true, 10)
	require.NoError(t, err)
	assert.Len(t, events, 2)
}

func TestMigratesDownAndUp(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		down := func(to int64) {
			p, err := f.provider()
			require.NoError(t, err)
			_, err = p.DownTo(t.Context(), to)
			require.NoError(t, err)
		}
		down(0)
		var n int
		tables := `SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'trigger') AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%'`
		if f.Shared() {
			tables = `SELECT (SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'goose%')
			        + (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public')`
		}
		require.NoError(t, f.db.QueryRow(tables).Scan(&n))
		assert.Zero(t, n, "all is gone")
		require.NoError(t, f.migrate(t.Context()))
		_, err := f.Card(t.Context(), f.eid, f.op.ID)
		assert.ErrorIs(t, err, ErrNotFound)
	})
}

// A record of the first version keeps what it had, up and down again.
func TestMigratesRecords(t *testing.T) {
	f := onSQLite(t)
	p, err := f.provider()
	require.NoError(t, err)
	_, err = p.DownTo(t.Context(), 0)
	require.NoError(t, err)
	_, err = p.UpTo(t.Context(), 2)
	require.NoError(t, err)
	token := sha256.Sum256([]byte("token"))
	for _, q := range []string{
		`INSERT INTO operators (id, name, mccmnc, token_hash, created_at) VALUES (7, 'old', '46011', x'` + fmt.Sprintf("%x", token) + `', 1)`,
		`INSERT INTO cards (eid, public_keys, event_counter, registered_by, registered_at, updated_at) VALUES ('` + f.eid.String() + `', '{}', 5, 7, 1, 1)`,
		`INSERT INTO registrations VALUES ('` + f.eid.String() + `', 7, 1)`,
		`INSERT INTO deactivations (id, operator_id, mccmnc, eid, reason, deadline, state, created_at, updated_at, sent_at, counter)
		 VALUES ('` + requestID(1).String() + `', 7, '46011', '` + f.eid.String() + `', 3, 61000, 'unknown', 1000, 1000, 2000, 5)`,
		`INSERT INTO idempotency_keys VALUES (7, 'key', x'00', '` + requestID(1).String() + `', 1)`,
	} {
		_, err := f.db.Exec(q)
		require.NoError(t, err, q)
	}
	require.NoError(t, f.migrate(t.Context()))
	s := f.open(t)
	op, _, err := s.OperatorByCredential(t.Context(), Token, token)
	require.NoError(t, err)
	assert.Equal(t, int64(7), op.ID)
	assert.Equal(t, "default", op.User.Name)
	assert.Equal(t, AllRoles, op.User.Roles)
	r, err := s.Request(t.Context(), requestID(1))
	require.NoError(t, err)
	assert.Equal(t, Unknown, r.State)
	assert.Equal(t, op.User.ID, r.UserID)
	assert.Equal(t, time.Minute, r.Timeout)
	scopes, err := s.Guard(t.Context(), 7)
	require.NoError(t, err)
	require.Len(t, scopes, 1)
	assert.Equal(t, int64(1), scopes[0].Fleet)
	var broken string
	assert.ErrorIs(t, f.db.QueryRow(`PRAGMA foreign_key_check`).Scan(&broken), sql.ErrNoRows)
	sub := f.submission(2)
	sub.Operator = op
	_, err = s.Submit(t.Context(), sub, func(*Moment) Verdict { return Verdict{Hold: "h", HoldUntil: f.clock.now().Add(time.Hour)} })
	require.NoError(t, err)

	_, err = p.DownTo(t.Context(), 2)
	require.NoError(t, err)
	var state string
	require.NoError(t, f.db.QueryRow(`SELECT state FROM deactivations WHERE id = ?`, requestID(2).String()).Scan(&state))
	assert.Equal(t, "expired", state, "what waits for an approval does not go out without one")
	var hash []byte
	require.NoError(t, f.db.QueryRow(`SELECT token_hash FROM operators`).Scan(&hash))
	assert.Equal(t, token[:], hash)
	assert.ErrorIs(t, f.db.QueryRow(`PRAGMA foreign_key_check`).Scan(&broken), sql.ErrNoRows)
}

// No query on the way of a request may grow with the fleet: each that a whole
// deactivation makes finds its rows by an index.
func TestQueriesUseIndexes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		s, d, bind := f.open(t), *f.dialect, f.dialect.bind
		var mu sync.Mutex
		var queries []string
		d.bind = func(q string) string {
			mu.Lock()
			defer mu.Unlock()
			queries = append(queries, bind(q))
			return bind(q)
		}
		s.dialect = &d
		f.Store = s
		_, _, err := s.OperatorByCredential(t.Context(), Token, sha256.Sum256([]byte("one")))
		require.NoError(t, err)
		sub := f.submission(1)
		sub.Key, sub.Claim = "key", &f.me
		out, err := s.Submit(t.Context(), sub, func(*Moment) Verdict { return Verdict{ICCID: &f.iccid, Window: time.Hour} })
		require.NoError(t, err)
		f.work = *out.Work
		require.NoError(t, f.send(t, out.Request))
		require.NoError(t, s.Lost(t.Context(), f.work.Claim, out.ID, nil, Event{Kind: "unknown"}))
		waiting, err := s.Waiting(t.Context(), []id.EID{f.eid}, 10)
		require.NoError(t, err)
		require.Len(t, waiting, 1)
		f.work = Work{}
		f.claim(t)
		require.NoError(t, s.Again(t.Context(), f.work.Claim, out.ID, Event{Kind: "sending"}))
		_, err = s.Renew(t.Context(), f.me, []id.EID{f.eid})
		require.NoError(t, err)
		_, err = s.Finish(t.Context(), f.work.Claim, out.ID, Outcome{
			State: Done, Answer: &Answer{Receipt: []byte{1}},
			Card: &CardState{EventCounter: 6, Profiles: []Profile{{ICCID: f.iccid, State: Disabled}}}, Steps: []Event{{Kind: "done"}},
		})
		require.NoError(t, err)
		_, err = s.Expire(t.Context(), 10)
		require.NoError(t, err)
		for _, filter := range []RequestFilter{
			{}, {States: []State{Held}}, {EID: &f.eid}, {ICCID: &f.iccid}, {User: "u", Since: time.Now(), Until: time.Now()}, {States: []State{Done, Failed}, Group: "g"},
		} {
			_, _, err = s.ListRequests(t.Context(), f.op.ID, filter, Place{1, 1}, 10)
			require.NoError(t, err)
		}
		_, err = s.RequestEvents(t.Context(), out.ID, 0, true, 10)
		require.NoError(t, err)
		_, err = s.LastEvents(t.Context(), []id.RequestID{out.ID})
		require.NoError(t, err)
		for _, filter := range []CardFilter{{}, {ICCID: &f.iccid}, {State: Enabled, Group: "g"}} {
			_, _, err = s.ListCards(t.Context(), f.op, filter, "", 10)
			require.NoError(t, err)
		}

		explain, bad := `EXPLAIN QUERY PLAN `, []string{"SCAN", "TEMP B-TREE"}
		if f.Shared() {
			explain, bad = `EXPLAIN `, []string{"Seq Scan"}
		}
		assert.Greater(t, len(queries), 15)
		for i, q := range queries {
			first, _, _ := strings.Cut(strings.TrimSpace(q), " ")
			if first != "SELECT" && first != "UPDATE" {
				continue
			}
			for _, line := range plan(t, f, explain, q, i) {
				for _, b := range bad {
					if strings.Contains(line, "SCAN json_each") || strings.Contains(line, "USE TEMP B-TREE FOR") && strings.HasSuffix(q, "p.position") ||
						strings.Contains(line, "USE TEMP B-TREE FOR ORDER BY") && strings.Contains(q, "ORDER BY CASE") || strings.Contains(line, "GROUP BY") {
						continue // of a list argument, one card's profiles, one card's open requests
					}
					assert.NotContains(t, line, b, q)
				}
			}
		}
	})
}

// plan is how the database answers a query whose arguments are not known.
func plan(t *testing.T, f *fixture, explain, query string, i int) []string {
	conn, err := f.db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	if f.Shared() {
		n := strings.Count(query, "$")
		for _, q := range []string{`SET enable_seqscan = off` /* small tables are read as a whole for being small */, `SET plan_cache_mode = force_generic_plan`, fmt.Sprintf(`PREPARE q%d AS `, i) + query} {
			_, err := conn.ExecContext(t.Context(), q)
			require.NoError(t, err, q)
		}
		query = fmt.Sprintf(`EXECUTE q%d`, i)
		if n > 0 {
			query += `(` + strings.TrimSuffix(strings.Repeat("NULL,", n), ",") + `)`
		}
	}
	rows, err := conn.QueryContext(t.Context(), explain+query, make([]any, strings.Count(query, "?"))...)
	require.NoError(t, err, query)
	defer rows.Close()
	var out []string
	for rows.Next() {
		var a, b, c int
		var line string
		dest := []any{&a, &b, &c, &line}
		if f.Shared() {
			dest = dest[3:]
		}
		require.NoError(t, rows.Scan(dest...))
		out = append(out, line)
	}
	require.NoError(t, rows.Err())
	return out
}
