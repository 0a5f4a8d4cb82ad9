package explain

import (
	"fmt"
	"strings"
)

// content adds what a file, or a record, holds.
func (x *Explainer) content(f *file, offset int, b []byte) {
	switch {
	case len(b) == 0:
		return
	case allOf(b, 0xFF):
		x.add("", "content", "empty (FF)")
	case offset > 0 || f == nil || f.show == nil:
		x.add("", "content", hexa(b))
	default:
		f.show(x, b)
	}
}

func (x *Explainer) iccidFile(b []byte) { x.add("", "ICCID", iccid(b)) }

// imsi is TS 31.102 §4.2.2: a length, then the digits behind a parity nibble.
func (x *Explainer) imsi(b []byte) {
	n := int(b[0])
	if n < 1 || n > 8 || n > len(b)-1 || b[1]&7 != 1 {
		x.add("", "content", hexa(b))
		return
	}
	x.add("", "IMSI", swapped(b[1 : 1+n])[1:])
}

func (x *Explainer) plmns(b []byte) {
	var s []string
	for ; len(b) >= 3 && len(s) < maxValue; b = b[3:] {
		if !allOf(b[:3], 0xFF) {
			s = append(s, plmn(b[:3]))
		}
	}
	x.add("", "PLMNs", orNone(s))
}

func (x *Explainer) plmnsAcT(b []byte) {
	technologies := [...]struct {
		bit  uint16
		name string
	}{{0x8000, "UTRAN"}, {0x4000, "E-UTRAN"}, {0x0800, "NG-RAN"}, {0x0080, "GSM"}}
	var s []string
	for ; len(b) >= 5 && len(s) < maxValue; b = b[5:] {
		if allOf(b[:3], 0xFF) {
			continue
		}
		one, act := plmn(b[:3]), uint16(b[3])<<8|uint16(b[4])
		for _, t := range technologies {
			if act&t.bit != 0 {
				one += " " + t.name
			}
		}
		s = append(s, one)
	}
	x.add("", "PLMNs", orNone(s))
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// loci is TS 31.102 §4.2.17: TMSI, LAI, one byte, the status.
func (x *Explainer) loci(b []byte) {
	if len(b) != 11 {
		x.add("", "content", hexa(b))
		return
	}
	x.add("", "TMSI", hexa(b[:4]))
	x.add("", "PLMN", plmn(b[4:7]))
	x.add("", "LAC", hexa(b[7:9]))
	x.add("", "status", coded(map[byte]string{0: "updated", 1: "not updated", 2: "PLMN not allowed", 3: "location area not allowed"})([]byte{b[10] & 7}))
}

func (x *Explainer) ad(b []byte) {
	modes := map[byte]string{0x00: "normal", 0x80: "type approval", 0x01: "normal and specific facilities", 0x81: "type approval and specific facilities", 0x02: "maintenance", 0x04: "cell test"}
	x.add("", "mode", coded(modes)(b[:1]))
	if len(b) > 3 {
		x.add("", "digits of the MNC", fmt.Sprint(b[3]&0x0F))
	}
}

func (x *Explainer) spn(b []byte) { x.add("", "service provider", alpha(b[1:])) }

func (x *Explainer) languages(b []byte) {
	var s []string
	for ; len(b) >= 2 && len(s) < maxValue; b = b[2:] {
		if l := string(b[:2]); l >= "aa" && l <= "zz" && b[1] >= 'a' && b[1] <= 'z' {
			s = append(s, l)
		}
	}
	x.add("", "languages", orNone(s))
}

// services is the numbers of the services of a service table.
func (x *Explainer) services(b []byte) {
	var s []string
	for i := range min(len(b), maxValue) * 8 {
		if b[i/8]&(1<<(i%8)) != 0 {
			s = append(s, fmt.Sprint(i+1))
		}
	}
	x.add("", "services", orNone(s))
}

func (x *Explainer) emergency(b []byte) {
	x.add("", "number", swapped(b[:min(3, len(b))]))
	if len(b) > 4 {
		if name := b[3 : len(b)-1]; !allOf(name, 0xFF) {
			x.add("", "name", alpha(name))
		}
	}
}

// dialling is an alpha identifier and 14 bytes of a number (TS 31.102 §4.2.26).
func (x *Explainer) dialling(b []byte) {
	at := len(b) - 14
	if at < 0 || b[at] == 0xFF || b[at] < 1 || b[at] > 11 {
		x.add("", "content", hexa(b))
		return
	}
	if !allOf(b[:at], 0xFF) {
		x.add("", "name", alpha(b[:at]))
	}
	digits := swapped(b[at+2 : at+1+int(b[at])])
	if b[at+1]&0x70 == 0x10 {
		digits = "+" + digits
	}
	x.add("", "number", digits)
}

func (x *Explainer) directory(b []byte) { x.tree(b, directoryRecord, 0) }

// nai is a data object 80 of text (TS 31.103 §4.2).
func (x *Explainer) nai(b []byte) {
	x.tree(b, objects{0x80: {name: "identity", show: utf8Text}}, 0)
}
