package interchange

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// TPDUs of T=0 as sniffers and GSMTAP have them: CLA INS P1 P2 P3, the data of
// one direction, SW1 SW2.

// splitTPDU is the command and the response in a TPDU. Which direction the data
// has is not in it: that is known of the command.
func splitTPDU(b []byte) (command, response []byte, err error) {
	if len(b) < 7 {
		return nil, nil, fmt.Errorf("a TPDU of %d bytes", len(b))
	}
	at := 5
	if body := len(b) - 7; body > 0 && b[4] != 0 && !answers(b[0], b[1], b[2]) {
		at += min(int(b[4]), body)
	}
	return b[:at:at], b[at:], nil
}

// answers reports whether the data of a command is its answer, not its own.
func answers(cla, ins, p1 byte) bool {
	secure := cla&0x0C != 0
	if cla&0x40 != 0 {
		secure = cla&0x20 != 0
	}
	if secure && cla&0xF0 != 0xA0 { // what is wrapped has command data
		return ins == 0xC0
	}
	switch ins {
	case 0xB0, 0xB2, 0xC0, 0xCA, 0x84, 0x70, 0x12:
		return true
	case 0xF2: // STATUS; GlobalPlatform's GET STATUS has search criteria
		return p1 < 0x10
	}
	return false
}

// emitTPDUs gives emit the TPDUs that carry an exchange as a terminal would
// have it on T=0: a command that is too long as a chain, an answer to a command
// with data, or of more than 256 bytes, by GET RESPONSE.
func emitTPDUs(command, response []byte, emit func(head [5]byte, data []byte, sw [2]byte)) {
	sw := [2]byte(response[len(response)-2:])
	answer := response[:len(response)-2]
	var head [5]byte
	copy(head[:], command)
	c, err := apdu.ParseCommand(command)
	if err != nil { // as it is
		emit(head, append(append([]byte(nil), command[min(5, len(command)):]...), answer...), sw)
		return
	}
	// A decoder that follows GET RESPONSE knows no more of its class than the
	// channel.
	fetch := [5]byte{head[0] & 0x03, 0xC0}
	if head[0]&0x40 != 0 {
		fetch[0] = head[0] & 0x4F
	}
	if head[1] == 0xC0 {
		head[0] = fetch[0]
	}
	data := c.Data
	for ; len(data) > apdu.MaxShortData; data = data[apdu.MaxShortData:] {
		part := head
		part[0] |= 0x10
		part[4] = apdu.MaxShortData
		emit(part, data[:apdu.MaxShortData], [2]byte{0x90, 0x00})
	}
	switch {
	case len(data) == 0 && (c.Ne > 0 || len(answer) == 0):
		head[4] = byte(c.Ne)
	case len(data) == 0:
		head[4] = byte(len(answer))
	default:
		head[4] = byte(len(data))
		if len(answer) == 0 {
			emit(head, data, sw)
			return
		}
		emit(head, data, left(answer))
		head = fetch
		head[4] = byte(len(answer))
	}
	for ; len(answer) > apdu.MaxShortNe; answer = answer[apdu.MaxShortNe:] {
		head[4] = 0
		emit(head, answer[:apdu.MaxShortNe], left(answer[apdu.MaxShortNe:]))
		head = fetch
		head[4] = byte(len(answer) - apdu.MaxShortNe)
	}
	emit(head, answer, sw)
}

// left is the status word for an answer that is still to be fetched.
func left(answer []byte) [2]byte {
	if len(answer) > 0xFF {
		return [2]byte{0x61, 0}
	}
	return [2]byte{0x61, byte(len(answer))}
}
