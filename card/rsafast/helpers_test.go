package rsafast

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// stored is a key of testdata, made for these tests alone.
func stored(t testing.TB, name string) *rsa.PrivateKey {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".pem"))
	require.NoError(t, err)
	block, _ := pem.Decode(b)
	require.NotNil(t, block)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	return k.(*rsa.PrivateKey)
}

// bare is a key from its primes, with nothing computed beforehand.
func bare(p, q *big.Int) *rsa.PrivateKey {
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	return &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: Exponent},
		D:         new(big.Int).ModInverse(big.NewInt(Exponent), phi),
		Primes:    []*big.Int{p, q},
	}
}

// unequal is a key of 2048 bits whose primes differ in length.
func unequal(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	for {
		p, err := rand.Prime(rand.Reader, 1100)
		require.NoError(t, err)
		q, err := rand.Prime(rand.Reader, 948)
		require.NoError(t, err)
		if k := bare(q, p); k.N.BitLen() == 2048 && k.D != nil {
			return k
		}
	}
}

// forced is every engine that runs here, and the portable code as nil.
func forced() []*engine { return append(append([]*engine{}, engines...), nil) }

func nameOf(e *engine) string {
	if e == nil {
		return "portable"
	}
	return e.name
}

func loaded(t testing.TB, r *rsa.PrivateKey, e *engine) *Key {
	t.Helper()
	k, err := newKey(r, e)
	require.NoError(t, err)
	require.Equal(t, e, k.engine)
	return k
}

func random(t testing.TB, n *big.Int) *big.Int {
	t.Helper()
	v, err := rand.Int(rand.Reader, n)
	require.NoError(t, err)
	return v
}

func encoded(v, n *big.Int) []byte { return v.FillBytes(make([]byte, n.BitLen()/8)) }

// root is RSASP1 by math/big, by CRT or without.
func root(r *rsa.PrivateKey, v *big.Int) []byte {
	return encoded(new(big.Int).Exp(v, r.D, r.N), r.N)
}

// power is v^65537 by math/big.
func power(v []byte, n *big.Int) []byte {
	return encoded(new(big.Int).Exp(new(big.Int).SetBytes(v), big.NewInt(Exponent), n), n)
}
