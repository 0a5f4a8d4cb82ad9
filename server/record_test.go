package server_test

import (
	"context"
	"errors"
	"log/slog"
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
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// What a card proved is kept until it can be recorded, and nothing is sent
// meanwhile: a refusal ends the operation.
func TestOutcomeThatCannotBeRecorded(t *testing.T) {
	for name, change := range map[string]func(*appletsim.Image){
		"refused": func(im *appletsim.Image) { im.Profiles[0].PPR1 = true },
		"done":    func(*appletsim.Image) {},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			im := servertest.Image(1)
			change(im)
			c := r.insert(im, nil)
			mend := servertest.Break(t, r.path(), "UPDATE OF finished_at ON deactivations")
			req := r.ask(server.Deactivation{EID: im.EID})
			require.Eventually(t, func() bool {
				return strings.Count(r.log.String(), "outcome not recorded yet") >= 4 || r.secured("reader", servertest.INSDeactivate) > 1
			}, 10*time.Second, time.Millisecond)
			r.readers.Remove("reader") // it is recorded without the card
			mend()
			req = r.finished(req)
			r.proven(req, im)
			assert.Equal(t, []string{"accepted", "authenticating", "sending", name}, r.kinds(req, false), "sent once")
			r.sameAs(c.Image())
		})
	}
}

// A mark that cannot be written keeps the command from going out; what went
// wrong within the server is not the operator's.
func TestMarkThatCannotBeWritten(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	c := r.insert(im, nil)
	mend := servertest.Break(t, r.path(), "UPDATE OF sent_at ON deactivations")
	req := r.ask(server.Deactivation{EID: im.EID})
	require.Eventually(t, func() bool {
		kinds := r.kinds(req, true)
		return len(kinds) > 0 && strings.Count(strings.Join(kinds, " "), "internal error") >= 2
	}, 10*time.Second, time.Millisecond)
	assert.Zero(t, r.secured("reader", servertest.INSDeactivate))
	mend()
	req = r.finished(req)
	assert.Equal(t, store.Done, req.State)
	r.sameAs(c.Image())
	events, err := r.store.RequestEvents(t.Context(), req.ID, 0, true, 1000)
	require.NoError(t, err)
	for _, e := range events {
		text, _ := e.Detail["text"].(string)
		if !e.Internal {
			assert.NotContains(t, text, "disk full")
			assert.NotContains(t, text, "store")
		}
		if e.Kind == "internal error" {
			assert.Contains(t, e.Detail["error"], "disk full")
		}
	}
}

// A server that does not own the record may take a request in; the one that
// owns it carries it out.
func TestRequestTakenInByAnotherServer(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	c := r.insert(im, nil)
	second, err := store.Open(t.Context(), r.path())
	require.NoError(t, err)
	defer second.Close()
	log := slog.New(slog.DiscardHandler)
	other, err := server.New(server.Config{
		Store: second, Inventory: inventory.New(servertest.NewReaders(), log), Terminal: servertest.Terminal(), Log: log,
	})
	require.NoError(t, err)
	req, _, err := other.Deactivate(t.Context(), r.op, server.Deactivation{EID: im.EID})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		now, err := r.store.Request(context.Background(), req.ID)
		return err == nil && now.FinishedAt != nil
	}, 10*time.Second, time.Millisecond)
	r.sameAs(c.Image())
	assert.Equal(t, uint32(6), c.Image().EventCounter)
}

// The audit log has why an authentication failed, in recovery too.
func TestAuthenticationThatFailsInRecovery(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	var sent atomic.Int32
	var failed atomic.Bool
	c := r.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
		switch {
		case isSecured(capdu, servertest.INSDeactivate) && sent.Add(1) == 1:
			_, err := next(capdu)
			return nil, errors.Join(err, apdu.ErrTimeout)
		case capdu[1] == servertest.INSInternalAuthenticate && sent.Load() == 1 && !failed.Swap(true):
			b, err := next(capdu)
			b[10] ^= 1
			return b, err
		}
		return next(capdu)
	})
	req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
	assert.Equal(t, store.Done, req.State)
	assert.Contains(t, r.kinds(req, true), "authentication failed")
	assert.NotContains(t, r.kinds(req, false), "authentication failed")
	r.sameAs(c.Image())
}

// The first sending of a request does not start from a record that may be
// wrong.
func TestFirstSendingStartsFromASettledRecord(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	r.register(im)
	req := r.ask(server.Deactivation{EID: im.EID})
	r.until(req, store.Waiting)
	im.EventCounter = 40
	c := servertest.Card(im)
	directly(t, c, im, card.INSDeactivate, im.Profiles[0].ICCID)
	r.readers.Insert("reader", c, nil)
	req = r.finished(req)
	require.NotNil(t, req.Refusal, "the record that the rules see is the card's")
	assert.Zero(t, r.secured("reader", servertest.INSDeactivate))
	r.sameAs(c.Image())
}

// An answer that comes when the server is told to end, and the time for that is
// over, is recorded all the same.
func TestAnswerAfterTheEnd(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.stop())
	r.drain = time.Millisecond
	attempts := &attempts{Source: r.readers}
	r.source = attempts
	r.start()
	im := servertest.Image(1)
	var stopped atomic.Bool
	ended := make(chan error, 1)
	c := r.insert(im, func(capdu []byte, next servertest.Next) ([]byte, error) {
		b, err := next(capdu)
		if isSecured(capdu, servertest.INSDeactivate) && !stopped.Swap(true) {
			go func() { ended <- r.stop() }()
			<-attempts.last().Done() // cut off
		}
		return b, err
	})
	req := r.ask(server.Deactivation{EID: im.EID})
	require.NoError(t, <-ended)
	s, err := store.Open(t.Context(), r.path())
	require.NoError(t, err)
	defer s.Close()
	now, err := s.Request(t.Context(), req.ID)
	require.NoError(t, err)
	assert.Equal(t, store.Done, now.State)
	assert.Equal(t, uint32(6), c.Image().EventCounter)
}

// attempts keeps the context of the last attempt on a card.
type attempts struct {
	reader.Source
	mu  sync.Mutex
	ctx context.Context
}

func (a *attempts) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	if mode == reader.Exclusive {
		a.mu.Lock()
		a.ctx = ctx
		a.mu.Unlock()
	}
	return a.Source.Open(ctx, name, mode)
}

func (a *attempts) last() context.Context {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ctx
}
