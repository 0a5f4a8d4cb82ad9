package explain

import "fmt"

// meaning is what a data object is called and how its value reads: as text by
// show, as data objects by inside, or else in hexadecimal.
type meaning struct {
	name   string
	show   func([]byte) string
	inside objects
}

// objects is the data objects that may stand somewhere, by tag.
type objects map[uint32]meaning

// object is a BER-TLV data object. Unlike apdu/tlv, which reads what the card
// protocol allows, this takes what cards and terminals send: tags of up to
// three bytes, lengths that are not the shortest, values that are cut off.
type object struct {
	tag      uint32
	value    []byte
	cut      bool // the value is shorter than its length says
	compound bool // the tag says that data objects are inside
}

// readObject reads the first data object of b; ok is false where b does not
// begin with one.
func readObject(b []byte) (o object, rest []byte, ok bool) {
	if len(b) < 2 || b[0] == 0 || b[0] == 0xFF {
		return object{}, nil, false
	}
	o.tag, o.compound = uint32(b[0]), b[0]&0x20 != 0
	i := 1
	if b[0]&0x1F == 0x1F {
		for more := true; more; i++ {
			if i == 3 || i >= len(b) {
				return object{}, nil, false
			}
			o.tag = o.tag<<8 | uint32(b[i])
			more = b[i]&0x80 != 0
		}
	}
	n, i, ok := readLength(b, i)
	if !ok {
		return object{}, nil, false
	}
	if n > len(b)-i {
		n, o.cut = len(b)-i, true
	}
	o.value = b[i : i+n : i+n]
	return o, b[i+n:], true
}

// readLength reads a length of up to four bytes at i and gives where it ends.
func readLength(b []byte, i int) (n, end int, ok bool) {
	if i >= len(b) {
		return 0, 0, false
	}
	n = int(b[i])
	i++
	if n < 0x80 {
		return n, i, true
	}
	size := n & 0x7F
	if size == 0 || size > 3 || size > len(b)-i {
		return 0, 0, false
	}
	n = 0
	for _, v := range b[i : i+size] {
		n = n<<8 | int(v)
	}
	return n, i + size, true
}

// isObjects reports whether b is data objects from end to end.
func isObjects(b []byte) bool {
	for len(b) > 0 {
		o, rest, ok := readObject(b)
		if !ok || o.cut {
			return false
		}
		b = rest
	}
	return true
}

// tree adds the data objects of b and what is inside them.
func (x *Explainer) tree(b []byte, known objects, depth int) {
	for len(b) > 0 {
		o, rest, ok := readObject(b)
		if !ok {
			if !allOf(b, 0xFF) && !allOf(b, 0) { // padding
				x.put(Field{Depth: depth, Name: "other bytes", Value: hexa(b)})
			}
			return
		}
		b = rest
		m, found := known[o.tag]
		f := Field{Depth: depth, Tag: fmt.Sprintf("%02X", o.tag), Name: m.name}
		inside := depth+1 < maxDepth && (m.inside != nil || !found && o.compound && isObjects(o.value))
		switch {
		case inside && len(o.value) == 0:
			f.Value = "empty"
		case inside:
		case m.show != nil:
			f.Value = m.show(o.value)
		default:
			f.Value = hexa(o.value)
		}
		if o.cut {
			f.Level = Note
			f.Value += " (cut off)"
		}
		if !x.put(f) {
			return
		}
		if inside {
			x.tree(o.value, m.inside, depth+1)
		}
	}
}

// find is the value of the first data object with a tag, or nil.
func find(b []byte, tag uint32) []byte {
	for len(b) > 0 {
		o, rest, ok := readObject(b)
		if !ok {
			return nil
		}
		if o.tag == tag {
			return o.value
		}
		b = rest
	}
	return nil
}

func allOf(b []byte, v byte) bool {
	for _, c := range b {
		if c != v {
			return false
		}
	}
	return true
}
