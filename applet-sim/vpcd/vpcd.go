// Package vpcd puts an emulated card into pcscd's virtual reader: it speaks the
// card's side of vpcd's protocol (vsmartcard's virtual smart card reader).
//
// vpcd listens, one port for each slot, and the card is its client. Messages
// both ways are a length (16 bits, big-endian) and that many bytes. One byte is
// a control: power off, power on, reset, or a request for the answer to reset,
// the only one that is answered. Anything longer is a command APDU.
package vpcd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// Card is an emulated card. Serve calls it from one goroutine.
type Card interface {
	// ATR is the answer to reset. With none, or one of over 33 bytes, the reader
	// takes its slot as empty, or the card as mute.
	ATR() []byte
	// Power turns the card on or off; off loses what a card keeps in RAM.
	Power(on bool)
	// Reset is a warm reset.
	Reset()
	// Process carries out a command APDU and gives the response APDU. With nil
	// the card is mute: the reader waits for good. capdu is the caller's and
	// changes after the call.
	Process(capdu []byte) []byte
}

// An Option changes what Serve does.
type Option func(*server)

// OnAttached has fn called with vpcd's address each time the card has been put
// into the reader.
func OnAttached(fn func(addr string)) Option {
	return func(s *server) { s.attached = fn }
}

// OnWaiting has fn called with addr when vpcd is not there, once each time it has
// gone.
func OnWaiting(fn func(addr string)) Option {
	return func(s *server) { s.waiting = fn }
}

// WithPull has pull asked after the card has carried out capdu and before its
// answer leaves. Where it says so, the card is taken out of the reader, so that
// the answer is lost, and put back after away. pcscd looks every 0.4 s: it may
// miss a shorter absence.
func WithPull(pull func(capdu, rapdu []byte) (away time.Duration, pulled bool)) Option {
	return func(s *server) { s.pull = pull }
}

// WithAway has away asked whether the card is out of its reader, and for how long
// still, 0 where nobody knows. It is asked before the card is put in, and at each
// message of the reader, which sends one every 0.4 s; a card that left before it
// answered does not answer.
func WithAway(away func() (left time.Duration, away bool)) Option {
	return func(s *server) { s.away = away }
}

// Serve keeps card in the virtual reader at addr (host:port) until ctx ends, and
// returns ctx's error: it tries until vpcd is there, and again whenever it goes
// away. Only an addr that cannot be one ends it before.
func Serve(ctx context.Context, addr string, card Card, opts ...Option) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return err
	}
	s := &server{card: card}
	for _, o := range opts {
		o(s)
	}
	retry, told := minRetry, false
	for s.waitIn(ctx) {
		conn, err := dial(ctx, addr)
		if err != nil {
			if s.waiting != nil && !told && ctx.Err() == nil {
				s.waiting(addr)
			}
			told = true
			sleep(ctx, retry)
			retry = min(2*retry, maxRetry)
			continue
		}
		retry, told = minRetry, false
		err = s.attach(ctx, conn)
		var pulled pulledError
		if errors.As(err, &pulled) {
			sleep(ctx, pulled.away)
		} else {
			sleep(ctx, retry)
		}
	}
	return ctx.Err()
}

// Messages of vpcd's protocol.
const (
	controlPowerOff = 0
	controlPowerOn  = 1
	controlReset    = 2
	controlATR      = 4

	lengthBytes = 2
	maxMessage  = 1<<(8*lengthBytes) - 1 // bytes
)

const (
	dialTimeout = 2 * time.Second
	minRetry    = 10 * time.Millisecond
	maxRetry    = 250 * time.Millisecond
)

// server is a card in a reader.
type server struct {
	card     Card
	attached func(addr string)
	waiting  func(addr string)
	pull     func(capdu, rapdu []byte) (time.Duration, bool)
	away     func() (time.Duration, bool) // nil: never
	powered  bool
}

// pulledError says that the card was pulled.
type pulledError struct{ away time.Duration }

func (pulledError) Error() string { return "vpcd: card pulled" }

// waitIn waits until the card may be put in; not where ctx ends.
func (s *server) waitIn(ctx context.Context) bool {
	for ctx.Err() == nil {
		left, away := time.Duration(0), false
		if s.away != nil {
			left, away = s.away()
		}
		if !away {
			return true
		}
		if left == 0 || left > maxRetry {
			left = maxRetry // it may be put in before
		}
		sleep(ctx, left)
	}
	return false
}

// attach serves one connection, and powers the card off when that ends: it has
// left its reader.
func (s *server) attach(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer s.power(false)
	if s.attached != nil {
		s.attached(conn.RemoteAddr().String())
	}
	return s.serve(conn)
}

// serve answers messages until the connection or the card goes away.
func (s *server) serve(conn io.ReadWriter) error {
	in := bufio.NewReaderSize(conn, 4096) // messages coalesce and split as TCP likes
	message := make([]byte, maxMessage)
	var out []byte
	for {
		n, err := readMessage(in, message)
		if err != nil {
			return err
		}
		answer, err := s.answer(message[:n])
		if err != nil {
			return err
		}
		if s.away != nil {
			if _, away := s.away(); away {
				return pulledError{}
			}
		}
		if answer == nil {
			continue
		}
		// In one write: two would cost the peer's delayed ACK.
		out = append(binary.BigEndian.AppendUint16(out[:0], uint16(len(answer))), answer...)
		if _, err := conn.Write(out); err != nil {
			return err
		}
	}
}

// readMessage reads one message into buf, which holds the longest, and gives its
// length.
func readMessage(in io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(in, buf[:lengthBytes]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	_, err := io.ReadFull(in, buf[:n])
	return n, err
}

// answer is the answer to a message, nil for none. It fails where the card is
// pulled instead.
func (s *server) answer(message []byte) ([]byte, error) {
	switch len(message) {
	case 0:
		return nil, nil
	case 1:
		return s.control(message[0]), nil
	}
	// vpcd powers a card only once it has seen the slot empty, so a card that
	// comes back fast is used as it is.
	s.power(true)
	rapdu := s.card.Process(message)
	if s.pull != nil {
		if away, pulled := s.pull(message, rapdu); pulled {
			return nil, pulledError{away}
		}
	}
	if len(rapdu) > maxMessage {
		rapdu = []byte{0x6F, 0x00} // ISO/IEC 7816-4: no precise diagnosis
	}
	return rapdu, nil
}

// control carries out a control; unknown ones do nothing.
func (s *server) control(code byte) []byte {
	switch code {
	case controlPowerOff:
		s.power(false)
	case controlPowerOn:
		s.power(true)
	case controlReset:
		s.power(true)
		s.card.Reset()
	case controlATR:
		if atr := s.card.ATR(); atr != nil && len(atr) <= maxMessage {
			return atr
		}
		return []byte{} // the reader waits for an answer: without one it would hang
	}
	return nil
}

func (s *server) power(on bool) {
	if on != s.powered {
		s.powered = on
		s.card.Power(on)
	}
}

// sleep waits for d or ctx's end.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
