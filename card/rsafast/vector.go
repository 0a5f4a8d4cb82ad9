package rsafast

// vectorKey is a private key for an engine; p and q are of one length, p > q.
type vectorKey struct {
	limbs int
	p, q  prime
	qInvR []uint64 // R/q mod p
	qw    []uint64 // q in words
}

func (e *engine) newVectorKey(c *crt) vectorKey {
	limbs := limbsFor(c.p.BitLen())
	window := e.kernel(limbs).window
	k := vectorKey{
		limbs: limbs,
		p:     newPrime(c.p, c.pb, c.dp, limbs, window),
		q:     newPrime(c.q, c.qb, c.dq, limbs, window),
		qInvR: make([]uint64, limbs),
		qw:    make([]uint64, c.q.BitLen()/64),
	}
	limbsOf(k.qInvR, powerOfTwo(limbs*limbBits, c.p).Mul(c.qInv, c.p).Bytes(c.p), 0)
	wordsOf(k.qw, k.q.n)
	return k
}

// batch is private-key operations in the lanes of an engine: operation i has
// lane 2i for p and 2i+1 for q. Lanes that are left over repeat the first one.
type batch struct {
	*space
	ops []*Op
}

// of is the operation that has a lane.
func (b batch) of(lane int) int {
	if lane/2 < len(b.ops) {
		return lane / 2
	}
	return 0
}

func (b batch) prime(lane int) *prime {
	k := &b.ops[b.of(lane)].Key.vector
	if lane%2 == 0 {
		return &k.p
	}
	return &k.q
}

// private does up to width operations, whose keys all have the same limbs and
// whose operands are checked.
func (e *engine) private(ops []*Op) {
	k := e.kernel(ops[0].Key.vector.limbs)
	s, _ := k.private.Get().(*space)
	if s == nil {
		s = e.newSpace(k, 1<<k.window)
	}
	defer func() {
		s.forget()
		k.private.Put(s)
	}()
	b := batch{s, ops}
	for lane := range e.lanes {
		p := b.prime(lane)
		s.modulus(lane, &p.modulus)
		s.put(s.one, lane, p.one)
		s.put(s.r2, lane, p.r2)
		s.put(s.r3, lane, p.r3)
	}
	b.reduce(s.x, b.operands())
	b.exponentiate(s.c, s.x)
	b.recombine(s.c)
	b.check()
}

// numbers is one for each operation.
type numbers [maxLanes / 2][]byte

func (b batch) operands() (c numbers) {
	for i, op := range b.ops {
		c[i] = op.C
	}
	return c
}

// values is the room for what recombine finds. It is the batch's own: the
// caller's memory gets nothing that is not checked.
func (b batch) values() (m numbers) {
	for i, op := range b.ops {
		m[i] = b.m[i][:len(op.Key.n)]
	}
	return m
}

// reduce is a number of twice the length modulo p and q, below 6 p and 6 q, in
// Montgomery's form: low R^2 / R + high R^3 / R.
func (b batch) reduce(out []uint64, x numbers) {
	n := b.limbs
	for lane := range b.lanes {
		v, half := x[b.of(lane)], b.lane[lane][:n]
		limbsOf(half, v, 0)
		b.put(b.a, lane, half)
		limbsOf(half, v, n)
		b.put(b.b, lane, half)
	}
	b.mul(b.a, b.a, b.r2)
	b.mul(b.b, b.b, b.r3)
	b.add(out, b.a, b.b)
}

// exponentiate is x to the private exponents, in windows.
func (b batch) exponentiate(out, x []uint64) {
	size, entries := b.limbs*b.lanes, 1<<b.window
	entry := func(i int) []uint64 { return b.table[i*size : (i+1)*size] }
	copy(entry(0), b.one)
	copy(entry(1), x)
	for i := 2; i < entries; i += 2 {
		b.square(entry(i), entry(i/2), nil, 1)
		b.mul(entry(i+1), entry(i), x)
	}
	var digits [maxLanes][]byte
	for lane := range b.lanes {
		digits[lane] = b.prime(lane).exponent
	}
	for i := range digits[0] {
		for lane := range b.lanes {
			b.index[lane] = uint64(digits[lane][i])
		}
		if i == 0 {
			b.choose(&out[0], &b.table[0], b.limbs, entries, &b.index[0])
			continue
		}
		b.choose(&b.a[0], &b.table[0], b.limbs, entries, &b.index[0])
		b.square(out, out, b.a, b.window)
	}
}

// leave takes numbers out of Montgomery's form, in place, to below 3 N.
func (b batch) leave(x []uint64) {
	one := b.b
	clear(one)
	for lane := range b.lanes {
		b.put(one, lane, []uint64{1})
	}
	b.mul(x, x, one)
}

// recombine is m = mq + q ((mp - mq) / q mod p), Garner's: below n, since mp, mq
// and the last factor are reduced to below p, q and p.
func (b batch) recombine(x []uint64) {
	n := b.limbs
	b.leave(x)
	clear(b.a)
	clear(b.b)
	for i, op := range b.ops {
		k := &op.Key.vector
		mp, mq := b.lane[2*i][:n], b.lane[2*i+1][:n]
		b.read(mp, x, 2*i, k.p.n)
		b.read(mq, x, 2*i+1, k.q.n)
		subtractMod(mp, mp, mq, k.p.n)
		b.put(b.a, 2*i, mp)
		b.put(b.b, 2*i, k.qInvR)
	}
	b.mul(b.a, b.a, b.b)
	var w [maxLimbs]uint64
	var h, low [maxLimbs / 2]uint64
	values := b.values()
	for i, op := range b.ops {
		k := &op.Key.vector
		words := len(k.qw)
		b.read(b.lane[2*i][:n], b.a, 2*i, k.p.n)
		wordsOf(h[:words], b.lane[2*i][:n])
		wordsOf(low[:words], b.lane[2*i+1][:n])
		multiplyAdd(w[:2*words], k.qw, h[:words], low[:words])
		bytesOf(values[i], w[:2*words])
	}
}

// check gives out the values m with m^65537 = c modulo p and q, and withholds the
// others. Modulo p and q is modulo n, for n = p q and p /= q were checked when the
// key was loaded. Both sides are computed anew from the bytes that came in and
// that would go out, so a fault in what was computed, or in a number of the key,
// is not in both alike.
//
// But for one kind: where R^2 and R^3 or the modulus are lost, both sides are
// zero, and m may well have p in common with n. So what brings numbers into
// Montgomery's form is tried on 1, which gives R mod p, a number that is stored.
func (b batch) check() {
	n, values, operands := b.limbs, b.values(), b.operands()
	b.reduce(b.x, values)
	b.square(b.c, b.x, b.x, 16)
	b.reduce(b.x, operands)
	b.leave(b.c)
	b.leave(b.x)
	b.leave(b.r2)
	// All operands have been read: they may lie where values go.
	for i, op := range b.ops {
		good := true
		for lane := 2 * i; lane < 2*i+2; lane++ {
			p := b.prime(lane)
			got, want := b.lane[2*i][:n], b.lane[2*i+1][:n]
			b.read(got, b.c, lane, p.n)
			b.read(want, b.x, lane, p.n)
			different, one := uint64(0), uint64(0)
			for j := range n {
				different |= got[j] ^ want[j]
			}
			b.read(got, b.r2, lane, p.n)
			for j := range n {
				different |= got[j] ^ p.one[j]
				one |= p.one[j]
			}
			good = good && different == 0 && one != 0
		}
		if !good {
			op.Err = ErrFault
			continue
		}
		op.M = result(op.M, len(op.Key.n))
		copy(op.M, values[i])
	}
}

// public does up to as many operations as there are lanes, whose keys all have
// the same limbs and whose operands are checked.
func (e *engine) public(ops []*PublicOp) {
	k := e.kernel(len(ops[0].Key.vector.n))
	s, _ := k.public.Get().(*space)
	if s == nil {
		s = e.newSpace(k, 0)
	}
	defer func() {
		s.forget()
		k.public.Put(s)
	}()
	n := k.limbs
	for lane := range e.lanes {
		op := ops[0]
		if lane < len(ops) {
			op = ops[lane]
		}
		m := &op.Key.vector
		s.modulus(lane, &m.modulus)
		s.put(s.a, lane, m.seed)
		limbsOf(s.lane[lane][:n], op.X, 0)
		s.put(s.x, lane, s.lane[lane][:n])
	}
	s.square(s.r2, s.a, nil, ops[0].Key.vector.squarings) // R^2 mod N
	s.mul(s.b, s.x, s.r2)
	s.square(s.b, s.b, s.x, 16)
	var w [maxLimbs]uint64
	for lane, op := range ops {
		x := s.lane[lane][:n]
		s.read(x, s.b, lane, op.Key.vector.n)
		words := w[:len(op.X)/8]
		wordsOf(words, x)
		op.Y = result(op.Y, len(op.X))
		bytesOf(op.Y, words)
	}
}
