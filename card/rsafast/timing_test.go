package rsafast

import (
	"crypto/rand"
	"flag"
	"math"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var timing = flag.Int("timing", 20, "operations of each kind that TestTiming measures; 100000 on an idle machine say something")

// TestTiming measures whether a private-key operation's time depends on its
// operand: Welch's t of a fixed operand against random ones, in the manner of
// dudect. |t| above 4.5 would be a leak. Nothing is asserted, the figures are
// for who runs it:
//
//	go test ./card/rsafast -run TestTiming -v -timeout 0 -timing 100000
func TestTiming(t *testing.T) {
	r := stored(t, "rsa2048a")
	size := r.Size()
	one := make([]byte, size)
	one[size-1] = 1
	for _, e := range forced() {
		k := loaded(t, r, e)
		for _, fixed := range []struct {
			name  string
			value []byte
		}{
			{"a random value", encoded(random(t, r.N), r.N)},
			{"0", make([]byte, size)},
			{"1", one},
			{"a prime", encoded(r.Primes[0], r.N)},
		} {
			t.Run(nameOf(e)+"/"+fixed.name, func(t *testing.T) {
				v := welch(t, k, fixed.value, *timing)
				t.Logf("%d operations of each kind: |t| = %.2f", *timing, math.Abs(v))
			})
		}
	}
}

// welch is t after the slowest tenth of all, which others on the machine cause,
// is dropped by one threshold for both kinds.
func welch(t *testing.T, k *Key, fixed []byte, operations int) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var seed [32]byte
	_, err := rand.Read(seed[:])
	require.NoError(t, err)
	random := mathrand.NewChaCha8(seed)
	op := &Op{Key: k, C: make([]byte, len(fixed)), M: make([]byte, len(fixed))}
	var times [2][]float64
	for range 2 * operations {
		kind := int(random.Uint64() & 1)
		_, _ = random.Read(op.C) // for both kinds: all but the operand is the same
		op.C[0] &= 0x7F          // below n
		keep := byte(-kind)
		for i := range op.C {
			op.C[i] = op.C[i]&keep | fixed[i]&^keep
		}
		start := time.Now()
		Run(op)
		times[kind] = append(times[kind], float64(time.Since(start)))
		require.NoError(t, op.Err)
	}
	all := slices.Sorted(slices.Values(slices.Concat(times[0], times[1])))
	limit := all[len(all)*9/10]
	var mean, variance, n [2]float64
	for kind, list := range times {
		list = slices.DeleteFunc(list, func(x float64) bool { return x > limit })
		n[kind] = float64(len(list))
		for _, x := range list {
			mean[kind] += x / n[kind]
		}
		for _, x := range list {
			variance[kind] += (x - mean[kind]) * (x - mean[kind]) / (n[kind] - 1)
		}
	}
	return (mean[0] - mean[1]) / math.Sqrt(variance[0]/n[0]+variance[1]/n[1])
}
