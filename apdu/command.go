// Package apdu encodes and parses ISO/IEC 7816-4 commands, responses and
// status words, and carries one exchange through command chaining, GET RESPONSE
// (61xx) and a wrong Le (6Cxx).
package apdu

import (
	"errors"
	"fmt"
)

// ErrMalformed is matched by every error that says bytes do not parse.
var ErrMalformed = errors.New("apdu: malformed")

// Lengths that ISO/IEC 7816-4 §5.1 sets.
const (
	MaxShortData    = 255   // Nc of a short command, bytes
	MaxExtendedData = 65535 // Nc of an extended command, bytes
	MaxShortNe      = 256   // Ne of a short command, bytes
	MaxExtendedNe   = 65536 // Ne of an extended command, bytes
)

// Command is a command APDU (ISO/IEC 7816-4 §5.1). Ne is the maximum number of
// response bytes expected: 0 none (no Le field), 256 a short Le of 00, 65536 an
// extended Le of 0000.
type Command struct {
	CLA, INS, P1, P2 byte
	Data             []byte
	Ne               int
}

// AppendBinary appends the command to b in the shortest of the two length forms
// that holds it: short where len(Data) ≤ 255 and Ne ≤ 256, else extended. It
// allocates only what b lacks.
func (c Command) AppendBinary(b []byte) ([]byte, error) {
	if len(c.Data) > MaxExtendedData || c.Ne < 0 || c.Ne > MaxExtendedNe {
		return b, fmt.Errorf("%w: command of %d data bytes, Ne %d", ErrMalformed, len(c.Data), c.Ne)
	}
	b = append(b, c.CLA, c.INS, c.P1, c.P2)
	if len(c.Data) <= MaxShortData && c.Ne <= MaxShortNe {
		if len(c.Data) > 0 {
			b = append(b, byte(len(c.Data)))
			b = append(b, c.Data...)
		}
		if c.Ne > 0 {
			b = append(b, byte(c.Ne))
		}
		return b, nil
	}
	b = append(b, 0)
	if len(c.Data) > 0 {
		b = append(b, byte(len(c.Data)>>8), byte(len(c.Data)))
		b = append(b, c.Data...)
	}
	if c.Ne > 0 {
		b = append(b, byte(c.Ne>>8), byte(c.Ne))
	}
	return b, nil
}

// ParseCommand parses a command APDU of any of the seven cases of ISO/IEC
// 7816-4 §5.1. Data points into b. The error matches ErrMalformed.
func ParseCommand(b []byte) (Command, error) {
	if len(b) < 4 {
		return Command{}, fmt.Errorf("%w: command of %d bytes, a header has 4", ErrMalformed, len(b))
	}
	c := Command{CLA: b[0], INS: b[1], P1: b[2], P2: b[3]}
	body := b[4:]
	switch {
	case len(body) == 0: // case 1
		return c, nil
	case len(body) == 1: // case 2S
		c.Ne = shortNe(body[0])
		return c, nil
	case body[0] != 0: // case 3S, 4S
		n := int(body[0])
		switch len(body) {
		case 1 + n:
		case 2 + n:
			c.Ne = shortNe(body[1+n])
		default:
			return Command{}, fmt.Errorf("%w: Lc says %d, %d bytes follow", ErrMalformed, n, len(body)-1)
		}
		c.Data = body[1 : 1+n : 1+n]
		return c, nil
	case len(body) < 3:
		return Command{}, fmt.Errorf("%w: extended length of %d bytes", ErrMalformed, len(body))
	}
	n := int(body[1])<<8 | int(body[2])
	if len(body) == 3 { // case 2E
		c.Ne = extendedNe(n)
		return c, nil
	}
	if n == 0 {
		return Command{}, fmt.Errorf("%w: extended Lc of 0", ErrMalformed)
	}
	switch len(body) { // case 3E, 4E
	case 3 + n:
	case 5 + n:
		c.Ne = extendedNe(int(body[3+n])<<8 | int(body[4+n]))
	default:
		return Command{}, fmt.Errorf("%w: Lc says %d, %d bytes follow", ErrMalformed, n, len(body)-3)
	}
	c.Data = body[3 : 3+n : 3+n]
	return c, nil
}

// IsExtended reports whether b, a command APDU, uses extended length fields.
func IsExtended(b []byte) bool { return len(b) > 5 && b[4] == 0 }

func shortNe(le byte) int {
	if le == 0 {
		return MaxShortNe
	}
	return int(le)
}

func extendedNe(le int) int {
	if le == 0 {
		return MaxExtendedNe
	}
	return le
}

// ParseResponse splits a response APDU into its data and status word. Data
// points into b. The error matches ErrMalformed.
func ParseResponse(b []byte) (data []byte, sw StatusWord, err error) {
	n := len(b) - 2
	if n < 0 {
		return nil, 0, fmt.Errorf("%w: response of %d bytes, a status word has 2", ErrMalformed, len(b))
	}
	if b[n]&0xF0 != 0x60 && b[n]&0xF0 != 0x90 {
		return nil, 0, fmt.Errorf("%w: status word %02X%02X is neither 6xxx nor 9xxx", ErrMalformed, b[n], b[n+1])
	}
	return b[:n:n], StatusWord(b[n])<<8 | StatusWord(b[n+1]), nil
}
