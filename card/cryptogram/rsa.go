package cryptogram

import (
	"context"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/bits"

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

// CheckedKey is a PrivateKey of this program's own arithmetic: it checks every
// value with the public exponent before it lets it go, so that PrivEnc need not
// do it again, and works in memory that it is given. What hardware or a driver
// computes is no CheckedKey.
type CheckedKey interface {
	PrivateKey
	// PrivateTo is Private with the value in dst, which is as long as c and may
	// be c. After an error dst holds nothing of use.
	PrivateTo(ctx context.Context, dst, c []byte) error
}

// PublicOps does public operations for those who have many: in batches.
type PublicOps interface {
	// PublicTo is RSAVP1 = RSAEP of RFC 8017 on x, a value below n in exactly
	// the modulus's length in bytes, with the value in dst, which is as long
	// and may be x. It is safe for concurrent use.
	PublicTo(ctx context.Context, k *rsa.PublicKey, dst, x []byte) error
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

// PrivateTo implements CheckedKey.
func (k *Key) PrivateTo(ctx context.Context, dst, c []byte) error {
	x, err := k.Private(ctx, c)
	copy(dst, x)
	clear(x)
	return err
}

// private replaces x by key's private operation on it. Whatever implements it,
// the value has the modulus's length; with verify, one of a key that is no
// CheckedKey is checked with the public exponent.
func private(ctx context.Context, key PrivateKey, x []byte, verify bool) error {
	if own, ok := key.(CheckedKey); ok {
		return own.PrivateTo(ctx, x, x)
	}
	y, err := key.Private(ctx, x)
	if err != nil {
		return err
	}
	if len(y) != len(x) {
		return ErrFault
	}
	if verify {
		back := make([]byte, len(x))
		if err := publicTo(key.Public(), back, y); err != nil || subtle.ConstantTimeCompare(back, x) != 1 {
			return ErrFault
		}
	}
	copy(x, y)
	return nil
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

// public replaces x by RSAVP1 = RSAEP on it, which must be below n and as long,
// by ops, or here where that is nil.
func public(ctx context.Context, ops PublicOps, k *rsa.PublicKey, x []byte) error {
	if ops != nil {
		return ops.PublicTo(ctx, k, x, x)
	}
	return publicTo(k, x, x)
}

func publicTo(k *rsa.PublicKey, dst, x []byte) error {
	n, err := bigmod.NewModulus(k.N.Bytes())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	v, err := bigmod.NewNat().SetBytes(x, n)
	if err != nil {
		return fmt.Errorf("%w: operand is not below the modulus", ErrKey)
	}
	copy(dst, bigmod.NewNat().ExpShortVarTime(v, Exponent, n).Bytes(n))
	return nil
}

// maxModulus is the length in bytes of the longest modulus of §2.
const maxModulus = 512

// below is 1 if x < n and 0 otherwise, in constant time for an x as long as n
// in whole words.
func below(x []byte, n *big.Int) int {
	var borrow uint
	for _, w := range n.Bits() {
		at := len(x) - bits.UintSize/8
		_, borrow = bits.Sub(word(x[at:]), uint(w), borrow)
		x = x[:at]
	}
	return int(borrow)
}

// word is the big-endian word that b begins with.
func word(b []byte) uint {
	if bits.UintSize == 32 {
		return uint(binary.BigEndian.Uint32(b))
	}
	return uint(binary.BigEndian.Uint64(b))
}

// clamp clears the first word of x, as long as k's modulus, where x is not below
// it, so that the work goes on with a value that fits and looks like any other,
// and reports which it was.
func clamp(x []byte, k *rsa.PublicKey) (ok int) {
	ok = below(x, k.N)
	binary.BigEndian.PutUint64(x, binary.BigEndian.Uint64(x)&-uint64(ok))
	return ok
}

// checkSize refuses a key whose modulus is of another size than §2 has: what
// follows counts on it.
func checkSize(k *rsa.PublicKey) (size int, err error) {
	switch size = k.Size(); size {
	case 2048 / 8, 3072 / 8, maxModulus:
		return size, nil
	}
	return 0, fmt.Errorf("%w: modulus of %d bytes", ErrKey, size)
}
