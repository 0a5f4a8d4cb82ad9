package ccidsim

import "bytes"

// PCB bits of T=1 (ISO/IEC 7816-3 §11.3.2.2).
const (
	iSeq  = 0x40
	iMore = 0x20

	rBlock = 0x80
	rSeq   = 0x10

	sResynch     = 0xC0
	sIFS         = 0xC1
	sAbort       = 0xC2
	sWTX         = 0xC3
	sResponse    = 0x20
	rErrChecksum = 1
	rErrOther    = 2
)

// defaultIFSD is the IFSD until the host announces another (ISO/IEC 7816-3
// §11.4.2).
const defaultIFSD = 32

// maxCommand is the longest command APDU, bytes.
const maxCommand = 4 + 3 + 65535 + 2

// Block is a T=1 block with its checksum: LRC, or CRC.
//
// The CRC is ISO/IEC 13239's polynomial over the bits in the order in which they
// are sent, begun with FFFF and not complemented, more significant byte first.
func Block(nad, pcb byte, inf []byte, crc bool) []byte {
	b := append([]byte{nad, pcb, byte(len(inf))}, inf...)
	return append(b, checksum(b, crc)...)
}

func checksum(b []byte, crc bool) []byte {
	if !crc {
		return []byte{xor(b)}
	}
	c := uint16(0xFFFF)
	for _, v := range b {
		c ^= uint16(v)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0x8408
			} else {
				c >>= 1
			}
		}
	}
	return []byte{byte(c >> 8), byte(c)}
}

// t1 is the card's side of T=1 (ISO/IEC 7816-3 §11).
type t1 struct {
	line       *line
	crc        bool
	ifsc, ifsd int // the longest INF it receives, and sends

	nad    byte // of what it sends
	expect byte // N(S) of the next I-block that it receives
	next   byte // N(S) of the next that it sends

	in       []byte // command APDU in the middle of its chain
	overflow bool   // it was longer than any
	out      []byte // response APDU that is to be sent
	chaining bool   // the I-block sent last said that more follows
	last     []byte // the block sent last
	asked    bool   // S(WTX request) awaits its response
}

func (t *t1) send(pcb byte, inf ...byte) {
	t.last = Block(t.nad, pcb, inf, t.crc)
	t.line.emit(t.last)
}

func (t *t1) again() {
	if t.last == nil {
		t.refuse(rErrOther)
		return
	}
	t.line.emit(t.last)
}

// refuse is an R-block with an error.
func (t *t1) refuse(reason byte) { t.send(rBlock | t.expect*rSeq | reason) }

// receive takes one block.
func (t *t1) receive(b []byte) {
	edc := 1
	if t.crc {
		edc = 2
	}
	end := len(b) - edc
	switch {
	case end < 3 || int(b[2]) != end-3 || b[2] == 0xFF:
		t.refuse(rErrOther)
		return
	case !bytes.Equal(checksum(b[:end], t.crc), b[end:]):
		t.refuse(rErrChecksum)
		return
	}
	t.nad = b[0]<<4 | b[0]>>4
	pcb, inf := b[1], b[3:end]
	switch {
	case t.line.job != nil && pcb != sResynch && !(pcb == sWTX|sResponse && t.asked):
		if t.asked {
			t.again()
		} // else it works, and does not listen
	case pcb&0x80 == 0:
		t.information(pcb, inf)
	case pcb&0xC0 == rBlock:
		t.receiveReady(pcb)
	default:
		t.supervise(pcb, inf)
	}
}

func (t *t1) information(pcb byte, inf []byte) {
	switch {
	case pcb&0x1F != 0, pcb&iSeq != t.expect*iSeq, len(inf) > t.ifsc, t.chaining:
		t.refuse(rErrOther)
		return
	}
	t.expect ^= 1
	if t.overflow = t.overflow || len(t.in)+len(inf) > maxCommand; !t.overflow {
		t.in = append(t.in, inf...)
	}
	if pcb&iMore != 0 {
		t.send(rBlock | t.expect*rSeq)
		return
	}
	capdu, overflow := t.in, t.overflow
	t.in, t.overflow = nil, false
	if overflow {
		t.respond([]byte{0x67, 0x00})
		return
	}
	t.line.process(capdu)
}

// receiveReady is an R-block: the next block of a chain is wanted, or the last
// block again.
func (t *t1) receiveReady(pcb byte) {
	nr := pcb >> 4 & 1
	if t.chaining && nr == t.next {
		t.sendNext()
		return
	}
	t.again()
}

func (t *t1) supervise(pcb byte, inf []byte) {
	switch {
	case pcb == sResynch && len(inf) == 0:
		t.expect, t.next, t.ifsd = 0, 0, defaultIFSD
		t.dropChains()
		t.line.job, t.asked = nil, false
		t.send(sResynch | sResponse)
	case pcb == sIFS && len(inf) == 1 && inf[0] > 0 && inf[0] < 0xFF:
		t.ifsd = int(inf[0])
		t.send(sIFS|sResponse, inf...)
	case pcb == sAbort && len(inf) == 0:
		t.dropChains()
		t.send(sAbort | sResponse)
	case pcb == sWTX|sResponse && t.asked && len(inf) == 1:
		t.asked = false
	default:
		t.refuse(rErrOther)
	}
}

func (t *t1) dropChains() {
	t.in, t.out, t.chaining, t.overflow = nil, nil, false, false
}

// respond sends a response APDU.
func (t *t1) respond(rapdu []byte) {
	t.out = rapdu
	t.sendNext()
}

func (t *t1) sendNext() {
	n := min(len(t.out), t.ifsd)
	inf := t.out[:n]
	t.out = t.out[n:]
	pcb := t.next * iSeq
	if t.chaining = len(t.out) > 0; t.chaining {
		pcb |= iMore
	}
	t.next ^= 1
	t.send(pcb, inf...)
}

// extend asks for more time, once until that is answered.
func (t *t1) extend() {
	if !t.asked {
		t.asked = true
		t.send(sWTX, 1)
	}
}
