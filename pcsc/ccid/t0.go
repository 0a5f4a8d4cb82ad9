package ccid

import (
	"context"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// tpduT0 maps a command APDU onto a command TPDU of T=0 (ISO/IEC 7816-3 §12.2):
// a case 1 command gets a P3 of 00, a case 4 command loses its Le. ne is the most
// data that can come back. The error matches apdu.ErrMalformed, or is ErrExtended.
func tpduT0(b, capdu []byte) (tpdu []byte, ne int, err error) {
	if apdu.IsExtended(capdu) {
		return nil, 0, ErrExtended
	}
	c, err := apdu.ParseCommand(capdu)
	if err != nil {
		return nil, 0, err
	}
	if c.INS&0xF0 == 0x60 || c.INS&0xF0 == 0x90 { // they would be read as SW1 (§10.3.2)
		return nil, 0, fmt.Errorf("%w: INS %02X is none in T=0", apdu.ErrMalformed, c.INS)
	}
	b = append(b, c.CLA, c.INS, c.P1, c.P2)
	if len(c.Data) > 0 {
		return append(append(b, byte(len(c.Data))), c.Data...), 0, nil
	}
	return append(b, byte(c.Ne)), c.Ne, nil
}

// transmitT0 carries a command TPDU by a reader of the TPDU level, which sees to the
// procedure bytes, and to the P3 of a case 1 command (CCID 1.1 §6.1.4).
func (c *Conn) transmitT0(ctx context.Context, tpdu []byte, ne int) ([]byte, error) {
	if ne == 0 && len(tpdu) == 5 {
		tpdu = tpdu[:4]
	}
	a, err := c.slot.transfer(ctx, tpdu, 0, 0)
	if err != nil {
		return nil, err
	}
	if len(a.data) > ne+2 {
		return nil, brokenReader("answer of %d bytes where %d are the most", len(a.data), ne+2)
	}
	return append([]byte(nil), a.data...), nil
}

// characters are the card's characters by a reader of the character level: send
// goes to the card, then n characters come (CCID 1.1 §3.2.1).
type characters func(ctx context.Context, send []byte, n int) ([]byte, error)

// procedureT0 carries a command TPDU of T=0 character by character, by the
// procedure bytes of the card (ISO/IEC 7816-3 §10.3.3). ne is the data that P3
// asks for.
func procedureT0(ctx context.Context, exchange characters, tpdu []byte, ne int) ([]byte, error) {
	ins := tpdu[1]
	send, data := tpdu[:5], tpdu[5:]
	var rapdu []byte
	for nulls := 0; nulls <= maxExtensions; {
		in, err := exchange(ctx, send, 1)
		if err != nil {
			return nil, err
		}
		send = nil
		n := 0 // bytes that the card acknowledges, to or from it
		switch procedure := in[0]; {
		case procedure == 0x60: // it asks for time
			nulls++
			continue
		case procedure&0xF0 == 0x60 || procedure&0xF0 == 0x90: // SW1
			sw2, err := exchange(ctx, nil, 1)
			if err != nil {
				return nil, err
			}
			return append(rapdu, procedure, sw2[0]), nil
		case procedure == ins:
			n = max(len(data), ne-len(rapdu))
		case procedure == ^ins:
			n = 1
		default:
			return nil, fmt.Errorf("%w: procedure byte %02X to INS %02X", ErrT0, procedure, ins)
		}
		switch {
		case len(data) > 0:
			send, data = data[:n], data[n:]
		case ne > len(rapdu):
			in, err := exchange(ctx, nil, n)
			if err != nil {
				return nil, err
			}
			rapdu = append(rapdu, in...)
		default: // §10.3.3: there is nothing more to carry
			return nil, fmt.Errorf("%w: procedure byte %02X behind the last byte", ErrT0, in[0])
		}
	}
	return nil, fmt.Errorf("%w: %d NULL procedure bytes", ErrT0, maxExtensions)
}

// characters is the slot's card as its characters. A reader may give them in
// several answers, but not more than were asked for.
func (c *Conn) characters(ctx context.Context, send []byte, n int) ([]byte, error) {
	return gather(n, func(want int) ([]byte, error) {
		a, err := c.slot.transfer(ctx, send, 0, uint16(want))
		send = nil
		return a.data, err
	})
}

// gather has more called until n bytes have come.
func gather(n int, more func(want int) ([]byte, error)) ([]byte, error) {
	var got []byte
	for empty := 0; len(got) < n; {
		in, err := more(n - len(got))
		switch {
		case err != nil:
			return nil, err
		case len(in) > n-len(got):
			return nil, brokenReader("%d characters where %d were asked for", len(in), n-len(got))
		case len(in) == 0:
			if empty++; empty > maxEmpty {
				return nil, brokenReader("%d answers without a character", empty)
			}
		}
		got = append(got, in...)
	}
	return got, nil
}
