// Package tlv reads and writes BER-TLV data objects (ISO/IEC 7816-4 §5.2.2,
// ISO/IEC 8825-1) without allocating. Tags of one or two bytes, definite
// lengths up to 65535 bytes.
package tlv

import (
	"errors"
	"fmt"
)

// ErrMalformed is matched by every error of this package.
var ErrMalformed = errors.New("tlv: malformed")

// Tag is the bytes of a BER tag as a number: 0x5A, 0x9F70.
type Tag uint16

// Object is one data object. Value and Raw point into the bytes it was read
// from; Raw is tag, length and value.
type Object struct {
	Tag   Tag
	Value []byte
	Raw   []byte
}

// Read reads the first data object of b, whose length must be coded in the
// fewest bytes (DER), and returns what comes after it. A second tag byte below
// 1F, for which ISO/IEC 8825-1 has one byte, is taken: the protocol has DF01.
func Read(b []byte) (o Object, rest []byte, err error) {
	if len(b) == 0 {
		return Object{}, nil, fmt.Errorf("%w: no data object", ErrMalformed)
	}
	o.Tag = Tag(b[0])
	i := 1
	if b[0]&0x1F == 0x1F {
		if len(b) < 2 || b[1]&0x80 != 0 {
			return Object{}, nil, fmt.Errorf("%w: tag %X", ErrMalformed, b[:min(len(b), 3)])
		}
		o.Tag = o.Tag<<8 | Tag(b[1])
		i = 2
	}
	if len(b) <= i {
		return Object{}, nil, fmt.Errorf("%w: tag %X has no length", ErrMalformed, uint16(o.Tag))
	}
	n := int(b[i])
	i++
	switch {
	case n < 0x80:
	case n == 0x81 && len(b) >= i+1 && b[i] >= 0x80:
		n = int(b[i])
		i++
	case n == 0x82 && len(b) >= i+2 && b[i] != 0:
		n = int(b[i])<<8 | int(b[i+1])
		i += 2
	default:
		return Object{}, nil, fmt.Errorf("%w: tag %X has a length that is not minimal, indefinite, too long or cut off", ErrMalformed, uint16(o.Tag))
	}
	if len(b)-i < n {
		return Object{}, nil, fmt.Errorf("%w: tag %X says %d bytes, %d follow", ErrMalformed, uint16(o.Tag), n, len(b)-i)
	}
	o.Value = b[i : i+n : i+n]
	o.Raw = b[: i+n : i+n]
	return o, b[i+n:], nil
}

// Expect reads the first data object of b, which must have this tag.
func Expect(b []byte, tag Tag) (value, rest []byte, err error) {
	o, rest, err := Read(b)
	if err != nil {
		return nil, nil, err
	}
	if o.Tag != tag {
		return nil, nil, fmt.Errorf("%w: tag %X where %X belongs", ErrMalformed, uint16(o.Tag), uint16(tag))
	}
	return o.Value, rest, nil
}

// Append appends a data object to b. Value must not exceed 65535 bytes.
func Append(b []byte, tag Tag, value ...byte) []byte {
	return append(AppendHeader(b, tag, len(value)), value...)
}

// AppendHeader appends a tag and the length n, 0 to 65535, in the fewest bytes.
func AppendHeader(b []byte, tag Tag, n int) []byte {
	if tag > 0xFF {
		b = append(b, byte(tag>>8))
	}
	b = append(b, byte(tag))
	switch {
	case n < 0:
		panic("tlv: negative length")
	case n < 0x80:
		return append(b, byte(n))
	case n < 0x100:
		return append(b, 0x81, byte(n))
	case n < 0x10000:
		return append(b, 0x82, byte(n>>8), byte(n))
	}
	panic("tlv: value longer than 65535 bytes")
}
