package ccidsim

import "encoding/binary"

const headerSize = 10 // bytes of every bulk message's header

// Bulk-OUT messages (CCID §6.1).
const (
	setParameters   = 0x61
	iccPowerOn      = 0x62
	iccPowerOff     = 0x63
	getSlotStatus   = 0x65
	secure          = 0x69
	t0APDU          = 0x6A
	escape          = 0x6B
	getParameters   = 0x6C
	resetParameters = 0x6D
	iccClock        = 0x6E
	xfrBlock        = 0x6F
	mechanical      = 0x71
	abort           = 0x72
	setRate         = 0x73
)

// Bulk-IN messages (CCID §6.2) and interrupt-IN messages (§6.3).
const (
	dataBlock   = 0x80
	slotStatus  = 0x81
	parameters  = 0x82
	escapeReply = 0x83
	rateReply   = 0x84

	notifySlotChange = 0x50
)

// bStatus (CCID §6.2.6).
const (
	iccActive   = 0
	iccInactive = 1
	iccAbsent   = 2

	commandFailed = 0x40
	timeExtension = 0x80
)

// slotError is bError of a command that failed (CCID §6.2.6): one of these, or
// the offset of the field in the command that is not good.
type slotError byte

const (
	errNone        slotError = 0 // in a failed command: it is not supported
	errUnsupported slotError = 0
	errLength      slotError = 1
	errSlot        slotError = 5
	errSlotBusy    slotError = 0xE0
	errNoProtocol  slotError = 0xF6
	errClass       slotError = 0xF5
	errProcedure   slotError = 0xF4
	errHardware    slotError = 0xFB
	errOverrun     slotError = 0xFC
	errMute        slotError = 0xFE
	errAborted     slotError = 0xFF
)

// message is a bulk-OUT message of at least a header.
type message []byte

func (m message) kind() byte     { return m[0] }
func (m message) length() uint32 { return binary.LittleEndian.Uint32(m[1:]) }
func (m message) slot() int      { return int(m[5]) }
func (m message) seq() byte      { return m[6] }
func (m message) data() []byte   { return m[headerSize:] }
func (m message) level() uint16  { return binary.LittleEndian.Uint16(m[8:]) } // wLevelParameter

// reply is a bulk-IN message; byte 9 is what its kind has there.
type reply struct {
	kind   byte
	status byte
	err    slotError
	last   byte
	data   []byte
}

// bytes is the message that answers to m.
func (r reply) bytes(m message) []byte {
	b := make([]byte, headerSize, headerSize+len(r.data))
	b[0] = r.kind
	binary.LittleEndian.PutUint32(b[1:], uint32(len(r.data)))
	b[5], b[6] = m[5], m[6]
	b[7], b[8], b[9] = r.status, byte(r.err), r.last
	return append(b, r.data...)
}

// answerKind is the kind of message that answers to one of the host's.
func answerKind(kind byte) byte {
	switch kind {
	case iccPowerOn, xfrBlock, secure:
		return dataBlock
	case getParameters, resetParameters, setParameters:
		return parameters
	case escape:
		return escapeReply
	case setRate:
		return rateReply
	}
	return slotStatus
}
