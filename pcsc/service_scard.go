//go:build cgo || windows

package pcsc

import (
	"bytes"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/ebfe/scard"
)

// scardService is the service by the system's PC/SC library.
type scardService struct {
	ctx  *scard.Context
	card *scard.Card // nil while not connected
	pin  int
}

func establish() (service, error) {
	ctx, err := scard.EstablishContext()
	if err != nil {
		return nil, code(err)
	}
	return &scardService{ctx: ctx, pin: pins.take()}, nil
}

// code makes a Code of scard's error, whose own text asks the C library.
func code(err error) error {
	var e scard.Error
	if errors.As(err, &e) {
		return Code(e)
	}
	return err
}

func (s *scardService) release() {
	_ = s.ctx.Release()
	pins.give(s.pin)
}

func (s *scardService) interrupt() { _ = s.ctx.Cancel() }

func (s *scardService) readers() ([]string, error) {
	for range 5 { // the list may grow between the question for its size and that for itself
		names, err := s.ctx.ListReaders()
		switch {
		case errors.Is(err, scard.ErrNoReadersAvailable):
			return nil, nil
		case errors.Is(err, scard.ErrInsufficientBuffer):
			continue
		case err != nil:
			return nil, code(err)
		}
		return names, nil
	}
	return nil, CodeInsufficientBuffer
}

func (s *scardService) status(states []readerState, wait time.Duration) error {
	if len(states) == 0 {
		return nil
	}
	sys := make([]scard.ReaderState, len(states))
	for i, st := range states {
		sys[i] = scard.ReaderState{Reader: s.pinned(st.name), CurrentState: scard.StateFlag(st.current)}
	}
	if err := s.ctx.GetStatusChange(sys, max(wait, 0)); err != nil {
		return code(err)
	}
	for i := range states {
		states[i].event, states[i].atr = uint32(sys[i].EventState), sys[i].Atr
	}
	return nil
}

func (s *scardService) connect(reader string, exclusive bool, p Protocol) (Protocol, error) {
	card, err := s.ctx.Connect(reader, shareMode(exclusive), scard.Protocol(p))
	if err != nil {
		return 0, code(err)
	}
	s.card = card
	return Protocol(card.ActiveProtocol()), nil
}

func (s *scardService) direct(reader string) error {
	card, err := s.ctx.Connect(reader, scard.ShareDirect, scard.ProtocolUndefined)
	if err != nil {
		return code(err)
	}
	s.card = card
	return nil
}

func (s *scardService) reconnect(exclusive bool, p Protocol, d Disposition) (Protocol, error) {
	if err := s.card.Reconnect(shareMode(exclusive), scard.Protocol(p), scard.Disposition(d)); err != nil {
		return 0, code(err)
	}
	return Protocol(s.card.ActiveProtocol()), nil
}

func shareMode(exclusive bool) scard.ShareMode {
	if exclusive {
		return scard.ShareExclusive
	}
	return scard.ShareShared
}

func (s *scardService) disconnect(d Disposition) error {
	if s.card == nil {
		return nil
	}
	card := s.card
	s.card = nil
	return code(card.Disconnect(scard.Disposition(d)))
}

func (s *scardService) cardStatus() (atr []byte, p Protocol, err error) {
	st, err := s.card.Status()
	if err != nil {
		return nil, 0, code(err)
	}
	return bytes.Clone(st.Atr), Protocol(st.ActiveProtocol), nil
}

func (s *scardService) attribute(a Attribute) ([]byte, error) {
	v, err := s.card.GetAttrib(scard.Attrib(a))
	return v, code(err)
}

func (s *scardService) control(ioctl uint32, in []byte) ([]byte, error) {
	out, err := s.card.Control(ioctl, in)
	return bytes.Clone(out), code(err)
}

func (s *scardService) transmit(capdu []byte) ([]byte, error) {
	rapdu, err := s.card.Transmit(capdu)
	if err != nil {
		return nil, code(err)
	}
	return bytes.Clone(rapdu), nil // scard's has 64 KiB behind it
}

func (s *scardService) begin() error { return code(s.card.BeginTransaction()) }

func (s *scardService) end() error { return code(s.card.EndTransaction(scard.LeaveCard)) }

// pinned is the reader's name with a tail that C does not see. During a status
// scard keeps names from the garbage collector in one map by name, so that two
// contexts that ask for one reader drop each other's while C still reads it; the
// tail makes the keys differ.
func (s *scardService) pinned(name string) string {
	if runtime.GOOS == "windows" { // scard keeps no such map, and refuses a NUL
		return name
	}
	return name + "\x00" + strconv.Itoa(s.pin)
}

// pins numbers the contexts, with numbers used again: what scard's map has once
// had stays in it.
var pins pinSet

type pinSet struct {
	mu   sync.Mutex
	free []int
	next int
}

func (p *pinSet) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		pin := p.free[n-1]
		p.free = p.free[:n-1]
		return pin
	}
	p.next++
	return p.next
}

func (p *pinSet) give(pin int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, pin)
}
