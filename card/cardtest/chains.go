package cardtest

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// part is the part of a chain with this data, not its last.
func part(cmd apdu.Command, data []byte) apdu.Command {
	cmd.CLA |= chaining
	cmd.Data = data
	cmd.Ne = 0
	return cmd
}

func otherKID(cmd apdu.Command) apdu.Command {
	cmd.P2 ^= 0x01
	return cmd
}

// §6, command chaining.
var chains = []test{
	{section: "§6", name: "INTERNAL and EXTERNAL AUTHENTICATE can be chained", on: standard, run: func(b *bench) {
		for _, ch := range []*apdu.Channel{b.basic, b.channel()} {
			l := b.link().over(ch)
			c := l.draw()
			cmd := l.internal(c.RS[10:])
			b.expectOnce(apdu.SWSuccess, ch, part(cmd, c.RS[:1]))
			b.expectOnce(apdu.SWSuccess, ch, part(cmd, c.RS[1:10]))
			c.take(b.expect(apdu.SWSuccess, ch, cmd))
			s := c.secrets([32]byte{})
			m2 := c.seal(s)
			for len(m2) > 100 {
				b.expectOnce(apdu.SWSuccess, ch, part(c.external(nil), m2[:100]))
				m2 = m2[100:]
			}
			b.expectOnce(apdu.SWSuccess, ch, c.external(m2))
			c.start(s).alive("channel %d", ch.Number())
		}
	}},
	{section: "§6", name: "a chain of a wrong length in all", on: standard, run: func(b *bench) {
		l := b.link()
		b.expectOnce(apdu.SWSuccess, l.ch, part(l.internal(nil), random(10)))
		b.expectOnce(apdu.SWWrongLength, l.ch, l.internal(random(7)))
		c := l.challenge()
		good := c.answer()
		b.expectOnce(apdu.SWSuccess, l.ch, part(c.external(nil), good[:200]))
		b.expectOnce(apdu.SWWrongLength, l.ch, c.external(good[200:len(good)-1]))
		c.try(apdu.SWConditionsNotSatisfied, good, "the RC is spent")
	}},
	{section: "§6", name: "chaining is for those alone: 6884", on: standard, run: func(b *bench) {
		for _, cmd := range []apdu.Command{
			part(selectApplet(), selectApplet().Data), part(getData(tagEID), []byte{0}), part(apdu.Command{INS: insManageChannel}, nil),
			part(apdu.Command{CLA: proprietary, INS: insGetStatus}, []byte{0}),
			part(apdu.Command{CLA: proprietary, INS: insDeactivate}, []byte{0x82}),
			part(apdu.Command{CLA: proprietary, INS: insActivate}, []byte{0x82}),
		} {
			b.expectOnce(apdu.SWChainingNotSupported, b.basic, cmd, "CLA %02X INS %02X", cmd.CLA, cmd.INS)
		}
		b.link().reading().alive()
	}},
	{section: "§6", name: "another command within a chain: 6883", on: standard, run: func(b *bench) {
		l := b.link()
		rs := random(16)
		for _, c := range []struct {
			name string
			cmd  apdu.Command
		}{
			{"GET DATA", getData(tagEID)}, {"SELECT", selectApplet()},
			{"EXTERNAL AUTHENTICATE", l.external(random(16))},
			{"INTERNAL AUTHENTICATE under another kid", otherKID(l.internal(rs[8:]))},
			{"GET STATUS in the clear", apdu.Command{CLA: proprietary, INS: insGetStatus, Ne: 256}},
		} {
			b.expectOnce(apdu.SWSuccess, l.ch, part(l.internal(nil), rs[:8]), c.name)
			assert.Empty(b, b.expectOnce(apdu.SWLastOfChainExpected, l.ch, c.cmd, c.name))
			b.expectOnce(apdu.SWWrongLength, l.ch, l.internal(rs[8:]), "after %s the chain is gone", c.name)
		}
		l.reading().alive()
	}},
	{section: "§6", name: "a command within a chain is not executed", on: standard, run: func(b *bench) {
		l := b.link()
		b.expectOnce(apdu.SWSuccess, l.ch, part(l.internal(nil), random(8)))
		b.expectOnce(apdu.SWLastOfChainExpected, l.ch, apdu.Command{INS: insManageChannel, Ne: 1})
		_, sw := b.onChannel(1, selectApplet())
		assert.Equal(b, apdu.SWChannelNotSupported.Hex(), sw.Hex(), "no channel was opened")

		c := l.challenge()
		b.expectOnce(apdu.SWSuccess, l.ch, part(apdu.Command{CLA: secured, INS: insGetStatus}, []byte{0x97}))
		b.expectOnce(apdu.SWLastOfChainExpected, l.ch, c.external(random(16)))
		c.try(apdu.SWConditionsNotSatisfied, c.answer(), "the state is gone")
	}},
	{section: "§6", name: "a broken chain ends the state on its channel", on: standard, run: func(b *bench) {
		l := b.link()
		c := l.challenge()
		good := c.answer()
		b.expectOnce(apdu.SWSuccess, l.ch, part(c.external(nil), good[:200]))
		b.expectOnce(apdu.SWLastOfChainExpected, l.ch, getData(tagEID))
		c.try(apdu.SWConditionsNotSatisfied, good, "the challenge is gone")

		s := l.reading()
		field := s.wrap(insGetStatus, 0, 0, nil)
		b.expectOnce(apdu.SWSuccess, l.ch, part(apdu.Command{CLA: secured, INS: insGetStatus}, field[:5]))
		b.expectOnce(apdu.SWLastOfChainExpected, l.ch, getData(tagEID))
		s.over("the session is gone")
	}},
	{section: "§6", name: "a broken chain leaves another channel's state", on: standard, run: func(b *bench) {
		ch := b.channel()
		s := b.link().reading()
		l := b.link().over(ch)
		b.expectOnce(apdu.SWSuccess, ch, part(l.internal(nil), random(8)))
		b.expectOnce(apdu.SWLastOfChainExpected, ch, getData(tagEID))
		s.alive()
	}},
	{section: "§6", name: "a chain that is too long: 6700", on: standard, run: func(b *bench) {
		limit := b.limit()
		l := b.link()
		sw := apdu.SWSuccess
		for sent := 0; sent <= limit && sw == apdu.SWSuccess; sent += apdu.MaxShortData {
			_, sw = b.once(l.ch, part(l.internal(nil), random(apdu.MaxShortData)))
		}
		if sw == apdu.SWSuccess {
			_, sw = b.once(l.ch, l.internal(random(1)))
		}
		require.Equal(b, apdu.SWWrongLength.Hex(), sw.Hex())
		l.reading().alive("the card goes on")
	}},
	{section: "§6", name: "a chain that does not end: 6700", on: standard, run: func(b *bench) {
		l := b.link()
		refused := func(cmd apdu.Command, what string) {
			sw := apdu.SWSuccess
			// No command has more data than that, so no card may wait for the rest.
			for sent := 0; sent <= apdu.MaxExtendedData && sw == apdu.SWSuccess; sent += apdu.MaxShortData {
				_, sw = b.once(l.ch, part(cmd, random(apdu.MaxShortData)))
			}
			require.Equal(b, apdu.SWWrongLength.Hex(), sw.Hex(), what)
		}
		refused(l.internal(nil), "INTERNAL AUTHENTICATE")
		refused(l.challenge().external(nil), "EXTERNAL AUTHENTICATE")
		s := l.reading()
		refused(s.command(insGetStatus, 0, 0, nil), "under secure messaging")
		s.over("after a chain that is too long")
		l.reading().alive("the card goes on")
	}},
	{section: "§6", name: "a command longer than the card takes, its mac right: 6700", on: standard, run: func(b *bench) {
		limit := b.limit()
		l := b.link()
		s := l.reading()
		field := s.wrap(insGetStatus, 0, 0, random(limit))
		sw := apdu.SWSuccess
		for len(field) > apdu.MaxShortData && sw == apdu.SWSuccess {
			_, sw = b.once(l.ch, part(s.command(insGetStatus, 0, 0, nil), field[:apdu.MaxShortData]))
			field = field[apdu.MaxShortData:]
		}
		if sw == apdu.SWSuccess {
			_, sw = b.once(l.ch, s.command(insGetStatus, 0, 0, field))
		}
		require.Equal(b, apdu.SWWrongLength.Hex(), sw.Hex())
		s.over("after a command that is too long")
		l.reading().alive("the card goes on")
	}},
	{section: "§6", name: "a reset ends a chain", on: standard, run: func(b *bench) {
		l := b.link()
		b.expectOnce(apdu.SWSuccess, l.ch, part(l.internal(nil), random(8)))
		b.reset()
		b.expect(apdu.SWSuccess, b.basic, getData(tagEID), "no command is within a chain")
	}},
}
