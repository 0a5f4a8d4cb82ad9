// Package ccid drives USB CCID card readers without pcscd: T=0 and T=1, readers
// of the character, TPDU, short-APDU and extended-APDU level (USB CCID 1.1, ISO/IEC
// 7816-3).
//
// A Source has the readers of this machine, by libusb (cgo). Attach drives one
// whose pipes the caller has. Either gives connections that answer as those of
// PC/SC do: in T=0, 61xx and 6Cxx reach the caller, and a case 4 command goes
// without its Le, whatever the reader's level.
//
// A reader is believed nothing: what it says about lengths, sequence numbers,
// slots and times is checked and bounded.
package ccid

import (
	"context"
	"time"
)

// Endpoints are the pipes of one reader. Each call is one transfer, ends with its
// context, and may run beside calls of the others; Close ends them all. Where
// the reader has gone, an error matches ErrUnplugged, apdu.ErrNoReader or
// fs.ErrClosed.
type Endpoints interface {
	// Out makes one bulk-OUT transfer.
	Out(ctx context.Context, b []byte) error
	// In makes one bulk-IN transfer, which ends where the reader's message ends
	// or b is full; what did not fit is the next one's. Beside an error it may give
	// the bytes that came before it.
	In(ctx context.Context, b []byte) (int, error)
	// Interrupt makes one interrupt-IN transfer. It fails where there is no such
	// pipe.
	Interrupt(ctx context.Context, b []byte) (int, error)
	// Control makes a transfer on the control pipe.
	Control(ctx context.Context, requestType, request uint8, value, index uint16, b []byte) (int, error)
	Close() error
}

// Protocol is a transmission protocol of ISO/IEC 7816-3, numbered as in PC/SC.
type Protocol uint32

// AnyProtocol is T=1 where card and reader have it, else T=0.
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

// number is t of T=t.
func (p Protocol) number() int {
	if p == T1 {
		return 1
	}
	return 0
}

// Voltage is what the card is given, numbered as bPowerSelect (CCID 1.1 §6.1.1).
type Voltage byte

// VoltageAuto leaves the choice to the reader where it can choose, else tries
// the classes from the lowest voltage up (ISO/IEC 7816-3 §6.2.4).
const (
	VoltageAuto Voltage = 0
	Voltage5    Voltage = 1
	Voltage3    Voltage = 2
	Voltage18   Voltage = 3
)

func (v Voltage) String() string {
	return [...]string{"automatic", "5 V", "3 V", "1.8 V"}[v&3]
}

// DefaultMaxWait bounds a call to reader and card whose context does not.
const DefaultMaxWait = 60 * time.Second

// Options are how a card is connected. The zero value takes any protocol and
// voltage, switches the card off at the end and waits DefaultMaxWait.
type Options struct {
	Protocol Protocol
	Voltage  Voltage
	// AllowEscape lets Conn.Escape send what the reader's maker has defined.
	AllowEscape bool
	// LeavePowered leaves the card as it is on Close.
	LeavePowered bool
	// MaxWait bounds each call, also where its context does not; 0 is
	// DefaultMaxWait.
	MaxWait time.Duration
}

// Times and numbers that bound a reader.
const (
	commandTime   = 5 * time.Second  // a command that the card has no part in
	powerTime     = 10 * time.Second // answer to reset, with a try of each voltage
	abortTime     = time.Second
	maxExtensions = 1 << 12 // time extensions, of reader (CCID) or card (S(WTX), NULL), in one exchange
	maxStale      = 32      // answers to other commands than the one that waits
	maxEmpty      = 8       // transfers without a byte
)
