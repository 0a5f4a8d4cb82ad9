// Command run runs trials of package requests. Its last line is "trials N,
// mismatches M, seed S"; its exit status is 0 where M is 0. It runs below the
// module's root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture/requests"
)

func main() {
	requests.Enter()
	var o requests.Options
	n := flag.Int("n", 2000, "trials")
	flag.Uint64Var(&o.Seed, "seed", 0, "what is left to chance; 0: another one each time")
	trial := flag.Int("trial", -1, "run this trial alone, and tell what happened")
	times := flag.Int("times", 1, "how often, with -trial")
	flag.DurationVar(&o.Limit, "limit", 0, "begin no further trial after that time; 0: run all")
	page := flag.String("page", "", "write the table of outcomes to this `file`")
	flag.Parse()
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	o.Trials, o.Out, o.Every, o.Verbose = requests.Numbers(*n), os.Stdout, 10*time.Second, *trial >= 0
	if *trial >= 0 {
		o.Trials = nil
		for range *times {
			o.Trials = append(o.Trials, *trial)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, *page)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "torture: %v\n", err)
		os.Exit(1)
	}
}

var errMismatches = errors.New("records and cards disagree")

func run(ctx context.Context, o requests.Options, page string) error {
	fmt.Printf("seed %d\n", o.Seed)
	sum, err := requests.Run(ctx, o)
	if page != "" && err == nil {
		err = os.WriteFile(page, []byte(sum.Page()), 0o644)
	}
	if sum.Mismatches > 0 {
		err = errors.Join(err, errMismatches)
	}
	fmt.Printf("%d faults happened, %d trials killed a process, %s\n", sum.Struck, sum.Real, sum.Took.Round(100*time.Millisecond))
	fmt.Println(sum)
	return err
}
