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
	k, err := layerLen(keys, m)
	if err != nil {
		return nil, err
	}
	x := make([]byte, k)
	if err := privEnc(ctx, keys, x, m); err != nil {
		return nil, err
	}
	return x, nil
}

// layerLen is the length of PrivEnc's value, if m fits.
func layerLen(keys []PrivateKey, m []byte) (int, error) {
	if len(keys) == 0 {
		return 0, fmt.Errorf("%w: no private key", ErrKey)
	}
	k, err := checkSize(keys[0].Public())
	if err != nil {
		return 0, err
	}
	if len(m) > k-minT1 {
		return 0, fmt.Errorf("%w: message of %d bytes for a modulus of %d", ErrKey, len(m), k)
	}
	return k, nil
}

// privEnc is PrivEnc into x, of layerLen.
func privEnc(ctx context.Context, keys []PrivateKey, x, m []byte) error {
	putT1(x, m)
	for _, key := range keys {
		if err := private(ctx, key, x, true); err != nil {
			return err
		}
	}
	return nil
}

// putT1 makes T1(m, k) of k bytes of x.
func putT1(x, m []byte) {
	pad := len(x) - len(m)
	x[0], x[1] = 0, 1
	for i := 2; i < pad-1; i++ {
		x[i] = 0xFF
	}
	x[pad-1] = 0
	copy(x[pad:], m)
}

// checkT1 is 1 where x is T1 of a message of mlen bytes, which are its last,
// and 0 otherwise, in constant time.
func checkT1(x []byte, mlen int) int {
	pad := len(x) - mlen
	bad := x[0] | (x[1] ^ 1) | x[pad-1]
	for _, b := range x[2 : pad-1] {
		bad |= ^b
	}
	return subtle.ConstantTimeByteEq(bad, 0)
}

// PubDec opens the private-key layer of c under the peer's public keys and
// takes a message of exactly mlen bytes out of it. The error, an *OpenError,
// reads the same whatever failed.
func PubDec(keys []*rsa.PublicKey, c []byte, mlen int) ([]byte, error) {
	m, ok, err := pubDec(context.Background(), nil, keys, bytes.Clone(c), mlen)
	if err != nil {
		return nil, err
	}
	if ok != 1 {
		return nil, &OpenError{Reason: "private-key layer"}
	}
	return m, nil
}

// pubDec does the same work whatever fails, and overwrites c. The result is the
// last mlen bytes of it and means something only where ok is 1.
func pubDec(ctx context.Context, ops PublicOps, keys []*rsa.PublicKey, c []byte, mlen int) (m []byte, ok int, err error) {
	if len(keys) == 0 {
		return nil, 0, fmt.Errorf("%w: no public key", ErrKey)
	}
	k, err := checkSize(keys[0])
	if err != nil {
		return nil, 0, err
	}
	if len(c) != k || mlen > k-minT1 {
		return nil, 0, &OpenError{Reason: "length of the private-key layer"}
	}
	ok = 1
	for i := len(keys) - 1; i >= 0; i-- {
		if keys[i].Size() != k {
			return nil, 0, fmt.Errorf("%w: auth keys of different lengths", ErrKey)
		}
		ok &= clamp(c, keys[i])
		if err := public(ctx, ops, keys[i], c); err != nil {
			return nil, 0, err
		}
	}
	return c[k-mlen:], ok & checkT1(c, mlen), nil
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
	return seal(context.Background(), nil, rand, pk, m)
}

func seal(ctx context.Context, ops PublicOps, rand io.Reader, pk *rsa.PublicKey, m []byte) ([]byte, error) {
	k, err := checkSize(pk)
	if err != nil {
		return nil, err
	}
	out := make([]byte, EnvelopeLen(pk, len(m)))
	if len(out) == k {
		copy(out[k-len(m):], m)
		if err := encryptOAEP(ctx, ops, rand, pk, out, len(m)); err != nil {
			return nil, err
		}
		return out, nil
	}
	// OAEP's plaintext is put where OAEP has it: at the end of its block.
	head := out[1+hashLen+hashLen+1 : k]
	if _, err := io.ReadFull(rand, head[:envelopeKey]); err != nil {
		return nil, noRandom(err)
	}
	block, err := aes.NewCipher(head[:envelopeKey])
	if err != nil {
		return nil, err
	}
	n := copy(head[envelopeKey:], m)
	out[k+copy(out[k:], m[n:])] = 0x80
	encryptCBC(block, out[k:])
	if err := encryptOAEP(ctx, ops, rand, pk, out[:k], len(head)); err != nil {
		return nil, err
	}
	return out, nil
}

func noRandom(err error) error { return fmt.Errorf("cryptogram: random bytes: %w", err) }

// encryptCBC and decryptCBC are AES-CBC in place with IV 0. By hand, because
// crypto/cipher's allocate for each key, and a key here serves one message of a
// few blocks.
func encryptCBC(block cipher.Block, b []byte) {
	block.Encrypt(b, b)
	for i := aes.BlockSize; i < len(b); i += aes.BlockSize {
		subtle.XORBytes(b[i:], b[i:], b[i-aes.BlockSize:i])
		block.Encrypt(b[i:], b[i:])
	}
}

func decryptCBC(block cipher.Block, b []byte) {
	for i := len(b) - aes.BlockSize; i > 0; i -= aes.BlockSize {
		block.Decrypt(b[i:], b[i:])
		subtle.XORBytes(b[i:], b[i:], b[i-aes.BlockSize:i])
	}
	block.Decrypt(b, b)
}

// open is the inverse of Seal for a message of n bytes, in buf's memory as far
// as that reaches. Whatever fails but the length, it does the same work and
// gives n bytes, with ok 0. The error is ErrLength or the key's own.
func open(ctx context.Context, sk PrivateKey, buf, c []byte, n int) (m []byte, ok int, err error) {
	pk := sk.Public()
	k, err := checkSize(pk)
	if err != nil {
		return nil, 0, err
	}
	if len(c) != EnvelopeLen(pk, n) {
		return nil, 0, fmt.Errorf("%w: %d bytes", ErrLength, len(c))
	}
	head := n
	if len(c) > k {
		head = k - oaepOver
	}
	buf = append(buf[:0], c...)
	x, tail := buf[:k], buf[k:]
	ok = clamp(x, pk)
	if err := private(ctx, sk, x, false); err != nil {
		return nil, 0, err
	}
	m, good := decodeOAEP(x, head)
	ok &= good
	if len(tail) == 0 {
		return m, ok, nil
	}
	block, err := aes.NewCipher(m[:envelopeKey])
	if err != nil {
		return nil, 0, err
	}
	decryptCBC(block, tail)
	// The end of the OAEP block and the tail stand together as the message and
	// its padding do.
	data := n - (head - envelopeKey)
	ok &= checkPadding(tail[data:])
	return buf[k-head+envelopeKey:][:n], ok, nil
}

// checkPadding is 1 where b is 80 00…, and 0 otherwise, in constant time.
func checkPadding(b []byte) int {
	bad := b[0] ^ 0x80
	for _, x := range b[1:] {
		bad |= x
	}
	return subtle.ConstantTimeByteEq(bad, 0)
}

// encryptOAEP is RSAES-OAEP-ENCRYPT (RFC 8017 §7.1.1) with SHA-256, MGF1 with
// SHA-256 and an empty label, of the last n bytes of em, in place.
func encryptOAEP(ctx context.Context, ops PublicOps, rand io.Reader, pk *rsa.PublicKey, em []byte, n int) error {
	seed, db := em[1:1+hashLen], em[1+hashLen:]
	if _, err := io.ReadFull(rand, seed); err != nil {
		return noRandom(err)
	}
	copy(db, emptyHash[:])
	db[len(db)-n-1] = 1
	mgf1XOR(db, seed)
	mgf1XOR(seed, db)
	return public(ctx, ops, pk, em)
}

// decodeOAEP is EME-OAEP decoding (RFC 8017 §7.1.2, 3) of em, which it
// overwrites, to a message of exactly n bytes, in constant time. The length
// being fixed, the place of the byte 01 is too.
func decodeOAEP(em []byte, n int) (m []byte, ok int) {
	seed, db := em[1:1+hashLen], em[1+hashLen:]
	mgf1XOR(seed, db)
	mgf1XOR(db, seed)
	at := len(db) - n
	bad := em[0] | (db[at-1] ^ 1)
	for _, b := range db[hashLen : at-1] {
		bad |= b
	}
	return db[at:], subtle.ConstantTimeByteEq(bad, 0) & subtle.ConstantTimeCompare(db[:hashLen], emptyHash[:])
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
