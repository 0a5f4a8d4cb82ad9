package requests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/server/store"
)

// Options say which trials to run.
type Options struct {
	Seed   uint64
	Trials []int         // their numbers
	Limit  time.Duration // after it no further trial begins; 0: none
	Out    io.Writer     // gets mismatches with their stories
	Every  time.Duration // tells how far it has come, that often; 0: never
	// Verbose tells of every trial what happened.
	Verbose bool

	sabotage *sabotage
	patience time.Duration
}

// Numbers are 0 to n-1, the trials of a whole run.
func Numbers(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// Result is how a trial ended.
type Result struct {
	Trial      *Trial
	Struck     bool // its fault happened
	Real       bool // a process was killed
	Outcomes   map[store.State]int
	Mismatches []string
	Story      string // where there are mismatches
	Took       time.Duration
}

// Summary is how a run ended.
type Summary struct {
	Seed       uint64
	Trials     int
	Struck     int
	Real       int
	Mismatches int // trials with any
	Failed     []Result
	Took       time.Duration
	Cells      map[Cell]*Count
}

// Cell is a place in the table of outcomes.
type Cell struct {
	Step   Step
	Moment torture.Moment
	Fault  Fault
}

// Count is what became of the requests of the trials of a cell.
type Count struct {
	Trials   int
	Outcomes map[store.State]int
}

// String is the last line of a run.
func (s *Summary) String() string {
	return fmt.Sprintf("trials %d, mismatches %d, seed %d", s.Trials, s.Mismatches, s.Seed)
}

func (s *Summary) add(r Result) {
	s.Trials++
	if r.Real {
		s.Real++
	}
	if len(r.Mismatches) > 0 {
		s.Mismatches++
		s.Failed = append(s.Failed, r)
	}
	if !r.Struck {
		return
	}
	s.Struck++
	at := Cell{r.Trial.Main.Step, r.Trial.Main.Moment, r.Trial.Main.Fault}
	c := s.Cells[at]
	if c == nil {
		c = &Count{Outcomes: map[store.State]int{}}
		s.Cells[at] = c
	}
	c.Trials++
	for state, n := range r.Outcomes {
		c.Outcomes[state] += n
	}
}

// lanes are how many worlds there are for each kind of record. Those that
// restart go in step.
var lanes = map[record]int{sqliteOne: 5, postgresOne: 4, postgresTwo: 4, childSQLite: 1, childTwo: 1, restartedOne: 4, restartedTwo: 4}

// longLived is how many trials a world has before a new one takes its place.
const longLived = 60

// Run runs trials. The error says that they could not be run; mismatches are in
// the summary alone.
func Run(ctx context.Context, o Options) (*Summary, error) {
	began := time.Now()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // there is memory enough, and never time
	sum := &Summary{Seed: o.Seed, Cells: map[Cell]*Count{}}
	queues := map[record][]*Trial{}
	wanted := map[record]bool{}
	for _, n := range o.Trials {
		t := PlanTrial(o.Seed, n)
		queues[t.Record] = append(queues[t.Record], t)
		wanted[t.Record] = true
	}
	b, err := newBench(ctx, wanted)
	if err != nil {
		return sum, err
	}
	b.sabotage, b.verbose, b.patience = o.sabotage, o.Verbose, cmp.Or(o.patience, patience)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.Limit > 0 {
		b.until = began.Add(o.Limit)
	}
	var mu sync.Mutex
	var errs []error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
		cancel()
	}
	took := time.Now()
	report := func(r Result) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return // it was cut off
		}
		sum.add(r)
		if o.Out == nil {
			return
		}
		if len(r.Mismatches) > 0 {
			fmt.Fprintf(o.Out, "MISMATCH in %s\n%s\n", r.Trial, r.Story)
		} else if o.Verbose {
			fmt.Fprintf(o.Out, "%s\n%s\n", r.Trial, r.Story)
		}
		if o.Every > 0 && time.Since(took) > o.Every {
			took = time.Now()
			fmt.Fprintf(o.Out, "%d of %d trials, mismatches %d, %s\n", sum.Trials, len(o.Trials), sum.Mismatches, time.Since(began).Round(time.Second))
		}
	}
	var running sync.WaitGroup
	for r, queue := range queues {
		if r.restarts() {
			continue
		}
		trials := make(chan *Trial, len(queue))
		for _, t := range queue {
			trials <- t
		}
		close(trials)
		for range min(lanes[r], len(queue)) {
			running.Go(func() {
				if err := b.lane(ctx, r, trials, report); err != nil {
					fail(err)
				}
			})
		}
	}
	running.Go(func() {
		if err := b.restarting(ctx, queues, report); err != nil {
			fail(err)
		}
	})
	running.Wait()
	sum.Took = time.Since(began)
	return sum, errors.Join(append(errs, b.close())...)
}

// over reports whether no further trial is to begin.
func (b *bench) over() bool { return !b.until.IsZero() && time.Now().After(b.until) }

// lane runs trials one after the other.
func (b *bench) lane(ctx context.Context, r record, trials <-chan *Trial, report func(Result)) (err error) {
	var w *world
	var last *play // of the world, not told of yet: it answers for the audit trail
	tell := func() {
		if last != nil {
			report(last.result())
			last = nil
		}
	}
	end := func() error {
		if w == nil {
			return nil
		}
		defer func() { w = nil }()
		if last != nil && ctx.Err() == nil {
			last.compareTrail()
		}
		tell()
		return w.close()
	}
	defer func() { err = errors.Join(err, end()) }()
	used := 0
	for t := range trials {
		if b.over() {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if w == nil || used == longLived {
			if err := end(); err != nil {
				return err
			}
			if w, err = b.newWorld(ctx, r); err != nil {
				return err
			}
			used = 0
		}
		used++
		tell()
		last = w.trial(ctx, t)
	}
	return nil
}

// restarting runs the trials that PostgreSQL restarts under, as many at a time
// as there are worlds for them.
func (b *bench) restarting(ctx context.Context, queues map[record][]*Trial, report func(Result)) error {
	worlds := map[record][]*world{}
	defer func() {
		for _, list := range worlds {
			for _, w := range list {
				_ = w.close()
			}
		}
	}()
	for round := 0; len(queues[restartedOne])+len(queues[restartedTwo]) > 0 && !b.over(); round++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var ws []*world
		var ts []*Trial
		for _, r := range []record{restartedOne, restartedTwo} {
			n := min(lanes[r], len(queues[r]))
			for len(worlds[r]) < n {
				w, err := b.newWorld(ctx, r)
				if err != nil {
					return err
				}
				worlds[r] = append(worlds[r], w)
			}
			ws, ts = append(ws, worlds[r][:n]...), append(ts, queues[r][:n]...)
			queues[r] = queues[r][n:]
		}
		step := newRestart(ctx, b.brittle, round%3 > 0, ws)
		var running sync.WaitGroup
		for i, w := range ws {
			running.Go(func() {
				defer func() { _ = step.leave(w) }()
				p := w.trial(ctx, ts[i])
				p.compareTrail()
				report(p.result())
			})
		}
		running.Wait()
		if (round+1)%longLived == 0 {
			for r, list := range worlds {
				for _, w := range list {
					if err := w.close(); err != nil {
						return err
					}
				}
				delete(worlds, r)
			}
		}
	}
	return nil
}

// trial runs one trial in the world. The audit trail is still to be proven.
func (w *world) trial(ctx context.Context, t *Trial) *play {
	p, err := w.run(ctx, t)
	if err != nil {
		p.mismatch("the trial broke: %v", err)
	}
	p.took = time.Since(p.began)
	return p
}

// result is how the trial ended.
func (p *play) result() Result {
	r := Result{Trial: p.Trial, Struck: p.struck, Real: p.w.record.child() || p.w.restart.happened(), Outcomes: map[store.State]int{}, Took: p.took}
	for _, q := range p.requests {
		r.Outcomes[q.State]++
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Mismatches, r.Story = p.mismatches, ""
	if len(r.Mismatches) > 0 || p.w.bench.verbose {
		r.Story = p.words()
	}
	return r
}

// words are what happened, for people.
func (p *play) words() string {
	var b strings.Builder
	for _, m := range p.mismatches {
		fmt.Fprintf(&b, "  %s\n", m)
	}
	b.WriteString("what happened:\n")
	for _, line := range p.story {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	b.WriteString("what is recorded:\n")
	for _, line := range p.record {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	fmt.Fprintf(&b, "to run it alone: %s", p.Command())
	return b.String()
}

// Table is the outcomes by step and fault, in Markdown.
func (s *Summary) Table() string {
	var b strings.Builder
	b.WriteString("| step |")
	for _, f := range Faults {
		fmt.Fprintf(&b, " %s |", f.Words())
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(Faults)) + "\n")
	for _, step := range Steps {
		for _, m := range torture.Moments {
			fmt.Fprintf(&b, "| %s, %s |", step, m)
			for _, f := range Faults {
				fmt.Fprintf(&b, " %s |", s.Cells[Cell{step, m, f}])
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// String is a cell: how many trials, and what became of their requests.
func (c *Count) String() string {
	if c == nil {
		return "–"
	}
	parts := []string{}
	for _, state := range slices.Sorted(maps.Keys(c.Outcomes)) {
		parts = append(parts, fmt.Sprintf("%s %d", state, c.Outcomes[state]))
	}
	return fmt.Sprintf("%d: %s", c.Trials, strings.Join(parts, ", "))
}

// Page is docs/faults-server.md.
func (s *Summary) Page() string { return fmt.Sprintf(page, s.Table(), s.Struck, s.Real, s) }
