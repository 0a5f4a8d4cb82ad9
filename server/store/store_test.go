package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
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
	path  string
	clock *clock
	op    Operator
	eid   id.EID
	iccid id.ICCID
}

func testEID(n byte) id.EID {
	return id.EID{0x89, 0x04, 0x90, 0x32, 14: n/10<<4 | n%10}.WithCheckDigits()
}

func testICCID(t testing.TB, n int) id.ICCID {
	c, err := id.ParseICCID(fmt.Sprintf("898600%014d", n))
	require.NoError(t, err)
	return c
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{path: filepath.Join(t.TempDir(), "record.db"), clock: &clock{t: time.UnixMilli(1_800_000_000_000).UTC()}}
	var err error
	f.Store, err = Open(t.Context(), f.path, WithClock(f.clock.now))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	owner, err := id.ParseMCCMNC("46011")
	require.NoError(t, err)
	f.op, err = f.AddOperator(t.Context(), "one", owner, TokenHash(sha256.Sum256([]byte("one"))))
	require.NoError(t, err)
	f.eid, f.iccid = testEID(1), testICCID(t, 1)
	require.NoError(t, f.RegisterCard(t.Context(), f.op.ID, f.card(t, f.eid)))
	return f
}

func (f *fixture) card(t testing.TB, eid id.EID) Card {
	return Card{EID: eid, PublicKeys: []byte(`{"k":1}`), EventCounter: 5, Profiles: []Profile{
		{ICCID: testICCID(t, 1), Owner: f.op.MCCMNC, State: Enabled, Class: "operational", Provider: "P", Name: "N", PPR2: true, DisableAllowed: true},
		{ICCID: testICCID(t, 2), Owner: f.op.MCCMNC, State: Disabled, Class: "test", Fallback: true, DisableAllowed: true},
	}}
}

func requestID(n byte) id.RequestID { return id.RequestID{15: n} }

func (f *fixture) submission(n byte) Submission {
	return Submission{ID: requestID(n), Operator: f.op, EID: f.eid, ICCID: &f.iccid, Reason: 7, Deadline: f.clock.now().Add(time.Minute)}
}

func (f *fixture) submit(t testing.TB, n byte) Request {
	r, replayed, err := f.Submit(t.Context(), f.submission(n), func(c *Card) Verdict { return Verdict{ICCID: &f.iccid} })
	require.NoError(t, err)
	require.False(t, replayed)
	return r
}

func allow(*Card) Verdict { return Verdict{} }

func (f *fixture) mark(t testing.TB, r Request) {
	require.NoError(t, f.Authenticate(t.Context(), r.ID, Event{Kind: "authenticating"}))
	require.NoError(t, f.MarkSending(t.Context(), r.ID, 5, Event{Kind: "sending"}, allow))
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
	f := newFixture(t)
	info, err := os.Stat(f.path)
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
	f := newFixture(t)
	second, err := Open(t.Context(), f.path)
	require.NoError(t, err)
	defer second.Close()
	release, err := f.Own(t.Context())
	require.NoError(t, err)
	_, err = second.Own(t.Context())
	assert.ErrorIs(t, err, ErrInUse)
	_, err = second.AddOperator(t.Context(), "two", f.op.MCCMNC, TokenHash{2})
	assert.NoError(t, err, "records can be added all the same")
	require.NoError(t, release())
	release, err = second.Own(t.Context())
	require.NoError(t, err)
	require.NoError(t, release())
}

// Only a lock says that another server works; anything else names the file.
func TestOwnerFile(t *testing.T) {
	f := newFixture(t)
	release, err := f.Own(t.Context())
	require.NoError(t, err)
	info, err := os.Stat(f.path + ".owner")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, err = f.Own(t.Context())
	assert.ErrorIs(t, err, ErrInUse)
	assert.ErrorContains(t, err, f.path+".owner")
	require.NoError(t, release())
	require.NoError(t, os.WriteFile(f.path+".owner", []byte("this is no database, it only says so, at some length"), 0o600))
	_, err = f.Own(t.Context())
	assert.NotErrorIs(t, err, ErrInUse)
	assert.ErrorContains(t, err, f.path+".owner")
	require.NoError(t, os.Remove(f.path+".owner"))
	require.NoError(t, os.Mkdir(f.path+".owner", 0o700))
	_, err = f.Own(t.Context())
	assert.NotErrorIs(t, err, ErrInUse)
	assert.ErrorContains(t, err, f.path+".owner")
}

// What was well a while ago need not be now.
func TestPing(t *testing.T) {
	f := newFixture(t)
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
	f := newFixture(t)
	second, err := f.AddOperator(t.Context(), "two", f.op.MCCMNC, TokenHash{2})
	require.NoError(t, err)
	assert.ErrorIs(t, f.SetDisableAllowed(t.Context(), second, f.eid, f.iccid, false), ErrNotFound, "it has not registered the card")
	eids, err := f.CardsOf(t.Context(), second, "", 10)
	require.NoError(t, err)
	assert.Empty(t, eids)
	for _, want := range []bool{true, false} {
		fresh, err := f.Vouch(t.Context(), second, f.eid)
		require.NoError(t, err)
		assert.Equal(t, want, fresh)
	}
	c, err := f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.Equal(t, []int64{f.op.ID, second.ID}, c.RegisteredBy)
	assert.NoError(t, f.SetDisableAllowed(t.Context(), second, f.eid, f.iccid, false))
	stranger := second
	stranger.MCCMNC, err = id.ParseMCCMNC("26201")
	require.NoError(t, err)
	_, err = f.Vouch(t.Context(), stranger, f.eid)
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = f.Vouch(t.Context(), second, testEID(9))
	assert.ErrorIs(t, err, ErrNotFound)
}

// The last word before sending is the rules', by the record of that moment.
func TestMarkSendingRefused(t *testing.T) {
	f := newFixture(t)
	r := f.submit(t, 1)
	require.NoError(t, f.Authenticate(t.Context(), r.ID, Event{Kind: "authenticating"}))
	require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, f.iccid, false))
	err := f.MarkSending(t.Context(), r.ID, 5, Event{Kind: "sending"}, func(c *Card) Verdict {
		assert.False(t, c.Profile(f.iccid).DisableAllowed)
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
}

func TestOperators(t *testing.T) {
	f := newFixture(t)
	got, err := f.OperatorByToken(t.Context(), sha256.Sum256([]byte("one")))
	require.NoError(t, err)
	assert.Equal(t, f.op, got)
	_, err = f.OperatorByToken(t.Context(), sha256.Sum256([]byte("two")))
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = f.AddOperator(t.Context(), "one", f.op.MCCMNC, TokenHash{1})
	assert.ErrorIs(t, err, ErrExists)
}

func TestCards(t *testing.T) {
	f := newFixture(t)
	want := f.card(t, f.eid)
	got, err := f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.Equal(t, want.Profiles, got.Profiles)
	assert.Equal(t, want.EventCounter, got.EventCounter)
	assert.JSONEq(t, string(want.PublicKeys), string(got.PublicKeys))
	assert.Equal(t, []int64{f.op.ID}, got.RegisteredBy)
	assert.True(t, got.Unsettled, "the registrant's word")

	assert.ErrorIs(t, f.RegisterCard(t.Context(), f.op.ID, want), ErrExists)
	_, err = f.Card(t.Context(), testEID(9))
	assert.ErrorIs(t, err, ErrNotFound)

	bare := Card{EID: testEID(2), PublicKeys: []byte("{}")}
	require.NoError(t, f.RegisterCard(t.Context(), f.op.ID, bare))
	got, err = f.Card(t.Context(), bare.EID)
	require.NoError(t, err)
	assert.Empty(t, got.Profiles)

	require.NoError(t, f.RegisterCard(t.Context(), f.op.ID, f.card(t, testEID(3))))
	eids, err := f.CardsOf(t.Context(), f.op, "", 10)
	require.NoError(t, err)
	assert.ElementsMatch(t, []id.EID{f.eid, testEID(3)}, eids)
	eids, err = f.CardsOf(t.Context(), f.op, eids[0].String(), 10)
	require.NoError(t, err)
	assert.Len(t, eids, 1)
}

func TestPolicy(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, f.iccid, false))
	c, err := f.Card(t.Context(), f.eid)
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
	assert.Equal(t, map[string]any{"iccid": f.iccid.String(), "disable_allowed": false}, last.Detail)
}

func TestAuditTrailOnlyGrows(t *testing.T) {
	f := newFixture(t)
	for _, q := range []string{
		`UPDATE events SET kind = 'x'`, `DELETE FROM events`, `DELETE FROM events WHERE seq = 1`,
		`INSERT OR REPLACE INTO events (seq, at, kind, internal, detail) VALUES (1, 0, 'x', 0, '{}')`,
		`UPDATE OR IGNORE events SET seq = 99 WHERE seq = 1`,
	} {
		_, err := f.db.Exec(q)
		assert.ErrorContains(t, err, "append-only", q)
	}
	events, err := f.Events(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Len(t, events, 2)
	assert.Equal(t, "operator added", events[0].Kind)
	assert.Equal(t, "card registered", events[1].Kind)
}

func TestRequestDone(t *testing.T) {
	f := newFixture(t)
	r := f.submit(t, 1)
	assert.Equal(t, Accepted, r.State)
	assert.Equal(t, byte(7), r.Reason)
	f.mark(t, r)
	answer := &Answer{SW: 0x9000, Suite: 3, EventCounter: 6, Command: []byte{1}, Response: []byte{2}, Receipt: []byte{3}}
	r, err := f.Finish(t.Context(), r.ID, Outcome{
		State: Done, Answer: answer, Steps: []Event{{Kind: "done"}},
		Card: &CardState{EventCounter: 6, Profiles: []Profile{{ICCID: f.iccid, State: Disabled}, {ICCID: testICCID(t, 2), State: Enabled}}},
	})
	require.NoError(t, err)
	assert.Equal(t, Done, r.State)
	assert.Equal(t, answer, r.Answer)
	assert.NotNil(t, r.SentAt)
	assert.NotNil(t, r.FinishedAt)
	assert.Equal(t, []string{"decision", "accepted", "authenticating", "sending", "done"}, f.kinds(t, r))
	c, err := f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.Equal(t, uint32(6), c.EventCounter)
	assert.Equal(t, Disabled, c.Profiles[0].State)
	assert.Equal(t, Enabled, c.Profiles[1].State)
	assert.True(t, c.Profiles[0].PPR2, "only the state changes")

	_, err = f.Finish(t.Context(), r.ID, Outcome{State: Done, Answer: answer})
	assert.ErrorIs(t, err, ErrState, "an end is an end")
	_, err = f.NextRequest(t.Context(), f.eid)
	assert.ErrorIs(t, err, ErrNotFound)
}

func TestRefusedByRule(t *testing.T) {
	f := newFixture(t)
	refusal := &Refusal{Rule: "r", SubjectCode: "8.2.3", ReasonCode: "3.8", Text: "no"}
	sub := f.submission(1)
	sub.EID = testEID(9)
	r, _, err := f.Submit(t.Context(), sub, func(c *Card) Verdict {
		assert.Nil(t, c)
		return Verdict{Refusal: refusal}
	})
	require.NoError(t, err)
	assert.Equal(t, Refused, r.State)
	assert.Equal(t, refusal, r.Refusal)
	assert.NotNil(t, r.FinishedAt)
	assert.Nil(t, r.ICCID)
	assert.Nil(t, r.SentAt)
	assert.Equal(t, []string{"decision", "refused"}, f.kinds(t, r))
}

// What a request may become, by whether its command was sent.
func TestEndsThatAreNotAllowed(t *testing.T) {
	f := newFixture(t)
	answer := &Answer{Receipt: []byte{1}}
	r := f.submit(t, 1)
	for _, o := range []Outcome{{State: Done, Answer: answer}, {State: Unknown, Answer: answer}, {State: Refused, Answer: answer}, {State: Refused}, {State: Expired}, {State: Waiting}} {
		_, err := f.Finish(t.Context(), r.ID, o)
		assert.ErrorIs(t, err, ErrState, "%s before it was sent", o.State)
	}
	assert.ErrorIs(t, f.MarkSending(t.Context(), r.ID, 5, Event{}, allow), ErrState, "not authenticated")
	assert.ErrorIs(t, f.Lost(t.Context(), r.ID, Event{}), ErrState)
	f.mark(t, r)
	assert.ErrorIs(t, f.MarkSending(t.Context(), r.ID, 5, Event{}, allow), ErrState, "sent already")
	assert.ErrorIs(t, f.Wait(t.Context(), r.ID, Event{}), ErrState)
	assert.ErrorIs(t, f.Authenticate(t.Context(), r.ID, Event{}), ErrState)
	require.NoError(t, f.Lost(t.Context(), r.ID, Event{Kind: "unknown"}))
	for _, o := range []Outcome{{State: Failed}, {State: Done}, {State: Unknown}, {State: Refused, Refusal: &Refusal{Rule: "r"}}, {State: Expired}} {
		_, err := f.Finish(t.Context(), r.ID, o)
		assert.ErrorIs(t, err, ErrState, "%s after it was sent", o.State)
	}
	_, err := f.Finish(t.Context(), r.ID, Outcome{State: Unknown, Answer: answer})
	assert.NoError(t, err)
	assert.ErrorIs(t, f.Lost(t.Context(), r.ID, Event{}), ErrState, "what is finished stays")
	assert.NotContains(t, f.kinds(t, r), "")
}

func TestExpire(t *testing.T) {
	f := newFixture(t)
	waiting, sent, late := f.submit(t, 1), f.submit(t, 2), f.submit(t, 3)
	require.NoError(t, f.Wait(t.Context(), waiting.ID, Event{Kind: "waiting"}))
	f.mark(t, sent)
	require.NoError(t, f.Authenticate(t.Context(), late.ID, Event{Kind: "authenticating"}))
	list, err := f.Expire(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, list)
	f.clock.add(2 * time.Minute)
	assert.ErrorIs(t, f.MarkSending(t.Context(), late.ID, 5, Event{}, allow), ErrState, "the deadline has passed")
	list, err = f.Expire(t.Context(), 10)
	require.NoError(t, err)
	assert.Len(t, list, 2)
	for _, r := range []Request{waiting, late} {
		r, err := f.Request(t.Context(), r.ID)
		require.NoError(t, err)
		assert.Equal(t, Expired, r.State)
	}
	r, err := f.NextRequest(t.Context(), f.eid)
	require.NoError(t, err)
	assert.Equal(t, sent.ID, r.ID)
	assert.Equal(t, Sending, r.State, "what was sent does not expire")
}

func TestIdempotency(t *testing.T) {
	f := newFixture(t)
	decided := 0
	submit := func(n byte, op Operator, body string) (Request, bool, error) {
		sub := f.submission(n)
		sub.Operator, sub.Key, sub.BodyHash = op, "key", sha256.Sum256([]byte(body))
		return f.Submit(t.Context(), sub, func(*Card) Verdict { decided++; return Verdict{ICCID: &f.iccid} })
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
	other, err := f.AddOperator(t.Context(), "two", f.op.MCCMNC, TokenHash{2})
	require.NoError(t, err)
	_, replayed, err = submit(4, other, "b")
	require.NoError(t, err)
	assert.False(t, replayed, "keys are each operator's own")
	assert.Equal(t, 2, decided)
}

func TestConcurrentKeysMakeOneRequest(t *testing.T) {
	f := newFixture(t)
	second, err := Open(t.Context(), f.path) // as another process would
	require.NoError(t, err)
	defer second.Close()
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
			r, _, err := s.Submit(context.Background(), sub, func(*Card) Verdict { return Verdict{ICCID: &f.iccid} })
			ids[i], errs[i] = r.ID, err
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for _, r := range ids {
		assert.Equal(t, ids[0], r)
	}
	list, err := f.RequestsOf(t.Context(), f.op.ID, 0, 100)
	require.NoError(t, err)
	assert.Len(t, list, 1)
}

func TestSettle(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.SetDisableAllowed(t.Context(), f.op, f.eid, f.iccid, false))
	stale := CardState{EventCounter: 5, Profiles: []Profile{{ICCID: f.iccid, State: Disabled}}}
	require.NoError(t, f.RecordCard(t.Context(), f.eid, stale))
	c, err := f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.Equal(t, Enabled, c.Profiles[0].State, "an answer that is not newer changes nothing")

	// The first profile left the card, a third came.
	fresh := CardState{EventCounter: 9, Complete: true, Profiles: []Profile{
		{ICCID: testICCID(t, 2), Owner: f.op.MCCMNC, State: Disabled, Class: "test"},
		{ICCID: testICCID(t, 3), Owner: f.op.MCCMNC, State: Enabled, Class: "operational"},
	}}
	require.NoError(t, f.RecordCard(t.Context(), f.eid, fresh))
	c, err = f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	require.Len(t, c.Profiles, 3)
	assert.Equal(t, uint32(9), c.EventCounter)
	assert.Equal(t, Absent, c.Profile(f.iccid).State)
	assert.False(t, c.Profile(f.iccid).DisableAllowed, "policy outlives the profile")
	assert.Equal(t, Enabled, c.Profile(testICCID(t, 3)).State)
	assert.True(t, c.Profile(testICCID(t, 3)).DisableAllowed)
	assert.False(t, c.Profile(testICCID(t, 2)).Fallback)
}

func TestUnsettled(t *testing.T) {
	f := newFixture(t)
	r := f.submit(t, 1)
	f.mark(t, r)
	_, err := f.Finish(t.Context(), r.ID, Outcome{State: Done, Answer: &Answer{Receipt: []byte{1}}, Unsettled: true})
	require.NoError(t, err)
	c, err := f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.True(t, c.Unsettled)
	require.NoError(t, f.RecordCard(t.Context(), f.eid, CardState{EventCounter: 8, Profiles: []Profile{{ICCID: f.iccid, State: Disabled}}}))
	c, err = f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.True(t, c.Unsettled, "only GET STATUS settles")
	require.NoError(t, f.RecordCard(t.Context(), f.eid, CardState{EventCounter: 8, Complete: true}))
	c, err = f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.False(t, c.Unsettled)
}

func TestResume(t *testing.T) {
	f := newFixture(t)
	idle, auth, sent := f.submit(t, 1), f.submit(t, 2), f.submit(t, 3)
	require.NoError(t, f.Authenticate(t.Context(), auth.ID, Event{Kind: "authenticating"}))
	f.mark(t, sent)
	require.NoError(t, f.Resume(t.Context()))
	for r, want := range map[id.RequestID]State{idle.ID: Accepted, auth.ID: Waiting, sent.ID: Unknown} {
		got, err := f.Request(t.Context(), r)
		require.NoError(t, err)
		assert.Equal(t, want, got.State)
		assert.Nil(t, got.FinishedAt)
	}
	got, err := f.Request(t.Context(), sent.ID)
	require.NoError(t, err)
	assert.Equal(t, uint32(5), got.Counter, "the command can be sent again as it was")
}

// A transaction that fails in the middle leaves nothing, not even its events.
func TestFailureInTransactionLeavesNothing(t *testing.T) {
	f := newFixture(t)
	r := f.submit(t, 1)
	f.mark(t, r)
	before := f.kinds(t, r)
	_, err := f.Finish(t.Context(), r.ID, Outcome{
		State: Done, Answer: &Answer{Receipt: []byte{1}},
		Card:  &CardState{EventCounter: 6, Profiles: []Profile{{ICCID: f.iccid, State: "sideways"}}},
		Steps: []Event{{Kind: "done"}},
	})
	require.Error(t, err)
	got, err := f.Request(t.Context(), r.ID)
	require.NoError(t, err)
	assert.Equal(t, Sending, got.State)
	assert.Equal(t, before, f.kinds(t, r))
	c, err := f.Card(t.Context(), f.eid)
	require.NoError(t, err)
	assert.Equal(t, uint32(5), c.EventCounter)
}

// A crash within a transaction, seen from the file: a copy taken while the
// transaction is open has all that was committed and nothing else.
func TestCrashInTransaction(t *testing.T) {
	f := newFixture(t)
	r := f.submit(t, 1)
	tx, err := f.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Exec(`UPDATE deactivations SET state = 'failed', finished_at = 1`)
	require.NoError(t, err)
	require.NoError(t, f.addStep(t.Context(), tx, r, Event{Kind: "failed"}))
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(f.path + suffix)
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
	f := newFixture(t)
	require.NoError(t, migrateDown(t.Context(), f.db))
	var n int
	require.NoError(t, f.db.QueryRow(`SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('cards', 'events')`).Scan(&n))
	assert.Zero(t, n)
	require.NoError(t, migrate(t.Context(), f.db))
	_, err := f.Card(t.Context(), f.eid)
	assert.ErrorIs(t, err, ErrNotFound)
}

// No query on the way of a request may grow with the fleet.
func TestQueriesUseIndexes(t *testing.T) {
	f := newFixture(t)
	for _, q := range []string{
		`SELECT seq FROM deactivations WHERE eid = '1' AND finished_at IS NULL ORDER BY seq LIMIT 1`,
		`SELECT seq FROM deactivations WHERE finished_at IS NULL AND sent_at IS NULL AND deadline <= 1 ORDER BY deadline LIMIT 9`,
		`SELECT seq FROM deactivations WHERE operator_id = 1 AND seq < 9 ORDER BY seq DESC LIMIT 9`,
		`SELECT seq FROM events WHERE request_id = '1' AND seq > 1 AND internal <= 1 ORDER BY seq LIMIT 9`,
		`SELECT eid FROM registrations r WHERE operator_id = 1 AND eid > '' AND EXISTS (SELECT 1 FROM profiles p WHERE p.eid = r.eid AND p.mccmnc = '1') ORDER BY eid LIMIT 9`,
		`SELECT id FROM operators WHERE token_hash = x'00'`,
	} {
		plan, err := collect(t.Context(), f.db, func(row scanner) (string, error) {
			var a, b, c int
			var detail string
			return detail, row.Scan(&a, &b, &c, &detail)
		}, `EXPLAIN QUERY PLAN `+q)
		require.NoError(t, err)
		for _, line := range plan {
			assert.NotContains(t, line, "SCAN", q)
			assert.NotContains(t, line, "TEMP B-TREE", q)
		}
	}
}

func migrateDown(ctx context.Context, db *sql.DB) error {
	p, err := provider(db)
	if err != nil {
		return err
	}
	_, err = p.DownTo(ctx, 0)
	return err
}
