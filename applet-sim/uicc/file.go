package uicc

import (
	"bytes"
	"encoding/hex"

	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// File descriptor bytes (TS 102 221 §11.1.1.4.3), shareable files.
const (
	transparent = 0x41
	linear      = 0x42
	cyclic      = 0x46
	directory   = 0x78
)

// File identifiers that TS 102 221 §8.6 reserves.
const (
	idMF         = 0x3F00
	idCurrentADF = 0x7FFF
)

// file is an MF, DF, ADF or EF. It never changes.
type file struct {
	name       string
	id         uint16
	sfi        byte // 0: none
	descriptor byte
	record     int  // bytes
	size       int  // of an EF, bytes
	rule       byte // record of EF.ARR
	content    content
	link       *file // whose content an EF shows, nil: its own

	parent   *file // nil: the MF
	children []*file
	path     string // names from the MF's children on
	arr      *file  // where rule is
	fcp      []byte // an EF's FCP template
}

func (f *file) isDir() bool { return f.descriptor == directory }

// records is how many records an EF has.
func (f *file) records() int { return f.size / f.record }

// child is the one with this identifier, nil for none.
func (f *file) child(id uint16) *file {
	for _, c := range f.children {
		if c.id == id {
			return c
		}
	}
	return nil
}

// bySFI is the EF with this short file identifier, nil for none.
func (f *file) bySFI(sfi byte) *file {
	for _, c := range f.children {
		if c.sfi == sfi && !c.isDir() {
			return c
		}
	}
	return nil
}

// transparentEF is a transparent EF.
func transparentEF(name string, id uint16, sfi byte, size int, rule byte, content content) *file {
	return &file{name: name, id: id, sfi: sfi, descriptor: transparent, size: size, rule: rule, content: content}
}

// linearEF is a linear fixed EF of n records.
func linearEF(name string, id uint16, sfi byte, n, record int, rule byte, content content) *file {
	return &file{name: name, id: id, sfi: sfi, descriptor: linear, record: record, size: n * record, rule: rule, content: content}
}

// cyclicEF is a cyclic EF of n records.
func cyclicEF(name string, id uint16, sfi byte, n, record int, rule byte, content content) *file {
	f := linearEF(name, id, sfi, n, record, rule, content)
	f.descriptor = cyclic
	return f
}

// linked is target once more, at another place.
func linked(target *file) *file {
	f := *target
	f.link = target
	f.children = nil
	for _, c := range target.children {
		f.children = append(f.children, linked(c))
	}
	return &f
}

// at is f with another short file identifier.
func (f *file) at(sfi byte) *file {
	f.sfi = sfi
	return f
}

func dir(name string, id uint16, children ...*file) *file {
	return &file{name: name, id: id, descriptor: directory, rule: ruleDirectory, children: children}
}

// settle fills in what a file has by its place, and its children. arr is where
// the rules of the place are: a directory's own are for what it has (TS 102 221
// §9.2.7).
func (f *file) settle(parent, arr *file) {
	f.parent = parent
	f.path = f.name
	if parent != nil && parent.parent != nil {
		f.path = parent.path + "/" + f.name
	}
	f.arr = arr
	for _, c := range f.children {
		if c.name == nameARR {
			arr = c
		}
	}
	if parent == nil {
		f.arr = arr
	}
	for _, c := range f.children {
		c.settle(f, arr)
	}
	if !f.isDir() {
		f.content.same = pad(f.content.same, f.size)
		f.fcp = tlv.Append(nil, 0x62, f.parameters(nil, nil)...)
	}
}

// Life cycle status: operational, activated (TS 102 221 §11.1.1.4.9).
const activated = 0x05

// parameters are the file control parameters in the order of TS 102 221
// §11.1.1.3; name and pins are an ADF's and a DF's.
func (f *file) parameters(name, pins []byte) []byte {
	descriptor := []byte{f.descriptor, 0x21}
	if f.record > 0 {
		descriptor = append(descriptor, byte(f.record>>8), byte(f.record), byte(f.records()))
	}
	b := tlv.Append(nil, 0x82, descriptor...)
	b = tlv.Append(b, 0x83, byte(f.id>>8), byte(f.id))
	if name != nil {
		b = tlv.Append(b, 0x84, name...)
	}
	if f.isDir() {
		b = tlv.Append(b, 0xA5, characteristics...)
	}
	b = tlv.Append(b, 0x8A, activated)
	b = tlv.Append(b, 0x8B, byte(f.arr.id>>8), byte(f.arr.id), f.rule)
	if f.isDir() {
		return tlv.Append(b, 0xC6, pins...)
	}
	b = tlv.Append(b, 0x80, byte(f.size>>8), byte(f.size))
	if f.sfi == 0 {
		return tlv.Append(b, 0x88)
	}
	return tlv.Append(b, 0x88, f.sfi<<3)
}

// characteristics is the proprietary information of a directory: the clock may
// be stopped, no level preferred, and the supply voltages are those of the ATR
// (TS 102 221 §11.1.1.4.6.1).
var characteristics = []byte{0x80, 0x01, 0x71}

// content is what an EF holds before it is written, with FF to its end.
type content struct {
	same []byte                     // in every USIM
	of   func(*Subscription) []byte // where it is not; there may be no subscription
}

func same(b []byte) content { return content{same: b} }

func derived(of func(*Subscription) []byte) content { return content{of: of} }

// fixed is the same content in every USIM, hexadecimal.
func fixed(digits string) content {
	b, err := hex.DecodeString(digits)
	if err != nil {
		panic(err)
	}
	return same(b)
}

// blank is all FF.
var blank content

// initial is what an EF holds before it is written. It is not to be changed.
func (f *file) initial(s *Subscription) []byte {
	if f.content.of == nil {
		return f.content.same
	}
	return pad(f.content.of(s), f.size)
}

// pad is b with FF up to n bytes.
func pad(b []byte, n int) []byte {
	out := bytes.Repeat([]byte{0xFF}, n)
	copy(out, b)
	return out
}
