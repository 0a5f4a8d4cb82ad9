package rsafast

import (
	"crypto/rsa"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// primeFrom is the first prime p = from + i step, i = 0, 1, …, that allows for e.
func primeFrom(from, step *big.Int) *big.Int {
	p, r := new(big.Int).Set(from), new(big.Int)
	for ; ; p.Add(p, step) {
		if r.Mod(p, big.NewInt(Exponent)).Cmp(big.NewInt(1)) != 0 && p.ProbablyPrime(0) {
			return p
		}
	}
}

// Keys of primes at the ends of their range, next to each other, of long runs of
// ones and zeroes, with a large power of two in p-1; either prime first.
func TestStructuredPrimes(t *testing.T) {
	one, two := big.NewInt(1), big.NewInt(2)
	pow := func(n int) *big.Int { return new(big.Int).Lsh(one, uint(n)) }
	sum := func(x *big.Int, more ...*big.Int) *big.Int {
		x = new(big.Int).Set(x)
		for _, v := range more {
			x.Add(x, v)
		}
		return x
	}
	down := big.NewInt(-2)
	var keys []*rsa.PrivateKey
	add := func(p, q *big.Int) { keys = append(keys, bare(p, q), bare(q, p)) }
	for _, bits := range []int{1024, 1536} {
		largest := primeFrom(sum(pow(bits), big.NewInt(-1)), down)
		add(largest, primeFrom(sum(largest, down), down))
		if bits > 1024 {
			continue
		}
		zeroes := primeFrom(sum(pow(bits-1), pow(64), one), two)
		add(largest, zeroes)
		ones := primeFrom(sum(pow(bits), new(big.Int).Neg(pow(900)), pow(400), big.NewInt(-1)), down)
		add(ones, largest)
		smooth := primeFrom(sum(pow(bits-1), pow(bits-2), one), pow(300)) // p-1 = r 2^300
		add(smooth, ones)
	}
	for i, r := range keys {
		require.NotNil(t, r.D)
		require.Zero(t, r.N.BitLen()%1024)
		values := append(edges(r), patterns(t, r.N.BitLen())...)
		for _, e := range forced() {
			k := loaded(t, r, e)
			var ops []*Op
			for _, v := range values {
				ops = append(ops, &Op{Key: k, C: encoded(new(big.Int).Mod(v, r.N), r.N)})
			}
			Run(ops...)
			for _, op := range ops {
				require.NoError(t, op.Err, "key %d, %s", i, nameOf(e))
				assert.Equal(t, op.C, power(op.M, r.N), "key %d, %s", i, nameOf(e))
			}
		}
	}
}
