// Command benchpcsc measures a round trip through pcscd and its virtual reader
// by package pcsc against the same loop in C (SCardTransmit): two processes on
// one card in one reader, in slices that alternate. Then it measures how much of a
// whole deactivation is ours, on a card that takes 0.3 s for each private-key
// operation. Its last lines are that share, and the median of the slices' paired
// ratios of p50 over all sizes:
//
//	ratio ours/card VALUE
//	ratio pcsc/c VALUE
//
// It needs what hwtest/rig needs, and a C compiler with libpcsclite's headers.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// sizes are the commands' lengths, bytes: header and Lc, and with 250 bytes of
// data; the answer is the data and 9000.
var sizes = []int{5, 255}

func main() {
	rig.Enter()
	var err error
	switch os.Getenv(roleVar) {
	case roleCard:
		err = beCard()
	case rolePeer:
		err = bePeer()
	default:
		rounds := flag.Int("rounds", 150, "pairs of slices for each size")
		count := flag.Int("count", 60, "exchanges in a slice")
		deactivations := flag.Int("deactivations", 4, "deactivations of a card with real timing")
		flag.Parse()
		if perr := rig.RealTime(); perr != nil {
			fmt.Printf("other programs' work is in the figures: no real-time priority: %v\n", perr)
		}
		var ratio, ours float64
		if ratio, err = run(*rounds, *count); err == nil {
			ours, err = share(*deactivations)
		}
		if err == nil {
			fmt.Printf("ratio ours/card %.4f\nratio pcsc/c %.3f\n", ours, ratio)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchpcsc:", err)
		os.Exit(1)
	}
}

// run gives the median of the paired ratios.
func run(rounds, count int) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	daemon, err := rig.StartPCSCD(ctx, rig.Options{Slots: 1})
	if err != nil {
		return 0, err
	}
	defer daemon.Stop()
	slot := daemon.Slots()[0]
	card, err := startCard(ctx, slot.Addr, slot.Reader)
	if err != nil {
		return 0, err
	}
	defer card.stop()
	c, err := startC(ctx, slot.Reader)
	if err != nil {
		return 0, err
	}
	defer c.stop()
	ours, err := startGo(ctx, slot.Reader)
	if err != nil {
		return 0, err
	}
	defer ours.stop()

	var all []float64
	fmt.Printf("%8s  %12s  %12s  %8s\n", "bytes", "C p50", "pcsc p50", "ratio")
	for _, size := range sizes {
		for _, p := range []*peer{c, ours} { // warms up what there is to warm up
			if _, err := p.slice(size, count); err != nil {
				return 0, err
			}
		}
		var cs, gos, ratios []float64
		for round := range rounds {
			order := []*peer{c, ours}
			if round%2 == 1 {
				slices.Reverse(order)
			}
			p50 := map[*peer]float64{}
			for _, p := range order {
				took, err := p.slice(size, count)
				if err != nil {
					return 0, err
				}
				p50[p] = median(took)
			}
			cs, gos = append(cs, p50[c]), append(gos, p50[ours])
			ratios = append(ratios, p50[ours]/p50[c])
		}
		fmt.Printf("%8d  %9.1f µs  %9.1f µs  %8.3f\n", size, median(cs)/1e3, median(gos)/1e3, median(ratios))
		all = append(all, ratios...)
	}
	return median(all), nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
