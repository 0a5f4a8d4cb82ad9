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
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	trail "github.com/cardbridge/cardbridge/server/audit"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/store"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// Defaults of Config that others tell of.
const (
	DefaultLease    = 15 * time.Second
	DefaultApproval = 24 * time.Hour
	// DefaultCheckpoint is how long what happened is not signed at most.
	DefaultCheckpoint = 10 * time.Second
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
	Terminal  *card.Terminal // under the key set that is preferred
	Log       *slog.Logger
	Rules     func() *rules.Set // those of now; rules.Default
	Workers   int               // cards that are worked on at once; 16
	Attempt   time.Duration     // the most that one attempt on a card takes; 60 s
	Drain     time.Duration     // how long attempts may go on after Run was told to end; 10 s
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
	// Lease is how long a claim on a card holds without being renewed, and so how
	// long the other servers leave the cards of one alone that died; 15 s.
	Lease time.Duration
	// Approval is how long a request waits for an approval; 24 h.
	Approval time.Duration
	// Webhooks sends operators' endpoints what becomes of their requests, which
	// Show gives as they are told of it, with the names of the users who asked and
	// approved. nil: none are registered, and other servers
	// send what there is to send.
	Webhooks *webhook.Client
	Show     func(r store.Request, asked, approved string) any
	// Observer is told of what happens here; nil: nobody.
	Observer Observer
	// Checkpoints signs the audit trail: every CheckpointEvery (10 s) while something
	// happens, at the start and at the end. nil: nobody here does.
	Checkpoints     *trail.Key
	CheckpointEvery time.Duration
	// Poll is how often the record is looked at for what other processes changed;
	// 200 ms.
	Poll time.Duration
	// Older is the server under other key sets, which cards may hold in place of
	// Terminal's or beside it, while keys are rotated: the first that a card lists is
	// used.
	Older []*card.Terminal
}

// terminals is the server under all its key sets.
func (c *Config) terminals() card.Terminals { return append(card.Terminals{c.Terminal}, c.Older...) }

// Server is the card management server. It is safe for concurrent use.
type Server struct {
	Config
	self   store.Server       // as it claims cards
	hub    *hub[id.RequestID] // steps of requests
	looked *hub[id.EID]       // steps of runners
	users  sync.Map           // number to store.Operator
	used   sync.Map           // numbers of credentials, of whose use the record is to be told

	started chan struct{} // closed once Run works
	ending  chan struct{} // closed once Run is told to end
	running sync.WaitGroup
	places  chan struct{} // Workers of them

	mu       sync.Mutex
	ctx      context.Context // of Run; nil before and after it
	work     context.Context // of attempts; ends Drain after ctx
	runners  map[id.EID]*runner
	mistrust map[suspect]mistrust
	hints    map[id.EID]*uint32 // event counters that cards gave in the clear when they appeared; nil of a plain eUICC
	leases   map[*lease]struct{}

	alive alive
}

// New makes a server. It works once Run is called; requests are taken before.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.Inventory == nil || c.Terminal == nil || c.Log == nil {
		return nil, errors.New("server: store, inventory, terminal and log are needed")
	}
	if err := c.terminals().Check(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if (c.Webhooks == nil) != (c.Show == nil) {
		return nil, errors.New("server: webhooks need to know how requests are shown")
	}
	if c.Rules == nil {
		c.Rules = rules.Default
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
	if c.Lease <= 0 {
		c.Lease = DefaultLease
	}
	c.Lease = min(c.Lease, store.MaxLease)
	if c.Approval <= 0 {
		c.Approval = DefaultApproval
	}
	if c.Observer == nil {
		c.Observer = unobserved{}
	}
	if c.CheckpointEvery <= 0 {
		c.CheckpointEvery = DefaultCheckpoint
	}
	if c.Poll <= 0 {
		c.Poll = 200 * time.Millisecond
	}
	s := &Server{
		Config: c, hub: newHub[id.RequestID](), looked: newHub[id.EID](),
		started: make(chan struct{}), ending: make(chan struct{}), places: make(chan struct{}, c.Workers),
		runners: map[id.EID]*runner{}, mistrust: map[suspect]mistrust{}, hints: map[id.EID]*uint32{}, leases: map[*lease]struct{}{},
		self: store.Server{Name: uuid.NewString(), Lease: c.Lease},
	}
	c.Inventory.Notify(func(eid id.EID, counter *uint32) {
		s.mu.Lock()
		s.hints[eid] = counter
		s.mu.Unlock()
		s.kick(eid, nil, true)
	})
	return s, nil
}

// Run takes up what an earlier server left open, then works until ctx ends. It
// lets attempts that are under way come to their end, for Drain at most; what
// is cut off then is recovered by the next server. It returns nil where it was
// told to end, and is called once. Several servers may work on one PostgreSQL
// record; on an SQLite one the error matches store.ErrInUse where another does.
func (s *Server) Run(ctx context.Context) error {
	release, err := s.Store.Own(ctx)
	switch {
	case ctx.Err() != nil && !errors.Is(err, store.ErrInUse):
		if err == nil {
			err = release()
		} else {
			err = nil
		}
		return err
	case err != nil:
		return fmt.Errorf("server: %w", err)
	}
	defer func() {
		if err := release(); err != nil {
			s.Log.Error("record not released", "error", err)
		}
	}()
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	s.mu.Lock()
	s.ctx, s.work = ctx, work
	s.mu.Unlock()

	close(s.started)
	watched := make(chan error, 1)
	go func() { watched <- s.Inventory.Run(ctx) }()
	var loops sync.WaitGroup
	signed := &checkpoints{s: s}
	loops.Go(func() { signed.begin(ctx); s.every(ctx, s.CheckpointEvery, signed.make) })
	loops.Go(func() { s.every(ctx, s.Poll, s.expire) })
	loops.Go(func() { s.every(ctx, s.Poll, s.pickUp()) })
	loops.Go(func() { s.every(ctx, s.Poll, s.recordUses) })
	renewing, stopRenewing := context.WithCancel(work)
	loops.Go(func() { s.every(renewing, s.Lease/3, s.renew) })
	if s.Webhooks != nil {
		loops.Go(func() { s.deliver(ctx) })
	}
	if s.Store.Shared() {
		loops.Go(func() { s.every(ctx, s.Poll, s.hear()) })
	}
	var failed error
	select {
	case err := <-watched:
		watched <- err
		if ctx.Err() == nil {
			failed = fmt.Errorf("server: watching the readers: %w", err)
		}
	case <-ctx.Done():
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
	stopRenewing()
	if failed == nil {
		<-watched
		loops.Wait()
	}
	signed.end()
	return failed
}

// every calls f again and again until ctx ends.
func (s *Server) every(ctx context.Context, d time.Duration, f func(context.Context)) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Started is closed once Run owns the record and works.
func (s *Server) Started() <-chan struct{} { return s.started }

// Ending is closed once Run is told to end.
func (s *Server) Ending() <-chan struct{} { return s.ending }

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
		s.kick(r.EID, nil, false)
	}
}

const (
	// lookAtOnce bounds one look at the record for the cards that are here. What
	// this server takes in itself does not wait for one.
	lookAtOnce = 256
	hearAtOnce = 1024
)

// pickUp gives a function that starts work on what other processes took in for
// cards that are here, and on what other servers let go of: for some cards each
// time, for all of them in turn.
func (s *Server) pickUp() func(context.Context) {
	var last id.EID
	order := func(a, b id.EID) int { return bytes.Compare(a[:], b[:]) }
	return func(ctx context.Context) {
		eids := s.Inventory.EIDs()
		s.mu.Lock()
		eids = slices.DeleteFunc(eids, func(e id.EID) bool { return s.runners[e] != nil })
		s.mu.Unlock()
		if len(eids) > lookAtOnce {
			slices.SortFunc(eids, order)
			from, _ := slices.BinarySearchFunc(eids, last, order)
			eids = append(eids[from:], eids[:from]...)[:lookAtOnce]
			last = eids[len(eids)-1]
		}
		if len(eids) == 0 {
			return
		}
		waiting, err := s.Store.Waiting(ctx, eids, len(eids))
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Error("queue not read", "error", err)
			}
			return
		}
		for _, eid := range waiting {
			s.kick(eid, nil, false)
		}
	}
}

// renew keeps this server's claims. Where the record cannot be reached for a
// lease's time, what is under way under them is cut off: another server may have
// taken over.
func (s *Server) renew(ctx context.Context) {
	s.mu.Lock()
	held := make(map[id.EID]*lease, len(s.leases))
	for l := range s.leases {
		held[l.eid] = l
	}
	s.mu.Unlock()
	if len(held) == 0 {
		return
	}
	since := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.Lease)
	defer cancel()
	renewed, err := s.Store.Renew(ctx, s.self, slices.Collect(maps.Keys(held)))
	if err != nil {
		s.Log.Warn("claims not renewed", "error", err)
		s.Observer.ClaimsLost(len(held))
		return
	}
	for _, eid := range renewed {
		held[eid].timer.Reset(time.Until(since.Add(s.Lease)))
	}
}

// lease cuts off what is done under a claim once it has passed.
type lease struct {
	eid   id.EID
	timer *time.Timer
}

// leased is the context of work under a claim.
func (s *Server) leased(work *taken) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(s.work, s.Attempt)
	l := &lease{work.Claim.EID, time.AfterFunc(time.Until(work.since.Add(s.Lease)), cancel)}
	s.mu.Lock()
	s.leases[l] = struct{}{}
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		delete(s.leases, l)
		s.mu.Unlock()
		l.timer.Stop()
		cancel()
	}
}

// hear gives a function that tells those who wait for steps of requests of those
// that other servers took.
func (s *Server) hear() func(context.Context) {
	last := map[id.RequestID]int64{}
	return func(ctx context.Context) {
		waited := s.hub.keys()
		for r := range last {
			if !slices.Contains(waited, r) {
				delete(last, r)
			}
		}
		for some := range slices.Chunk(waited, hearAtOnce) {
			now, err := s.Store.LastEvents(ctx, some)
			if err != nil {
				if ctx.Err() == nil {
					s.Log.Error("steps not read", "error", err)
				}
				return
			}
			for r, seq := range now {
				if last[r] != seq {
					last[r] = seq
					s.hub.publish(r)
				}
			}
		}
	}
}

// Ready reports whether the record can be written.
func (s *Server) Ready(ctx context.Context) error { return s.Store.Ping(ctx) }
