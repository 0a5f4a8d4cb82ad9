package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/guard"
)

// budgeted decides by a budget alone.
type budgeted struct{ max, ceiling int64 }

func (b budgeted) limits(n int) []guard.Limits {
	out := make([]guard.Limits, n)
	for i := range out {
		out[i] = guard.Limits{Max: b.max, Ceiling: b.ceiling}
	}
	return out
}

func (b budgeted) verdict(d guard.Decision, now time.Time) Verdict {
	v := Verdict{Window: time.Hour}
	switch d.Kind {
	case guard.Hold:
		v.Hold, v.HoldUntil = d.Why, now.Add(24*time.Hour)
	case guard.Trip:
		v.Trip = d.Why
		fallthrough
	case guard.Tripped:
		v.Refusal = &Refusal{Rule: "guard", Text: d.Why}
	}
	return v
}

func (b budgeted) admit(m *Moment) Verdict {
	return b.verdict(guard.Admit(m.Guard, b.limits(len(m.Guard)), m.Now, time.Hour), m.Now)
}

func (b budgeted) send(m *Moment, r *Request) Verdict {
	d := guard.Send(m.Guard, b.limits(len(m.Guard)), r.Epoch, r.ApprovedAt != nil, m.Now, time.Hour)
	if d.Kind == guard.Tripped {
		d.Kind = guard.Hold
	}
	return b.verdict(d, m.Now)
}

// submitBy hands a request in, for a card of its own choice.
func (f *fixture) submitBy(t testing.TB, b budgeted, n byte) Request {
	out, err := f.Submit(t.Context(), f.submission(n), b.admit)
	require.NoError(t, err)
	return out.Request
}

func (f *fixture) scope(t testing.TB) guard.Scope {
	scopes, err := f.Guard(t.Context(), f.op.ID)
	require.NoError(t, err)
	return scopes[0]
}

// second is another user of the operator.
func (f *fixture) second(t testing.TB) Operator {
	op, err := f.AddUser(t.Context(), "one", User{Name: "second", Roles: MayApprove}, Grant{Hash: sha256.Sum256([]byte("second"))})
	require.NoError(t, err)
	return op
}

func TestHeldAndApproved(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		b, second := budgeted{1, guard.NoLimit}, f.second(t)
		first, held := f.submitBy(t, b, 1), f.submitBy(t, b, 2)
		assert.Equal(t, Accepted, first.State)
		assert.Equal(t, Held, held.State)
		assert.Contains(t, held.HeldWhy, "budget of 1")
		assert.Equal(t, int64(1), f.scope(t).Pending)
		assert.Equal(t, []string{"decision", "held"}, f.kinds(t, held))
		list, _, err := f.ListRequests(t.Context(), f.op.ID, RequestFilter{States: []State{Held}}, Place{}, 10)
		require.NoError(t, err)
		require.Len(t, list, 1)
		assert.Equal(t, held, list[0], "it is handed out as it is on file")

		_, err = f.Cancel(t.Context(), f.op, first.ID)
		require.NoError(t, err)
		assert.Zero(t, f.scope(t).Pending)
		_, err = f.Claim(t.Context(), f.me, f.eid)
		assert.ErrorIs(t, err, ErrNotFound, "nobody works on what waits for an approval")

		before := f.kinds(t, held)
		_, err = f.Approve(t.Context(), f.op, held.ID)
		assert.ErrorIs(t, err, ErrFourEyes)
		stranger, err := f.AddOperator(t.Context(), "two", f.op.MCCMNC, User{Name: "second", Roles: AllRoles}, Grant{Hash: Hash{2}})
		require.NoError(t, err)
		_, err = f.Approve(t.Context(), stranger, held.ID)
		assert.ErrorIs(t, err, ErrNotFound)
		_, err = f.Approve(t.Context(), second, first.ID)
		assert.ErrorIs(t, err, ErrState)
		_, err = f.Approve(t.Context(), second, requestID(99))
		assert.ErrorIs(t, err, ErrNotFound)
		assert.Equal(t, before, f.kinds(t, held), "nothing is recorded of those")

		f.clock.add(time.Hour)
		r, err := f.Approve(t.Context(), second, held.ID)
		require.NoError(t, err)
		assert.Equal(t, Accepted, r.State)
		assert.Equal(t, second.User.ID, r.ApprovedBy)
		assert.Equal(t, f.clock.now().Add(time.Minute), r.Deadline, "its time begins now")
		assert.Equal(t, int64(1), f.scope(t).Pending)
		_, err = f.Approve(t.Context(), second, held.ID)
		assert.ErrorIs(t, err, ErrState, "twice")

		require.NoError(t, f.MarkSending(t.Context(), f.claim(t), r, 5, nil, Event{Kind: "sending"}, budgeted{0, guard.NoLimit}.send), "beyond any budget")
		s := f.scope(t)
		_, sent := s.Counts.Sum(f.clock.now(), time.Hour)
		assert.Equal(t, int64(1), sent)
		assert.Zero(t, s.Pending)
	})
}

func TestApprovalThatComesTooLateAndRejection(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		b, second := budgeted{0, guard.NoLimit}, f.second(t)
		late, rejected := f.submitBy(t, b, 1), f.submitBy(t, b, 2)
		_, err := f.Reject(t.Context(), f.op, rejected.ID, Refusal{Rule: "approval", Text: "no"})
		assert.ErrorIs(t, err, ErrFourEyes)
		r, err := f.Reject(t.Context(), second, rejected.ID, Refusal{Rule: "approval", SubjectCode: "8.2.3", ReasonCode: "3.8", Text: "no"})
		require.NoError(t, err)
		assert.Equal(t, Refused, r.State)
		assert.Equal(t, "no", r.Refusal.Text)
		f.clock.add(24 * time.Hour)
		_, err = f.Approve(t.Context(), second, late.ID)
		assert.ErrorIs(t, err, ErrState)
		assert.ErrorContains(t, err, "too late")
		list, err := f.Expire(t.Context(), 10)
		require.NoError(t, err)
		require.Len(t, list, 1)
		assert.Equal(t, Expired, list[0].State)
		assert.Contains(t, list[0].Detail, "nobody approved")
	})
}

// A breaker that trips takes along what was let in before, and stays tripped
// until it is reset, over restarts.
func TestBreaker(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		b, second := budgeted{2, 4}, f.second(t)
		let := f.submitBy(t, b, 1)
		approved := f.submitBy(t, budgeted{0, 4}, 2)
		held := f.submitBy(t, budgeted{0, 4}, 3)
		_, err := f.Approve(t.Context(), second, approved.ID)
		require.NoError(t, err)
		assert.Equal(t, Accepted, f.submitBy(t, budgeted{9, 4}, 4).State)
		assert.Nil(t, f.scope(t).TrippedAt)
		trips := f.submitBy(t, b, 5)
		assert.Equal(t, Refused, trips.State)
		assert.Contains(t, trips.Detail, "more than 4")

		require.NoError(t, f.Close())
		f.Store = f.open(t)
		s := f.scope(t)
		require.NotNil(t, s.TrippedAt)
		assert.Zero(t, s.Pending)
		assert.Equal(t, Refused, f.submitBy(t, b, 6).State)
		_, err = f.Approve(t.Context(), second, held.ID)
		assert.ErrorIs(t, err, ErrTripped)
		f.clock.add(30 * time.Second)
		assert.Equal(t, Refused, f.submitBy(t, b, 7).State, "no time resets it")
		for _, r := range []Request{let, approved} {
			err := f.MarkSending(t.Context(), f.claim(t), r, 5, nil, Event{Kind: "sending"}, b.send)
			assert.ErrorIs(t, err, ErrHeld)
			now, err := f.Request(t.Context(), r.ID)
			require.NoError(t, err)
			assert.Equal(t, Held, now.State, "it is not dropped")
			assert.Nil(t, now.SentAt)
			assert.Nil(t, now.ApprovedAt)
		}
		_, err = f.ResetBreaker(t.Context(), "two")
		assert.ErrorIs(t, err, ErrNotFound)
		_, err = f.ResetBreaker(t.Context(), "one")
		require.NoError(t, err)
		_, err = f.ResetBreaker(t.Context(), "one")
		assert.ErrorIs(t, err, ErrState)
		assert.Equal(t, Accepted, f.submitBy(t, b, 8).State)
		r, err := f.Approve(t.Context(), second, let.ID)
		require.NoError(t, err)
		require.NoError(t, f.MarkSending(t.Context(), f.claim(t), r, 5, nil, Event{Kind: "sending"}, b.send), "approved anew")
	})
}

// A budget that became less holds what was let in under the larger one.
func TestBudgetBecomesLess(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		a, b := f.submitBy(t, budgeted{5, guard.NoLimit}, 1), f.submitBy(t, budgeted{5, guard.NoLimit}, 2)
		less := budgeted{1, guard.NoLimit}
		require.NoError(t, f.MarkSending(t.Context(), f.claim(t), a, 5, nil, Event{Kind: "sending"}, less.send))
		assert.ErrorIs(t, f.MarkSending(t.Context(), f.work.Claim, b, 5, nil, Event{Kind: "sending"}, less.send), ErrHeld)
		assert.Zero(t, f.scope(t).Pending)
	})
}

func TestCardGroups(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		require.NoError(t, f.SetCardGroups(t.Context(), f.op, f.eid, []string{"critical", "berlin"}))
		c, err := f.Card(t.Context(), f.eid, f.op.ID)
		require.NoError(t, err)
		assert.Equal(t, []string{"critical", "berlin"}, c.Groups)
		assert.ErrorIs(t, f.SetCardGroups(t.Context(), f.op, testEID(9), nil), ErrNotFound)
		for _, bad := range [][]string{{""}, {"a", ""}, {"a b"}, {" "}, {"a", "a"}, {"a", "b a"}} {
			assert.ErrorIs(t, f.SetCardGroups(t.Context(), f.op, f.eid, bad), ErrGroups, "%q", bad)
		}
		r := f.submitBy(t, budgeted{1, guard.NoLimit}, 1)
		assert.Equal(t, Accepted, r.State)
		scopes, err := f.Guard(t.Context(), f.op.ID)
		require.NoError(t, err)
		require.Len(t, scopes, 3)
		for _, s := range scopes {
			assert.Equal(t, int64(1), s.Fleet, s.Group)
			assert.Equal(t, int64(1), s.Pending, s.Group)
		}
		// The request keeps its places where the card goes to other groups.
		require.NoError(t, f.SetCardGroups(t.Context(), f.op, f.eid, []string{"berlin", "paris"}))
		_, err = f.Cancel(t.Context(), f.op, r.ID)
		require.NoError(t, err)
		scopes, err = f.Guard(t.Context(), f.op.ID)
		require.NoError(t, err)
		fleets := map[string]int64{}
		for _, s := range scopes {
			fleets[s.Group] = s.Fleet
			assert.Zero(t, s.Pending, s.Group)
		}
		assert.Equal(t, map[string]int64{"": 1, "critical": 0, "berlin": 1, "paris": 1}, fleets)
	})
}

func TestClaims(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		_, err := f.Claim(t.Context(), f.me, f.eid)
		assert.ErrorIs(t, err, ErrNotFound, "there is nothing to do")
		_, err = f.Claim(t.Context(), f.me, testEID(9))
		assert.ErrorIs(t, err, ErrNotFound)
		r := f.submit(t, 1)
		waiting, err := f.Waiting(t.Context(), []id.EID{testEID(9), f.eid}, 10)
		require.NoError(t, err)
		assert.Equal(t, []id.EID{f.eid}, waiting)
		work, err := f.Claim(t.Context(), f.me, f.eid)
		require.NoError(t, err)
		assert.Equal(t, r.ID, work.Request.ID)
		assert.True(t, work.Card.Registered)

		other, second := Server{"other", time.Minute}, f.open(t)
		_, err = second.Claim(t.Context(), other, f.eid)
		assert.ErrorIs(t, err, ErrNotFound, "it is claimed")
		waiting, err = second.Waiting(t.Context(), []id.EID{f.eid}, 10)
		require.NoError(t, err)
		assert.Empty(t, waiting)
		out, err := second.Submit(t.Context(), Submission{ID: requestID(2), Operator: f.op, EID: f.eid, Timeout: time.Minute, Claim: &other}, budgeted{9, 9}.admit)
		require.NoError(t, err)
		assert.Nil(t, out.Work, "and stays so")

		for range 3 {
			f.clock.add(50 * time.Second)
			renewed, err := f.Renew(t.Context(), f.me, []id.EID{f.eid, testEID(9)})
			require.NoError(t, err)
			assert.Equal(t, []id.EID{f.eid}, renewed)
			renewed, err = second.Renew(t.Context(), other, []id.EID{f.eid})
			require.NoError(t, err)
			assert.Empty(t, renewed, "it is not its own")
		}
		require.NoError(t, f.Wait(t.Context(), work.Claim, r.ID, Event{Kind: "waiting"}), "renewed, it holds; and is given back")
		assert.ErrorIs(t, f.Wait(t.Context(), work.Claim, r.ID), ErrFenced)
		work, err = f.Claim(t.Context(), f.me, f.eid)
		require.NoError(t, err)

		// Its lease passes; nobody has taken the card over yet.
		f.clock.add(time.Minute)
		for name, write := range writesUnder(f, work.Claim, r) {
			assert.ErrorIs(t, write(), ErrFenced, name)
		}
		renewed, err := f.Renew(t.Context(), f.me, []id.EID{f.eid})
		require.NoError(t, err)
		assert.Empty(t, renewed)
		assert.ErrorIs(t, f.Wait(t.Context(), work.Claim, r.ID), ErrFenced, "what has passed is not renewed")

		taken, err := second.Claim(t.Context(), other, f.eid)
		require.NoError(t, err)
		assert.Greater(t, taken.Claim.Token, work.Claim.Token)
		for name, write := range writesUnder(f, work.Claim, r) {
			assert.ErrorIs(t, write(), ErrFenced, name)
		}
		require.NoError(t, f.Release(t.Context(), work.Claim), "it gives nothing back")
		assert.NoError(t, second.Wait(t.Context(), taken.Claim, r.ID, Event{Kind: "waiting"}))
		got, err := f.Request(t.Context(), r.ID)
		require.NoError(t, err)
		assert.Nil(t, got.SentAt)
		assert.Nil(t, got.FinishedAt)
	})
}

// writesUnder are all writes that need a claim.
func writesUnder(f *fixture, c Claim, r Request) map[string]func() error {
	ctx := context.Background()
	return map[string]func() error{
		"authenticate": func() error { return f.Authenticate(ctx, c, r.ID, Event{Kind: "x"}) },
		"wait":         func() error { return f.Wait(ctx, c, r.ID, Event{Kind: "x"}) },
		"lost":         func() error { return f.Lost(ctx, c, r.ID, nil, Event{Kind: "x"}) },
		"again":        func() error { return f.Again(ctx, c, r.ID, Event{Kind: "x"}) },
		"mark":         func() error { return f.MarkSending(ctx, c, r, 5, nil, Event{Kind: "x"}, allow) },
		"record card":  func() error { return f.RecordCard(ctx, c, CardState{EventCounter: 99, Complete: true}) },
		"finish": func() error {
			_, err := f.Finish(ctx, c, r.ID, Outcome{State: Failed})
			return err
		},
	}
}

func TestSubmitClaims(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.settled(t)
		submit := func(n byte, v Verdict) Submitted {
			sub := f.submission(n)
			sub.Claim = &f.me
			out, err := f.Submit(t.Context(), sub, func(*Moment) Verdict { return v })
			require.NoError(t, err)
			return out
		}
		for n, v := range []Verdict{{Refusal: &Refusal{Rule: "r"}}, {Hold: "h", HoldUntil: f.clock.now().Add(time.Hour)}} {
			assert.Nil(t, submit(byte(n+1), v).Work, "there is nothing to do")
		}
		out := submit(3, Verdict{ICCID: &f.iccid, Window: time.Hour})
		require.NotNil(t, out.Work)
		f.work = *out.Work
		got, err := f.Request(t.Context(), out.ID)
		require.NoError(t, err)
		assert.Equal(t, got, *out.Work.Request, "it is handed out as it is on file")
		require.NoError(t, f.send(t, out.Request))
	})
}

// 4 servers, 10,000 requests that race: not one over the budget.
func TestGuardIsExact(t *testing.T) {
	const servers, cards, budget = 4, 500, 300
	requests := int64(10_000)
	if raceDetector {
		requests = 2_000 // make test runs it without, too
	}
	each(t, func(t *testing.T, f *fixture) {
		eids := make([]id.EID, cards)
		for i := range eids {
			eids[i] = id.EID{0x89, 0x04, 0x90, 0x33, 12: byte(i / 100), 13: byte(i / 10 % 10), 14: byte(i % 10)}.WithCheckDigits()
			c := f.card(t, eids[i])
			c.Profiles = c.Profiles[:1]
			require.NoError(t, f.RegisterCard(t.Context(), f.op, c))
		}
		b := budgeted{budget, guard.NoLimit}
		stores := []*Store{f.Store}
		for len(stores) < servers {
			stores = append(stores, f.open(t))
		}
		var next, letIn, held, sent atomic.Int64
		errs := make(chan error, servers*8)
		var wg sync.WaitGroup
		for s, store := range stores {
			me := Server{fmt.Sprint(s), time.Minute}
			for range 8 {
				wg.Go(func() {
					for n := next.Add(1); n <= requests; n = next.Add(1) {
						sub := Submission{ID: id.RequestID{0: 1, 14: byte(n >> 8), 15: byte(n)}, Operator: f.op, EID: eids[n%cards], Timeout: time.Hour}
						if n%2 == 0 {
							sub.Claim = &me
						}
						out, err := store.Submit(context.Background(), sub, b.admit)
						if err != nil {
							errs <- err
							return
						}
						if out.State == Held {
							held.Add(1)
							continue
						}
						letIn.Add(1)
						work := out.Work
						for work == nil {
							w, err := store.Claim(context.Background(), me, sub.EID)
							if err == nil {
								work = &w
							} else if !errors.Is(err, ErrNotFound) {
								errs <- err
								return
							}
						}
						if work.Request == nil || work.Request.SentAt != nil {
							err = store.Release(context.Background(), work.Claim)
						} else if err = store.MarkSending(context.Background(), work.Claim, *work.Request, 5, nil, Event{Kind: "sending"}, b.send); err == nil {
							sent.Add(1)
							_, err = store.Finish(context.Background(), work.Claim, work.Request.ID, Outcome{State: Failed})
						}
						if err != nil {
							errs <- err
							return
						}
					}
				})
			}
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		assert.Equal(t, int64(budget), letIn.Load(), "as many as the budget, not one over")
		assert.Equal(t, requests-budget, held.Load(), "and nothing is dropped")
		assert.LessOrEqual(t, sent.Load(), int64(budget))
		s := f.scope(t)
		asked, inWindow := s.Counts.Sum(f.clock.now(), time.Hour)
		assert.Equal(t, requests, asked)
		assert.Equal(t, sent.Load(), inWindow)
		assert.Equal(t, letIn.Load()-sent.Load(), f.scope(t).Pending)
	})
}
