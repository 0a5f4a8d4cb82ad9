package ccidsim

import "slices"

// ATR describes an answer to reset (ISO/IEC 7816-3 §8). The zero value is that of
// a T=0 card at the default rate.
type ATR struct {
	Protocols []byte // offered, ascending; none: T=0
	TA1       byte   // Fi and Di; 0: absent, the default ones
	Guard     byte   // TC1, extra guard time
	WI        byte   // TC2, for T=0; 0: absent
	Specific  bool   // TA2: the card is in specific mode, with its first protocol and TA1
	IFSC      byte   // first TA for T=1; 0: absent, 32
	Waiting   byte   // first TB for T=1, BWI and CWI; 0: absent, 4D
	CRC       bool   // first TC for T=1: CRC in place of LRC
	Classes   byte   // TA for T=15: clock stop and classes; 0: absent

	Historical []byte // 15 at most
}

// group is a TDi and the interface bytes that follow it, nil for an absent one.
type group struct {
	t       byte
	a, b, c *byte
}

// y is the high nibble that announces what follows.
func y(a, b, c, d bool) (bits byte) {
	for i, present := range [...]bool{a, b, c, d} {
		if present {
			bits |= 0x10 << i
		}
	}
	return bits
}

// some is a pointer to b, nil for 0.
func some(b byte) *byte {
	if b == 0 {
		return nil
	}
	return &b
}

// Bytes is the answer to reset, with TCK where there is to be one (§8.2.5).
func (a ATR) Bytes() []byte {
	protocols := a.Protocols
	if len(protocols) == 0 {
		protocols = []byte{0}
	}
	// TA2 and TC2 have meanings of their own: what is for T=1 comes from the
	// third group on.
	groups := []group{{t: protocols[0], c: some(a.WI)}}
	if a.Specific {
		groups[0].a = &protocols[0]
	}
	one := group{t: 1, a: some(a.IFSC), b: some(a.Waiting)}
	if crc := byte(1); a.CRC {
		one.c = &crc
	}
	for _, t := range protocols[1:] {
		g := group{t: t}
		if t == 1 {
			g = one
		}
		groups = append(groups, g)
	}
	if protocols[0] == 1 && one != (group{t: 1}) {
		groups = append(groups, one)
	}
	if a.Classes != 0 {
		groups = append(groups, group{t: 15, a: &a.Classes})
	}
	historical := a.Historical[:min(len(a.Historical), 15)]
	if len(groups) == 1 && groups[0] == (group{}) {
		groups = nil
	}
	out := []byte{0x3B, y(a.TA1 != 0, false, a.Guard != 0, len(groups) > 0) | byte(len(historical))}
	out = appendPresent(out, some(a.TA1), nil, some(a.Guard))
	for i, g := range groups {
		out = append(out, y(g.a != nil, g.b != nil, g.c != nil, i+1 < len(groups))|g.t)
		out = appendPresent(out, g.a, g.b, g.c)
	}
	out = append(out, historical...)
	if slices.ContainsFunc(groups, func(g group) bool { return g.t != 0 }) {
		out = append(out, xor(out[1:]))
	}
	return out
}

func appendPresent(out []byte, bytes ...*byte) []byte {
	for _, b := range bytes {
		if b != nil {
			out = append(out, *b)
		}
	}
	return out
}

func xor(b []byte) (x byte) {
	for _, v := range b {
		x ^= v
	}
	return x
}

// WithATR is card with another answer to reset: a's, with the historical bytes
// of card's own where a has none.
func WithATR(card Card, a ATR) Card {
	if a.Historical == nil {
		a.Historical = parseATR(card.ATR()).historical
	}
	return RawATR(card, a.Bytes())
}

// RawATR is card with these bytes as its answer to reset, whatever they are.
func RawATR(card Card, b []byte) Card { return dressed{card, b} }

type dressed struct {
	Card
	atr []byte
}

func (d dressed) ATR() []byte { return d.atr }

// atr is what a card's answer to reset makes of the card.
type atr struct {
	protocols  []byte
	fd         byte // TA1
	guard      byte
	specific   bool
	ifsc       int
	waiting    byte
	crc        bool
	classes    byte // 1 for 5 V, 2 for 3 V, 4 for 1.8 V
	historical []byte
}

func (a atr) first() byte { return a.protocols[0] }

// parseATR reads b as far as it goes. Where it says nothing, or cannot be read,
// the defaults hold (§8.3): the card that sent it answers to something.
func parseATR(b []byte) (a atr) {
	a = atr{fd: defaultFD, ifsc: 32, waiting: 0x4D, classes: Volt5 | Volt3 | Volt1_8}
	defer func() {
		if len(a.protocols) == 0 {
			a.protocols = []byte{0}
		}
	}()
	if len(b) < 2 {
		return a
	}
	k := int(b[1] & 0x0F)
	announced, t, rest := b[1], byte(0), b[2:]
	var seen [16]bool
	for i := 1; ; i++ {
		var v [4]byte
		var has [4]bool
		for j := range v {
			if announced&(0x10<<j) == 0 {
				continue
			}
			if len(rest) == 0 {
				return a
			}
			v[j], has[j], rest = rest[0], true, rest[1:]
		}
		a.take(i, t, seen[t], v, has)
		if i > 2 {
			seen[t] = true
		}
		if !has[3] {
			break
		}
		announced, t = v[3], v[3]&0x0F
		if t != 15 && !slices.Contains(a.protocols, t) {
			a.protocols = append(a.protocols, t)
		}
	}
	a.historical = slices.Clone(rest[:min(k, len(rest))])
	return a
}

// take notes the i-th group's interface bytes, which are for protocol t; repeated
// says that it is not the first one of t's.
func (a *atr) take(i int, t byte, repeated bool, v [4]byte, has [4]bool) {
	switch {
	case i == 1:
		if has[0] {
			a.fd = v[0]
		}
		a.guard = v[2]
	case i == 2:
		if a.specific = has[0]; has[0] && v[0]&0x10 != 0 {
			a.fd = defaultFD // implicit values
		}
	case repeated:
	case t == 1:
		if has[0] && v[0] > 0 && v[0] < 0xFF {
			a.ifsc = int(v[0])
		}
		if has[1] {
			a.waiting = v[1]
		}
		a.crc = v[2]&1 != 0
	case t == 15 && has[0] && v[0]&7 != 0:
		a.classes = v[0] & 7
	}
}
