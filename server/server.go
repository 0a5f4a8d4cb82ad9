// Package server turns operators' requests into card operations and keeps the
// record of every card.
//
// A request is held against the management rules, waits for its card, and is
// carried out as docs/protocol.md §8 says: one request per EID at a time, a
// durable mark before the command goes out, nothing recorded but what verified.
// A command that was sent is recovered until its outcome is known, across
// restarts too.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/store"
)

// Backoff is how long to wait between attempts: Min first, doubled each time up
// to Max.
type Backoff struct{ Min, Max time.Duration }

func (b Backoff) next(d time.Duration) time.Duration { return min(max(2*d, b.Min), b.Max) }

// Config is what a Server works with. Store, Inventory, Terminal and Log must
// be set; the zero value of anything else stands for the default.
type Config struct {
	Store     *store.Store
	Inventory *inventory.Inventory
	Terminal  *card.Terminal
	Log       *slog.Logger
	Rules     *rules.Set    // rules.Default
	Workers   int           // cards that are worked on at once; 16
	Attempt   time.Duration // the most that one attempt on a card takes; 60 s
	Drain     time.Duration // how long attempts may go on after Run was told to end; 10 s
	// Retry is between attempts that the transport, or the card's absence,
	// brought to nothing; 250 ms to 30 s.
	Retry Backoff
	// AuthRetry is between attempts in which card and server did not prove
	// themselves to each other. A card counts failures, and it may be an
	// impostor that asks for work; 2 s to 5 min.
	AuthRetry Backoff
	// Settle is how long a request may wait, before it is judged, for the state
	// of its card to be read; 5 s.
	Settle time.Duration
}

// Server is the card management server. It is safe for concurrent use.
type Server struct {
	Config
	hub    *hub[id.RequestID] // steps of requests
	looked *hub[id.EID]       // steps of runners

	started chan struct{} // closed once Run works
	ending  chan struct{} // closed once Run is told to end
	running sync.WaitGroup
	places  chan struct{} // Workers of them

	mu       sync.Mutex
	ctx      context.Context // of Run; nil before and after it
	work     context.Context // of attempts; ends Drain after ctx
	runners  map[id.EID]*runner
	mistrust map[claim]mistrust
	hints    map[id.EID]uint32 // event counters that cards gave in the clear when they appeared
}

// New makes a server. It works once Run is called; requests are taken before.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.Inventory == nil || c.Terminal == nil || c.Log == nil {
		return nil, errors.New("server: store, inventory, terminal and log are needed")
	}
	if c.Rules == nil {
		c.Rules = rules.Default()
	}
	if c.Workers <= 0 {
		c.Workers = 16
	}
	if c.Attempt <= 0 {
		c.Attempt = time.Minute
	}
	if c.Drain <= 0 {
		c.Drain = 10 * time.Second
	}
	if c.Retry == (Backoff{}) {
		c.Retry = Backoff{250 * time.Millisecond, 30 * time.Second}
	}
	if c.AuthRetry == (Backoff{}) {
		c.AuthRetry = Backoff{2 * time.Second, 5 * time.Minute}
	}
	if c.Settle <= 0 {
		c.Settle = 5 * time.Second
	}
	s := &Server{
		Config: c, hub: newHub[id.RequestID](), looked: newHub[id.EID](),
		started: make(chan struct{}), ending: make(chan struct{}), places: make(chan struct{}, c.Workers),
		runners: map[id.EID]*runner{}, mistrust: map[claim]mistrust{}, hints: map[id.EID]uint32{},
	}
	c.Inventory.Notify(func(eid id.EID, counter uint32) {
		s.mu.Lock()
		s.hints[eid] = counter
		s.mu.Unlock()
		s.kick(eid, true)
	})
	return s, nil
}

// expireEvery is how often deadlines and the queue are looked at.
const expireEvery = 200 * time.Millisecond

// Run takes up what an earlier server left open, then works until ctx ends. It
// lets attempts that are under way come to their end, for Drain at most; what
// is cut off then is recovered by the next server. It returns nil where it was
// told to end, and is called once. The error matches store.ErrInUse where
// another server works on the same record.
func (s *Server) Run(ctx context.Context) error {
	release, err := s.Store.Own(ctx)
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	defer func() {
		if err := release(); err != nil {
			s.Log.Error("record not released", "error", err)
		}
	}()
	if err := s.Store.Resume(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("server: what was left open: %w", err)
	}
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	s.mu.Lock()
	s.ctx, s.work = ctx, work
	s.mu.Unlock()

	close(s.started)
	watched := make(chan error, 1)
	go func() { watched <- s.Inventory.Run(ctx) }()
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	var failed error
	for ctx.Err() == nil && failed == nil {
		select {
		case <-tick.C:
			s.expire(ctx)
			s.pickUp(ctx)
		case err := <-watched:
			watched <- err
			if ctx.Err() == nil {
				failed = fmt.Errorf("server: watching the readers: %w", err)
			}
		case <-ctx.Done():
		}
	}
	close(s.ending)
	s.mu.Lock()
	s.ctx = nil // no runner starts from here on
	for _, r := range s.runners {
		r.cancel()
	}
	s.mu.Unlock()
	timer := time.AfterFunc(s.Drain, cut)
	defer timer.Stop()
	s.running.Wait()
	if failed == nil {
		<-watched
	}
	return failed
}

// Started is closed once Run owns the record and works.
func (s *Server) Started() <-chan struct{} { return s.started }

func (s *Server) expire(ctx context.Context) {
	list, err := s.Store.Expire(ctx, 256)
	if err != nil {
		if ctx.Err() == nil {
			s.Log.Error("deadlines not looked at", "error", err)
		}
		return
	}
	for _, r := range list {
		s.Log.Info("request expired", "request", r.ID, "eid", r.EID)
		s.hub.publish(r.ID)
		s.kick(r.EID, false)
	}
}

// pickUp starts work on what another process took in for a card that is here.
func (s *Server) pickUp(ctx context.Context) {
	for _, e := range s.Inventory.List() {
		if e.EID == nil {
			continue
		}
		s.mu.Lock()
		busy := s.runners[*e.EID] != nil
		s.mu.Unlock()
		if busy {
			continue
		}
		switch _, err := s.Store.NextRequest(ctx, *e.EID); {
		case err == nil:
			s.kick(*e.EID, false)
		case !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil:
			s.Log.Error("queue not read", "eid", *e.EID, "error", err)
		}
	}
}

// Ready reports whether the record can be written.
func (s *Server) Ready(ctx context.Context) error { return s.Store.Ping(ctx) }
