package uicc

import (
	"bytes"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

// dirRecords is EF.DIR (TS 102 221 §13.1): one application template.
func dirRecords(s *Subscription) []byte {
	if s == nil {
		return nil
	}
	b := tlv.Append(nil, 0x4F, usimAID...)
	return tlv.Append(nil, 0x61, tlv.Append(b, 0x50, []byte("USIM")...)...)
}

// iccidContent is EF.ICCID (TS 102 221 §13.2), as it was made without a profile.
func iccidContent(s *Subscription) []byte {
	if s == nil {
		return nil
	}
	return s.ICCID[:]
}

// imsiContent is EF.IMSI (TS 31.102 §4.2.2).
func imsiContent(s *Subscription) []byte {
	b := make([]byte, 9)
	digits := s.imsi
	b[0] = byte(len(digits)/2 + 1)
	parity := byte(0x01) // even
	if len(digits)%2 == 1 {
		parity = 0x09
	}
	nibbles := append([]byte{parity}, digits...)
	for i := range 8 {
		low, high := byte(0x0F), byte(0x0F)
		if 2*i < len(nibbles) {
			low = nibbles[2*i] & 0x0F
		}
		if 2*i+1 < len(nibbles) {
			high = nibbles[2*i+1] & 0x0F
		}
		b[1+i] = high<<4 | low
	}
	return b
}

// mncLength is how many digits the MNC has: two where the third is F (TS 24.008
// §10.5.1.13).
func mncLength(p id.MCCMNC) byte {
	if p[1]>>4 == 0x0F {
		return 2
	}
	return 3
}

// derivedIMSI is the owner's MCC and MNC and the last digits of the ICCID, 15 in
// all; a letter counts as the last digit of its value.
func derivedIMSI(iccid id.ICCID, owner id.MCCMNC) string {
	digits := []byte{owner[0] & 0x0F, owner[0] >> 4, owner[1] & 0x0F, owner[2] & 0x0F, owner[2] >> 4}
	if mncLength(owner) == 3 {
		digits = append(digits, owner[1]>>4)
	}
	var number []byte
	for _, b := range iccid {
		for _, d := range [2]byte{b & 0x0F, b >> 4} {
			if d != 0x0F {
				number = append(number, d%10)
			}
		}
	}
	digits = append(digits, number[len(number)-(maxIMSI-len(digits)):]...)
	for i := range digits {
		digits[i] += '0'
	}
	return string(digits)
}

// adContent is EF.AD (§4.2.18): normal operation, and the MNC's length.
func adContent(s *Subscription) []byte { return []byte{0, 0, 0, mncLength(s.Owner)} }

// accContent is EF.ACC (§4.2.15): the class that goes by the IMSI's last digit
// (TS 22.011 §4.2).
func accContent(s *Subscription) []byte {
	class := uint16(1) << (s.imsi[len(s.imsi)-1] - '0')
	return []byte{byte(class >> 8), byte(class)}
}

// services are those of EF.UST (§4.2.8) that the files here serve.
var services = []int{
	1, 2, 3, // phone book, FDN, EXT2
	10, 12, 13, // SMS, SMSP, advice of charge
	17, 18, 19, 20, 21, // GID1, GID2, SPN, user PLMN selector, MSISDN
	27, 33, 34, 38, // GSM access, set by the clause, EST, GSM security context
	42, 43, 71, // operator's PLMN selector, HPLMN selector, EHPLMN
	85,            // EPS mobility management
	122, 123, 126, // 5GS mobility management, security, access identities
}

func serviceTable() []byte {
	b := make([]byte, 16)
	for _, n := range services {
		b[(n-1)/8] |= 1 << ((n - 1) % 8)
	}
	return b
}

// spnContent is EF.SPN (§4.2.12): the registered PLMN's name is not shown beside.
func spnContent(s *Subscription) []byte { return append([]byte{0}, alphaIdentifier(s.Provider, 16)...) }

// alphaIdentifier is the beginning of a text that fits n bytes: in the GSM
// default alphabet where that has ASCII's place for all of it, else in UCS2 (TS
// 102 221 annex A).
func alphaIdentifier(text string, n int) []byte {
	plain := true
	for _, r := range text {
		// Those of ASCII that the alphabet has elsewhere or not at all.
		if r < ' ' || r > 'z' || r == '$' || r == '@' || r >= '[' && r <= '`' {
			plain = false
		}
	}
	if plain {
		return []byte(text)[:min(len(text), n)]
	}
	b := []byte{0x80}
	for _, r := range text {
		if len(b)+2 > n {
			break
		}
		if r > 0xFFFF { // UCS2 ends there
			r = utf8.RuneError
		}
		b = append(b, byte(r>>8), byte(r))
	}
	return b
}

// plmns is a PLMN selector with access technology (§4.2.5) without entries.
func plmns() []byte { return bytes.Repeat([]byte{0xFF, 0xFF, 0xFF, 0x00, 0x00}, 8) }

// homePLMN is the owner's PLMN by E-UTRAN, UTRAN, NG-RAN and GSM.
func homePLMN(s *Subscription) []byte {
	return append(append(s.Owner[:3:3], 0xC8, 0x80), plmns()...)[:10]
}

func equivalentPLMN(s *Subscription) []byte { return s.Owner[:3:3] }

// location ends the location information files: the area of no location, and
// that it is not updated. What comes before it is unknown.
func location(unknown int, area string) content {
	return derived(func(s *Subscription) []byte {
		b := append(bytes.Repeat([]byte{0xFF}, unknown), s.Owner[:]...)
		return append(append(b, area...), 0x01)
	})
}

// freeRecords are n records whose first byte says that they are free.
func freeRecords(n, length int) content {
	return same(bytes.Repeat(pad([]byte{0}, length), n))
}
