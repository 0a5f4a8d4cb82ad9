package rsafast

import (
	"fmt"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func number(limbs []uint64) *big.Int {
	v := new(big.Int)
	for i := len(limbs) - 1; i >= 0; i-- {
		v.Lsh(v, limbBits).Or(v, new(big.Int).SetUint64(limbs[i]))
	}
	return v
}

func limbsOfInt(v *big.Int, n int) []uint64 {
	x := make([]uint64, n)
	limbsOf(x, v.Bytes(), 0)
	return x
}

// patterns are numbers of some bits whose limbs sit at the ends of their range.
func patterns(t testing.TB, bits int) []*big.Int {
	one := big.NewInt(1)
	pow := func(n int) *big.Int { return new(big.Int).Lsh(one, uint(n)) }
	ones := func(n int) *big.Int { return new(big.Int).Sub(pow(n), one) }
	alternate := func(first bool) *big.Int { // limbs of ones and zeroes in turn
		v := new(big.Int)
		for i := 0; i*limbBits < bits; i++ {
			if first = !first; first {
				v.Or(v, new(big.Int).Lsh(ones(limbBits), uint(i*limbBits)))
			}
		}
		return v.And(v, ones(bits))
	}
	high := new(big.Int) // every limb 2^51
	for i := limbBits - 1; i < bits; i += limbBits {
		high.SetBit(high, i, 1)
	}
	return []*big.Int{
		ones(bits), new(big.Int).Add(pow(bits-1), one), alternate(true), alternate(false), high,
		new(big.Int).Sub(pow(bits), pow(bits/2)), ones(bits / 2), new(big.Int).Sub(ones(bits), high),
		random(t, pow(bits)), random(t, pow(bits)),
	}
}

// The kernels against math/big, for moduli and factors with limbs of all ones,
// of zeroes and of the highest bit: a limb that reaches 2^52 gives a wrong result
// that random numbers do not show.
func TestKernels(t *testing.T) {
	sizes := map[int]int{20: 1024, 30: 1536, 40: 2048, 60: 3072, 80: 4096}
	for _, e := range engines {
		for _, k := range e.kernels {
			t.Run(fmt.Sprint(e.name, " ", k.limbs), func(t *testing.T) { testKernel(t, e, k, sizes[k.limbs]) })
		}
	}
}

func testKernel(t *testing.T, e *engine, k *kernel, size int) {
	n := k.limbs
	s := e.newSpace(k, 0)
	one := big.NewInt(1)
	r := new(big.Int).Lsh(one, uint(limbBits*n))
	odd := func(v *big.Int) *big.Int { // a modulus of exactly size bits
		v = new(big.Int).SetBit(v, 0, 1)
		return v.SetBit(v, size-1, 1)
	}
	shapes := patterns(t, size)
	var moduli, factors, others []*big.Int
	for _, m := range shapes {
		moduli = append(moduli, odd(m))
	}
	scale := func(m *big.Int, k int64) *big.Int { return new(big.Int).Mul(m, big.NewInt(k)) }
	check := func(moduli, a, b []*big.Int, squarings int) {
		t.Helper()
		checkKernel(t, s, moduli, a, b, squarings)
	}
	for i, m := range moduli {
		factors = []*big.Int{new(big.Int), one, new(big.Int).Sub(m, one), new(big.Int).Sub(scale(m, 6), one), new(big.Int).Sub(scale(m, 128), one)}
		factors = append(factors, shapes...)
		others = []*big.Int{factors[(i+2)%len(factors)], shapes[i], new(big.Int).Sub(m, one), new(big.Int).Sub(scale(m, 128), one)}
		lanes := make([]*big.Int, e.lanes)
		as, bs := make([]*big.Int, e.lanes), make([]*big.Int, e.lanes)
		for j := range factors {
			for lane := range lanes { // another modulus and other factors in each lane
				lanes[lane] = moduli[(i+lane)%len(moduli)]
				as[lane], bs[lane] = factors[(j+lane)%len(factors)], others[(j+lane)%len(others)]
				limit := scale(lanes[lane], 128)
				as[lane] = new(big.Int).Mod(as[lane], limit)
				bs[lane] = new(big.Int).Mod(bs[lane], limit)
			}
			check(lanes, as, bs, 0)
			check(lanes, as, nil, 1+j%3)
			check(lanes, as, bs, 1+j%5)
		}
		// One factor below N, the other any n limbs.
		for lane := range lanes {
			lanes[lane] = m
			as[lane] = new(big.Int).Sub(r, one)
			bs[lane] = new(big.Int).Mod(shapes[lane%len(shapes)], m)
		}
		check(lanes, as, bs, 0)
	}
}

// checkKernel holds a call against math/big, and its result against its bounds.
func checkKernel(t *testing.T, s *space, moduli, a, b []*big.Int, squarings int) {
	t.Helper()
	n := s.limbs
	r := new(big.Int).Lsh(big.NewInt(1), uint(limbBits*n))
	var product *uint64
	for lane, m := range moduli {
		mod := newModulus(m.Bytes(), n)
		s.modulus(lane, &mod)
		s.put(s.a, lane, limbsOfInt(a[lane], n))
		if b != nil {
			s.put(s.b, lane, limbsOfInt(b[lane], n))
			product = &s.b[0]
		}
	}
	for i := range s.tmp { // what is left of earlier calls has no part in it
		s.tmp[i] = ^uint64(0)
	}
	s.power(&s.c[0], &s.a[0], product, squarings, &s.ctx[0], &s.tmp[0])
	inverse := new(big.Int)
	for lane, m := range moduli {
		got := make([]uint64, n)
		s.get(got, s.c, lane)
		for i, v := range got {
			require.Less(t, v, uint64(1<<limbBits), "limb %d", i)
		}
		inverse.ModInverse(r, m)
		want := new(big.Int).Set(a[lane])
		for range squarings {
			want.Mul(want, want).Mul(want, inverse).Mod(want, m)
		}
		if b != nil {
			want.Mul(want, b[lane]).Mul(want, inverse)
		}
		v := number(got)
		require.Negative(t, v.Cmp(new(big.Int).Mul(m, big.NewInt(3))), "not below 3 N")
		require.Zero(t, want.Mod(want, m).Cmp(v.Mod(v, m)), "lane %d, %d squarings of %x mod %x", lane, squarings, a[lane], m)
	}
}

// The largest columns: moduli whose limbs and whose M's are ones, with factors
// that make all digits of the reduction ones.
func TestKernelExtremes(t *testing.T) {
	sizes := map[int]int{20: 1024, 30: 1536, 40: 2048, 60: 3072, 80: 4096}
	one := big.NewInt(1)
	pow := func(n int) *big.Int { return new(big.Int).Lsh(one, uint(n)) }
	const low = block * limbBits
	for _, e := range engines {
		for _, k := range e.kernels {
			n, size := k.limbs, sizes[k.limbs]
			s := e.newSpace(k, 0)
			r := pow(limbBits * n)
			// K = 2^260 - j, N = 2^size - 1 but for the low limbs, which are -1/K.
			var moduli []*big.Int
			for j := range int64(e.lanes) {
				inverse := new(big.Int).Sub(pow(low), big.NewInt(2*j+1))
				inverse.ModInverse(inverse, pow(low))
				m := new(big.Int).Sub(pow(size), pow(low))
				m.Add(m, pow(low)).Sub(m, inverse)
				if m.BitLen() > size {
					m.Sub(m, pow(low))
				}
				moduli = append(moduli, m)
			}
			mod := newModulus(moduli[1].Bytes(), n)
			require.Greater(t, mod.k[block-1], uint64(limbMask-1))
			var as, bs, ones []*big.Int
			for lane, m := range moduli {
				mod := newModulus(m.Bytes(), n)
				// What the reduction adds if all its digits are ones.
				sum := new(big.Int)
				digit := new(big.Int).Sub(pow(low), one)
				step := new(big.Int).Mul(m, number(mod.k[:]))
				for i := range n / block {
					if i == n/block-1 {
						step = m
					}
					sum.Add(sum, new(big.Int).Lsh(new(big.Int).Mul(digit, step), uint(low*i)))
				}
				b := new(big.Int).Sub(m, big.NewInt(2*int64(lane))) // m itself at times: any factor up to N will do
				if lane%2 == 1 {
					b.Set(one)
				}
				a := new(big.Int).ModInverse(b, r)
				a.Mul(a, sum.Neg(sum)).Mod(a, r)
				as, bs = append(as, a), append(bs, b)
				ones = append(ones, new(big.Int).Sub(pow(size+7), one))
			}
			checkKernel(t, s, moduli, as, bs, 0)
			checkKernel(t, s, moduli, bs, as, 0)
			for i, m := range moduli {
				ones[i].Mod(ones[i], new(big.Int).Lsh(m, 7))
			}
			checkKernel(t, s, moduli, ones, ones, 3)
			checkKernel(t, s, moduli, moduli, moduli, 3)
		}
	}
}

// The result may take the place of a factor.
func TestKernelInPlace(t *testing.T) {
	for _, e := range engines {
		for _, k := range e.kernels {
			s := e.newSpace(k, 0)
			bits := uint(k.limbs*limbBits - 60)
			for lane := range e.lanes {
				m := random(t, new(big.Int).Lsh(big.NewInt(1), bits))
				mod := newModulus(m.SetBit(m, 0, 1).SetBit(m, int(bits), 1).Bytes(), k.limbs)
				s.modulus(lane, &mod)
				s.put(s.a, lane, limbsOfInt(random(t, m), k.limbs))
				s.put(s.b, lane, limbsOfInt(random(t, m), k.limbs))
			}
			s.square(s.c, s.a, s.b, 3)
			copy(s.x, s.a)
			s.square(s.x, s.x, s.b, 3)
			assert.Equal(t, s.c, s.x)
			s.mul(s.c, s.a, s.b)
			copy(s.x, s.b)
			s.mul(s.x, s.a, s.x)
			assert.Equal(t, s.c, s.x)
			copy(s.x, s.a)
			s.mul(s.x, s.x, s.b)
			assert.Equal(t, s.c, s.x)
			s.mul(s.c, s.a, s.a)
			s.mul(s.a, s.a, s.a)
			assert.Equal(t, s.c, s.a)
			// In several calls as in one.
			s.power(&s.c[0], &s.b[0], &s.x[0], 40, &s.ctx[0], &s.tmp[0])
			s.square(s.b, s.b, s.x, 40)
			assert.Equal(t, s.c, s.b)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, e := range engines {
		for _, k := range e.kernels {
			const entries = 32
			size := k.limbs * e.lanes
			s := e.newSpace(k, entries)
			for i := range s.table {
				s.table[i] = uint64(i)
			}
			for shift := range entries {
				for lane := range e.lanes {
					s.index[lane] = uint64(7*lane+shift) % entries
				}
				e.choose(&s.a[0], &s.table[0], k.limbs, entries, &s.index[0])
				for i, v := range s.a {
					assert.Equal(t, s.index[i%e.lanes]*uint64(size)+uint64(i), v)
				}
			}
		}
	}
}

func TestModulus(t *testing.T) {
	for _, bits := range []int{1024, 1536, 2048, 3072, 4096} {
		for _, v := range patterns(t, bits) {
			v.SetBit(v, 0, 1).SetBit(v, bits-1, 1)
			limbs := limbsFor(bits)
			m := newModulus(v.Bytes(), limbs)
			assert.Equal(t, v, number(m.n))
			whole := new(big.Int).Mul(v, number(m.k[:]))
			whole.Add(whole, big.NewInt(1))
			low := new(big.Int).Lsh(big.NewInt(1), block*limbBits)
			assert.Equal(t, new(big.Int).Mul(number(m.m), low), whole)
			for i := range m.m {
				assert.Less(t, m.m[i], uint64(1<<limbBits))
			}
		}
	}
}

// The number of limbs, hence the lane a key takes.
func TestLimbsFor(t *testing.T) {
	for bits, want := range map[int]int{1024: 20, 1536: 30, 2048: 40, 3072: 60, 4096: 80} {
		assert.Equal(t, want, limbsFor(bits))
	}
}

// A kernel writes its result and its scratch memory, nothing beside them.
func TestKernelStaysInside(t *testing.T) {
	for _, e := range engines {
		for _, k := range e.kernels {
			s := e.newSpace(k, 16)
			n := k.limbs * e.lanes
			m := newModulus(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(k.limbs*limbBits-60)), big.NewInt(1)).Bytes(), k.limbs)
			for lane := range e.lanes {
				s.modulus(lane, &m)
				s.put(s.a, lane, m.n)
			}
			const guard = 0x0123456789ABCDEF
			for i := range s.table {
				s.table[i] = guard
			}
			out, a, ctx, tmp := s.table[n:2*n], s.table[3*n:4*n], s.table[5*n:5*n+len(s.ctx)], s.table[9*n:9*n+len(s.tmp)]
			copy(a, s.a)
			copy(ctx, s.ctx)
			before := append([]uint64(nil), s.table...)
			k.power(&out[0], &a[0], &a[0], 2, &ctx[0], &tmp[0])
			copy(before[n:2*n], out)
			copy(before[9*n:], tmp)
			assert.Equal(t, before, s.table, "%s %d", e.name, k.limbs)
			assert.NotContains(t, out, uint64(guard))
		}
	}
}

// The processor rounds as before when a kernel is done.
func TestRoundingIsRestored(t *testing.T) {
	r := stored(t, "rsa2048a")
	a, b := 0.1, 0.2
	want := a + b
	require.Greater(t, want, 0.3)
	for _, e := range engines {
		_, err := loaded(t, r, e).Private(t.Context(), encoded(big.NewInt(3), r.N))
		require.NoError(t, err)
		assert.Equal(t, want, sum(a, b))
	}
}

//go:noinline
func sum(a, b float64) float64 { return a + b }
