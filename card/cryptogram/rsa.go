package cryptogram

import (
	"context"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"fmt"

	"filippo.io/bigmod"
)

// PrivateKey is a raw RSA private-key operation, wherever the key is kept.
type PrivateKey interface {
	// Public is the public half.
	Public() *rsa.PublicKey
	// Private is RSASP1 = RSADP of RFC 8017 on c, a value below n in exactly
	// the modulus's length in bytes, checked with the public exponent before
	// it is returned. It is safe for concurrent use.
	Private(ctx context.Context, c []byte) ([]byte, error)
}

// Exponent is the public exponent of every key (§2).
const Exponent = 65537

var (
	// ErrKey is matched by every error that says a key or key set is not one
	// of §2.
	ErrKey = errors.New("cryptogram: bad key")
	// ErrFault says that a private-key operation came out wrong and its value
	// was withheld: hardware fails, or somebody makes it fail.
	ErrFault = errors.New("cryptogram: private-key operation failed its check")
)

// Key is a PrivateKey in memory: constant-time CRT with two primes.
type Key struct {
	pub     *rsa.PublicKey
	n, p, q *bigmod.Modulus
	dp, dq  []byte
	qInv    *bigmod.Nat // q^-1 mod p
}

// NewKey takes over a key of 2048, 3072 or 4096 bits with two primes and
// e = 65537. The error matches ErrKey.
func NewKey(k *rsa.PrivateKey) (*Key, error) {
	if err := checkPublic(&k.PublicKey); err != nil {
		return nil, err
	}
	if len(k.Primes) != 2 {
		return nil, fmt.Errorf("%w: %d primes, 2 wanted", ErrKey, len(k.Primes))
	}
	if err := k.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	k.Precompute()
	key := &Key{pub: &k.PublicKey, dp: k.Precomputed.Dp.Bytes(), dq: k.Precomputed.Dq.Bytes()}
	var err error
	if key.n, err = bigmod.NewModulus(k.N.Bytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if key.p, err = bigmod.NewModulus(k.Primes[0].Bytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if key.q, err = bigmod.NewModulus(k.Primes[1].Bytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	qInv := make([]byte, key.p.Size())
	if key.qInv, err = bigmod.NewNat().SetBytes(k.Precomputed.Qinv.FillBytes(qInv), key.p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, nil
}

// Public implements PrivateKey.
func (k *Key) Public() *rsa.PublicKey { return k.pub }

// Private implements PrivateKey.
func (k *Key) Private(ctx context.Context, c []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(c) != k.pub.Size() {
		return nil, fmt.Errorf("%w: operand of %d bytes for a modulus of %d", ErrKey, len(c), k.pub.Size())
	}
	x, err := bigmod.NewNat().SetBytes(c, k.n)
	if err != nil {
		return nil, fmt.Errorf("%w: operand is not below the modulus", ErrKey)
	}
	// RFC 8017 §5.1.2, 2.b: m1 = c^dP mod p, m2 = c^dQ mod q,
	// m = m2 + q ((m1 - m2) qInv mod p).
	t := bigmod.NewNat()
	m := bigmod.NewNat().Exp(t.Mod(x, k.p), k.dp, k.p)
	m2 := bigmod.NewNat().Exp(t.Mod(x, k.q), k.dq, k.q)
	m.Sub(t.Mod(m2, k.p), k.p).Mul(k.qInv, k.p)
	m.ExpandFor(k.n).Mul(t.Mod(k.q.Nat(), k.n), k.n)
	m.Add(m2.ExpandFor(k.n), k.n)
	if bigmod.NewNat().ExpShortVarTime(m, Exponent, k.n).Equal(x) != 1 {
		return nil, ErrFault
	}
	return m.Bytes(k.n), nil
}

// private is key.Private. Whatever implements it, the result has the modulus's
// length; with verify, one that this package did not check itself is checked
// with the public exponent.
func private(ctx context.Context, key PrivateKey, c []byte, verify bool) ([]byte, error) {
	x, err := key.Private(ctx, c)
	if err != nil {
		return nil, err
	}
	pk := key.Public()
	if len(x) != pk.Size() {
		return nil, ErrFault
	}
	if _, checked := key.(*Key); checked || !verify {
		return x, nil
	}
	back, err := public(pk, x)
	if err != nil || subtle.ConstantTimeCompare(back, c) != 1 {
		return nil, ErrFault
	}
	return x, nil
}

// String keeps the key out of logs.
func (k Key) String() string { return fmt.Sprintf("RSA-%d private key", k.pub.N.BitLen()) }

// GoString keeps the key out of logs.
func (k Key) GoString() string { return k.String() }

func checkPublic(k *rsa.PublicKey) error {
	if k == nil || k.N == nil {
		return fmt.Errorf("%w: no key", ErrKey)
	}
	switch k.N.BitLen() {
	case 2048, 3072, 4096:
	default:
		return fmt.Errorf("%w: modulus of %d bits, 2048, 3072 or 4096 wanted", ErrKey, k.N.BitLen())
	}
	if k.N.Bit(0) == 0 {
		return fmt.Errorf("%w: even modulus", ErrKey)
	}
	if k.E != Exponent {
		return fmt.Errorf("%w: public exponent %d, 65537 wanted", ErrKey, k.E)
	}
	return nil
}

// public is RSAVP1 = RSAEP on x, which must be below n and as long.
func public(k *rsa.PublicKey, x []byte) ([]byte, error) {
	n, err := bigmod.NewModulus(k.N.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	v, err := bigmod.NewNat().SetBytes(x, n)
	if err != nil {
		return nil, fmt.Errorf("%w: operand is not below the modulus", ErrKey)
	}
	return bigmod.NewNat().ExpShortVarTime(v, Exponent, n).Bytes(n), nil
}

// below is 1 if x < n and 0 otherwise, in constant time for x and n of equal
// length.
func below(x, n []byte) int {
	borrow := 0
	for i := len(x) - 1; i >= 0; i-- {
		borrow = (int(x[i]) - int(n[i]) - borrow) >> 8 & 1
	}
	return borrow
}

// clamp overwrites x with zeroes where it is not below n, so that the work goes
// on with a value that fits, and reports which it was.
func clamp(x []byte, k *rsa.PublicKey) (ok int) {
	ok = below(x, k.N.FillBytes(make([]byte, len(x))))
	subtle.ConstantTimeCopy(1-ok, x, make([]byte, len(x)))
	return ok
}
