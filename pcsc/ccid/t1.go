package ccid

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/atr"
)

// Protocol control bytes of T=1 (ISO/IEC 7816-3 §11.3.2.2).
const (
	pcbR        = 0x80
	pcbS        = 0xC0
	pcbNS       = 0x40 // of an I-block: N(S)
	pcbMore     = 0x20 // of an I-block: M
	pcbNR       = 0x10 // of an R-block: N(R)
	pcbResponse = 0x20 // of an S-block

	sResynch = 0x00
	sIFS     = 0x01
	sAbort   = 0x02
	sWTX     = 0x03

	// What an R-block says was wrong.
	rGood  = 0
	rEDC   = 1
	rOther = 2
)

// Bounds of one exchange by T=1.
const (
	maxTries    = 3  // of one block (ISO/IEC 7816-3 §11.6.3.2)
	maxSRequest = 16 // S(IFS) of the card
	maxResponse = apdu.MaxExtendedNe + 2
)

// t1 is the interface device's end of T=1 (ISO/IEC 7816-3 §11).
type t1 struct {
	// exchange sends one block and gives the card's. wtx multiplies the block
	// waiting time for it; 0 leaves it.
	exchange func(ctx context.Context, block []byte, wtx byte) ([]byte, error)
	crc      bool
	cardIFSC int // as in the answer to reset
	ifsd     int // to ask for; 0 leaves the default
	ifscMax  int // that the reader carries

	ifsc    int
	ns, nr  byte // of the next I-block to send, to receive: 0 or 1
	started bool // S(IFS) has been asked for
	lost    bool // the last exchange did not come to its end
	buf     []byte
}

// newT1 is T=1 after a reset of a card that says p, over a reader that carries
// messages of maxMessage bytes.
func newT1(p atr.T1, ifsd, maxMessage int) *t1 {
	t := &t1{crc: p.CRC, cardIFSC: p.IFSC, ifsd: ifsd}
	t.ifscMax = max(1, min(maxIFSD, maxMessage-headerLength-3-t.edcLength()))
	t.ifsd = min(t.ifsd, t.ifscMax)
	t.ifsc = min(t.cardIFSC, t.ifscMax)
	return t
}

func (t *t1) edcLength() int {
	if t.crc {
		return 2
	}
	return 1
}

// block is a block of T=1.
type block struct {
	pcb byte
	inf []byte
}

func (b block) isI() bool             { return b.pcb&0x80 == 0 }
func (b block) isR() bool             { return b.pcb&0xC0 == pcbR }
func (b block) isS(kind byte) bool    { return b.pcb == pcbS|kind }
func (b block) more() bool            { return b.pcb&pcbMore != 0 }
func (b block) sequence() byte        { return b.pcb >> 6 & 1 } // N(S) of an I-block
func (b block) acknowledgement() byte { return b.pcb >> 4 & 1 } // N(R) of an R-block

var errEDC = fmt.Errorf("%w: wrong LRC or CRC", ErrT1)

// appendBlock appends a block to b.
func appendBlock(b []byte, pcb byte, inf []byte, crc bool) []byte {
	start := len(b)
	b = append(b, 0, pcb, byte(len(inf)))
	b = append(b, inf...)
	if crc {
		c := crc16(b[start:])
		return append(b, byte(c>>8), byte(c))
	}
	return append(b, atr.Checksum(b[start:]))
}

// parseBlock parses a block of the card; inf points into b. Its error matches
// ErrT1.
func parseBlock(b []byte, crc bool) (block, error) {
	edc := 1
	if crc {
		edc = 2
	}
	if len(b) < 3+edc {
		return block{}, fmt.Errorf("%w: block of %d bytes", ErrT1, len(b))
	}
	end := len(b) - edc
	if crc && crc16(b[:end]) != uint16(b[end])<<8|uint16(b[end+1]) || !crc && atr.Checksum(b) != 0 {
		return block{}, errEDC
	}
	switch pcb := b[1]; {
	case b[0] != 0:
		return block{}, fmt.Errorf("%w: node address %02X", ErrT1, b[0])
	case b[2] == 0xFF || int(b[2]) != end-3:
		return block{}, fmt.Errorf("%w: block of %d bytes with LEN %d", ErrT1, len(b), b[2])
	case pcb&0x80 == 0 && pcb&0x1F != 0, pcb&0xC0 == pcbR && (pcb&0x2C != 0 || b[2] != 0):
		return block{}, fmt.Errorf("%w: PCB %02X with LEN %d", ErrT1, pcb, b[2])
	}
	return block{pcb: b[1], inf: b[3:end]}, nil
}

// crc16 is the CRC of T=1: ISO/IEC 13239's polynomial over bits in the order of
// the line, begun with FFFF. Cards and other drivers send it as it is, not
// complemented, the more significant byte first.
func crc16(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0x8408
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

// receive sends a block and gives the card's. An err that bad reports is about
// the block: it can be asked for again.
func (t *t1) receive(ctx context.Context, pcb byte, inf []byte, wtx byte) (block, error) {
	t.buf = appendBlock(t.buf[:0], pcb, inf, t.crc)
	in, err := t.exchange(ctx, t.buf, wtx)
	if err != nil {
		return block{}, err
	}
	return parseBlock(in, t.crc)
}

// bad reports whether the error is one of a block, and what an R-block says of
// it.
func bad(err error) (what byte, is bool) {
	var code Code
	switch {
	case errors.Is(err, apdu.ErrCardRemoved), errors.Is(err, apdu.ErrCardReset):
		return 0, false
	case errors.Is(err, errEDC):
		return rEDC, true
	case errors.Is(err, ErrT1):
		return rOther, true
	case errors.As(err, &code):
		switch code {
		case CodeParity:
			return rEDC, true
		case CodeOverrun, CodeMute:
			return rOther, true
		}
	}
	return 0, false
}

// transmit carries a command APDU to the card and brings its response. After an
// error it is not known what the card did; the next exchange starts with
// S(RESYNCH).
func (t *t1) transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	if t.lost {
		if err := t.resynchronise(ctx); err != nil {
			return nil, err
		}
	}
	t.lost = true
	if err := t.start(ctx); err != nil {
		return nil, err
	}
	rapdu, err := t.carry(ctx, capdu)
	t.lost = err != nil
	return rapdu, err
}

// start asks once for blocks longer than the default. A card that does not agree
// goes on with the default.
func (t *t1) start(ctx context.Context) error {
	if t.started || t.ifsd == 0 || t.ifsd == defaultIFSD {
		return nil
	}
	size := []byte{byte(t.ifsd)}
	if _, err := t.request(ctx, sIFS, size); err != nil && !errors.Is(err, ErrT1) {
		return err
	}
	t.started = true
	return nil
}

// resynchronise brings both ends to where they were after the reset (ISO/IEC
// 7816-3 §11.6.3.2, rule 6.3).
func (t *t1) resynchronise(ctx context.Context) error {
	if _, err := t.request(ctx, sResynch, nil); err != nil {
		return err
	}
	t.ns, t.nr, t.started, t.lost = 0, 0, false, false
	t.ifsc = min(t.cardIFSC, t.ifscMax)
	return nil
}

// request sends an S-block that asks, until the card answers it.
func (t *t1) request(ctx context.Context, kind byte, inf []byte) (answer []byte, err error) {
	pcb, say, wtx := byte(pcbS|kind), inf, byte(0)
	for tries, extensions := 0, 0; tries < maxTries; {
		var b block
		b, err = t.receive(ctx, pcb, say, wtx)
		pcb, say, wtx = pcbS|kind, inf, 0
		switch _, again := bad(err); {
		case again:
			tries++
		case err != nil:
			return nil, err
		case b.isS(kind|pcbResponse) && string(b.inf) == string(inf):
			return b.inf, nil
		case b.isS(sWTX) && len(b.inf) == 1 && extensions < maxExtensions:
			extensions++
			wtx = b.inf[0]
			pcb, say = pcbS|pcbResponse|sWTX, []byte{wtx}
		default:
			err = fmt.Errorf("%w: PCB %02X answers %02X", ErrT1, b.pcb, pcb)
			tries++
		}
	}
	return nil, err
}

// carry is transmit on ends that agree (ISO/IEC 7816-3 §11.6.3).
func (t *t1) carry(ctx context.Context, capdu []byte) ([]byte, error) {
	var rapdu []byte
	receiving := false           // the card has the command and sends its response
	n := min(t.ifsc, len(capdu)) // of capdu, in the I-block that is on its way
	tries, extensions, sizes := 0, 0, 0
	pcb, inf, wtx := t.iPCB(n < len(capdu)), capdu[:n], byte(0)
	for {
		b, err := t.receive(ctx, pcb, inf, wtx)
		wtx = 0
		chained := !receiving && n < len(capdu)
		switch {
		case err != nil:
		case b.isI() && (chained || b.sequence() != t.nr || b.more() && len(b.inf) == 0):
			err = fmt.Errorf("%w: I-block %02X out of order", ErrT1, b.pcb)
		case b.isI():
			if !receiving {
				receiving = true
				t.ns ^= 1
			}
			t.nr ^= 1
			tries = 0
			if len(rapdu)+len(b.inf) > maxResponse {
				return nil, fmt.Errorf("%w: response of more than %d bytes", ErrT1, maxResponse)
			}
			rapdu = append(rapdu, b.inf...)
			if !b.more() {
				return rapdu, nil
			}
			pcb, inf = t.rPCB(rGood), nil
			continue
		case b.isR() && chained && b.acknowledgement() != t.ns: // it has this part
			t.ns ^= 1
			tries = 0
			capdu = capdu[n:]
			n = min(t.ifsc, len(capdu))
			pcb, inf = t.iPCB(n < len(capdu)), capdu[:n]
			continue
		case b.isR() && b.acknowledgement() == t.ns: // it wants the last block again
			if tries++; tries >= maxTries {
				return nil, fmt.Errorf("%w: a block was refused %d times", ErrT1, tries)
			}
			if receiving {
				pcb, inf = t.rPCB(rGood), nil
			} else {
				pcb, inf = t.iPCB(n < len(capdu)), capdu[:n]
			}
			continue
		case b.isS(sWTX) && len(b.inf) == 1 && b.inf[0] != 0:
			if extensions++; extensions > maxExtensions {
				return nil, fmt.Errorf("%w: %d waiting time extensions", ErrT1, extensions)
			}
			tries = 0
			wtx = b.inf[0]
			pcb, inf = pcbS|pcbResponse|sWTX, []byte{wtx}
			continue
		case b.isS(sIFS) && len(b.inf) == 1 && b.inf[0] != 0 && b.inf[0] != 0xFF:
			if sizes++; sizes > maxSRequest {
				return nil, fmt.Errorf("%w: %d block sizes", ErrT1, sizes)
			}
			t.ifsc = min(int(b.inf[0]), t.ifscMax)
			pcb, inf = pcbS|pcbResponse|sIFS, []byte{b.inf[0]}
			continue
		case b.isS(sAbort) && len(b.inf) == 0:
			if _, err := t.receive(ctx, pcbS|pcbResponse|sAbort, nil, 0); err != nil {
				if _, harmless := bad(err); !harmless {
					return nil, err
				}
			}
			return nil, ErrAborted
		default:
			err = fmt.Errorf("%w: unexpected PCB %02X", ErrT1, b.pcb)
		}
		what, again := bad(err)
		if !again {
			return nil, err
		}
		if tries++; tries >= maxTries {
			return nil, err
		}
		pcb, inf = t.rPCB(what), nil
	}
}

func (t *t1) iPCB(more bool) byte {
	pcb := t.ns * pcbNS
	if more {
		pcb |= pcbMore
	}
	return pcb
}

func (t *t1) rPCB(what byte) byte { return pcbR | t.nr*pcbNR | what }
