package appletsim

// maxChannels is how many logical channels ISO/IEC 7816-4 can number.
const maxChannels = 20

const chainingBit = 0x10

// kind is what a class byte says of secure messaging.
type kind byte

const (
	plain     kind = iota
	secured        // the protocol's: the header is in the mac
	otherwise      // another kind of ISO/IEC 7816-4, which the card does not have
)

// A class byte's form without channel, chaining and secure messaging.
const (
	interindustry = 0x00
	proprietary   = 0x80
	neither       = 0xFF
)

// invalidClass is no class of any command (ISO/IEC 7816-4 §5.4.1).
const invalidClass = 0xFF

// class is a class byte taken apart (ISO/IEC 7816-4 §5.4.1).
type class struct {
	form    byte
	channel int
	chained bool
	kind    kind
}

func parseClass(cla byte) class {
	switch {
	case cla == invalidClass:
		return class{form: neither}
	case cla&0x40 != 0: // further interindustry, channels 4 to 19
		c := class{form: cla & 0x80, channel: int(cla&0x0F) + 4, chained: cla&chainingBit != 0}
		if cla&0x20 != 0 {
			c.kind = secured
		}
		return c
	case cla&0x20 != 0: // reserved; A0 is the class of old SIMs
		return class{form: neither, channel: int(cla & 0x03)}
	}
	c := class{form: cla & 0x80, channel: int(cla & 0x03), chained: cla&chainingBit != 0}
	switch cla & 0x0C {
	case 0x00:
	case 0x0C:
		c.kind = secured
	default:
		c.kind = otherwise
	}
	return c
}
