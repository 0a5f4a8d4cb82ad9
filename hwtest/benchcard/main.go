// Command benchcard measures the emulated card: APDUs a second in process and
// through pcscd and vpcd, there against libcacard's CAC card with the same client
// in the same run, in slices that alternate; the same with persistence and
// without; the program's start; the memory of a card. Its last line is
//
//	ratio emulator/libcacard VALUE
//
// the median of the slices' paired ratios of APDU rates, above 1 where the
// emulator is faster. Its two parts are a SELECT by AID and a read of 10 bytes
// (READ BINARY; READ BUFFER of 10 bytes).
//
// It needs what hwtest/rig needs, a C compiler, libcacard's headers and certutil.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

func main() {
	rig.Enter()
	if os.Getenv(roleVar) != "" {
		if err := beCard(); err != nil {
			fmt.Fprintln(os.Stderr, "benchcard:", err)
			os.Exit(1)
		}
		return
	}
	o := options{}
	flag.IntVar(&o.rounds, "rounds", 100, "pairs of slices for each command")
	flag.IntVar(&o.count, "count", 60, "exchanges in a slice")
	flag.IntVar(&o.cards, "cards", 1000, "cards whose memory is measured")
	flag.IntVar(&o.starts, "starts", 20, "starts of the program")
	flag.Parse()
	if err := rig.RealTime(); err != nil {
		fmt.Printf("other programs' work is in the figures: no real-time priority: %v\n", err)
	}
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "benchcard:", err)
		os.Exit(1)
	}
}

type options struct{ rounds, count, cards, starts int }

func run(ctx context.Context, o options) error {
	if err := inProcess(); err != nil {
		return err
	}
	if err := memory(o.cards); err != nil {
		return err
	}
	if err := startUp(ctx, o.starts); err != nil {
		return err
	}
	ratio, err := against(ctx, o)
	if err == nil {
		fmt.Printf("ratio emulator/libcacard %.3f\n", ratio)
	}
	return err
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
