package cardtest

import (
	"bytes"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// rest is the 61xx that says n more bytes.
func rest(n int) apdu.StatusWord {
	if n > 0xFF {
		return 0x6100
	}
	return 0x6100 | apdu.StatusWord(n)
}

// get is GET RESPONSE.
func get(ne int) apdu.Command { return apdu.Command{INS: insGetResponse, Ne: ne} }

// §6, Le, 61xx, 6Cxx and length fields.
var lengths = []test{
	{section: "§6", name: "Le too small for SELECT and GET DATA: 6Cxx", on: standard, needs: exactLe, run: func(b *bench) {
		for _, cmd := range []apdu.Command{selectApplet(), getData(tagEID), getData(tagInfo)} {
			all := b.expectOnce(apdu.SWSuccess, b.basic, cmd)
			for _, ne := range []int{1, len(all) - 1} {
				cmd.Ne = ne
				data := b.expectOnce(0x6C00|apdu.StatusWord(len(all)), b.basic, cmd, "INS %02X Le %d", cmd.INS, ne)
				assert.Empty(b, data)
				cmd.Ne = len(all)
				assert.Equal(b, all, b.expectOnce(apdu.SWSuccess, b.basic, cmd, "INS %02X, the right Le", cmd.INS))
			}
			cmd.Ne = len(all) + 1
			assert.Equal(b, all, b.expectOnce(apdu.SWSuccess, b.basic, cmd, "INS %02X, Le one more", cmd.INS))
		}
	}},
	{section: "§6", name: "6Cxx comes before anything is done", on: standard, needs: exactLe, run: func(b *bench) {
		ch := b.empty()
		cmd := selectApplet()
		cmd.Ne = 1
		_, sw := b.once(ch, cmd)
		require.Equal(b, byte(0x6C), sw.SW1())
		b.expectOnce(apdu.SWConditionsNotSatisfied, ch, getData(tagEID), "the applet is not selected")
		cmd.Ne = int(sw.SW2())
		b.expectOnce(apdu.SWSuccess, ch, cmd, "the right Le")
		b.expectOnce(apdu.SWSuccess, ch, getData(tagEID), "the applet is selected")
	}},
	{section: "§6", name: "Le absent where there is data: 61xx", on: standard, needs: exactLe, run: func(b *bench) {
		for _, cmd := range []apdu.Command{selectApplet(), getData(tagEID), getData(tagInfo)} {
			all := b.expectOnce(apdu.SWSuccess, b.basic, cmd)
			cmd.Ne = 0
			assert.Empty(b, b.expectOnce(rest(len(all)), b.basic, cmd, "INS %02X", cmd.INS))
			assert.Equal(b, all, b.expectOnce(apdu.SWSuccess, b.basic, get(len(all))))
		}
		ch := b.empty()
		cmd := selectApplet()
		cmd.Ne = 0
		_, sw := b.once(ch, cmd)
		require.Equal(b, byte(0x61), sw.SW1())
		b.expectOnce(apdu.SWSuccess, ch, getData(tagEID), "the applet is selected, its answer fetched or not")
		assert.Empty(b, b.expectOnce(rest(1), b.basic, apdu.Command{INS: insManageChannel}, "MANAGE CHANNEL"))
		assert.Len(b, b.expectOnce(apdu.SWSuccess, b.basic, get(1)), 1)
	}},
	{section: "§6", name: "any other command gives the first Le bytes and 61xx", on: standard, needs: exactLe, run: func(b *bench) {
		for _, ne := range []int{0, 1, 100, 255, 256} {
			l := b.link()
			c := l.draw()
			cmd := l.internal(c.RS[:])
			cmd.Ne = ne
			m1, sw := b.once(l.ch, cmd)
			require.Len(b, m1, ne, "the first Le bytes")
			require.Equal(b, byte(0x61), sw.SW1(), "Le %d", ne)
			for sizes := []int{1, 7, 100, 256, 256}; sw.SW1() == 0x61 && len(sizes) > 0; sizes = sizes[1:] {
				var more []byte
				was := sw
				more, sw = b.once(l.ch, get(sizes[0]))
				m1 = append(m1, more...)
				if was != 0x6100 { // xx was exact
					want := max(0, int(was.SW2())-sizes[0])
					if want > 0 {
						assert.Equal(b, rest(want).Hex(), sw.Hex())
					} else {
						assert.Equal(b, apdu.SWSuccess.Hex(), sw.Hex())
					}
				}
			}
			require.Equal(b, apdu.SWSuccess.Hex(), sw.Hex(), "Le %d", ne)
			c.take(m1)
			c.session([32]byte{}).alive("Le %d", ne)
		}
	}},
	{section: "§6", name: "61xx says how many bytes are left, 00 for 256 and more", on: standard, needs: exactLe, run: func(b *bench) {
		l := b.link()
		n := len(l.challenge().m1)
		for _, ne := range []int{0, n - 256, n - 255, n - 1} {
			if ne < 0 || ne > apdu.MaxShortNe {
				continue
			}
			cmd := l.internal(random(16))
			cmd.Ne = ne
			b.expectOnce(rest(n-ne), l.ch, cmd, "Le %d of %d", ne, n)
		}
	}},
	{section: "§6", name: "GET RESPONSE in any class of the channel", on: standard, needs: exactLe, run: func(b *bench) {
		for _, ch := range []*apdu.Channel{b.basic, b.channel()} {
			for _, cla := range []byte{0x00, 0x80} {
				cmd := getData(tagEID)
				cmd.Ne = 0
				b.expectOnce(rest(18), ch, cmd)
				g := get(18)
				g.CLA = cla
				assert.Len(b, b.expectOnce(apdu.SWSuccess, ch, g, "CLA %02X on channel %d", cla, ch.Number()), 18)
			}
		}
	}},
	{section: "§6", name: "GET RESPONSE with nothing pending: 6985", on: standard, needs: exactLe, run: func(b *bench) {
		b.expectOnce(apdu.SWConditionsNotSatisfied, b.basic, get(256), "nothing asked")
		b.expectOnce(apdu.SWSuccess, b.basic, getData(tagEID))
		b.expectOnce(apdu.SWConditionsNotSatisfied, b.basic, get(256), "everything answered")
		cmd := getData(tagEID)
		cmd.Ne = 0
		b.expectOnce(rest(18), b.basic, cmd)
		b.expectOnce(apdu.SWSuccess, b.basic, get(256), "Le above what is left")
		b.expectOnce(apdu.SWConditionsNotSatisfied, b.basic, get(256), "everything fetched")
		b.expectOnce(rest(18), b.basic, cmd)
		b.expectOnce(apdu.SWReferenceNotFound, b.basic, getData(0x42))
		b.expectOnce(apdu.SWConditionsNotSatisfied, b.basic, get(256), "another command came between")
		b.expectOnce(rest(18), b.basic, cmd)
		b.reset()
		b.expectOnce(apdu.SWConditionsNotSatisfied, b.basic, get(256), "reset")
	}},
	{section: "§6", name: "extended length", on: standard, needs: extended, run: func(b *bench) {
		eid := b.expectOnce(apdu.SWSuccess, b.basic, getData(tagEID))
		data, sw := b.raw([]byte{0x80, insGetData, 0x00, tagEID, 0x00, 0x00, 0x00})
		assert.Equal(b, apdu.SWSuccess.Hex(), sw.Hex(), "extended Le 0000 on a case 2 command")
		assert.Equal(b, eid, data)
		data, sw = b.raw([]byte{0x80, insGetData, 0x00, tagEID, 0x00, 0x00, 0x05})
		assert.Equal(b, apdu.StatusWord(0x6C12).Hex(), sw.Hex(), "extended Le 0005")
		assert.Empty(b, data)
		aid := selectApplet().Data
		_, sw = b.raw(append(append([]byte{0x00, insSelect, 0x04, 0x00, 0x00, 0x00, byte(len(aid))}, aid...), 0x00, 0x00))
		assert.Equal(b, apdu.SWSuccess.Hex(), sw.Hex(), "extended Lc and Le")

		l := b.link()
		c := l.draw()
		cmd := l.internal(c.RS[:])
		cmd.Ne = apdu.MaxExtendedNe
		c.take(b.expectOnce(apdu.SWSuccess, l.ch, cmd, "M1 at once"))
		b.expectOnce(apdu.SWSuccess, l.ch, c.external(c.answer()), "M2 at once")
		cmd.Ne = 300
		data, sw = b.once(l.ch, cmd)
		assert.Len(b, data, 300)
		assert.Equal(b, rest(len(c.m1)-300).Hex(), sw.Hex(), "an extended Le that is too small")
	}},
	{section: "§6", name: "short and extended length and chaining come to the same", on: standard, needs: extended, run: func(b *bench) {
		cmd := b.deactivate(b.spare())
		var bodies [][]byte
		for _, form := range []string{"short", "extended", "chained"} {
			s := b.link().session(hashOf(cmd))
			field := s.wrap(cmd.INS, 0, 0, cmd.Data())
			c := s.command(cmd.INS, 0, 0, field)
			switch form {
			case "short":
				c.Ne = apdu.MaxShortNe
			case "extended":
				c.Ne = apdu.MaxExtendedNe
			case "chained":
				b.expectOnce(apdu.SWSuccess, s.ch, apdu.Command{CLA: secured | chaining, INS: cmd.INS, Data: field[:7]})
				c.Data = field[7:]
			}
			raw, sw := b.exchange(s.ch, c)
			require.Equal(b, apdu.SWSuccess.Hex(), sw.Hex(), form)
			raw, sw = s.unwrap(raw)
			b.parse(cmd, raw, sw)
			bodies = append(bodies, raw)
		}
		assert.True(b, bytes.Equal(bodies[0], bodies[1]) && bytes.Equal(bodies[1], bodies[2]), "the same refusal, receipt and all")
	}},
	{section: "§6", name: "a card that does not announce extended length answers 6700 to it", on: shortOnly, needs: exactLe, run: func(b *bench) {
		_, sw := b.raw([]byte{0x80, insGetData, 0x00, tagEID, 0x00, 0x00, 0x00})
		assert.Equal(b, apdu.SWWrongLength.Hex(), sw.Hex(), "case 2E")
		aid := selectApplet().Data
		_, sw = b.raw(append([]byte{0x00, insSelect, 0x04, 0x00, 0x00, 0x00, byte(len(aid))}, aid...))
		assert.Equal(b, apdu.SWWrongLength.Hex(), sw.Hex(), "case 3E")
		_, sw = b.raw(append(append([]byte{0x00, insSelect, 0x04, 0x00, 0x00, 0x00, byte(len(aid))}, aid...), 0x00, 0x00))
		assert.Equal(b, apdu.SWWrongLength.Hex(), sw.Hex(), "case 4E")
		p := b.enabled()
		b.link().done(b.deactivate(p), "chaining and GET RESPONSE do")
		b.link().done(b.activate(p))
	}},
}
