package cryptogram

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// encoded is EME-OAEP with SHA-256 of DB and a seed as they are given.
func encoded(seed, db []byte) []byte {
	em := append([]byte{0}, append(bytes.Clone(seed), db...)...)
	mgf1XOR(em[1+hashLen:], em[1:1+hashLen])
	mgf1XOR(em[1:1+hashLen], em[1+hashLen:])
	return em
}

// Ciphertexts of the kinds that Project Wycheproof's RSAES-OAEP files have, made
// for this key; what is said of each is checked against crypto/rsa too.
func TestOAEPCases(t *testing.T) {
	k, std := key(t, "card-enc"), std(t, "card-enc")
	pk := &std.PublicKey
	size := pk.Size()
	m := []byte("a message of 24 bytes...")
	raw := func(em []byte) []byte {
		c, err := publicOf(pk, em)
		require.NoError(t, err)
		return c
	}
	number := func(v *big.Int) []byte { return v.FillBytes(make([]byte, size)) }
	db := func(hash [32]byte, ps, one, m []byte) []byte {
		out := append(bytes.Clone(hash[:]), ps...)
		return append(append(out, one...), m...)
	}
	zeroes := make([]byte, size-2*hashLen-2-len(m))
	seed := bytes.Repeat([]byte{0x5A}, hashLen)
	one := []byte{1}
	good := db(emptyHash, zeroes, one, m)
	// A seed under which the masked seed is zero, and a masked DB that is.
	mask := func(in []byte, n int) []byte { out := make([]byte, n); mgf1XOR(out, in); return out }
	zeroDB := append([]byte{0}, append(mask(make([]byte, len(good)), hashLen), make([]byte, len(good))...)...)
	sealed := func(label string) []byte {
		c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pk, m, []byte(label))
		require.NoError(t, err)
		return c
	}
	spoil := func(em []byte, at int, v byte) []byte { em = bytes.Clone(em); em[at] ^= v; return em }
	em := encoded(seed, good)
	n1 := new(big.Int).Sub(pk.N, big.NewInt(1))
	above := new(big.Int).Add(new(big.Int).SetBytes(raw(encoded(bytes.Repeat([]byte{1}, hashLen), good))), pk.N)

	for _, c := range []struct {
		name string
		c    []byte
		ok   bool
	}{
		{"as it should be", raw(em), true},
		{"crypto/rsa's", sealed(""), true},
		{"seed of zeroes", raw(encoded(make([]byte, hashLen), good)), true},
		{"seed of ones", raw(encoded(bytes.Repeat([]byte{0xFF}, hashLen), good)), true},
		{"first byte not zero", raw(spoil(em, 0, 1)), false},
		{"a bit of the masked seed", raw(spoil(em, 1, 0x80)), false},
		{"last bit of the masked DB", raw(spoil(em, size-1, 1)), false},
		{"first bit of the masked DB", raw(spoil(em, 1+hashLen, 0x80)), false},
		{"masked DB of zeroes", raw(zeroDB), false},
		{"label", sealed("label"), false},
		{"lHash of zeroes", raw(encoded(seed, db([32]byte{}, zeroes, one, m))), false},
		{"lHash of SHA-512/256", raw(encoded(seed, db(sha512.Sum512_256(nil), zeroes, one, m))), false},
		{"lHash one bit off", raw(encoded(seed, spoil(good, hashLen-1, 1))), false},
		{"no 01", raw(encoded(seed, db(emptyHash, zeroes, []byte{0}, m))), false},
		{"02 for 01", raw(encoded(seed, db(emptyHash, zeroes, []byte{2}, m))), false},
		{"PS not zero", raw(encoded(seed, spoil(good, hashLen, 0xFF))), false},
		{"PS ends in another 01", raw(encoded(seed, spoil(good, hashLen+len(zeroes)-1, 1))), false},
		{"DB of zeroes", raw(encoded(seed, make([]byte, len(good)))), false},
		{"DB of ones", raw(encoded(seed, bytes.Repeat([]byte{0xFF}, len(good)))), false},
		{"message one byte longer", raw(encoded(seed, db(emptyHash, zeroes[1:], one, append([]byte{7}, m...)))), false},
		{"message one byte shorter", raw(encoded(seed, db(emptyHash, append([]byte{0}, zeroes...), one, m[1:]))), false},
		{"message not padded", raw(append(zeroes, append(make([]byte, size-len(zeroes)-len(m)), m...)...)), false},
		{"PKCS#1 v1.5", raw(join([]byte{0, 2}, bytes.Repeat([]byte{0x77}, size-3-len(m)), []byte{0}, m)), false},
		{"0", number(new(big.Int)), false},
		{"1", number(big.NewInt(1)), false},
		{"n-1", number(n1), false},
		{"p", number(std.Primes[0]), false},
		{"n", number(pk.N), false},
		{"n+1", number(new(big.Int).Add(pk.N, big.NewInt(1))), false},
		{"ones", bytes.Repeat([]byte{0xFF}, size), false},
	} {
		got, ok, err := open(t.Context(), k, nil, c.c, len(m))
		require.NoError(t, err, c.name)
		assert.Equal(t, c.ok, ok == 1, c.name)
		assert.Len(t, got, len(m), c.name)
		theirs, err := rsa.DecryptOAEP(sha256.New(), nil, std, c.c, nil)
		if c.ok && assert.NoError(t, err, c.name) {
			assert.Equal(t, theirs, got, c.name)
		} else {
			assert.False(t, err == nil && len(theirs) == len(m), "crypto/rsa takes it: %s", c.name)
		}
	}
	if above.BitLen() <= 8*size {
		_, ok, err := open(t.Context(), k, nil, number(above), len(m))
		require.NoError(t, err)
		assert.Zero(t, ok, "c + n")
	}
	others := map[string]func() ([]byte, error){
		"SHA-1":   func() ([]byte, error) { return rsa.EncryptOAEP(sha1.New(), rand.Reader, pk, m, nil) },
		"SHA-512": func() ([]byte, error) { return rsa.EncryptOAEP(sha512.New(), rand.Reader, pk, m, nil) },
	}
	for name, encrypt := range others {
		c, err := encrypt()
		require.NoError(t, err)
		_, ok, err := open(t.Context(), k, nil, c, len(m))
		require.NoError(t, err)
		assert.Zero(t, ok, name)
	}
}

// Values of the kinds that Project Wycheproof's PKCS#1 v1.5 signature files have,
// for T1 without DigestInfo.
func TestT1Cases(t *testing.T) {
	k := key(t, "card-auth-1")
	pk := k.Public()
	keys := []*rsa.PublicKey{pk}
	size := pk.Size()
	m := bytes.Repeat([]byte{0x3C}, lenReceipt)
	sign := func(x []byte) []byte {
		c, err := k.Private(t.Context(), x)
		require.NoError(t, err)
		return c
	}
	number := func(v *big.Int) []byte { return v.FillBytes(make([]byte, size)) }
	good := t1Of(m, size)
	ff := bytes.Repeat([]byte{0xFF}, size-3-len(m))
	put := func(parts ...[]byte) []byte {
		x := join(parts...)
		require.Len(t, x, size)
		return sign(x)
	}
	value := sign(good)
	n := new(big.Int).SetBytes(value)
	minus := new(big.Int).Sub(pk.N, n)
	for _, c := range []struct {
		name string
		c    []byte
		ok   bool
	}{
		{"as it should be", value, true},
		{"block type 0", put([]byte{0, 0}, ff, []byte{0}, m), false},
		{"block type 2", put([]byte{0, 2}, ff, []byte{0}, m), false},
		{"first byte 01", put([]byte{1, 1}, ff, []byte{0}, m), false},
		{"padding of zeroes", put([]byte{0, 1}, make([]byte, len(ff)), []byte{0}, m), false},
		{"padding of 8, the message at the left", put([]byte{0, 1}, ff[:8], []byte{0}, m, make([]byte, len(ff)-8)), false},
		{"padding of 8, garbage at the right", put([]byte{0, 1}, ff[:8], []byte{0}, m, bytes.Repeat([]byte{0xA5}, len(ff)-8)), false},
		{"padding one byte short", put([]byte{0, 1}, ff[1:], []byte{0, 0}, m), false},
		{"padding ends in FE", put([]byte{0, 1}, ff[1:], []byte{0xFE, 0}, m), false},
		{"padding begins with FE", put([]byte{0, 1, 0xFE}, ff[1:], []byte{0}, m), false},
		{"no 00", put([]byte{0, 1}, ff, []byte{0xFF}, m), false},
		{"01 for 00", put([]byte{0, 1}, ff, []byte{1}, m), false},
		{"message one byte longer", put([]byte{0, 1}, ff[1:], []byte{0}, append([]byte{0x3C}, m...)), false},
		{"message one byte shorter", put([]byte{0, 1}, append([]byte{0xFF}, ff...), []byte{0}, m[1:]), false},
		{"message of zeroes is one", put([]byte{0, 1}, ff, []byte{0}, make([]byte, len(m))), true},
		{"message not padded", sign(append(make([]byte, size-len(m)), m...)), false},
		{"not signed", good, false},
		{"0", number(new(big.Int)), false},
		{"1", number(big.NewInt(1)), false},
		{"2", number(big.NewInt(2)), false},
		{"n-1", number(new(big.Int).Sub(pk.N, big.NewInt(1))), false},
		{"n", number(pk.N), false},
		{"n+1", number(new(big.Int).Add(pk.N, big.NewInt(1))), false},
		{"n - s", number(minus), false},
		{"ones", bytes.Repeat([]byte{0xFF}, size), false},
		{"one byte 00 before it", append([]byte{0}, value...), false},
		{"one byte 00 after it", append(bytes.Clone(value), 0), false},
		{"first byte missing", value[1:], false},
		{"last byte missing", value[:size-1], false},
		{"nothing", nil, false},
	} {
		got, err := PubDec(keys, c.c, len(m))
		var open *OpenError
		if c.ok {
			assert.NoError(t, err, c.name)
			assert.Len(t, got, len(m), c.name)
		} else {
			assert.ErrorAs(t, err, &open, c.name)
		}
	}
	if plus := new(big.Int).Add(n, pk.N); plus.BitLen() <= 8*size {
		_, err := PubDec(keys, number(plus), len(m))
		assert.Error(t, err, "s + n")
	}
}
