package rsafast

import (
	"fmt"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
)

var benchKeys = []string{"rsa2048a", "rsa3072a", "rsa4096a"}

// BenchmarkPrivate is a full call of each engine and a lone operation.
func BenchmarkPrivate(b *testing.B) {
	for _, name := range benchKeys {
		r := stored(b, name)
		for _, e := range forced() {
			k := loaded(b, r, e)
			width := 1
			if e != nil {
				width = e.width()
			}
			var ops []*Op
			for range width {
				ops = append(ops, &Op{Key: k, C: encoded(random(b, r.N), r.N)})
			}
			run := func(ops []*Op) {
				b.Run(fmt.Sprintf("%s/%s/%d", name[:7], nameOf(e), len(ops)), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						Run(ops...)
					}
					b.ReportMetric(float64(b.N*len(ops))/b.Elapsed().Seconds(), "op/s")
				})
			}
			run(ops)
			if width > 1 {
				run(ops[:1])
			}
		}
	}
}

// BenchmarkPublic is a full call of each engine, every key fresh.
func BenchmarkPublic(b *testing.B) {
	for _, name := range benchKeys {
		r := stored(b, name)
		for _, e := range forced() {
			width := 1
			if e != nil {
				width = e.lanes
			}
			var ops []*PublicOp
			for range width {
				ops = append(ops, &PublicOp{X: encoded(random(b, r.N), r.N)})
			}
			b.Run(fmt.Sprintf("%s/%s/%d", name[:7], nameOf(e), width), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					for _, op := range ops {
						var err error
						op.Key, err = newPublicKey(&r.PublicKey, e)
						require.NoError(b, err)
					}
					RunPublic(ops...)
				}
				b.ReportMetric(float64(b.N*len(ops))/b.Elapsed().Seconds(), "op/s")
			})
		}
	}
}

// BenchmarkNewKey is the loading of a private key, with its checks.
func BenchmarkNewKey(b *testing.B) {
	for _, name := range benchKeys {
		r := stored(b, name)
		b.Run(name[:7], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := NewKey(r)
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkNewPublicKey is what a fresh key costs beside its operation.
func BenchmarkNewPublicKey(b *testing.B) {
	for _, name := range benchKeys {
		r := stored(b, name)
		b.Run(name[:7], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := NewPublicKey(&r.PublicKey)
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkKernel says what a product of limbs costs: a square has n (n+1)/2 of
// its own and n^2 for the reduction.
func BenchmarkKernel(b *testing.B) {
	for _, e := range engines {
		for _, k := range e.kernels {
			n := k.limbs
			s := e.newSpace(k, 32)
			for lane := range e.lanes {
				m := newModulus(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(n*limbBits-60)), big.NewInt(1)).Bytes(), n)
				s.modulus(lane, &m)
				s.put(s.a, lane, m.n[:n-1])
			}
			copy(s.b, s.a)
			for i := range s.table {
				s.table[i] = 1
			}
			run := func(kind string, products int, f func()) {
				b.Run(fmt.Sprintf("%s/%s/%d", kind, e.name, n), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						f()
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*products), "ns/product")
				})
			}
			run("square", 5*(n*(n+1)/2+n*n+15), func() { s.square(s.a, s.a, nil, 5) })
			run("multiply", 2*n*n+15, func() { s.mul(s.a, s.a, s.b) })
			run("choose", 32*n, func() { s.choose(&s.a[0], &s.table[0], n, 32, &s.index[0]) })
		}
	}
}
