package cardtest

import (
	"bytes"
	"fmt"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// wrong expects an outer status word in the clear for a GET STATUS with this
// field, and that the session is gone.
func (s *session) wrong(want apdu.StatusWord, field []byte, what ...any) {
	s.Helper()
	s.expect(want, s.ch, s.command(insGetStatus, 0, 0, field), what...)
	s.over(what...)
}

// §5.
var secureMessaging = []test{
	{section: "§5", name: "on every logical channel, with 8C in the mac", on: standard, run: func(b *bench) {
		all := []*apdu.Channel{b.basic}
		for n := apdu.ParseCapabilities(b.conn.ATR()).Channels; len(all) < n; {
			all = append(all, b.channel())
		}
		for _, ch := range all {
			b.link().over(ch).reading().alive("channel %d", ch.Number())
		}
		if last := all[len(all)-1].Number(); last < 4 {
			b.omit("channels 4 to 19: the card has them not")
		}
	}},
	{section: "§5", name: "on channels 4 to 19", on: standard, run: func(b *bench) {
		// A card may have more channels than eight, which is all that it can announce.
		// Not 19: secured and chained there, CLA would be FF, which is none.
		var last *apdu.Channel
		for range 18 {
			ch, err := b.basic.Open(b.Context())
			if err != nil {
				break
			}
			last = ch
		}
		if last == nil || last.Number() < 4 {
			b.omit("the card has no channel over 3")
			return
		}
		b.choose(last)
		s := b.link().over(last).reading()
		s.alive("channel %d", last.Number())
		field := s.wrap(insGetStatus, 0, 0, nil)
		b.expectOnce(apdu.SWSuccess, last, part(s.command(insGetStatus, 0, 0, nil), field[:9]))
		_, sw := s.deliver(insGetStatus, 0, 0, field[9:])
		assert.Equal(b, apdu.SWSuccess.Hex(), sw.Hex(), "a chain on channel %d", last.Number())
	}},
	{section: "§5", name: "a mac over the CLA that is on the wire", on: standard, run: func(b *bench) {
		first := b.channel()
		for _, ch := range []*apdu.Channel{b.basic, first} {
			for _, cla := range []byte{0x80, on(ch, 0x80), 0x0C, 0x8D} {
				s := b.link().over(ch).reading()
				s.count()
				mac := s.commandMAC(cla, insGetStatus, 0, 0, le)
				s.wrong(apdu.SWSMObjectsIncorrect, tlv.Append(bytes.Clone(le), tagMAC, mac...), "CLA %02X in the mac on channel %d", cla, ch.Number())
			}
		}
	}},
	{section: "§5", name: "a mac that is wrong ends the session", on: standard, run: func(b *bench) {
		for bit := range 64 {
			if bit%9 != 0 {
				continue
			}
			s := b.link().reading()
			f := s.wrap(insGetStatus, 0, 0, nil)
			f[len(f)-8+bit/8] ^= 1 << (bit % 8)
			s.wrong(apdu.SWSMObjectsIncorrect, f, "bit %d of the mac", bit)
		}
		s := b.link().reading()
		f := s.wrap(insGetStatus, 0, 0, nil)
		f[2] ^= 0x01
		s.wrong(apdu.SWSMObjectsIncorrect, f, "97 changed")
		s = b.link().reading()
		f = s.wrap(insGetStatus, 0, 0, []byte{1, 2, 3})
		f[5] ^= 0x01
		s.wrong(apdu.SWSMObjectsIncorrect, f, "87 changed")
		s = b.link().reading()
		s.wrong(apdu.SWSMObjectsIncorrect, s.wrap(insDeactivate, 0, 0, nil), "mac for another INS")
		s = b.link().reading()
		s.wrong(apdu.SWSMObjectsIncorrect, s.wrap(insGetStatus, 1, 0, nil), "mac for another P1")
		s = b.link().reading()
		s.wrong(apdu.SWSMObjectsIncorrect, s.wrap(insGetStatus, 0, 1, nil), "mac for another P2")
		first, second := b.link().reading(), b.link().reading()
		second.wrong(apdu.SWSMObjectsIncorrect, first.wrap(insGetStatus, 0, 0, nil), "another session's keys")
	}},
	{section: "§5", name: "DEACTIVATE under a wrong mac is not done", on: standard, run: func(b *bench) {
		cmd := b.deactivate(b.enabled())
		s := b.link().session(hashOf(cmd))
		f := s.wrap(cmd.INS, 0, 0, cmd.Data())
		f[len(f)-1] ^= 0x01
		b.expect(apdu.SWSMObjectsIncorrect, s.ch, s.command(cmd.INS, 0, 0, f))
		s.over()
		b.link().reading().unchanged()
	}},
	{section: "§5", name: "objects that are missing, unknown, out of order or malformed", on: standard, run: func(b *bench) {
		do8E := func(mac []byte) []byte { return tlv.Append(nil, tagMAC, mac...) }
		last := func(objects, mac []byte) []byte { return append(bytes.Clone(objects), do8E(mac)...) }
		replaced := func(mac ...byte) func(_, _ []byte) []byte {
			return func(objects, _ []byte) []byte {
				return append(bytes.Clone(objects), tlv.Append(nil, tagMAC, mac...)...)
			}
		}
		for _, c := range []struct {
			name    string
			objects func(*session) []byte
			form    func(objects, mac []byte) []byte
		}{
			{"nothing", plain(), func(_, _ []byte) []byte { return nil }},
			{"no 97", plain(), last},
			{"no 97, with 87", func(s *session) []byte { return s.do87([]byte{1}) }, last},
			{"no 8E", plain(le...), func(o, _ []byte) []byte { return o }},
			{"8E first", plain(le...), func(o, mac []byte) []byte { return append(do8E(mac), o...) }},
			{"97 before 87", func(s *session) []byte { return append(bytes.Clone(le), s.do87([]byte{1})...) }, last},
			{"87 after 8E", plain(le...), func(o, mac []byte) []byte { return append(last(o, mac), 0x87, 0x01, 0x01) }},
			{"97 twice", plain(append(bytes.Clone(le), le...)...), last},
			{"87 twice", func(s *session) []byte {
				return append(append(s.do87([]byte{1}), s.do87([]byte{1})...), le...)
			}, last},
			{"8E twice", plain(le...), func(o, mac []byte) []byte { return append(last(o, mac), do8E(mac)...) }},
			{"unknown 81", plain(append([]byte{0x81, 0x01, 0x00}, le...)...), last},
			{"unknown 85", plain(append([]byte{0x85, 0x01, 0x00}, le...)...), last},
			{"unknown 99", plain(append(bytes.Clone(le), 0x99, 0x02, 0x90, 0x00)...), last},
			{"96 for 97", plain(0x96, 0x02, 0x00, 0x00), last},
			{"a byte behind", plain(le...), func(o, mac []byte) []byte { return append(last(o, mac), 0x00) }},
			{"not TLV", plain(0x97), func(o, _ []byte) []byte { return o }},
			{"rubbish", plain(), func(_, _ []byte) []byte { return bytes.Repeat([]byte{0xFF}, 20) }},
			{"97 longer than the field", plain(0x97, 0x7F, 0x00), last},
			{"97 of non-minimal length", plain(0x97, 0x81, 0x02, 0x00, 0x00), last},
			{"97 of indefinite length", plain(0x97, 0x80, 0x00, 0x00), last},
			{"87 of non-minimal length", func(s *session) []byte {
				o := s.do87([]byte{1})
				return append(append([]byte{0x87, 0x81}, o[1:]...), le...)
			}, last},
			{"8E of non-minimal length", plain(le...), func(o, mac []byte) []byte { return append(append(bytes.Clone(o), 0x8E, 0x81, 0x08), mac...) }},
			{"8E empty", plain(le...), replaced()},
			{"8E of 4 bytes", plain(le...), func(o, mac []byte) []byte { return last(o, mac[:4]) }},
			{"8E of 7 bytes", plain(le...), func(o, mac []byte) []byte { return last(o, mac[:7]) }},
			{"8E of 9 bytes", plain(le...), func(o, mac []byte) []byte { return last(o, append(bytes.Clone(mac), 0)) }},
		} {
			s := b.link().reading()
			s.count()
			objects := c.objects(s)
			mac := s.commandMAC(secured, insGetStatus, 0, 0, objects)
			s.wrong(apdu.SWSMObjectsMissing, c.form(objects, mac), c.name)
		}
	}},
	{section: "§5", name: "the value of 97 is ignored, whatever its length", on: standard, run: func(b *bench) {
		s := b.link().reading()
		for _, n := range []int{0, 1, 2, 3, 13, 14, 15, 64} { // 14: the mac's input is whole blocks
			s.count()
			data, sw := s.deliver(insGetStatus, 0, 0, s.signed(insGetStatus, 0, 0, tlv.Append(nil, tagLe, bytes.Repeat([]byte{0x05}, n)...)))
			assert.Equal(b, apdu.SWSuccess.Hex(), sw.Hex(), "97 of %d bytes", n)
			assert.Equal(b, encodeStatus(b.rec.Profiles, b.rec.EventCounter), data, "97 of %d bytes", n)
		}
	}},
	{section: "§5", name: "a bad 87 under a good mac leaves the session", on: standard, run: func(b *bench) {
		s := b.link().reading()
		for name, value := range badCryptograms() {
			s.count()
			data, sw := s.deliver(insGetStatus, 0, 0, s.signed(insGetStatus, 0, 0, append(tlv.Append(nil, tagCryptogram, value(s)...), le...)))
			assert.Equal(b, apdu.SWIncorrectData.Hex(), sw.Hex(), name)
			assert.Empty(b, data, name)
			s.alive(name)
		}
	}},
	{section: "§5", name: "a bad 87 spends the session's one command", on: standard, run: func(b *bench) {
		for name, value := range badCryptograms() {
			cmd := b.deactivate(b.enabled())
			s := b.link().session(hashOf(cmd))
			s.count()
			_, sw := s.deliver(cmd.INS, 0, 0, s.signed(cmd.INS, 0, 0, append(tlv.Append(nil, tagCryptogram, value(s)...), le...)))
			assert.Equal(b, apdu.SWIncorrectData.Hex(), sw.Hex(), name)
			s.inner(apdu.SWSecurityStatusNotSatisfied, cmd.INS, cmd.Data(), "the second, after %s", name)
			s.unchanged(name)
		}
	}},
	{section: "§5", name: "secure messaging on a command that has none", on: standard, run: func(b *bench) {
		for _, c := range []apdu.Command{
			{CLA: 0x0C, INS: insSelect, P1: 0x04}, {CLA: secured, INS: insGetData, P2: tagEID},
			{CLA: 0x0C, INS: insManageChannel},
			{CLA: 0x0C, INS: insInternal, P1: 0x01, P2: b.card.Server.KID}, {CLA: 0x0C, INS: insExternal, P1: 0x01, P2: b.card.Server.KID},
		} {
			s := b.link().reading()
			c.Ne = s.ch.MaxNe()
			c.Data = s.wrap(c.INS, c.P1, c.P2, []byte(b.rec.EID[:]))
			b.expect(apdu.SWSecureMessagingUnsupported, s.ch, c, "INS %02X", c.INS)
		}
	}},
	{section: "§5", name: "an unknown instruction, wrong P1 P2, GET STATUS with data: inner status words", on: standard, run: func(b *bench) {
		s := b.link().reading()
		for _, c := range []struct {
			ins, p1, p2 byte
			data        []byte
			want        apdu.StatusWord
		}{
			{insUnknown, 0, 0, nil, apdu.SWInstructionNotSupported},
			{0xFE, 0, 0, []byte{1}, apdu.SWInstructionNotSupported},
			{insGetStatus, 0, 0, []byte{0}, apdu.SWIncorrectData},
			{insGetStatus, 0, 0, random(40), apdu.SWIncorrectData},
			{insGetStatus, 0x40, 0, nil, apdu.SWIncorrectP1P2},
			{insGetStatus, 0, 0x02, nil, apdu.SWIncorrectP1P2},
		} {
			data, sw := s.do(c.ins, c.p1, c.p2, c.data)
			what := fmt.Sprintf("INS %02X P1 %02X P2 %02X, %d bytes", c.ins, c.p1, c.p2, len(c.data))
			assert.Equal(b, c.want.Hex(), sw.Hex(), what)
			assert.Empty(b, data, what)
			s.alive(what)
		}
	}},
	{section: "§5", name: "DEACTIVATE and ACTIVATE with wrong P1 P2", on: standard, run: func(b *bench) {
		for _, cmd := range [][2]byte{{insDeactivate, 1}, {insActivate, 0x80}} {
			c := b.command(cmd[0], b.enabled())
			s := b.link().session(hashOf(c))
			data, sw := s.do(c.INS, cmd[1], 0, c.Data())
			assert.Equal(b, apdu.SWIncorrectP1P2.Hex(), sw.Hex())
			assert.Empty(b, data)
			s.unchanged()
		}
	}},
	{section: "§5", name: "a command again, one left out, one ahead", on: standard, run: func(b *bench) {
		s := b.link().reading()
		f := s.wrap(insGetStatus, 0, 0, nil)
		s.deliver(insGetStatus, 0, 0, f)
		s.wrong(apdu.SWSMObjectsIncorrect, f, "a command again")
		s = b.link().reading()
		s.wrap(insGetStatus, 0, 0, nil)
		s.wrong(apdu.SWSMObjectsIncorrect, s.wrap(insGetStatus, 0, 0, nil), "SSC one ahead")
		s = b.link().reading()
		s.wrap(insGetStatus, 0, 0, nil)
		s.count()
		s.wrong(apdu.SWSMObjectsIncorrect, s.wrap(insGetStatus, 0, 0, nil), "SSC two ahead, as if a response had gone")
	}},
	{section: "§5", name: "DEACTIVATE again is not done again", on: standard, run: func(b *bench) {
		p := b.enabled()
		cmd := b.deactivate(p)
		s := b.link().session(hashOf(cmd))
		f := s.wrap(cmd.INS, 0, 0, cmd.Data())
		raw, sw := s.deliver(cmd.INS, 0, 0, f)
		b.change(cmd, b.parse(cmd, raw, sw), s.suite)
		b.expect(apdu.SWSMObjectsIncorrect, s.ch, s.command(cmd.INS, 0, 0, f))
		s.over()
		b.link().reading().unchanged()
		b.link().done(b.activate(p))
	}},
	{section: "§5", name: "GET RESPONSE does not touch SSC", on: standard, needs: exactLe, run: func(b *bench) {
		s := b.link().reading()
		get := apdu.Command{INS: insGetResponse, Ne: 16}
		for _, ne := range []int{0, 1, 20} {
			cmd := s.command(insGetStatus, 0, 0, s.wrap(insGetStatus, 0, 0, nil))
			cmd.Ne = ne
			field, sw := b.once(s.ch, cmd)
			require.Equal(b, byte(0x61), sw.SW1(), "Le %d", ne)
			for sw.SW1() == 0x61 {
				var more []byte
				more, sw = b.once(s.ch, get)
				field = append(field, more...)
			}
			require.Equal(b, apdu.SWSuccess.Hex(), sw.Hex())
			data, sw := s.unwrap(field)
			assert.Equal(b, apdu.SWSuccess.Hex(), sw.Hex())
			assert.Equal(b, encodeStatus(b.rec.Profiles, b.rec.EventCounter), data)
		}
	}},
	{section: "§5", name: "no session: 6982", on: standard, run: func(b *bench) {
		other := b.channel()
		l := b.link()
		field := append(bytes.Clone(le), 0x8E, 0x08, 1, 2, 3, 4, 5, 6, 7, 8)
		for _, ins := range []byte{insGetStatus, insDeactivate, insActivate} {
			cmd := apdu.Command{CLA: secured, INS: ins, Data: field, Ne: apdu.MaxShortNe}
			b.expect(apdu.SWSecurityStatusNotSatisfied, l.ch, cmd, "INS %02X, idle", ins)
			l.challenge()
			b.expect(apdu.SWSecurityStatusNotSatisfied, l.ch, cmd, "INS %02X, challenged", ins)
			s := l.reading()
			b.expect(apdu.SWSecurityStatusNotSatisfied, other, cmd, "INS %02X, another channel's session", ins)
			s.alive()
			b.reset()
			other, l = b.channel(), b.link()
		}
	}},
	{section: "§5", name: "a session that only reads", on: standard, run: func(b *bench) {
		cmd := b.deactivate(b.enabled())
		s := b.link().reading()
		s.unchanged()
		s.inner(apdu.SWSecurityStatusNotSatisfied, cmd.INS, cmd.Data())
		s.inner(apdu.SWSecurityStatusNotSatisfied, insActivate, cmd.Data())
		s.unchanged()
	}},
	{section: "§5", name: "chained commands are joined, then unwrapped", on: standard, run: func(b *bench) {
		cmd := b.deactivate(b.spare())
		s := b.link().session(hashOf(cmd))
		field := s.wrap(cmd.INS, 0, 0, cmd.Data())
		for len(field) > 20 {
			b.expectOnce(apdu.SWSuccess, s.ch, apdu.Command{CLA: secured | chaining, INS: cmd.INS, Data: field[:20]})
			field = field[20:]
		}
		raw, sw := s.deliver(cmd.INS, 0, 0, field)
		a := b.parse(cmd, raw, sw)
		assert.Equal(b, "02", a.result.Hex(), "it is disabled")
		s.unchanged()
	}},
}

// plain is objects that do not depend on the session.
func plain(objects ...byte) func(*session) []byte {
	return func(*session) []byte { return bytes.Clone(objects) }
}

// badCryptograms is values of 87 that do not decrypt to padded data, by name.
func badCryptograms() map[string]func(*session) []byte {
	data := bytes.Repeat([]byte{0x82}, 16)
	value := func(indicator byte, f func(*session) []byte) func(*session) []byte {
		return func(s *session) []byte { return append([]byte{indicator}, f(s)...) }
	}
	good := func(s *session) []byte { return s.encrypt(padded(data)) }
	return map[string]func(*session) []byte{
		"87 empty":                    func(*session) []byte { return nil },
		"87 of its indicator alone":   func(*session) []byte { return []byte{0x01} },
		"padding indicator 00":        value(0x00, good),
		"padding indicator 02":        value(0x02, good),
		"no whole blocks":             value(0x01, func(s *session) []byte { return good(s)[:31] }),
		"no padding":                  value(0x01, func(s *session) []byte { return s.encrypt(data) }),
		"padding 00":                  value(0x01, func(s *session) []byte { return s.encrypt(make([]byte, 16)) }),
		"padding in the block before": value(0x01, func(s *session) []byte { return s.encrypt(append(padded(data[:15]), make([]byte, 16)...)) }),
		"padding that ends in 01":     value(0x01, func(s *session) []byte { p := padded(data); p[31] = 1; return s.encrypt(p) }),
		"padding that begins with 81": value(0x01, func(s *session) []byte { p := padded(data); p[16] = 0x81; return s.encrypt(p) }),
	}
}
