package rsafast

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"fmt"
	"io"
	"math/big"

	"filippo.io/bigmod"
)

// Key is a private key that is ready for operations, many at once. It is safe
// for concurrent use.
type Key struct {
	pub    *rsa.PublicKey
	n      []byte // the modulus, big-endian
	engine *engine
	vector vectorKey   // what engine needs
	plain  portableKey // what the portable code needs; engine is nil then
}

// NewKey takes over a key of 2048, 3072 or 4096 bits with two primes and
// e = 65537, after it has checked that the parts belong together. The error
// matches ErrKey.
func NewKey(k *rsa.PrivateKey) (*Key, error) { return newKey(k, best) }

// newKey is NewKey for one engine; nil is the portable code.
func newKey(k *rsa.PrivateKey, e *engine) (*Key, error) {
	c, err := newCRT(k)
	if err != nil {
		return nil, err
	}
	key := &Key{pub: &rsa.PublicKey{N: new(big.Int).Set(k.N), E: k.E}, n: c.n}
	if e != nil && c.p.BitLen() == c.q.BitLen() {
		key.engine, key.vector = e, e.newVectorKey(c)
		return key, nil
	}
	key.plain = newPortableKey(c)
	return key, nil
}

// Public is the public half.
func (k *Key) Public() *rsa.PublicKey { return k.pub }

// Private is RSASP1 = RSADP of RFC 8017 on c, one operation by itself. c is a
// value below n in exactly the modulus's length; the error matches ErrOperand
// where it is not. The result is checked with the public exponent before it is
// returned; the error is ErrFault where it fails.
func (k *Key) Private(ctx context.Context, c []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	op := Op{Key: k, C: c}
	Run(&op)
	return op.M, op.Err
}

// String is the size alone.
func (k Key) String() string { return fmt.Sprintf("RSA-%d private key", 8*len(k.n)) }

// Format keeps the key out of logs, whatever the verb.
func (k Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// check refuses operands before any private operation.
func (k *Key) check(c []byte) error {
	if len(c) != len(k.n) {
		return fmt.Errorf("%w: %d bytes for a modulus of %d", ErrOperand, len(c), len(k.n))
	}
	if !below(c, k.n) {
		return fmt.Errorf("%w: not below the modulus", ErrOperand)
	}
	return nil
}

// crt is a key's parts, all checked, p > q when both have one length.
type crt struct {
	n      []byte
	p, q   *bigmod.Modulus
	pb, qb []byte // p, q; big-endian, each in its own length
	dp, dq []byte // d mod p-1, d mod q-1
	qInv   *bigmod.Nat
	modN   *bigmod.Modulus
}

// newCRT checks a key and takes it apart. The parts that are secret are handled
// by bigmod, never by math/big's arithmetic.
func newCRT(k *rsa.PrivateKey) (*crt, error) {
	if k == nil {
		return nil, fmt.Errorf("%w: no key", ErrKey)
	}
	if err := checkPublic(&k.PublicKey); err != nil {
		return nil, err
	}
	if len(k.Primes) != 2 {
		return nil, fmt.Errorf("%w: %d primes, 2 wanted", ErrKey, len(k.Primes))
	}
	size := k.Size()
	p, err := secret(k.Primes[0], "prime", size)
	if err != nil {
		return nil, err
	}
	q, err := secret(k.Primes[1], "prime", size)
	if err != nil {
		return nil, err
	}
	if len(p) == len(q) && subtle.ConstantTimeCompare(p, q) == 1 {
		return nil, fmt.Errorf("%w: both primes are the same", ErrKey)
	}
	for _, x := range [][]byte{p, q} {
		if x[len(x)-1]&1 == 0 {
			return nil, fmt.Errorf("%w: even prime", ErrKey)
		}
		if 8*len(x) < 2*size {
			return nil, fmt.Errorf("%w: prime of %d bytes for a modulus of %d", ErrKey, len(x), size)
		}
	}
	swapped := len(p) < len(q) || len(p) == len(q) && below(p, q)
	if swapped {
		p, q = q, p
	}
	c := &crt{n: k.N.Bytes(), pb: p, qb: q}
	if err := c.moduli(); err != nil {
		return nil, err
	}
	db, err := secret(k.D, "private exponent", size)
	if err != nil {
		return nil, err
	}
	d, err := bigmod.NewNat().SetBytes(db, c.modN)
	if err != nil {
		return nil, fmt.Errorf("%w: the private exponent is not below the modulus", ErrKey)
	}
	if c.dp, err = reducedExponent(c.p, p, d); err != nil {
		return nil, err
	}
	if c.dq, err = reducedExponent(c.q, q, d); err != nil {
		return nil, err
	}
	for _, m := range []*bigmod.Modulus{c.p, c.q} {
		if err := probablyPrime(m); err != nil {
			return nil, err
		}
	}
	// q^-1 = q^(p-2) mod p: constant in time, p is prime.
	c.qInv = bigmod.NewNat().Exp(reduced(c.q.Nat(), c.p), minus(p, 2), c.p)
	return c, c.precomputed(&k.Precomputed, swapped)
}

func (c *crt) moduli() error {
	var err error
	if c.modN, err = bigmod.NewModulus(c.n); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if c.p, err = bigmod.NewModulus(c.pb); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if c.q, err = bigmod.NewModulus(c.qb); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	product, err := bigmod.NewModulusProduct(c.pb, c.qb)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if product.BitLen() != c.modN.BitLen() || product.Nat().Equal(c.modN.Nat()) != 1 {
		return fmt.Errorf("%w: the modulus is not the product of the primes", ErrKey)
	}
	return nil
}

// precomputed checks the CRT values that came with the key, where they did.
func (c *crt) precomputed(v *rsa.PrecomputedValues, swapped bool) error {
	bad := func(name string) error {
		return fmt.Errorf("%w: the precomputed %s is wrong", ErrKey, name)
	}
	first, second := c.dp, c.dq
	m, of := c.p, c.q // Qinv = second^-1 mod first
	if swapped {
		first, second, m, of = second, first, c.q, c.p
	}
	if v.Dp != nil && !equal(v.Dp, first) {
		return bad("dP")
	}
	if v.Dq != nil && !equal(v.Dq, second) {
		return bad("dQ")
	}
	if v.Qinv == nil {
		return nil
	}
	b, err := secret(v.Qinv, "qInv", len(c.n))
	if err != nil {
		return err
	}
	inv, err := bigmod.NewNat().SetBytes(b, m)
	if err != nil || inv.Mul(reduced(of.Nat(), m), m).IsOne() != 1 {
		return bad("qInv")
	}
	return nil
}

// secret is the big-endian bytes of a positive number of up to size bytes.
func secret(x *big.Int, name string, size int) ([]byte, error) {
	if x == nil || x.Sign() <= 0 || x.BitLen() > 8*size {
		return nil, fmt.Errorf("%w: %s missing, not positive or too long", ErrKey, name)
	}
	return x.Bytes(), nil
}

// equal compares in constant time for the length of want.
func equal(x *big.Int, want []byte) bool {
	if x.Sign() < 0 || x.BitLen() > 8*len(want) {
		return false
	}
	return subtle.ConstantTimeCompare(x.FillBytes(make([]byte, len(want))), want) == 1
}

// minus is x - v for a v below 256 and an x above it.
func minus(x []byte, v int) []byte {
	out := make([]byte, len(x))
	for i := len(x) - 1; i >= 0; i-- {
		d := int(x[i]) - v
		out[i] = byte(d)
		v = d >> 8 & 1
	}
	return out
}

// reduced is x mod m.
func reduced(x *bigmod.Nat, m *bigmod.Modulus) *bigmod.Nat { return bigmod.NewNat().Mod(x, m) }

// reducedExponent is d mod p-1, after it has checked that d e = 1 mod p-1.
func reducedExponent(p *bigmod.Modulus, pb []byte, d *bigmod.Nat) ([]byte, error) {
	p1, err := bigmod.NewModulus(minus(pb, 1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	x := reduced(d, p1)
	out := x.Bytes(p1)
	e := reduced(bigmod.NewNat().SetUint(Exponent), p1)
	if x.Mul(e, p1).IsOne() != 1 {
		return nil, fmt.Errorf("%w: the private exponent does not fit", ErrKey)
	}
	return out, nil
}

// rounds of Miller and Rabin's test, each with a random base: as many as FIPS
// 186-5 table B.1 asks for primes of RSA-2048. A composite that somebody made for
// it passes in one of 1024 cases at the most, and harms nobody else: results are
// checked all the same.
const rounds = 5

// probablyPrime refuses odd composite numbers.
func probablyPrime(m *bigmod.Modulus) error {
	p1 := m.Nat().SubOne(m)
	s := p1.TrailingZeroBitsVarTime()
	odd := bigmod.NewNat().Mod(p1, m).ShiftRightVarTime(s).Bytes(m)
	b := make([]byte, m.Size())
	for range rounds {
		if _, err := rand.Read(b); err != nil {
			return fmt.Errorf("rsafast: %w", err)
		}
		b[0] >>= (8 - m.BitLen()%8) % 8
		base, err := bigmod.NewNat().SetOverflowingBytes(b, m)
		if err != nil {
			return fmt.Errorf("rsafast: %w", err)
		}
		x := bigmod.NewNat().Exp(base, odd, m)
		witness := x.IsOne() != 1 && x.IsMinusOne(m) != 1 && base.IsZero() != 1
		for i := uint(1); i < s && witness; i++ {
			x.Mul(x, m)
			witness = x.IsMinusOne(m) != 1
		}
		if witness {
			return fmt.Errorf("%w: a factor is not prime", ErrKey)
		}
	}
	return nil
}
