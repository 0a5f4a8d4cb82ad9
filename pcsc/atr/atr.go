// Package atr parses answers to reset (ISO/IEC 7816-3 §8) and derives from them
// what a card offers: protocols, speeds, waiting times, what its historical bytes
// say (ISO/IEC 7816-4 §12.1.1).
package atr

import (
	"errors"
	"fmt"
)

// MaxLength is the longest answer to reset, bytes: TS and 32 more (ISO/IEC
// 7816-3 §8.2.1).
const MaxLength = 33

// ErrMalformed is matched by every error of Parse.
var ErrMalformed = errors.New("atr: malformed")

// What can be wrong with an answer to reset. Behind ErrChecksum and ErrTrailing
// stands one that is complete all the same: Parse gives it with the error.
var (
	ErrTruncated = errors.New("ends early")
	ErrTooLong   = errors.New("longer than 33 bytes")
	ErrTS        = errors.New("TS is neither 3B nor 3F")
	ErrChecksum  = errors.New("TCK is missing or wrong")
	ErrTrailing  = errors.New("bytes behind the end")
)

// Error says what is wrong with an answer to reset, and where. It matches
// ErrMalformed and Err.
type Error struct {
	Offset int    // of the first byte that is wrong or missing
	Field  string // "TS", "TA2", "historical bytes", "TCK", …
	Err    error  // one of those above
}

func (e *Error) Error() string {
	return fmt.Sprintf("%v: %v (%s, byte %d)", ErrMalformed, e.Err, e.Field, e.Offset)
}

// Unwrap gives ErrMalformed and Err.
func (e *Error) Unwrap() []error { return []error{ErrMalformed, e.Err} }

// Byte is an interface byte, which may be absent.
type Byte struct {
	Value   byte
	Present bool
}

// Or is the byte, or def where it is absent.
func (b Byte) Or(def byte) byte {
	if b.Present {
		return b.Value
	}
	return def
}

// Group is the interface bytes TAi, TBi, TCi, TDi of one i.
type Group struct {
	TA, TB, TC, TD Byte
	T              int // the protocol, or 15, that TD(i-1) names; 0 in the first two groups where it names none
}

// ATR is a parsed answer to reset.
type ATR struct {
	Raw        []byte
	Inverse    bool    // TS is 3F: inverse convention
	Groups     []Group // Groups[0] has TA1 to TD1; never empty
	Historical []byte
	TCK        Byte
}

// Parse parses an answer to reset. Its error is an *Error; beside one that
// matches ErrChecksum or ErrTrailing the result is usable, else it is empty.
func Parse(raw []byte) (ATR, error) {
	if len(raw) > MaxLength {
		return ATR{}, &Error{Offset: MaxLength, Field: "length", Err: ErrTooLong}
	}
	if len(raw) == 0 {
		return ATR{}, &Error{Field: "TS", Err: ErrTruncated}
	}
	if raw[0] != 0x3B && raw[0] != 0x3F {
		return ATR{}, &Error{Field: "TS", Err: ErrTS}
	}
	p := &parser{raw: append([]byte(nil), raw...), at: 1}
	a := ATR{Raw: p.raw, Inverse: raw[0] == 0x3F}
	t0 := p.next("T0")
	y, t, check := t0>>4, 0, false
	for i := 1; ; i++ {
		g := Group{T: t}
		for bit, b := range []*Byte{&g.TA, &g.TB, &g.TC, &g.TD} {
			if y>>bit&1 != 0 {
				*b = Byte{Value: p.next(fmt.Sprintf("T%c%d", 'A'+bit, i)), Present: true}
			}
		}
		a.Groups = append(a.Groups, g)
		if !g.TD.Present || p.err != nil {
			break
		}
		y, t = g.TD.Value>>4, int(g.TD.Value&0x0F)
		check = check || t != 0 // §8.2.5: TCK is there unless T=0 is all there is
	}
	if n := int(t0 & 0x0F); p.err == nil {
		if len(p.raw)-p.at < n {
			p.err = &Error{Offset: len(p.raw), Field: "historical bytes", Err: ErrTruncated}
		} else {
			a.Historical = p.raw[p.at : p.at+n : p.at+n]
			p.at += n
		}
	}
	if p.err != nil {
		return ATR{}, p.err
	}
	return a, p.end(&a, check)
}

// parser walks over an answer to reset; err is the first thing wrong with it.
type parser struct {
	raw []byte
	at  int
	err *Error
}

// next is the next byte; 0 where there is none.
func (p *parser) next(field string) byte {
	if p.at >= len(p.raw) {
		if p.err == nil {
			p.err = &Error{Offset: len(p.raw), Field: field, Err: ErrTruncated}
		}
		return 0
	}
	p.at++
	return p.raw[p.at-1]
}

// end checks what stands behind the historical bytes.
func (p *parser) end(a *ATR, check bool) error {
	if check {
		if p.at == len(p.raw) {
			return &Error{Offset: p.at, Field: "TCK", Err: ErrChecksum}
		}
		a.TCK = Byte{Value: p.next("TCK"), Present: true}
		if Checksum(p.raw[1:p.at]) != 0 {
			return &Error{Offset: p.at - 1, Field: "TCK", Err: ErrChecksum}
		}
	}
	if p.at < len(p.raw) {
		return &Error{Offset: p.at, Field: "end", Err: ErrTrailing}
	}
	return nil
}

// Checksum is the exclusive-or of b: TCK where b is T0 to the last historical
// byte, 0 where b has TCK too (ISO/IEC 7816-3 §8.2.5).
func Checksum(b []byte) byte {
	var x byte
	for _, c := range b {
		x ^= c
	}
	return x
}
