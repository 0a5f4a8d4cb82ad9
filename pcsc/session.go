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
	// direct connects the reader and leaves the card alone.
	direct(reader string) error
	reconnect(exclusive bool, p Protocol, d Disposition) (Protocol, error)
	disconnect(d Disposition) error
	cardStatus() (atr []byte, p Protocol, err error)
	attribute(a Attribute) ([]byte, error)
	control(code uint32, in []byte) ([]byte, error)
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

// session is a service whose calls end with their context. Where there is a
// lifeline they are made by the caller and ended by cutting it: handing each to a
// goroutine would cost a tenth of an exchange. Elsewhere each runs on a goroutine
// of its own, and one that is still running when its context ends is left alone.
// Either way the service is of no more use then.
type session struct {
	source *Source
	reader string // "" where it concerns no one reader
	max    time.Duration

	mu   sync.Mutex
	svc  service
	line *lifeline // nil where there is none
	dead *Error    // why no call is possible any more
}

// newSession establishes a context with the service.
func (s *Source) newSession(ctx context.Context, op, reader string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultMaxWait)
	defer cancel()
	select {
	case establishing <- struct{}{}:
	case <-ctx.Done():
		return nil, failure(op, reader, &abandoned{ctx.Err()})
	}
	ses := &session{source: s, reader: reader, max: DefaultMaxWait}
	call := func() (err error) {
		defer func() { <-establishing }()
		before := serviceSockets()
		if ses.svc, err = establish(); err == nil {
			ses.line = newLifeline(before)
		}
		return err
	}
	gone := func() {
		if ses.svc != nil {
			release(ses.svc, ses.line)
		}
	}
	if err := s.outlive(ctx, "", call, func() {}, gone); err != nil {
		return nil, failure(op, reader, err)
	}
	return ses, nil
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
	err := s.run(ctx, s.max, call)
	if err == nil {
		return nil
	}
	failed := failure(op, s.reader, err)
	if s.svc == nil || failed.Code.ends() {
		s.dead = &Error{Code: failed.Code, Err: errDead}
	}
	return failed
}

// run makes a call that may last until ctx ends, and limit at most. Where it does
// not return by then, the error is *abandoned, and the service is gone.
func (s *session) run(ctx context.Context, limit time.Duration, call func(service) error) error {
	svc, line := s.svc, s.line
	if line == nil {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err := s.source.outlive(ctx, s.reader, func() error { return call(svc) }, svc.interrupt, func() { discard(svc, nil) })
		if isAbandoned(err) {
			s.svc = nil
		}
		return err
	}
	err, why := line.guard(ctx, limit, func() error { return call(svc) })
	if why == nil {
		return err
	}
	s.svc, s.line = nil, nil
	s.dead = &Error{Code: CodeTimeout, Err: errDead}
	s.source.count(s.reader, 1)
	go s.source.awaitService(s.reader, line, svc)
	if err == nil { // it was in time after all
		return nil
	}
	return &abandoned{why}
}

// awaitService waits for the service to have done with a call that nobody
// waits for: the reader is stuck until then.
func (s *Source) awaitService(reader string, line *lifeline, svc service) {
	defer s.count(reader, -1)
	_ = svc.disconnect(LeaveCard)
	svc.release()
	line.await()
}

// why is why no call is possible any more, nil while one is.
func (s *session) why() *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// close ends the session; d says what becomes of the card. It does nothing the
// second time.
func (s *session) close(d Disposition) error { return s.end(d, &Error{Err: os.ErrClosed}) }

// end is close where later calls fail with why.
func (s *session) end(d Disposition, why *Error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dead := s.dead
	defer func() { s.dead = why }()
	if s.svc == nil {
		return nil
	}
	err := s.run(context.Background(), closeTimeout, func(svc service) error { return svc.disconnect(d) })
	if s.svc != nil {
		release(s.svc, s.line)
		s.svc, s.line = nil, nil
	}
	if err == nil || dead != nil { // what is dead needs no end
		return nil
	}
	return failure("close", s.reader, err)
}

// discard ends a service that nobody waits for.
func discard(svc service, line *lifeline) {
	_ = svc.disconnect(LeaveCard)
	release(svc, line)
}

func release(svc service, line *lifeline) {
	svc.release()
	if line != nil {
		line.close()
	}
}

// abandoned says that its time ended before a call did.
type abandoned struct{ error }

func (a *abandoned) Unwrap() error { return a.error }

func isAbandoned(err error) bool {
	var left *abandoned
	return errors.As(err, &left)
}

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
	go s.awaitReturn(reader, done, interrupt, gone)
	return &abandoned{ctx.Err()}
}

// awaitReturn waits for a call that nobody else waits for.
func (s *Source) awaitReturn(reader string, done <-chan error, interrupt, gone func()) {
	defer s.count(reader, -1)
	interrupt()
	<-done
	gone()
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
