package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrEnding says that the server was told to end and takes nothing new in.
var ErrEnding = errors.New("the server ends; ask another one, or again in a moment")

var errNotStarted = errors.New("the server has not started")

const (
	aliveTimeout = 3 * time.Second // for asking whether readers can be reached at all
	aliveFor     = time.Second     // so long the answer stands
)

// Check is one thing that a server needs to do its work. Text is what whoever
// asks may read of Err.
type Check struct {
	Name string
	Err  error
	Text string
}

// Readiness is what the server needs to do its work: engine, it has started and
// was not told to end; record, it can be written; readers, what tells of them
// works; rules, there are some.
func (s *Server) Readiness(ctx context.Context) []Check {
	out := []Check{
		{Name: "engine", Err: s.engine()},
		{Name: "record", Err: s.Ready(ctx), Text: "the record cannot be written"},
		{Name: "readers", Err: s.readersAlive(ctx), Text: "the readers cannot be seen"},
		{Name: "rules", Text: "no management rules are loaded"},
	}
	if err := out[0].Err; err != nil {
		out[0].Text = err.Error()
	}
	if s.Rules() == nil {
		out[3].Err = errors.New(out[3].Text)
	}
	return out
}

func (s *Server) engine() error {
	select {
	case <-s.ending:
		return ErrEnding
	default:
	}
	select {
	case <-s.started:
		return nil
	default:
		return errNotStarted
	}
}

// alive is what the readers' source said of itself last: anybody may ask, and
// asking it costs more than an answer.
type alive struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

func (s *Server) readersAlive(ctx context.Context) error {
	a := &s.alive
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) < aliveFor {
		return a.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), aliveTimeout)
	defer cancel()
	if a.err = s.Inventory.Check(ctx); a.err != nil {
		a.err = fmt.Errorf("readers: %w", a.err)
	}
	a.at = time.Now()
	return a.err
}
