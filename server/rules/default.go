package rules

import (
	_ "embed"
	"sync"
)

// DefaultYAML is the file of the shipped set.
//
//go:embed default.yaml
var DefaultYAML []byte

var defaultSet = sync.OnceValue(func() *Set {
	s, err := Parse("default.yaml", DefaultYAML)
	if err != nil {
		panic(err) // the tests load it
	}
	return s
})

// Default is the shipped set: with its variables as they are it asks that the
// operator registered the card, that the profile is there, the operator's and
// enabled, that POL2 lets it be disabled, that a card of the group lifeline is
// not left without a working profile, and, for a card of the group critical, a
// second user's approval.
func Default() *Set { return defaultSet() }
