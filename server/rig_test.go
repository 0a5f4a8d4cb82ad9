package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// rig is a server over emulated cards.
type rig struct {
	testing.TB
	*server.Server
	dir       string
	where     string // the record, as store.Open wants it
	log       *logBuffer
	drain     time.Duration
	authRetry server.Backoff
	lease     time.Duration
	options   []store.Option
	rules     func() *rules.Set
	store     *store.Store
	readers   *servertest.Readers
	source    reader.Source // the readers, or what stands before them
	terminal  *card.Terminal
	older     []*card.Terminal
	op        store.Operator
	other     store.Operator // of another network
	stop      func() error   // ends the server and closes the store; once
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t testing.TB) *rig {
	where := servertest.NewRecord(t, migrate)
	r := unstarted(t, where)
	r.dir = filepath.Dir(where)
	r.start()
	r.addOperators()
	return r
}

func migrate(path string) error {
	s, err := store.Open(context.Background(), path)
	if err != nil {
		return err
	}
	return s.Close()
}

// unstarted is a rig over the record at where, before start.
func unstarted(t testing.TB, where string) *rig {
	r := &rig{
		TB: t, where: where, rules: servertest.Rules, readers: servertest.NewReaders(), log: &logBuffer{}, terminal: servertest.Terminal(),
		authRetry: server.Backoff{Min: 5 * time.Millisecond, Max: 100 * time.Millisecond},
	}
	r.source = r.readers
	return r
}

func (r *rig) addOperators() {
	t := r.TB
	var err error
	r.op, _, err = server.AddOperator(t.Context(), r.store, "one", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	r.other, _, err = server.AddOperator(t.Context(), r.store, "other", servertest.Other, "", store.AllRoles)
	require.NoError(t, err)
}

func (r *rig) start() {
	s, err := store.Open(r.Context(), r.where, r.options...)
	require.NoError(r, err)
	r.store = s
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.Server, err = server.New(server.Config{
		Store: s, Inventory: inventory.New(r.source, log), Terminal: r.terminal, Older: r.older, Log: log, Drain: r.drain, Rules: r.rules,
		Settle:    time.Second,
		Retry:     server.Backoff{Min: 2 * time.Millisecond, Max: 50 * time.Millisecond},
		AuthRetry: r.authRetry,
		Lease:     r.lease,
		Poll:      20 * time.Millisecond,

		Checkpoints: auditKey, CheckpointEvery: 20 * time.Millisecond,
	})
	require.NoError(r, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	select {
	case <-r.Started():
	case err := <-ended:
		ended <- err // for stop
	}
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		err := <-ended
		assert.Empty(r, verified(r, s).Problems)
		require.NoError(r, s.Close())
		return err
	}
	r.Cleanup(func() { assert.NoError(r, r.stop()) })
}

// path is the record's file.
func (r *rig) path() string { return r.where }

// register registers the card of an image.
func (r *rig) register(im *appletsim.Image) {
	_, _, err := r.RegisterCard(r.Context(), r.op, servertest.Record(im))
	require.NoError(r, err)
}

// insert makes the card of an image, registers it and puts it into a reader of
// its own.
func (r *rig) insert(im *appletsim.Image, intercept servertest.Intercept) *appletsim.Card {
	r.register(im)
	c := servertest.Card(im)
	r.readers.Insert("reader", c, intercept)
	r.seen(im.EID)
	r.settled(im.EID)
	return c
}

// settled waits until the state of the card is read.
func (r *rig) settled(eid id.EID) {
	require.Eventually(r, func() bool {
		c, err := r.store.Card(context.Background(), eid, 0)
		return err == nil && !c.Unsettled
	}, 10*time.Second, time.Millisecond)
}

// seen waits until the EID of the card is known.
func (r *rig) seen(eid id.EID) {
	require.Eventually(r, func() bool { return len(r.Inventory.Readers(eid)) > 0 }, 10*time.Second, time.Millisecond)
}

func (r *rig) ask(d server.Deactivation) store.Request {
	req, _, err := r.Deactivate(r.Context(), r.op, d)
	require.NoError(r, err)
	return req
}

// finished waits for the end of a request.
func (r *rig) finished(req store.Request) store.Request { return r.finishedFor(r.op, req) }

func (r *rig) finishedFor(op store.Operator, req store.Request) store.Request {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for after := int64(0); ; {
		events, now, err := r.Steps(ctx, op, req.ID, after, time.Second)
		require.NoError(r, err)
		if len(events) == 0 && now.FinishedAt != nil {
			return now
		}
		for _, e := range events {
			after = e.Seq
		}
	}
}

// until waits for a state.
func (r *rig) until(req store.Request, state store.State) {
	require.Eventually(r, func() bool {
		now, err := r.store.Request(context.Background(), req.ID)
		require.NoError(r, err)
		return now.State == state
	}, 10*time.Second, time.Millisecond, "state %s", state)
}

func (r *rig) kinds(req store.Request, internal bool) []string {
	events, err := r.store.RequestEvents(context.Background(), req.ID, 0, internal, 1000)
	require.NoError(r, err)
	var out []string
	for _, e := range events {
		out = append(out, e.Kind)
	}
	return out
}

// sameAs checks that the record of a card is its card.
func (r *rig) sameAs(im *appletsim.Image) {
	r.Helper()
	c, err := r.store.Card(context.Background(), im.EID, 0)
	require.NoError(r, err)
	assert.Equal(r, im.EventCounter, c.EventCounter, "event counter")
	require.Len(r, c.Profiles, len(im.Profiles))
	for i, p := range im.Profiles {
		assert.Equal(r, string(p.State), string(c.Profiles[i].State), "profile %s", p.ICCID)
	}
	assert.False(r, c.Unsettled)
}

// proven checks that the recorded receipt verifies from the record alone.
func (r *rig) proven(req store.Request, im *appletsim.Image) {
	r.Helper()
	require.NotNil(r, req.Answer)
	record, err := card.ParseRecord(servertest.Record(im))
	require.NoError(r, err)
	cmd := card.Command{
		INS: card.INSDeactivate, RequestID: req.ID, Operator: req.MCCMNC, ICCID: req.ICCID, Reason: req.Reason, Counter: req.Counter,
	}
	assert.Equal(r, cmd.Data(), req.Answer.Command)
	assert.NoError(r, card.Verify(record.Target(), cmd, req.Answer.Response, req.Answer.Receipt))
}

// commands counts the APDUs of one INS that a reader was given.
func (r *rig) commands(reader string, ins byte) (n int) {
	for _, c := range r.readers.Sent(reader) {
		if len(c) > 1 && c[1] == ins {
			n++
		}
	}
	return n
}

// secured counts the APDUs of one INS under secure messaging.
func (r *rig) secured(reader string, ins byte) (n int) {
	for _, c := range r.readers.Sent(reader) {
		if isSecured(c, ins) {
			n++
		}
	}
	return n
}

// isSecured reports whether an APDU is under secure messaging with this INS.
func isSecured(capdu []byte, ins byte) bool { return capdu[0]&0x0C == 0x0C && capdu[1] == ins }
