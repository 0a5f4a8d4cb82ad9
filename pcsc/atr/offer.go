package atr

import "slices"

// group is the interface bytes of group i, from 1; absent ones where there is no
// such group.
func (a ATR) group(i int) Group {
	if i > len(a.Groups) {
		return Group{}
	}
	return a.Groups[i-1]
}

// Protocols are the transmission protocols offered, 0 to 14, in the card's order:
// the first is the one without negotiation (ISO/IEC 7816-3 §8.2.3, §6.3.1).
func (a ATR) Protocols() []int {
	var offered []int
	for _, g := range a.Groups {
		if t := int(g.TD.Value & 0x0F); g.TD.Present && t != 15 && !slices.Contains(offered, t) {
			offered = append(offered, t)
		}
	}
	if len(offered) == 0 {
		return []int{0}
	}
	return offered
}

// Offers reports whether the card offers protocol T=t.
func (a ATR) Offers(t int) bool { return slices.Contains(a.Protocols(), t) }

// Specific is the mode that TA2 fixes (ISO/IEC 7816-3 §8.3).
type Specific struct {
	T          int  // the protocol in use
	Implicit   bool // the speed is not that of TA1 but known otherwise
	Changeable bool // a warm reset may bring the negotiable mode
}

// Specific is the specific mode; ok is false in negotiable mode.
func (a ATR) Specific() (s Specific, ok bool) {
	ta2 := a.group(2).TA
	return Specific{
		T:          int(ta2.Value & 0x0F),
		Implicit:   ta2.Value&0x10 != 0,
		Changeable: ta2.Value&0x80 == 0,
	}, ta2.Present
}

// First is the protocol in use where nothing is negotiated: TA2's, else the first
// offered.
func (a ATR) First() int {
	if s, ok := a.Specific(); ok {
		return s.T
	}
	return a.Protocols()[0]
}

// TA1 is the speed that the card takes at most; the default where it is absent.
func (a ATR) TA1() Speed { return Speed(a.group(1).TA.Or(byte(DefaultSpeed))) }

// ExtraGuardTime is N of TC1, in etu; 255 has a meaning of its own in each
// protocol (ISO/IEC 7816-3 §8.3).
func (a ATR) ExtraGuardTime() int { return int(a.group(1).TC.Or(0)) }

// WI is the waiting time integer of T=0: TC2, else 10 (ISO/IEC 7816-3 §10.2).
func (a ATR) WI() int {
	if wi := a.group(2).TC.Or(10); wi != 0 { // 00 is reserved
		return int(wi)
	}
	return 10
}

// specificTo is the first of the bytes that from gives among those for protocol
// t (or 15), groups 3 and up (ISO/IEC 7816-3 §8.2.3).
func (a ATR) specificTo(t int, from func(Group) Byte) Byte {
	for i := 3; i <= len(a.Groups); i++ {
		if g := a.group(i); g.T == t && from(g).Present {
			return from(g)
		}
	}
	return Byte{}
}

// T1 is what the card says about T=1 (ISO/IEC 7816-3 §11.4).
type T1 struct {
	IFSC int // bytes of an information field that the card takes: 1 to 254
	BWI  int // block waiting time integer: 0 to 9
	CWI  int // character waiting time integer: 0 to 15
	CRC  bool
}

// T1 gives the parameters of T=1, with the defaults for what is absent or
// reserved.
func (a ATR) T1() T1 {
	p := T1{IFSC: 32, BWI: 4, CWI: 13}
	if ifsc := a.specificTo(1, func(g Group) Byte { return g.TA }); ifsc.Present && ifsc.Value != 0 && ifsc.Value != 0xFF {
		p.IFSC = int(ifsc.Value)
	}
	if wi := a.specificTo(1, func(g Group) Byte { return g.TB }); wi.Present {
		p.CWI = int(wi.Value & 0x0F)
		if bwi := int(wi.Value >> 4); bwi <= 9 {
			p.BWI = bwi
		}
	}
	p.CRC = a.specificTo(1, func(g Group) Byte { return g.TC }).Value&1 != 0
	return p
}

// ClockStop says whether the card's clock may be stopped, and how (the first TA
// for T=15, ISO/IEC 7816-3 §8.3).
type ClockStop byte

// The values are those of bits 8 and 7 of the byte.
const (
	ClockStopNot ClockStop = iota
	ClockStopLow
	ClockStopHigh
	ClockStopEither
)

func (c ClockStop) String() string {
	return [...]string{"must not stop", "may stop low", "may stop high", "may stop low or high"}[c&3]
}

// Classes are the operating classes a card takes, a set.
type Classes byte

// Class A is 5 V, B 3 V, C 1.8 V (ISO/IEC 7816-3 §5.1.3).
const (
	ClassA Classes = 1 << iota
	ClassB
	ClassC
)

func (c Classes) String() string {
	s := ""
	for i, name := range "ABC" {
		if c>>i&1 != 0 {
			s += string(name)
		}
	}
	return s
}

// ClockStop is the clock stop indicator.
func (a ATR) ClockStop() ClockStop { return ClockStop(a.t15().Value >> 6) }

// Classes are the operating classes; class A alone where the card does not say.
func (a ATR) Classes() Classes {
	if c := Classes(a.t15().Value) & (ClassA | ClassB | ClassC); c != 0 {
		return c
	}
	return ClassA
}

// SaysClasses reports whether the card says its operating classes.
func (a ATR) SaysClasses() bool { return a.t15().Value&0x3F != 0 }

func (a ATR) t15() Byte { return a.specificTo(15, func(g Group) Byte { return g.TA }) }
