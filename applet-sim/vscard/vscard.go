// Package vscard puts an emulated card into QEMU's CCID reader: it speaks the
// card's side of the vscard protocol over the character device of QEMU's
// ccid-card-passthru.
//
//	-device usb-ccid -chardev socket,id=card,path=SOCKET -device ccid-card-passthru,chardev=card
//
// Messages both ways are a header (type, reader and length, 32 bits each,
// big-endian) and that many bytes. The reader carries whole command and response
// APDUs, and says nothing of power or reset: the guest's are its own, and the
// card has power from its insertion to its removal. Responses of more than 374
// bytes do not arrive there.
package vscard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Card is an emulated card. It is called from one goroutine.
type Card interface {
	// ATR is the answer to reset. With none, or one of over 40 bytes, the reader
	// takes its slot as empty.
	ATR() []byte
	// Power turns the card on or off; off loses what a card keeps in RAM.
	Power(on bool)
	// Process carries out a command APDU and gives the response APDU. With nil
	// the card is mute: the reader waits for good. capdu is the caller's and
	// changes after the call.
	Process(capdu []byte) []byte
}

// Errors of ServeConn.
var (
	// ErrMalformed is matched where the peer does not speak the protocol.
	ErrMalformed = errors.New("vscard: malformed message")
	// ErrRefused is matched where the reader does not take the card.
	ErrRefused = errors.New("vscard: the reader refused the card")
)

// An Option changes what Serve does.
type Option func(*server)

// OnAttached has fn called each time the card has been put into the reader.
func OnAttached(fn func()) Option {
	return func(s *server) { s.attached = fn }
}

// WithPull has pull asked after the card has carried out capdu and before its
// answer leaves. Where it says so, the card is taken out of the reader, so that
// the answer is lost, and put back after away.
func WithPull(pull func(capdu, rapdu []byte) (away time.Duration, pulled bool)) Option {
	return func(s *server) { s.pull = pull }
}

// WithAway has away asked after each command whether the card is out of its
// reader, and for how long still, 0 where nobody knows. It is taken out then, so
// that its answer is lost, and put back when away says so.
func WithAway(away func() (left time.Duration, away bool)) Option {
	return func(s *server) { s.away = away }
}

// Serve keeps the card in the reader of whoever connects, one at a time, until
// ctx ends, and returns ctx's error. It closes l. It ends before only where l
// fails.
func Serve(ctx context.Context, l net.Listener, card Card, opts ...Option) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		_ = ServeConn(ctx, conn, card, opts...) // whoever comes next may do better
	}
}

// ServeConn keeps the card in the reader at the other end of conn, until conn
// ends, which is no error, or ctx does, whose error it returns. It closes conn.
func ServeConn(ctx context.Context, conn io.ReadWriteCloser, card Card, opts ...Option) error {
	s := &server{card: card, conn: conn}
	for _, o := range opts {
		o(s)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer s.power(false)
	err := s.serve(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	}
	return err
}

// server is a card at one reader.
type server struct {
	card     Card
	conn     io.ReadWriteCloser
	attached func()
	pull     func(capdu, rapdu []byte) (time.Duration, bool)
	away     func() (time.Duration, bool) // nil: never
	met      bool                         // the reader has introduced itself
	powered  bool
	waits    []uint32 // types of the messages that the reader has not acknowledged
	out      []byte
}

// serve introduces itself, and answers until the connection ends.
func (s *server) serve(ctx context.Context) error {
	if err := s.send(typeInit, initMessage()); err != nil {
		return err
	}
	in := newReader(s.conn)
	for {
		m, err := in.next()
		if err != nil {
			return err
		}
		if err := s.handle(ctx, m); err != nil {
			return err
		}
	}
}

func (s *server) handle(ctx context.Context, m message) error {
	switch m.kind {
	case typeInit:
		if err := checkInit(m.data); err != nil {
			return err
		}
		if s.met {
			return nil
		}
		s.met = true
		return s.ask(typeReaderAdd, []byte("cardbridge"))
	case typeError:
		return s.acknowledged(m.data)
	case typeAPDU:
		return s.process(ctx, m.data)
	case typeFlush:
		return s.send(typeFlushComplete, nil)
	}
	return nil // of no concern to a card
}

// acknowledged takes the reader's answer to the oldest message that had none.
func (s *server) acknowledged(data []byte) error {
	code, err := errorCode(data)
	if err != nil || len(s.waits) == 0 {
		return err
	}
	kind := s.waits[0]
	s.waits = s.waits[1:]
	switch {
	case code != 0 && kind != typeCardRemove:
		return fmt.Errorf("%w: code %d", ErrRefused, code)
	case kind == typeReaderAdd:
		return s.insert()
	case kind == typeATR && s.attached != nil:
		s.attached()
	}
	return nil
}

// insert powers the card and shows its answer to reset; a card without one stays
// unseen.
func (s *server) insert() error {
	s.power(true)
	atr := s.card.ATR()
	if len(atr) == 0 || len(atr) > maxATR {
		return nil
	}
	return s.ask(typeATR, atr)
}

func (s *server) process(ctx context.Context, capdu []byte) error {
	if !s.powered {
		return nil // it has left, or is not there yet
	}
	rapdu := s.card.Process(capdu)
	if s.pull != nil {
		if away, pulled := s.pull(capdu, rapdu); pulled {
			return s.leave(ctx, away)
		}
	}
	if s.away != nil {
		if left, away := s.away(); away {
			return s.leave(ctx, left)
		}
	}
	switch {
	case rapdu == nil:
		return nil // mute
	case len(rapdu) > maxData:
		rapdu = []byte{0x6F, 0x00} // ISO/IEC 7816-4: no precise diagnosis
	}
	return s.send(typeAPDU, rapdu)
}

// leave takes the card out and puts it back after away.
func (s *server) leave(ctx context.Context, away time.Duration) error {
	if err := s.ask(typeCardRemove, nil); err != nil {
		return err
	}
	s.power(false)
	for still := true; still; {
		t := time.NewTimer(away)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		still = false
		if s.away != nil {
			_, still = s.away()
			away = look
		}
	}
	return s.insert()
}

// look is how often a card is asked whether it is back.
const look = 50 * time.Millisecond

func (s *server) power(on bool) {
	if on != s.powered {
		s.powered = on
		s.card.Power(on)
	}
}

// ask sends a message that the reader acknowledges.
func (s *server) ask(kind uint32, data []byte) error {
	if len(s.waits) >= maxWaits {
		return fmt.Errorf("%w: nothing is acknowledged", ErrMalformed)
	}
	s.waits = append(s.waits, kind)
	return s.send(kind, data)
}

func (s *server) send(kind uint32, data []byte) error {
	s.out = appendMessage(s.out[:0], kind, data)
	_, err := s.conn.Write(s.out)
	return err
}
