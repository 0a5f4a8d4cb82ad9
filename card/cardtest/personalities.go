package cardtest

import (
	"slices"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

var both = []cryptogram.Suite{cryptogram.Suite01, cryptogram.Suite03}

// Profiles of every kind: ICCIDs of 18 to 20 digits and with letters, MNCs of
// two and three digits, names beyond ASCII, every class and policy rule.
var (
	home   = profile("898603D0A1B2C3E40042", "46011", card.Profile{State: card.Enabled, Class: card.Operational, Provider: "Operator Eleven", Name: "home"})
	spare  = profile("89014100000000000434", "310410", card.Profile{Class: card.Test, Provider: "Opérateur", Name: "spare"})
	kept   = profile("898600123456789012", "00101", card.Profile{Class: card.Operational, PPR2: true, Provider: "运营商", Name: "may not be deleted"})
	locked = profile("8986011234567890123", "46011", card.Profile{Class: card.Operational, PPR1: true, PPR2: true, Provider: "Operator Eleven", Name: "may not be disabled"})
	rescue = profile("89860000000000000018", "46000", card.Profile{Class: card.Provisioning, Fallback: true, Provider: "Operator Zero", Name: "fallback"})
)

var (
	standard = Personality{Suites: both, Profiles: []card.Profile{home, spare, kept, locked}, EventCounter: 256}
	// withFallback falls back on rescue.
	withFallback = standard.with(home, spare, rescue)
	// fallenBack has fallen back; its fallback profile has PPR1 too.
	fallenBack = standard.with(disabled(home), spare, enabled(ppr1(rescue)))
	// noneEnabled has a fallback profile, but not yet in use.
	noneEnabled = standard.with(disabled(home), spare, rescue)
	// lockedIn has a profile enabled that may not be disabled.
	lockedIn = standard.with(disabled(home), spare, enabled(locked))
	// triple takes DEACTIVATE and ACTIVATE in suite 03 only.
	triple           = standard.strict()
	tripleFallenBack = fallenBack.strict()
	tripleLockedIn   = lockedIn.strict()
	// single has one auth key.
	single = Personality{Suites: []cryptogram.Suite{cryptogram.Suite01}, Profiles: standard.Profiles}
	// shortOnly takes no extended length.
	shortOnly = Personality{Suites: both, Profiles: standard.Profiles, ShortOnly: true}
	// largeEnc has an enc key that takes M2 in one block.
	largeEnc = Personality{Suites: both, Profiles: standard.Profiles, EncBits: 3072}
	// worn has nearly as many failures counted as fit.
	worn = Personality{Suites: both, Profiles: standard.Profiles, Failures: 0xFFFE}
)

func profile(iccid, owner string, p card.Profile) card.Profile {
	var err error
	if p.ICCID, err = id.ParseICCID(iccid); err != nil {
		panic(err)
	}
	if p.Owner, err = id.ParseMCCMNC(owner); err != nil {
		panic(err)
	}
	return p
}

func enabled(p card.Profile) card.Profile  { p.State = card.Enabled; return p }
func disabled(p card.Profile) card.Profile { p.State = card.Disabled; return p }
func ppr1(p card.Profile) card.Profile     { p.PPR1 = true; return p }

func (p Personality) with(profiles ...card.Profile) Personality {
	p.Profiles = slices.Clone(profiles)
	return p
}

func (p Personality) strict() Personality {
	p.RequireTriple = true
	return p
}
