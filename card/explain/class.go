package explain

// class is what a class byte says (ISO/IEC 7816-4 §5.4.1, TS 102 221 §10.1.1).
type class struct {
	channel     int
	chained     bool // not the last command of a chain
	secure      bool // secure messaging
	proprietary bool
	gsm         bool // TS 51.011
}

func parseClass(cla byte) class {
	switch {
	case cla&0xF0 == 0xA0:
		return class{gsm: true, proprietary: true}
	case cla == 0xFF: // invalid: it stands for PPS
		return class{proprietary: true}
	}
	c := class{proprietary: cla&0x80 != 0, chained: cla&0x10 != 0}
	if cla&0x40 != 0 {
		c.channel, c.secure = 4+int(cla&0x0F), cla&0x20 != 0
		return c
	}
	c.channel, c.secure = int(cla&0x03), cla&0x0C != 0
	return c
}
