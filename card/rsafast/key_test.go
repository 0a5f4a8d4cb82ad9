package rsafast

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKeyIsChecked(t *testing.T) {
	one, two := big.NewInt(1), big.NewInt(2)
	add := func(x *big.Int, v int64) *big.Int { return new(big.Int).Add(x, big.NewInt(v)) }
	fresh := func() *rsa.PrivateKey {
		r := stored(t, "rsa2048a")
		return bare(r.Primes[0], r.Primes[1])
	}
	other := stored(t, "rsa2048b")
	for name, spoil := range map[string]func(k *rsa.PrivateKey){
		"no n":                func(k *rsa.PrivateKey) { k.N = nil },
		"n + 2":               func(k *rsa.PrivateKey) { k.N = add(k.N, 2) },
		"n of another key":    func(k *rsa.PrivateKey) { k.N = other.N },
		"n even":              func(k *rsa.PrivateKey) { k.N = add(k.N, 1) },
		"n negative":          func(k *rsa.PrivateKey) { k.N = new(big.Int).Neg(k.N) },
		"n zero":              func(k *rsa.PrivateKey) { k.N = new(big.Int) },
		"e = 3":               func(k *rsa.PrivateKey) { k.E = 3 },
		"e = 0":               func(k *rsa.PrivateKey) { k.E = 0 },
		"e = -65537":          func(k *rsa.PrivateKey) { k.E = -Exponent },
		"no d":                func(k *rsa.PrivateKey) { k.D = nil },
		"d = 0":               func(k *rsa.PrivateKey) { k.D = new(big.Int) },
		"d negative":          func(k *rsa.PrivateKey) { k.D = new(big.Int).Neg(k.D) },
		"d + 2":               func(k *rsa.PrivateKey) { k.D = add(k.D, 2) },
		"d = n":               func(k *rsa.PrivateKey) { k.D = k.N },
		"d above n":           func(k *rsa.PrivateKey) { k.D = new(big.Int).Mul(k.D, k.N) },
		"no primes":           func(k *rsa.PrivateKey) { k.Primes = nil },
		"one prime":           func(k *rsa.PrivateKey) { k.Primes = k.Primes[:1] },
		"three primes":        func(k *rsa.PrivateKey) { k.Primes = append(k.Primes, big.NewInt(3)) },
		"a prime missing":     func(k *rsa.PrivateKey) { k.Primes[1] = nil },
		"a prime zero":        func(k *rsa.PrivateKey) { k.Primes[1] = new(big.Int) },
		"a prime negative":    func(k *rsa.PrivateKey) { k.Primes[0].Neg(k.Primes[0]) },
		"both negative":       func(k *rsa.PrivateKey) { k.Primes[0].Neg(k.Primes[0]); k.Primes[1].Neg(k.Primes[1]) },
		"prime + 2":           func(k *rsa.PrivateKey) { k.Primes[0] = add(k.Primes[0], 2) },
		"primes of another":   func(k *rsa.PrivateKey) { k.Primes = other.Primes },
		"1 and n":             func(k *rsa.PrivateKey) { k.Primes = []*big.Int{one, k.N} },
		"n and 1":             func(k *rsa.PrivateKey) { k.Primes = []*big.Int{k.N, one} },
		"2 in n":              func(k *rsa.PrivateKey) { k.Primes = []*big.Int{k.Primes[0], two} },
		"even prime":          func(k *rsa.PrivateKey) { k.Primes[0] = add(k.Primes[0], 1) },
		"huge prime":          func(k *rsa.PrivateKey) { k.Primes[0] = new(big.Int).Lsh(one, 1<<16) },
		"huge d":              func(k *rsa.PrivateKey) { k.D = new(big.Int).Lsh(one, 1<<16) },
		"n of 2047 bits":      func(k *rsa.PrivateKey) { k.N = add(new(big.Int).Lsh(one, 2046), 1) },
		"n of 1024 bits":      func(k *rsa.PrivateKey) { k.N = add(new(big.Int).Lsh(one, 1023), 1) },
		"n of 8192 bits":      func(k *rsa.PrivateKey) { k.N = add(new(big.Int).Lsh(one, 8191), 1) },
		"dP wrong":            func(k *rsa.PrivateKey) { k.Precompute(); k.Precomputed.Dp = add(k.Precomputed.Dp, 2) },
		"dQ wrong":            func(k *rsa.PrivateKey) { k.Precompute(); k.Precomputed.Dq = add(k.Precomputed.Dq, 2) },
		"dP and dQ changed":   func(k *rsa.PrivateKey) { k.Precompute(); p := &k.Precomputed; p.Dp, p.Dq = p.Dq, p.Dp },
		"dP negative":         func(k *rsa.PrivateKey) { k.Precompute(); k.Precomputed.Dp.Neg(k.Precomputed.Dp) },
		"qInv wrong":          func(k *rsa.PrivateKey) { k.Precompute(); k.Precomputed.Qinv = add(k.Precomputed.Qinv, 1) },
		"qInv negative":       func(k *rsa.PrivateKey) { k.Precompute(); k.Precomputed.Qinv.Neg(k.Precomputed.Qinv) },
		"qInv above p":        func(k *rsa.PrivateKey) { k.Precompute(); k.Precomputed.Qinv.Add(k.Precomputed.Qinv, k.Primes[0]) },
		"one prime, squared":  func(k *rsa.PrivateKey) { *k = *square(t) },
		"a composite factor":  func(k *rsa.PrivateKey) { *k = *composite(t) },
		"a tiny prime":        func(k *rsa.PrivateKey) { *k = *tiny(t) },
		"primes and no more":  func(k *rsa.PrivateKey) { *k = rsa.PrivateKey{Primes: k.Primes} },
		"nothing but n and e": func(k *rsa.PrivateKey) { *k = rsa.PrivateKey{PublicKey: k.PublicKey} },
		"nothing":             func(k *rsa.PrivateKey) { *k = rsa.PrivateKey{} },
	} {
		k := fresh()
		spoil(k)
		_, err := NewKey(k)
		assert.ErrorIs(t, err, ErrKey, name)
		if err != nil {
			for _, x := range []*big.Int{other.D, stored(t, "rsa2048a").Primes[0], stored(t, "rsa2048a").D} {
				assert.NotContains(t, err.Error(), x.String()[:20])
			}
		}
	}
	_, err := NewKey(nil)
	assert.ErrorIs(t, err, ErrKey)
	_, err = NewKey(fresh())
	assert.NoError(t, err, "precomputed values need not be there")
}

func newPrimeOf(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	require.NoError(t, err)
	return p
}

// square is a key with one prime twice.
func square(t testing.TB) *rsa.PrivateKey {
	p := stored(t, "rsa2048a").Primes[0]
	k := bare(p, p)
	k.D.ModInverse(big.NewInt(Exponent), new(big.Int).Sub(p, big.NewInt(1)))
	return k
}

// composite is a key whose second factor is a product of two primes: all but
// that is as it should be.
func composite(t testing.TB) *rsa.PrivateKey {
	one := big.NewInt(1)
	for {
		p, a, b := newPrimeOf(t, 1024), newPrimeOf(t, 512), newPrimeOf(t, 512)
		q := new(big.Int).Mul(a, b)
		k := bare(p, q)
		l := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		if k.D = new(big.Int).ModInverse(big.NewInt(Exponent), l); k.D != nil && k.N.BitLen() == 2048 {
			return k
		}
	}
}

func tiny(t testing.TB) *rsa.PrivateKey {
	for {
		if k := bare(newPrimeOf(t, 2040), big.NewInt(251)); k.D != nil && k.N.BitLen() == 2048 {
			return k
		}
	}
}

func TestKeyOfOtherShapes(t *testing.T) {
	c := big.NewInt(1234567)
	for _, e := range forced() {
		r := stored(t, "rsa2048a")
		p, q := r.Primes[0], r.Primes[1]
		if p.Cmp(q) < 0 {
			p, q = q, p
		}
		for name, std := range map[string]*rsa.PrivateKey{"p > q": bare(p, q), "p < q": bare(q, p)} {
			for _, computed := range []bool{false, true} {
				if computed {
					std.Precompute()
				}
				k := loaded(t, std, e)
				for i := range 10 {
					v := new(big.Int).Add(c, big.NewInt(int64(i)))
					m, err := k.Private(t.Context(), encoded(v, r.N))
					require.NoError(t, err, name)
					assert.Equal(t, root(r, v), m, name)
				}
			}
		}
		std := unequal(t)
		for _, computed := range []bool{false, true} {
			if computed {
				std.Precompute()
			}
			k, err := newKey(std, e)
			require.NoError(t, err)
			assert.Nil(t, k.engine, "primes of two lengths are the portable code's")
			ops := []*Op{{Key: k, C: encoded(c, std.N)}, {Key: loaded(t, r, e), C: encoded(c, r.N)}}
			Run(ops...)
			assert.Equal(t, root(std, c), ops[0].M)
			assert.Equal(t, root(r, c), ops[1].M)
		}
	}
}

func TestPublicKeyIsChecked(t *testing.T) {
	n := stored(t, "rsa2048a").N
	bits := func(n uint) *big.Int { return new(big.Int).SetBit(big.NewInt(1), int(n-1), 1) }
	for name, k := range map[string]*rsa.PublicKey{
		"none": nil, "no n": {E: Exponent}, "e = 3": {N: n, E: 3}, "even": {N: new(big.Int).Add(n, big.NewInt(1)), E: Exponent},
		"1024": {N: bits(1024), E: Exponent}, "2047": {N: bits(2047), E: Exponent}, "4097": {N: bits(4097), E: Exponent},
		"negative": {N: new(big.Int).Neg(n), E: Exponent},
	} {
		_, err := NewPublicKey(k)
		assert.ErrorIs(t, err, ErrKey, name)
	}
}

func TestKeyPrintsNothing(t *testing.T) {
	r := stored(t, "rsa2048a")
	for _, e := range forced() {
		k := loaded(t, r, e)
		for _, f := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			for _, v := range []any{k, *k} {
				s := fmt.Sprintf(f, v)
				assert.Less(t, len(s), 100, "%s %s", f, s)
			}
		}
		assert.Equal(t, "RSA-2048 private key", k.String())
	}
}

// A key does not change with what it was made of.
func TestKeyIsACopy(t *testing.T) {
	for _, e := range forced() {
		r := stored(t, "rsa2048a")
		want := root(r, big.NewInt(9))
		c := encoded(big.NewInt(9), r.N)
		k := loaded(t, r, e)
		for _, x := range []*big.Int{r.N, r.D, r.Primes[0], r.Primes[1], r.Precomputed.Dp, r.Precomputed.Dq, r.Precomputed.Qinv} {
			words := x.Bits()
			clear(words)
		}
		m, err := k.Private(t.Context(), c)
		require.NoError(t, err)
		assert.Equal(t, want, m)
	}
}

// Hostile parts of a key give an error, never a panic.
func FuzzNewKey(f *testing.F) {
	r := stored(f, "rsa2048a")
	r.Precompute()
	v := r.Precomputed
	f.Add(r.N.Bytes(), r.D.Bytes(), r.Primes[0].Bytes(), r.Primes[1].Bytes(), v.Dp.Bytes(), v.Qinv.Bytes(), Exponent)
	f.Add(r.N.Bytes(), r.D.Bytes(), r.Primes[1].Bytes(), r.Primes[0].Bytes(), []byte{}, []byte{}, Exponent)
	f.Add([]byte{}, []byte{}, []byte{1}, []byte{2}, []byte{}, []byte{}, 3)
	f.Add(r.N.Bytes(), []byte{1}, []byte{3}, new(big.Int).Div(r.N, big.NewInt(3)).Bytes(), []byte{}, []byte{}, Exponent)
	f.Fuzz(func(t *testing.T, n, d, p, q, dp, qInv []byte, e int) {
		if max(len(n), len(d), len(p), len(q), len(dp), len(qInv)) > 600 {
			return
		}
		set := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
		k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: set(n), E: e}, D: set(d), Primes: []*big.Int{set(p), set(q)}}
		if len(dp) > 0 {
			k.Precomputed.Dp = set(dp)
		}
		if len(qInv) > 0 {
			k.Precomputed.Qinv = set(qInv)
		}
		key, err := NewKey(k)
		if err != nil {
			assert.ErrorIs(t, err, ErrKey)
			return
		}
		c := encoded(big.NewInt(3), k.N)
		m, err := key.Private(t.Context(), c)
		require.NoError(t, err, "a key that was accepted works")
		assert.Equal(t, c, power(m, k.N))
	})
}
