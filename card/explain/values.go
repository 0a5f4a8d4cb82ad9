package explain

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/card/id"
)

// hexa is bytes in hexadecimal, cut off where they are many.
func hexa(b []byte) string {
	if len(b) == 0 {
		return "empty"
	}
	s := strings.ToUpper(hex.EncodeToString(b[:min(len(b), maxValue)]))
	if len(b) > maxValue {
		s += fmt.Sprintf("… (%d bytes)", len(b))
	}
	return s
}

// utf8Text is text; bytes that are none are given in hexadecimal.
func utf8Text(b []byte) string {
	if !utf8.Valid(b) {
		return hexa(b)
	}
	s := printable(string(b))
	if len(s) > 4*maxValue {
		s = strings.ToValidUTF8(s[:4*maxValue], "") + "…"
	}
	return `"` + s + `"`
}

// printable is s with all that does not print replaced: controls, those that
// turn the writing around, and other tricks upon whoever reads it.
func printable(s string) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = s[i] >= ' ' && s[i] < 0x7F
	}
	if clean {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
}

// alpha is an alpha identifier (TS 31.102 annex A): the SMS default alphabet,
// of which what is ASCII too is shown, or UCS2; padded with FF.
func alpha(b []byte) string {
	if len(b) > 0 && b[0] == 0x80 {
		var units []uint16
		for b = b[1:]; len(b) >= 2 && (b[0] != 0xFF || b[1] != 0xFF); b = b[2:] {
			units = append(units, uint16(b[0])<<8|uint16(b[1]))
		}
		return utf8Text([]byte(string(utf16.Decode(units))))
	}
	end := len(b)
	for end > 0 && b[end-1] == 0xFF {
		end--
	}
	for _, c := range b[:end] {
		if c < ' ' || c > 'z' {
			return hexa(b[:end])
		}
	}
	return `"` + string(b[:end]) + `"`
}

// swapped is digits packed two a byte, nibbles swapped, up to the first F
// (EF.ICCID, EF.IMSI, dialling numbers).
func swapped(b []byte) string {
	const digits = "0123456789ABCDE"
	var s strings.Builder
	for _, c := range b[:min(len(b), maxValue)] {
		for _, d := range [...]byte{c & 15, c >> 4} {
			if d == 15 {
				return s.String()
			}
			s.WriteByte(digits[d])
		}
	}
	return s.String()
}

func iccid(b []byte) string {
	c, err := id.ICCIDFromBytes(b)
	if err != nil {
		return hexa(b) + " (not an ICCID)"
	}
	return c.String()
}

func eid(b []byte) string {
	e, err := id.EIDFromBytes(b)
	if err != nil {
		return hexa(b) + " (not an EID)"
	}
	return e.String()
}

func plmn(b []byte) string {
	if allOf(b, 0xFF) {
		return "none"
	}
	m, err := id.MCCMNCFromBytes(b)
	if err != nil {
		return hexa(b) + " (not a PLMN)"
	}
	s := m.String()
	return s[:3] + " " + s[3:]
}

func uuid(b []byte) string {
	if len(b) != 16 {
		return hexa(b)
	}
	return id.RequestID(b).String()
}

func number(b []byte) string {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 4 {
		return hexa(b)
	}
	n := uint32(0)
	for _, c := range b {
		n = n<<8 | uint32(c)
	}
	return fmt.Sprint(n)
}

// version is a VersionType of SGP.22.
func version(b []byte) string {
	if len(b) != 3 {
		return hexa(b)
	}
	return fmt.Sprintf("%d.%d.%d", b[0], b[1], b[2])
}

// enum reads one byte by a list of words, those above by their number.
func enum(words ...string) func([]byte) string {
	return func(b []byte) string {
		if len(b) == 1 && int(b[0]) < len(words) {
			return words[b[0]]
		}
		return hexa(b)
	}
}

// coded reads a number of one byte by words.
func coded(words map[byte]string) func([]byte) string {
	return func(b []byte) string {
		if len(b) == 1 {
			if w, ok := words[b[0]]; ok {
				return w
			}
			return fmt.Sprintf("%d", b[0])
		}
		return hexa(b)
	}
}

func yesNo(b []byte) string {
	if len(b) != 1 {
		return hexa(b)
	}
	if b[0] == 0 {
		return "no"
	}
	return "yes"
}

// bitString reads the value of a DER BIT STRING, whose first bit is bit 0.
func bitString(names ...string) func([]byte) string {
	return func(b []byte) string {
		if len(b) == 0 || b[0] > 7 {
			return hexa(b)
		}
		return bits(b[1:], names, func(i int) (int, byte) { return i / 8, 0x80 >> (i % 8) })
	}
}

// flags reads a byte whose lowest bit is the first.
func flags(names ...string) func([]byte) string {
	return func(b []byte) string {
		return bits(b, names, func(i int) (int, byte) { return i / 8, 1 << (i % 8) })
	}
}

func bits(b []byte, names []string, at func(int) (int, byte)) string {
	var set []string
	for i, name := range names {
		if n, bit := at(i); name != "" && n < len(b) && b[n]&bit != 0 {
			set = append(set, name)
		}
	}
	if set == nil {
		return "none"
	}
	return strings.Join(set, ", ")
}

// tagList reads the tags that 5C asks for.
func tagList(b []byte) string {
	var tags []string
	for len(b) > 0 && len(tags) < maxValue {
		n := 1
		if b[0]&0x1F == 0x1F && len(b) > 1 {
			n = 2
		}
		tags = append(tags, hexa(b[:n]))
		b = b[n:]
	}
	return strings.Join(tags, " ")
}
