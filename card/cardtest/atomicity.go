package cardtest

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
)

// lost sends a command whose answer a fault takes away, and opens the card
// again.
func (b *bench) lost(ch *apdu.Channel, cmd apdu.Command) {
	b.Helper()
	_, _, err := ch.Transmit(b.Context(), cmd)
	require.Error(b, err, "the card left")
	_ = b.conn.Close() // it may say that the card is gone
	b.conn = nil
	b.open()
}

// §8, one persistent write, and §4's count.
var atomicity = []test{
	{section: "§8", name: "power cut before the write: nothing was done", on: withFallback, needs: faults, run: func(b *bench) {
		cmd := b.deactivate(b.enabled())
		s := b.link().session(hashOf(cmd))
		field := s.wrap(cmd.INS, 0, 0, cmd.Data())
		b.card.Inject(b.T, CutBefore)
		b.lost(s.ch, s.command(cmd.INS, 0, 0, field))
		b.link().reading().unchanged("wholly before")
		b.link().done(cmd, "the same request is done now")
	}},
	{section: "§8", name: "power cut after the write: everything was done", on: withFallback, needs: faults, run: func(b *bench) {
		home := b.enabled()
		for _, step := range []func(card.Profile) card.Command{b.deactivate, b.activate} {
			cmd := step(home)
			s := b.link().session(hashOf(cmd))
			field := s.wrap(cmd.INS, 0, 0, cmd.Data())
			b.card.Inject(b.T, CutAfter)
			b.lost(s.ch, s.command(cmd.INS, 0, 0, field))
			s = b.link().session(hashOf(cmd))
			b.change(cmd, s.operate(cmd), s.suite)
			s.unchanged("wholly after")
		}
	}},
	{section: "§8", name: "a write that fails: 7F, nothing changed", on: withFallback, needs: faults, run: func(b *bench) {
		cmd := b.deactivate(b.enabled())
		s := b.link().session(hashOf(cmd))
		b.card.Inject(b.T, WriteFails)
		raw, sw := s.do(cmd.INS, 0, 0, cmd.Data())
		assert.Equal(b, apdu.SWMemoryFailure.Hex(), sw.Hex())
		if len(raw) > 0 {
			a := b.parse(cmd, raw, sw)
			assert.Equal(b, card.UndefinedError.Hex(), a.result.Hex())
			assert.Equal(b, card.Enabled, a.state)
			assert.Nil(b, a.fallback)
			assert.Equal(b, b.rec.EventCounter, a.counter)
		}
		s.unchanged()
		b.reset()
		b.link().reading().unchanged("after a reset")
		b.link().done(cmd, "the same request is done now")
	}},
	{section: "§8", name: "the count of failures is written before 6300", on: standard, needs: faults, run: func(b *bench) {
		_, _, before := b.info()
		c := b.link().challenge()
		bad := c.answer()
		bad[len(bad)-1] ^= 0x01
		b.card.Inject(b.T, CutAfter)
		b.lost(c.ch, c.external(bad))
		_, _, after := b.info()
		assert.Equal(b, before[b.card.Server.KID]+1, after[b.card.Server.KID])
	}},
}
