package uicc

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cardbridge/cardbridge/applet-sim/milenage"
	"github.com/cardbridge/cardbridge/card/id"
)

// Subscription is a profile as its USIM shows it. It is never changed in place.
type Subscription struct {
	ICCID    id.ICCID
	Owner    id.MCCMNC
	Provider string // service provider name
	Data

	imsi string
	key  *milenage.Key
}

// NewSubscription is the subscription of a profile with data that Check found
// good, and which it shares.
func NewSubscription(iccid id.ICCID, owner id.MCCMNC, provider string, data Data) *Subscription {
	s := &Subscription{ICCID: iccid, Owner: owner, Provider: provider, Data: data}
	s.imsi = data.IMSI
	if s.imsi == "" {
		s.imsi = derivedIMSI(iccid, owner)
	}
	k, opc := DefaultK, DefaultOPc
	if data.K != nil {
		k = [16]byte(data.K)
	}
	if data.OPc != nil {
		opc = [16]byte(data.OPc)
	}
	s.key = milenage.New(k, opc)
	return s
}

// ErrData is matched by every error that says Data is not a USIM's.
var ErrData = errors.New("uicc: bad USIM data")

// Data is what a USIM was personalised with and what it stored since. Each
// member that is absent has its default. Once in a Subscription it is not
// changed.
type Data struct {
	IMSI  string          `json:"imsi,omitempty"`  // 6 to 15 digits; the owner's MCC and MNC and the last of the ICCID
	K     Hex             `json:"k,omitempty"`     // 16 bytes; DefaultK
	OPc   Hex             `json:"opc,omitempty"`   // 16 bytes; DefaultOPc
	SEQ   []uint64        `json:"seq,omitempty"`   // the highest SEQ accepted, by IND (TS 33.102 annex C); 0
	PINs  map[PINName]PIN `json:"pins,omitempty"`  // DefaultPINs
	Files map[string]Hex  `json:"files,omitempty"` // the whole content by path: "ADF.USIM/EF.SPN"
}

// The keys of a USIM that has none of its own: test set 1 of 3GPP TS 35.208.
var (
	DefaultK   = [16]byte{0x46, 0x5B, 0x5C, 0xE8, 0xB1, 0x99, 0xB4, 0x9F, 0xAA, 0x5F, 0x0A, 0x2E, 0xE2, 0x38, 0xA6, 0xBC}
	DefaultOPc = [16]byte{0xCD, 0x63, 0xCB, 0x71, 0x95, 0x4A, 0x9F, 0x4E, 0x48, 0xA5, 0x99, 0x4E, 0x37, 0xA0, 0x2B, 0xAF}
)

// String keeps keys and PINs out of logs.
func (Data) String() string { return "USIM data" }

// GoString keeps keys and PINs out of logs.
func (d Data) GoString() string { return d.String() }

// Clone is a copy to change, of all but the bytes of files.
func (d Data) Clone() Data {
	d.SEQ = slices.Clone(d.SEQ)
	d.PINs = maps.Clone(d.PINs)
	d.Files = maps.Clone(d.Files)
	return d
}

const (
	minIMSI = 6
	maxIMSI = 15
	maxSEQ  = 1<<43 - 1
	inds    = 32 // values of IND
)

// Check verifies that a USIM can have this data. The error matches ErrData and
// has no secret in it.
func (d *Data) Check() error {
	if d.IMSI != "" && (len(d.IMSI) < minIMSI || len(d.IMSI) > maxIMSI || !isDecimal(d.IMSI)) {
		return fmt.Errorf("%w: imsi: %d to %d digits wanted", ErrData, minIMSI, maxIMSI)
	}
	for name, key := range map[string]Hex{"k": d.K, "opc": d.OPc} {
		if key != nil && len(key) != 16 {
			return fmt.Errorf("%w: %s of %d bytes, 16 wanted", ErrData, name, len(key))
		}
	}
	if len(d.SEQ) > inds {
		return fmt.Errorf("%w: %d values of seq, at most %d wanted", ErrData, len(d.SEQ), inds)
	}
	for _, seq := range d.SEQ {
		if seq > maxSEQ {
			return fmt.Errorf("%w: seq %d, at most %d wanted", ErrData, seq, uint64(maxSEQ))
		}
	}
	for name, pin := range d.PINs {
		if err := pin.check(name); err != nil {
			return err
		}
	}
	for path, content := range d.Files {
		f := paths[path]
		switch {
		case f == nil:
			return fmt.Errorf("%w: no file %.60q", ErrData, path)
		case len(content) != f.size:
			return fmt.Errorf("%w: %s of %d bytes, %d wanted", ErrData, path, len(content), f.size)
		}
	}
	return nil
}

func isDecimal(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// Hex is bytes that a file has as hexadecimal digits.
type Hex []byte

// MarshalText is the digits in upper case.
func (h Hex) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%X", []byte(h)), nil }

// UnmarshalText parses digits of either case.
func (h *Hex) UnmarshalText(b []byte) error {
	out := make([]byte, hex.DecodedLen(len(b)))
	if _, err := hex.Decode(out, b); err != nil {
		return err
	}
	*h = out
	return nil
}
