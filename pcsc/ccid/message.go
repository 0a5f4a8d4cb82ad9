package ccid

import "encoding/binary"

// headerLength is that of every bulk message, bytes (CCID 1.1 §6.1).
const headerLength = 10

// Commands, bulk OUT (CCID 1.1 §6.1).
const (
	cmdSetParameters  = 0x61
	cmdPowerOn        = 0x62
	cmdPowerOff       = 0x63
	cmdSlotStatus     = 0x65
	cmdEscape         = 0x6B
	cmdGetParameters  = 0x6C
	cmdXfrBlock       = 0x6F
	cmdAbort          = 0x72
	cmdSetRateAndFreq = 0x73
)

// Answers, bulk IN (CCID 1.1 §6.2).
const (
	ansDataBlock   = 0x80
	ansSlotStatus  = 0x81
	ansParameters  = 0x82
	ansEscape      = 0x83
	ansRateAndFreq = 0x84
)

// Messages of the interrupt pipe (CCID 1.1 §6.3).
const (
	intSlotChange    = 0x50
	intHardwareError = 0x51
)

// Requests of the control pipe (CCID 1.1 §5.3), with bmRequestType.
const (
	requestOut       = 0x21 // host to device, class, interface
	requestIn        = 0xA1 // device to host, class, interface
	requestAbort     = 0x01
	requestDataRates = 0x03
)

// answers are the types of answer by command.
var answers = map[byte]byte{
	cmdSetParameters: ansParameters, cmdPowerOn: ansDataBlock, cmdPowerOff: ansSlotStatus, cmdSlotStatus: ansSlotStatus,
	cmdEscape: ansEscape, cmdGetParameters: ansParameters, cmdXfrBlock: ansDataBlock, cmdAbort: ansSlotStatus,
	cmdSetRateAndFreq: ansRateAndFreq,
}

// appendMessage appends a command to b. p are the three bytes that each has of
// its own.
func appendMessage(b []byte, kind byte, slot int, seq byte, p [3]byte, data []byte) []byte {
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, byte(slot), seq, p[0], p[1], p[2])
	return append(b, data...)
}

// Values of bmICCStatus and bmCommandStatus (CCID 1.1 §6.2.6).
const (
	iccActive   = 0
	iccInactive = 1
	iccNone     = 2

	statusDone      = 0
	statusFailed    = 1
	statusExtension = 2
)

// answer is a message of the reader.
type answer struct {
	kind      byte
	slot, seq byte
	icc       byte // bmICCStatus
	status    byte // bmCommandStatus
	code      Code // bError
	param     byte // bChainParameter, bProtocolNum, bClockStatus: what the kind has of its own
	data      []byte
}

// messageLength is the length that a message's header claims, bytes.
func messageLength(header []byte) int {
	return headerLength + int(binary.LittleEndian.Uint32(header[1:]))
}

// parseAnswer parses a message of the reader; data points into b. Its error
// matches ErrReader.
func parseAnswer(b []byte) (answer, error) {
	if len(b) < headerLength {
		return answer{}, brokenReader("message of %d bytes, a header has %d", len(b), headerLength)
	}
	// QEMU's reader claims no data in its answers with parameters, and sends them.
	if n := messageLength(b); n != len(b) && !(b[0] == ansParameters && n == headerLength) {
		return answer{}, brokenReader("message of %d bytes that claims %d", len(b), n)
	}
	a := answer{
		kind: b[0], slot: b[5], seq: b[6],
		icc: b[7] & 3, status: b[7] >> 6, code: Code(b[8]), param: b[9],
		data: b[headerLength:],
	}
	switch {
	case a.kind < ansDataBlock || a.kind > ansRateAndFreq:
		return answer{}, brokenReader("message of type %02X", a.kind)
	case a.icc > iccNone || a.status > statusExtension:
		return answer{}, brokenReader("bStatus %02X", b[7])
	}
	return a, nil
}

// slotChange is what RDR_to_PC_NotifySlotChange says of one slot (CCID 1.1
// §6.3.1).
type slotChange struct{ present, changed bool }

// parseSlotChange parses the notification; nil where it is another message.
// Slots that it does not reach are as they were.
func parseSlotChange(b []byte, slots int) []slotChange {
	if len(b) < 2 || b[0] != intSlotChange {
		return nil
	}
	var changes []slotChange
	for slot := 0; slot < slots && slot/4 < len(b)-1; slot++ {
		bits := b[1+slot/4] >> (slot % 4 * 2)
		changes = append(changes, slotChange{present: bits&1 != 0, changed: bits&2 != 0})
	}
	return changes
}

// parseHardwareError parses RDR_to_PC_HardwareError (CCID 1.1 §6.3.2).
func parseHardwareError(b []byte) (slot int, code byte, ok bool) {
	if len(b) < 4 || b[0] != intHardwareError {
		return 0, 0, false
	}
	return int(b[1]), b[3], true
}
