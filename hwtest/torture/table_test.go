package torture

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// torments are run on a desk, so that nothing but their shape counts.
type tormentedDesk struct {
	desk
	torment Torment
}

func (d *tormentedDesk) Name() string    { return d.torment.Name }
func (d *tormentedDesk) Faults() []Fault { return d.torment.Faults }

// The page has every step of every stack, with an outcome in every cell.
func TestTableIsWhole(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "faults.md"))
	require.NoError(t, err)
	var want []Result
	for _, torment := range Torments {
		want = append(want, tripled(t, torment.Name)...)
		s := &tormentedDesk{torment: torment}
		p := torment.Plan(quick)
		var settings []setting
		for _, kind := range p.Kinds {
			for _, driver := range p.Drivers {
				r := Run(t.Context(), s, Trial{Driver: driver, Kind: kind}, quick)
				require.Empty(t, r.Mismatches, r.Log)
				settings = append(settings, setting{driver, kind, len(r.Steps)})
				want = append(want, r)
			}
		}
		for _, trial := range p.matrix(s, settings) {
			want = append(want, Result{Stack: torment.Name, Trial: trial, Outcome: "done", Sessions: 1})
		}
	}
	assert.Equal(t, shape(Table(want)), shape(string(page)), "run make torture-readers")
}

// tripled are the trials beside the matrix.
func tripled(t *testing.T, stack string) (out []Result) {
	for _, text := range triples {
		trial, err := ParseTrial(text)
		require.NoError(t, err)
		out = append(out, Result{Stack: stack, Trial: trial, Outcome: "done", Sessions: 1})
	}
	return out
}

var (
	outcomes = regexp.MustCompile(`(done|refused|failed) in \d+(, stored)?(, replugged)?`)
	figures  = regexp.MustCompile(`(?m)^.*\d+ trials, median .*$|^trials \d+, mismatches 0\.$`)
	lots     = regexp.MustCompile(`(?m)\n### Two faults in one deactivation, drawn by lot\n\n(- .*\n)+`)
)

// shape is a page without what may come out otherwise the next time.
func shape(page string) string {
	return figures.ReplaceAllString(lots.ReplaceAllString(outcomes.ReplaceAllString(page, "outcome"), ""), "")
}

func TestTableTellsOfMismatches(t *testing.T) {
	trial := Trial{Driver: Server, Kind: Short, Injections: []Injection{{1, Mute, After}}, Seed: 4}
	double := trial
	double.Injections = []Injection{{1, Mute, After}, {2, Killed, Before}}
	page := Table([]Result{
		{Stack: "calls", Trial: Trial{Driver: Server, Kind: Short}, Steps: []string{"SELECT", "GET DATA"}, Outcome: "done", Sessions: 1},
		{Stack: "calls", Trial: trial, Mismatches: []string{"x"}},
		{Stack: "calls", Trial: double, Outcome: "done", Sessions: 3, Stored: true},
	})
	for _, want := range []string{
		"trials 3, mismatches 1.", "| 1 SELECT | not run | **MISMATCH** server/short/4/1:mute:after |", "- done in 3, stored: 1 trials",
	} {
		assert.Contains(t, page, want)
	}
	assert.NotEqual(t, shape(page), shape(Table(nil)))
}
