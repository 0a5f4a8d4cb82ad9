// Command emulator plays random sequences of commands and faults on emulated
// cards and holds what becomes of their memory against invariants, which it reads
// out of docs/protocol.md and SGP.22 by itself:
//
//   - at most one profile is enabled;
//   - no profile changes without an authorised command or a legal ES10c call;
//   - the event counter never goes back, and counts each change;
//   - a power cut leaves before or after;
//   - PIN counters never rise without the right value;
//   - a card with power answers, and all its applications see one memory.
//
// One sequence in 64 is played with RSA; in the others the raw RSA operation gives
// back what it is given, and all around it is real. The last line is
// "sequences N, violations M, seed S"; a violation comes with its sequence, as
// short as it still shows it, which -replay plays again.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("torture-card", flag.ContinueOnError)
	flags.SetOutput(stderr)
	n := flags.Uint64("n", 20000, "how many sequences")
	seed := flags.Uint64("seed", 1, "what they are made from")
	workers := flags.Int("workers", runtime.GOMAXPROCS(0), "cards at once")
	replay := flags.String("replay", "", "play the sequence of this file alone")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *replay != "" {
		return playFile(*replay, stdout, stderr)
	}
	sum, err := plan{n: *n, seed: *seed, workers: *workers, found: stdout, progress: stderr}.run(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "torture-card:", err)
		return 2
	}
	fmt.Fprintln(stdout, sum)
	if sum.violations > 0 {
		return 1
	}
	return 0
}

func playFile(path string, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintln(stderr, "torture-card:", err)
		return 2
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	var q sequence
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return fail(fmt.Errorf("%s: %w", path, err))
	}
	t, err := newTorment(q.RSA)
	if err != nil {
		return fail(err)
	}
	broken := t.run(q)
	for _, v := range broken {
		fmt.Fprintf(stdout, "step %d: %s: %s\n", v.Step+1, v.Invariant, v.Detail)
	}
	if len(broken) > 0 {
		return 1
	}
	return 0
}

// plan is a run over many sequences.
type plan struct {
	n, seed         uint64
	workers         int
	spoil           func(*torment) // breaks each card; nil: none
	until           string         // the invariant to be seen broken, which is enough; "": none
	found, progress io.Writer
}

// summary is how it ended.
type summary struct {
	sequences, rsa, steps uint64
	violations            uint64
	seed                  uint64
	broken                map[string]int // violations by invariant
}

func (s summary) String() string {
	return fmt.Sprintf("sequences %d, violations %d, seed %d", s.sequences, s.violations, s.seed)
}

// maxTold is how many violations are minimised and told.
const maxTold = 5

func (p plan) run(ctx context.Context) (summary, error) {
	sum := summary{seed: p.seed, broken: map[string]int{}}
	var mu sync.Mutex
	var next atomic.Uint64
	var all sync.WaitGroup
	failed := make(chan error, p.workers)
	var last time.Time
	begun := time.Now()
	for range p.workers {
		all.Go(func() {
			cards, err := newPair(p.spoil)
			if err != nil {
				failed <- err
				return
			}
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				mu.Lock()
				enough := sum.broken[p.until] > 0
				mu.Unlock()
				if i >= p.n || enough {
					return
				}
				q := generate(p.seed, i)
				broken := cards.of(q).run(q)
				mu.Lock()
				sum.sequences++
				sum.steps += uint64(len(q.Steps))
				if q.RSA {
					sum.rsa++
				}
				tell := len(broken) > 0 && sum.violations < maxTold && (p.until == "" || broken[0].Invariant == p.until)
				if len(broken) > 0 {
					sum.violations++
					sum.broken[broken[0].Invariant]++
				}
				if p.progress != nil && time.Since(last) > 5*time.Second {
					last = time.Now()
					fmt.Fprintf(p.progress, "%d of %d, %.0f/s, violations %d\n", sum.sequences, p.n, float64(sum.sequences)/time.Since(begun).Seconds(), sum.violations)
				}
				mu.Unlock()
				if tell {
					q = minimise(cards.of(q), q, broken[0].Invariant)
					b, err := json.Marshal(q)
					if err != nil {
						failed <- err
						return
					}
					again := cards.of(q).run(q)
					mu.Lock()
					fmt.Fprintf(p.found, "violation: %s\n  %s\n  seed %d, sequence %d; as short as it goes, for -replay:\n%s\n", broken[0].Invariant, first(again, broken).Detail, p.seed, i, b)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return sum, err
	default:
		return sum, nil
	}
}

func first(lists ...[]violation) violation {
	for _, l := range lists {
		if len(l) > 0 {
			return l[0]
		}
	}
	return violation{}
}

// pair is a card without RSA and one with.
type pair [2]*torment

func newPair(spoil func(*torment)) (p pair, err error) {
	for i := range p {
		if p[i], err = newTorment(i == 1); err != nil {
			return p, err
		}
		if spoil != nil {
			spoil(p[i])
		}
	}
	return p, nil
}

func (p pair) of(q sequence) *torment {
	if q.RSA {
		return p[1]
	}
	return p[0]
}

// minimise leaves out of q what it does not take to break the invariant: halves
// first, then ever smaller parts.
func minimise(t *torment, q sequence, invariant string) sequence {
	breaks := func(steps []step) bool {
		try := q
		try.Steps = steps
		broken := t.run(try)
		return len(broken) > 0 && broken[0].Invariant == invariant
	}
	for size := (len(q.Steps) + 1) / 2; size > 0; size /= 2 {
		for at := 0; at < len(q.Steps); {
			without := append(append([]step(nil), q.Steps[:at]...), q.Steps[min(at+size, len(q.Steps)):]...)
			if breaks(without) {
				q.Steps = without
			} else {
				at += size
			}
		}
	}
	return q
}
