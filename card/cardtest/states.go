package cardtest

import (
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// ending is a plain command that ends the state on its own channel.
type ending struct {
	name string
	cmd  apdu.Command
	want apdu.StatusWord
}

// endings are plain commands that succeed and that fail.
func (b *bench) endings() []ending {
	b.Helper()
	other := selectApplet()
	other.Data = []byte("\xF0no such applet")
	noData := getData(0x42)
	l := b.link()
	badKID := l.internal(random(16))
	badKID.P2 = b.unknownKID()
	badSuite := l.internal(random(16))
	badSuite.P1 = 0x02
	return []ending{
		{"SELECT", selectApplet(), apdu.SWSuccess},
		{"SELECT of no applet", other, apdu.SWFileNotFound},
		{"GET DATA", getData(tagEID), apdu.SWSuccess},
		{"GET DATA of no object", noData, apdu.SWReferenceNotFound},
		{"INTERNAL AUTHENTICATE with another suite", badSuite, apdu.SWIncorrectP1P2},
		{"INTERNAL AUTHENTICATE with another kid", badKID, apdu.SWReferenceNotFound},
		{"INTERNAL AUTHENTICATE of another length", l.internal(random(15)), apdu.SWWrongLength},
		{"GET STATUS in the clear", apdu.Command{CLA: proprietary, INS: insGetStatus, Ne: apdu.MaxShortNe}, apdu.SWSecurityStatusNotSatisfied},
		{"DEACTIVATE in the clear", apdu.Command{CLA: proprietary, INS: insDeactivate, Data: b.deactivate(b.enabled()).Data(), Ne: apdu.MaxShortNe}, apdu.SWSecurityStatusNotSatisfied},
		{"unknown instruction", apdu.Command{CLA: proprietary, INS: insUnknown}, apdu.SWInstructionNotSupported},
		{"wrong class", apdu.Command{CLA: cla, INS: insGetStatus, Ne: apdu.MaxShortNe}, apdu.SWClassNotSupported},
		{"chaining of GET DATA", apdu.Command{CLA: proprietary | chaining, INS: insGetData, P2: tagEID, Data: []byte{0}}, apdu.SWChainingNotSupported},
	}
}

// §4, the state and its channel.
var states = []test{
	{section: "§4", name: "a plain command ends a challenge", on: standard, run: func(b *bench) {
		for _, e := range b.endings() {
			c := b.link().challenge()
			b.expect(e.want, b.basic, e.cmd, e.name)
			c.try(apdu.SWConditionsNotSatisfied, c.answer(), "after %s", e.name)
		}
	}},
	{section: "§4", name: "a plain command ends a session", on: standard, run: func(b *bench) {
		for _, e := range b.endings() {
			s := b.link().reading()
			b.expect(e.want, b.basic, e.cmd, e.name)
			s.over(e.name)
		}
		s := b.link().reading()
		b.expect(apdu.SWConditionsNotSatisfied, b.basic, s.external(random(3)))
		s.over("EXTERNAL AUTHENTICATE")
	}},
	{section: "§4", name: "MANAGE CHANNEL ends the state of the channel that it is sent on", on: standard, run: func(b *bench) {
		s := b.link().reading()
		ch := b.empty()
		s.over("opening")
		s = b.link().reading()
		require.NoError(b, ch.Close(b.Context()))
		s.over("closing another")
	}},
	{section: "§4", name: "a SELECT that fails leaves the applet selected", on: standard, run: func(b *bench) {
		cmd := selectApplet()
		cmd.Data = []byte("\xF0no such applet")
		b.expect(apdu.SWFileNotFound, b.basic, cmd)
		b.expect(apdu.SWSuccess, b.basic, getData(tagEID), "the applet is selected still")
	}},
	{section: "§4", name: "GET RESPONSE leaves the state alone", on: standard, run: func(b *bench) {
		get := apdu.Command{INS: insGetResponse, Ne: apdu.MaxShortNe}
		c := b.link().challenge()
		b.expect(apdu.SWConditionsNotSatisfied, b.basic, get)
		s := c.session([32]byte{})
		b.expect(apdu.SWConditionsNotSatisfied, b.basic, get)
		s.alive()
	}},
	{section: "§4", name: "other channels leave the state alone", on: standard, run: func(b *bench) {
		other := b.channel()
		leaves := b.endings()
		c := b.link().challenge()
		for _, e := range leaves {
			b.expect(e.want, other, e.cmd, e.name)
			b.choose(other)
		}
		s := c.session([32]byte{})
		for _, e := range leaves {
			b.expect(e.want, other, e.cmd, e.name)
			s.alive(e.name)
			b.choose(other)
		}
		b.expect(apdu.SWSecurityStatusNotSatisfied, other, s.command(insGetStatus, 0, 0, random(14)), "the session is not this channel's")
		s.alive("secure messaging elsewhere")
		third := b.link().over(other)
		b.expect(apdu.SWConditionsNotSatisfied, other, third.external(random(3)), "the session is not this channel's")
		s.alive("EXTERNAL AUTHENTICATE elsewhere")
	}},
	{section: "§4", name: "opening and closing other channels leaves the state alone", on: standard, run: func(b *bench) {
		home := b.channel()
		l := b.link().over(home)
		c := l.challenge()
		ch := b.empty()
		s := c.session([32]byte{})
		s.alive("opened")
		require.NoError(b, ch.Close(b.Context()))
		s.alive("closed")
	}},
	{section: "§4", name: "EXTERNAL AUTHENTICATE on another channel leaves the challenge", on: standard, run: func(b *bench) {
		other := b.channel()
		c := b.link().challenge()
		good := c.answer()
		b.expect(apdu.SWConditionsNotSatisfied, other, c.external(good))
		cmd := c.external(good[:200])
		cmd.CLA |= chaining
		if _, sw := b.once(other, cmd); sw == apdu.SWSuccess { // refused at once or at its end
			cmd.CLA, cmd.Data = cla, good[200:]
			b.expectOnce(apdu.SWConditionsNotSatisfied, other, cmd, "as a chain")
		}
		b.expect(apdu.SWConditionsNotSatisfied, other, c.external(random(3)), "another length")
		c.try(apdu.SWSuccess, good, "the challenge stays")
	}},
	{section: "§4", name: "INTERNAL AUTHENTICATE on any channel replaces the state", on: standard, run: func(b *bench) {
		other := b.channel()
		first := b.link().challenge()
		second := b.link().over(other).challenge()
		first.try(apdu.SWConditionsNotSatisfied, first.answer(), "the first challenge is gone")
		s := second.session([32]byte{})
		s.alive()
		third := b.link().challenge()
		s.over()
		third.session([32]byte{}).alive()
		fourth := b.link().challenge()
		fifth := b.link().challenge()
		fifth.try(apdu.SWAuthenticationFailed, fourth.answer(), "the same channel")
	}},
	{section: "§4", name: "INTERNAL AUTHENTICATE that fails on another channel replaces nothing", on: standard, run: func(b *bench) {
		l := b.link().over(b.channel())
		c := b.link().challenge()
		b.expect(apdu.SWWrongLength, l.ch, l.internal(random(15)))
		c.session([32]byte{}).alive()
	}},
	{section: "§4", name: "closing its channel ends the state", on: standard, run: func(b *bench) {
		for _, through := range []string{"challenge", "session"} {
			ch := b.channel()
			c := b.link().over(ch).challenge()
			s := (*session)(nil)
			if through == "session" {
				s = c.session([32]byte{})
			}
			require.NoError(b, ch.Close(b.Context()))
			again := b.channel()
			if ch.Number() != again.Number() {
				b.omit("the card gives a channel that was closed another number")
				return
			}
			if s == nil {
				c.try(apdu.SWConditionsNotSatisfied, c.answer(), through)
			} else {
				s.over(through)
			}
			require.NoError(b, again.Close(b.Context()))
		}
	}},
	{section: "§4", name: "a reset ends the state", on: standard, run: func(b *bench) {
		c := b.link().challenge()
		m2 := c.answer()
		b.reset()
		b.expect(apdu.SWConditionsNotSatisfied, b.basic, c.external(m2), "challenge")
		s := b.link().reading()
		b.reset()
		s.ch = b.basic
		s.over()
	}},
	{section: "§4", name: "power-off ends the state", on: standard, needs: powerCycle, run: func(b *bench) {
		c := b.link().challenge()
		m2 := c.answer()
		b.powerCycle()
		b.expect(apdu.SWConditionsNotSatisfied, b.basic, c.external(m2), "challenge")
		s := b.link().reading()
		b.powerCycle()
		s.ch = b.basic
		s.over()
	}},
}
