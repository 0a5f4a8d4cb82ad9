// Command matrix runs the torture tests of every reader stack side by side, sums
// up their trials, and writes the table of outcomes.
//
// It runs at the module's root. Its last line is "trials N, mismatches M"; its
// exit status is 0 where every trial ran and M is 0.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture"
)

// programs are the test programs and which test of theirs is a stack's. Each
// stack has a process of its own, most of whose time is spent waiting.
var programs = []struct{ folder, test string }{
	{"./hwtest/torture", "TestVPCD"},
	{"./hwtest/torture", "TestPipes"},
	{"./hwtest/torture/usb", "TestGousb"},
	{"./hwtest/torture/usb", "TestLibccid"},
}

func main() {
	trials := flag.Int("n", torture.All, "trials in all, shared out among the stacks; -1: the whole matrix of each")
	seed := flag.Uint64("seed", 1, "what is left to chance")
	table := flag.String("table", "", "write the table of outcomes to this `file`")
	limit := flag.Duration("limit", 15*time.Minute, "the most that it may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, *limit)
	err := run(ctx, os.Stdout, *trials, *seed, *table)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "matrix: %v\n", err)
		os.Exit(1)
	}
}

var errMismatches = errors.New("records and cards disagree")

// run writes the sum to out last of all, also where it fails.
func run(ctx context.Context, out io.Writer, trials int, seed uint64, table string) error {
	each := torture.All
	if trials >= 0 {
		each = max(1, trials/len(programs))
	}
	var (
		mu      sync.Mutex
		results []torture.Result
		errs    []error
		running sync.WaitGroup
	)
	began := time.Now()
	for _, p := range programs {
		running.Go(func() {
			err := test(ctx, p.folder, p.test, each, seed, func(line string) {
				mu.Lock()
				defer mu.Unlock()
				r, ok := torture.ParseLine(line)
				if !ok {
					fmt.Fprintln(out, line)
					return
				}
				results = append(results, r)
				fmt.Fprintln(out, r.Words())
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s in %s: %w", p.test, p.folder, err))
			}
		})
	}
	running.Wait()
	slices.SortStableFunc(results, func(a, b torture.Result) int { return cmp.Compare(a.Stack, b.Stack) })
	if table != "" && len(results) > 0 {
		errs = append(errs, os.WriteFile(table, []byte(torture.Table(results)), 0o644))
	}
	fmt.Fprintf(out, "in %s\n", time.Since(began).Round(time.Second))
	mismatches := 0
	for _, r := range results {
		if len(r.Mismatches) > 0 {
			mismatches++
		}
	}
	if mismatches > 0 {
		errs = append(errs, errMismatches)
	}
	fmt.Fprintf(out, "trials %d, mismatches %d\n", len(results), mismatches)
	return errors.Join(errs...)
}

// test runs one test and hands its output on line by line.
func test(ctx context.Context, folder, name string, trials int, seed uint64, line func(string)) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", "15m", "-run", "^"+name+"$", folder,
		fmt.Sprintf("-torture.trials=%d", trials), fmt.Sprintf("-torture.seed=%d", seed))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<22) // a result may have a log
	for lines.Scan() {
		line(lines.Text())
	}
	return errors.Join(lines.Err(), cmd.Wait())
}
