package explain

import (
	"fmt"
	"strings"
)

// fileControl is what SELECT answers: FCP (TS 102 221 §11.1.1.3) or FCI (ISO/IEC
// 7816-4 §7.4, GlobalPlatform §11.9.3.1).
var fileControl = objects{
	0x62: {name: "file control parameters", inside: controlParameters},
	0x64: {name: "file management data"},
	0x6F: {name: "file control information", inside: controlInformation},
}

var controlParameters = objects{
	0x80: {name: "file size", show: number},
	0x81: {name: "total file size", show: number},
	0x82: {name: "file descriptor", show: fileDescriptor},
	0x83: {name: "file identifier", show: fileIdentifier},
	0x84: {name: "application", show: aid},
	0x88: {name: "short file identifier", show: shortIdentifier},
	0x8A: {name: "life cycle", show: lifeCycle},
	0x8B: {name: "access rules", show: accessRules},
	0x8C: {name: "access rules, compact"},
	0xA5: {name: "proprietary", inside: objects{
		0x80: {name: "UICC characteristics"},
		0x81: {name: "power consumption"},
		0x82: {name: "minimum clock frequency", show: number},
		0x83: {name: "available memory", show: number},
		0x84: {name: "file details"},
		0x85: {name: "reserved file size", show: number},
		0x86: {name: "maximum file size", show: number},
		0x87: {name: "supported commands", show: flags("TERMINAL CAPABILITY")},
		0x88: {name: "environmental conditions"},
		0xC0: {name: "special file information"},
	}},
	0xAB: {name: "access rules, expanded"},
	0xC6: {name: "PIN status", inside: objects{
		0x90: {name: "PINs enabled"},
		0x95: {name: "usage qualifier"},
		0x83: {name: "PIN", show: pinReference},
	}},
}

var controlInformation = objects{
	0x84: {name: "application", show: aid},
	0xA5: {name: "proprietary", inside: objects{
		0x73:   {name: "security domain management", inside: cardRecognition},
		0x9F6E: {name: "production life cycle"},
		0x9F65: {name: "maximum command data", show: number},
		0x50:   {name: "label", show: utf8Text},
	}},
	0xE0: {name: "ISD-R", inside: objects{
		0x82: {name: "SGP.22 version", show: version},
		0x81: {name: "LPAe", show: bitString("by CAT", "by SCWS")},
	}},
}

var cardRecognition = objects{
	0x06: {name: "object identifier", show: objectIdentifier},
	0x60: {name: "card management", inside: oid},
	0x63: {name: "card identification", inside: oid},
	0x64: {name: "secure channel protocol", inside: oid},
	0x65: {name: "card configuration", inside: oid},
	0x66: {name: "chip details", inside: oid},
}

var oid = objects{0x06: {name: "object identifier", show: objectIdentifier}}

var directoryRecord = objects{
	0x61: {name: "application", inside: objects{
		0x4F: {name: "AID", show: aid},
		0x50: {name: "label", show: utf8Text},
		0x51: {name: "path"},
		0x73: {name: "discretionary data"},
	}},
}

// dataObjects is what GET DATA asks for by tag (GlobalPlatform §11.3, §H).
var dataObjects = objects{
	0x42:   {name: "issuer identification number"},
	0x45:   {name: "card image number"},
	0x4F:   {name: "ISD's AID", show: aid},
	0x5A:   {name: "EID", show: eid},
	0x66:   {name: "card data", inside: objects{0x73: {name: "card recognition data", inside: cardRecognition}}},
	0x67:   {name: "card capabilities"},
	0x9F7F: {name: "production life cycle"},
	0xC1:   {name: "sequence counter", show: number},
	0xE0:   {name: "key information", inside: objects{0xC0: {name: "key", show: keyInformation}}},
	0xFF21: {name: "extended card resources", inside: objects{
		0x81: {name: "applications", show: number},
		0x82: {name: "free non volatile memory", show: number},
		0x83: {name: "free volatile memory", show: number},
	}},
}

// keyInformation is GlobalPlatform §11.3.3.1: identifier, version, types.
func keyInformation(b []byte) string {
	if len(b) < 4 {
		return hexa(b)
	}
	types := map[byte]string{0x80: "DES", 0x82: "3DES", 0x85: "TLS", 0x88: "AES", 0xA1: "RSA", 0xB0: "ECC", 0xF0: "ECC"}
	t, ok := types[b[2]]
	if !ok {
		t = fmt.Sprintf("type %02X", b[2])
	}
	return fmt.Sprintf("id %d, version %d, %s, %d bytes", b[0], b[1], t, b[3])
}

// fileDescriptor is TS 102 221 §11.1.1.4.3.
func fileDescriptor(b []byte) string {
	if len(b) < 2 {
		return hexa(b)
	}
	s := "EF"
	switch {
	case b[0]&0xBF == 0x38:
		s = "DF or ADF"
	case b[0]&0x3F == 0x39:
		s = "BER-TLV EF"
	default:
		if b[0]&0x38 == 0x08 {
			s = "internal EF"
		}
		switch b[0] & 0x07 {
		case 1:
			s = "transparent " + s
		case 2:
			s = "linear fixed " + s
		case 6:
			s = "cyclic " + s
		}
	}
	if len(b) >= 5 {
		s += fmt.Sprintf(", %d records of %d bytes", b[4], int(b[2])<<8|int(b[3]))
	}
	return s
}

func fileIdentifier(b []byte) string {
	s := hexa(b)
	if len(b) != 2 {
		return s
	}
	fid := uint16(b[0])<<8 | uint16(b[1])
	if fid == 0x3F00 {
		return s + " MF"
	}
	return s
}

func shortIdentifier(b []byte) string {
	if len(b) == 0 {
		return "none"
	}
	return fmt.Sprintf("%02X", b[0]>>3)
}

// lifeCycle is ISO/IEC 7816-4 §7.4.10.
func lifeCycle(b []byte) string {
	if len(b) != 1 {
		return hexa(b)
	}
	switch v := b[0]; {
	case v == 0:
		return "not given"
	case v == 1:
		return "creation"
	case v == 3:
		return "initialisation"
	case v&0xFD == 0x05:
		return "activated"
	case v&0xFD == 0x04:
		return "deactivated"
	case v&0xFC == 0x0C:
		return "terminated"
	}
	return hexa(b)
}

func accessRules(b []byte) string {
	switch {
	case len(b) == 3:
		return fmt.Sprintf("EF.ARR %X, record %d", b[:2], b[2])
	case len(b) >= 4 && len(b)%2 == 0:
		var s []string
		for r := b[2:]; len(r) >= 2; r = r[2:] {
			s = append(s, fmt.Sprintf("%d for environment %02X", r[1], r[0]))
		}
		return fmt.Sprintf("EF.ARR %X, record %s", b[:2], strings.Join(s, ", "))
	}
	return hexa(b)
}

func pinReference(b []byte) string {
	if len(b) != 1 {
		return hexa(b)
	}
	return keyReference(b[0])
}

// objectIdentifier is the dotted numbers of an OBJECT IDENTIFIER's value.
func objectIdentifier(b []byte) string {
	if len(b) == 0 || len(b) > 32 {
		return hexa(b)
	}
	s := fmt.Sprintf("%d.%d", min(b[0]/40, 2), int(b[0])-40*int(min(b[0]/40, 2)))
	n := uint64(0)
	for _, v := range b[1:] {
		if n > 1<<50 {
			return hexa(b)
		}
		n = n<<7 | uint64(v&0x7F)
		if v&0x80 == 0 {
			s += fmt.Sprintf(".%d", n)
			n = 0
		}
	}
	return s
}
