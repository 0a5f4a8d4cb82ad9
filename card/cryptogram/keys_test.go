package cryptogram

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func publicPEM(t testing.TB, k *rsa.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	require.NoError(t, err)
	return block("PUBLIC KEY", der)
}

func TestKeySetFile(t *testing.T) {
	f := vectors.Load(t)
	file := KeySetPEM{ID: 1, KeysPEM: KeysPEM{Auth: f.PEM("server-auth-1", "server-auth-2", "server-auth-3"), Enc: f.Keys["server-enc"]}}
	b, err := json.Marshal(file)
	require.NoError(t, err)
	parsed, err := ParseKeySet(b)
	require.NoError(t, err)
	assert.Equal(t, file, parsed)
	own, err := parsed.Private()
	require.NoError(t, err)
	assert.Equal(t, byte(1), own.KID)
	sid := own.SID()
	assert.Equal(t, []byte(f.Sets[1].SID), sid[:])

	public, err := EncodePublic(own.Public())
	require.NoError(t, err)
	pub, err := KeySetPEM{ID: 1, KeysPEM: public}.Public()
	require.NoError(t, err)
	assert.Equal(t, sid, ServerID(1, pub))
	_, err = KeySetPEM{ID: 1, KeysPEM: public}.Private()
	assert.ErrorIs(t, err, ErrKey, "public keys are no private keys")
	_, err = parsed.Public()
	assert.ErrorIs(t, err, ErrKey, "private keys are no public keys")

	// The patent-literal mode: one key for both layers.
	shared, err := KeysPEM{Auth: f.PEM("server-auth-1"), Enc: f.Keys["server-auth-1"]}.Private()
	require.NoError(t, err)
	assert.NoError(t, shared.Public().Validate())
}

func TestKeySetFileMalformed(t *testing.T) {
	for _, s := range []string{
		"", "null 1", "{", "[]", `"x"`, "{}{}", `{"id":1} x`, `{"id":1}]`,
		`{"id":256}`, `{"id":-1}`, `{"id":"1"}`, `{"id":1.5}`, `{"key":1}`, `{"id":1,"auth":"x"}`, `{"auth":[1]}`,
	} {
		_, err := ParseKeySet([]byte(s))
		assert.ErrorIs(t, err, ErrKey, s)
	}
	_, err := ParseKeySet([]byte("{\"id\":1}\n \t"))
	assert.NoError(t, err, "white space may follow")
	f := vectors.Load(t)
	good := KeysPEM{Auth: f.PEM("server-auth-1"), Enc: f.Keys["server-enc"]}
	for _, id := range []byte{0, 16, 255} {
		_, err := KeySetPEM{ID: id, KeysPEM: good}.Private()
		assert.ErrorIs(t, err, ErrKey, "kid %d", id)
		_, err = KeySetPEM{ID: id, KeysPEM: good}.Public()
		assert.ErrorIs(t, err, ErrKey, "kid %d", id)
	}
}

func TestBadPrivateKeys(t *testing.T) {
	f := vectors.Load(t)
	auth, enc := f.Keys["server-auth-1"], f.Keys["server-enc"]
	der, _ := pem.Decode([]byte(auth))
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	require.NoError(t, err)
	for name, s := range map[string]string{
		"empty":          "",
		"no PEM":         "hello",
		"cut off":        auth[:len(auth)/2],
		"wrong type":     block("RSA PRIVATE KEY", der.Bytes),
		"a public key":   publicPEM(t, key(t, "server-auth-1").Public()),
		"garbage inside": block("PRIVATE KEY", []byte{1, 2, 3}),
		"no DER":         block("PRIVATE KEY", nil),
		"DER cut off":    block("PRIVATE KEY", der.Bytes[:len(der.Bytes)-1]),
		"two blocks":     auth + auth,
		"something else": auth + "x",
		"huge":           block("PRIVATE KEY", make([]byte, maxPEM)),
		"not RSA":        block("PRIVATE KEY", ecDER),
		"one byte wrong": block("PRIVATE KEY", spoiled(der.Bytes)),
	} {
		_, err := KeysPEM{Auth: []string{s}, Enc: enc}.Private()
		assert.ErrorIs(t, err, ErrKey, name)
		_, err = KeysPEM{Auth: []string{auth}, Enc: s}.Private()
		assert.ErrorIs(t, err, ErrKey, name)
		assert.NotContains(t, err.Error(), auth[40:60])
		if name != "a public key" {
			_, err = KeysPEM{Auth: []string{s}, Enc: s}.Public()
			assert.ErrorIs(t, err, ErrKey, name)
		}
	}
}

// spoiled is the DER of a key with one bit of its private exponent turned.
func spoiled(der []byte) []byte {
	out := slices.Clone(der)
	out[len(out)/2] ^= 1
	return out
}

func TestKeyOrderAndSizes(t *testing.T) {
	f := vectors.Load(t)
	names := []string{"server-auth-1", "server-auth-2", "server-auth-3"}
	enc := f.Keys["server-enc"]
	for _, c := range []struct {
		name string
		auth []string
		ok   bool
	}{
		{"in order", names, true},
		{"one", names[2:], true},
		{"none", nil, false},
		{"two", names[:2], false},
		{"four", append(slices.Clone(names), names[0]), false},
		{"1 3 2", []string{names[0], names[2], names[1]}, false},
		{"3 2 1", []string{names[2], names[1], names[0]}, false},
		{"one twice", []string{names[0], names[1], names[1]}, false},
		{"of different lengths", []string{names[0], names[1], "server-enc-3072"}, false},
		{"one of 3072", []string{"server-enc-3072"}, true},
	} {
		_, err := KeysPEM{Auth: f.PEM(c.auth...), Enc: enc}.Private()
		if c.ok {
			assert.NoError(t, err, c.name)
			continue
		}
		assert.ErrorIs(t, err, ErrKey, c.name)
		var pub KeysPEM
		for _, name := range c.auth {
			pub.Auth = append(pub.Auth, publicPEM(t, key(t, name).Public()))
		}
		pub.Enc = publicPEM(t, key(t, "server-enc").Public())
		_, err = pub.Public()
		assert.ErrorIs(t, err, ErrKey, c.name)
	}
	many := KeysPEM{Auth: make([]string, 1000), Enc: enc}
	_, err := many.Private()
	assert.ErrorIs(t, err, ErrKey)
	_, err = many.Public()
	assert.ErrorIs(t, err, ErrKey)
}

func TestBadPublicKeys(t *testing.T) {
	good := key(t, "server-enc").Public()
	bits := func(n uint, low int64) *big.Int {
		return new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), n-1), big.NewInt(low))
	}
	for name, k := range map[string]*rsa.PublicKey{
		"e = 3":     {N: good.N, E: 3},
		"e = 1":     {N: good.N, E: 1},
		"e = 65539": {N: good.N, E: 65539},
		"even":      {N: new(big.Int).Sub(good.N, big.NewInt(1)), E: Exponent},
		"1024 bits": {N: bits(1024, 1), E: Exponent},
		"2047 bits": {N: bits(2047, 1), E: Exponent},
		"2049 bits": {N: bits(2049, 1), E: Exponent},
		"8192 bits": {N: bits(8192, 1), E: Exponent},
		"one":       {N: big.NewInt(1), E: Exponent},
	} {
		set := PublicKeys{Auth: []*rsa.PublicKey{k}, Enc: good}
		assert.ErrorIs(t, set.Validate(), ErrKey, name)
		assert.ErrorIs(t, PublicKeys{Auth: []*rsa.PublicKey{good}, Enc: k}.Validate(), ErrKey, name)
		s := publicPEM(t, k)
		_, err := KeysPEM{Auth: []string{s}, Enc: s}.Public()
		assert.ErrorIs(t, err, ErrKey, name)
		_, err = NewKey(&rsa.PrivateKey{PublicKey: *k})
		assert.ErrorIs(t, err, ErrKey, name)
	}
	for _, k := range []*rsa.PublicKey{nil, {}, {E: Exponent}} {
		assert.ErrorIs(t, PublicKeys{Auth: []*rsa.PublicKey{k}, Enc: good}.Validate(), ErrKey)
		assert.ErrorIs(t, PublicKeys{Auth: []*rsa.PublicKey{good}, Enc: k}.Validate(), ErrKey)
	}
}

func TestNewKeyChecksItsParts(t *testing.T) {
	fresh := func() *rsa.PrivateKey { return std(t, "card-auth-1") }
	for name, spoil := range map[string]func(*rsa.PrivateKey){
		"no primes":    func(k *rsa.PrivateKey) { k.Primes = nil },
		"three primes": func(k *rsa.PrivateKey) { k.Primes = append(k.Primes, big.NewInt(3)) },
		"wrong prime":  func(k *rsa.PrivateKey) { k.Primes[0] = new(big.Int).Add(k.Primes[0], big.NewInt(2)) },
		"wrong n":      func(k *rsa.PrivateKey) { k.N = new(big.Int).Add(k.N, big.NewInt(2)) },
		"wrong d":      func(k *rsa.PrivateKey) { k.D = new(big.Int).Add(k.D, big.NewInt(2)) },
	} {
		k := fresh()
		spoil(k)
		// What the parser computed beforehand must not hide it.
		k.Precomputed = rsa.PrecomputedValues{}
		_, err := NewKey(k)
		assert.ErrorIs(t, err, ErrKey, name)
	}
	swapped := fresh()
	swapped.Primes[0], swapped.Primes[1] = swapped.Primes[1], swapped.Primes[0]
	swapped.Precomputed = rsa.PrecomputedValues{}
	k, err := NewKey(swapped)
	require.NoError(t, err, "p < q is as good")
	c := []byte(strings.Repeat("B", 256))
	got, err := k.Private(t.Context(), c)
	require.NoError(t, err)
	want, err := key(t, "card-auth-1").Private(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestGenerate(t *testing.T) {
	for _, c := range [][2]int{{0, 2048}, {2, 2048}, {4, 2048}, {-1, 2048}, {1, 1024}, {1, 2047}, {3, 8192}, {1, 0}} {
		_, err := Generate(c[0], c[1])
		assert.ErrorIs(t, err, ErrKey, "%v", c)
	}
	k, err := Generate(1, 2048)
	require.NoError(t, err)
	set, err := k.Private()
	require.NoError(t, err)
	assert.NotEqual(t, set.Auth[0].Public().N, set.Enc.Public().N)
}

func FuzzParseKeySet(f *testing.F) {
	v := vectors.Load(f)
	pub, err := EncodePublic(keys(f, []string{"server-auth-1"}, "server-enc").Public())
	require.NoError(f, err)
	for _, k := range []KeySetPEM{
		{},
		{ID: 1, KeysPEM: pub},
		{ID: 15, KeysPEM: KeysPEM{Auth: v.PEM("server-auth-1"), Enc: v.Keys["server-enc"]}},
	} {
		b, err := json.Marshal(k)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(`{"id":1,"auth":["-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"],"enc":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeySet(b)
		if err != nil {
			assert.ErrorIs(t, err, ErrKey)
			return
		}
		if _, err := k.Private(); err != nil {
			assert.ErrorIs(t, err, ErrKey)
		}
		if set, err := k.Public(); err != nil {
			assert.ErrorIs(t, err, ErrKey)
		} else {
			assert.NoError(t, set.Validate())
		}
	})
}
