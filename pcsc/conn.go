package pcsc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// The shortest and the longest command APDU, bytes (ISO/IEC 7816-4 §5.1).
const (
	minCommand = 4
	maxCommand = 4 + 3 + apdu.MaxExtendedData + 2
)

// settleTime is how long a failed exchange waits for the service to notice that
// the card has gone: pcscd looks every 0.4 s, and until then lists a card that is
// not there.
const settleTime = time.Second

// Conn is a card that is connected. It serves one goroutine; another may close
// it.
//
// Where a call does not return before its context ends, it fails with an error
// that matches apdu.ErrTimeout and the context's, and the Conn is dead until a
// Reset brings it back.
type Conn struct {
	source  *Source
	name    string // as it was asked for: the reader's name or identity
	options Options

	mu      sync.Mutex
	session *session // replaced by a Reset that has to
	closed  bool

	protocol Protocol
	atr      []byte
	// silent says that the last exchange had no answer: the card may answer
	// nothing more before its next reset.
	silent atomic.Bool
}

var _ apdu.Conn = (*Conn)(nil)

// Connect powers and connects the card in the reader of exactly that name or
// identity. While an earlier call of this Source to that reader goes on though
// its context has ended, it fails at once with an error that matches
// apdu.ErrTimeout and ErrStuck.
func (s *Source) Connect(ctx context.Context, name string, o Options) (*Conn, error) {
	c := &Conn{source: s, name: name, options: o}
	if err := c.connect(ctx, "connect"); err != nil {
		return nil, err
	}
	return c, nil
}

// connect finds the reader and connects the card in it by a session of its own.
func (c *Conn) connect(ctx context.Context, op string) error {
	found, err := c.source.locate(ctx, op, c.name)
	if err != nil {
		return err
	}
	if c.source.stuck(found.Name) {
		return &Error{Op: op, Reader: found.Name, Code: CodeTimeout, Err: ErrStuck}
	}
	ses, err := c.source.newSession(ctx, op, found.Name)
	if err != nil {
		return err
	}
	ses.max = c.options.maxWait()
	err = c.negotiate(ctx, op, ses, func(svc service, p Protocol) (Protocol, error) {
		p, err := svc.connect(found.Name, c.options.Mode == reader.Exclusive, p)
		if err == nil && found.usb != nil {
			if at := channelOf(svc); at.known && (at.bus != found.usb.Bus || at.address != found.usb.Address) {
				return 0, CodeReaderUnavailable // the name has come to mean another reader
			}
		}
		return p, err
	})
	if err == nil {
		err = c.use(ses)
	}
	if err != nil {
		ses.close(LeaveCard)
	}
	return err
}

// use makes ses the connection's session.
func (c *Conn) use(ses *session) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return &Error{Op: "connect", Reader: ses.reader, Err: os.ErrClosed}
	}
	c.session = ses
	return nil
}

func (c *Conn) current() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// negotiate connects or reconnects by a protocol (AnyProtocol: T=1, then T=0)
// and notes what that brought.
func (c *Conn) negotiate(ctx context.Context, op string, ses *session, connect func(service, Protocol) (Protocol, error)) error {
	var protocol Protocol
	var atr []byte
	err := ses.do(ctx, op, func(svc service) (err error) {
		want := c.options.Protocol
		first := want
		if want == AnyProtocol {
			first = T1
		}
		protocol, err = connect(svc, first)
		if want == AnyProtocol && errors.Is(err, CodeProtoMismatch) {
			protocol, err = connect(svc, T0)
		}
		if err != nil {
			return err
		}
		if protocol != T0 && protocol != T1 {
			return CodeProtoMismatch
		}
		atr, _, err = svc.cardStatus()
		return err
	})
	if err != nil {
		return err
	}
	c.protocol, c.atr = protocol, atr
	return nil
}

// Protocol is the one in use, T0 or T1.
func (c *Conn) Protocol() Protocol { return c.protocol }

// ShortOnly reports whether the connection carries short commands alone: T=0
// has no others.
func (c *Conn) ShortOnly() bool { return c.protocol == T0 }

// ATR is the card's answer to reset.
func (c *Conn) ATR() []byte { return bytes.Clone(c.atr) }

// Transmit carries one command APDU to the card; it waits for another program's
// transaction to end. An answer of fewer than two bytes is an error that matches
// apdu.ErrShortAnswer; no bytes at all is how PC/SC shows a card that left in
// mid-exchange, and matches apdu.ErrCardRemoved too.
func (c *Conn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	if len(capdu) < minCommand || len(capdu) > maxCommand {
		return nil, fmt.Errorf("pcsc: transmit: %w: command of %d bytes", apdu.ErrMalformed, len(capdu))
	}
	command := bytes.Clone(c.tpdu(capdu)) // a call that outlives its context must not read the caller's
	var rapdu []byte
	var sent atomic.Bool
	ses := c.current()
	err := ses.do(ctx, "transmit", func(svc service) (err error) {
		sent.Store(true)
		rapdu, err = svc.transmit(command)
		switch {
		case errors.Is(err, CodeNotTransacted), errors.Is(err, CodeCommDataLost): // it failed, and nothing more
			if hasGone(svc, ses.reader) {
				return CodeRemovedCard
			}
		case err == nil && len(rapdu) == 0:
			hasGone(svc, ses.reader)
			return &Error{Code: CodeRemovedCard, Err: apdu.ErrShortAnswer}
		case err == nil && len(rapdu) < 2:
			return &Error{Code: CodeCommDataLost, Err: apdu.ErrShortAnswer}
		}
		return err
	})
	if sent.Load() {
		c.silent.Store(err != nil && !errors.Is(err, apdu.ErrCardRemoved) && !errors.Is(err, apdu.ErrCardReset))
	}
	if err != nil {
		return nil, err
	}
	return rapdu, nil
}

// tpdu is the command as the protocol has it: T=0 carries a case 4 command
// without its Le, and the card announces what it has by 61xx (ISO/IEC 7816-3
// §12.2).
func (c *Conn) tpdu(capdu []byte) []byte {
	if c.protocol == T0 && len(capdu) > 6 && capdu[4] != 0 && len(capdu) == 6+int(capdu[4]) {
		return capdu[:len(capdu)-1]
	}
	return capdu
}

// hasGone waits for settleTime at most until the service notices that the card
// has gone, and reports whether it has.
func hasGone(svc service, name string) bool {
	states := []readerState{{name: name}}
	for end := time.Now().Add(settleTime); ; {
		if err := svc.status(states, time.Until(end)); err != nil {
			return errors.Is(err, CodeUnknownReader)
		}
		if states[0].event&statePresent == 0 {
			return true
		}
		states[0].current = states[0].event &^ stateChanged
	}
}

// Begin keeps other programs from the card until End; it waits for those that
// do the same.
func (c *Conn) Begin(ctx context.Context) error {
	return c.current().do(ctx, "begin transaction", service.begin)
}

// End ends what Begin began and leaves the card as it is.
func (c *Conn) End(ctx context.Context) error {
	return c.current().do(ctx, "end transaction", service.end)
}

// Close ends the connection and does with the card what Options.OnClose says.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	ses := c.session
	c.mu.Unlock()
	if c.silent.Load() {
		return ses.close(UnpowerCard)
	}
	return ses.close(c.options.OnClose)
}
