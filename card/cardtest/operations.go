package cardtest

import (
	"bytes"
	"slices"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// otherICCID, otherOperator, otherCounter change one thing of a command.
func otherICCID(cmd card.Command, iccid id.ICCID) card.Command {
	cmd.ICCID = &iccid
	return cmd
}

func otherOperator(cmd card.Command, m id.MCCMNC) card.Command {
	cmd.Operator = m
	return cmd
}

func otherCounter(cmd card.Command, by int32) card.Command {
	cmd.Counter += uint32(by)
	return cmd
}

func noICCID(cmd card.Command) card.Command {
	cmd.ICCID = nil
	return cmd
}

// §8, one command in one session.
var operations = []test{
	{section: "§8", name: "DEACTIVATE and ACTIVATE are done", on: standard, run: func(b *bench) {
		home, spare := b.enabled(), b.spare()
		b.link().done(b.deactivate(home))
		b.link().done(b.activate(spare))
		b.link().done(b.deactivate(spare))
		cmd := b.activate(home)
		cmd.Reason = 0xFF
		b.link().done(cmd, "the reason is not interpreted")
	}},
	{section: "§8", name: "DEACTIVATE without 80 takes the enabled profile", on: standard, run: func(b *bench) {
		home := b.enabled()
		b.link().done(noICCID(b.deactivate(home)))
		b.link().refused(0x01, noICCID(b.deactivate(home)), "none is enabled")
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "on a supplementary channel, for another server", on: standard, needs: otherSet, run: func(b *bench) {
		home := b.enabled()
		l := b.link().over(b.channel()).in(cryptogram.Suite01).by(*b.card.Other)
		l.done(b.deactivate(home))
		l.done(b.activate(home))
	}},
	{section: "§8", name: "the session carries the command of its HC alone", on: standard, run: func(b *bench) {
		home := b.enabled()
		cmd := b.deactivate(home)
		reason := cmd
		reason.Reason = 1
		for name, c := range map[string]struct {
			ins  byte
			data []byte
		}{
			"another request":      {insDeactivate, b.deactivate(home).Data()},
			"another reason":       {insDeactivate, reason.Data()},
			"another profile":      {insDeactivate, otherICCID(cmd, b.spare().ICCID).Data()},
			"no profile":           {insDeactivate, noICCID(cmd).Data()},
			"another INS":          {insActivate, cmd.Data()},
			"a byte more":          {insDeactivate, append(cmd.Data(), 0)},
			"a byte less":          {insDeactivate, cmd.Data()[:len(cmd.Data())-1]},
			"no data":              {insDeactivate, nil},
			"rubbish, of no form":  {insDeactivate, random(20)},
			"another INS, no data": {insActivate, nil},
		} {
			s := b.link().session(hashOf(cmd))
			s.inner(apdu.SWSecurityStatusNotSatisfied, c.ins, c.data, name)
			s.inner(apdu.SWSecurityStatusNotSatisfied, cmd.INS, cmd.Data(), "%s spends the session's one", name)
			s.unchanged(name)
		}
	}},
	{section: "§8", name: "the session carries one command", on: standard, run: func(b *bench) {
		home := b.enabled()
		cmd := b.deactivate(home)
		s := b.link().session(hashOf(cmd))
		b.change(cmd, s.operate(cmd), s.suite)
		s.inner(apdu.SWSecurityStatusNotSatisfied, cmd.INS, cmd.Data(), "after one done")
		s.unchanged()
		cmd = b.deactivate(b.spare())
		s = b.link().session(hashOf(cmd))
		s.operate(cmd)
		s.inner(apdu.SWSecurityStatusNotSatisfied, cmd.INS, cmd.Data(), "after one refused")
		s.unchanged()
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "command data of another form: 6A80", on: standard, run: func(b *bench) {
		for name, c := range malformed(b) {
			s := b.link().session(cryptogram.HashCommand(c.ins, c.data))
			s.inner(apdu.SWIncorrectData, c.ins, c.data, name)
			s.inner(apdu.SWSecurityStatusNotSatisfied, c.ins, c.data, "%s spends the session's one", name)
			s.unchanged(name)
		}
	}},
	{section: "§8", name: "01 no such profile", on: standard, run: func(b *bench) {
		b.link().refused(0x01, otherICCID(b.deactivate(b.enabled()), b.strange()))
		b.link().refused(0x01, otherICCID(b.activate(b.spare()), b.strange()))
	}},
	{section: "§8", name: "02 not in the state that this leaves", on: standard, run: func(b *bench) {
		b.link().refused(0x02, b.deactivate(b.spare()), "DEACTIVATE of a disabled one")
		b.link().refused(0x02, b.activate(b.enabled()), "ACTIVATE of the enabled one")
		b.link().refused(0x02, b.activate(b.spare()), "ACTIVATE beside another")
	}},
	{section: "§8", name: "03 a policy rule forbids it", on: lockedIn, run: func(b *bench) {
		b.link().refused(0x03, b.deactivate(b.enabled()))
		b.link().refused(0x03, noICCID(b.deactivate(b.enabled())), "without 80")
	}},
	{section: "§8", name: "PPR1 does not forbid ACTIVATE", on: standard, needs: lasting, run: func(b *bench) {
		b.link().done(b.deactivate(b.enabled()))
		p := b.find("not to be disabled", func(p card.Profile) bool { return p.PPR1 })
		b.link().done(b.activate(p))
		b.link().refused(0x03, b.deactivate(p))
	}},
	{section: "§8", name: "PPR2 does not forbid DEACTIVATE", on: standard, run: func(b *bench) {
		i := slices.IndexFunc(b.rec.Profiles, func(p card.Profile) bool { return p.PPR2 && !p.PPR1 && !p.Fallback && p.State == card.Disabled })
		if i < 0 {
			b.omit("the card has no such profile with PPR2 alone")
			return
		}
		p, home := b.rec.Profiles[i], b.enabled()
		b.link().done(b.deactivate(home))
		b.link().done(b.activate(p))
		b.link().done(b.deactivate(p))
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "10 the asking operator does not own the profile", on: standard, run: func(b *bench) {
		home := b.enabled()
		b.link().refused(0x10, otherOperator(b.deactivate(home), b.stranger()))
		b.link().refused(0x10, otherOperator(noICCID(b.deactivate(home)), b.stranger()), "without 80")
		b.link().done(b.deactivate(home))
		b.link().refused(0x10, otherOperator(b.activate(home), b.stranger()))
		if owner := b.spare().Owner; owner != home.Owner {
			b.link().refused(0x10, otherOperator(b.activate(home), owner), "another profile's owner")
		}
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "11 the card's policy wants suite 03", on: triple, run: func(b *bench) {
		home := b.enabled()
		b.link().in(1).refused(0x11, b.deactivate(home))
		b.link().in(3).done(b.deactivate(home))
		b.link().in(1).refused(0x11, b.activate(home))
		b.link().in(3).done(b.activate(home))
	}},
	{section: "§8", name: "12 the fallback profile may not be deactivated", on: fallenBack, run: func(b *bench) {
		b.link().refused(0x12, b.deactivate(b.fallback()))
		b.link().refused(0x12, noICCID(b.deactivate(b.fallback())), "without 80")
	}},
	{section: "§8", name: "13 this request id was done with another command", on: standard, run: func(b *bench) {
		home, spare := b.enabled(), b.spare()
		first := b.deactivate(home)
		b.link().done(first)
		same := func(cmd card.Command) card.Command {
			cmd.RequestID = first.RequestID
			return cmd
		}
		b.link().refused(0x13, same(b.deactivate(spare)), "another profile")
		b.link().refused(0x13, same(b.activate(home)), "another INS")
		b.link().refused(0x13, otherICCID(same(b.deactivate(home)), b.strange()), "a profile that does not exist")
		b.link().refused(0x13, same(noICCID(b.deactivate(home))), "without 80, none enabled")
		changed := first
		changed.Reason ^= 1
		b.link().refused(0x13, changed, "another reason")
		changed = first
		changed.INS = insActivate
		b.link().refused(0x13, changed, "the same data, another INS")
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "14 the event counter is not the expected one", on: standard, run: func(b *bench) {
		for _, by := range []int32{-1, 1, 1 << 30} {
			b.link().refused(0x14, otherCounter(b.deactivate(b.enabled()), by))
			b.link().refused(0x14, otherCounter(noICCID(b.deactivate(b.enabled())), by), "without 80")
			b.link().refused(0x14, otherCounter(b.activate(b.spare()), by))
		}
	}},
	{section: "§8", name: "what is checked first: 13, 14, 01", on: standard, run: func(b *bench) {
		home := b.enabled()
		first := b.deactivate(home)
		b.link().done(first)
		cmd := otherCounter(otherICCID(b.deactivate(home), b.strange()), 5)
		b.link().refused(0x14, cmd, "14 before 01")
		cmd.RequestID = first.RequestID
		b.link().refused(0x13, cmd, "13 before 14")
		cmd = otherOperator(otherCounter(b.deactivate(home), 5), b.stranger())
		b.link().refused(0x14, cmd, "14 before 02 and 10")
		b.link().done(b.activate(home))
		b.link().refused(0x01, otherOperator(otherICCID(b.deactivate(home), b.strange()), b.stranger()), "01 before 10")
	}},
	{section: "§8", name: "what is checked first: 02, 10, 11", on: triple, run: func(b *bench) {
		b.link().in(1).refused(0x01, otherICCID(b.deactivate(b.enabled()), b.strange()), "01 before 11")
		b.link().in(1).refused(0x02, otherOperator(b.deactivate(b.spare()), b.stranger()), "02 before 10 and 11")
		b.link().in(1).refused(0x10, otherOperator(b.deactivate(b.enabled()), b.stranger()), "10 before 11")
		b.link().in(1).refused(0x14, otherCounter(b.deactivate(b.enabled()), 1), "14 before 11")
	}},
	{section: "§8", name: "what is checked first: 10, 12, 03", on: fallenBack, run: func(b *bench) {
		b.link().refused(0x10, otherOperator(b.deactivate(b.fallback()), b.stranger()), "10 before 12 and 03")
		if b.fallback().PPR1 {
			b.link().refused(0x12, b.deactivate(b.fallback()), "12 before 03")
		} else {
			b.omit("12 before 03: the fallback profile has no PPR1")
		}
	}},
	{section: "§8", name: "what is checked first: 11, 12", on: tripleFallenBack, run: func(b *bench) {
		b.link().in(1).refused(0x11, b.deactivate(b.fallback()), "11 before 12 and 03")
		b.link().in(3).refused(0x12, b.deactivate(b.fallback()))
	}},
	{section: "§8", name: "what is checked first: 11, 03", on: tripleLockedIn, run: func(b *bench) {
		b.link().in(1).refused(0x11, b.deactivate(b.enabled()), "11 before 03")
		b.link().in(3).refused(0x03, b.deactivate(b.enabled()))
		b.link().in(1).refused(0x02, b.deactivate(b.spare()), "02 before 03")
		b.link().in(3).refused(0x10, otherOperator(b.deactivate(b.enabled()), b.stranger()), "10 before 03")
	}},
	{section: "§8", name: "the fallback profile comes in and goes out in the same step", on: withFallback, run: func(b *bench) {
		home, spare := b.enabled(), b.spare()
		b.link().refused(0x02, b.deactivate(b.fallback()), "it is not enabled yet")
		b.link().refused(0x02, b.activate(b.fallback()), "another is enabled")
		b.link().done(b.deactivate(home))
		require.Equal(b, card.Enabled, b.fallback().State)
		b.link().refused(0x02, b.activate(b.fallback()), "it is enabled")
		b.link().done(b.activate(spare))
		require.Equal(b, card.Disabled, b.fallback().State)
		b.link().done(noICCID(b.deactivate(spare)))
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "ACTIVATE where none is enabled", on: noneEnabled, needs: lasting, run: func(b *bench) {
		b.link().refused(0x01, noICCID(b.deactivate(b.spare())))
		a := b.link().done(b.activate(b.spare()))
		assert.Nil(b, a.fallback, "the fallback profile was disabled before")
	}},
	{section: "§8", name: "ACTIVATE of the fallback profile itself", on: noneEnabled, needs: lasting, run: func(b *bench) {
		a := b.link().done(b.activate(b.fallback()))
		assert.Nil(b, a.fallback, "93 is another profile than 91")
		b.link().refused(0x12, b.deactivate(b.fallback()))
		b.link().done(b.activate(b.spare()))
	}},
}

// rawCommand is a DEACTIVATE or ACTIVATE as bytes.
type rawCommand struct {
	ins  byte
	data []byte
}

// malformed is command data that is nearly right, by name.
func malformed(b *bench) map[string]rawCommand {
	b.Helper()
	cmd := b.deactivate(b.enabled())
	var objects [][]byte // 82 81 80 83 84
	for rest := cmd.Data(); len(rest) > 0; {
		o, r, err := tlv.Read(rest)
		require.NoError(b, err)
		objects = append(objects, o.Raw)
		rest = r
	}
	require.Len(b, objects, 5)
	out := map[string]rawCommand{}
	put := func(name string, data []byte) { out[name] = rawCommand{insDeactivate, data} }
	joined := func(order ...int) []byte {
		var data []byte
		for _, i := range order {
			data = append(data, objects[i]...)
		}
		return data
	}
	put("no data", nil)
	put("no 82", joined(1, 2, 3, 4))
	put("no 81", joined(0, 2, 3, 4))
	put("no 83", joined(0, 1, 2, 4))
	put("no 84", joined(0, 1, 2, 3))
	put("ascending order", joined(2, 1, 0, 3, 4))
	put("81 before 82", joined(1, 0, 2, 3, 4))
	put("80 before 81", joined(0, 2, 1, 3, 4))
	put("84 before 83", joined(0, 1, 2, 4, 3))
	put("80 last", joined(0, 1, 3, 4, 2))
	for i := range objects {
		order := slices.Insert([]int{0, 1, 2, 3, 4}, i, i)
		tag := objects[i][0]
		put("twice "+string("0123456789ABCDEF"[tag>>4])+string("0123456789ABCDEF"[tag&15]), joined(order...))
	}
	put("unknown 85 behind", append(cmd.Data(), 0x85, 0x01, 0x00))
	put("unknown 85 in front", append([]byte{0x85, 0x01, 0x00}, cmd.Data()...))
	put("a byte behind", append(cmd.Data(), 0x00))
	put("a byte less", cmd.Data()[:len(cmd.Data())-1])
	put("nested", tlv.Append(nil, 0x30, cmd.Data()...))
	for i := range objects {
		for _, by := range []int{-1, 1} {
			var data []byte
			for j, o := range objects {
				if j == i {
					value := append(bytes.Clone(o[2:]), 0)[:len(o)-2+by]
					o = tlv.Append(nil, tlv.Tag(o[0]), value...)
				}
				data = append(data, o...)
			}
			name := "long "
			if by < 0 {
				name = "short "
			}
			put(name+string("01234"[i]), data)
		}
	}
	put("length not minimal", append([]byte{0x82, 0x81, 0x10}, cmd.Data()[2:]...))
	put("length indefinite", append([]byte{0x82, 0x80}, cmd.Data()[2:]...))
	out["ACTIVATE without 80"] = rawCommand{insActivate, noICCID(b.activate(b.spare())).Data()}
	return out
}
