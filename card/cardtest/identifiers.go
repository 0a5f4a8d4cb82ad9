package cardtest

import (
	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card"
)

// §1 and §2.
var identifiers = []test{
	{section: "§1", name: "GET DATA answers the EID", on: standard, run: func(b *bench) {
		data := b.expect(apdu.SWSuccess, b.basic, getData(tagEID))
		assert.Equal(b, tlv.Append(nil, tagEID, b.rec.EID[:]...), data)
	}},
	{section: "§1", name: "the applet has this AID and no other", on: standard, run: func(b *bench) {
		for _, aid := range []string{card.AID[:10] + "f", card.AID + "\x00", "\xF1" + card.AID[1:]} {
			cmd := selectApplet()
			cmd.Data = []byte(aid)
			b.expect(apdu.SWFileNotFound, b.basic, cmd, "AID %X", aid)
		}
	}},
	{section: "§2", name: "a server is known by kid and all its keys", on: standard, needs: otherSet, run: func(b *bench) {
		b.link().in(1).reading().alive("first key set")
		b.link().in(1).by(*b.card.Other).reading().alive("second key set")
	}},
	{section: "§2", name: "a holder of three auth keys uses the first alone for suite 01, and its SID counts them all", on: standard, needs: twoSuites, run: func(b *bench) {
		if len(b.card.Server.Auth) != 3 {
			b.omit("the server has one auth key")
			return
		}
		b.link().in(1).reading().alive("suite 01")
		b.link().in(3).reading().alive("suite 03")
	}},
	{section: "§2", name: "a card with one auth key", on: single, run: func(b *bench) {
		b.link().reading().alive()
		p := b.enabled()
		b.link().done(b.deactivate(p))
		b.link().done(b.activate(p))
	}},
}
