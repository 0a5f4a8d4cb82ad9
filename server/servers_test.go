package server_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// twoRigs are two servers, each with readers of its own, on one PostgreSQL
// record. change is made to each before it starts.
func twoRigs(t *testing.T, change ...func(*rig)) (a, b *rig) {
	where := postgres.Shared(t).NewDatabase(t, "")
	a, b = unstarted(t, where), unstarted(t, where)
	for i, r := range []*rig{a, b} {
		r.lease = 300 * time.Millisecond
		if i < len(change) && change[i] != nil {
			change[i](r)
		}
		r.start()
	}
	a.addOperators()
	b.op, b.other = a.op, a.other
	return a, b
}

// A request is carried out by the server that sees its card, wherever it was
// taken in, and whoever asked learns of its steps there.
func TestServersShareTheWork(t *testing.T) {
	a, b := twoRigs(t)
	im := servertest.Image(1)
	c := b.insert(im, nil)
	req := a.ask(server.Deactivation{EID: im.EID})
	assert.Equal(t, store.Waiting, req.State, "a does not see the card")
	req = a.finished(req)
	assert.Equal(t, store.Done, req.State)
	a.proven(req, im)
	a.sameAs(c.Image())
	assert.Equal(t, uint32(6), c.Image().EventCounter)
	assert.Contains(t, a.kinds(req, false), "sending")
}

// Both servers have a reader that says it has the card: one request, one
// command, whoever is first; the liar keeps nobody from the card.
func TestServersBothSeeTheCard(t *testing.T) {
	a, b := twoRigs(t)
	im := servertest.Image(1)
	c := a.insert(im, nil)
	b.readers.Insert("liar", servertest.Card(servertest.Stranger(servertest.Image(1))), nil)
	b.seen(im.EID)
	for n := range 4 {
		r := []*rig{a, b}[n%2]
		if n > 0 {
			directly(t, c, im, 0x44, im.Profiles[0].ICCID)
			_, err := a.Refresh(t.Context(), a.op, im.EID)
			require.NoError(t, err)
			a.settled(im.EID)
		}
		req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
		assert.Equal(t, store.Done, req.State, "%s", req.Detail)
		a.proven(req, im)
		assert.Equal(t, uint32(6+2*n), c.Image().EventCounter, "done once")
	}
	a.sameAs(c.Image())
}

// A server that dies with a command out leaves it to the next one that sees the
// card, once its lease has passed.
func TestServerDiesAndAnotherRecovers(t *testing.T) {
	for name, carriedOut := range map[string]bool{"before the card has it": false, "after the card did it": true} {
		t.Run(name, func(t *testing.T) {
			var dead atomic.Bool
			gone := errors.New("gone")
			a, b := twoRigs(t, func(r *rig) {
				r.options = []store.Option{store.WithFaults(func(string, bool) error {
					if dead.Load() {
						return gone
					}
					return nil
				})}
			})
			im := servertest.Image(1)
			c := a.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
				if isSecured(capdu, servertest.INSDeactivate) && !dead.Load() {
					if carriedOut {
						if _, err := next(capdu); err != nil {
							return nil, err
						}
					}
					dead.Store(true)
				}
				if dead.Load() {
					return nil, apdu.ErrTransport
				}
				return next(capdu)
			})
			req := a.ask(server.Deactivation{EID: im.EID})
			require.Eventually(t, dead.Load, 10*time.Second, time.Millisecond)
			now, err := b.store.Request(t.Context(), req.ID)
			require.NoError(t, err)
			assert.Equal(t, store.Sending, now.State)
			b.readers.Insert("reader", c, nil) // it is plugged in over there
			req = b.finished(req)
			assert.Equal(t, store.Done, req.State)
			b.proven(req, im)
			b.sameAs(c.Image())
			assert.Equal(t, uint32(6), c.Image().EventCounter, "done once")
			assert.Contains(t, b.kinds(req, false), "unknown", "what was sent is unknown until it is recovered")
		})
	}
}

// A server sleeps at a step until its lease has passed and another one has taken
// the card over. When it wakes it can neither mark nor record.
func TestServerSleepsPastItsLease(t *testing.T) {
	for name, at := range map[string]func(capdu []byte) bool{
		"before the mark":    func(capdu []byte) bool { return capdu[1] == servertest.INSExternalAuthenticate },
		"before the command": func(capdu []byte) bool { return isSecured(capdu, servertest.INSDeactivate) },
		"with the answer":    func(capdu []byte) bool { return isSecured(capdu, servertest.INSDeactivate) },
	} {
		t.Run(name, func(t *testing.T) {
			// It sleeps as a whole: it renews nothing either.
			var armed, asleep atomic.Bool
			t.Cleanup(func() { asleep.Store(false) })
			a, b := twoRigs(t, func(r *rig) {
				r.options = []store.Option{store.WithFaults(func(write string, committed bool) error {
					for write == "renew" && asleep.Load() {
						time.Sleep(time.Millisecond)
					}
					return nil
				})}
			})
			im := servertest.Image(1)
			fell := make(chan struct{})
			c := a.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
				if !armed.Load() || !at(capdu) || asleep.Load() {
					return next(capdu)
				}
				var answer []byte
				var err error
				if name == "with the answer" {
					answer, err = next(capdu)
				}
				asleep.Store(true)
				close(fell)
				for asleep.Load() {
					time.Sleep(time.Millisecond)
				}
				if name == "with the answer" {
					return answer, err
				}
				return next(capdu)
			})
			armed.Store(true)
			req := a.ask(server.Deactivation{EID: im.EID})
			<-fell
			b.readers.Insert("reader", c, nil)
			req = b.finished(req)
			assert.Equal(t, store.Done, req.State)
			before := b.kinds(req, true)
			armed.Store(false)
			asleep.Store(false)
			require.NoError(t, a.stop())
			assert.Equal(t, before, b.kinds(req, true), "it wrote nothing when it woke")
			b.proven(req, im)
			assert.Equal(t, uint32(6), c.Image().EventCounter, "done once")
			record, err := b.store.Card(context.Background(), im.EID, 0)
			require.NoError(t, err)
			assert.Equal(t, uint32(6), record.EventCounter)
		})
	}
}
