package apdu

// Capabilities is what a card's historical bytes announce (ISO/IEC 7816-4
// §12.1.1.9, third software function table).
type Capabilities struct {
	CommandChaining bool
	ExtendedLength  bool
	Channels        int // logical channels that can be open at once, the basic one included; 1 if none is announced
}

// ParseCapabilities reads the card capabilities out of an answer to reset
// (ISO/IEC 7816-3 §8). Where it announces none, or is not well formed, the
// result is the least that every card has.
func ParseCapabilities(atr []byte) Capabilities {
	caps := Capabilities{Channels: 1}
	hist := historicalBytes(atr)
	if len(hist) < 1 {
		return caps
	}
	objects := hist[1:]
	switch hist[0] {
	case 0x80: // compact-TLV to the end
	case 0x00: // compact-TLV, then three bytes of status
		if len(objects) < 3 {
			return caps
		}
		objects = objects[:len(objects)-3]
	default:
		return caps
	}
	for len(objects) > 0 {
		tag, n := objects[0]>>4, int(objects[0]&0x0F)
		if len(objects) < 1+n {
			return caps
		}
		value := objects[1 : 1+n]
		objects = objects[1+n:]
		if tag == 7 && n == 3 {
			caps.CommandChaining = value[2]&0x80 != 0
			caps.ExtendedLength = value[2]&0x40 != 0
			if value[2]&0x18 != 0 {
				caps.Channels = int(value[2]&0x07) + 1
			}
		}
	}
	return caps
}

// historicalBytes walks over the interface bytes; nil where the ATR ends early.
func historicalBytes(atr []byte) []byte {
	if len(atr) < 2 {
		return nil
	}
	y, k := atr[1]>>4, int(atr[1]&0x0F)
	i := 2
	for y != 0 {
		for bit := byte(1); bit < 8; bit <<= 1 {
			if y&bit != 0 {
				i++
			}
		}
		if y&8 == 0 {
			break
		}
		if i >= len(atr) {
			return nil
		}
		y = atr[i] >> 4
		i++
	}
	if i+k > len(atr) {
		return nil
	}
	return atr[i : i+k]
}
