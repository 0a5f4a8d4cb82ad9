package requests

import (
	"context"
	"sync"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
)

// restart is one restart of PostgreSQL for trials that go on at the same time:
// it happens once each of them has come to its step, or will not come there.
type restart struct {
	ctx    context.Context
	server *postgres.Server
	kill   bool

	mu      sync.Mutex
	running map[*world]bool // whose trials have not come to the step
	wanted  bool
	done    chan struct{}
	err     error
}

func newRestart(ctx context.Context, s *postgres.Server, kill bool, worlds []*world) *restart {
	r := &restart{ctx: ctx, server: s, kill: kill, running: map[*world]bool{}, done: make(chan struct{})}
	for _, w := range worlds {
		r.running[w] = true
		w.restart = r
	}
	return r
}

// at is a world's coming to the step.
func (r *restart) at(w *world) error {
	r.mu.Lock()
	r.wanted = true
	r.mu.Unlock()
	return r.leave(w)
}

// leave says that a world will not come to the step any more, and waits for the
// restart.
func (r *restart) leave(w *world) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	there := r.running[w]
	delete(r.running, w)
	if there && len(r.running) == 0 {
		go r.carryOut()
	}
	r.mu.Unlock()
	<-r.done
	return r.err
}

func (r *restart) carryOut() {
	defer close(r.done)
	if !r.wanted {
		return
	}
	if r.kill {
		r.err = r.server.Kill()
	}
	if r.err == nil {
		r.err = r.server.Restart(r.ctx)
	}
}

// happened reports whether PostgreSQL was restarted under the trial.
func (r *restart) happened() bool {
	if r == nil {
		return false
	}
	<-r.done
	return r.wanted
}
