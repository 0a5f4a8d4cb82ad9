package requests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// lease is that of all servers: long enough for a machine that is busy. It
// passes faster where the clock is put forward.
const lease = 6 * time.Second

var (
	errDead    = fmt.Errorf("the server is dead: %w", apdu.ErrTransport)
	errDropped = errors.New("the connection to the record was dropped")
	errAnswer  = errors.New("the answer of the record was lost")
)

// settings are a server's, but for what it works on.
func settings(s *store.Store, source reader.Source, t *card.Terminal, log *slog.Logger, set func() *rules.Set) server.Config {
	return server.Config{
		Store: s, Inventory: inventory.New(source, log), Terminal: t, Log: log, Rules: set,
		Workers: 4, Attempt: 10 * time.Second, Drain: time.Millisecond, Lease: lease, Poll: 200 * time.Millisecond, Settle: 100 * time.Millisecond,
		Retry:     server.Backoff{Min: 2 * time.Millisecond, Max: 30 * time.Millisecond},
		AuthRetry: server.Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond},

		Checkpoints: auditKey(), CheckpointEvery: 250 * time.Millisecond,
	}
}

// node is one server, from its start to its death.
type node struct {
	w       *world
	index   int
	name    string // of its connections
	readers *servertest.Readers
	client  client
	child   *child // nil: it runs in this process
	dead    atomic.Bool
	losing  atomic.Int32 // writes that fail, as on a connection that was dropped
	cancel  context.CancelFunc
	stop    func() // ends it and waits for that; once

	mu    sync.Mutex
	awake chan struct{} // is closed when it wakes; nil where it does not sleep
	// fenced says that somebody else has claimed the trial's card while this one
	// slept; guarded by play.mu.
	fenced bool
}

// client is what an operator does at a server.
type client interface {
	deactivate(context.Context, store.Operator, server.Deactivation) (id.RequestID, error)
	approve(context.Context, store.Operator, id.RequestID) error
	cancel(context.Context, store.Operator, id.RequestID) error
}

// local is a server in this process.
type local struct {
	*server.Server
}

func (l local) deactivate(ctx context.Context, op store.Operator, d server.Deactivation) (id.RequestID, error) {
	r, _, err := l.Deactivate(ctx, op, d)
	return r.ID, err
}

func (l local) approve(ctx context.Context, op store.Operator, r id.RequestID) error {
	_, err := l.Store.Approve(ctx, op, r)
	return err
}

func (l local) cancel(ctx context.Context, op store.Operator, r id.RequestID) error {
	_, err := l.Store.Cancel(ctx, op, r)
	return err
}

// startNode starts a server in this process over the world's record.
func (w *world) startNode(ctx context.Context, index int) (*node, error) {
	n := &node{w: w, index: index, name: fmt.Sprintf("torture-%d", w.bench.worlds.Add(1)), readers: servertest.NewReaders()}
	s, err := store.Open(ctx, named(w.where, n.name), store.WithClock(w.now), store.WithFaults(n.write))
	if err != nil {
		return nil, err
	}
	srv, err := server.New(settings(s, gate{n.readers, n}, w.bench.terminal, w.log, w.rules))
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	n.client = local{srv}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.cancel = cancel
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(work) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		_ = s.Close()
	})
	select {
	case <-srv.Started():
		return n, nil
	case err := <-ended:
		ended <- err
		n.stop()
		return nil, err
	}
}

// named gives a node's connections to PostgreSQL its name.
func named(where, name string) string {
	if !store.IsPostgres(where) {
		return where
	}
	u, err := url.Parse(where)
	if err != nil {
		return where
	}
	q := u.Query()
	q.Set("application_name", name)
	u.RawQuery = q.Encode()
	return u.String()
}

// die makes everything that the node does fail from here on.
func (n *node) die() {
	if n.dead.Swap(true) {
		return
	}
	n.rouse()
	n.cancel()
}

// pass waits while the node sleeps. The error says that it is dead.
func (n *node) pass() error {
	n.mu.Lock()
	awake := n.awake
	n.mu.Unlock()
	if awake != nil {
		<-awake
	}
	if n.dead.Load() {
		return errDead
	}
	return nil
}

// doze has everything that the node does wait.
func (n *node) doze() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.awake == nil {
		n.awake = make(chan struct{})
	}
}

func (n *node) rouse() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.awake != nil {
		close(n.awake)
		n.awake = nil
	}
}

// write is a store.WithFaults function.
func (n *node) write(write string, committed bool) error {
	m := torture.Before
	if committed {
		m = torture.After
	} else if n.losing.Add(-1) >= 0 {
		return errDropped
	}
	return n.at(Step(write), m, nil)
}

// at is called at each step, with the card of a command. The error keeps what is
// about to be done from being done, or whoever did it from learning so.
func (n *node) at(s Step, m torture.Moment, c *tortured) error {
	if err := n.pass(); err != nil {
		return err
	}
	p := n.w.play.Load()
	if p == nil {
		return nil
	}
	hit, ok := p.reached(n, s, m)
	if !ok {
		return nil
	}
	defer p.later.Done()
	return p.strike(n, hit, c)
}

// carry stands between a node's reader and a card.
func (n *node) carry(c *tortured) servertest.Intercept {
	return func(capdu []byte, next servertest.Next) ([]byte, error) {
		s := stepOf(capdu)
		if err := n.at(s, torture.Before, c); err != nil {
			c.note(n, s, nil, fmt.Errorf("not carried out: %w", err))
			return nil, err
		}
		rapdu, err := next(capdu)
		c.note(n, s, rapdu, err)
		if b := n.w.bench.sabotage; b != nil && b.twice && s == Deactivate && err == nil {
			if err := n.w.again(c); err != nil {
				return nil, err
			}
		}
		if lost := n.at(s, torture.After, c); lost != nil {
			c.note(n, s, nil, fmt.Errorf("that answer does not arrive: %w", lost))
			return nil, lost
		}
		return rapdu, err
	}
}

// gate is a node's readers; a dead node has none.
type gate struct {
	reader.Source
	n *node
}

func (g gate) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	if err := g.n.pass(); err != nil {
		return nil, err
	}
	return g.Source.Open(ctx, name, mode)
}
