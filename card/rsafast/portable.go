package rsafast

import "filippo.io/bigmod"

// portableKey is a private key for the portable code.
type portableKey struct {
	n, p, q *bigmod.Modulus
	dp, dq  []byte
	qInv    *bigmod.Nat // q^-1 mod p
}

func newPortableKey(c *crt) portableKey {
	return portableKey{n: c.modN, p: c.p, q: c.q, dp: c.dp, dq: c.dq, qInv: c.qInv}
}

// private is RFC 8017 §5.1.2, 2.b: m1 = c^dP mod p, m2 = c^dQ mod q,
// m = m2 + q ((m1 - m2) qInv mod p), then m^e = c mod n.
func (k *portableKey) private(dst, c []byte) ([]byte, error) {
	x, err := bigmod.NewNat().SetBytes(c, k.n)
	if err != nil {
		return nil, ErrOperand
	}
	t := bigmod.NewNat()
	m := bigmod.NewNat().Exp(t.Mod(x, k.p), k.dp, k.p)
	m2 := bigmod.NewNat().Exp(t.Mod(x, k.q), k.dq, k.q)
	m.Sub(t.Mod(m2, k.p), k.p).Mul(k.qInv, k.p)
	m.ExpandFor(k.n).Mul(t.Mod(k.q.Nat(), k.n), k.n)
	m.Add(m2.ExpandFor(k.n), k.n)
	if bigmod.NewNat().ExpShortVarTime(m, Exponent, k.n).Equal(x) != 1 {
		return nil, ErrFault
	}
	return append(dst[:0], m.Bytes(k.n)...), nil
}

// portablePublic is x^65537 mod n; x is below n.
func portablePublic(dst, n, x []byte) ([]byte, error) {
	m, err := bigmod.NewModulus(n)
	if err != nil {
		return nil, ErrKey
	}
	v, err := bigmod.NewNat().SetBytes(x, m)
	if err != nil {
		return nil, ErrOperand
	}
	return append(dst[:0], bigmod.NewNat().ExpShortVarTime(v, Exponent, m).Bytes(m)...), nil
}
