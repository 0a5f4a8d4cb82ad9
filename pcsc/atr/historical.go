package atr

// Object is a COMPACT-TLV data object of the historical bytes (ISO/IEC 7816-4
// §12.1.1.3). Its tag as BER-TLV is 40 + Tag.
type Object struct {
	Tag   byte // 0 to 15
	Value []byte
}

// Tags of the objects that ISO/IEC 7816-4 §12.1.1 names.
const (
	TagCountry      = 0x1
	TagIssuer       = 0x2
	TagServices     = 0x3
	TagInitial      = 0x4
	TagIssuerData   = 0x5
	TagPreIssuing   = 0x6
	TagCapabilities = 0x7
	TagStatus       = 0x8
	TagAID          = 0xF
)

// Objects are the objects in the historical bytes, to the first that is cut off.
// There are none where the category indicator is not 00 or 80.
func (a ATR) Objects() []Object {
	if len(a.Historical) == 0 {
		return nil
	}
	rest := a.Historical[1:]
	switch a.Historical[0] {
	case 0x80:
	case 0x00: // three bytes of status stand at the end
		if len(rest) < 3 {
			return nil
		}
		rest = rest[:len(rest)-3]
	default:
		return nil
	}
	var objects []Object
	for len(rest) > 0 {
		tag, n := rest[0]>>4, int(rest[0]&0x0F)
		if len(rest) < 1+n {
			break
		}
		objects = append(objects, Object{Tag: tag, Value: rest[1 : 1+n : 1+n]})
		rest = rest[1+n:]
	}
	return objects
}

// Status is the status indicator: life cycle and SW1-SW2, as much of it as there
// is, up to three bytes (ISO/IEC 7816-4 §12.1.1.11).
func (a ATR) Status() []byte {
	h := a.Historical
	if len(h) >= 4 && h[0] == 0x00 {
		return h[len(h)-3:]
	}
	for _, o := range a.Objects() {
		if o.Tag == TagStatus {
			return o.Value
		}
	}
	return nil
}

// Capabilities are the card capabilities, up to three software function tables
// (ISO/IEC 7816-4 §12.1.1.9).
type Capabilities struct {
	Selection  byte // the first: how a DF is selected
	DataCoding byte // the second
	Chaining   bool // command chaining
	Extended   bool // extended Lc and Le
	Channels   int  // logical channels open at once, the basic one included
}

// Capabilities are those the card announces; ok is false where it announces none.
func (a ATR) Capabilities() (c Capabilities, ok bool) {
	c.Channels = 1
	for _, o := range a.Objects() {
		if o.Tag != TagCapabilities || len(o.Value) == 0 || len(o.Value) > 3 {
			continue
		}
		ok = true
		c.Selection = o.Value[0]
		if len(o.Value) > 1 {
			c.DataCoding = o.Value[1]
		}
		if len(o.Value) > 2 {
			third := o.Value[2]
			c.Chaining, c.Extended = third&0x80 != 0, third&0x40 != 0
			if third&0x18 != 0 {
				c.Channels = int(third&0x07) + 1 // 8 is "eight or more"
			}
		}
	}
	return c, ok
}
