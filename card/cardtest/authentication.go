package cardtest

import (
	"maps"
	"slices"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// unknownKID is a key set id that neither of a card's sets has.
func (b *bench) unknownKID() byte {
	b.Helper()
	_, kids, _ := b.info()
	for kid := byte(0x0F); kid > 0; kid-- {
		if !slices.Contains(kids, kid) {
			return kid
		}
	}
	require.Fail(b, "every kid has a key set")
	return 0
}

// failure sends one M2 of the right length that does not open, and expects want.
func (c *challenge) failure(want apdu.StatusWord, what ...any) {
	c.Helper()
	m2 := random(cryptogram.EnvelopeLen(c.rec.Keys.Enc, c.width()))
	m2[0] = 0
	c.try(want, m2, what...)
}

const failuresPerReset = 15

// §4.
var authentication = []test{
	{section: "§4", name: "both authenticate in suite 01", on: standard, needs: twoSuites, run: func(b *bench) { b.link().in(1).reading().alive() }},
	{section: "§4", name: "both authenticate in suite 03", on: standard, needs: twoSuites, run: func(b *bench) { b.link().in(3).reading().alive() }},
	{section: "§4", name: "INTERNAL AUTHENTICATE of another length, suite or kid", on: standard, run: func(b *bench) {
		l := b.link()
		for _, n := range []int{0, 1, 15, 17, 32} {
			b.expect(apdu.SWWrongLength, l.ch, l.internal(random(n)), "RS of %d bytes", n)
		}
		cmd := l.internal(random(16))
		for _, suite := range []byte{0x00, 0x02, 0x04, 0xFF} {
			cmd.P1 = suite
			b.expect(apdu.SWIncorrectP1P2, l.ch, cmd, "suite %02X", suite)
		}
		cmd = l.internal(random(16))
		for _, kid := range []byte{0x00, b.unknownKID(), 0x10, l.server.KID | 0x80} {
			cmd.P2 = kid
			b.expect(apdu.SWReferenceNotFound, l.ch, cmd, "kid %02X", kid)
		}
	}},
	{section: "§4", name: "a suite that the card does not have", on: single, run: func(b *bench) {
		b.expect(apdu.SWIncorrectP1P2, b.basic, b.link().in(3).internal(random(16)))
	}},
	{section: "§4", name: "suite 03 under a set with one key", on: standard, needs: otherSet | twoSuites, run: func(b *bench) {
		l := b.link().by(*b.card.Other)
		b.expect(apdu.SWReferenceNotFound, b.basic, l.in(3).internal(random(16)))
		l.in(1).reading().alive()
	}},
	{section: "§4", name: "EXTERNAL AUTHENTICATE without a challenge", on: standard, run: func(b *bench) {
		l := b.link()
		good := l.challenge().answer()
		b.reset()
		l = b.link()
		for _, m2 := range [][]byte{good, good[:len(good)-1], nil} {
			b.expect(apdu.SWConditionsNotSatisfied, l.ch, l.external(m2), "M2 of %d bytes", len(m2))
		}
	}},
	{section: "§4", name: "EXTERNAL AUTHENTICATE in another suite or kid than the challenge's", on: standard, run: func(b *bench) {
		l := b.link()
		suites := []byte{byte(4 - l.suite), 0x02, 0x00}
		kids := []byte{0x00, b.unknownKID(), 0x10}
		if b.card.Other != nil {
			kids = append(kids, b.card.Other.KID)
		}
		for _, suite := range suites {
			c := l.challenge()
			good := c.answer()
			cmd := l.external(good)
			cmd.P1 = suite
			b.expect(apdu.SWConditionsNotSatisfied, l.ch, cmd, "suite %02X", suite)
			c.try(apdu.SWConditionsNotSatisfied, good, "the RC is spent")
			c = l.challenge()
			cmd.Data = c.answer()[:5]
			b.expect(apdu.SWConditionsNotSatisfied, l.ch, cmd, "suite %02X, wrong length too", suite)
		}
		for _, kid := range kids {
			c := l.challenge()
			good := c.answer()
			cmd := l.external(good)
			cmd.P2 = kid
			b.expect(apdu.SWConditionsNotSatisfied, l.ch, cmd, "kid %02X", kid)
			c.try(apdu.SWConditionsNotSatisfied, good, "the RC is spent")
		}
	}},
	{section: "§4", name: "EXTERNAL AUTHENTICATE of a wrong length", on: standard, run: func(b *bench) {
		l := b.link()
		n := len(l.challenge().answer())
		for _, by := range []int{-n, -n + 1, -16, -1, 1, 16} {
			c := l.challenge()
			good := c.answer()
			m2 := append(good, random(16)...)[:n+by]
			c.try(apdu.SWWrongLength, m2, "%d bytes in place of %d", n+by, n)
			c.try(apdu.SWConditionsNotSatisfied, good, "the RC is spent")
		}
	}},
	{section: "§4", name: "RC serves one EXTERNAL AUTHENTICATE", on: standard, run: func(b *bench) {
		c := b.link().challenge()
		good := c.answer()
		c.try(apdu.SWSuccess, good)
		c.try(apdu.SWConditionsNotSatisfied, good, "after success")
		c = b.link().challenge()
		good = c.answer()
		c.failure(apdu.SWAuthenticationFailed)
		c.try(apdu.SWConditionsNotSatisfied, good, "after failure")
	}},
	{section: "§4", name: "M2 for another RC", on: standard, run: func(b *bench) {
		old := b.link().challenge().answer()
		c := b.link().challenge()
		c.try(apdu.SWAuthenticationFailed, old)
	}},
	{section: "§4", name: "15 failures since reset close EXTERNAL AUTHENTICATE until the next", on: standard, run: func(b *bench) {
		l := b.link()
		for i := range failuresPerReset {
			c := l.challenge()
			switch i { // what does not count
			case 3:
				c.try(apdu.SWWrongLength, random(3))
				c = l.challenge()
			case 5:
				c.try(apdu.SWSuccess, c.answer(), "a success takes nothing away")
				c = l.challenge()
			case 7:
				cmd := l.external(random(3))
				cmd.P2 = 0
				b.expect(apdu.SWConditionsNotSatisfied, l.ch, cmd)
				c = l.challenge()
			}
			if i == failuresPerReset-1 && b.card.Other != nil { // all key sets together
				c = l.in(1).by(*b.card.Other).challenge()
			}
			c.failure(apdu.SWAuthenticationFailed, "failure %d", i+1)
		}
		c := l.challenge()
		c.try(apdu.SWAuthenticationBlocked, c.answer(), "a good M2")
		c.try(apdu.SWAuthenticationBlocked, c.answer(), "no challenge")
		c = l.challenge()
		c.try(apdu.SWAuthenticationBlocked, random(3), "wrong length")
		cmd := l.external(c.answer())
		cmd.P2 = b.unknownKID()
		b.expect(apdu.SWAuthenticationBlocked, l.ch, cmd, "another kid")
		over := b.channel()
		b.expect(apdu.SWAuthenticationBlocked, over, l.external(random(3)), "another channel")
		b.reset()
		b.link().reading().alive("nothing blocks for good")
	}},
	{section: "§4", name: "failures are counted per key set, for good", on: standard, run: func(b *bench) {
		l := b.link()
		_, kids, before := b.info()
		assert.True(b, slices.IsSorted(kids), "ascending kid")
		assert.Len(b, before, len(kids), "each kid once")
		require.Contains(b, kids, l.server.KID)
		want := maps.Clone(before)
		count := func(l link, n int) {
			for range n {
				l.challenge().failure(apdu.SWAuthenticationFailed)
			}
			if sum := int(want[l.server.KID]) + n; sum < 0xFFFF {
				want[l.server.KID] = uint16(sum)
			} else {
				want[l.server.KID] = 0xFFFF
			}
			_, _, got := b.info()
			assert.Equal(b, want, got)
		}
		count(l, 3)
		if b.card.Other != nil {
			require.Contains(b, kids, b.card.Other.KID)
			count(l.in(1).by(*b.card.Other), 2)
		}
		l.challenge().try(apdu.SWWrongLength, nil)
		b.expect(apdu.SWConditionsNotSatisfied, l.ch, l.external(random(3)))
		l.reading()
		_, _, got := b.info()
		assert.Equal(b, want, got, "neither another status nor a success counts")
		b.reset()
		_, _, got = b.info()
		assert.Equal(b, want, got, "after a reset")
		if b.card.PowerCycle != nil {
			b.powerCycle()
			_, _, got = b.info()
			assert.Equal(b, want, got, "after power-off")
		} else {
			b.omit("power-off: " + b.lacks(powerCycle))
		}
	}},
	{section: "§4", name: "the count of failures saturates", on: worn, run: func(b *bench) {
		for _, want := range []uint16{0xFFFE, 0xFFFF, 0xFFFF} {
			_, _, got := b.info()
			assert.Equal(b, want, got[b.card.Server.KID])
			b.link().challenge().failure(apdu.SWAuthenticationFailed)
		}
	}},
}
