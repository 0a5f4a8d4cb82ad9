package server_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// onBoth runs a test on a server of either kind of record, whose rules allow
// every plain eUICC.
func onBoth(t *testing.T, test func(t *testing.T, r *rig)) {
	run := func(where func(*testing.T) string) func(*testing.T) {
		return func(t *testing.T) {
			r := unstarted(t, where(t))
			r.rules = everyPlainOne
			r.start()
			r.addOperators()
			test(t, r)
		}
	}
	t.Run("sqlite", run(func(t *testing.T) string { return servertest.NewRecord(t, migrate) }))
	t.Run("postgres", run(func(t *testing.T) string {
		pg := postgres.Shared(t)
		require.NoError(t, pg.Template(t.Context(), "migrated", func(dsn string) error {
			s, err := store.Open(t.Context(), dsn)
			if err != nil {
				return err
			}
			return s.Close()
		}))
		return pg.NewDatabase(t, "migrated")
	}))
}

// isDisable reports whether an APDU is ES10c's DisableProfile.
func isDisable(capdu []byte) bool {
	return len(capdu) > 6 && capdu[1] == 0xE2 && bytes.Equal(capdu[5:7], []byte{0xBF, 0x32})
}

// disables counts those that a reader was given.
func (r *rig) disables(reader string) (n int) {
	for _, c := range r.readers.Sent(reader) {
		if isDisable(c) {
			n++
		}
	}
	return n
}

// asPlain checks that the record of a plain eUICC is its card, which counts
// events that ES10c does not tell.
func (r *rig) asPlain(c *appletsim.Card) {
	r.Helper()
	im := c.Image()
	im.EventCounter = 0
	r.settled(im.EID)
	r.sameAs(im)
}

// detail is of a request's last event of a kind.
func (r *rig) detail(req store.Request, kind string) map[string]any {
	events, err := r.store.RequestEvents(context.Background(), req.ID, 0, true, 1000)
	require.NoError(r, err)
	var out map[string]any
	for _, e := range events {
		if e.Kind == kind {
			out = e.Detail
		}
	}
	return out
}

func TestPlainEUICC(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		im := servertest.Plain(servertest.Image(1))
		c := r.insert(im, nil)
		req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
		assert.Equal(t, store.Done, req.State, "%s", req.Detail)
		assert.Equal(t, store.ES10c, req.How)
		assert.Nil(t, req.Answer)
		assert.Contains(t, req.Detail, "nothing is signed")
		assert.Equal(t, []string{"accepted", "reading", "sending", "done"}, r.kinds(req, false))
		assert.Equal(t, "every-plain-one", r.detail(req, "decision")["es10c_allowed_by"])
		for _, kind := range []string{"reading", "sending", "done"} {
			assert.Equal(t, "es10c", r.detail(req, kind)["how"], kind)
		}
		assert.Equal(t, 1, r.disables("reader"))
		r.asPlain(c)
		record, err := r.store.Card(t.Context(), im.EID, r.op.ID)
		require.NoError(t, err)
		assert.Equal(t, store.ES10c, record.Management)
		for i, p := range im.Profiles {
			assert.Equal(t, p.Owner, record.Profiles[i].Owner)
			assert.Equal(t, p.Name, record.Profiles[i].Name, "read from the card")
		}
		again := r.ask(server.Deactivation{EID: im.EID, ICCID: &im.Profiles[0].ICCID})
		assert.Equal(t, rules.ProfileEnabled, again.Refusal.Rule)
		list, _, err := r.Readers(t.Context(), r.op, "", 10)
		require.NoError(t, err)
		assert.True(t, list[0].Plain)
	})
}

// Of a plain eUICC that is registered with no more than whose a profile is, the
// rest is read.
func TestPlainEUICCOfWhichLittleIsKnown(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		im := servertest.Plain(servertest.Image(1))
		record := fmt.Sprintf(`{"management": "es10c", "eid": "%s", "profiles": [{"iccid": "%s", "mccmnc": "46011"}]}`, im.EID, im.Profiles[0].ICCID)
		_, fresh, err := r.RegisterCard(t.Context(), r.op, []byte(record))
		require.NoError(t, err)
		assert.True(t, fresh)
		_, _, err = r.RegisterCard(t.Context(), r.other, []byte(strings.Replace(record, "46011", "26201", 1)))
		assert.ErrorIs(t, err, server.ErrForbidden, "it is another's as far as is known")
		c := servertest.Card(im)
		r.readers.Insert("reader", c, nil)
		r.asPlain(c)
		_, fresh, err = r.RegisterCard(t.Context(), r.other, []byte(strings.Replace(record, "46011", "26201", 1)))
		require.NoError(t, err, "the card says that one of its profiles is this one's")
		assert.True(t, fresh)
		theirs, _, err := r.Deactivate(t.Context(), r.other, server.Deactivation{EID: im.EID, ICCID: &im.Profiles[0].ICCID})
		require.NoError(t, err)
		assert.Equal(t, rules.ProfileKnown, theirs.Refusal.Rule, "and this is not")
		assert.Equal(t, store.Done, r.finished(r.ask(server.Deactivation{EID: im.EID})).State)
		r.asPlain(c)
	})
	r := newRig(t)
	for _, record := range []string{
		`{"management": "es10c", "eid": "` + servertest.EID(1).String() + `", "profiles": []}`,
		`{"management": "es10c", "eid": "` + servertest.EID(1).String() + `", "keys": {}, "profiles": []}`,
		`{"management": "none", "eid": "` + servertest.EID(1).String() + `", "profiles": []}`,
		`{"management": "es10c", "profiles": []}`,
	} {
		_, _, err := r.RegisterCard(t.Context(), r.op, []byte(record))
		assert.Error(t, err, record)
	}
}

// Without an allowance nothing is sent, be it that there never was one, or that
// it was taken away while the request waited, or just before the command.
func TestPlainEUICCWithoutAllowance(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		im := servertest.Plain(servertest.Image(1))
		require.NoError(t, r.stop())
		var allowed atomic.Bool
		some, none := servertest.PlainRules("for-now", "true"), servertest.Rules()
		r.rules = func() *rules.Set {
			if allowed.Load() {
				return some
			}
			return none
		}
		r.start()
		c := r.insert(im, nil)
		req := r.ask(server.Deactivation{EID: im.EID})
		require.NotNil(t, req.Refusal)
		assert.Equal(t, store.Refusal{
			Rule: rules.PlainEUICC, SubjectCode: "8.1.1", ReasonCode: "1.2",
			Text: "the card is a plain eUICC, and no management rule allows that it is managed by ES10c",
		}, *req.Refusal)

		r.readers.Remove("reader")
		allowed.Store(true)
		req = r.ask(server.Deactivation{EID: im.EID})
		require.Nil(t, req.Refusal)
		allowed.Store(false)
		r.readers.Insert("reader", c, nil)
		req = r.finished(req)
		require.NotNil(t, req.Refusal)
		assert.Equal(t, rules.PlainEUICC, req.Refusal.Rule)
		assert.NotContains(t, r.kinds(req, true), "sending")

		// Between the look at the record and the mark: by what the mark judges.
		r.readers.Remove("reader")
		var armed atomic.Bool
		r.readers.Insert("reader", c, func(capdu []byte, next servertest.Next) ([]byte, error) {
			if armed.Load() && len(capdu) > 6 && bytes.Equal(capdu[5:7], []byte{0xBF, 0x2D}) {
				allowed.Store(false)
			}
			return next(capdu)
		})
		r.seen(im.EID)
		require.Eventually(t, func() bool {
			events, err := r.store.Events(context.Background(), 0, 1000)
			require.NoError(t, err)
			n := 0
			for _, e := range events {
				if e.Kind == "card unsettled" {
					n++
				}
			}
			return n >= 2
		}, 10*time.Second, time.Millisecond, "it appeared three times, and at first it was unsettled")
		r.settled(im.EID)
		allowed.Store(true)
		armed.Store(true)
		req = r.finished(r.ask(server.Deactivation{EID: im.EID}))
		require.NotNil(t, req.Refusal, "%s %s", req.State, req.Detail)
		assert.Equal(t, rules.PlainEUICC, req.Refusal.Rule)
		assert.Contains(t, r.kinds(req, true), "reading", "the card was read")
		assert.Zero(t, r.disables("reader"))
		assert.Equal(t, appletsim.Enabled, c.Image().Profiles[0].State)
	})
}

// A card that is registered with its keys is never sent ES10c, whatever a reader
// shows and an operator says; one that is registered as plain and has the applet
// is sent nothing.
func TestDowngrade(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		im := servertest.Image(1)
		r.register(im)
		_, _, err := r.RegisterCard(t.Context(), r.op, servertest.Record(servertest.Plain(servertest.Image(1))))
		assert.ErrorIs(t, err, server.ErrOtherKeys)
		liar := servertest.Card(servertest.Plain(servertest.Image(1)))
		r.readers.Insert("liar", liar, nil)
		r.seen(im.EID)
		req := r.ask(server.Deactivation{EID: im.EID})
		require.Eventually(t, func() bool {
			return strings.Count(r.log.String(), "card not settled") > 0 || strings.Contains(r.log.String(), "msg=attempt")
		}, 10*time.Second, time.Millisecond)
		assert.Zero(t, r.disables("liar"))
		assert.Equal(t, appletsim.Enabled, liar.Image().Profiles[0].State)
		c := servertest.Card(im)
		r.readers.Insert("reader", c, nil)
		req = r.finished(req)
		assert.Equal(t, store.Done, req.State)
		assert.Equal(t, store.Applet, req.How)
		r.proven(req, im)
		assert.Zero(t, r.disables("liar")+r.disables("reader"))

		other := servertest.Image(2)
		_, _, err = r.RegisterCard(t.Context(), r.op, servertest.Record(servertest.Plain(servertest.Image(2))))
		require.NoError(t, err)
		_, _, err = r.RegisterCard(t.Context(), r.op, servertest.Record(other))
		assert.ErrorIs(t, err, server.ErrOtherKeys, "nor the other way round")
		whole := servertest.Card(other)
		r.readers.Insert("whole", whole, nil)
		r.seen(other.EID)
		req = r.ask(server.Deactivation{EID: other.EID})
		require.Eventually(t, func() bool {
			text, _ := r.detail(req, "waiting")["text"].(string)
			return strings.Contains(text, "has the management applet")
		}, 10*time.Second, time.Millisecond)
		_, err = r.Cancel(t.Context(), r.op, req.ID)
		require.NoError(t, err)
		assert.Zero(t, r.disables("whole"))
		assert.Equal(t, appletsim.Enabled, whole.Image().Profiles[0].State)
	})
}

// answers has the first DisableProfile answered so, or by nothing and an error.
func answers(carry bool, err error, answer ...byte) func() servertest.Intercept {
	return func() servertest.Intercept {
		var n atomic.Int32
		return func(capdu []byte, next servertest.Next) ([]byte, error) {
			if !isDisable(capdu) || n.Add(1) > 1 {
				return next(capdu)
			}
			if carry {
				if _, err := next(capdu); err != nil {
					return nil, err
				}
			}
			return answer, err
		}
	}
}

func code(c byte) []byte { return []byte{0xBF, 0x32, 0x03, 0x80, 0x01, c, 0x90, 0x00} }

// Whatever a plain eUICC and its reader answer, the outcome is what is read.
func TestPlainEUICCThatFails(t *testing.T) {
	about := func(e appletsim.EUICC) func(*appletsim.Image) {
		e.Plain = true
		return func(im *appletsim.Image) { im.Runtime.About = &e }
	}
	ppr1 := func(im *appletsim.Image) { im.Profiles[0].PPR1 = true }
	cases := map[string]struct {
		change    func(*appletsim.Image)
		intercept func() servertest.Intercept
		inject    *appletsim.Fault
		want      store.State
		sent      int
		text      string
	}{
		"answers nothing until it is reset": {change: about(appletsim.EUICC{SettleByReset: true}), want: store.Done, sent: 1},
		"busy at first":                     {intercept: answers(false, nil, code(5)...), want: store.Done, sent: 2},
		"PPR1":                              {change: ppr1, want: store.Refused, sent: 1, text: "a profile policy rule forbids it"},
		"PPR1, by status":                   {change: func(im *appletsim.Image) { ppr1(im); about(appletsim.EUICC{M2MRefusals: true})(im) }, want: store.Refused, sent: 1, text: "69E1"},
		"says done and did nothing":         {intercept: answers(false, nil, code(0)...), want: store.Failed, sent: 1, text: "still enabled"},
		"says it failed and did it":         {intercept: answers(true, nil, 0x6F, 0x00), want: store.Done, sent: 1},
		"answer lost":                       {intercept: answers(true, apdu.ErrTimeout), want: store.Done, sent: 1},
		"command lost":                      {intercept: answers(false, apdu.ErrTimeout), want: store.Failed, sent: 1, text: "the card does not answer"},
		"pulled before it wrote":            {inject: &appletsim.Fault{Write: 1, Kind: appletsim.CutBefore, Away: 20 * time.Millisecond}, want: store.Failed, sent: 1, text: "still enabled"},
		"pulled once it wrote":              {inject: &appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: 20 * time.Millisecond}, want: store.Done, sent: 1},
		"no memory":                         {inject: &appletsim.Fault{Write: 1, Kind: appletsim.WriteFails}, want: store.Failed, sent: 1, text: "error 127"},
	}
	onBoth(t, func(t *testing.T, r *rig) {
		n := 0
		for name, tt := range cases {
			n++
			t.Run(name, func(t *testing.T) {
				im := servertest.Plain(servertest.Image(n))
				if tt.change != nil {
					tt.change(im)
				}
				var intercept servertest.Intercept
				if tt.intercept != nil {
					intercept = tt.intercept()
				}
				c := r.insert(im, intercept)
				defer r.readers.Remove("reader")
				if tt.inject != nil {
					c.Inject(*tt.inject)
				}
				req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
				assert.Equal(t, tt.want, req.State, "%s", req.Detail)
				assert.Equal(t, store.ES10c, req.How)
				assert.Contains(t, req.Detail, tt.text)
				assert.NotContains(t, req.Detail, "internal")
				assert.Equal(t, tt.sent, r.disables("reader"))
				assert.Equal(t, tt.want == store.Done, c.Image().Profiles[0].State == appletsim.Disabled)
				r.asPlain(c)
			})
		}
	})
}

// Whichever APDU is lost, on its way to the card or back, and with the card
// pulled for a while: the request comes to its end, the record is the card, and
// one mark sends one command.
func TestPlainEUICCLosesAnAPDU(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		const last = 24
		for n := 1; n <= last; n++ {
			for _, carried := range []bool{false, true} {
				im := servertest.Plain(servertest.Image(2*n + map[bool]int{true: 1}[carried]))
				name := im.EID.String()
				c := servertest.Card(im)
				r.register(im)
				var armed atomic.Bool
				var left atomic.Int32
				left.Store(int32(n))
				r.readers.Insert(name, c, func(capdu []byte, next servertest.Next) ([]byte, error) {
					if !armed.Load() || left.Add(-1) != 0 {
						return next(capdu)
					}
					if carried {
						_, err := next(capdu)
						return nil, fmt.Errorf("%w: %w", apdu.ErrTimeout, err)
					}
					c.Remove()
					c.Insert()
					return nil, apdu.ErrCardRemoved
				})
				r.seen(im.EID)
				r.settled(im.EID)
				armed.Store(true)
				req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
				gone := c.Image().Profiles[0].State == appletsim.Disabled
				assert.Equal(t, map[bool]store.State{true: store.Done, false: store.Failed}[gone], req.State, "APDU %d, carried out %t: %s", n, carried, req.Detail)
				assert.LessOrEqual(t, r.disables(name), 1)
				assert.Equal(t, 1, strings.Count(strings.Join(r.kinds(req, false), " "), "sending"))
				r.asPlain(c)
				r.readers.Remove(name)
				if n == last {
					assert.Positive(t, left.Load(), "each APDU had its turn")
				}
			}
		}
	})
}

// A plain eUICC counts no events: it is read whenever it appears, and a request
// is judged by what is read just before its command.
func TestPlainEUICCChangedElsewhere(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		im := servertest.Plain(servertest.Image(1))
		c := r.insert(im, nil)
		change := func(op es10.Op, i int) {
			_, err := es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: op, ICCID: &im.Profiles[i].ICCID})
			require.NoError(t, err)
		}
		r.readers.Remove("reader")
		change(es10.OpEnable, 1)
		waiting := r.ask(server.Deactivation{EID: im.EID, ICCID: &im.Profiles[0].ICCID})
		require.Equal(t, store.Waiting, waiting.State, "as far as the record goes it is enabled")
		r.readers.Insert("reader", c, nil)
		waiting = r.finished(waiting)
		require.NotNil(t, waiting.Refusal, "%s", waiting.Detail)
		assert.Equal(t, rules.ProfileEnabled, waiting.Refusal.Rule)
		assert.Zero(t, r.disables("reader"))
		record, err := r.store.Card(t.Context(), im.EID, 0)
		require.NoError(t, err)
		assert.Equal(t, store.Disabled, record.Profile(im.Profiles[0].ICCID).State, "what it was refused for is recorded with it")
		r.asPlain(c)

		r.readers.Remove("reader")
		change(es10.OpDelete, 0)
		r.readers.Insert("reader", c, nil)
		require.Eventually(t, func() bool {
			record, err := r.store.Card(context.Background(), im.EID, 0)
			return err == nil && !record.Unsettled && record.Profile(im.Profiles[0].ICCID).State == store.Absent
		}, 10*time.Second, time.Millisecond)
	})
}

// What was sent and never read again, of a profile that is gone, stays unknown;
// one that was enabled again meanwhile is not disabled again.
func TestPlainEUICCRecoveryReadsAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		for name, back := range map[string]bool{"deleted": false, "enabled again": true} {
			t.Run(name, func(t *testing.T) {
				im := servertest.Plain(servertest.Image(map[bool]int{true: 1, false: 2}[back]))
				var out atomic.Bool
				c := r.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
					if isDisable(capdu) {
						_, err := next(capdu)
						out.Store(true)
						return nil, fmt.Errorf("%w: %w", apdu.ErrCardRemoved, err)
					}
					if out.Load() {
						return nil, apdu.ErrCardRemoved
					}
					return next(capdu)
				})
				req := r.ask(server.Deactivation{EID: im.EID})
				r.until(req, store.Unknown)
				r.readers.Remove("reader")
				op := es10.OpDelete
				if back {
					op = es10.OpEnable
				}
				_, err := es10.Attempt(t.Context(), c.Connect(), es10.Change{Op: op, ICCID: &im.Profiles[0].ICCID})
				require.NoError(t, err)
				r.readers.Insert("reader", c, nil)
				req = r.finished(req)
				assert.Equal(t, map[bool]store.State{true: store.Failed, false: store.Unknown}[back], req.State)
				assert.Zero(t, r.disables("reader"), "nothing goes out without a mark of its own")
				r.readers.Remove("reader")
			})
		}
	})
}

// Whose a profile is that the card does not say stays what the record says.
func TestPlainEUICCThatDoesNotSayWhose(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		im := servertest.Plain(servertest.Image(1))
		noOwner := func(capdu []byte, next servertest.Next) ([]byte, error) {
			rapdu, err := next(capdu)
			return bytes.ReplaceAll(rapdu, []byte{0xB7, 0x05, 0x80, 0x03}, []byte{0x9A, 0x05, 0x80, 0x03}), err
		}
		record := servertest.Record(im)
		_, _, err := r.RegisterCard(t.Context(), r.op, record)
		require.NoError(t, err)
		extra := im.Profiles[1]
		extra.ICCID = servertest.ICCID(1, 7)
		im.Profiles = append(im.Profiles, extra)
		c := servertest.Card(im)
		r.readers.Insert("reader", c, noOwner)
		r.asPlain(c)
		got, err := r.store.Card(t.Context(), im.EID, r.op.ID)
		require.NoError(t, err)
		assert.Equal(t, servertest.Owner, got.Profiles[0].Owner)
		assert.Equal(t, "00000", strings.TrimSuffix(got.Profiles[3].Owner.String(), "0"), "nobody's")
		_, _, err = server.AddOperator(t.Context(), r.store, "nobody", got.Profiles[3].Owner, "", store.AllRoles)
		assert.ErrorIs(t, err, server.ErrInvalid)
		assert.Equal(t, store.Done, r.finished(r.ask(server.Deactivation{EID: im.EID})).State)
	})
}
