package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

func TestDone(t *testing.T) {
	for name, change := range map[string]func(*appletsim.Image){
		"suite 01":      func(*appletsim.Image) {},
		"suite 03":      func(im *appletsim.Image) { im.Policy.RequireTriple = true },
		"fallback":      func(im *appletsim.Image) { im.Profiles[1].Fallback = true },
		"only suite 03": func(im *appletsim.Image) { im.Suites = []int{3} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			im := servertest.Image(1)
			change(im)
			c := r.insert(im, nil)
			req := r.finished(r.ask(server.Deactivation{EID: im.EID, Reason: 9}))
			assert.Equal(t, store.Done, req.State)
			assert.Equal(t, servertest.ICCID(1, 0), *req.ICCID)
			r.proven(req, im)
			now := c.Image()
			assert.Equal(t, appletsim.Disabled, now.Profiles[0].State)
			assert.Equal(t, uint32(6), now.EventCounter)
			r.sameAs(now)
			assert.Equal(t, []string{"accepted", "authenticating", "sending", "done"}, r.kinds(req, false))
		})
	}
}

// A card whose state moved on since it was registered is settled by GET STATUS.
func TestStaleRecordIsSettled(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	r.register(im)
	im.EventCounter = 40
	im.Profiles[2].State, im.Profiles[0].State = appletsim.Enabled, appletsim.Disabled
	c := servertest.Card(im)
	r.readers.Insert("reader", c, nil)
	r.seen(im.EID)
	req := r.ask(server.Deactivation{EID: im.EID})
	require.NotNil(t, req.Refusal, "the enabled profile is another's")
	assert.Equal(t, rules.ProfileEnabled, req.Refusal.Rule)
	assert.Zero(t, r.secured("reader", servertest.INSDeactivate))
	r.sameAs(c.Image())
}

// What others do to a card is noticed: when it appears, and before a request is
// refused for the state that is recorded. What the server has to know is read
// in an authenticated session.
func TestChangedOutsideTheServer(t *testing.T) {
	t.Run("while it was away", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		c := r.insert(im, nil)
		r.readers.Remove("reader")
		directly(t, c, im, card.INSDeactivate, im.Profiles[0].ICCID)
		r.readers.Insert("reader", c, nil)
		require.Eventually(t, func() bool {
			now, err := r.store.Card(t.Context(), im.EID, 0)
			return err == nil && now.EventCounter == 6
		}, 10*time.Second, time.Millisecond)
		r.sameAs(c.Image())
	})
	t.Run("in its reader", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		c := r.insert(im, nil)
		require.Equal(t, store.Done, r.finished(r.ask(server.Deactivation{EID: im.EID})).State)
		directly(t, c, im, card.INSActivate, im.Profiles[0].ICCID)
		before := len(r.readers.Sent("reader"))
		req := r.ask(server.Deactivation{EID: im.EID})
		assert.NotNil(t, req.Refusal, "the record is the server's only knowledge")
		assert.Len(t, r.readers.Sent("reader"), before, "a refusal costs no APDU")

		_, err := r.Refresh(t.Context(), r.op, im.EID)
		require.NoError(t, err)
		r.sameAs(c.Image())
		req = r.finished(r.ask(server.Deactivation{EID: im.EID}))
		assert.Equal(t, store.Done, req.State, "%s", req.Detail)
		r.sameAs(c.Image())
	})
	t.Run("the card that says so is another", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		r.insert(im, nil)
		r.readers.Remove("reader")
		liar := servertest.Stranger(servertest.Image(1))
		liar.EventCounter, liar.Profiles[0].State = 9, appletsim.Disabled
		r.readers.Insert("liar", servertest.Card(liar), nil)
		r.seen(im.EID)
		req := r.ask(server.Deactivation{EID: im.EID})
		assert.Nil(t, req.Refusal, "nothing unproven counts")
		now, err := r.store.Card(t.Context(), im.EID, 0)
		require.NoError(t, err)
		assert.Equal(t, uint32(5), now.EventCounter)
		assert.Equal(t, store.Enabled, now.Profiles[0].State)
	})
	t.Run("the first registrant lied", func(t *testing.T) {
		r := newRig(t)
		im, lie := servertest.Image(1), servertest.Image(1)
		lie.Profiles[0].State, lie.Profiles[1].State = appletsim.Disabled, appletsim.Enabled
		c := servertest.Card(im)
		r.readers.Insert("reader", c, nil)
		r.seen(im.EID)
		r.register(lie)
		r.settled(im.EID)
		r.sameAs(c.Image())
	})
}

func TestRefusedByRule(t *testing.T) {
	disabled, foreign, nobodys := servertest.ICCID(1, 1), servertest.ICCID(1, 2), servertest.ICCID(2, 0)
	for _, tt := range []struct {
		name   string
		change func(*rig)
		op     func(*rig) store.Operator
		ask    server.Deactivation
		rule   string // as the operator reads it
		truth  string // as the audit trail has it
	}{
		{"card not registered", nil, nil, server.Deactivation{EID: servertest.EID(2)}, rules.CardRegistered, rules.CardRegistered},
		{"not registered by who asks", nil, func(r *rig) store.Operator { return r.other }, server.Deactivation{EID: servertest.EID(1)}, rules.CardRegistered, rules.CardRegistered},
		{"not the owner", func(r *rig) {
			_, fresh, err := r.RegisterCard(r.Context(), r.other, servertest.Record(servertest.Image(1)))
			require.NoError(r, err)
			assert.True(r, fresh)
		}, func(r *rig) store.Operator { return r.other }, server.Deactivation{EID: servertest.EID(1)}, rules.ProfileEnabled, rules.ProfileOwned},
		{"another's profile", nil, nil, server.Deactivation{EID: servertest.EID(1), ICCID: &foreign}, rules.ProfileKnown, rules.ProfileOwned},
		{"unknown profile", nil, nil, server.Deactivation{EID: servertest.EID(1), ICCID: &nobodys}, rules.ProfileKnown, rules.ProfileKnown},
		{"recorded as disabled", nil, nil, server.Deactivation{EID: servertest.EID(1), ICCID: &disabled}, rules.ProfileEnabled, rules.ProfileEnabled},
		{"POL2", func(r *rig) {
			_, err := r.SetDisableAllowed(r.Context(), r.op, servertest.EID(1), servertest.ICCID(1, 0), false)
			require.NoError(r, err)
		}, nil, server.Deactivation{EID: servertest.EID(1)}, rules.DisableAllowed, rules.DisableAllowed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			c := r.insert(servertest.Image(1), nil)
			if tt.change != nil {
				tt.change(r)
			}
			op := r.op
			if tt.op != nil {
				op = tt.op(r)
			}
			before := len(r.readers.Sent("reader"))
			req, _, err := r.Deactivate(t.Context(), op, tt.ask)
			require.NoError(t, err)
			require.NotNil(t, req.Refusal)
			assert.Equal(t, tt.rule, req.Refusal.Rule)
			assert.Equal(t, store.Refused, r.finishedFor(op, req).State)
			events, err := r.store.RequestEvents(t.Context(), req.ID, 0, true, 10)
			require.NoError(t, err)
			assert.Equal(t, tt.truth, events[0].Detail["refused_by"])
			assert.True(t, events[0].Internal)
			require.NoError(t, r.stop())
			assert.Len(t, r.readers.Sent("reader"), before, "no APDU")
			assert.Equal(t, uint32(5), c.Image().EventCounter)
		})
	}
}

// The audit trail has what was decided, by which rules, and what they looked at:
// enough to hold the request against them again.
func TestDecisionIsOnFileWithItsInput(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	r.insert(im, nil)
	req := r.ask(server.Deactivation{EID: im.EID, Reason: 3})
	events, err := r.store.RequestEvents(t.Context(), req.ID, 0, true, 1)
	require.NoError(t, err)
	require.Equal(t, "decision", events[0].Kind)
	detail := events[0].Detail
	assert.Equal(t, servertest.Rules().Digest(), detail["rules_digest"])
	b, err := json.Marshal(detail["input"])
	require.NoError(t, err)
	in, err := rules.ParseInput(b)
	require.NoError(t, err)
	assert.Equal(t, im.EID, in.EID)
	assert.Equal(t, byte(3), in.Reason)
	assert.Len(t, in.Card.Profiles, 3)
	d := servertest.Rules().Evaluate(in)
	assert.Nil(t, d.Refusal)
	assert.Len(t, detail["rules"], len(d.Ran))
	r.finished(req)
}

// What an operator was told is set holds, up to the moment of sending.
func TestRuleChangedDuringAuthentication(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	var asked atomic.Bool
	c := r.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
		if asked.Load() && capdu[1] == servertest.INSExternalAuthenticate {
			_, err := r.SetDisableAllowed(context.Background(), r.op, im.EID, im.Profiles[0].ICCID, false)
			assert.NoError(t, err)
		}
		return next(capdu)
	})
	asked.Store(true)
	req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
	assert.Equal(t, store.Refused, req.State)
	require.NotNil(t, req.Refusal)
	assert.Equal(t, rules.DisableAllowed, req.Refusal.Rule)
	assert.Nil(t, req.SentAt)
	assert.Equal(t, []string{"accepted", "authenticating", "refused"}, r.kinds(req, false))
	assert.Zero(t, r.secured("reader", servertest.INSDeactivate))
	assert.Equal(t, uint32(5), c.Image().EventCounter)
}

// The record may change while a request waits for its card.
func TestRulesAreAskedAgainBeforeTheCard(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	r.register(im)
	req := r.ask(server.Deactivation{EID: im.EID})
	r.until(req, store.Waiting)
	_, err := r.SetDisableAllowed(t.Context(), r.op, im.EID, im.Profiles[0].ICCID, false)
	require.NoError(t, err)
	r.readers.Insert("reader", servertest.Card(im), nil)
	req = r.finished(req)
	assert.Equal(t, store.Refused, req.State)
	assert.Equal(t, rules.DisableAllowed, req.Refusal.Rule)
	assert.Nil(t, req.SentAt)
	require.NoError(t, r.stop())
	assert.Equal(t, 1, r.commands("reader", servertest.INSInternalAuthenticate), "to settle the record")
	assert.Zero(t, r.secured("reader", servertest.INSDeactivate))
}

// A rule that names operators or users holds at the mark and before the card as
// it does at submission.
func TestRulesThatNameWhoAsks(t *testing.T) {
	r := unstarted(t, servertest.NewRecord(t, migrate))
	text := strings.Replace(string(rules.DefaultYAML), "\nrules:\n", `
rules:
  - name: who
    subject_code: "1.1"
    reason_code: "1.2"
    require: operator.name == "one" && request.user == "default"
    text: not you
`, 1)
	set, err := rules.Parse("test", []byte(text))
	require.NoError(t, err)
	r.rules = func() *rules.Set { return set }
	r.start()
	r.addOperators()
	for n := 1; n <= 2; n++ { // the card is there, or comes later
		im := servertest.Image(n)
		if n == 1 {
			r.insert(im, nil)
		} else {
			r.register(im)
		}
		req := r.ask(server.Deactivation{EID: im.EID})
		if n == 2 {
			r.until(req, store.Waiting)
			r.readers.Insert("second", servertest.Card(im), nil)
		}
		req = r.finished(req)
		assert.Equal(t, store.Done, req.State, "%s", req.Detail)
	}
}

func TestRefusedByCard(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	im.Profiles[0].PPR1 = true
	c := r.insert(im, nil)
	req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
	assert.Equal(t, store.Refused, req.State)
	assert.Nil(t, req.Refusal)
	assert.Equal(t, byte(card.PolicyForbids), req.Answer.Result)
	r.proven(req, im)
	r.sameAs(c.Image())
	assert.Equal(t, appletsim.Enabled, c.Image().Profiles[0].State)
}

// The card or its answer gets lost in every way; the record ends as the card is.
func TestRecovery(t *testing.T) {
	once := func(hit func(capdu []byte, next servertest.Next) ([]byte, error)) servertest.Intercept {
		var done atomic.Bool
		return func(capdu []byte, next servertest.Next) ([]byte, error) {
			if isSecured(capdu, servertest.INSDeactivate) && !done.Swap(true) {
				return hit(capdu, next)
			}
			return next(capdu)
		}
	}
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1
		return b
	}
	for name, tt := range map[string]struct {
		fault     appletsim.FaultKind
		intercept servertest.Intercept
	}{
		"card pulled after the write":  {fault: appletsim.CutAfter},
		"card pulled before the write": {fault: appletsim.CutBefore},
		"answer dropped": {intercept: once(func(capdu []byte, next servertest.Next) ([]byte, error) {
			_, err := next(capdu)
			return nil, errors.Join(err, apdu.ErrTimeout)
		})},
		"command dropped": {intercept: once(func([]byte, servertest.Next) ([]byte, error) { return nil, apdu.ErrTransport })},
		"mac of the answer changed": {intercept: once(func(capdu []byte, next servertest.Next) ([]byte, error) {
			b, err := next(capdu)
			return flip(b, len(b)-3), err
		})},
		"mac of the command changed": {intercept: once(func(capdu []byte, next servertest.Next) ([]byte, error) {
			return next(flip(capdu, len(capdu)-3))
		})},
		"answer invented": {intercept: once(func([]byte, servertest.Next) ([]byte, error) { return []byte{0x90, 0x00}, nil })},
		"refusal invented": {intercept: once(func(capdu []byte, next servertest.Next) ([]byte, error) {
			_, err := next(capdu)
			return []byte{0x69, 0x85}, err
		})},
		"answer of 1 byte": {intercept: once(func([]byte, servertest.Next) ([]byte, error) { return []byte{0x90}, nil })},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			im := servertest.Image(1)
			c := r.insert(im, tt.intercept)
			if tt.fault != "" {
				c.Inject(appletsim.Fault{Write: 1, Kind: tt.fault, Away: 30 * time.Millisecond})
			}
			req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
			assert.Equal(t, store.Done, req.State)
			r.proven(req, im)
			assert.Equal(t, uint32(6), c.Image().EventCounter, "done once")
			r.sameAs(c.Image())
			assert.Subset(t, r.kinds(req, false), []string{"sending", "unknown", "recovering", "done"})
		})
	}
}

func TestCardThatIsAbsent(t *testing.T) {
	t.Run("expires", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		r.register(im)
		req := r.finished(r.ask(server.Deactivation{EID: im.EID, Timeout: 500 * time.Millisecond}))
		assert.Equal(t, store.Expired, req.State)
		assert.Equal(t, []string{"accepted", "waiting", "expired"}, r.kinds(req, false))
		c := servertest.Card(im)
		r.readers.Insert("reader", c, nil)
		r.seen(im.EID)
		require.NoError(t, r.stop())
		assert.Zero(t, r.secured("reader", servertest.INSDeactivate))
		r.start()
		r.settled(im.EID)
		r.sameAs(c.Image())
	})
	t.Run("comes", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		r.register(im)
		req := r.ask(server.Deactivation{EID: im.EID})
		r.until(req, store.Waiting)
		c := servertest.Card(im)
		r.readers.Insert("reader", c, nil)
		assert.Equal(t, store.Done, r.finished(req).State)
		r.sameAs(c.Image())
	})
	t.Run("goes and comes", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		out := make(chan struct{}, 1)
		var asked atomic.Bool
		c := r.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
			if asked.Load() && capdu[1] == servertest.INSExternalAuthenticate {
				asked.Store(false)
				out <- struct{}{}
				return nil, apdu.ErrCardRemoved
			}
			return next(capdu)
		})
		asked.Store(true)
		req := r.ask(server.Deactivation{EID: im.EID})
		<-out
		r.readers.Remove("reader")
		r.until(req, store.Waiting)
		r.readers.Insert("another", c, nil)
		assert.Equal(t, store.Done, r.finished(req).State)
		r.sameAs(c.Image())
	})
}

// A command that was sent is not ended by the deadline.
func TestDeadlineDoesNotEndWhatWasSent(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	c := r.insert(im, nil)
	c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
	req := r.ask(server.Deactivation{EID: im.EID, Timeout: 2 * time.Second})
	r.until(req, store.Unknown)
	require.Eventually(t, func() bool { return time.Now().After(req.Deadline.Add(500 * time.Millisecond)) }, 5*time.Second, 10*time.Millisecond)
	now, err := r.store.Request(t.Context(), req.ID)
	require.NoError(t, err)
	assert.Equal(t, store.Unknown, now.State)
	assert.Nil(t, now.FinishedAt)
	c.Insert()
	req = r.finished(req)
	assert.Equal(t, store.Done, req.State)
	r.proven(req, im)
	r.sameAs(c.Image())
}

func TestStrangerWithTheEID(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		r.insert(im, nil)
		r.readers.Remove("reader")
		r.readers.Insert("liar", servertest.Card(servertest.Stranger(servertest.Image(1))), nil)
		began := time.Now()
		req := r.finished(r.ask(server.Deactivation{EID: im.EID, Timeout: 300 * time.Millisecond}))
		assert.Equal(t, store.Expired, req.State)
		assert.Nil(t, req.Answer)
		r.sameAs(im)
		assert.Contains(t, r.kinds(req, true), "authentication failed")
		assert.NotContains(t, r.kinds(req, false), "authentication failed")
		n := r.commands("liar", servertest.INSInternalAuthenticate)
		assert.Positive(t, n)
		assert.LessOrEqual(t, n, backedOff(r, time.Since(began)))
	})
	t.Run("beside the card", func(t *testing.T) {
		r := newRig(t)
		im := servertest.Image(1)
		r.register(im)
		c := servertest.Card(im)
		r.readers.Insert("a liar", servertest.Card(servertest.Stranger(servertest.Image(1))), nil)
		r.readers.Insert("b card", c, nil)
		req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
		assert.Equal(t, store.Done, req.State)
		r.sameAs(c.Image())
	})
	t.Run("another card, its EID changed on the way", func(t *testing.T) {
		r := newRig(t)
		im, other := servertest.Image(1), servertest.Image(2)
		r.insert(im, nil)
		r.readers.Remove("reader")
		c := servertest.Card(other)
		r.readers.Insert("reader", c, func(capdu []byte, next servertest.Next) ([]byte, error) {
			b, err := next(capdu)
			return bytes.ReplaceAll(b, other.EID[:], im.EID[:]), err
		})
		req := r.finished(r.ask(server.Deactivation{EID: im.EID, Timeout: 200 * time.Millisecond}))
		assert.Equal(t, store.Expired, req.State)
		r.sameAs(im)
		assert.Equal(t, uint32(5), c.Image().EventCounter)
	})
}

// What a liar did is not held against the card whose reader takes over the
// liar's reader's name.
func TestNamesThatMove(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.stop())
	r.authRetry = server.Backoff{Min: time.Hour, Max: time.Hour}
	r.start()
	im := servertest.Image(1)
	r.register(im)
	c := servertest.Card(im)
	r.readers.Insert("0", servertest.Card(servertest.Stranger(servertest.Image(1))), nil)
	require.Eventually(t, func() bool { return strings.Contains(r.log.String(), "card not settled") }, 10*time.Second, time.Millisecond)
	req := r.ask(server.Deactivation{EID: im.EID})
	var told atomic.Bool
	r.readers.Insert("1", c, func(capdu []byte, next servertest.Next) ([]byte, error) {
		if !told.Load() {
			return []byte{0x6A, 0x82}, nil
		}
		return next(capdu)
	})
	r.readers.Swap("0", "1")
	told.Store(true) // the EID is known under the new name alone
	req = r.finished(req)
	assert.Equal(t, store.Done, req.State)
	r.proven(req, im)
	r.sameAs(c.Image())
}

// A card with wrong keys for the server counts failures: it is not hammered,
// and coming and going does not speed it up.
func TestWrongKeysBackOff(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	r.register(im)
	im.ServerKeySets[0].Auth = im.ServerKeySets[0].Auth[1:2]
	c := servertest.Card(im)
	began := time.Now()
	r.readers.Insert("reader", c, nil)
	req := r.ask(server.Deactivation{EID: im.EID, Timeout: 500 * time.Millisecond})
	var wg sync.WaitGroup
	wg.Go(func() { req = r.finished(req) })
	for range 20 {
		r.readers.Remove("reader")
		r.readers.Insert("reader", c, nil)
		r.seen(im.EID)
	}
	wg.Wait()
	assert.Equal(t, store.Expired, req.State)
	var failures uint16
	if now := c.Image(); now.Runtime != nil {
		for _, f := range now.Runtime.Failures {
			failures += f.Count
		}
	}
	assert.LessOrEqual(t, int(failures), backedOff(r, time.Since(began)))
}

// backedOff is how many failed authentications the back-off allows in a time,
// however slow the machine is: one for each doubling, then one each Max.
func backedOff(r *rig, elapsed time.Duration) int {
	n := 1
	for wait := r.AuthRetry.Min; elapsed > 0; wait = min(2*wait, r.AuthRetry.Max) {
		elapsed -= wait
		n++
	}
	return n
}

func TestGarbage(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	r.insert(im, nil)
	r.readers.Remove("reader")
	r.readers.Insert("reader", servertest.Card(im), func(capdu []byte, next servertest.Next) ([]byte, error) {
		switch capdu[1] {
		case 0xA4, 0xCA, 0x70: // enough to be taken for the card
			return next(capdu)
		}
		b := make([]byte, 300)
		_, err := rand.Read(b)
		return append(b, 0x90, 0x00), err
	})
	req := r.finished(r.ask(server.Deactivation{EID: im.EID, Timeout: 200 * time.Millisecond}))
	assert.Equal(t, store.Expired, req.State)
	r.sameAs(im)
}

// directly changes a card's state behind the server's back.
func directly(t *testing.T, c *appletsim.Card, im *appletsim.Image, ins byte, iccid id.ICCID) {
	record, err := card.ParseRecord(servertest.Record(im))
	require.NoError(t, err)
	_, rep, err := servertest.Terminal().Run(t.Context(), record.Target(), card.Operation{
		INS: ins, RequestID: id.RequestID{1, 2, 3, byte(c.Image().EventCounter)}, ICCID: &iccid, Attempts: 1,
		Open: func(context.Context) (apdu.Conn, error) { return c.Connect(), nil }, Wait: time.Second,
	})
	require.NoError(t, err)
	require.Equal(t, card.OutcomeDone, rep.Outcome)
}

// A 14 in recovery proves nothing: the request ends as unknown, the card's
// record is settled, and the card is free for the next request.
func TestCounterMovedOnInRecovery(t *testing.T) {
	for name, done := range map[string]bool{"not done": false, "done and forgotten": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			im := servertest.Image(1)
			im.Profiles[2].Owner = servertest.Owner // so that one operator can do it all
			c := r.insert(im, nil)
			fault := appletsim.CutBefore
			if done {
				fault = appletsim.CutAfter
			}
			c.Inject(appletsim.Fault{Write: 1, Kind: fault})
			req := r.ask(server.Deactivation{EID: im.EID})
			r.until(req, store.Unknown)
			require.NoError(t, r.stop())
			c.Insert()
			a := im.Profiles[0].ICCID
			if !done {
				directly(t, c, im, card.INSDeactivate, a)
			}
			for range 5 { // more than the 8 answers that a card keeps
				directly(t, c, im, card.INSActivate, a)
				directly(t, c, im, card.INSDeactivate, a)
			}
			directly(t, c, im, card.INSActivate, a)

			r.start()
			req = r.finished(req)
			assert.Equal(t, store.Unknown, req.State)
			assert.Equal(t, byte(card.CounterNotExpected), req.Answer.Result)
			r.sameAs(c.Image())
			next := r.finished(r.ask(server.Deactivation{EID: im.EID}))
			assert.Equal(t, store.Done, next.State)
			r.sameAs(c.Image())
		})
	}
}

// A stored answer may be older than the card's state: GET STATUS settles it.
func TestStoredAnswerIsNotTheState(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	var blocked atomic.Bool
	c := r.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
		if isSecured(capdu, servertest.INSGetStatus) && blocked.Load() {
			return nil, apdu.ErrTransport
		}
		return next(capdu)
	})
	c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
	req := r.ask(server.Deactivation{EID: im.EID})
	r.until(req, store.Unknown)
	require.NoError(t, r.stop())
	c.Insert()
	directly(t, c, im, card.INSActivate, im.Profiles[0].ICCID) // enabled again, counter 7
	blocked.Store(true)
	r.start()
	req = r.finished(req)
	assert.Equal(t, store.Done, req.State, "it was done")
	r.proven(req, im)
	record, err := r.store.Card(t.Context(), im.EID, 0)
	require.NoError(t, err)
	assert.True(t, record.Unsettled)
	assert.Equal(t, store.Enabled, record.Profiles[0].State, "the stored answer says disabled")
	blocked.Store(false)
	require.Eventually(t, func() bool {
		record, err := r.store.Card(context.Background(), im.EID, 0)
		return err == nil && !record.Unsettled
	}, 10*time.Second, time.Millisecond)
	r.sameAs(c.Image())
}

func TestOneRequestPerCardAtATime(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	im.Profiles[1].Fallback = true
	r.register(im)
	first := r.ask(server.Deactivation{EID: im.EID})
	second := r.ask(server.Deactivation{EID: im.EID})
	c := servertest.Card(im)
	var busy, most atomic.Int32
	r.readers.Insert("reader", c, func(capdu []byte, next servertest.Next) ([]byte, error) {
		most.Store(max(most.Load(), busy.Add(1)))
		defer busy.Add(-1)
		return next(capdu)
	})
	first, second = r.finished(first), r.finished(second)
	assert.Equal(t, store.Done, first.State)
	assert.Equal(t, store.Refused, second.State)
	assert.Equal(t, rules.ProfileEnabled, second.Refusal.Rule, "the first left it disabled")
	assert.Equal(t, 1, r.commands("reader", servertest.INSDeactivate))
	assert.Equal(t, int32(1), most.Load())
	r.sameAs(c.Image())
}

func TestManyCardsAtOnce(t *testing.T) {
	r := newRig(t)
	const n = 12
	var held sync.WaitGroup // until all of them are in the middle of it
	held.Add(n)
	reqs := make([]store.Request, n)
	cards := make([]*appletsim.Card, n)
	for i := range n {
		im := servertest.Image(i)
		r.register(im)
		cards[i] = servertest.Card(im)
		r.readers.Insert(im.EID.String(), cards[i], func(capdu []byte, next servertest.Next) ([]byte, error) {
			if isSecured(capdu, servertest.INSDeactivate) {
				held.Done()
				held.Wait()
			}
			return next(capdu)
		})
		reqs[i] = r.ask(server.Deactivation{EID: im.EID})
	}
	for i := range n {
		assert.Equal(t, store.Done, r.finished(reqs[i]).State)
		r.sameAs(cards[i].Image())
	}
}

// A server that is told to end lets an attempt come to its end.
func TestGracefulStop(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	reached, goOn := make(chan struct{}), make(chan struct{})
	c := r.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
		if isSecured(capdu, servertest.INSDeactivate) {
			close(reached)
			<-goOn
		}
		return next(capdu)
	})
	req := r.ask(server.Deactivation{EID: im.EID})
	<-reached
	ended := make(chan error)
	go func() { ended <- r.stop() }()
	close(goOn)
	require.NoError(t, <-ended)
	r.start()
	now, err := r.store.Request(t.Context(), req.ID)
	require.NoError(t, err)
	assert.Equal(t, store.Done, now.State)
	r.sameAs(c.Image())
}

func TestIdempotencyKey(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	r.register(im)
	d := server.Deactivation{EID: im.EID, Key: "k"}
	first := r.ask(d)
	again, replayed, err := r.Deactivate(t.Context(), r.op, d)
	require.NoError(t, err)
	assert.True(t, replayed)
	assert.Equal(t, first.ID, again.ID)
	d.Reason = 1
	_, _, err = r.Deactivate(t.Context(), r.op, d)
	assert.ErrorIs(t, err, store.ErrKeyReused)
}

func TestOperatorsAndTheirLimits(t *testing.T) {
	r := newRig(t)
	_, token, err := server.AddOperator(t.Context(), r.store, "third", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	op, err := r.Authenticate(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, "third", op.Name)
	for _, bad := range []string{"", "x", token[:len(token)-1], token + "A", "cbt_" + string(bytes.Repeat([]byte("A"), 43))} {
		_, err := r.Authenticate(t.Context(), bad)
		assert.ErrorIs(t, err, server.ErrUnauthenticated)
	}
	for _, name := range []string{"", "a\x00b", "a\nb", string(bytes.Repeat([]byte("x"), 65)), "\xff"} {
		_, _, err := server.AddOperator(t.Context(), r.store, name, servertest.Owner, "", store.AllRoles)
		assert.ErrorIs(t, err, server.ErrInvalid, "%q", name)
	}

	im := servertest.Image(1)
	im.Profiles = im.Profiles[:2]
	_, _, err = r.RegisterCard(t.Context(), r.other, servertest.Record(im))
	assert.ErrorIs(t, err, server.ErrForbidden)
	r.register(im)
	_, fresh, err := r.RegisterCard(t.Context(), r.op, servertest.Record(im))
	assert.NoError(t, err)
	assert.False(t, fresh, "it did before")
	_, _, err = r.RegisterCard(t.Context(), r.op, servertest.Record(servertest.Stranger(servertest.Image(1))))
	assert.ErrorIs(t, err, server.ErrOtherKeys)
	_, _, err = r.RegisterCard(t.Context(), r.other, servertest.Record(servertest.Image(1)))
	assert.ErrorIs(t, err, server.ErrForbidden, "it owns nothing in the record on file")
	_, _, err = r.RegisterCard(t.Context(), r.op, []byte(`{}`))
	assert.ErrorIs(t, err, server.ErrInvalid)
	_, err = r.Card(t.Context(), r.other, im.EID)
	assert.ErrorIs(t, err, store.ErrNotFound)
	_, err = r.SetDisableAllowed(t.Context(), r.other, im.EID, im.Profiles[0].ICCID, false)
	assert.ErrorIs(t, err, store.ErrNotFound)
	req := r.ask(server.Deactivation{EID: im.EID})
	_, err = r.Request(t.Context(), r.other, req.ID)
	assert.ErrorIs(t, err, store.ErrNotFound)
	_, _, err = r.Steps(t.Context(), r.other, req.ID, 0, 0)
	assert.ErrorIs(t, err, store.ErrNotFound)

	mixed := servertest.Image(2)
	r.register(mixed)
	_, err = r.Card(t.Context(), r.other, mixed.EID)
	assert.ErrorIs(t, err, store.ErrNotFound, "it has not registered the card")
	list, _, err := r.Cards(t.Context(), r.other, store.CardFilter{}, "", 10)
	require.NoError(t, err)
	assert.Empty(t, list)
	_, fresh, err = r.RegisterCard(t.Context(), r.other, servertest.Record(mixed))
	require.NoError(t, err)
	assert.True(t, fresh)
	list, _, err = r.Cards(t.Context(), r.other, store.CardFilter{}, "", 10)
	require.NoError(t, err)
	assert.Len(t, list, 1)
	c, err := r.Card(t.Context(), r.other, mixed.EID)
	require.NoError(t, err)
	require.Len(t, c.Profiles, 1, "its own alone")
	assert.Equal(t, servertest.ICCID(2, 2), c.Profiles[0].ICCID)
	_, _, err = r.Deactivate(t.Context(), r.op, server.Deactivation{EID: im.EID, Timeout: -1})
	assert.ErrorIs(t, err, server.ErrInvalid)
}

// Whoever registers an EID first, with keys of its own, cannot make another
// operator believe its signatures.
func TestForgedCard(t *testing.T) {
	r := newRig(t)
	forged := servertest.Stranger(servertest.Image(1))
	_, _, err := r.RegisterCard(t.Context(), r.other, servertest.Record(forged))
	require.NoError(t, err)
	r.readers.Insert("reader", servertest.Card(forged), nil)
	r.seen(forged.EID)
	r.settled(forged.EID)
	req := r.ask(server.Deactivation{EID: forged.EID})
	require.NotNil(t, req.Refusal)
	assert.Equal(t, rules.CardRegistered, req.Refusal.Rule)
	_, _, err = r.RegisterCard(t.Context(), r.op, servertest.Record(servertest.Image(1)))
	assert.ErrorIs(t, err, server.ErrOtherKeys)
	triple := servertest.Stranger(servertest.Image(1))
	triple.Suites, triple.Policy.RequireTriple = []int{1, 3}, true
	triple.Keys.Auth = servertest.Image(1).Keys.Auth
	_, _, err = r.RegisterCard(t.Context(), r.op, servertest.Record(triple))
	assert.ErrorIs(t, err, server.ErrOtherKeys)
	_, err = r.SetDisableAllowed(t.Context(), r.op, forged.EID, forged.Profiles[0].ICCID, false)
	assert.ErrorIs(t, err, store.ErrNotFound)
	req = r.ask(server.Deactivation{EID: forged.EID})
	require.NotNil(t, req.Refusal, "a registration that was refused changes nothing")
}

// Nothing secret is in the record: no private key, no session key, no token.
// No token, private key, nonce or session key is written anywhere, whether all
// goes well, an authentication fails or an answer gets lost.
func TestNothingSecretIsRecorded(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.stop())
	servers, cards := &keptRand{}, &keptRand{} // what each side draws
	r.terminal.Rand = servers
	r.start()
	_, token, err := server.AddOperator(t.Context(), r.store, "third", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	_, err = r.Authenticate(t.Context(), token)
	require.NoError(t, err)
	im := servertest.Image(1)
	c := servertest.Card(im, appletsim.WithRand(cards))
	var wire servertest.Wire
	var asked, forged, lost atomic.Bool
	r.register(im)
	r.readers.Insert("reader", c, func(capdu []byte, next servertest.Next) ([]byte, error) {
		rapdu, err := wire.Carry(capdu, next)
		switch {
		case asked.Load() && capdu[1] == servertest.INSInternalAuthenticate && !forged.Swap(true):
			rapdu = bytes.Clone(rapdu)
			rapdu[10] ^= 1
		case isSecured(capdu, servertest.INSDeactivate) && !lost.Swap(true):
			return nil, errors.Join(err, apdu.ErrTimeout)
		}
		return rapdu, err
	})
	r.seen(im.EID)
	r.settled(im.EID)
	asked.Store(true)
	req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
	require.Equal(t, store.Done, req.State)
	require.Subset(t, r.kinds(req, true), []string{"authentication failed", "unknown", "recovering"})
	events, err := r.store.Events(t.Context(), 0, 1000)
	require.NoError(t, err)
	assert.True(t, slices.IsSortedFunc(events, func(a, b store.Event) int { return int(a.Seq - b.Seq) }))
	r.sameAs(c.Image())
	require.NoError(t, r.stop())
	trail, err := json.Marshal(events)
	require.NoError(t, err)
	file, err := os.ReadFile(r.path()) // all of it: the last to close writes the log back
	require.NoError(t, err)
	require.Contains(t, string(file), im.EID.String(), "the record is in the file")

	secrets := servertest.KeySetSecrets()
	secrets["token"] = []byte(token)
	for side, drawn := range map[string]*keptRand{"server": servers, "card": cards} {
		all := drawn.all()
		require.NotEmpty(t, all)
		for i, b := range all {
			secrets[fmt.Sprintf("draw %d of the %s's", i, side)] = b
		}
	}
	sessions := wire.Secrets(t, im)
	require.Len(t, sessions, 4+1+2*4, "the record settled, a forged M1, two sendings")
	for what, secret := range sessions {
		if strings.HasPrefix(what, "R") {
			assert.Contains(t, slices.Concat(servers.all(), cards.all()), secret, "%s was drawn", what)
		}
	}
	maps.Copy(secrets, sessions)
	for where, b := range map[string][]byte{"events": trail, "log": []byte(r.log.String()), "record": file} {
		secrets.AbsentFrom(t, where, b)
	}
}

// keptRand is random bytes that are kept.
type keptRand struct {
	mu    sync.Mutex
	drawn [][]byte
}

func (k *keptRand) Read(b []byte) (int, error) {
	n, err := rand.Read(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	if n >= 8 { // a byte or two occur anywhere
		k.drawn = append(k.drawn, bytes.Clone(b[:n]))
	}
	return n, err
}

func (k *keptRand) all() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.drawn)
}

func BenchmarkRequest(b *testing.B) {
	r := newRig(b)
	im := servertest.Image(1)
	c := r.insert(im, nil)
	record, err := card.ParseRecord(servertest.Record(im))
	require.NoError(b, err)
	iccid := im.Profiles[0].ICCID
	for i := 0; b.Loop(); i++ {
		req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
		if req.State != store.Done {
			b.Fatalf("%s: %s", req.State, req.Detail)
		}
		b.StopTimer()
		_, _, err := servertest.Terminal().Run(b.Context(), record.Target(), card.Operation{
			INS: card.INSActivate, RequestID: id.RequestID{9, byte(i >> 16), byte(i >> 8), byte(i)}, ICCID: &iccid, Attempts: 1,
			Open: func(context.Context) (apdu.Conn, error) { return c.Connect(), nil }, Wait: time.Second,
		})
		require.NoError(b, err)
		_, err = r.Refresh(b.Context(), r.op, im.EID)
		require.NoError(b, err)
		b.StartTimer()
	}
}
