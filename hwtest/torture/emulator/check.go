package main

import (
	"bytes"
	"fmt"
	"maps"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/uicc"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
)

// The invariants.
const (
	oneEnabled = "at most one profile is enabled"
	authorised = "no profile changes without an authorised command or a legal ES10c call"
	counting   = "the event counter never goes back, and counts each change"
	wholly     = "a power cut leaves before or after"
	pinsCount  = "PIN counters never rise without the right value"
	answers    = "a card with power answers"
	coherent   = "all applications see one memory"
)

// violation is a broken invariant.
type violation struct {
	Invariant string `json:"invariant"`
	Step      int    `json:"step"` // from 0
	Detail    string `json:"detail"`
}

// intent is the command that the terminal has authorised and sends.
type intent struct {
	ins      byte
	suite    byte
	iccid    *id.ICCID
	operator id.MCCMNC
	counter  uint32
}

// changed is whether the profiles of two images are in different states, or not
// the same.
func changed(a, b *appletsim.Image) bool { return !maps.Equal(states(a), states(b)) }

func states(im *appletsim.Image) map[id.ICCID]appletsim.State {
	out := map[id.ICCID]appletsim.State{}
	for _, p := range im.Profiles {
		out[p.ICCID] = p.State
	}
	return out
}

func enabled(im *appletsim.Image) (on *appletsim.Profile, n int) {
	for i := range im.Profiles {
		if im.Profiles[i].State == appletsim.Enabled {
			on, n = &im.Profiles[i], n+1
		}
	}
	return on, n
}

func find(im *appletsim.Image, iccid id.ICCID) *appletsim.Profile {
	for i := range im.Profiles {
		if im.Profiles[i].ICCID == iccid {
			return &im.Profiles[i]
		}
	}
	return nil
}

// allows is docs/protocol.md §8, read once more: the states after the command,
// nil where it must change nothing.
func (in *intent) allows(before *appletsim.Image) map[id.ICCID]appletsim.State {
	on, _ := enabled(before)
	target := on
	if in.iccid != nil {
		target = find(before, *in.iccid)
	}
	if target == nil || in.counter != before.EventCounter || target.Owner != in.operator || before.Policy.RequireTriple && in.suite != 3 {
		return nil
	}
	var fallback *appletsim.Profile
	for i := range before.Profiles {
		if before.Profiles[i].Fallback {
			fallback = &before.Profiles[i]
		}
	}
	after := states(before)
	switch in.ins {
	case card.INSDeactivate:
		if target != on || target.PPR1 || target.Fallback {
			return nil
		}
		after[target.ICCID] = appletsim.Disabled
		if fallback != nil {
			after[fallback.ICCID] = appletsim.Enabled
		}
	case card.INSActivate:
		if target == on || on != nil && on != fallback {
			return nil
		}
		if on != nil {
			after[on.ICCID] = appletsim.Disabled
		}
		after[target.ICCID] = appletsim.Enabled
	}
	return after
}

// es10 follows what could be ES10c calls on each logical channel. It is lenient:
// it takes an ISD-R that was once selected as selected until the card restarts.
type es10 struct {
	selected [20]bool
	blocks   [20][]byte
}

func (e *es10) restart() { *e = es10{} }

// follow takes a command as the card got it, and gives the function that it
// completes, nil for none.
func (e *es10) follow(capdu []byte) []byte {
	cmd, err := apdu.ParseCommand(capdu)
	if err != nil {
		return nil
	}
	channel := int(cmd.CLA & 0x03)
	if cmd.CLA&0x40 != 0 {
		channel = int(cmd.CLA&0x0F) + 4
	}
	switch {
	case cmd.INS == 0xA4 && cmd.P1 == 0x04 && bytes.HasPrefix([]byte("\xA0\x00\x00\x05\x59\x10\x10\xFF\xFF\xFF\xFF\x89\x00\x00\x01\x00"), cmd.Data):
		e.selected[channel] = true
	case cmd.INS == 0xE2 && e.selected[channel]:
		if cmd.P2 == 0 {
			e.blocks[channel] = nil
		}
		e.blocks[channel] = append(e.blocks[channel], cmd.Data...)
		if cmd.P1 == 0x91 {
			return e.blocks[channel]
		}
	}
	return nil
}

// allows is SGP.22 §5.7.16 to §5.7.19, read once more: the states after the
// function, nil where it must change nothing.
func es10Allows(before *appletsim.Image, request []byte) map[id.ICCID]appletsim.State {
	o, rest, err := tlv.Read(request)
	if err != nil || len(rest) > 0 {
		return nil
	}
	after := states(before)
	on, _ := enabled(before)
	var target *appletsim.Profile
	name := o.Value
	if o.Tag == 0xBF31 || o.Tag == 0xBF32 {
		name, _, _ = tlv.Expect(o.Value, 0xA0)
	}
	if v, _, err := tlv.Expect(name, 0x5A); err == nil && len(v) <= 10 {
		iccid := id.ICCID{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
		copy(iccid[:], v)
		target = find(before, iccid)
	}
	switch o.Tag {
	case 0xBF31:
		if target == nil || target == on || on != nil && on.PPR1 {
			return nil
		}
		if on != nil {
			after[on.ICCID] = appletsim.Disabled
		}
		after[target.ICCID] = appletsim.Enabled
	case 0xBF32:
		if target == nil || target != on || on.PPR1 {
			return nil
		}
		after[on.ICCID] = appletsim.Disabled
	case 0xBF33:
		if target == nil || target == on || target.PPR2 {
			return nil
		}
		delete(after, target.ICCID)
	case 0xBF34:
		v, _, err := tlv.Expect(o.Value, 0x82)
		if err != nil || len(v) < 2 {
			return nil
		}
		for _, p := range before.Profiles {
			if v[1]&0x80 != 0 && p.Class == appletsim.Operational || v[1]&0x40 != 0 && p.Class == appletsim.Test {
				delete(after, p.ICCID)
			}
		}
	default:
		return nil
	}
	return after
}

// check holds what a command made of the memory against the invariants.
func (p *play) check(got []byte, before, after *appletsim.Image) {
	if _, n := enabled(after); n > 1 {
		p.violate(oneEnabled, "%d are", n)
	}
	moves := changed(before, after)
	function := p.es10.follow(got)
	if moves {
		byTerminal := p.intent != nil && maps.Equal(p.intent.allows(before), states(after))
		if byTerminal {
			p.intent, p.owed = nil, nil // once
		}
		ok := byTerminal ||
			function != nil && maps.Equal(es10Allows(before, function), states(after))
		if !ok {
			p.violate(authorised, "%X: %v, then %v", got, states(before), states(after))
		}
	}
	want := before.EventCounter
	if moves {
		want++
	}
	if after.EventCounter != want {
		p.violate(counting, "%d, then %d; a change: %t", before.EventCounter, after.EventCounter, moves)
	}
	p.checkPINs(got, before, after)
	if len(p.cuts) > 0 {
		p.checkCut(p.checkMemory(after))
	}
}

// checkMemory checks that the card has the image that its memory holds.
func (p *play) checkMemory(im *appletsim.Image) []byte {
	b, err := im.Marshal()
	if err != nil || !bytes.Equal(b, p.memory.holds) {
		p.violate(wholly, "after %v the card has another image than its memory: %v", p.cuts, err)
	}
	return b
}

// checkCut checks that after a cut the memory holds what it held before some
// write of the command, or after it.
func (p *play) checkCut(now []byte) {
	ok := bytes.Equal(now, p.held)
	for _, w := range p.memory.written {
		ok = ok || bytes.Equal(now, w)
	}
	if !ok {
		p.violate(wholly, "after %v the memory is neither as before nor as after a write", p.cuts)
	}
}

// pinRefs are the PINs by their key references.
var pinRefs = map[uicc.PINName]byte{uicc.PIN1: 0x01, uicc.PIN2: 0x81, uicc.UPIN: 0x11, uicc.ADM1: 0x0A}

func pinOf(im *appletsim.Image, iccid id.ICCID, name uicc.PINName) uicc.PIN {
	if im.Runtime != nil {
		for _, u := range im.Runtime.USIMs {
			if p, ok := u.PINs[name]; ok && u.ICCID == iccid {
				return p
			}
		}
	}
	return uicc.DefaultPINs[name]
}

// checkPINs checks that what a PIN has counted becomes less by its right value
// alone.
func (p *play) checkPINs(got []byte, before, after *appletsim.Image) {
	presented := func(ins ...byte) []byte {
		cmd, err := apdu.ParseCommand(got)
		if err != nil || len(cmd.Data) < 8 || !bytes.Contains(ins, []byte{cmd.INS}) {
			return nil
		}
		return append([]byte{cmd.P2}, bytes.TrimRight(cmd.Data[:8], "\xFF")...)
	}
	for _, q := range before.Profiles {
		if find(after, q.ICCID) == nil {
			continue
		}
		for name, ref := range pinRefs {
			was, is := pinOf(before, q.ICCID, name), pinOf(after, q.ICCID, name)
			if was.PUK == "" {
				was.PUK = uicc.DefaultPINs[name].PUK
			}
			byPIN := bytes.Equal(presented(0x20, 0x24, 0x26, 0x28), append([]byte{ref}, was.Value...))
			byPUK := bytes.Equal(presented(0x2C), append([]byte{ref}, was.PUK...))
			if is.Failed < was.Failed && !byPIN && !byPUK || is.PUKFailed < was.PUKFailed && !byPUK {
				p.violate(pinsCount, "%s failed %d and %d times, then %d and %d, by %X", name, was.Failed, was.PUKFailed, is.Failed, is.PUKFailed, got)
			}
			if (is.Value != was.Value || is.Disabled != was.Disabled) && !byPIN && !byPUK {
				p.violate(pinsCount, "%s was changed by %X", name, got)
			}
		}
	}
}

// checkViews asks the card, once nothing is wrong with it any more, for what its
// memory holds.
func (p *play) checkViews() {
	p.card.ClearFault(0)
	p.card.Insert()
	p.card.Power(false)
	p.card.Power(true)
	im := p.now()
	on, _ := enabled(im)
	for name, ref := range pinRefs {
		want := apdu.SWReferenceNotFound
		if on != nil {
			tries := 3
			if name == uicc.ADM1 {
				tries = 10
			}
			want = 0x63C0 | apdu.StatusWord(tries-pinOf(im, on.ICCID, name).Failed)
		}
		if got := p.ask(0x00, 0x20, 0x00, ref); got != string(want.Append(nil)) {
			p.violate(coherent, "VERIFY %02X answers %X, the memory says %s", ref, got, want.Hex())
		}
	}
	p.ask(append([]byte{0x00, 0xA4, 0x04, 0x00, 11}, card.AID...)...)
	info := p.ask(0x80, 0xCA, 0x00, 0xE1, 0x00)
	c := im.EventCounter
	if want := []byte{0xE1, 11, 0x80, 4, byte(c >> 24), byte(c >> 16), byte(c >> 8), byte(c)}; !bytes.HasPrefix([]byte(info), want) {
		p.violate(coherent, "the card info is %X, the counter %d", info, c)
	}
	p.ask(append([]byte{0x00, 0xA4, 0x04, 0x00, 16}, "\xA0\x00\x00\x05\x59\x10\x10\xFF\xFF\xFF\xFF\x89\x00\x00\x01\x00"...)...)
	list := p.ask(0x80, 0xE2, 0x91, 0x00, 0x08, 0xBF, 0x2D, 0x05, 0x5C, 0x03, 0x5A, 0x9F, 0x70, 0x00)
	var want []byte
	for _, q := range im.Profiles {
		one := tlv.Append(tlv.Append(nil, 0x5A, q.ICCID[:]...), 0x9F70, stateByte(q.State == appletsim.Enabled))
		want = tlv.Append(want, 0xE3, one...)
	}
	want = append(tlv.Append(nil, 0xBF2D, tlv.Append(nil, 0xA0, want...)...), 0x90, 0x00)
	if list != string(want) {
		p.violate(coherent, "GetProfilesInfo answers %X, the memory has %X", list, want)
	}
	p.checkMemory(im)
}

func stateByte(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// ask sends a command and gives the response, with what GET RESPONSE adds.
func (p *play) ask(capdu ...byte) string {
	r := p.card.Process(capdu)
	for len(r) >= 2 && r[len(r)-2] == 0x61 {
		more := p.card.Process([]byte{capdu[0] & 0x03, 0xC0, 0, 0, r[len(r)-1]})
		r = append(r[:len(r)-2:len(r)-2], more...)
	}
	return string(r)
}

func (p *play) violate(invariant, format string, args ...any) {
	p.violations = append(p.violations, violation{invariant, p.at, fmt.Sprintf(format, args...)})
}
