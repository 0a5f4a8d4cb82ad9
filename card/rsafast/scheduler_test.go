package rsafast

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

// stdKey is a key of the published vectors.
func stdKey(t testing.TB, name string) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode([]byte(vectors.Load(t).Keys[name]))
	require.NotNil(t, block, name)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	return k.(*rsa.PrivateKey)
}

func fastKey(t testing.TB, name string) *Key {
	t.Helper()
	k, err := NewKey(stdKey(t, name))
	require.NoError(t, err)
	return k
}

// operand is a value below any modulus of its length.
func operand(size int, v byte) []byte {
	c := bytes.Repeat([]byte{v}, size)
	c[0] = 0
	return c
}

// gated is a scheduler with one worker whose calls wait to be let through, one
// by one, and are put down.
type gated struct {
	*Scheduler
	began chan int // a call began, with so many requests
	pass  chan struct{}
	calls [][]byte // a byte of each request's operand
}

func newGated(t *testing.T, queue int) *gated {
	g := &gated{Scheduler: NewScheduler(Config{Workers: 1, Queue: queue}), began: make(chan int), pass: make(chan struct{})}
	note := func(marks []byte) {
		g.calls = append(g.calls, marks)
		g.began <- len(marks)
		<-g.pass
	}
	g.private = func(ops ...*Op) {
		var marks []byte
		for _, op := range ops {
			marks = append(marks, op.C[1])
		}
		note(marks)
		Run(ops...)
	}
	g.public = func(ops ...*PublicOp) {
		var marks []byte
		for _, op := range ops {
			marks = append(marks, op.X[1])
		}
		note(marks)
		RunPublic(ops...)
	}
	t.Cleanup(g.Close)
	return g
}

// key is a key with a queue of its own whose calls take two.
func (g *gated) key(k *Key) *Scheduled {
	out := g.Key(k)
	out.queue.class.plain, out.queue.width = false, 2
	return out
}

// waiting waits until so many requests are in the queue.
func (g *gated) waiting(n int) {
	for {
		g.mu.Lock()
		all := 0
		for _, q := range g.turns {
			all += len(q.waiting)
		}
		g.mu.Unlock()
		if all == n {
			return
		}
		runtime.Gosched()
	}
}

// let lets the call that began through and waits for the next, if one is due.
func (g *gated) let(more bool) {
	g.pass <- struct{}{}
	if more {
		<-g.began
	}
}

type answer struct {
	m   []byte
	err error
}

// ask asks for an operation, and returns once it is in the queue or with a
// worker.
func (g *gated) ask(ctx context.Context, k *Scheduled, mark byte, inQueue int) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		m, err := k.Private(ctx, operand(len(k.key.n), mark))
		out <- answer{m, err}
	}()
	if inQueue >= 0 {
		g.waiting(inQueue)
	}
	return out
}

func TestSchedulerAgainstBigInt(t *testing.T) {
	s := NewScheduler(Config{})
	defer s.Close()
	var all sync.WaitGroup
	for _, name := range []string{"card-auth-1", "server-auth-1", "server-enc-3072"} {
		std := stdKey(t, name)
		key := s.Key(fastKey(t, name))
		assert.True(t, std.PublicKey.Equal(key.Public()))
		for range 4 {
			all.Go(func() {
				for range 8 {
					v, err := rand.Int(rand.Reader, std.N)
					if !assert.NoError(t, err) {
						return
					}
					c := v.FillBytes(make([]byte, std.Size()))
					m, err := key.Private(t.Context(), c)
					assert.NoError(t, err)
					assert.Equal(t, new(big.Int).Exp(v, std.D, std.N).FillBytes(make([]byte, std.Size())), m)
					assert.NoError(t, key.PrivateTo(t.Context(), c, c), "in place")
					assert.Equal(t, m, c)
					assert.NoError(t, s.PublicTo(t.Context(), &std.PublicKey, m, m), "in place")
					assert.Equal(t, v.FillBytes(make([]byte, std.Size())), m)
				}
			})
		}
	}
	all.Wait()
	assert.Empty(t, s.turns)
	assert.Empty(t, s.room)
}

func TestLoneRequestRunsAtOnce(t *testing.T) {
	g := newGated(t, 8)
	k := g.key(fastKey(t, "card-auth-1"))
	a := g.ask(t.Context(), k, 1, -1)
	assert.Equal(t, 1, <-g.began, "alone, with nothing to wait for")
	b, c := g.ask(t.Context(), k, 2, 1), g.ask(t.Context(), k, 3, 2)
	g.let(true)
	g.let(false)
	for _, ch := range []<-chan answer{a, b, c} {
		got := <-ch
		assert.NoError(t, got.err)
		assert.Len(t, got.m, 256)
	}
	assert.Equal(t, [][]byte{{1}, {2, 3}}, g.calls, "two that wait share a call")
}

// A key with many requests gets every second call where another has any, and
// those of the other do not wait for a second one.
func TestKeysTakeTurns(t *testing.T) {
	g := newGated(t, 16)
	first := g.key(fastKey(t, "card-auth-1"))
	busy, other, third := g.key(fastKey(t, "card-auth-1")), g.key(fastKey(t, "card-auth-2")), g.key(fastKey(t, "server-enc-3072"))
	all := []<-chan answer{g.ask(t.Context(), first, 0, -1)}
	<-g.began
	n := 0
	add := func(k *Scheduled, mark byte) { n++; all = append(all, g.ask(t.Context(), k, mark, n)) }
	for mark := byte(10); mark < 17; mark++ {
		add(busy, mark)
	}
	for mark := byte(20); mark < 23; mark++ {
		add(other, mark)
	}
	add(third, 30)
	add(third, 31)
	add(third, 32)
	for len(g.room) > 0 {
		g.let(true)
	}
	g.let(false)
	for _, ch := range all {
		assert.NoError(t, (<-ch).err)
	}
	assert.Equal(t, [][]byte{
		{0}, {10, 11}, {20, 21}, {30, 31}, {12, 13},
		{22, 14}, // one alone takes another key's of its size with it
		{32}, {15, 16},
	}, g.calls)
}

func TestPublicOperationsShareCalls(t *testing.T) {
	g := newGated(t, 16)
	g.publicQueues[256].width = 4
	var all sync.WaitGroup
	ask := func(name string, mark byte, inQueue int) {
		std := stdKey(t, name)
		all.Go(func() {
			x := operand(std.Size(), mark)
			want := new(big.Int).Exp(new(big.Int).SetBytes(x), big.NewInt(Exponent), std.N).FillBytes(make([]byte, len(x)))
			assert.NoError(t, g.PublicTo(t.Context(), &std.PublicKey, x, x))
			assert.Equal(t, want, x)
		})
		if inQueue > 0 {
			g.waiting(inQueue)
		}
	}
	ask("card-enc", 1, 0)
	<-g.began
	for i, name := range []string{"card-auth-1", "card-auth-2", "server-enc-3072", "card-auth-3", "server-auth-1", "card-enc"} {
		ask(name, byte(10+i), i+1)
	}
	for len(g.room) > 0 {
		g.let(true)
	}
	g.let(false)
	all.Wait()
	assert.Equal(t, [][]byte{{1}, {10, 11, 13, 14}, {12}, {15}}, g.calls, "four keys of one size")
}

func TestCancelledRequestLeavesTheQueue(t *testing.T) {
	g := newGated(t, 2)
	k := g.key(fastKey(t, "card-auth-1"))
	a := g.ask(t.Context(), k, 1, -1)
	<-g.began
	ctx, cancel := context.WithCancel(t.Context())
	b := g.ask(ctx, k, 2, 1)
	c := g.ask(t.Context(), k, 3, 2)
	cancel()
	assert.ErrorIs(t, (<-b).err, context.Canceled)
	g.waiting(1)
	d := g.ask(t.Context(), k, 4, 2) // there is room again
	g.let(true)
	g.let(false)
	for _, ch := range []<-chan answer{a, c, d} {
		assert.NoError(t, (<-ch).err)
	}
	assert.Equal(t, [][]byte{{1}, {3, 4}}, g.calls)

	_, err := k.Private(ctx, operand(256, 5))
	assert.ErrorIs(t, err, context.Canceled, "before it is asked")
	assert.Len(t, g.calls, 2)
}

// The only request of a key leaves, and the key's turn with it.
func TestCancelledTurn(t *testing.T) {
	g := newGated(t, 4)
	k, other := g.key(fastKey(t, "card-auth-1")), g.key(fastKey(t, "server-enc-3072"))
	a := g.ask(t.Context(), k, 1, -1)
	<-g.began
	ctx, cancel := context.WithCancel(t.Context())
	b := g.ask(ctx, k, 2, 1)
	c := g.ask(t.Context(), other, 3, 2)
	cancel()
	assert.ErrorIs(t, (<-b).err, context.Canceled)
	g.let(true)
	g.let(false)
	assert.NoError(t, (<-a).err)
	assert.NoError(t, (<-c).err)
	assert.Equal(t, [][]byte{{1}, {3}}, g.calls)
}

func TestStartedRequestIsDiscarded(t *testing.T) {
	g := newGated(t, 4)
	k := g.key(fastKey(t, "card-auth-1"))
	ctx, cancel := context.WithCancel(t.Context())
	dst := operand(256, 1)
	done := make(chan error)
	go func() { done <- k.PrivateTo(ctx, dst, dst) }()
	<-g.began
	cancel()
	assert.ErrorIs(t, <-done, context.Canceled, "the caller does not wait for it")
	g.let(false)
	b := g.ask(t.Context(), k, 2, -1)
	<-g.began
	g.let(false)
	assert.NoError(t, (<-b).err)
	assert.Equal(t, operand(256, 1), dst, "nothing is written to who has left")
}

func TestQueueIsBounded(t *testing.T) {
	g := newGated(t, 2)
	k := g.key(fastKey(t, "card-auth-1"))
	all := []<-chan answer{g.ask(t.Context(), k, 1, -1)}
	<-g.began
	all = append(all, g.ask(t.Context(), k, 2, 1), g.ask(t.Context(), k, 3, 2))
	ctx, cancel := context.WithCancel(t.Context())
	full := g.ask(ctx, k, 4, -1)
	cancel()
	err := (<-full).err
	assert.ErrorIs(t, err, context.Canceled)
	ctx, cancel = context.WithTimeout(t.Context(), 1)
	defer cancel()
	<-ctx.Done()
	_, err = k.Private(ctx, operand(256, 5))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	// With room it goes on: who waits is not refused.
	all = append(all, g.ask(t.Context(), k, 6, -1))
	g.let(true)
	g.let(true)
	g.let(false)
	for _, ch := range all {
		assert.NoError(t, (<-ch).err)
	}
	assert.Equal(t, [][]byte{{1}, {2, 3}, {6}}, g.calls)
}

func TestFullQueueSaysSo(t *testing.T) {
	g := newGated(t, 1)
	k := g.key(fastKey(t, "card-auth-1"))
	a := g.ask(t.Context(), k, 1, -1)
	<-g.began
	b := g.ask(t.Context(), k, 2, 1)
	ctx := &late{Context: t.Context(), done: make(chan struct{})}
	full := g.ask(ctx, k, 3, -1)
	close(ctx.done)
	err := (<-full).err
	assert.ErrorIs(t, err, ErrQueueFull)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	g.let(true)
	g.let(false)
	assert.NoError(t, (<-a).err)
	assert.NoError(t, (<-b).err)
}

// late is a context that has ended by the second look.
type late struct {
	context.Context
	done   chan struct{}
	mu     sync.Mutex
	looked bool
}

func (c *late) Done() <-chan struct{} { return c.done }

func (c *late) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.looked {
		c.looked = true
		return nil
	}
	return context.DeadlineExceeded
}

func TestClose(t *testing.T) {
	g := newGated(t, 2)
	k := g.key(fastKey(t, "card-auth-1"))
	a := g.ask(t.Context(), k, 1, -1)
	<-g.began
	b, c := g.ask(t.Context(), k, 2, 1), g.ask(t.Context(), k, 3, 2)
	d := g.ask(t.Context(), k, 4, -1) // waits for room
	closed := make(chan struct{})
	go func() { g.Close(); close(closed) }()
	for _, ch := range []<-chan answer{b, c, d} {
		assert.ErrorIs(t, (<-ch).err, ErrClosed)
	}
	g.let(false)
	assert.NoError(t, (<-a).err, "what has started is finished")
	<-closed
	_, err := k.Private(t.Context(), operand(256, 5))
	assert.ErrorIs(t, err, ErrClosed)
	assert.ErrorIs(t, g.PublicTo(t.Context(), k.Public(), make([]byte, 256), operand(256, 6)), ErrClosed)
	g.Close() // again
	assert.Equal(t, [][]byte{{1}}, g.calls)
	assert.Empty(t, g.room)
}

func TestBadRequests(t *testing.T) {
	s := NewScheduler(Config{})
	defer s.Close()
	k := s.Key(fastKey(t, "card-auth-1"))
	n := k.Public().N.Bytes()
	for _, c := range [][]byte{nil, make([]byte, 255), make([]byte, 257), make([]byte, 4096), n, bytes.Repeat([]byte{0xFF}, 256)} {
		m, err := k.Private(t.Context(), c)
		assert.ErrorIs(t, err, ErrOperand)
		assert.Nil(t, m)
		assert.ErrorIs(t, s.PublicTo(t.Context(), k.Public(), make([]byte, len(c)), c), ErrOperand)
	}
	assert.ErrorIs(t, k.PrivateTo(t.Context(), make([]byte, 255), operand(256, 1)), ErrOperand)
	assert.ErrorIs(t, s.PublicTo(t.Context(), k.Public(), make([]byte, 255), operand(256, 1)), ErrOperand)
	assert.ErrorIs(t, s.PublicTo(t.Context(), nil, make([]byte, 256), operand(256, 1)), ErrKey)
	assert.ErrorIs(t, s.PublicTo(t.Context(), &rsa.PublicKey{N: big.NewInt(15), E: Exponent}, make([]byte, 1), make([]byte, 1)), ErrKey)
}

// One request's failure is its own.
func TestErrorsStayApart(t *testing.T) {
	s := NewScheduler(Config{Workers: 1})
	defer s.Close()
	s.private = func(ops ...*Op) {
		Run(ops...)
		for _, op := range ops {
			if op.C[1] == 2 {
				op.M, op.Err = nil, ErrFault
			}
		}
	}
	k := s.Key(fastKey(t, "card-auth-1"))
	var all sync.WaitGroup
	for mark := byte(1); mark <= 8; mark++ {
		all.Go(func() {
			m, err := k.Private(t.Context(), operand(256, mark%3))
			if mark%3 == 2 {
				assert.ErrorIs(t, err, ErrFault)
				assert.Nil(t, m)
			} else {
				assert.NoError(t, err)
				assert.Len(t, m, 256)
			}
		})
	}
	all.Wait()
}

// Everything at once, for the race detector: several keys, both kinds of
// operations, contexts that end at any time, and the end in the middle.
func TestSchedulerStorm(t *testing.T) {
	s := NewScheduler(Config{Workers: 2, Queue: 3})
	s.private = func(ops ...*Op) {
		for _, op := range ops {
			op.M, op.Err = append(op.M[:0], op.C...), nil
			slices.Reverse(op.M)
		}
	}
	s.public = func(ops ...*PublicOp) {
		for _, op := range ops {
			op.Y, op.Err = append(op.Y[:0], op.X...), nil
			slices.Reverse(op.Y)
		}
	}
	var keys []*Scheduled
	for _, name := range []string{"card-auth-1", "card-auth-2", "server-enc-3072"} {
		keys = append(keys, s.Key(fastKey(t, name)))
	}
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 200 {
				k := keys[(g+i)%len(keys)]
				x := operand(len(k.key.n), byte(g))
				x[len(x)-1] = byte(i)
				want := slices.Clone(x)
				slices.Reverse(want)
				ctx, cancel := context.WithCancel(t.Context())
				if i%3 == 0 {
					go cancel()
				}
				var err error
				if i%2 == 0 {
					err = k.PrivateTo(ctx, x, x)
				} else {
					err = s.PublicTo(ctx, k.Public(), x, x)
				}
				if err == nil {
					assert.Equal(t, want, x)
				} else if i%3 != 0 {
					assert.ErrorIs(t, err, ErrClosed)
				}
				cancel()
				if g == 0 && i == 150 {
					all.Go(s.Close)
				}
			}
		})
	}
	all.Wait()
	assert.Empty(t, s.room)
	assert.Empty(t, s.turns)
}

func TestSchedulerRefusesKeys(t *testing.T) {
	s := NewScheduler(Config{})
	defer s.Close()
	_, err := s.Load(&rsa.PrivateKey{})
	assert.ErrorIs(t, err, ErrKey)
	std := stdKey(t, "card-auth-1")
	k, err := s.Load(std)
	require.NoError(t, err)
	assert.True(t, std.PublicKey.Equal(k.Public()))
}

func TestScheduledPrintsNothing(t *testing.T) {
	s := NewScheduler(Config{})
	defer s.Close()
	k := s.Key(fastKey(t, "card-auth-1"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		assert.Equal(t, "RSA-2048 private key", fmt.Sprintf(verb, k))
		assert.Equal(t, "RSA-2048 private key", fmt.Sprintf(verb, *k))
	}
}

func ExampleScheduler() {
	std, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	s := NewScheduler(Config{})
	defer s.Close()
	scheduled, err := s.Load(std)
	if err != nil {
		panic(err)
	}

	var all sync.WaitGroup
	for i := range 4 { // they share calls of the engine
		all.Go(func() {
			x := make([]byte, 256)
			x[255] = byte(i)
			m, err := scheduled.Private(context.Background(), x)
			if err == nil {
				err = s.PublicTo(context.Background(), scheduled.Public(), m, m)
			}
			if err != nil || !bytes.Equal(m, x) {
				fmt.Println("wrong:", err)
			}
		})
	}
	all.Wait()
	fmt.Println("done")
	// Output: done
}

// Whoever observes is told of each call, and the queue of what waits.
func TestSchedulerIsObserved(t *testing.T) {
	var mu sync.Mutex
	operations := map[bool]int{}
	s := NewScheduler(Config{Observe: func(public bool, n int, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		operations[public] += n
		assert.Positive(t, took)
	}})
	k := s.Key(fastKey(t, "card-auth-1"))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			m, err := k.Private(t.Context(), operand(256, 3))
			if assert.NoError(t, err) {
				assert.NoError(t, s.PublicTo(t.Context(), k.Public(), m, m))
			}
		})
	}
	all.Wait()
	s.Close()
	assert.Equal(t, map[bool]int{false: 20, true: 20}, operations)
	assert.Zero(t, s.Queued())
}
