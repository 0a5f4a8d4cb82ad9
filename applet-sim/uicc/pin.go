package uicc

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"maps"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// PINName names one of a USIM's PINs.
type PINName string

// The PINs (TS 102 221 §9.4).
const (
	PIN1 PINName = "pin1" // of the application
	PIN2 PINName = "pin2" // local
	UPIN PINName = "upin" // universal, in place of PIN1 where that is disabled so
	ADM1 PINName = "adm1"
)

// PIN is a PIN as a USIM stores it. That it is presented wrongly is counted
// before it is compared, so that no loss of power gives a try back.
type PIN struct {
	Value     string `json:"value"`              // 4 to 8 digits
	PUK       string `json:"puk,omitempty"`      // 8 digits; ADM1 has none
	Disabled  bool   `json:"disabled,omitempty"` // PIN1 and UPIN alone
	Replaced  bool   `json:"replaced,omitempty"` // disabled, and UPIN is asked for in its place; PIN1 alone
	Failed    int    `json:"failed,omitempty"`   // wrong values since the last right one
	PUKFailed int    `json:"puk_failed,omitempty"`
}

// String keeps the value out of logs.
func (PIN) String() string { return "PIN" }

// GoString keeps the value out of logs.
func (p PIN) GoString() string { return p.String() }

// DefaultPINs are those of a USIM that has none of its own: a phone asks for
// none.
var DefaultPINs = map[PINName]PIN{
	PIN1: {Value: "0000", PUK: "00000000", Disabled: true},
	PIN2: {Value: "0000", PUK: "00000000"},
	UPIN: {Value: "0000", PUK: "00000000", Disabled: true},
	ADM1: {Value: "88888888"},
}

// pinRef is a key reference (TS 102 221 §9.5.1).
type pinRef byte

const (
	refPIN1 pinRef = 0x01
	refADM1 pinRef = 0x0A
	refUPIN pinRef = 0x11
	refPIN2 pinRef = 0x81
)

// pins are all, in the order of the PIN status template.
var pins = [...]struct {
	name  PINName
	ref   pinRef
	tries int
}{
	{PIN1, refPIN1, 3},
	{PIN2, refPIN2, 3},
	{UPIN, refUPIN, 3},
	{ADM1, refADM1, 10},
}

const pukTries = 10

func (p PIN) check(name PINName) error {
	for _, known := range pins {
		if known.name != name {
			continue
		}
		switch {
		case len(p.Value) < 4 || len(p.Value) > 8 || !isDecimal(p.Value):
			return fmt.Errorf("%w: %s: a value of 4 to 8 digits wanted", ErrData, name)
		case name != ADM1 && p.PUK != "" && (len(p.PUK) != 8 || !isDecimal(p.PUK)), name == ADM1 && p.PUK != "":
			return fmt.Errorf("%w: %s: a puk of 8 digits wanted, none for %s", ErrData, name, ADM1)
		case p.Failed < 0 || p.Failed > known.tries || p.PUKFailed < 0 || p.PUKFailed > pukTries:
			return fmt.Errorf("%w: %s: failed %d and puk_failed %d, at most %d and %d wanted", ErrData, name, p.Failed, p.PUKFailed, known.tries, pukTries)
		case p.Disabled && name != PIN1 && name != UPIN, p.Replaced && (name != PIN1 || !p.Disabled):
			return fmt.Errorf("%w: %s cannot be disabled so", ErrData, name)
		}
		return nil
	}
	return fmt.Errorf("%w: pin %.20q", ErrData, name)
}

// pin is a PIN as it is now.
func (d *Data) pin(name PINName) PIN {
	p, ok := d.PINs[name]
	if !ok {
		return DefaultPINs[name]
	}
	if p.PUK == "" {
		p.PUK = DefaultPINs[name].PUK
	}
	return p
}

// number is the index of a key reference in pins, -1 for none.
func number(ref byte) int {
	for i := range pins {
		if byte(pins[i].ref) == ref {
			return i
		}
	}
	return -1
}

// satisfied reports whether what a key reference asks for is there: it was
// verified, or need not be.
func (u *UICC) satisfied(ref byte) bool {
	i := number(ref)
	if i < 0 || u.sub == nil {
		return false
	}
	p := u.sub.pin(pins[i].name)
	if p.Replaced {
		return u.satisfied(byte(refUPIN))
	}
	return p.Disabled || u.verified[i]
}

// pinStatus is the PIN status template DO (TS 102 221 §9.5.2). Without a
// subscription it has PIN1, disabled: nothing is asked for.
func (u *UICC) pinStatus() []byte {
	enabled, refs := byte(0), []byte(nil)
	for i, known := range pins {
		var p PIN
		if u.sub == nil {
			if known.ref != refPIN1 {
				continue
			}
			p.Disabled = true
		} else {
			p = u.sub.pin(known.name)
		}
		if !p.Disabled {
			enabled |= 0x80 >> i
		}
		if known.ref == refUPIN {
			usage := byte(0x00)
			if u.sub.pin(PIN1).Replaced || !p.Disabled {
				usage = 0x08
			}
			refs = tlv.Append(refs, 0x95, usage)
		}
		refs = tlv.Append(refs, 0x83, byte(known.ref))
	}
	return append(tlv.Append(nil, 0x90, enabled), refs...)
}

// presented is a value as it is presented: digits, and FF up to 8 bytes.
func presented(value string) []byte { return pad([]byte(value), 8) }

// parsePIN reads a new value, 4 to 8 digits.
func parsePIN(b []byte) (value string, ok bool) {
	digits := bytes.TrimRight(b, "\xFF")
	return string(digits), len(digits) >= 4 && isDecimal(string(digits))
}

func triesLeft(n int) apdu.StatusWord { return 0x63C0 | apdu.StatusWord(n) }

// storePIN makes p the PIN.
func (u *UICC) storePIN(name PINName, p PIN) apdu.StatusWord {
	d := u.sub.Data
	d.PINs = maps.Clone(d.PINs)
	if d.PINs == nil {
		d.PINs = map[PINName]PIN{}
	}
	d.PINs[name] = p
	return u.store(d)
}

// attempt holds a presented value against the one that secret gives, counting
// first; count points at the counter that goes with it. With the right one,
// right changes the PIN, in the same persistent write that clears the count.
func (u *UICC) attempt(i int, value []byte, secret func(*PIN) string, count func(*PIN) *int, tries int, right func(*PIN)) apdu.StatusWord {
	p := u.sub.pin(pins[i].name)
	failed := count(&p)
	if *failed >= tries {
		return apdu.SWAuthenticationBlocked
	}
	*failed++
	if sw := u.storePIN(pins[i].name, p); sw != apdu.SWSuccess {
		return sw
	}
	if subtle.ConstantTimeCompare(value, presented(secret(&p))) != 1 {
		return triesLeft(tries - *failed)
	}
	*failed = 0
	right(&p)
	return u.storePIN(pins[i].name, p)
}

// present is an attempt by the PIN itself. A wrong value also takes away that it
// was verified.
func (u *UICC) present(i int, value []byte, right func(*PIN)) apdu.StatusWord {
	u.verified[i] = false
	sw := u.attempt(i, value,
		func(p *PIN) string { return p.Value }, func(p *PIN) *int { return &p.Failed }, pins[i].tries, right)
	u.verified[i] = sw == apdu.SWSuccess
	return sw
}

// pinCommand finds the PIN that a command names and checks the length of its
// data, which may be empty where empty is set.
func (u *UICC) pinCommand(cmd apdu.Command, length int, empty bool) (i int, p PIN, sw apdu.StatusWord) {
	i = number(cmd.P2)
	switch {
	case cmd.P1 != 0 && cmd.INS != insDisable:
		return i, p, apdu.SWIncorrectP1P2
	case i < 0 || u.sub == nil:
		return i, p, apdu.SWReferenceNotFound
	case len(cmd.Data) != length && !(empty && len(cmd.Data) == 0):
		return i, p, apdu.SWWrongLength
	}
	return i, u.sub.pin(pins[i].name), apdu.SWSuccess
}

// verify is VERIFY PIN (TS 102 221 §11.1.9); without data it gives the tries
// left.
func (u *UICC) verify(_ *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	i, p, sw := u.pinCommand(cmd, 8, true)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case len(cmd.Data) == 0:
		return nil, triesLeft(pins[i].tries - p.Failed)
	case p.Disabled:
		return nil, swInvalidated
	}
	return nil, u.present(i, cmd.Data, func(*PIN) {})
}

// change is CHANGE PIN (§11.1.10): the old value and the new one.
func (u *UICC) change(_ *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	i, p, sw := u.pinCommand(cmd, 16, false)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	value, ok := parsePIN(cmd.Data[8:])
	switch {
	case !ok:
		return nil, apdu.SWIncorrectData
	case p.Disabled:
		return nil, swInvalidated
	}
	return nil, u.present(i, cmd.Data[:8], func(p *PIN) { p.Value = value })
}

// disable is DISABLE PIN (§11.1.11); P1 says whether UPIN takes the place of
// PIN1.
func (u *UICC) disable(_ *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	const byUPIN = 0x80 | byte(refUPIN)
	i, p, sw := u.pinCommand(cmd, 8, false)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case cmd.P1 != 0 && (cmd.P1 != byUPIN || pins[i].ref != refPIN1):
		return nil, apdu.SWIncorrectP1P2
	case pins[i].ref != refPIN1 && pins[i].ref != refUPIN:
		return nil, apdu.SWConditionsNotSatisfied
	case p.Disabled:
		return nil, swInvalidated
	}
	return nil, u.present(i, cmd.Data, func(p *PIN) { p.Disabled, p.Replaced = true, cmd.P1 == byUPIN })
}

// enable is ENABLE PIN (§11.1.12).
func (u *UICC) enable(_ *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	i, p, sw := u.pinCommand(cmd, 8, false)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case !p.Disabled:
		return nil, swInvalidated
	}
	return nil, u.present(i, cmd.Data, func(p *PIN) { p.Disabled, p.Replaced = false, false })
}

// unblock is UNBLOCK PIN (§11.1.13): the PUK and a new value, which is verified
// and enabled then; without data it gives the tries left.
func (u *UICC) unblock(_ *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	i, p, sw := u.pinCommand(cmd, 16, true)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case pins[i].ref == refADM1:
		return nil, apdu.SWReferenceNotFound
	case len(cmd.Data) == 0:
		return nil, triesLeft(pukTries - p.PUKFailed)
	}
	value, ok := parsePIN(cmd.Data[8:])
	if !ok {
		return nil, apdu.SWIncorrectData
	}
	sw = u.attempt(i, cmd.Data[:8],
		func(p *PIN) string { return p.PUK }, func(p *PIN) *int { return &p.PUKFailed }, pukTries,
		func(p *PIN) { p.Value, p.Failed, p.Disabled, p.Replaced = value, 0, false, false })
	u.verified[i] = u.verified[i] || sw == apdu.SWSuccess
	return nil, sw
}
