package cardhost

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"

	"github.com/cardbridge/cardbridge/apdu"
)

// A frame is the length of its body (4 bytes, big-endian), its kind, the number
// of what it belongs to (4 bytes), its body. The client gives the numbers: one
// to each card that it opens, until it closes or abandons it, and one to each
// order. All but close and abandon are answered, with ok or error.
const (
	headerLen = 9
	maxFrame  = 1 << 20 // of a body

	// From a client.
	frameOpen    = 'O' // card(4) mode(1) → ok: ATR
	frameAPDU    = 'A' // C-APDU → ok: R-APDU
	frameReset   = 'R' // → ok
	frameClose   = 'C' // the card is left as it is
	frameAbandon = 'X' // it is reset once it has carried out what was sent
	frameControl = 'J' // JSON → ok: JSON
	frameWatch   = 'W' // the only frame of its connection → events, until that ends

	// From the host.
	frameOK     = 'K'
	frameError  = 'E' // code(1) and text
	frameEvents = 'V' // for each: kind(1) card(4)

	eventLen = 5
)

type frame struct {
	kind   byte
	number uint32
	body   []byte
}

// readFrame gives a frame whose body is the caller's.
func readFrame(r *bufio.Reader) (f frame, err error) {
	header, err := r.Peek(headerLen)
	if err != nil {
		return f, err
	}
	n := binary.BigEndian.Uint32(header)
	f.kind, f.number = header[4], binary.BigEndian.Uint32(header[5:])
	if n > maxFrame {
		return f, fmt.Errorf("cardhost: a frame of %d bytes, at most %d are allowed", n, maxFrame)
	}
	if _, err := r.Discard(headerLen); err != nil {
		return f, err
	}
	f.body = make([]byte, n)
	_, err = io.ReadFull(r, f.body)
	return f, err
}

// maxPending bounds what waits for a peer that does not read.
const maxPending = 64 << 20 // bytes

// writer puts the frames of many goroutines together into the writes of one.
type writer struct {
	conn net.Conn

	mu         sync.Mutex
	out, spare []byte // reused by turns
	writing    bool
	err        error
}

// send sees to it that a frame goes out, before all that come later. An error
// of the connection ends it.
func (w *writer) send(kind byte, number uint32, body []byte) error {
	if len(body) > maxFrame {
		return fmt.Errorf("cardhost: a frame of %d bytes, at most %d go", len(body), maxFrame)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.out) > maxPending {
		w.fail(fmt.Errorf("cardhost: the other side does not read: %d bytes wait", len(w.out)))
	}
	if w.err != nil {
		return w.err
	}
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(body)))
	w.out = binary.BigEndian.AppendUint32(append(w.out, kind), number)
	w.out = append(w.out, body...)
	if w.writing {
		return nil
	}
	w.writing = true
	for len(w.out) > 0 && w.err == nil {
		w.mu.Unlock()
		runtime.Gosched() // those who are about to send share the write
		w.mu.Lock()
		out := w.out
		w.out = w.spare[:0]
		w.mu.Unlock()
		_, err := w.conn.Write(out)
		w.mu.Lock()
		w.spare = out[:0]
		if err != nil {
			w.fail(err)
		}
	}
	w.writing = false
	return w.err
}

// fail ends the connection; mu is held.
func (w *writer) fail(err error) {
	w.err = cmp.Or(w.err, err)
	_ = w.conn.Close()
}

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
