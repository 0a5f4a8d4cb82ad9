package uicc

import (
	"bytes"
	"maps"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// content is what an EF holds now. It is not to be changed.
func (u *UICC) content(f *file) []byte {
	if f.link != nil {
		f = f.link
	}
	if u.sub != nil {
		if b, ok := u.sub.Files[f.path]; ok {
			return b
		}
	}
	return f.initial(u.sub)
}

// write makes content what an EF holds; where it holds that already there is
// nothing to write.
func (u *UICC) write(f *file, content []byte) apdu.StatusWord {
	if bytes.Equal(content, u.content(f)) {
		return apdu.SWSuccess
	}
	if f.link != nil {
		f = f.link
	}
	d := u.sub.Data
	d.Files = maps.Clone(d.Files)
	if d.Files == nil {
		d.Files = map[string]Hex{}
	}
	d.Files[f.path] = content
	return u.store(d)
}

// allowed reports whether the access rule of an EF lets a command through: the
// record of EF.ARR that its FCP refers to says for some access mode, or for the
// instruction, what is asked for (TS 102 221 §9.2.4, ISO/IEC 7816-4 §9.3.3).
func (u *UICC) allowed(f *file, mode, ins byte) bool {
	rules := u.content(f.arr)
	from := (int(f.rule) - 1) * f.arr.record
	if from < 0 || from+f.arr.record > len(rules) {
		return false
	}
	rule, applies := rules[from:from+f.arr.record], false
	for len(rule) > 0 && rule[0] != 0xFF {
		o, rest, err := tlv.Read(rule)
		if err != nil {
			return false
		}
		rule = rest
		switch {
		case o.Tag == amBits:
			applies = len(o.Value) == 1 && o.Value[0]&mode != 0
		case o.Tag == amINS:
			applies = bytes.IndexByte(o.Value, ins) >= 0
		case o.Tag > amBits && o.Tag <= amLast: // a command by more than its INS
			applies = false
		case applies && u.condition(o, 0):
			return true
		}
	}
	return false
}

// Tags of access rules.
const (
	amBits  tlv.Tag = 0x80
	amINS   tlv.Tag = 0x84
	amLast  tlv.Tag = 0x8F
	scAllow tlv.Tag = 0x90
	scOR    tlv.Tag = 0xA0
	scPIN   tlv.Tag = 0xA4
	scAND   tlv.Tag = 0xAF

	maxNesting = 4
)

// condition evaluates a security condition; one that is not known is never
// satisfied.
func (u *UICC) condition(o tlv.Object, depth int) bool {
	switch o.Tag {
	case scAllow:
		return len(o.Value) == 0
	case scPIN:
		ref, _, err := tlv.Expect(o.Value, 0x83)
		return err == nil && len(ref) == 1 && u.satisfied(ref[0])
	case scOR, scAND:
		if depth == maxNesting || len(o.Value) == 0 {
			return false
		}
		for b := o.Value; len(b) > 0; {
			inner, rest, err := tlv.Read(b)
			if err != nil {
				return false
			}
			if ok := u.condition(inner, depth+1); ok != (o.Tag == scAND) {
				return ok
			}
			b = rest
		}
		return o.Tag == scAND
	}
	return false
}

// current is the EF that a command is for: by a short file identifier, which
// selects it, or the selected one. It must be of one of the structures, and its
// rule allow the command.
func (u *UICC) current(p *position, sfi byte, mode, ins byte, structures ...byte) (*file, apdu.StatusWord) {
	if sfi != 0 {
		f := p.directory().bySFI(sfi)
		if !u.there(f) {
			return nil, apdu.SWFileNotFound
		}
		u.enter(p, f)
	}
	switch {
	case p.ef == nil:
		return nil, swNoEF
	case bytes.IndexByte(structures, p.ef.descriptor) < 0:
		return nil, swFileStructure
	case !u.allowed(p.ef, mode, ins):
		return nil, apdu.SWSecurityStatusNotSatisfied
	}
	return p.ef, apdu.SWSuccess
}

// binaryEF is the EF and the offset of a READ or UPDATE BINARY.
func (u *UICC) binaryEF(p *position, cmd apdu.Command, mode byte) (f *file, offset int, sw apdu.StatusWord) {
	sfi := byte(0)
	offset = int(cmd.P1)<<8 | int(cmd.P2)
	if cmd.P1&0x80 != 0 {
		if sfi, offset = cmd.P1&0x1F, int(cmd.P2); sfi == 0 || cmd.P1&0x60 != 0 {
			return nil, 0, apdu.SWIncorrectP1P2
		}
	}
	if f, sw = u.current(p, sfi, mode, cmd.INS, transparent); sw == apdu.SWSuccess && offset >= f.size {
		sw = swWrongOffset
	}
	return f, offset, sw
}

// readBinary is READ BINARY (TS 102 221 §11.1.3).
func (u *UICC) readBinary(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if len(cmd.Data) > 0 {
		return nil, apdu.SWWrongLength
	}
	f, offset, sw := u.binaryEF(p, cmd, modeRead)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	b := u.content(f)[offset:]
	if cmd.Ne > 0 && cmd.Ne < len(b) {
		b = b[:cmd.Ne]
	}
	return exactly(b, cmd.Ne)
}

// updateBinary is UPDATE BINARY (§11.1.4).
func (u *UICC) updateBinary(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	f, offset, sw := u.binaryEF(p, cmd, modeUpdate)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case len(cmd.Data) == 0 || len(cmd.Data) > f.size-offset:
		return nil, apdu.SWWrongLength
	}
	next := bytes.Clone(u.content(f))
	copy(next[offset:], cmd.Data)
	return nil, u.write(f, next)
}

// Modes of the record commands (P2, bits 3 to 1).
const (
	modeNext     = 2
	modePrevious = 3
	modeAbsolute = 4 // or current
)

// step is the number of the record that READ or UPDATE RECORD is for, the
// next and the previous being current then.
func (p *position) step(f *file, number, mode byte) (int, apdu.StatusWord) {
	n, wraps := f.records(), f.descriptor == cyclic
	to := int(number)
	switch mode {
	case modeAbsolute:
		if to == 0 {
			to = p.record
		}
		if to == 0 || to > n {
			return 0, swRecordNotFound
		}
		return to, apdu.SWSuccess
	case modeNext:
		to = p.record + 1
		if to > n && wraps {
			to = 1
		}
	case modePrevious:
		to = p.record - 1
		if p.record == 0 || to == 0 && wraps {
			to = n
		}
	default:
		return 0, apdu.SWIncorrectP1P2
	}
	if to < 1 || to > n {
		return 0, swRecordNotFound
	}
	p.record = to
	return to, apdu.SWSuccess
}

// of is a record's part of content.
func (f *file) of(content []byte, record int) []byte {
	return content[(record-1)*f.record : record*f.record]
}

// recordSFI is the short file identifier of a record command, 0 for none, and
// its mode.
func recordSFI(p2 byte) (sfi, mode byte) { return p2 >> 3, p2 & 0x07 }

// readRecord is READ RECORD (§11.1.5).
func (u *UICC) readRecord(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if len(cmd.Data) > 0 {
		return nil, apdu.SWWrongLength
	}
	sfi, mode := recordSFI(cmd.P2)
	f, sw := u.current(p, sfi, modeRead, cmd.INS, linear, cyclic)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	was := p.record
	n, sw := p.step(f, cmd.P1, mode)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	data, sw := exactly(f.of(u.content(f), n), cmd.Ne)
	if sw != apdu.SWSuccess {
		p.record = was // it is sent again
	}
	return data, sw
}

// updateRecord is UPDATE RECORD (§11.1.6). In a cyclic EF the previous one
// alone, which is the oldest and then the first.
func (u *UICC) updateRecord(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	sfi, mode := recordSFI(cmd.P2)
	f, sw := u.current(p, sfi, modeUpdate, cmd.INS, linear, cyclic)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case len(cmd.Data) != f.record:
		return nil, apdu.SWWrongLength
	case f.descriptor == cyclic:
		if mode != modePrevious {
			return nil, swFileStructure
		}
		return nil, u.push(p, f, cmd.Data)
	}
	was := p.record
	n, sw := p.step(f, cmd.P1, mode)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	next := bytes.Clone(u.content(f))
	copy(f.of(next, n), cmd.Data)
	if sw = u.write(f, next); sw != apdu.SWSuccess {
		p.record = was
	}
	return nil, sw
}

// push writes the newest record of a cyclic EF.
func (u *UICC) push(p *position, f *file, record []byte) apdu.StatusWord {
	content := u.content(f)
	next := append(bytes.Clone(record), content[:len(content)-f.record]...)
	sw := u.write(f, next)
	if sw == apdu.SWSuccess {
		p.record = 1
	}
	return sw
}

// increase is INCREASE (§11.1.8): the newest record plus a value, both numbers.
func (u *UICC) increase(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	sfi := byte(0)
	if cmd.P1 != 0 {
		if sfi = cmd.P1 & 0x1F; sfi == 0 || cmd.P1&0xE0 != 0x80 {
			return nil, apdu.SWIncorrectP1P2
		}
	}
	if cmd.P2 != 0 {
		return nil, apdu.SWIncorrectP1P2
	}
	f, sw := u.current(p, sfi, 0, cmd.INS, cyclic)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case len(cmd.Data) == 0 || len(cmd.Data) > f.record:
		return nil, apdu.SWWrongLength
	}
	sum := bytes.Clone(f.of(u.content(f), 1))
	carry := 0
	for i := range sum {
		at := len(sum) - 1 - i
		carry += int(sum[at])
		if i < len(cmd.Data) {
			carry += int(cmd.Data[len(cmd.Data)-1-i])
		}
		sum[at] = byte(carry)
		carry >>= 8
	}
	if carry != 0 {
		return nil, swMaximum
	}
	if sw = u.push(p, f, sum); sw != apdu.SWSuccess {
		return nil, sw
	}
	return append(sum, cmd.Data...), apdu.SWSuccess
}

// searchRecord is SEARCH RECORD (§11.1.7), simple and enhanced. It gives the
// numbers of the records that have the string; the first is current then.
func (u *UICC) searchRecord(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	const (
		forward  = 4
		backward = 5
		enhanced = 6
	)
	sfi, mode := recordSFI(cmd.P2)
	switch mode {
	case forward, backward, enhanced:
	case 7: // of a card's maker
		return nil, swNotSupported
	default:
		return nil, apdu.SWIncorrectP1P2
	}
	f, sw := u.current(p, sfi, modeRead, cmd.INS, linear, cyclic)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	q := query{from: int(cmd.P1), back: mode == backward, text: cmd.Data}
	if q.from == 0 {
		q.from = p.record
	}
	if mode == enhanced && !q.refine(p, f) {
		return nil, apdu.SWIncorrectData
	}
	switch {
	case len(q.text) == 0 || len(q.text) > f.record:
		return nil, apdu.SWWrongLength
	case q.from > f.records():
		return nil, swRecordNotFound
	}
	found := q.run(f, u.content(f))
	if len(found) == 0 {
		return nil, swNotFound
	}
	p.record = int(found[0])
	return found, apdu.SWSuccess
}

// query is a search in the records of an EF.
type query struct {
	from   int // the first record looked at; 0: an end of the EF
	back   bool
	text   []byte
	offset int
	after  int // >= 0: begin behind this byte value, wherever it is first
	byByte bool
}

// refine reads the two bytes that an enhanced search begins with.
func (q *query) refine(p *position, f *file) bool {
	if len(q.text) < 2 {
		return false
	}
	how, value := q.text[0], q.text[1]
	q.text = q.text[2:]
	if how&0xF0 != 0 {
		return false
	}
	if q.byByte = how&0x08 != 0; q.byByte {
		q.after = int(value)
	} else {
		q.offset = int(value)
	}
	switch how & 0x07 {
	case 0x04:
	case 0x05:
		q.back = true
	case 0x06:
		q.from = p.record + 1
	case 0x07:
		if q.back, q.from = true, p.record-1; p.record == 0 {
			q.from = f.records()
		}
	default:
		return false
	}
	return true
}

func (q *query) run(f *file, content []byte) (found []byte) {
	n, step := q.from, 1
	if q.back {
		step = -1
	}
	if n == 0 && q.back {
		n = f.records()
	} else if n == 0 {
		n = 1
	}
	for ; n >= 1 && n <= f.records(); n += step {
		if q.matches(f.of(content, n)) {
			found = append(found, byte(n))
		}
	}
	return found
}

func (q *query) matches(record []byte) bool {
	from := q.offset
	if q.byByte {
		if from = bytes.IndexByte(record, byte(q.after)) + 1; from == 0 {
			return false
		}
	}
	return from < len(record) && bytes.Contains(record[from:], q.text)
}
