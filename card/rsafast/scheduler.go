package rsafast

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

var (
	// ErrQueueFull says that a request's context ended before there was room for
	// it in the queue: there is more work than the processor does. The error
	// matches the context's too.
	ErrQueueFull = errors.New("rsafast: the queue is full")
	// ErrClosed says that the scheduler was closed before the request's turn.
	ErrClosed = errors.New("rsafast: the scheduler is closed")
)

// maxModulus is the length in bytes of the longest modulus.
const maxModulus = 4096 / 8

// defaultQueue is a few tenths of a second of 2048-bit private operations for
// one core: who comes later waits for room.
const defaultQueue = 1024

// Config is how a Scheduler is made; its zero value will do.
type Config struct {
	Workers int // that compute at the same time; 0: as many as Go uses cores
	Queue   int // requests that wait for their turn, at most; 0: 1024
	// Observe is told of each call of the engine: whether its operations are
	// under public keys, how many there are, and how long it took. It is called
	// by all workers; nil: nobody asks.
	Observe func(public bool, operations int, took time.Duration)
}

// Scheduler puts the operations of many goroutines together into the calls of
// the engine. It never waits for a second request: a request that finds an idle
// worker runs at once, and those that come while all workers compute share the
// next calls. Keys take turns: a key with many requests does not hold up
// another's.
//
// A request whose context ends leaves the queue; one that has started is
// finished, and its value discarded.
type Scheduler struct {
	room    chan struct{} // one element for each request in the queue
	closing chan struct{}
	workers sync.WaitGroup
	spare   sync.Pool // of *request

	observe func(public bool, operations int, took time.Duration)
	private func(...*Op) // Run and RunPublic, but in tests
	public  func(...*PublicOp)

	mu     sync.Mutex
	wake   sync.Cond // turns has grown, or closed was set
	turns  []*queue  // those that are not empty; the first is next
	closed bool

	publicQueues map[int]*queue // by the modulus's length in bytes; not changed
}

// queue is the requests under one key, or the public operations of one size, in
// the order they came.
type queue struct {
	class   class
	width   int // requests that fill a call
	waiting []*request
}

// class is what requests that may share a call have in common.
type class struct {
	size   int // of the modulus, bytes
	public bool
	plain  bool // portable code
}

// request is one operation under way. Its memory is the scheduler's, so that a
// caller may leave at any time.
type request struct {
	private Op
	public  PublicOp
	queue   *queue
	state   state // under the scheduler's mu
	left    bool  // the caller did, under mu too
	done    chan struct{}
	in, out [maxModulus]byte
}

type state byte

const (
	waiting state = iota
	started
	finished
)

// NewScheduler starts a scheduler, which must be closed.
func NewScheduler(c Config) *Scheduler {
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Queue <= 0 {
		c.Queue = defaultQueue
	}
	s := &Scheduler{
		room: make(chan struct{}, c.Queue), closing: make(chan struct{}),
		observe: c.Observe, private: Run, public: RunPublic, publicQueues: map[int]*queue{},
	}
	s.wake.L = &s.mu
	s.spare.New = func() any { return &request{done: make(chan struct{}, 1)} }
	for _, size := range []int{2048 / 8, 3072 / 8, 4096 / 8} {
		s.publicQueues[size] = &queue{class: class{size: size, public: true}, width: PublicWidth()}
	}
	for range c.Workers {
		s.workers.Go(s.work)
	}
	return s
}

// Close ends the scheduler: requests that wait get ErrClosed, those that have
// started are finished. It returns when all workers have.
func (s *Scheduler) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	for _, q := range s.turns {
		for _, r := range q.waiting {
			r.fail(ErrClosed)
			<-s.room
			s.finish(r)
		}
		q.waiting = nil
	}
	s.turns = nil
	s.wake.Broadcast()
	s.mu.Unlock()
	s.workers.Wait()
}

// Queued is how many requests wait for their turn.
func (s *Scheduler) Queued() int { return len(s.room) }

// Key gives a key's operations to the scheduler. Two calls for one key give it
// two turns.
func (s *Scheduler) Key(k *Key) *Scheduled {
	q := &queue{class: class{size: len(k.n), plain: k.engine == nil}, width: Width()}
	if q.class.plain {
		q.width = 1
	}
	return &Scheduled{s: s, key: k, queue: q}
}

// Load is NewKey, and Key.
func (s *Scheduler) Load(k *rsa.PrivateKey) (*Scheduled, error) {
	key, err := NewKey(k)
	if err != nil {
		return nil, err
	}
	return s.Key(key), nil
}

// Scheduled is a key whose operations a Scheduler does. It is safe for
// concurrent use.
type Scheduled struct {
	s     *Scheduler
	key   *Key
	queue *queue
}

// Public is the public half.
func (k *Scheduled) Public() *rsa.PublicKey { return k.key.Public() }

// Private is Key.Private in its turn.
func (k *Scheduled) Private(ctx context.Context, c []byte) ([]byte, error) {
	m := make([]byte, len(k.key.n))
	if err := k.PrivateTo(ctx, m, c); err != nil {
		return nil, err
	}
	return m, nil
}

// PrivateTo is Private with the value in dst, which is as long as the modulus
// and may be c; it is written where there is no error.
func (k *Scheduled) PrivateTo(ctx context.Context, dst, c []byte) error {
	if err := checkLengths(len(k.key.n), dst, c); err != nil {
		return err
	}
	r := k.s.request(k.queue, c)
	r.private = Op{Key: k.key, C: r.in[:len(c)], M: r.out[:0:len(c)]}
	return k.s.do(ctx, r, dst)
}

// String keeps the key out of logs.
func (k Scheduled) String() string { return k.key.String() }

// GoString keeps the key out of logs.
func (k Scheduled) GoString() string { return k.String() }

// PublicTo is RSAVP1 = RSAEP of RFC 8017 on x, a value below n in exactly the
// modulus's length, with the value in dst, which is as long and may be x. The
// error matches ErrKey where the key is no key of 2048, 3072 or 4096 bits.
func (s *Scheduler) PublicTo(ctx context.Context, k *rsa.PublicKey, dst, x []byte) error {
	key, err := NewPublicKey(k)
	if err != nil {
		return err
	}
	if err := checkLengths(len(key.n), dst, x); err != nil {
		return err
	}
	r := s.request(s.publicQueues[len(x)], x)
	r.public = PublicOp{Key: key, X: r.in[:len(x)], Y: r.out[:0:len(x)]}
	return s.do(ctx, r, dst)
}

// checkLengths is for what goes into the queue; that it is below the modulus is
// checked by Run and RunPublic.
func checkLengths(size int, dst, x []byte) error {
	if len(x) != size || len(dst) != size {
		return fmt.Errorf("%w: %d bytes, and room for %d, for a modulus of %d", ErrOperand, len(x), len(dst), size)
	}
	return nil
}

func (s *Scheduler) request(q *queue, in []byte) *request {
	r := s.spare.Get().(*request)
	r.queue, r.state, r.left = q, waiting, false
	copy(r.in[:], in)
	return r
}

// free leaves nothing of a request's values behind.
func (s *Scheduler) free(r *request) {
	clear(r.in[:])
	clear(r.out[:])
	r.private, r.public, r.queue = Op{}, PublicOp{}, nil
	s.spare.Put(r)
}

// do carries a request through the queue.
func (s *Scheduler) do(ctx context.Context, r *request, dst []byte) error {
	if err := s.enter(ctx, r); err != nil {
		s.free(r)
		return err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		s.mu.Lock()
		if r.state == started {
			r.left = true // whoever finishes it frees it
			s.mu.Unlock()
			return ctx.Err()
		}
		if r.state == waiting {
			s.drop(r)
			s.mu.Unlock()
			s.free(r)
			return ctx.Err()
		}
		s.mu.Unlock()
		<-r.done
	}
	defer s.free(r)
	m, err := r.result()
	if err != nil {
		return err
	}
	copy(dst, m)
	return nil
}

// enter puts a request into its queue, once there is room.
func (s *Scheduler) enter(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.room <- struct{}{}:
	default:
		select {
		case s.room <- struct{}{}:
		case <-s.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrQueueFull, ctx.Err())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		<-s.room
		return ErrClosed
	}
	q := r.queue
	if len(q.waiting) == 0 {
		s.turns = append(s.turns, q)
	}
	q.waiting = append(q.waiting, r)
	s.wake.Signal()
	return nil
}

// drop takes a request that waits out of its queue; mu is held.
func (s *Scheduler) drop(r *request) {
	<-s.room
	q := r.queue
	i := slices.Index(q.waiting, r)
	q.waiting = slices.Delete(q.waiting, i, i+1)
	if len(q.waiting) == 0 {
		i := slices.Index(s.turns, q)
		s.turns = slices.Delete(s.turns, i, i+1)
	}
}

// work is one worker.
func (s *Scheduler) work() {
	var batch []*request
	var private []*Op
	var public []*PublicOp
	for {
		if batch = s.next(batch[:0]); len(batch) == 0 {
			return
		}
		began := time.Now()
		if batch[0].queue.class.public {
			public = public[:0]
			for _, r := range batch {
				public = append(public, &r.public)
			}
			s.public(public...)
		} else {
			private = private[:0]
			for _, r := range batch {
				private = append(private, &r.private)
			}
			s.private(private...)
		}
		if s.observe != nil {
			s.observe(batch[0].queue.class.public, len(batch), time.Since(began))
		}
		s.mu.Lock()
		for _, r := range batch {
			s.finish(r)
		}
		s.mu.Unlock()
	}
}

// next waits for requests and takes those of one call; none when the scheduler
// is closed.
func (s *Scheduler) next(batch []*request) []*request {
	s.mu.Lock()
	defer s.mu.Unlock()
	for yielded := false; ; {
		for len(s.turns) == 0 && !s.closed {
			s.wake.Wait()
		}
		if s.closed {
			return nil
		}
		if yielded || len(s.turns[0].waiting) >= s.turns[0].width {
			return s.take(batch)
		}
		// The call is not full. Goroutines that are ready to run may be about to
		// ask for more: they go first, and nobody waits where there are none.
		yielded = true
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
}

// take takes one call's requests: of the queue whose turn it is, and where
// these do not fill it, the first of others of its class; mu is held.
func (s *Scheduler) take(batch []*request) []*request {
	first := s.turns[0]
	for i := 0; i < len(s.turns) && len(batch) < first.width; {
		q := s.turns[i]
		if q.class != first.class {
			i++
			continue
		}
		n := min(first.width-len(batch), len(q.waiting))
		batch = append(batch, q.waiting[:n]...)
		q.waiting = slices.Delete(q.waiting, 0, n)
		if len(q.waiting) == 0 {
			s.turns = slices.Delete(s.turns, i, i+1)
		} else {
			i++
		}
	}
	if len(first.waiting) > 0 { // then it is still the first
		s.turns = append(slices.Delete(s.turns, 0, 1), first)
	}
	for _, r := range batch {
		r.state = started
		<-s.room
	}
	return batch
}

// finish ends a request; mu is held.
func (s *Scheduler) finish(r *request) {
	if r.left {
		s.free(r)
		return
	}
	r.state = finished
	r.done <- struct{}{}
}

func (r *request) fail(err error) {
	r.private.Err, r.public.Err = err, err
}

// result is what came of a request: the value is in its memory.
func (r *request) result() ([]byte, error) {
	if r.queue.class.public {
		return r.public.Y, r.public.Err
	}
	return r.private.M, r.private.Err
}
