package main

import (
	"cmp"
	"slices"
	"time"
)

// result is what came of a slice: so many operations in so much of the
// processor's time.
type result struct {
	count int
	spent time.Duration
}

// perSecond is operations per second of the processor's time.
func (r result) perSecond() float64 { return float64(r.count) / r.spent.Seconds() }

// contestant works for a slice of about this length.
type contestant func(time.Duration) (result, error)

// loop is a contestant that does batches of n operations.
func loop(n int, batch func() error) contestant {
	return func(d time.Duration) (r result, err error) {
		for start := processorTime(); r.spent < d; r.spent = processorTime() - start {
			if err := batch(); err != nil {
				return r, err
			}
			r.count += n
		}
		return r, nil
	}
}

// rates are the operations per second of each contestant in each round.
type rates [][]float64

// race gives all contestants slices of length d in turns, each round from
// another one on. A first round warms up and does not count.
func race(rounds int, d time.Duration, all ...contestant) (rates, error) {
	out := make(rates, len(all))
	for round := -1; round < rounds; round++ {
		for i := range all {
			i = (i + round + 1) % len(all)
			r, err := all[i](d)
			if err != nil {
				return nil, err
			}
			if round >= 0 {
				out[i] = append(out[i], r.perSecond())
			}
		}
	}
	return out, nil
}

// median is the middle rate of a contestant.
func (r rates) median(i int) float64 { return median(slices.Clone(r[i])) }

// ratio is how many times as fast contestant a is as b: the median over the
// rounds.
func (r rates) ratio(a, b int) float64 {
	return r.over(func(round []float64) float64 { return round[a] / round[b] })
}

// over is the median of a figure that each round has.
func (r rates) over(f func(round []float64) float64) float64 {
	var all []float64
	round := make([]float64, len(r))
	for i := range r[0] {
		for j := range r {
			round[j] = r[j][i]
		}
		all = append(all, f(round))
	}
	return median(all)
}

func median[T cmp.Ordered](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}
