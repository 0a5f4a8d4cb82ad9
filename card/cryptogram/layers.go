package cryptogram

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
)

const (
	hashLen     = sha256.Size
	oaepOver    = 2*hashLen + 2 // OAEP's bytes beside the message
	envelopeKey = aes.BlockSize // K of Env
	minT1       = 3 + 8         // 00 01, at least 8 bytes FF, 00
)

// ErrLength says that an envelope is not of the length its receiver expects;
// nothing was decrypted.
var ErrLength = errors.New("cryptogram: wrong length of envelope")

// PrivEnc is §3's private-key layer: the private keys, in order, on T1(m, k).
// One key for suite 01, three for suite 03, n1 < n2 < n3, all of k bytes. The
// result has k bytes. No value of a key that is not a *Key goes out unchecked:
// one faulty CRT result gives the key away, and hardware and drivers err.
func PrivEnc(ctx context.Context, keys []PrivateKey, m []byte) ([]byte, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no private key", ErrKey)
	}
	k := keys[0].Public().Size()
	if len(m) > k-minT1 {
		return nil, fmt.Errorf("%w: message of %d bytes for a modulus of %d", ErrKey, len(m), k)
	}
	x := appendT1(make([]byte, 0, k), m, k)
	for _, key := range keys {
		var err error
		if x, err = private(ctx, key, x, true); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func appendT1(b, m []byte, k int) []byte {
	b = append(b, 0, 1)
	for range k - len(m) - 3 {
		b = append(b, 0xFF)
	}
	b = append(b, 0)
	return append(b, m...)
}

// PubDec opens the private-key layer of c under the peer's public keys and
// takes a message of exactly mlen bytes out of it. The error, ErrOpen's, says
// nothing about what failed.
func PubDec(keys []*rsa.PublicKey, c []byte, mlen int) ([]byte, error) {
	m, ok, err := pubDec(keys, bytes.Clone(c), mlen)
	if err != nil {
		return nil, err
	}
	if ok != 1 {
		return nil, &OpenError{Reason: "private-key layer"}
	}
	return m, nil
}

// pubDec does the same work whatever fails, and overwrites c. The result is of
// mlen bytes and means something only where ok is 1.
func pubDec(keys []*rsa.PublicKey, c []byte, mlen int) (m []byte, ok int, err error) {
	if len(keys) == 0 {
		return nil, 0, fmt.Errorf("%w: no public key", ErrKey)
	}
	k := keys[0].Size()
	if len(c) != k || mlen > k-minT1 {
		return nil, 0, &OpenError{Reason: "length of the private-key layer"}
	}
	ok = 1
	for i := len(keys) - 1; i >= 0; i-- {
		if keys[i].Size() != k {
			return nil, 0, fmt.Errorf("%w: auth keys of different lengths", ErrKey)
		}
		ok &= clamp(c, keys[i])
		if c, err = public(keys[i], c); err != nil {
			return nil, 0, err
		}
	}
	m = c[k-mlen:]
	want := appendT1(make([]byte, 0, k), m, k)
	ok &= subtle.ConstantTimeCompare(want, c)
	return m, ok, nil
}

// EnvelopeLen is the length in bytes of Env for a message of n bytes under pk.
func EnvelopeLen(pk *rsa.PublicKey, n int) int {
	k := pk.Size()
	if n <= k-oaepOver {
		return k
	}
	tail := n - (k - oaepOver - envelopeKey)
	return k + (tail/aes.BlockSize+1)*aes.BlockSize
}

// Seal is §3's Env(pk, m): RSAES-OAEP, with an AES-128-CBC tail where m is
// longer than one block takes. It reads K, where there is a tail, and then the
// OAEP seed from rand.
func Seal(rand io.Reader, pk *rsa.PublicKey, m []byte) ([]byte, error) {
	k := pk.Size()
	if len(m) <= k-oaepOver {
		return encryptOAEP(rand, pk, m, EnvelopeLen(pk, len(m)))
	}
	head := make([]byte, k-oaepOver)
	if _, err := io.ReadFull(rand, head[:envelopeKey]); err != nil {
		return nil, fmt.Errorf("cryptogram: random bytes: %w", err)
	}
	n := copy(head[envelopeKey:], m)
	out, err := encryptOAEP(rand, pk, head, EnvelopeLen(pk, len(m)))
	if err != nil {
		return nil, err
	}
	out = append(append(out, m[n:]...), 0x80)
	for (len(out)-k)%aes.BlockSize != 0 {
		out = append(out, 0)
	}
	block, err := aes.NewCipher(head[:envelopeKey])
	if err != nil {
		return nil, err
	}
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(out[k:], out[k:])
	return out, nil
}

// open is the inverse of Seal for a message of n bytes. Whatever fails but the
// length, it does the same work and gives n bytes, with ok 0. The error is
// ErrLength or the key's own.
func open(ctx context.Context, sk PrivateKey, c []byte, n int) (m []byte, ok int, err error) {
	pk := sk.Public()
	k := pk.Size()
	if len(c) != EnvelopeLen(pk, n) {
		return nil, 0, fmt.Errorf("%w: %d bytes", ErrLength, len(c))
	}
	head := n
	if len(c) > k {
		head = k - oaepOver
	}
	x := bytes.Clone(c[:k])
	ok = clamp(x, pk)
	em, err := private(ctx, sk, x, false)
	if err != nil {
		return nil, 0, err
	}
	m, good := decodeOAEP(em, head)
	ok &= good
	if len(c) == k {
		return m, ok, nil
	}
	tail := bytes.Clone(c[k:])
	block, err := aes.NewCipher(m[:envelopeKey])
	if err != nil {
		return nil, 0, err
	}
	cipher.NewCBCDecrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(tail, tail)
	m = m[envelopeKey:]
	data := n - len(m)
	pad := append(make([]byte, 0, aes.BlockSize), 0x80)[:len(tail)-data]
	ok &= subtle.ConstantTimeCompare(tail[data:], pad)
	return append(m, tail[:data]...), ok, nil
}

// encryptOAEP is RSAES-OAEP-ENCRYPT (RFC 8017 §7.1.1) with SHA-256, MGF1 with
// SHA-256 and an empty label, into a slice of the given capacity.
func encryptOAEP(rand io.Reader, pk *rsa.PublicKey, m []byte, capacity int) ([]byte, error) {
	k := pk.Size()
	em := make([]byte, k)
	seed, db := em[1:1+hashLen], em[1+hashLen:]
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("cryptogram: random bytes: %w", err)
	}
	copy(db, emptyHash[:])
	db[len(db)-len(m)-1] = 1
	copy(db[len(db)-len(m):], m)
	mgf1XOR(db, seed)
	mgf1XOR(seed, db)
	c, err := public(pk, em)
	if err != nil {
		return nil, err
	}
	return append(make([]byte, 0, capacity), c...), nil
}

// decodeOAEP is EME-OAEP decoding (RFC 8017 §7.1.2, 3) of em, which it
// overwrites, to a message of exactly n bytes, in constant time. The length
// being fixed, the place of the byte 01 is too.
func decodeOAEP(em []byte, n int) (m []byte, ok int) {
	seed, db := em[1:1+hashLen], em[1+hashLen:]
	mgf1XOR(seed, db)
	mgf1XOR(db, seed)
	want := make([]byte, len(db)-n)
	copy(want, emptyHash[:])
	want[len(want)-1] = 1
	ok = subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(db[:len(want)], want)
	return db[len(want):], ok
}

var emptyHash = sha256.Sum256(nil)

// mgf1XOR adds MGF1 of the seed (RFC 8017 §B.2.1, SHA-256) to out.
func mgf1XOR(out, seed []byte) {
	buf := make([]byte, 0, 512+4)
	for i := 0; len(out) > 0; i++ {
		buf = append(append(buf[:0], seed...), byte(i>>24), byte(i>>16), byte(i>>8), byte(i))
		sum := sha256.Sum256(buf)
		out = out[subtle.XORBytes(out, out, sum[:]):]
	}
}
