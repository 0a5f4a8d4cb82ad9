package cardhost

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// A frame is the length of its body (4 bytes, big-endian), its kind, its body.
// A client sends one and gets one back; a client that watches gets many.
const (
	headerLen = 5
	maxFrame  = 1 << 20 // of a body

	// From a client.
	frameOpen    = 'O' // card(4) mode(1) → ok: ATR
	frameAPDU    = 'A' // C-APDU → ok: R-APDU
	frameReset   = 'R' // → ok
	frameClose   = 'C' // the card is left as it is → ok; the connection may open another
	frameWatch   = 'W' // → events, until the connection ends
	frameControl = 'J' // JSON → ok: JSON

	// From the host.
	frameOK     = 'K'
	frameError  = 'E' // code(1) and text
	frameEvents = 'V' // for each: kind(1) card(4)

	eventLen = 5
)

// carried are the errors that a code stands for, its index: those of package
// apdu, which a Source must tell apart.
var carried = []error{
	apdu.ErrTransport, apdu.ErrCardRemoved, apdu.ErrCardReset, apdu.ErrTimeout,
	apdu.ErrNoCard, apdu.ErrNoReader, apdu.ErrCardBusy,
}

func encodeError(err error) []byte {
	code := 0
	for i, e := range carried {
		if errors.Is(err, e) {
			code = i
		}
	}
	return append([]byte{byte(code)}, err.Error()...)
}

func decodeError(body []byte) error {
	if len(body) == 0 || int(body[0]) >= len(carried) {
		return fmt.Errorf("cardhost: %w: an error of another kind", apdu.ErrTransport)
	}
	return &hostError{string(body[1:]), carried[body[0]]}
}

// hostError is an error as the host worded it.
type hostError struct {
	text string
	kind error
}

func (e *hostError) Error() string { return e.text }
func (e *hostError) Unwrap() error { return e.kind }

// link is one side of a connection. It serves one goroutine.
type link struct {
	net.Conn
	in   *bufio.Reader
	out  []byte // reused, as body is
	body []byte
}

func newLink(c net.Conn) *link { return &link{Conn: c, in: bufio.NewReader(c)} }

// send writes a frame.
func (l *link) send(kind byte, body []byte) error {
	if len(body) > maxFrame {
		return fmt.Errorf("cardhost: a frame of %d bytes, at most %d go", len(body), maxFrame)
	}
	l.out = binary.BigEndian.AppendUint32(l.out[:0], uint32(len(body)))
	l.out = append(append(l.out, kind), body...)
	_, err := l.Write(l.out)
	return err
}

// receive reads a frame; its body is good until the next.
func (l *link) receive() (kind byte, body []byte, err error) {
	header, err := l.in.Peek(headerLen)
	if err != nil {
		return 0, nil, err
	}
	n, kind := binary.BigEndian.Uint32(header), header[4]
	if n > maxFrame {
		return 0, nil, fmt.Errorf("cardhost: a frame of %d bytes, at most %d are allowed", n, maxFrame)
	}
	if _, err := l.in.Discard(headerLen); err != nil {
		return 0, nil, err
	}
	if uint32(cap(l.body)) < n {
		l.body = make([]byte, n)
	}
	l.body = l.body[:n]
	for got := 0; got < len(l.body); {
		m, err := l.in.Read(l.body[got:])
		if err != nil {
			return 0, nil, err
		}
		got += m
	}
	return kind, l.body, nil
}

// long ago ends every read and write that is under way.
var longAgo = time.Unix(1, 0)

// exchange sends a frame and gives the body of the ok that it is answered with,
// good until the next. Where alive is false the link is of no use any more.
func (l *link) exchange(ctx context.Context, kind byte, body []byte) (answer []byte, alive bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, true, err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(longAgo) })
	err = l.send(kind, body)
	var answered byte
	if err == nil {
		answered, answer, err = l.receive()
	}
	alive = stop() // else its deadline is over
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, false, ctx.Err()
	case err != nil:
		return nil, false, fmt.Errorf("cardhost: %w: %w", apdu.ErrTransport, err)
	case answered == frameOK:
		return answer, alive, nil
	case answered == frameError:
		return nil, alive, decodeError(answer)
	}
	return nil, false, fmt.Errorf("cardhost: %w: a frame of kind %q", apdu.ErrTransport, answered)
}
