// Package pcsc opens PC/SC readers as card connections and watches them.
//
// It uses the system's PC/SC service: pcscd with libpcsclite (by cgo) on Linux,
// the PCSC framework (by cgo) on macOS, WinSCard on Windows. Built without cgo
// where that is needed, every call fails with ErrNotBuilt.
//
// Calls into PC/SC block for as long as reader and card please. Here each ends
// with its context all the same.
package pcsc

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Source is the readers of the PC/SC service. It serves any number of
// goroutines.
//
// A call that did not return before its context ended goes on in the service, at
// the price of a thread there (and one here where the call cannot be cut off:
// see docs/scard-transmit.md). While one does, Connect and Open of its reader
// fail at once, so that a card that never answers costs that once and not at each
// attempt; pulling the card ends it.
type Source struct {
	usb string // where the kernel shows USB devices; "" is reader.SysfsUSB

	mu   sync.Mutex
	left map[string]int // by reader, the calls that go on
}

var _ reader.Source = (*Source)(nil)

// New gives the readers of this machine's PC/SC service, which need not run yet.
func New() *Source { return &Source{} }

func (s *Source) usbRoot() string { return cmp.Or(s.usb, reader.SysfsUSB) }

// Protocol is a transmission protocol of ISO/IEC 7816-3.
type Protocol uint32

// AnyProtocol is T=1 where the card offers it, else T=0.
const (
	AnyProtocol Protocol = 0
	T0          Protocol = 1
	T1          Protocol = 2
)

func (p Protocol) String() string {
	switch p {
	case T0:
		return "T=0"
	case T1:
		return "T=1"
	}
	return "any"
}

// MarshalText is the protocol's String.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Disposition is what becomes of the card when a connection ends.
type Disposition uint32

// What can become of the card: it stays as it is, is reset (warm), or loses its
// power.
const (
	LeaveCard   Disposition = 0
	ResetCard   Disposition = 1
	UnpowerCard Disposition = 2
)

// DefaultMaxWait bounds a call to reader and card whose context does not.
const DefaultMaxWait = 60 * time.Second

// Options are how Connect connects. The zero value shares the card, takes any
// protocol, leaves the card as it is at the end, and waits DefaultMaxWait.
type Options struct {
	Mode     reader.Mode
	Protocol Protocol
	OnClose  Disposition
	// MaxWait bounds each call to reader and card, also where its context does
	// not; 0 is DefaultMaxWait.
	MaxWait time.Duration
	// AllowEscape lets Conn.Control send control codes of the reader's own.
	AllowEscape bool
	// OnRecovery is told each step that a Reset or ColdReset has taken, from the
	// goroutine that resets; nil is nobody.
	OnRecovery func(Step)
}

// Readers lists the readers and what is in them; there may be none.
func (s *Source) Readers(ctx context.Context) ([]reader.Reader, error) {
	slots, err := s.slots(ctx, "list readers")
	if err != nil {
		return nil, err
	}
	return readersOf(slots), nil
}

// Check asks the PC/SC service for its readers; it implements reader.Checker.
func (s *Source) Check(ctx context.Context) error {
	ses, err := s.newSession(ctx, "check", "")
	if err != nil {
		return err
	}
	defer ses.close(LeaveCard)
	return ses.do(ctx, "check", func(svc service) error {
		_, err := svc.readers()
		return err
	})
}

func (o Options) maxWait() time.Duration {
	if o.MaxWait > 0 {
		return o.MaxWait
	}
	return DefaultMaxWait
}

// slots lists the readers.
func (s *Source) slots(ctx context.Context, op string) ([]slot, error) {
	ses, err := s.newSession(ctx, op, "")
	if err != nil {
		return nil, err
	}
	defer ses.close(LeaveCard)
	var slots []slot
	err = ses.do(ctx, op, func(svc service) (err error) {
		slots, err = poll(svc, nil, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	(&identifier{source: s}).identify(ctx, slots)
	return slots, nil
}

func readersOf(slots []slot) []reader.Reader {
	readers := make([]reader.Reader, len(slots))
	for i, sl := range slots {
		readers[i] = sl.Reader
	}
	return readers
}

// Open connects the card in the reader of exactly that name or identity (see
// Find), by any protocol, as Connect does.
func (s *Source) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	c, err := s.Connect(ctx, name, Options{Mode: mode})
	if err != nil {
		return nil, err
	}
	return c, nil
}
