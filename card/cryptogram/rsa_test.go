package cryptogram

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/big"
	"testing"

	"filippo.io/bigmod"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

// std is the vectors' key as the standard library has it.
func std(t testing.TB, name string) *rsa.PrivateKey {
	t.Helper()
	k, err := ParsePrivate(vectors.Load(t).Keys[name])
	require.NoError(t, err)
	return k
}

// named finds a key's name, to have it in the standard library's form.
func named(t testing.TB, k PrivateKey) *rsa.PrivateKey {
	t.Helper()
	for name := range vectors.Load(t).Keys {
		if r := std(t, name); r.N.Cmp(k.Public().N) == 0 {
			return r
		}
	}
	require.Fail(t, "no such key")
	return nil
}

func decryptOAEPStd(t testing.TB, k PrivateKey, c []byte) []byte {
	t.Helper()
	m, err := rsa.DecryptOAEP(sha256.New(), nil, named(t, k), c, nil)
	require.NoError(t, err)
	return m
}

func cbcDecrypt(t testing.TB, k, c []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(k)
	require.NoError(t, err)
	out := make([]byte, len(c))
	cipher.NewCBCDecrypter(block, make([]byte, 16)).CryptBlocks(out, c)
	return out
}

func TestPrivateAgainstBigInt(t *testing.T) {
	for _, name := range []string{"card-auth-1", "server-auth-3", "server-enc-3072"} {
		k, r := key(t, name), std(t, name)
		size := r.Size()
		one := big.NewInt(1)
		values := []*big.Int{
			new(big.Int), one, big.NewInt(2), new(big.Int).Sub(r.N, one),
			r.Primes[0], r.Primes[1], // not invertible: CRT must get these right too
			new(big.Int).Mul(r.Primes[0], big.NewInt(12345)),
			new(big.Int).Mul(r.Primes[1], new(big.Int).Sub(r.Primes[0], one)),
		}
		for range 4 {
			v, err := rand.Int(rand.Reader, r.N)
			require.NoError(t, err)
			values = append(values, v)
		}
		for _, v := range values {
			c := v.FillBytes(make([]byte, size))
			got, err := k.Private(t.Context(), c)
			require.NoError(t, err)
			assert.Equal(t, new(big.Int).Exp(v, r.D, r.N).FillBytes(make([]byte, size)), got)
			assert.Equal(t, v.FillBytes(make([]byte, size)), c, "the operand is the caller's")
			back, err := publicOf(k.Public(), got)
			require.NoError(t, err)
			assert.Equal(t, c, back)
		}
	}
}

func TestPrivateOperand(t *testing.T) {
	k, r := key(t, "card-auth-1"), std(t, "card-auth-1")
	n := r.N.FillBytes(make([]byte, 256))
	for _, c := range [][]byte{nil, make([]byte, 255), make([]byte, 257), n, bytes.Repeat([]byte{0xFF}, 256)} {
		_, err := k.Private(t.Context(), c)
		assert.ErrorIs(t, err, ErrKey)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := k.Private(ctx, make([]byte, 256))
	assert.ErrorIs(t, err, context.Canceled)
	for _, x := range [][]byte{n, bytes.Repeat([]byte{0xFF}, 256)} {
		_, err := publicOf(k.Public(), x)
		assert.ErrorIs(t, err, ErrKey)
	}
}

// A CRT fault gives the factors away (Boneh, DeMillo, Lipton): the value must
// not come out.
func TestFaultIsWithheld(t *testing.T) {
	c := bytes.Repeat([]byte{0x42}, 256)
	for name, spoil := range map[string]func(*Key){
		"dp":   func(k *Key) { k.dp = bytes.Clone(k.dp); k.dp[5] ^= 1 },
		"dq":   func(k *Key) { k.dq = bytes.Clone(k.dq); k.dq[len(k.dq)-1] ^= 2 },
		"qInv": func(k *Key) { k.qInv = bigmod.NewNat().Mod(k.q.Nat(), k.p) },
		"p":    func(k *Key) { k.p = k.q },
	} {
		k := *key(t, "card-auth-1").(*Key)
		spoil(&k)
		out, err := k.Private(t.Context(), c)
		assert.ErrorIs(t, err, ErrFault, name)
		assert.Nil(t, out)
		_, err = PrivEnc(t.Context(), []PrivateKey{&k}, make([]byte, 84))
		assert.ErrorIs(t, err, ErrFault, name)
	}
}

// liar is a key in a device that errs.
type liar struct {
	PrivateKey
	lie func(x []byte) []byte
}

func (l liar) Private(ctx context.Context, c []byte) ([]byte, error) {
	x, err := l.PrivateKey.Private(ctx, c)
	return l.lie(x), err
}

func TestForeignKeysAreNotTrusted(t *testing.T) {
	s, q := first(t)
	server, card := sides(t, s)
	c := challenge(t, s, q)
	for name, lie := range map[string]func([]byte) []byte{
		"one bit":        func(x []byte) []byte { x[100] ^= 4; return x },
		"zeroes":         func(x []byte) []byte { return make([]byte, len(x)) },
		"not below n":    func(x []byte) []byte { return bytes.Repeat([]byte{0xFF}, len(x)) },
		"nothing":        func([]byte) []byte { return nil },
		"too short":      func(x []byte) []byte { return x[1:] },
		"too long":       func(x []byte) []byte { return append(x, 0) },
		"the other root": func(x []byte) []byte { x[0], x[255] = x[255], x[0]+1; return x },
	} {
		auth := PrivateKeys{Auth: []PrivateKey{liar{server.Auth[0], lie}}, Enc: server.Enc}
		_, err := c.SealM2(t.Context(), randomOf(&q.M2), auth, card.Public(), &Session{})
		assert.ErrorIs(t, err, ErrFault, name)
		enc := PrivateKeys{Auth: server.Auth, Enc: liar{server.Enc, lie}}
		_, err = c.OpenM1(t.Context(), enc, card.Public(), q.M1.Envelope)
		assert.Error(t, err, name)
	}
	honest := PrivateKeys{Auth: []PrivateKey{liar{server.Auth[0], func(x []byte) []byte { return x }}}, Enc: server.Enc}
	m2, err := c.SealM2(t.Context(), randomOf(&q.M2), honest, card.Public(), &Session{RC: [32]byte(q.RC), RK: [16]byte(q.RK), HC: [32]byte(q.HC)})
	require.NoError(t, err)
	assert.Equal(t, []byte(q.M2.Envelope), m2)
}

func TestOAEPAgainstStandardLibrary(t *testing.T) {
	for _, name := range []string{"card-enc", "server-enc-3072"} {
		k, r := key(t, name), std(t, name)
		size := r.Size()
		for _, n := range []int{0, 1, 16, size/2 - 33, size - oaepOver} {
			m := make([]byte, n)
			_, err := rand.Read(m)
			require.NoError(t, err)
			c, err := oaepOf(rand.Reader, &r.PublicKey, m)
			require.NoError(t, err)
			assert.Equal(t, m, append([]byte{}, decryptOAEPStd(t, k, c)...))
			theirs, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &r.PublicKey, m, nil)
			require.NoError(t, err)
			em, err := k.Private(t.Context(), theirs)
			require.NoError(t, err)
			got, ok := decodeOAEP(em, n)
			assert.Equal(t, 1, ok)
			assert.Equal(t, m, append([]byte{}, got...))
			for _, other := range []int{n - 1, n + 1} {
				if other < 0 || other > size-oaepOver {
					continue
				}
				em, err := k.Private(t.Context(), theirs)
				require.NoError(t, err)
				_, ok := decodeOAEP(em, other)
				assert.Zero(t, ok, "a message of another length")
			}
		}
		// With a label it is another encryption.
		c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &r.PublicKey, make([]byte, 20), []byte("label"))
		require.NoError(t, err)
		_, ok, err := open(t.Context(), k, nil, c, 20)
		require.NoError(t, err)
		assert.Zero(t, ok)
	}
}

// The encoded message is taken apart directly, each byte of it.
func TestOAEPDecodingIsStrict(t *testing.T) {
	const n = 20
	em := make([]byte, 256)
	encode := func(spoil func(db []byte)) []byte {
		clear(em)
		seed, db := em[1:33], em[33:]
		copy(seed, bytes.Repeat([]byte{7}, 32))
		copy(db, emptyHash[:])
		db[len(db)-n-1] = 1
		spoil(db)
		mgf1XOR(db, seed)
		mgf1XOR(seed, db)
		return em
	}
	_, ok := decodeOAEP(encode(func([]byte) {}), n)
	assert.Equal(t, 1, ok)
	for i := range 256 - 33 - n {
		_, ok := decodeOAEP(encode(func(db []byte) { db[i] ^= 1 }), n)
		assert.Zero(t, ok, "byte %d of DB", i)
	}
	bad := encode(func([]byte) {})
	bad[0] = 1
	_, ok = decodeOAEP(bad, n)
	assert.Zero(t, ok, "the first byte")
}

func TestEnvelopeLengths(t *testing.T) {
	k := key(t, "card-enc")
	size := k.Public().Size()
	block := size - oaepOver // longest message without a tail
	for _, n := range []int{0, 1, block - 17, block - 16, block - 15, block - 1, block, block + 1, block + 15, block + 16, block + 17, 256, 384, 512} {
		m := make([]byte, n)
		_, err := rand.Read(m)
		require.NoError(t, err)
		c, err := Seal(rand.Reader, k.Public(), m)
		require.NoError(t, err)
		want := size
		if n > block {
			want = size + ((n-(block-16))/16+1)*16
		}
		assert.Len(t, c, want, "%d bytes", n)
		assert.Equal(t, want, EnvelopeLen(k.Public(), n))
		got, ok, err := open(t.Context(), k, nil, c, n)
		require.NoError(t, err)
		assert.Equal(t, 1, ok)
		assert.Equal(t, m, append([]byte{}, got...))
		for _, l := range []int{0, len(c) - 1, len(c) + 1, len(c) + 16} {
			_, ok, err := open(t.Context(), k, nil, append(bytes.Clone(c), make([]byte, 16)...)[:l], n)
			assert.ErrorIs(t, err, ErrLength)
			assert.Zero(t, ok)
		}
		// Its padding or its OAEP length gives another length away.
		for _, other := range []int{n - 1, n + 1} {
			if other < 0 || EnvelopeLen(k.Public(), other) != len(c) {
				continue
			}
			_, ok, err := open(t.Context(), k, nil, c, other)
			require.NoError(t, err)
			assert.Zero(t, ok, "%d bytes opened as %d", n, other)
		}
	}
}

func TestOpenRejectsEveryTailByte(t *testing.T) {
	k := key(t, "card-enc")
	m := make([]byte, 200) // a tail of 26 bytes: two blocks, 6 bytes of padding
	c, err := Seal(rand.Reader, k.Public(), m)
	require.NoError(t, err)
	require.Len(t, c, 256+32)
	got, ok, err := open(t.Context(), k, nil, c, len(m))
	require.NoError(t, err)
	require.Equal(t, 1, ok)
	require.Equal(t, m, got)
	for i := 256; i < len(c); i++ {
		bad := bytes.Clone(c)
		bad[i] ^= 0x80
		got, ok, err := open(t.Context(), k, nil, bad, len(m))
		require.NoError(t, err)
		assert.False(t, ok == 1 && bytes.Equal(got, m), "byte %d", i)
		assert.Len(t, got, len(m))
	}
	// Not below n: the same work and a dummy value.
	bad := append(bytes.Repeat([]byte{0xFF}, 256), c[256:]...)
	got, ok, err = open(t.Context(), k, nil, bad, len(m))
	require.NoError(t, err)
	assert.Zero(t, ok)
	assert.Len(t, got, len(m))
}

// Every byte of T1 is checked, also those of m where the caller compares.
func TestT1IsStrict(t *testing.T) {
	k := key(t, "card-auth-1")
	pub := []*rsa.PublicKey{k.Public()}
	m := bytes.Repeat([]byte{0x5A}, lenM1)
	t1 := t1Of(m, 256)
	sign := func(x []byte) []byte {
		c, err := k.Private(t.Context(), x)
		require.NoError(t, err)
		return c
	}
	got, err := PubDec(pub, sign(t1), len(m))
	require.NoError(t, err)
	require.Equal(t, m, got)
	for i := range 256 - len(m) {
		for _, bit := range []byte{0x01, 0x80} {
			bad := bytes.Clone(t1)
			bad[i] ^= bit
			if new(big.Int).SetBytes(bad).Cmp(k.Public().N) >= 0 {
				continue
			}
			_, err := PubDec(pub, sign(bad), len(m))
			assert.Equal(t, &OpenError{Reason: "private-key layer"}, err, "byte %d", i)
		}
	}
	c := sign(t1)
	for _, n := range []int{0, 1, len(m) - 1, len(m) + 1, 256 - minT1} {
		_, err := PubDec(pub, c, n)
		assert.Error(t, err, "a message of %d bytes", n)
	}
	var open *OpenError
	_, err = PubDec(pub, c, 256-minT1+1)
	assert.ErrorAs(t, err, &open)
	for _, bad := range [][]byte{nil, c[1:], append(bytes.Clone(c), 0), bytes.Repeat([]byte{0xFF}, 256), k.Public().N.Bytes(), make([]byte, 256)} {
		_, err := PubDec(pub, bad, len(m))
		assert.ErrorAs(t, err, &open)
	}
	before := bytes.Clone(c)
	_, err = PubDec(pub, c, len(m))
	require.NoError(t, err)
	assert.Equal(t, before, c, "the input is the caller's")
}

func TestPrivEncBounds(t *testing.T) {
	k := key(t, "card-auth-1")
	for _, n := range []int{0, 1, 256 - minT1} {
		c, err := PrivEnc(t.Context(), []PrivateKey{k}, make([]byte, n))
		require.NoError(t, err)
		m, err := PubDec([]*rsa.PublicKey{k.Public()}, c, n)
		require.NoError(t, err)
		assert.Len(t, m, n)
	}
	_, err := PrivEnc(t.Context(), []PrivateKey{k}, make([]byte, 256-minT1+1))
	assert.ErrorIs(t, err, ErrKey, "fewer than 8 bytes FF")
	_, err = PrivEnc(t.Context(), nil, nil)
	assert.ErrorIs(t, err, ErrKey)
	_, err = PubDec(nil, nil, 0)
	assert.ErrorIs(t, err, ErrKey)
	_, err = PubDec([]*rsa.PublicKey{k.Public(), key(t, "server-enc-3072").Public()}, make([]byte, 256), 84)
	assert.ErrorIs(t, err, ErrKey)
}

// One layer of three missing, doubled or exchanged does not open.
func TestTripleNeedsItsOrder(t *testing.T) {
	s, _ := triple(t)
	_, card := sides(t, s)
	pub := card.Public().Auth
	m := make([]byte, lenReceipt)
	c, err := PrivEnc(t.Context(), card.Auth, m)
	require.NoError(t, err)
	_, err = PubDec(pub, c, len(m))
	require.NoError(t, err)
	for _, order := range [][]int{{0}, {2}, {0, 1}, {1, 2}, {1, 0, 2}, {2, 1, 0}, {0, 0, 2}, {0, 2, 2}} {
		var keys []*rsa.PublicKey
		for _, i := range order {
			keys = append(keys, pub[i])
		}
		var open *OpenError
		_, err := PubDec(keys, c, len(m))
		assert.ErrorAs(t, err, &open, "%v", order)
	}
}

func TestBelow(t *testing.T) {
	wide := func(words ...uint64) (b []byte) {
		for _, w := range words {
			b = binary.BigEndian.AppendUint64(b, w)
		}
		return b
	}
	const all = math.MaxUint64
	for _, c := range []struct {
		x, n []byte
		want int
	}{
		{wide(0), wide(1), 1}, {wide(1), wide(1), 0}, {wide(2), wide(1), 0}, {wide(0, all), wide(1, 0), 1}, {wide(1, 0), wide(1, 1), 1},
		{wide(all, all-1), wide(all, all), 1}, {wide(all, all), wide(all, all), 0}, {wide(all-1, all), wide(all, 0), 1}, {wide(all, 0), wide(all-1, all), 0},
	} {
		assert.Equal(t, c.want, below(c.x, new(big.Int).SetBytes(c.n)), "%X < %X", c.x, c.n)
	}
}

func TestClamp(t *testing.T) {
	pk := key(t, "card-auth-1").Public()
	x := pk.N.FillBytes(make([]byte, 256))
	x[255] -= 2 // n is odd
	below := bytes.Clone(x)
	assert.Equal(t, 1, clamp(x, pk))
	assert.Equal(t, below, x)
	x[255] += 2
	assert.Equal(t, 0, clamp(x, pk))
	assert.Equal(t, append(make([]byte, 8), pk.N.Bytes()[8:]...), x)
}

func FuzzPubDec(f *testing.F) {
	s, q := triple(f)
	_, card := sides(f, s)
	pub := card.Public().Auth
	f.Add([]byte(q.Exchanges[1].Receipt.Value), uint16(lenReceipt), true)
	f.Add([]byte(q.Exchanges[1].Receipt.Value), uint16(lenM1), false)
	f.Add([]byte{}, uint16(0), false)
	f.Add(bytes.Repeat([]byte{0xFF}, 256), uint16(65535), true)
	good := []byte(q.Exchanges[1].Receipt.Value)
	f.Fuzz(func(t *testing.T, c []byte, n uint16, three bool) {
		use := pub
		if !three {
			use = pub[:1]
		}
		m, err := PubDec(use, c, int(n))
		if err != nil {
			var open *OpenError
			assert.ErrorAs(t, err, &open)
			return
		}
		assert.True(t, three && n == lenReceipt && bytes.Equal(c, good), "a forgery: %X", m)
	})
}

func FuzzOpenM1(f *testing.F) {
	s, q := first(f)
	server, card := sides(f, s)
	c := challenge(f, s, q)
	f.Add([]byte(q.M1.Envelope))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xFF}, len(q.M1.Envelope)))
	for _, n := range vectors.Load(f).Negative {
		if n.InputIs == "M1" || n.InputIs == "M2" {
			f.Add([]byte(n.Input))
		}
	}
	f.Fuzz(func(t *testing.T, m1 []byte) {
		_, err := c.OpenM1(t.Context(), server, card.Public(), m1)
		if err != nil {
			var open *OpenError
			assert.ErrorAs(t, err, &open)
			return
		}
		assert.Equal(t, []byte(q.M1.Envelope), m1, "a forgery")
	})
}

func BenchmarkPrivate2048(b *testing.B) {
	k := key(b, "card-auth-1")
	c := bytes.Repeat([]byte{0x42}, 256)
	for b.Loop() {
		if _, err := k.Private(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPublic2048(b *testing.B) {
	k := key(b, "card-auth-1")
	c := bytes.Repeat([]byte{0x42}, 256)
	for b.Loop() {
		if _, err := publicOf(k.Public(), c); err != nil {
			b.Fatal(err)
		}
	}
}
