package torture

import (
	"flag"
	"os"
	"testing"
)

// All, as a number of trials, is the whole matrix.
const All = -1

// Flags are those of a test program that tortures.
type Flags struct {
	trials *int
	seed   *uint64
	trial  *string
}

// NewFlags defines the flags; it is for a variable of a test package.
func NewFlags() *Flags {
	return &Flags{
		trials: flag.Int("torture.trials", 0, "trials on each stack: `N`, -1 for the whole matrix, 0 for a small sample"),
		seed:   flag.Uint64("torture.seed", 1, "what is left to chance"),
		trial:  flag.String("torture.trial", "", "repeat one trial, as a mismatch names it"),
	}
}

// triples are trials with a card that takes suite 03 alone: a sample, for the
// commands are the same.
var triples = []string{"operation/triple/0/8:pulled:after", "server/triple/0/6:pulled:after"}

// Test runs on s what the flags say, a sample of the torment where they say
// nothing, and fails t at every mismatch, with what repeats it. command is the
// go command's arguments that run this test.
func (f *Flags) Test(t *testing.T, s Stack, torment Torment, sample int, o Options, command string) {
	t.Helper()
	plan := torment.Plan(o)
	plan.Seed, plan.Lines = *f.seed, os.Stdout
	for _, text := range triples {
		trial, err := ParseTrial(text)
		if err != nil {
			t.Fatal(err)
		}
		trial.Seed = plan.Seed
		plan.Extra = append(plan.Extra, trial)
	}
	switch *f.trials {
	case 0:
		plan.Trials = sample
	case All:
	default:
		plan.Trials = max(1, *f.trials-len(plan.Extra))
	}
	var sum Summary
	if *f.trial != "" {
		trial, err := ParseTrial(*f.trial)
		if err != nil {
			t.Fatal(err)
		}
		r := Run(t.Context(), s, trial, plan.Options)
		t.Log(r.Log)
		sum.add(r, plan.Lines)
	} else {
		sum = plan.Run(t.Context(), s)
	}
	t.Logf("%s: %s, seed %d", s.Name(), sum, plan.Seed)
	for _, r := range sum.Results {
		for _, m := range r.Mismatches {
			t.Errorf("%s: %s\n%s\nrepeat it by: go %s -torture.trial %s", r.Trial, m, r.Log, command, r.Trial)
		}
	}
}
