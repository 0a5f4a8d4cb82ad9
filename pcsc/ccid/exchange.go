package ccid

import (
	"bytes"
	"context"

	"github.com/cardbridge/cardbridge/apdu"
)

// wLevelParameter of PC_to_RDR_XfrBlock and bChainParameter of its answer, at the
// extended-APDU level (CCID 1.1 §6.1.4, §6.2.1).
const (
	chainWhole    = 0x00 // begins and ends here
	chainBegin    = 0x01
	chainEnd      = 0x02
	chainMiddle   = 0x03
	chainContinue = 0x10 // nothing here: go on
)

// exchange carries one command APDU by the unit that the reader exchanges.
func (c *Conn) exchange(ctx context.Context, capdu []byte) ([]byte, error) {
	switch level := c.device.desc.Features.Level(); {
	case level == ExtendedAPDU:
		return c.extendedAPDU(ctx, c.withoutLe(capdu))
	case level == ShortAPDU:
		return c.shortAPDU(ctx, c.withoutLe(capdu))
	case c.protocol == T1:
		return c.t1.transmit(ctx, capdu)
	}
	tpdu, ne, err := tpduT0(c.buf[:0], capdu)
	switch {
	case err != nil:
		return nil, err
	case headerLength+len(tpdu) > c.device.desc.MaxMessage():
		return nil, ErrTooLong
	}
	c.buf = tpdu
	if c.device.desc.Features.Level() == TPDU {
		return c.transmitT0(ctx, tpdu, ne)
	}
	return procedureT0(ctx, c.characters, tpdu, ne)
}

// withoutLe takes the Le from a short case 4 command in T=0, as PC/SC's readers
// are given it: the card announces what it has by 61xx, and who called asks for it.
func (c *Conn) withoutLe(capdu []byte) []byte {
	if c.protocol == T0 && len(capdu) > 6 && capdu[4] != 0 && len(capdu) == 6+int(capdu[4]) {
		return capdu[:len(capdu)-1]
	}
	return capdu
}

// shortAPDU carries a command in one message.
func (c *Conn) shortAPDU(ctx context.Context, capdu []byte) ([]byte, error) {
	if apdu.IsExtended(capdu) {
		return nil, ErrExtended
	}
	if headerLength+len(capdu) > c.device.desc.MaxMessage() {
		return nil, ErrTooLong
	}
	a, err := c.slot.transfer(ctx, capdu, 0, 0)
	if err != nil {
		return nil, err
	}
	if a.param != chainWhole {
		return nil, brokenReader("bChainParameter %02X at the short-APDU level", a.param)
	}
	return bytes.Clone(a.data), nil
}

// extendedAPDU carries a command in as many messages as it takes, and its
// response.
func (c *Conn) extendedAPDU(ctx context.Context, capdu []byte) ([]byte, error) {
	most := c.device.desc.MaxMessage() - headerLength
	n := min(len(capdu), most)
	level := uint16(chainWhole)
	if n < len(capdu) {
		level = chainBegin
	}
	a, err := c.slot.transfer(ctx, capdu[:n], 0, level)
	for err == nil && n < len(capdu) {
		if a.param != chainContinue || len(a.data) != 0 {
			return nil, brokenReader("bChainParameter %02X with %d bytes where the command goes on", a.param, len(a.data))
		}
		capdu = capdu[n:]
		n, level = min(len(capdu), most), chainMiddle
		if n == len(capdu) {
			level = chainEnd
		}
		a, err = c.slot.transfer(ctx, capdu[:n], 0, level)
	}
	var rapdu []byte
	for first := true; ; first = false {
		if err != nil {
			return nil, err
		}
		starts := a.param == chainWhole || a.param == chainBegin
		if a.param > chainMiddle || starts != first {
			return nil, brokenReader("bChainParameter %02X after %d bytes", a.param, len(rapdu))
		}
		if len(rapdu)+len(a.data) > maxResponse {
			return nil, brokenReader("response of more than %d bytes", maxResponse)
		}
		rapdu = append(rapdu, a.data...)
		if a.param == chainWhole || a.param == chainEnd {
			return rapdu, nil
		}
		if len(a.data) == 0 {
			return nil, brokenReader("an empty part of a response")
		}
		a, err = c.slot.transfer(ctx, nil, 0, chainContinue)
	}
}

// block exchanges one block of T=1.
func (c *Conn) block(ctx context.Context, block []byte, wtx byte) ([]byte, error) {
	if c.device.desc.Features.Level() != Character {
		a, err := c.slot.transfer(ctx, block, wtx, 0)
		return a.data, err
	}
	more := func(want int) ([]byte, error) {
		a, err := c.slot.transfer(ctx, block, wtx, uint16(want))
		block = nil
		return a.data, err
	}
	prologue, err := gather(3, more)
	if err != nil {
		return nil, err
	}
	rest, err := gather(int(prologue[2])+c.t1.edcLength(), more)
	return append(prologue, rest...), err
}
