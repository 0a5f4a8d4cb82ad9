package rsafast

import (
	"math"
	"sync"
	"unsafe"
)

//go:generate go run ./internal/gen

const (
	limbBits = 52
	limbMask = 1<<limbBits - 1
	block    = 5 // limbs that a kernel's reduction takes at a time
	maxLanes = 8
	maxLimbs = 80

	alignment = 64 // bytes, of vectors in memory
)

// engine computes with numbers of as many limbs of 52 bits as its kernels have,
// another number in each lane. Vector i of a number holds limb i of every lane.
type engine struct {
	name    string
	lanes   int
	float   bool // limbs in memory are doubles, else integers
	kernels []*kernel
	// choose puts into each lane of out the entry of table that index names, in
	// a time that does not depend on index.
	choose func(out, table *uint64, limbs, entries int, index *uint64)
}

// kernel is the arithmetic for one number of limbs. Its numbers are Montgomery's:
// x stands for x R with R = 2^(52 limbs).
type kernel struct {
	limbs int
	// window is how many bits of an exponent are taken at a time: a larger table
	// saves products and costs reading, the more so beyond the nearest cache.
	window int
	// power is out = a^(2^squarings) b, or without b where it is nil; out may be
	// a or b. Limbs are below 2^52, of factors and of results, always. A product
	// of a and b is below 2 N + a b / R. R is above 2^16 N (limbsFor), so results
	// are below 3 N for factors below 2^7 N, and for one below N by one below R.
	power           func(out, a, b *uint64, squarings int, ctx, tmp *uint64)
	private, public sync.Pool // of *space
}

// width is how many private-key operations the lanes hold.
func (e *engine) width() int { return e.lanes / 2 }

func (e *engine) kernel(limbs int) *kernel {
	for _, k := range e.kernels {
		if k.limbs == limbs {
			return k
		}
	}
	panic("rsafast: no kernel for the size") // sizes are checked where keys are loaded
}

// space is the memory of one batch. Its numbers are vectors.
type space struct {
	*engine
	*kernel
	ctx, tmp    []uint64
	a, b, c, x  []uint64
	one, r2, r3 []uint64 // R, R^2, R^3 mod N
	index       []uint64 // one vector
	table       []uint64 // of private-key operations
	lane        [maxLanes][maxLimbs]uint64
	m           [maxLanes / 2][maxModulus]byte // values that are not checked yet
}

// forget clears what belongs to operations rather than to keys. The table stays,
// until the next batch: it is of no use but to who knows the primes, and these
// are in memory as long as the key.
func (s *space) forget() {
	for _, x := range [][]uint64{s.a, s.b, s.c, s.x, s.tmp} {
		clear(x)
	}
	clear(s.lane[:])
	clear(s.m[:])
}

func (e *engine) newSpace(k *kernel, entries int) *space {
	s := &space{engine: e, kernel: k}
	n := k.limbs
	parts := []struct {
		to      *[]uint64
		vectors int
	}{
		{&s.ctx, 2*n + block}, {&s.tmp, n + 2},
		{&s.a, n}, {&s.b, n}, {&s.c, n}, {&s.x, n},
		{&s.one, n}, {&s.r2, n}, {&s.r3, n},
		{&s.index, 1}, {&s.table, entries * n},
	}
	total := alignment / 8
	for _, p := range parts {
		total += p.vectors * e.lanes
	}
	mem := make([]uint64, total)
	for uintptr(unsafe.Pointer(&mem[0]))%alignment != 0 {
		mem = mem[1:]
	}
	for _, p := range parts {
		size := p.vectors * e.lanes
		*p.to, mem = mem[:size:size], mem[size:]
	}
	return s
}

// put writes a lane of the vectors from dst on.
func (s *space) put(dst []uint64, lane int, x []uint64) {
	lanes := s.lanes
	if s.float {
		for i, v := range x {
			dst[i*lanes+lane] = math.Float64bits(float64(int64(v)))
		}
		return
	}
	for i, v := range x {
		dst[i*lanes+lane] = v
	}
}

// get reads a lane.
func (s *space) get(x []uint64, src []uint64, lane int) {
	lanes := s.lanes
	if s.float {
		for i := range x {
			x[i] = uint64(int64(math.Float64frombits(src[i*lanes+lane])))
		}
		return
	}
	for i := range x {
		x[i] = src[i*lanes+lane]
	}
}

// modulus puts a lane's modulus into the context.
func (s *space) modulus(lane int, m *modulus) {
	n := s.limbs
	s.put(s.ctx, lane, m.m)
	s.put(s.ctx[n*s.lanes:], lane, m.n)
	s.put(s.ctx[2*n*s.lanes:], lane, m.k[:])
}

func (s *space) mul(out, a, b []uint64) {
	s.power(&out[0], &a[0], &b[0], 0, &s.ctx[0], &s.tmp[0])
}

// maxSquarings keeps a call short, for nothing preempts it: around 10 µs, and
// below 50 µs on a processor that is three times as slow.
func (s *space) maxSquarings() int { return max(1, 8*40*40/(s.limbs*s.limbs)) }

// square is out = a^(2^squarings) b, or without b where it is nil.
func (s *space) square(out, a, b []uint64, squarings int) {
	most := s.maxSquarings()
	for squarings > most {
		s.power(&out[0], &a[0], nil, most, &s.ctx[0], &s.tmp[0])
		a = out
		squarings -= most
	}
	var factor *uint64
	if b != nil {
		factor = &b[0]
	}
	s.power(&out[0], &a[0], factor, squarings, &s.ctx[0], &s.tmp[0])
}

// add is out = a + b, in every lane, with limbs below 2^52.
func (s *space) add(out, a, b []uint64) {
	n := s.limbs
	var x, y [maxLimbs]uint64
	for lane := range s.lanes {
		s.get(x[:n], a, lane)
		s.get(y[:n], b, lane)
		carry := uint64(0)
		for i := range n {
			carry += x[i] + y[i]
			x[i] = carry & limbMask
			carry >>= limbBits
		}
		s.put(out, lane, x[:n])
	}
}

// read is a lane's number, below 3 N, reduced to below N.
func (s *space) read(x, src []uint64, lane int, n []uint64) {
	s.get(x, src, lane)
	subtractIfNotBelow(x, n)
	subtractIfNotBelow(x, n)
}
