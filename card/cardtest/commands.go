package cardtest

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// §6, the commands and their status words.
var commands = []test{
	{section: "§6", name: "SELECT answers the template", on: standard, run: func(b *bench) {
		data := b.expect(apdu.SWSuccess, b.basic, selectApplet())
		var suites []byte
		for _, s := range b.rec.Suites {
			suites = append(suites, byte(s))
		}
		require.Greater(b, len(data), 2)
		limit := data[len(data)-2:] // the last object's value
		prop := tlv.Append(nil, 0x80, 0x01)
		prop = tlv.Append(prop, 0x81, suites...)
		prop = tlv.Append(prop, 0x82, limit...)
		fci := tlv.Append(nil, 0x84, []byte(card.AID)...)
		fci = tlv.Append(fci, 0xA5, prop...)
		assert.Equal(b, tlv.Append(nil, 0x6F, fci...), data)
		assert.GreaterOrEqual(b, b.limit(), cryptogram.EnvelopeLen(b.rec.Keys.Enc, modulus2048), "M2 fits the most command data")
	}},
	{section: "§6", name: "GET DATA card info has the event counter", on: standard, run: func(b *bench) {
		counter, _, _ := b.info()
		assert.Equal(b, b.rec.EventCounter, counter)
	}},
	{section: "§6", name: "GET DATA of no object", on: standard, run: func(b *bench) {
		for _, p := range [][2]byte{{0, 0x00}, {0, 0x5B}, {0, 0xFF}, {0x9F, 0x70}, {0x01, 0x5A}} {
			cmd := getData(p[1])
			cmd.P1 = p[0]
			b.expect(apdu.SWReferenceNotFound, b.basic, cmd, "P1 P2 %X", p)
		}
	}},
	{section: "§6", name: "the applet is not selected: 6985", on: standard, run: func(b *bench) {
		ch := b.empty()
		l := b.link().over(ch)
		field := append([]byte{0x97, 0x02, 0x00, 0x00, 0x8E, 0x08}, random(8)...)
		for _, cmd := range []apdu.Command{
			getData(tagEID), getData(tagInfo), l.internal(random(16)), l.external(random(352)),
			{CLA: proprietary, INS: insGetStatus, Ne: 256},
			{CLA: proprietary, INS: insDeactivate, Data: random(48), Ne: 256},
			{CLA: proprietary, INS: insActivate, Data: random(48), Ne: 256},
			{CLA: secured, INS: insGetStatus, Data: field, Ne: 256},
			{CLA: secured, INS: insDeactivate, Data: field, Ne: 256},
		} {
			b.expect(apdu.SWConditionsNotSatisfied, ch, cmd, "CLA %02X INS %02X", cmd.CLA, cmd.INS)
		}
		other := selectApplet()
		other.Data = []byte("\xF0no such applet")
		b.expect(apdu.SWFileNotFound, ch, other)
		b.expect(apdu.SWConditionsNotSatisfied, ch, getData(tagEID), "after a SELECT that fails")
		b.choose(ch)
		b.expect(apdu.SWSuccess, ch, getData(tagEID), "selected")
	}},
	{section: "§6", name: "in the clear: 6982", on: standard, run: func(b *bench) {
		cmd := b.deactivate(b.enabled())
		for _, ch := range []*apdu.Channel{b.basic, b.channel()} {
			for _, ins := range []byte{insDeactivate, insActivate, insGetStatus} {
				for _, data := range [][]byte{nil, cmd.Data(), random(16)} {
					b.expect(apdu.SWSecurityStatusNotSatisfied, ch, apdu.Command{CLA: proprietary, INS: ins, Data: data, Ne: apdu.MaxShortNe}, "INS %02X, %d bytes", ins, len(data))
				}
			}
		}
		b.link().reading().unchanged()
	}},
	{section: "§6", name: "unknown instruction: 6D00", on: standard, run: func(b *bench) {
		for _, ins := range []byte{0x02, insUnknown, 0x2A, 0xDA, 0xFE} {
			b.expect(apdu.SWInstructionNotSupported, b.basic, apdu.Command{CLA: proprietary, INS: ins}, "INS %02X", ins)
			b.expect(apdu.SWInstructionNotSupported, b.basic, apdu.Command{CLA: proprietary, INS: ins, Data: []byte{1}, Ne: 256}, "INS %02X with data", ins)
		}
	}},
	{section: "§6", name: "wrong class on a known instruction: 6E00", on: standard, run: func(b *bench) {
		for _, cmd := range []apdu.Command{
			{CLA: cla, INS: insGetData, P2: tagEID, Ne: 256}, {CLA: cla, INS: insGetStatus, Ne: 256},
			{CLA: cla, INS: insDeactivate, Data: random(9), Ne: 256}, {CLA: cla, INS: insActivate, Data: random(9), Ne: 256},
			{CLA: proprietary, INS: insSelect, P1: 4, Data: []byte(card.AID), Ne: 256},
			{CLA: proprietary, INS: insInternal, P1: 1, P2: b.card.Server.KID, Data: random(16), Ne: 256},
			{CLA: proprietary, INS: insExternal, P1: 1, P2: b.card.Server.KID, Data: random(16)},
		} {
			b.expect(apdu.SWClassNotSupported, b.basic, cmd, "CLA %02X INS %02X", cmd.CLA, cmd.INS)
		}
	}},
}

// limit is the most command data that SELECT announces, bytes.
func (b *bench) limit() int {
	b.Helper()
	applet, err := card.Select(b.Context(), b.basic)
	require.NoError(b, err)
	return applet.MaxCommandData
}
