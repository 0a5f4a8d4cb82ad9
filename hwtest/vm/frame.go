package vm

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// What the machine and the host say to each other, over its second serial
// port: frames of a kind (1 byte), a length (32 bits, big-endian), and so many
// bytes.
type frameKind byte

const (
	frameStdout frameKind = 'o' // what the program inside writes
	frameStderr frameKind = 'e'
	frameExit   frameKind = 'x' // its exit status, one byte; the last frame
	frameQuit   frameKind = 'q' // host to machine: have the program show its goroutines and end
)

const (
	frameHeader = 5       // bytes
	maxFrame    = 1 << 16 // bytes of a frame's data
)

// frameWriter writes frames of one kind, for an io.Writer.
type frameWriter struct {
	mu   *sync.Mutex // one for all kinds that share the line
	line io.Writer
	kind frameKind
}

func (w *frameWriter) Write(b []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(b) > 0 {
		chunk := b[:min(len(b), maxFrame)]
		frame := append(binary.BigEndian.AppendUint32([]byte{byte(w.kind)}, uint32(len(chunk))), chunk...)
		if _, err := w.line.Write(frame); err != nil {
			return n, err
		}
		n, b = n+len(chunk), b[len(chunk):]
	}
	return n, nil
}

// readFrame reads one frame; its data are good until the next call with buf.
func readFrame(r io.Reader, buf *[maxFrame]byte) (frameKind, []byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err // io.EOF between frames
	}
	n := binary.BigEndian.Uint32(header[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, nil, fmt.Errorf("within a frame: %w", err)
	}
	return frameKind(header[0]), buf[:n], nil
}
