package torture

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
)

var quick = Options{Wait: 20 * time.Millisecond, Limit: 20 * time.Second}

func TestPlan(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	p := Plan{Drivers: []string{Server}, Kinds: []string{Extended}, Seed: 3, Options: quick, Lines: &lines}
	sum := p.Run(t.Context(), &desk{})
	require.Len(t, sum.Results, 1+6*3*2, "what goes well, and 6 steps x 3 faults x 2 moments")
	assert.Zero(t, sum.Mismatches, lines.String())
	assert.Equal(t, []string{"SELECT", "GET DATA", "SELECT", "INTERNAL AUTHENTICATE", "EXTERNAL AUTHENTICATE", "DEACTIVATE"}, sum.Results[0].Steps)
	stored := 0
	for i, line := range strings.Split(strings.TrimSpace(lines.String()), "\n") {
		r, ok := ParseLine(line)
		require.True(t, ok)
		r.Log = sum.Results[i].Log
		assert.Equal(t, sum.Results[i], r)
		assert.Equal(t, "done", r.Outcome)
		if r.Stored {
			stored++
			assert.Equal(t, []Injection{{6, r.Trial.Injections[0].Fault, After}}, r.Trial.Injections)
		}
	}
	assert.Equal(t, 3, stored, "DEACTIVATE was carried out, its answer lost")

	p.Trials = 1 + 6*3*2 + 4
	trials := p.trials(&desk{}, []setting{{Server, Extended, 6}})
	require.Len(t, trials, p.Trials-1)
	for _, trial := range trials[len(trials)-4:] {
		assert.Len(t, trial.Injections, 2)
		assert.Empty(t, Run(t.Context(), &desk{}, trial, quick).Mismatches, trial)
	}
}

func TestSample(t *testing.T) {
	p := Plan{Drivers: []string{Operation, Server}, Kinds: []string{Extended, Short}, Seed: 9, Trials: 16}
	settings := []setting{{Operation, Extended, 8}, {Server, Extended, 6}, {Operation, Short, 12}, {Server, Short, 9}}
	trials := p.trials(&desk{}, settings)
	assert.Len(t, trials, 12)
	assert.Equal(t, trials, p.trials(&desk{}, settings), "the seed decides")
	columns := map[column]int{}
	for _, trial := range trials {
		columns[column{trial.Injections[0].Fault, trial.Injections[0].Moment}]++
	}
	assert.Len(t, columns, 6)
	for c, n := range columns {
		assert.Equal(t, 2, n, c)
	}
	p.Trials = 3
	assert.Empty(t, p.trials(&desk{}, settings))
}

func TestOperationOverShortCommands(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"", "5:pulled:after", "7:mute:before", "15:bounced:after"} {
		trial, err := ParseTrial("operation/extended/1/" + at)
		require.NoError(t, err)
		r := Run(t.Context(), &desk{shortOnly: true}, trial, quick)
		assert.Empty(t, r.Mismatches, r.Log)
		assert.Equal(t, "done", r.Outcome)
	}
}

// What disagrees is found, whoever is wrong.
func TestMismatches(t *testing.T) {
	defer delete(drivers, "liar")
	for name, c := range map[string]struct {
		lie  func(r *report)
		want string
	}{
		"done and undone":   {func(r *report) { r.outcome = "failed" }, "outcome failed, and the card did it 1 times"},
		"unknown":           {func(r *report) { r.outcome = "unknown" }, "unknown though the card is there"},
		"record's counter":  {func(r *report) { r.record.Counter++ }, "the record has event counter 7"},
		"record's profile":  {func(r *report) { r.record.Profiles[id.ICCID{}] = true }, "the record has"},
		"no proof":          {func(r *report) { r.proof = nil }, "done without the card's answer"},
		"proof of another":  {func(r *report) { r.proof.command.Reason++ }, "the receipt does not verify"},
		"proof is not this": {func(r *report) { r.proof.receipt = r.proof.receipt[1:] }, "the receipt does not verify"},
	} {
		drivers["liar"] = func(ctx context.Context, b bench) (report, error) {
			r, err := operate(ctx, b)
			c.lie(&r)
			return r, err
		}
		res := Run(t.Context(), &desk{}, Trial{Driver: "liar", Kind: Triple, Seed: 1}, quick)
		require.NotEmpty(t, res.Mismatches, name)
		assert.Contains(t, strings.Join(res.Mismatches, "\n"), c.want, name)
		assert.NotEmpty(t, res.Log, name)
	}

	drivers["liar"] = func(_ context.Context, b bench) (report, error) {
		return report{outcome: "done", record: stateOfImage(b.image)}, nil
	}
	res := Run(t.Context(), &desk{}, Trial{Driver: "liar", Kind: Extended, Seed: 1}, quick)
	assert.Contains(t, strings.Join(res.Mismatches, "\n"), "outcome done, and the card did it 0 times")

	res = Run(t.Context(), &desk{}, Trial{Driver: Operation, Kind: Extended, Injections: []Injection{{9, Pulled, Before}}}, quick)
	assert.Contains(t, strings.Join(res.Mismatches, "\n"), "1 faults did not strike: there were 8 commands")
	assert.Contains(t, res.Cell(), "MISMATCH")
}

func TestPlanGivesUp(t *testing.T) {
	d := &desk{out: true}
	p := Plan{Drivers: []string{Operation, Server}, Kinds: []string{Extended, Short}, Options: Options{Wait: time.Millisecond, Limit: 10 * time.Millisecond}}
	sum := p.Run(t.Context(), d)
	assert.Len(t, sum.Results, maxBroken)
	assert.Equal(t, maxBroken, sum.Mismatches)
}
