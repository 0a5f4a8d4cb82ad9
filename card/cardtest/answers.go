package cardtest

import (
	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// keptAnswers is how many answers a card keeps (§8).
const keptAnswers = 8

// §8, stored answers.
var answers = []test{
	{section: "§8", name: "the same request again: the same answer", on: standard, run: func(b *bench) {
		home := b.enabled()
		off := b.deactivate(home)
		offAnswer := b.link().done(off)
		b.link().repeated(off, offAnswer, "at once")
		b.reset()
		b.link().repeated(off, offAnswer, "after a reset")
		if b.card.PowerCycle != nil {
			b.powerCycle()
			b.link().repeated(off, offAnswer, "after power-off")
		} else {
			b.omit("power-off: " + b.lacks(powerCycle))
		}
		b.link().over(b.channel()).repeated(off, offAnswer, "on another channel")
		on := b.activate(home)
		onAnswer := b.link().done(on)
		b.link().repeated(off, offAnswer, "after the state has changed again")
		b.link().repeated(on, onAnswer, "ACTIVATE")
	}},
	{section: "§8", name: "a stored answer keeps its suite and receipt", on: standard, needs: twoSuites, run: func(b *bench) {
		home := b.enabled()
		off, on := b.deactivate(home), b.activate(home)
		offAnswer := b.link().in(3).done(off)
		b.link().in(1).repeated(off, offAnswer, "done in 03, asked in 01")
		on.Counter = b.rec.EventCounter
		onAnswer := b.link().in(1).done(on)
		b.link().in(3).repeated(on, onAnswer, "done in 01, asked in 03")
	}},
	{section: "§8", name: "a stored answer for another server", on: standard, needs: otherSet, run: func(b *bench) {
		home := b.enabled()
		off := b.deactivate(home)
		a := b.link().done(off)
		b.link().in(cryptogram.Suite01).by(*b.card.Other).repeated(off, a)
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "a stored answer comes before every check", on: triple, run: func(b *bench) {
		home := b.enabled()
		off := b.deactivate(home)
		a := b.link().in(3).done(off)
		b.link().in(1).repeated(off, a, "suite 01 under require_triple, the counter and the state passed by")
		b.link().in(3).done(b.activate(home))
	}},
	{section: "§8", name: "a stored answer with a fallback profile", on: withFallback, run: func(b *bench) {
		home := b.enabled()
		off := b.deactivate(home)
		a := b.link().done(off)
		b.link().repeated(off, a)
		b.link().done(b.activate(home))
		b.link().repeated(off, a, "after the state has changed again")
	}},
	{section: "§8", name: "DEACTIVATE without 80 again", on: standard, run: func(b *bench) {
		home, spare := b.enabled(), b.spare()
		off := noICCID(b.deactivate(home))
		a := b.link().done(off)
		b.link().repeated(off, a, "none is enabled")
		b.link().done(b.activate(spare))
		b.link().repeated(off, a, "another is enabled")
		b.link().done(b.deactivate(spare))
		b.link().done(b.activate(home))
	}},
	{section: "§8", name: "the last 8 done are kept", on: standard, run: func(b *bench) {
		home := b.enabled()
		var cmds []card.Command
		var given []answer
		next := func() {
			cmd := b.deactivate(home)
			if len(cmds)%2 == 1 {
				cmd = b.activate(home)
			}
			cmds, given = append(cmds, cmd), append(given, b.link().done(cmd))
		}
		for range keptAnswers {
			next()
		}
		for i := range cmds {
			b.link().repeated(cmds[i], given[i], "%d of 8", i+1)
		}
		b.link().repeated(cmds[0], given[0], "the first again, which does not make it the last")
		next()
		b.link().refused(0x14, cmds[0], "the first of 9 is forgotten")
		b.link().repeated(cmds[1], given[1], "the second of 9")
		b.link().repeated(cmds[8], given[8], "the last of 9")
		reused := b.activate(home)
		reused.RequestID = cmds[0].RequestID
		b.link().done(reused, "the forgotten id can be used again")
	}},
	{section: "§8", name: "a refusal is not stored: its id may be used again", on: standard, run: func(b *bench) {
		home, spare := b.enabled(), b.spare()
		cmd := b.deactivate(home)
		b.link().refused(0x14, otherCounter(cmd, 1))
		b.link().refused(0x10, otherOperator(cmd, b.stranger()))
		b.link().refused(0x01, otherICCID(cmd, b.strange()))
		b.link().refused(0x02, otherOperator(otherICCID(cmd, spare.ICCID), spare.Owner))
		b.link().done(cmd)

		again := b.deactivate(home)
		b.link().refused(0x02, again, "it is disabled")
		b.link().done(b.activate(home))
		b.link().refused(0x14, again, "the same bytes are looked at anew")
	}},
	{section: "§8", name: "a refusal is signed over its command and its answer", on: standard, run: func(b *bench) {
		one, two := b.deactivate(b.spare()), b.deactivate(b.spare())
		first, second := b.link().refused(0x02, one), b.link().refused(0x02, two)
		assert.NotEqual(b, first.raw, second.raw)
		third := b.link().refused(0x02, one)
		assert.Equal(b, first.raw, third.raw, "PrivEnc is deterministic")
	}},
}
