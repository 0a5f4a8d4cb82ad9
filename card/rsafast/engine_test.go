package rsafast

import (
	"context"
	"crypto/rsa"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// edges are operands at the ends of the range, and those that are not
// invertible: CRT must get these right too.
func edges(r *rsa.PrivateKey) []*big.Int {
	one := big.NewInt(1)
	p, q := r.Primes[0], r.Primes[1]
	times := func(x, y *big.Int) *big.Int { return new(big.Int).Mul(x, y) }
	less := func(x *big.Int) *big.Int { return new(big.Int).Sub(x, one) }
	half := new(big.Int).Lsh(one, uint(r.N.BitLen()/2))
	return []*big.Int{
		new(big.Int), one, big.NewInt(2), less(r.N), less(less(r.N)),
		p, q, times(p, big.NewInt(12345)), times(q, big.NewInt(54321)), times(p, less(q)), times(q, less(p)),
		less(p), less(q), half, less(half), less(times(half, half).Rsh(times(half, half), 2)),
	}
}

// The edges and structured operands under every engine, against math/big.
func TestPrivateAgainstBigInt(t *testing.T) {
	for _, name := range []string{"rsa2048a", "rsa3072a", "rsa4096a"} {
		r := stored(t, name)
		values := append(edges(r), patterns(t, r.N.BitLen()-1)...)
		var want [][]byte
		for _, v := range values {
			want = append(want, root(r, v))
		}
		for _, e := range forced() {
			t.Run(name+" "+nameOf(e), func(t *testing.T) {
				k := loaded(t, r, e)
				assert.Equal(t, r.N, k.Public().N)
				assert.Equal(t, Exponent, k.Public().E)
				var ops []*Op
				for _, v := range values {
					ops = append(ops, &Op{Key: k, C: encoded(v, r.N)})
				}
				Run(ops...)
				for i, op := range ops {
					require.NoError(t, op.Err)
					assert.Equal(t, want[i], op.M, "%x", values[i])
					assert.Equal(t, encoded(values[i], r.N), op.C, "the operand is the caller's")
				}
				m, err := k.Private(t.Context(), encoded(values[5], r.N))
				require.NoError(t, err)
				assert.Equal(t, want[5], m)
			})
		}
	}
}

// Batches of every length, under one key, several, and several sizes.
func TestBatches(t *testing.T) {
	var std []*rsa.PrivateKey
	for _, name := range []string{"rsa2048a", "rsa2048b", "rsa3072a", "rsa3072b", "rsa4096a"} {
		std = append(std, stored(t, name))
	}
	for _, e := range forced() {
		var keys []*Key
		for _, r := range std {
			keys = append(keys, loaded(t, r, e))
		}
		for n := range 11 {
			for name, pick := range map[string]func(i int) int{
				"one key":   func(int) int { return 0 },
				"two keys":  func(i int) int { return i % 2 },
				"all sizes": func(i int) int { return i % len(keys) },
			} {
				var ops []*Op
				for i := range n {
					r := std[pick(i)]
					ops = append(ops, &Op{Key: keys[pick(i)], C: encoded(random(t, r.N), r.N)})
				}
				Run(ops...)
				for i, op := range ops {
					require.NoError(t, op.Err)
					assert.Equal(t, op.C, power(op.M, std[pick(i)].N), "%s, %s, %d of %d", nameOf(e), name, i, n)
				}
			}
		}
	}
}

// Engines may be mixed in a batch, and bad operands do not hurt good ones.
func TestMixedBatch(t *testing.T) {
	a, b := stored(t, "rsa2048a"), stored(t, "rsa2048b")
	var ops []*Op
	for _, e := range forced() {
		for _, r := range []*rsa.PrivateKey{a, b} {
			k := loaded(t, r, e)
			ops = append(ops,
				&Op{Key: k, C: encoded(random(t, r.N), r.N)},
				&Op{Key: k, C: encoded(r.N, r.N), M: make([]byte, 256)},
				&Op{Key: k, C: encoded(big.NewInt(5), r.N)},
				&Op{Key: k, C: nil})
		}
	}
	Run(ops...)
	for i, op := range ops {
		if i%2 == 1 {
			assert.ErrorIs(t, op.Err, ErrOperand)
			assert.Nil(t, op.M)
			continue
		}
		require.NoError(t, op.Err)
		assert.Equal(t, op.C, power(op.M, op.Key.Public().N))
	}
}

func TestOperands(t *testing.T) {
	r := stored(t, "rsa2048a")
	n := encoded(r.N, r.N)
	above := slices.Clone(n)
	above[100]++
	for _, e := range forced() {
		k := loaded(t, r, e)
		pk, err := newPublicKey(&r.PublicKey, e)
		require.NoError(t, err)
		for _, c := range [][]byte{nil, n[:255], append(slices.Clone(n), 0), n, above, slices.Repeat([]byte{0xFF}, 256)} {
			_, err := k.Private(t.Context(), c)
			assert.ErrorIs(t, err, ErrOperand)
			_, err = pk.Public(c)
			assert.ErrorIs(t, err, ErrOperand)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = k.Private(ctx, make([]byte, 256))
		assert.ErrorIs(t, err, context.Canceled)
	}
}

// The caller's memory is used where it suffices.
func TestResultMemory(t *testing.T) {
	r := stored(t, "rsa2048a")
	for _, e := range forced() {
		k := loaded(t, r, e)
		for _, have := range []int{0, 10, 256, 300} {
			mem := make([]byte, have)
			op := &Op{Key: k, C: encoded(big.NewInt(7), r.N), M: mem}
			Run(op)
			require.NoError(t, op.Err)
			assert.Equal(t, root(r, big.NewInt(7)), op.M)
			if have >= 256 {
				assert.Same(t, &mem[0], &op.M[0])
			}
		}
	}
}

func TestPublic(t *testing.T) {
	for _, names := range [][]string{{"rsa2048a", "rsa2048b"}, {"rsa3072a", "rsa3072b"}, {"rsa4096a"}, {"rsa2048a", "rsa3072a", "rsa4096a"}} {
		for _, e := range forced() {
			var ops []*PublicOp
			for _, name := range names {
				r := stored(t, name)
				k, err := newPublicKey(&r.PublicKey, e)
				require.NoError(t, err)
				for _, v := range append(edges(r), patterns(t, r.N.BitLen()-1)...) {
					ops = append(ops, &PublicOp{Key: k, X: encoded(v, r.N)})
				}
			}
			// Neighbours in the lanes are of different keys.
			step := len(ops)/len(names) + 1
			var shuffled []*PublicOp
			for i := range step {
				for j := i; j < len(ops); j += step {
					shuffled = append(shuffled, ops[j])
				}
			}
			require.Len(t, shuffled, len(ops))
			RunPublic(shuffled...)
			for _, op := range ops {
				require.NoError(t, op.Err)
				assert.Equal(t, power(op.X, new(big.Int).SetBytes(op.Key.n)), op.Y, "%s %x", nameOf(e), op.X)
			}
			for n := range ops[:min(len(ops), 10)] {
				some := ops[:n]
				for _, op := range some {
					op.Y = nil
				}
				RunPublic(some...)
				for _, op := range some {
					assert.Equal(t, power(op.X, new(big.Int).SetBytes(op.Key.n)), op.Y)
				}
			}
		}
	}
}

// A public modulus needs no primes: structured ones, of all ones above all.
func TestPublicStructuredModuli(t *testing.T) {
	for _, e := range forced() {
		for _, bits := range []int{2048, 3072, 4096} {
			var ops []*PublicOp
			for _, n := range patterns(t, bits) {
				n.SetBit(n, 0, 1).SetBit(n, bits-1, 1)
				k, err := newPublicKey(&rsa.PublicKey{N: n, E: Exponent}, e)
				require.NoError(t, err)
				for _, x := range patterns(t, bits) {
					ops = append(ops, &PublicOp{Key: k, X: encoded(x.Mod(x, n), n)})
				}
			}
			RunPublic(ops...)
			for _, op := range ops {
				require.NoError(t, op.Err)
				require.Equal(t, power(op.X, new(big.Int).SetBytes(op.Key.n)), op.Y, "%s %x", nameOf(e), op.Key.n)
			}
		}
	}
}

func TestMixedPublicBatch(t *testing.T) {
	r := stored(t, "rsa2048a")
	var ops []*PublicOp
	for _, e := range forced() {
		k, err := newPublicKey(&r.PublicKey, e)
		require.NoError(t, err)
		ops = append(ops, &PublicOp{Key: k, X: encoded(random(t, r.N), r.N)}, &PublicOp{Key: k, X: make([]byte, 3), Y: make([]byte, 9)})
	}
	RunPublic(ops...)
	for i, op := range ops {
		if i%2 == 1 {
			assert.ErrorIs(t, op.Err, ErrOperand)
			assert.Nil(t, op.Y)
			continue
		}
		require.NoError(t, op.Err)
		assert.Equal(t, power(op.X, r.N), op.Y)
	}
}

// What is under a key's hand is not allocated anew for each operation.
func TestAllocations(t *testing.T) {
	for _, e := range engines {
		for _, name := range []string{"rsa2048a", "rsa3072a"} {
			r := stored(t, name)
			k := loaded(t, r, e)
			ops := []*Op{{Key: k, C: encoded(big.NewInt(2), r.N)}, {Key: k, C: encoded(big.NewInt(3), r.N)}}
			Run(ops...)
			pk, err := newPublicKey(&r.PublicKey, e)
			require.NoError(t, err)
			public := []*PublicOp{{Key: pk, X: ops[0].C}, {Key: pk, X: ops[1].C}}
			RunPublic(public...)
			// A collection may empty the pool now and then; -race empties it at random.
			assert.LessOrEqual(t, testing.AllocsPerRun(20, func() { Run(ops...) }), allowed)
			assert.LessOrEqual(t, testing.AllocsPerRun(20, func() { RunPublic(public...) }), allowed)
		}
	}
}

func TestWidths(t *testing.T) {
	assert.Contains(t, []string{"portable", "fma52", "ifma512"}, Engine())
	assert.Contains(t, []int{1, 2, 4}, Width())
	assert.Contains(t, []int{1, 4, 8}, PublicWidth())
	old := best
	defer func() { best = old }()
	for _, e := range forced() {
		best = e
		assert.Equal(t, nameOf(e), Engine())
		if e == nil {
			assert.Equal(t, 1, Width())
			assert.Equal(t, 1, PublicWidth())
			continue
		}
		assert.Equal(t, e.lanes/2, Width())
		assert.Equal(t, e.lanes, PublicWidth())
	}
}

// A fault anywhere in what was computed beforehand, or in the result, gives the
// primes away (Boneh, DeMillo, Lipton): the value must not come out.
func TestFaultIsWithheld(t *testing.T) {
	flip := func(x []uint64, i int) { x[i] ^= 1 << (i % limbBits) }
	spoils := map[string]func(*vectorKey, int){
		"p":               func(k *vectorKey, i int) { flip(k.p.n, i) },
		"q":               func(k *vectorKey, i int) { flip(k.q.n, i) },
		"p's k":           func(k *vectorKey, i int) { flip(k.p.k[:], i%block) },
		"q's k":           func(k *vectorKey, i int) { flip(k.q.k[:], i%block) },
		"p's m":           func(k *vectorKey, i int) { flip(k.p.m, i) },
		"q's m":           func(k *vectorKey, i int) { flip(k.q.m, i) },
		"p's r3":          func(k *vectorKey, i int) { flip(k.p.r3, i) },
		"q's r2":          func(k *vectorKey, i int) { flip(k.q.r2, i) },
		"p's one":         func(k *vectorKey, i int) { flip(k.p.one, i) },
		"dp":              func(k *vectorKey, i int) { k.p.exponent[i] ^= 1 },
		"dq":              func(k *vectorKey, i int) { k.q.exponent[i] ^= 8 },
		"qInv":            func(k *vectorKey, i int) { flip(k.qInvR, i) },
		"q in words":      func(k *vectorKey, i int) { flip(k.qw, i%len(k.qw)) },
		"qInv gone":       func(k *vectorKey, _ int) { clear(k.qInvR) },
		"q in words gone": func(k *vectorKey, _ int) { clear(k.qw) },
	}
	r := stored(t, "rsa2048a")
	for _, e := range engines {
		good := loaded(t, r, e)
		for name, spoil := range spoils {
			for _, i := range []int{0, 7, 18} {
				bad := loaded(t, r, e)
				spoil(&bad.vector, i)
				mem := make([]byte, 256)
				ops := []*Op{{Key: good, C: encoded(random(t, r.N), r.N)}, {Key: bad, C: encoded(random(t, r.N), r.N), M: mem}}
				if i%2 == 1 {
					slices.Reverse(ops)
				}
				Run(ops...)
				for _, op := range ops {
					if op.Key == good {
						assert.NoError(t, op.Err)
						assert.Equal(t, op.C, power(op.M, r.N), "a neighbour's fault is its own")
						continue
					}
					assert.ErrorIs(t, op.Err, ErrFault, "%s %s, limb %d", e.name, name, i)
					assert.Nil(t, op.M)
					assert.Equal(t, make([]byte, 256), mem)
				}
				m, err := bad.Private(t.Context(), ops[0].C)
				assert.ErrorIs(t, err, ErrFault)
				assert.Nil(t, m)
			}
		}
	}
}

// The same where numbers of a prime are lost, in any combination: a check whose
// two sides are both zero would find nothing wrong.
func TestLostNumbersAreAFault(t *testing.T) {
	r := stored(t, "rsa2048a")
	for _, e := range engines {
		good := loaded(t, r, e)
		for which := range 2 {
			for subset := 1; subset < 1<<7; subset++ {
				bad := *good
				p := &bad.vector.p
				if which == 1 {
					p = &bad.vector.q
				}
				for i, x := range []*[]uint64{&p.n, &p.m, &p.one, &p.r2, &p.r3} {
					if subset>>i&1 == 1 {
						*x = make([]uint64, len(*x))
					}
				}
				if subset>>5&1 == 1 {
					p.k = [block]uint64{}
				}
				if subset>>6&1 == 1 {
					p.exponent = make([]byte, len(p.exponent))
				}
				for _, c := range []*big.Int{big.NewInt(2), random(t, r.N)} {
					_, err := bad.Private(t.Context(), encoded(c, r.N))
					require.ErrorIs(t, err, ErrFault, "%s, prime %d, lost %b", e.name, which, subset)
				}
			}
		}
		m, err := good.Private(t.Context(), encoded(big.NewInt(2), r.N))
		require.NoError(t, err)
		assert.Equal(t, root(r, big.NewInt(2)), m)
	}
}

func TestPortableFaultIsWithheld(t *testing.T) {
	r := stored(t, "rsa2048a")
	for name, spoil := range map[string]func(*portableKey){
		"dp":   func(k *portableKey) { k.dp = slices.Clone(k.dp); k.dp[5] ^= 1 },
		"dq":   func(k *portableKey) { k.dq = slices.Clone(k.dq); k.dq[100] ^= 2 },
		"qInv": func(k *portableKey) { k.qInv = reduced(k.q.Nat(), k.p) },
		"p":    func(k *portableKey) { k.p = k.q },
	} {
		k := loaded(t, r, nil)
		spoil(&k.plain)
		m, err := k.Private(t.Context(), encoded(big.NewInt(42), r.N))
		assert.ErrorIs(t, err, ErrFault, name)
		assert.Nil(t, m)
	}
}

// A result may take its operand's place.
func TestInPlace(t *testing.T) {
	for _, name := range []string{"rsa2048a", "rsa4096a"} {
		r := stored(t, name)
		for _, e := range forced() {
			k := loaded(t, r, e)
			pk, err := newPublicKey(&r.PublicKey, e)
			require.NoError(t, err)
			for n := 1; n <= 5; n++ {
				var ops []*Op
				var public []*PublicOp
				var want [][]byte
				for range n {
					c := encoded(random(t, r.N), r.N)
					want = append(want, slices.Clone(c))
					ops = append(ops, &Op{Key: k, C: c, M: c})
					public = append(public, &PublicOp{Key: pk, X: c, Y: c})
				}
				Run(ops...)
				for i, op := range ops {
					require.NoError(t, op.Err, nameOf(e))
					assert.Same(t, &op.C[0], &op.M[0])
					assert.Equal(t, want[i], power(op.M, r.N), nameOf(e))
				}
				RunPublic(public...)
				for i, op := range public {
					require.NoError(t, op.Err)
					assert.Equal(t, want[i], op.Y, nameOf(e))
				}
			}
		}
	}
}

// Nothing of an operation stays in the memory of its batch.
func TestForget(t *testing.T) {
	r := stored(t, "rsa2048a")
	for _, e := range engines {
		k := loaded(t, r, e)
		bad := loaded(t, r, e)
		bad.vector.qw[3]++
		for _, key := range []*Key{k, bad} {
			kernel := e.kernel(k.vector.limbs)
			s := e.newSpace(kernel, 1<<kernel.window)
			kernel.private.Put(s)
			Run(&Op{Key: key, C: encoded(random(t, r.N), r.N)})
			for _, x := range [][]uint64{s.a, s.b, s.c, s.x, s.tmp, s.lane[0][:], s.lane[1][:]} {
				assert.Zero(t, slices.Max(x))
			}
			for _, m := range s.m {
				assert.Zero(t, slices.Max(m[:]))
			}
		}
	}
}

// Keys are safe for concurrent use.
func TestConcurrent(t *testing.T) {
	r := stored(t, "rsa2048a")
	for _, e := range forced() {
		k := loaded(t, r, e)
		done := make(chan error)
		for g := range 4 {
			go func() {
				for i := range 5 {
					c := encoded(big.NewInt(int64(1000*g+i)), r.N)
					m, err := k.Private(context.Background(), c)
					if err == nil && !slices.Equal(power(m, r.N), c) {
						err = fmt.Errorf("%x came out wrong", c)
					}
					if err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 4 {
			assert.NoError(t, <-done)
		}
	}
}
