package rules

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The shipped set on a card of four profiles, every rule asked: as it mostly is,
// and metered, as it is where a record is beyond the bounds of the estimates.
func BenchmarkEvaluate(b *testing.B) {
	set, plain, beyond := Default(), allowed(b), allowed(b)
	beyond.User = strings.Repeat("x", maxString+1)
	require.True(b, plain.bounded())
	require.False(b, beyond.bounded())
	for name, in := range map[string]*Input{"plain": plain, "metered": beyond} {
		b.Run(name, func(b *testing.B) {
			require.Len(b, set.Evaluate(in).Ran, len(set.rules))
			b.ReportAllocs()
			for b.Loop() {
				set.Evaluate(in)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("default.yaml", DefaultYAML); err != nil {
			b.Fatal(err)
		}
	}
}
