package pcsc

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// service is one PC/SC context and the card it connects. Its calls give Codes.
// All but interrupt block, and one at a time may run: libpcsclite holds a lock
// of the whole process while a call waits for another of the same context.
type service interface {
	// readers are the names; none is no error.
	readers() ([]string, error)
	// status waits, for that long at most, until a reader's state differs from
	// what states has, and brings it up to date. CodeTimeout: nothing changed.
	status(states []readerState, wait time.Duration) error
	connect(reader string, exclusive bool, p Protocol) (Protocol, error)
	reconnect(exclusive bool, p Protocol, d Disposition) (Protocol, error)
	disconnect(d Disposition) error
	atr() ([]byte, error)
	transmit(capdu []byte) ([]byte, error)
	begin() error
	end() error
	// interrupt ends a status that waits. It may be called at any time.
	interrupt()
	release()
}

// closeTimeout bounds a Close, which has no context.
const closeTimeout = 5 * time.Second

// establishing has one place, for the context that is being made: libpcsclite
// makes one at a time in a process, and where the service hangs, one call hangs
// with it and not each that comes after.
var establishing = make(chan struct{}, 1)

// session is a service that its calls outlive rather than hang their caller:
// each runs on a goroutine of its own. One that is still running when its
// context ends takes the service with it, and releases it once it returns.
type session struct {
	source *Source
	reader string // "" where it concerns no one reader
	max    time.Duration

	mu   sync.Mutex
	svc  service
	dead *Error // why no call is possible any more
}

func (s *Source) newSession(ctx context.Context, op, reader string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultMaxWait)
	defer cancel()
	select {
	case establishing <- struct{}{}:
	case <-ctx.Done():
		return nil, failure(op, reader, &abandoned{ctx.Err()})
	}
	var svc service
	call := func() (err error) {
		defer func() { <-establishing }()
		svc, err = establish()
		return err
	}
	gone := func() {
		if svc != nil {
			svc.release()
		}
	}
	if err := s.outlive(ctx, "", call, func() {}, gone); err != nil {
		return nil, failure(op, reader, err)
	}
	return &session{source: s, reader: reader, max: DefaultMaxWait, svc: svc}, nil
}

// do makes one call, which may last until ctx ends. Where it does not return by
// then, what it writes to is its own.
func (s *session) do(ctx context.Context, op string, call func(service) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return &Error{Op: op, Reader: s.reader, Code: s.dead.Code, Err: s.dead.Err}
	}
	if err := ctx.Err(); err != nil { // nothing has been done: the session lives
		return &Error{Op: op, Reader: s.reader, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, s.max)
	defer cancel()
	svc := s.svc
	err := s.source.outlive(ctx, s.reader, func() error { return call(svc) }, svc.interrupt, func() { discard(svc) })
	if err == nil {
		return nil
	}
	failed := failure(op, s.reader, err)
	var left *abandoned
	if errors.As(err, &left) {
		s.svc = nil
	}
	if s.svc == nil || failed.Code.ends() {
		s.dead = &Error{Code: failed.Code, Err: errDead}
	}
	return failed
}

// close ends the session; d says what becomes of the card. It does nothing the
// second time.
func (s *session) close(d Disposition) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc, dead := s.svc, s.dead
	s.svc, s.dead = nil, &Error{Err: os.ErrClosed}
	if svc == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.source.outlive(ctx, s.reader, func() error {
		defer svc.release()
		return svc.disconnect(d)
	}, func() {}, func() {})
	if err == nil || dead != nil { // what is dead needs no end
		return nil
	}
	return failure("close", s.reader, err)
}

// discard ends a service that nobody waits for.
func discard(svc service) {
	_ = svc.disconnect(LeaveCard)
	svc.release()
}

// abandoned says that ctx ended before a call did.
type abandoned struct{ error }

func (a *abandoned) Unwrap() error { return a.error }

// outlive makes a call to a reader and waits until it returns, or ctx ends: then
// it interrupts, and has gone called once the call has returned. The reader is
// stuck until then.
func (s *Source) outlive(ctx context.Context, reader string, call func() error, interrupt, gone func()) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done: // it was in time after all
		return err
	default:
	}
	s.count(reader, 1)
	go func() {
		defer s.count(reader, -1)
		interrupt()
		<-done
		gone()
	}()
	return &abandoned{ctx.Err()}
}

// count adds n to the reader's calls that nobody waits for.
func (s *Source) count(reader string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == nil {
		s.left = map[string]int{}
	}
	if s.left[reader] += n; s.left[reader] == 0 {
		delete(s.left, reader)
	}
}

// stuck reports whether a call to the reader runs that nobody waits for.
func (s *Source) stuck(reader string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left[reader] > 0
}

// failure makes an error of a call's one.
func failure(op, reader string, err error) *Error {
	var failed *Error
	if errors.As(err, &failed) {
		return &Error{Op: op, Reader: reader, Code: failed.Code, Err: failed.Err}
	}
	var left *abandoned
	if errors.As(err, &left) {
		return &Error{Op: op, Reader: reader, Code: CodeTimeout, Err: left.error}
	}
	var code Code
	if errors.As(err, &code) {
		return &Error{Op: op, Reader: reader, Code: code}
	}
	return &Error{Op: op, Reader: reader, Err: err}
}
