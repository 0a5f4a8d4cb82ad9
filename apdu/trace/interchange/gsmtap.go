package interchange

import (
	"encoding/binary"
)

// GSMTAP, as libosmocore has it: version, header length in words of 4 bytes,
// payload type, …, subtype at 12.
const (
	gsmtapPort   = 4729
	gsmtapHeader = 16 // bytes
	gsmtapSIM    = 0x04
	gsmtapAPDU   = 0
	gsmtapATR    = 1
)

// Link types of captures.
const (
	linkNull     = 0
	linkEthernet = 1
	linkRaw      = 101
	linkSLL      = 113
	linkGSMTAP   = 217
	linkIPv4     = 228
	linkIPv6     = 229
	linkSLL2     = 276
)

// simMessage is the subtype and the payload of a packet with GSMTAP SIM; ok is
// false for any other.
func simMessage(link int, b []byte) (subtype byte, payload []byte, ok bool) {
	if link != linkGSMTAP {
		if b, ok = ipOf(link, b); !ok {
			return 0, nil, false
		}
		if b, ok = udpOf(b); !ok {
			return 0, nil, false
		}
	}
	if len(b) < gsmtapHeader || b[0] != 2 && b[0] != 3 || b[2] != gsmtapSIM {
		return 0, nil, false
	}
	n := 4 * int(b[1])
	if n < gsmtapHeader || n > len(b) {
		return 0, nil, false
	}
	return b[12], b[n:], true
}

// ipOf is the IP packet in a frame.
func ipOf(link int, b []byte) ([]byte, bool) {
	head, kind := 0, -1
	switch link {
	case linkRaw, linkIPv4, linkIPv6, 12, 14: // two systems' numbers for raw
	case linkNull:
		head = 4
	case linkEthernet:
		head, kind = 14, 12
		for len(b) >= head+4 && (be16(b[kind:]) == 0x8100 || be16(b[kind:]) == 0x88A8) { // VLAN tags
			head, kind = head+4, kind+4
		}
	case linkSLL:
		head, kind = 16, 14
	case linkSLL2:
		head, kind = 20, 0
	default:
		return nil, false
	}
	if len(b) <= head || kind >= 0 && be16(b[kind:]) != 0x0800 && be16(b[kind:]) != 0x86DD {
		return nil, false
	}
	return b[head:], true
}

// udpOf is the payload of an IP packet that is UDP from or to GSMTAP's port, and
// whole.
func udpOf(b []byte) ([]byte, bool) {
	switch b[0] >> 4 {
	case 4:
		head := 4 * int(b[0]&15)
		if head < 20 || len(b) < head+8 || b[9] != 17 || be16(b[6:])&0x3FFF != 0 { // fragments
			return nil, false
		}
		b = b[head:]
	case 6:
		if len(b) < 48 || b[6] != 17 {
			return nil, false
		}
		b = b[40:]
	default:
		return nil, false
	}
	n := be16(b[4:])
	if be16(b) != gsmtapPort && be16(b[2:]) != gsmtapPort || n < 8 || n > len(b) {
		return nil, false
	}
	return b[8:n], true
}

func be16(b []byte) int { return int(binary.BigEndian.Uint16(b)) }
