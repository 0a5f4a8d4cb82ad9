package keyfile

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

var passphrase = []byte("correct horse, bätterý staple")

func plainKey(t testing.TB) string {
	f, err := vectors.Read()
	require.NoError(t, err)
	return f.Keys["server-enc"]
}

// openssl runs the real one.
func openssl(t testing.TB, in string, args ...string) string {
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = strings.NewReader(in)
	cmd.Env = append(cmd.Environ(), "PASSPHRASE="+string(passphrase))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "openssl %v: %s", args, stderr.String())
	return string(out)
}

func sameKey(t *testing.T, a, b string) {
	t.Helper()
	k, err := cryptogram.ParsePrivate(a)
	require.NoError(t, err)
	l, err := cryptogram.ParsePrivate(b)
	require.NoError(t, err)
	assert.True(t, k.Equal(l))
}

func TestOpenSSLEncryptsForUs(t *testing.T) {
	plain := plainKey(t)
	for name, args := range map[string][]string{
		"default":         nil,
		"aes-128-cbc":     {"-v2", "aes-128-cbc"},
		"aes-192-cbc":     {"-v2", "aes-192-cbc"},
		"hmacWithSHA1":    {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA1"},
		"hmacWithSHA384":  {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA384"},
		"hmacWithSHA512":  {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"},
		"many iterations": {"-iter", "100000"},
		"scrypt":          {"-scrypt"},
		"scrypt, costly":  {"-scrypt", "-scrypt_N", "8192", "-scrypt_r", "16", "-scrypt_p", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			sealed := openssl(t, plain, append([]string{"pkcs8", "-topk8", "-passout", "env:PASSPHRASE"}, args...)...)
			require.True(t, IsEncrypted(sealed))
			got, err := Decrypt(sealed, passphrase)
			require.NoError(t, err)
			sameKey(t, plain, got)
			for _, wrong := range [][]byte{nil, []byte("x"), append(passphrase[:len(passphrase):len(passphrase)], ' ')} {
				_, err = Decrypt(sealed, wrong)
				assert.ErrorIs(t, err, ErrPassphrase)
			}
		})
	}
}

func TestOpenSSLDecryptsOurs(t *testing.T) {
	plain := plainKey(t)
	sealed, err := Encrypt(plain, passphrase)
	require.NoError(t, err)
	sameKey(t, plain, openssl(t, sealed, "pkcs8", "-passin", "env:PASSPHRASE"))
	got, err := Decrypt(sealed, passphrase)
	require.NoError(t, err)
	assert.Equal(t, plain, got)
	again, err := Encrypt(plain, passphrase)
	require.NoError(t, err)
	assert.NotEqual(t, sealed, again, "salt and IV are new each time")
	_, err = Encrypt(plain, nil)
	assert.Error(t, err)
	_, err = Encrypt(sealed, passphrase)
	assert.ErrorIs(t, err, cryptogram.ErrKey)
	assert.False(t, IsEncrypted(plain))
}

func TestOldEncryptionIsRefused(t *testing.T) {
	plain := plainKey(t)
	sealed := openssl(t, plain, "pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-passout", "env:PASSPHRASE")
	_, err := Decrypt(sealed, passphrase)
	assert.ErrorIs(t, err, ErrFormat)
	assert.ErrorContains(t, err, "openssl pkcs8")
	sealed = openssl(t, plain, "pkcs8", "-topk8", "-v2", "des3", "-passout", "env:PASSPHRASE")
	_, err = Decrypt(sealed, passphrase)
	assert.ErrorIs(t, err, ErrFormat)
	_, err = Decrypt(plain, passphrase)
	assert.ErrorIs(t, err, ErrFormat)
	// Not an RSA key: what it says does not help, but nothing else happens.
	ec := openssl(t, openssl(t, "", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), "pkcs8", "-topk8", "-passout", "env:PASSPHRASE")
	_, err = Decrypt(ec, passphrase)
	assert.ErrorIs(t, err, ErrPassphrase)
}

// forge is an encrypted key whose derivation has any parameters.
func forge(t testing.TB, kdf asn1.ObjectIdentifier, params any, iv []byte, data int) string {
	var e encoder
	der := e.marshal(encryptedPrivateKeyInfo{
		Algorithm: e.algorithm(oidPBES2, pbes2Params{KDF: e.algorithm(kdf, params), Cipher: e.algorithm(oidAES256CBC, iv)}),
		Data:      make([]byte, data),
	})
	require.NoError(t, e.err)
	return string(pem.EncodeToMemory(&pem.Block{Type: encryptedType, Bytes: der}))
}

// What a hostile file asks for is refused before any of it is done: doing it would
// take hours, or all memory.
func TestHostileParameters(t *testing.T) {
	iv := make([]byte, 16)
	for name, s := range map[string]string{
		"iterations":           forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1 << 31}, iv, 1232),
		"no iterations":        forge(t, oidPBKDF2, pbkdf2Params{Salt: iv}, iv, 1232),
		"negative iterations":  forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: -1}, iv, 1232),
		"key length":           forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1, KeyLength: 1 << 30}, iv, 1232),
		"salt":                 forge(t, oidPBKDF2, pbkdf2Params{Salt: make([]byte, 2000), Iterations: 1}, iv, 1232),
		"PRF":                  forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1, PRF: pkix.AlgorithmIdentifier{Algorithm: oidScrypt}}, iv, 1232),
		"memory":               forge(t, oidScrypt, scryptParams{Salt: iv, N: 1 << 24, R: 1 << 20, P: 1}, iv, 1232),
		"memory beside":        forge(t, oidScrypt, scryptParams{Salt: iv, N: 2, R: 1 << 20, P: 1}, iv, 1232),
		"memory for p":         forge(t, oidScrypt, scryptParams{Salt: iv, N: 2, R: 8, P: 1 << 18}, iv, 1232),
		"overflow":             forge(t, oidScrypt, scryptParams{Salt: iv, N: 1 << 62, R: 1 << 62, P: 1 << 62}, iv, 1232),
		"work":                 forge(t, oidScrypt, scryptParams{Salt: iv, N: 1 << 10, R: 8, P: 1 << 20}, iv, 1232),
		"N is no power of two": forge(t, oidScrypt, scryptParams{Salt: iv, N: 1000, R: 8, P: 1}, iv, 1232),
		"zero":                 forge(t, oidScrypt, scryptParams{Salt: iv}, iv, 1232),
		"KDF":                  forge(t, oidPBES2, scryptParams{Salt: iv, N: 2, R: 1, P: 1}, iv, 1232),
		"IV":                   forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1}, iv[:8], 1232),
		"half a block":         forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1}, iv, 1231),
		"nothing":              forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1}, iv, 0),
		"long":                 forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1}, iv, 16<<10),
		"behind":               forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1}, iv, 1232) + "x",
		"no PEM":               "-----BEGIN ENCRYPTED PRIVATE KEY-----",
		"no DER":               string(pem.EncodeToMemory(&pem.Block{Type: encryptedType, Bytes: []byte{0x30, 0x80}})),
	} {
		_, err := Decrypt(s, passphrase)
		assert.ErrorIs(t, err, ErrFormat, name)
	}
	_, err := Decrypt(forge(t, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1}, iv, 1232), passphrase)
	assert.ErrorIs(t, err, ErrPassphrase, "the form that the others spoil is right")
	_, err = Decrypt(forge(t, oidScrypt, scryptParams{Salt: iv, N: 2, R: 1, P: 1}, iv, 1232), passphrase)
	assert.ErrorIs(t, err, ErrPassphrase, "the form that the others spoil is right")
}

func FuzzDecrypt(f *testing.F) {
	iv := make([]byte, 16)
	add := func(s string) {
		block, _ := pem.Decode([]byte(s))
		f.Add(block.Bytes)
	}
	add(forge(f, oidPBKDF2, pbkdf2Params{Salt: iv, Iterations: 1}, iv, 1232))
	add(forge(f, oidScrypt, scryptParams{Salt: iv, N: 2, R: 1, P: 1}, iv, 1232))
	add(openssl(f, plainKey(f), "pkcs8", "-topk8", "-passout", "env:PASSPHRASE", "-iter", "1"))
	f.Fuzz(func(t *testing.T, der []byte) {
		if costly(der) {
			return // within the bounds it may take seconds: that is not what is sought
		}
		s := string(pem.EncodeToMemory(&pem.Block{Type: encryptedType, Bytes: der}))
		out, err := Decrypt(s, passphrase)
		if err != nil {
			assert.Empty(t, out)
			assert.True(t, strings.Contains(err.Error(), ErrFormat.Error()) || strings.Contains(err.Error(), ErrPassphrase.Error()), "%v", err)
			return
		}
		_, err = cryptogram.ParsePrivate(out)
		assert.NoError(t, err)
	})
}

func costly(der []byte) bool {
	var info encryptedPrivateKeyInfo
	var params pbes2Params
	var p pbkdf2Params
	var s scryptParams
	if unmarshal(der, &info) != nil || unmarshal(info.Algorithm.Parameters.FullBytes, &params) != nil {
		return false
	}
	kdf := params.KDF.Parameters.FullBytes
	return unmarshal(kdf, &p) == nil && p.Iterations > 100 || unmarshal(kdf, &s) == nil && bounded(s) && s.N*s.R*s.P > 1000
}
