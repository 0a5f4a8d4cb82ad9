package keyfile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"strings"

	"golang.org/x/crypto/scrypt"

	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// Block types of PEM (RFC 7468 §10, §11).
const (
	plainType     = "PRIVATE KEY"
	encryptedType = "ENCRYPTED PRIVATE KEY"
)

// What a file may ask for: a few seconds and some memory, not more. OpenSSL
// writes 2048 iterations, and with -scrypt N 16384, r 8, p 1.
const (
	maxPEM        = 16 << 10 // bytes
	maxSalt       = 1 << 10  // bytes
	maxIterations = 5_000_000
	maxMemory     = 256 << 20 // bytes, 128 N r of scrypt
	maxBeside     = 32 << 20  // bytes, 128 r (p + 2) of scrypt, which it takes beside those
	maxWork       = 1 << 22   // N r p of scrypt
)

// iterations of PBKDF2-HMAC-SHA256 in what Encrypt writes.
const iterations = 600_000

var (
	// ErrPassphrase says that a passphrase does not open a key; damage to the
	// encrypted bytes looks the same.
	ErrPassphrase = errors.New("wrong passphrase, or a damaged key")
	// ErrFormat is matched by every error that says what stands in a file is no
	// encrypted PKCS#8 that this package reads.
	ErrFormat = errors.New("not encrypted PKCS#8 as it is read here")
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}

	oidHMACWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC      = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// prfs are the pseudorandom functions of PBKDF2 (RFC 8018 B.1.2) by OID.
var prfs = map[string]func() hash.Hash{
	"1.2.840.113549.2.7":       sha1.New,
	"1.2.840.113549.2.8":       sha256.New224,
	oidHMACWithSHA256.String(): sha256.New,
	"1.2.840.113549.2.10":      sha512.New384,
	"1.2.840.113549.2.11":      sha512.New,
}

// ciphers are the key lengths in bytes of AES-CBC (RFC 8018 B.2.5) by OID.
var ciphers = map[string]int{
	"2.16.840.1.101.3.4.1.2":  16,
	"2.16.840.1.101.3.4.1.22": 24,
	oidAES256CBC.String():     32,
}

// The structures of RFC 5958 §3 and RFC 8018 A.2, A.4, and of RFC 7914 §7.
type (
	encryptedPrivateKeyInfo struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pbes2Params struct {
		KDF    pkix.AlgorithmIdentifier
		Cipher pkix.AlgorithmIdentifier
	}
	pbkdf2Params struct {
		Salt       []byte
		Iterations int
		KeyLength  int                      `asn1:"optional"`
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	scryptParams struct {
		Salt      []byte
		N, R, P   int
		KeyLength int `asn1:"optional"`
	}
)

// IsEncrypted reports whether s looks like a key that Decrypt opens.
func IsEncrypted(s string) bool {
	return strings.HasPrefix(strings.TrimSpace(s), "-----BEGIN "+encryptedType+"-----")
}

// Decrypt opens a private key in PEM, ENCRYPTED PRIVATE KEY by PBES2 with PBKDF2
// or scrypt and AES-CBC (RFC 8018, RFC 7914), and gives it as PRIVATE KEY, PKCS#8
// PEM. The error matches ErrPassphrase or ErrFormat and has nothing of either.
func Decrypt(s string, passphrase []byte) (string, error) {
	if len(s) > maxPEM {
		return "", fmt.Errorf("%w: PEM of %d bytes", ErrFormat, len(s))
	}
	block, rest := pem.Decode([]byte(s))
	if block == nil || block.Type != encryptedType || len(bytes.TrimSpace(rest)) != 0 {
		return "", fmt.Errorf("%w: one PEM block of %q is wanted", ErrFormat, encryptedType)
	}
	var info encryptedPrivateKeyInfo
	if err := unmarshal(block.Bytes, &info); err != nil {
		return "", err
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return "", fmt.Errorf("%w: encrypted by %s, not PBES2; convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc", ErrFormat, info.Algorithm.Algorithm)
	}
	var params pbes2Params
	if err := unmarshal(info.Algorithm.Parameters.FullBytes, &params); err != nil {
		return "", err
	}
	size, ok := ciphers[params.Cipher.Algorithm.String()]
	if !ok {
		return "", fmt.Errorf("%w: cipher %s is not AES-CBC", ErrFormat, params.Cipher.Algorithm)
	}
	var iv []byte
	if err := unmarshal(params.Cipher.Parameters.FullBytes, &iv); err != nil {
		return "", err
	}
	if len(iv) != aes.BlockSize || len(info.Data) == 0 || len(info.Data)%aes.BlockSize != 0 {
		return "", fmt.Errorf("%w: %d bytes encrypted, IV of %d", ErrFormat, len(info.Data), len(iv))
	}
	key, err := deriveKey(params.KDF, passphrase, size)
	if err != nil {
		return "", err
	}
	aesBlock, err := aes.NewCipher(key)
	if err != nil {
		return "", err
	}
	der := make([]byte, len(info.Data))
	defer clear(der)
	cipher.NewCBCDecrypter(aesBlock, iv).CryptBlocks(der, info.Data)
	if der, ok = unpad(der); !ok {
		return "", ErrPassphrase
	}
	out := string(pem.EncodeToMemory(&pem.Block{Type: plainType, Bytes: der}))
	if _, err := cryptogram.ParsePrivate(out); err != nil {
		return "", ErrPassphrase // one in 256 wrong ones ends in what looks like padding
	}
	return out, nil
}

// deriveKey is the key derivation function, after its parameters were checked.
func deriveKey(kdf pkix.AlgorithmIdentifier, passphrase []byte, size int) ([]byte, error) {
	switch {
	case kdf.Algorithm.Equal(oidPBKDF2):
		var p pbkdf2Params
		if err := unmarshal(kdf.Parameters.FullBytes, &p); err != nil {
			return nil, err
		}
		prf := sha1.New // DEFAULT
		if len(p.PRF.Algorithm) != 0 {
			if prf = prfs[p.PRF.Algorithm.String()]; prf == nil {
				return nil, fmt.Errorf("%w: PBKDF2 with %s, which is unknown", ErrFormat, p.PRF.Algorithm)
			}
		}
		if len(p.Salt) > maxSalt || p.Iterations < 1 || p.Iterations > maxIterations || p.KeyLength != 0 && p.KeyLength != size {
			return nil, fmt.Errorf("%w: PBKDF2 with %d iterations, salt of %d bytes, key of %d; at most %d iterations wanted", ErrFormat, p.Iterations, len(p.Salt), p.KeyLength, maxIterations)
		}
		return pbkdf2.Key(prf, string(passphrase), p.Salt, p.Iterations, size)
	case kdf.Algorithm.Equal(oidScrypt):
		var p scryptParams
		if err := unmarshal(kdf.Parameters.FullBytes, &p); err != nil {
			return nil, err
		}
		if len(p.Salt) > maxSalt || p.KeyLength != 0 && p.KeyLength != size || !bounded(p) {
			return nil, fmt.Errorf("%w: scrypt with N %d, r %d, p %d, salt of %d bytes, key of %d: too much, or not of its form", ErrFormat, p.N, p.R, p.P, len(p.Salt), p.KeyLength)
		}
		return scrypt.Key(passphrase, p.Salt, p.N, p.R, p.P, size)
	}
	return nil, fmt.Errorf("%w: key derived by %s, neither PBKDF2 nor scrypt", ErrFormat, kdf.Algorithm)
}

// bounded reports whether scrypt's parameters are valid and within the bounds.
func bounded(p scryptParams) bool {
	const most = 1 << 24 // of each: products stay small
	for _, x := range []int{p.N, p.R, p.P} {
		if x < 1 || x > most {
			return false
		}
	}
	n, r := int64(p.N), int64(p.R)
	return p.N > 1 && p.N&(p.N-1) == 0 && 128*n*r <= maxMemory && 128*r*(int64(p.P)+2) <= maxBeside && n*r <= maxWork/int64(p.P)
}

// unpad takes off the padding of RFC 8018 §6.1.1, 4.
func unpad(b []byte) ([]byte, bool) {
	n := int(b[len(b)-1])
	if n < 1 || n > aes.BlockSize || !bytes.Equal(b[len(b)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, false
	}
	return b[:len(b)-n], true
}

// unmarshal parses DER that has nothing behind it.
func unmarshal(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err != nil || len(rest) != 0 {
		return fmt.Errorf("%w: the DER is not of its form", ErrFormat)
	}
	return nil
}

// Encrypt is the inverse of Decrypt: PBES2 with PBKDF2-HMAC-SHA256 of 600,000
// iterations and AES-256-CBC, which OpenSSL and others read.
func Encrypt(s string, passphrase []byte) (string, error) {
	if _, err := cryptogram.ParsePrivate(s); err != nil {
		return "", err
	}
	if len(passphrase) == 0 {
		return "", errors.New("an empty passphrase protects nothing")
	}
	block, _ := pem.Decode([]byte(s))
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	_, _ = rand.Read(salt) // never fails
	_, _ = rand.Read(iv)
	key, err := pbkdf2.Key(sha256.New, string(passphrase), salt, iterations, 32)
	if err != nil {
		return "", err
	}
	aesBlock, err := aes.NewCipher(key)
	if err != nil {
		return "", err
	}
	n := aes.BlockSize - len(block.Bytes)%aes.BlockSize
	data := append(bytes.Clone(block.Bytes), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(aesBlock, iv).CryptBlocks(data, data)

	var e encoder
	pbkdf := e.algorithm(oidPBKDF2, pbkdf2Params{
		Salt: salt, Iterations: iterations, PRF: pkix.AlgorithmIdentifier{Algorithm: oidHMACWithSHA256, Parameters: asn1.NullRawValue},
	})
	params := pbes2Params{KDF: pbkdf, Cipher: e.algorithm(oidAES256CBC, iv)}
	der := e.marshal(encryptedPrivateKeyInfo{Algorithm: e.algorithm(oidPBES2, params), Data: data})
	if e.err != nil {
		return "", e.err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: encryptedType, Bytes: der})), nil
}

// encoder writes DER and keeps the first error.
type encoder struct{ err error }

func (e *encoder) marshal(v any) []byte {
	der, err := asn1.Marshal(v)
	e.err = errors.Join(e.err, err)
	return der
}

func (e *encoder) algorithm(oid asn1.ObjectIdentifier, params any) pkix.AlgorithmIdentifier {
	return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: e.marshal(params)}}
}
