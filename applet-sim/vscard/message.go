package vscard

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Message types.
const (
	typeInit          = 1
	typeError         = 2
	typeReaderAdd     = 3
	typeATR           = 5
	typeCardRemove    = 6
	typeAPDU          = 7
	typeFlush         = 8
	typeFlushComplete = 9
)

const (
	headerSize = 12
	maxData    = 1<<16 - headerSize // bytes: QEMU holds no more of a message
	maxATR     = 40                 // bytes, as QEMU has it
	maxWaits   = 16                 // messages that are not acknowledged

	magic   = "VSCD"
	version = 2 // 0.0.2
)

// message is one message; which reader it is about says nothing, there is one.
type message struct {
	kind uint32
	data []byte // until the next message is read
}

// messageReader reads messages.
type messageReader struct {
	in  *bufio.Reader
	buf [maxData]byte
}

func newReader(r io.Reader) *messageReader {
	return &messageReader{in: bufio.NewReaderSize(r, 4096)}
}

// next reads one message. Its error matches ErrMalformed for one that is too
// long.
func (r *messageReader) next() (message, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r.in, h[:]); err != nil {
		return message{}, err
	}
	length := binary.BigEndian.Uint32(h[8:])
	if length > maxData {
		return message{}, fmt.Errorf("%w: %d bytes of data", ErrMalformed, length)
	}
	data := r.buf[:length]
	if _, err := io.ReadFull(r.in, data); err != nil {
		return message{}, err
	}
	return message{binary.BigEndian.Uint32(h[0:]), data}, nil
}

func appendMessage(b []byte, kind uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, 0) // the first reader
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// initMessage is the data of Init: magic, version and no capabilities.
func initMessage() []byte {
	b := binary.BigEndian.AppendUint32([]byte(magic), version)
	return binary.BigEndian.AppendUint32(b, 0)
}

func checkInit(data []byte) error {
	if len(data) < 8 || !bytes.Equal(data[:4], []byte(magic)) {
		return fmt.Errorf("%w: Init of %d bytes without %q", ErrMalformed, len(data), magic)
	}
	return nil
}

// errorCode is the data of Error, 0 for success.
func errorCode(data []byte) (uint32, error) {
	if len(data) != 4 {
		return 0, fmt.Errorf("%w: Error of %d bytes", ErrMalformed, len(data))
	}
	return binary.BigEndian.Uint32(data), nil
}
