package rules

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The shipped set on a card of four profiles, each rule asked.
func BenchmarkEvaluate(b *testing.B) {
	in := allowed(b)
	set := Default()
	require.Nil(b, set.Evaluate(in).Refusal)
	b.ReportAllocs()
	for b.Loop() {
		set.Evaluate(in)
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
