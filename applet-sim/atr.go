package appletsim

// answerToReset is the answer to reset (ISO/IEC 7816-3 §8): T=0 and T=1, and
// in the historical bytes (ISO/IEC 7816-4 §12.1.1.9) what the card can carry.
func answerToReset(extended bool) []byte {
	const (
		chaining   = 0x80
		extLength  = 0x40
		byCard     = 0x10 // the card assigns the number of a logical channel
		byHost     = 0x08 // the host may
		channels   = 0x07 // eight or more
		byFullName = 0x80 // applications are selected by full DF name
		dataCoding = 0x21 // the standard's default
	)
	capabilities := byte(chaining | byCard | byHost | channels)
	if extended {
		capabilities |= extLength
	}
	atr := []byte{
		0x3B, 0x85, // direct convention; TD1, 5 historical bytes
		0x80,       // TD1: T=0; TD2
		0xB1,       // TD2: T=1; TA3, TB3, TD3
		0xFE, 0x45, // IFSC 254, BWI 4, CWI 5
		0x1F, 0xC7, // T=15: clock may stop, classes A, B and C
		0x80, 0x73, byFullName, dataCoding, capabilities,
	}
	tck := byte(0)
	for _, b := range atr[1:] {
		tck ^= b
	}
	return append(atr, tck)
}
