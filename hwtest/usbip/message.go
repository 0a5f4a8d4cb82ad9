package usbip

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Commands and their answers (the kernel's Documentation/usb/usbip_protocol).
const (
	cmdSubmit = 1
	cmdUnlink = 2
	retSubmit = 3
	retUnlink = 4
)

const (
	headerSize = 48

	maxTransfer = 1 << 20 // bytes of one transfer
	maxURBs     = 256     // that are outstanding
	maxPending  = 4 << 20 // bytes of theirs that were received
)

// transfer_flags.
const (
	shortNotOK = 0x0001
	zeroPacket = 0x0040
)

// Statuses: Linux's errno, negative, on every system.
const (
	statusStall    = -32  // EPIPE
	statusProtocol = -71  // EPROTO
	statusUnlinked = -104 // ECONNRESET
	statusShutdown = -108 // ESHUTDOWN
	statusShort    = -121 // EREMOTEIO
)

// request is USBIP_CMD_SUBMIT, or USBIP_CMD_UNLINK where unlink is not 0.
type request struct {
	seq    uint32
	unlink uint32 // seq of the one to unlink

	in     bool
	ep     byte // its number, without the direction
	flags  uint32
	length int
	setup  [8]byte
	data   []byte // of a transfer out
}

// address is the endpoint's address.
func (r *request) address() byte {
	if r.in {
		return r.ep | 0x80
	}
	return r.ep
}

// readRequest reads one message. Its error matches ErrMalformed where that is no
// request, and is io.EOF where the stream ends before it.
func readRequest(in io.Reader) (*request, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return nil, err
	}
	u32 := func(offset int) uint32 { return binary.BigEndian.Uint32(h[offset:]) }
	r := &request{seq: u32(4)}
	switch command := u32(0); command {
	case cmdUnlink:
		if r.unlink = u32(20); r.unlink == 0 {
			return nil, fmt.Errorf("%w: unlink of nothing", ErrMalformed)
		}
		return r, nil
	case cmdSubmit:
	default:
		return nil, fmt.Errorf("%w: command %#x", ErrMalformed, command)
	}
	direction, ep, length, packets := u32(12), u32(16), u32(24), u32(32)
	switch {
	case direction > 1, ep > 15:
		return nil, fmt.Errorf("%w: endpoint %d, direction %d", ErrMalformed, ep, direction)
	case length > maxTransfer:
		return nil, fmt.Errorf("%w: transfer of %d bytes", ErrMalformed, length)
	case packets != 0 && packets != 0xFFFFFFFF:
		return nil, fmt.Errorf("%w: isochronous transfer", ErrMalformed)
	}
	r.in, r.ep, r.flags, r.length = direction == 1, byte(ep), u32(20), int(length)
	copy(r.setup[:], h[40:])
	if r.in {
		return r, nil
	}
	// Grown as the bytes come: a length alone takes no memory.
	data, err := io.ReadAll(io.LimitReader(in, int64(length)))
	if err == nil && len(data) < r.length {
		err = io.ErrUnexpectedEOF
	}
	r.data = data
	return r, err
}

// appendSubmitted appends USBIP_RET_SUBMIT; data is that of a transfer in.
func appendSubmitted(b []byte, seq uint32, status int32, actual int, data []byte) []byte {
	b = appendHeader(b, retSubmit, seq, status, actual)
	return append(b, data...)
}

// appendUnlinked appends USBIP_RET_UNLINK.
func appendUnlinked(b []byte, seq uint32, status int32) []byte {
	return appendHeader(b, retUnlink, seq, status, 0)
}

// appendHeader appends the header of an answer: device, direction and endpoint
// are 0 in those.
func appendHeader(b []byte, command, seq uint32, status int32, actual int) []byte {
	var h [headerSize]byte
	binary.BigEndian.PutUint32(h[0:], command)
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[20:], uint32(status))
	binary.BigEndian.PutUint32(h[24:], uint32(actual))
	return append(b, h[:]...)
}
