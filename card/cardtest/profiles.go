package cardtest

import (
	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// §7.
var profiles = []test{
	{section: "§7", name: "GET STATUS answers the profiles and the event counter", on: standard, run: func(b *bench) {
		for _, suite := range b.rec.Suites {
			b.link().in(suite).reading().unchanged("suite %s", suite)
		}
	}},
	{section: "§7", name: "the fallback attribute", on: withFallback, run: func(b *bench) { b.link().reading().unchanged() }},
	{section: "§7", name: "in any session, before and after its one command", on: standard, run: func(b *bench) {
		cmd := b.deactivate(b.spare())
		s := b.link().session(hashOf(cmd))
		s.unchanged("before")
		s.operate(cmd)
		s.unchanged("after")
		s.unchanged("again")
	}},
	{section: "§7", name: "package card reads the same", on: standard, run: func(b *bench) {
		status := b.readStatus()
		assert.Equal(b, b.rec.Profiles, status.Profiles)
		assert.Equal(b, b.rec.EventCounter, status.EventCounter)
	}},
	{section: "§7", name: "each operation done adds 1 to the event counter, others nothing", on: standard, run: func(b *bench) {
		home := b.enabled()
		check := func(what string) {
			b.choose(b.basic)
			counter, _, _ := b.info()
			assert.Equal(b, b.rec.EventCounter, counter, what)
		}
		first := b.deactivate(home)
		a := b.link().done(first)
		check("done")
		b.link().repeated(first, a)
		check("repeated")
		b.link().refused(0x02, b.deactivate(home))
		check("refused")
		b.link().challenge().failure(apdu.SWAuthenticationFailed)
		check("failed")
		b.reset()
		check("reset")
		b.link().done(b.activate(home))
		check("done")
	}},
	{section: "§7", name: "operations in both suites", on: standard, needs: twoSuites, run: func(b *bench) {
		home := b.enabled()
		for _, suite := range []cryptogram.Suite{cryptogram.Suite01, cryptogram.Suite03} {
			b.link().in(suite).done(b.deactivate(home), "suite %s", suite)
			b.link().in(suite).done(b.activate(home), "suite %s", suite)
		}
	}},
}
