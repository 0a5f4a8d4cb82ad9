package torture

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// tap is a source whose clients' failed exchanges are told of. What opens a card
// exclusively is counted: it is there to carry the operation out.
type tap struct {
	reader.Source
	failed func()

	mu       sync.Mutex
	sessions int
}

func (t *tap) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	conn, err := t.Source.Open(ctx, name, mode)
	if err != nil {
		return nil, err
	}
	if mode == reader.Exclusive {
		t.mu.Lock()
		t.sessions++
		t.mu.Unlock()
	}
	return &tapped{conn, t.failed}, nil
}

// opened is how often a card was opened exclusively.
func (t *tap) opened() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions
}

type tapped struct {
	apdu.Conn
	failed func()
}

func (c *tapped) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	rapdu, err := c.Conn.Transmit(ctx, capdu)
	if err != nil {
		c.failed()
	}
	return rapdu, err
}

// ShortOnly hands on what the connection says.
func (c *tapped) ShortOnly() bool {
	s, ok := c.Conn.(apdu.ShortOnly)
	return ok && s.ShortOnly()
}

// How long a fault lasts once the client has met it, and how soon a bad contact
// closes again, at most; and when a fault ends that no client meets.
const (
	maxAway   = 300 * time.Millisecond
	maxBounce = 50 * time.Millisecond
	unmet     = 10 * time.Second
)

// mender has faults strike, and ends each once a client has met it.
type mender struct {
	ctx   context.Context
	stack Stack

	mu      sync.Mutex
	rand    *rand.Rand
	pending func() // ends the fault that struck, once it is met
	last    func() // ends one that nobody is to end while the trial lasts
	errs    []error
	mending sync.WaitGroup
}

func (m *mender) strike(i Injection) {
	m.mu.Lock()
	defer m.mu.Unlock()
	most := maxAway
	if i.Fault == Bounced {
		most = maxBounce
	}
	away := time.Duration(m.rand.Int64N(int64(most)))
	if err := m.stack.Strike(i.Fault); err != nil {
		m.errs = append(m.errs, err)
	}
	end := sync.OnceFunc(func() {
		m.mending.Go(func() {
			sleep(m.ctx, away)
			// Also where the trial is over: the next one needs the card.
			if err := m.stack.Mend(context.WithoutCancel(m.ctx), i.Fault); err != nil {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.errs = append(m.errs, err)
			}
		})
	})
	switch i.Fault {
	case Bounced:
		end()
		return
	case Hung:
		m.last = end
		return
	}
	late := time.AfterFunc(unmet, end)
	m.pending = func() { late.Stop(); end() }
}

// met ends the fault that struck, if one did: a client has met it.
func (m *mender) met() {
	m.mu.Lock()
	end := m.pending
	m.pending = nil
	m.mu.Unlock()
	if end != nil {
		end()
	}
}

// finish ends what has not ended, and says what went wrong with the faults
// themselves.
func (m *mender) finish() error {
	m.met()
	if m.last != nil {
		m.last()
	}
	m.mending.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.errs...)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
