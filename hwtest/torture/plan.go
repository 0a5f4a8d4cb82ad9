package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
)

// Plan says which trials to run on a stack.
type Plan struct {
	Drivers []string
	Kinds   []string
	// Trials is how many: all of the matrix, and beyond it trials with two
	// faults; fewer are taken out of it. 0 is the matrix.
	Trials int
	// Extra are trials that are run beside them.
	Extra []Trial
	// Seed decides all that is left to chance.
	Seed    uint64
	Options Options
	// Lines gets each result on a line of its own (Result.Line); it may be nil.
	Lines io.Writer
}

// Summary is how the trials on a stack ended.
type Summary struct {
	Results    []Result
	Mismatches int // trials with any
}

// String is the line trials N, mismatches M.
func (s Summary) String() string {
	return fmt.Sprintf("trials %d, mismatches %d", len(s.Results), s.Mismatches)
}

func (s *Summary) add(r Result, lines io.Writer) {
	s.Results = append(s.Results, r)
	if len(r.Mismatches) > 0 {
		s.Mismatches++
	}
	if lines != nil {
		fmt.Fprintln(lines, r.Line())
	}
}

// LineMark begins the line of a result.
const LineMark = "torture "

// Line is the result on one line, to be parsed by ParseLine.
func (r Result) Line() string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	return LineMark + string(b)
}

// ParseLine parses Result.Line; ok reports whether it is one.
func ParseLine(line string) (r Result, ok bool) {
	if len(line) < len(LineMark) || line[:len(LineMark)] != LineMark {
		return r, false
	}
	return r, json.Unmarshal([]byte(line[len(LineMark):]), &r) == nil
}

// setting is a driver and a kind of card, and how many commands the deactivation
// is there.
type setting struct {
	driver, kind string
	steps        int
}

// column is a fault at a moment.
type column struct {
	fault  Fault
	moment Moment
}

func columns(s Stack) (out []column) {
	for _, f := range s.Faults() {
		for _, m := range Moments {
			out = append(out, column{f, m})
		}
	}
	return out
}

// maxBroken is how many trials may break in a row before the stack is given up.
const maxBroken = 3

// Run runs the plan on a stack. It starts with a deactivation in which nothing
// goes wrong for each driver and kind of card: they count too. It ends early
// with ctx, or where trial after trial breaks.
func (p Plan) Run(ctx context.Context, s Stack) Summary {
	var sum Summary
	broken := 0
	run := func(t Trial) (steps int) {
		if ctx.Err() != nil || broken == maxBroken {
			return 0
		}
		r := Run(ctx, s, t, p.Options)
		sum.add(r, p.Lines)
		if broken++; !r.Broken {
			broken = 0
		}
		return len(r.Steps)
	}
	var settings []setting
	for _, kind := range p.Kinds {
		for _, driver := range p.Drivers {
			steps := run(Trial{Driver: driver, Kind: kind, Seed: p.Seed})
			settings = append(settings, setting{driver, kind, steps})
		}
	}
	for _, t := range append(p.trials(s, settings), p.Extra...) {
		run(t)
	}
	return sum
}

func (p Plan) trials(s Stack, settings []setting) []Trial {
	matrix := p.matrix(s, settings)
	switch {
	case p.Trials == 0 || len(matrix) == 0:
		return matrix
	case p.Trials <= len(settings):
		return nil
	case p.Trials < len(settings)+len(matrix):
		return p.sample(s, matrix, p.Trials-len(settings))
	}
	return append(matrix, p.doubles(s, settings, p.Trials-len(settings)-len(matrix))...)
}

func (p Plan) matrix(s Stack, settings []setting) (out []Trial) {
	for _, set := range settings {
		for step := range set.steps {
			for _, c := range columns(s) {
				out = append(out, Trial{set.driver, set.kind, []Injection{{step + 1, c.fault, c.moment}}, p.Seed})
			}
		}
	}
	return out
}

// sample takes n trials out of the matrix, of each column as many, as far as
// that comes out even. Kinds of cards stay together: changing one takes time.
func (p Plan) sample(s Stack, matrix []Trial, n int) []Trial {
	chance := rand.New(rand.NewPCG(p.Seed, 1))
	shuffle(chance, matrix)
	cols := columns(s)
	shuffle(chance, cols)
	var out []Trial
	for i := 0; len(out) < n; i++ {
		c := cols[i%len(cols)]
		j := slices.IndexFunc(matrix, func(t Trial) bool {
			return t.Injections[0].Fault == c.fault && t.Injections[0].Moment == c.moment
		})
		if j >= 0 {
			out = append(out, matrix[j])
			matrix = slices.Delete(matrix, j, j+1)
		}
	}
	slices.SortStableFunc(out, func(a, b Trial) int { return slices.Index(p.Kinds, a.Kind) - slices.Index(p.Kinds, b.Kind) })
	return out
}

// doubles are trials with a second fault, which strikes in the recovery of the
// first or after it.
func (p Plan) doubles(s Stack, settings []setting, n int) []Trial {
	chance := rand.New(rand.NewPCG(p.Seed, 2))
	cols := columns(s)
	var out []Trial
	for range n {
		set := settings[chance.IntN(len(settings))]
		at := func() Injection {
			c := cols[chance.IntN(len(cols))]
			return Injection{1 + chance.IntN(set.steps), c.fault, c.moment}
		}
		out = append(out, Trial{set.driver, set.kind, []Injection{at(), at()}, p.Seed})
	}
	slices.SortStableFunc(out, func(a, b Trial) int { return slices.Index(p.Kinds, a.Kind) - slices.Index(p.Kinds, b.Kind) })
	return out
}

func shuffle[T any](chance *rand.Rand, s []T) {
	chance.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}
