package trace

import "slices"

// allowed is bytes of an APDU that may differ, and the rule that says so.
type allowed struct {
	Span
	rule string
}

// freedom is what may differ in one APDU.
type freedom struct {
	spans []allowed // ascending by where they begin
	any   string    // the rule that lets all data differ, whatever its length; "" for none
	sw    string    // the rule that lets the status word differ; "" for none
}

// masker finds what may differ, APDU by APDU of one side. What a command began
// goes on in the parts of its chain and in GET RESPONSE, by logical channel.
type masker struct {
	rules *Rules
	flows [maxChannels]flow
	on    *flow // of the command last seen
}

// maxChannels is what CLA can number (ISO/IEC 7816-4 §5.4.1).
const maxChannels = 20

// flow is one command on a channel, in however many APDUs.
type flow struct {
	rule              *rule // nil for none
	header            [4]byte
	chained           bool // more parts come
	command, response walk
}

const (
	insGetResponse = 0xC0
	chainingBit    = 0x10
)

// command is what may differ in a command APDU.
func (m *masker) command(capdu []byte) (f freedom) {
	m.on = nil
	if len(capdu) < 4 {
		return f
	}
	header := [4]byte(capdu[:4])
	m.on = &m.flows[logicalChannel(header[0])]
	if header[1] == insGetResponse {
		return f
	}
	chained := header[0]&chainingBit != 0
	header[0] &^= chainingBit
	if !m.on.chained || m.on.header != header {
		*m.on = flow{header: header, rule: m.rules.find(header)}
	}
	m.on.chained = chained
	m.on.response = walk{}
	if m.on.rule == nil || m.on.rule.command.empty() {
		return f
	}
	data := dataOf(capdu)
	f.spans = m.on.command.spans(&m.on.rule.command, m.on.rule.name, capdu[data.From:data.To], data.From)
	if m.on.rule.command.any {
		f.any = m.on.rule.name
	}
	return f
}

// response is what may differ in the response to the command last seen.
func (m *masker) response(rapdu []byte) (f freedom) {
	if m.on == nil || m.on.rule == nil || len(rapdu) < 2 {
		return f
	}
	r := m.on.rule
	if r.sw {
		f.sw = r.name
	}
	if r.response.empty() {
		return f
	}
	f.spans = m.on.response.spans(&r.response, r.name, rapdu[:len(rapdu)-2], 0)
	if r.response.any {
		f.any = r.name
	}
	return f
}

// reset forgets what was under way, as a card does.
func (m *masker) reset() {
	m.flows = [maxChannels]flow{}
	m.on = nil
}

func (r *Rules) find(header [4]byte) *rule {
	for i := range r.rules {
		for j := range r.rules[i].match {
			if r.rules[i].match[j].matches(header) {
				return &r.rules[i]
			}
		}
	}
	return nil
}

// walk goes through data that comes in parts, and finds what a part names.
type walk struct {
	pos int // bytes behind
	tlv tlvWalk
}

// spans are the bytes of data that may differ; at is where data begins in its
// APDU.
func (w *walk) spans(p *part, name string, data []byte, at int) (out []allowed) {
	add := func(from, to int) {
		if from < to {
			out = append(out, allowed{Span{at + from, at + to}, name})
		}
	}
	if p.any {
		add(0, len(data))
	}
	for _, r := range p.ranges {
		add(max(r.From-w.pos, 0), min(r.To-w.pos, len(data)))
	}
	if len(p.paths) > 0 {
		w.tlv.walk(p.paths, data, add)
	}
	w.pos += len(data)
	slices.SortFunc(out, func(a, b allowed) int { return a.From - b.From })
	return out
}

// tlvWalk reads BER-TLV that comes in parts. It gives up where data is none.
type tlvWalk struct {
	open   [maxPath]object // constructed objects that it is within
	depth  int
	state  int
	tag    uint32
	length int // so far
	more   int // bytes of the length field to come
	value  int // bytes of the value to come
	found  bool
}

// object is an open constructed data object; left counts its bytes to come.
type object struct {
	tag  uint32
	left int
}

const (
	atTag = iota
	inTag
	atLength
	inLength
	inValue
	lost // not BER-TLV, or deeper than any path
)

// walk calls found with the bytes of data that are values of what paths name.
func (w *tlvWalk) walk(paths [][]uint32, data []byte, found func(from, to int)) {
	for i := 0; i < len(data) && w.state != lost; {
		if w.state == inValue {
			n := min(w.value, len(data)-i)
			if w.found {
				found(i, i+n)
			}
			w.value -= n
			w.take(n)
			i += n
			if w.value == 0 {
				w.close()
			}
			continue
		}
		w.header(paths, data[i])
		w.take(1)
		i++
		if w.state == inValue && w.value == 0 {
			w.close()
		}
		if w.state == atTag {
			w.close()
		}
	}
}

// take counts n bytes off every object that is open. One that has no room for
// them is no object.
func (w *tlvWalk) take(n int) {
	for i := range w.depth {
		if w.open[i].left -= n; w.open[i].left < 0 {
			w.state = lost
		}
	}
}

// close leaves the objects that are complete.
func (w *tlvWalk) close() {
	if w.state == lost {
		return
	}
	w.state = atTag
	for w.depth > 0 && w.open[w.depth-1].left == 0 {
		w.depth--
	}
}

// header takes one byte of a tag or a length.
func (w *tlvWalk) header(paths [][]uint32, b byte) {
	switch w.state {
	case atTag:
		w.tag = uint32(b)
		w.state = atLength
		if b&0x1F == 0x1F {
			w.state = inTag
		}
	case inTag:
		if w.tag > 0xFFFF {
			w.state = lost
			return
		}
		w.tag = w.tag<<8 | uint32(b)
		if b&0x80 == 0 {
			w.state = atLength
		}
	case atLength:
		w.length, w.more = int(b), 0
		if b < 0x80 {
			w.begin(paths)
			return
		}
		if w.length, w.more = 0, int(b&0x7F); w.more == 0 || w.more > 3 {
			w.state = lost
			return
		}
		w.state = inLength
	case inLength:
		w.length = w.length<<8 | int(b)
		if w.more--; w.more == 0 {
			w.begin(paths)
		}
	}
}

// begin enters the value of the object whose header is read. What leads on to a
// path is gone into; everything else is passed by.
func (w *tlvWalk) begin(paths [][]uint32) {
	w.state, w.value, w.found = inValue, w.length, false
	leads := false
	for _, p := range paths {
		if len(p) <= w.depth || p[w.depth] != w.tag || !w.within(p) {
			continue
		}
		if len(p) == w.depth+1 {
			w.found = true
			return
		}
		leads = true
	}
	if leads && constructed(w.tag) && w.length > 0 {
		// The byte that is being read is counted off afterwards.
		w.open[w.depth] = object{w.tag, w.length + 1}
		w.depth++
		w.state = atTag
	}
}

// within reports whether the open objects are those that lead to p.
func (w *tlvWalk) within(p []uint32) bool {
	for i := range w.depth {
		if w.open[i].tag != p[i] {
			return false
		}
	}
	return true
}

func constructed(tag uint32) bool {
	for tag > 0xFF {
		tag >>= 8
	}
	return tag&0x20 != 0
}
