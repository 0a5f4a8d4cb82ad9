// Package id codes the identifiers of eSIM management: EID, ICCID, MCCMNC and
// the request id. Each is a fixed array of the bytes that cross the card's
// interface, and text is its digits.
package id

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrInvalid is matched by every error of this package.
var ErrInvalid = errors.New("invalid identifier")

// EID is an eUICC identifier: 32 decimal digits packed two a byte, the first
// in the high nibble (GSMA SGP.02, SGP.29).
type EID [16]byte

// ParseEID parses 32 decimal digits and checks them (Check).
func ParseEID(s string) (EID, error) {
	var e EID
	if len(s) != 32 {
		return EID{}, fmt.Errorf("%w: EID %.40q has %d characters, 32 digits wanted", ErrInvalid, s, len(s))
	}
	if _, err := hex.Decode(e[:], []byte(s)); err != nil {
		return EID{}, fmt.Errorf("%w: EID %.40q is not decimal digits", ErrInvalid, s)
	}
	return e, e.Check()
}

// EIDFromBytes takes 16 packed bytes and checks them (Check).
func EIDFromBytes(b []byte) (EID, error) {
	if len(b) != len(EID{}) {
		return EID{}, fmt.Errorf("%w: EID of %d bytes, 16 wanted", ErrInvalid, len(b))
	}
	e := EID(b)
	return e, e.Check()
}

// Check verifies that all nibbles are decimal digits and that the 32-digit
// number mod 97 is 1 (SGP.29 §6).
func (e EID) Check() error {
	r := 0
	for _, b := range e {
		hi, lo := b>>4, b&0x0F
		if hi > 9 || lo > 9 {
			return fmt.Errorf("%w: EID %X is not decimal digits", ErrInvalid, e[:])
		}
		r = (r*100 + int(hi)*10 + int(lo)) % 97
	}
	if r != 1 {
		return fmt.Errorf("%w: EID %s has wrong check digits (mod 97 is %d, not 1)", ErrInvalid, e, r)
	}
	return nil
}

// WithCheckDigits is e with its last two digits set so that Check passes; the
// other digits must be decimal.
func (e EID) WithCheckDigits() EID {
	e[15] = 0
	r := 0
	for _, b := range e {
		r = (r*100 + int(b>>4)*10 + int(b&0x0F)) % 97
	}
	d := 98 - r
	e[15] = byte(d/10<<4 | d%10)
	return e
}

func (e EID) String() string { return hex.EncodeToString(e[:]) }

// MarshalText is the 32 digits.
func (e EID) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText is ParseEID.
func (e *EID) UnmarshalText(b []byte) (err error) {
	*e, err = ParseEID(string(b))
	return err
}

// ICCID is an integrated circuit card identifier as EF.ICCID holds it (3GPP TS
// 31.102 §4.2.2, ITU-T E.118): 18 to 20 digits packed two a byte, nibbles
// swapped, padded with F. Digits A to E occur and are carried as they are.
type ICCID [10]byte

// ParseICCID parses 18 to 20 digits 0-9, A-E in either case.
func ParseICCID(s string) (ICCID, error) {
	var c ICCID
	if len(s) < 18 || len(s) > 20 {
		return ICCID{}, fmt.Errorf("%w: ICCID %.40q has %d characters, 18 to 20 digits wanted", ErrInvalid, s, len(s))
	}
	for i := range 20 {
		d := byte(0x0F)
		if i < len(s) {
			var ok bool
			if d, ok = nibble(s[i]); !ok || d == 0x0F {
				return ICCID{}, fmt.Errorf("%w: ICCID %.40q has a character that is no digit", ErrInvalid, s)
			}
		}
		c[i/2] |= d << (4 * (i % 2))
	}
	return c, nil
}

// ICCIDFromBytes takes the 10 bytes of EF.ICCID.
func ICCIDFromBytes(b []byte) (ICCID, error) {
	if len(b) != len(ICCID{}) {
		return ICCID{}, fmt.Errorf("%w: ICCID of %d bytes, 10 wanted", ErrInvalid, len(b))
	}
	c := ICCID(b)
	if back, err := ParseICCID(c.String()); err != nil || back != c {
		return ICCID{}, fmt.Errorf("%w: ICCID bytes %X", ErrInvalid, b)
	}
	return c, nil
}

// String is the digits, letters in upper case, without padding.
func (c ICCID) String() string {
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, 20)
	for i := range 20 {
		d := c[i/2] >> (4 * (i % 2)) & 0x0F
		if d == 0x0F {
			break
		}
		out = append(out, digits[d])
	}
	return string(out)
}

// MarshalText is the digits.
func (c ICCID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is ParseICCID.
func (c *ICCID) UnmarshalText(b []byte) (err error) {
	*c, err = ParseICCID(string(b))
	return err
}

// MCCMNC is a mobile operator's PLMN identity as 3GPP TS 24.008 §10.5.1.13
// codes it; an MNC of two digits has F for its third.
type MCCMNC [3]byte

// ParseMCCMNC parses 5 or 6 decimal digits.
func ParseMCCMNC(s string) (MCCMNC, error) {
	if len(s) != 5 && len(s) != 6 {
		return MCCMNC{}, fmt.Errorf("%w: MCCMNC %.20q has %d characters, 5 or 6 digits wanted", ErrInvalid, s, len(s))
	}
	d := [6]byte{5: 0x0F}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return MCCMNC{}, fmt.Errorf("%w: MCCMNC %.20q is not decimal digits", ErrInvalid, s)
		}
		d[i] = s[i] - '0'
	}
	return MCCMNC{d[1]<<4 | d[0], d[5]<<4 | d[2], d[4]<<4 | d[3]}, nil
}

// MCCMNCFromBytes takes the 3 bytes.
func MCCMNCFromBytes(b []byte) (MCCMNC, error) {
	if len(b) != len(MCCMNC{}) {
		return MCCMNC{}, fmt.Errorf("%w: MCCMNC of %d bytes, 3 wanted", ErrInvalid, len(b))
	}
	m := MCCMNC(b)
	if back, err := ParseMCCMNC(m.String()); err != nil || back != m {
		return MCCMNC{}, fmt.Errorf("%w: MCCMNC bytes %X", ErrInvalid, b)
	}
	return m, nil
}

// String is the 5 or 6 digits.
func (m MCCMNC) String() string {
	s := fmt.Sprintf("%x%x%x%x%x", m[0]&15, m[0]>>4, m[1]&15, m[2]&15, m[2]>>4)
	if m[1]>>4 != 0x0F {
		s += fmt.Sprintf("%x", m[1]>>4)
	}
	return s
}

// MarshalText is the digits.
func (m MCCMNC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMCCMNC.
func (m *MCCMNC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMCCMNC(string(b))
	return err
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// RequestID names one operator's request: a UUID's bytes (docs/protocol.md §1).
type RequestID [16]byte

// ParseRequestID parses 32 hexadecimal digits, or the same as a UUID with
// hyphens (RFC 9562 §4).
func ParseRequestID(s string) (RequestID, error) {
	plain := s
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		plain = s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	}
	var r RequestID
	if len(plain) != 32 {
		return r, fmt.Errorf("%w: request id %.40q, 32 hexadecimal digits or a UUID wanted", ErrInvalid, s)
	}
	if _, err := hex.Decode(r[:], []byte(plain)); err != nil {
		return RequestID{}, fmt.Errorf("%w: request id %.40q is not hexadecimal", ErrInvalid, s)
	}
	return r, nil
}

// String is the UUID with hyphens.
func (r RequestID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", r[:4], r[4:6], r[6:8], r[8:10], r[10:])
}

// MarshalText is the UUID with hyphens.
func (r RequestID) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRequestID.
func (r *RequestID) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRequestID(string(b))
	return err
}
