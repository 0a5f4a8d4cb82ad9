package isdr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

// testKey is a key pair that everyone can make: it proves nothing but that a
// client handles signatures and certificates.
type testKey struct {
	private *ecdsa.PrivateKey
	id      []byte // subject key identifier (RFC 5280 §4.2.1.2, method 1)
}

func newTestKey(name string) (testKey, error) {
	seed := sha256.Sum256([]byte("cardbridge applet-sim test key: " + name))
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		return testKey{}, err
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return testKey{}, err
	}
	sum := sha1.Sum(point)
	return testKey{private, sum[:]}, nil
}

// testCI is the certificate issuer's.
var testCI = sync.OnceValue(func() testKey {
	k, err := newTestKey("CI")
	if err != nil {
		panic(err) // its seed is a constant
	}
	return k
})

// signer signs notifications as the eUICC with that EID.
type signer struct {
	key        testKey
	euicc, eum []byte // certificates
}

// newSigner makes the eUICC's key and certificates (SGP.22 §4.5.2), always the
// same ones.
func newSigner(eid id.EID) (*signer, error) {
	maker, err := newTestKey("EUM")
	if err != nil {
		return nil, err
	}
	key, err := newTestKey("eUICC " + eid.String())
	if err != nil {
		return nil, err
	}
	names := func(common, serial string) pkix.Name {
		return pkix.Name{Organization: []string{"cardbridge test"}, CommonName: common, SerialNumber: serial}
	}
	issuer := &x509.Certificate{Subject: names("Test CI", ""), SubjectKeyId: testCI().id}
	eum := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: names("Test EUM", ""), SubjectKeyId: maker.id,
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	euicc := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: names("Test eUICC", eid.String()), SubjectKeyId: key.id,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	s := &signer{key: key}
	for _, c := range []struct {
		out              *[]byte
		subject, issuer  *x509.Certificate
		subjectKey, sign testKey
	}{{&s.eum, eum, issuer, maker, testCI()}, {&s.euicc, euicc, eum, key, maker}} {
		c.subject.NotBefore = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		c.subject.NotAfter = c.subject.NotBefore.AddDate(50, 0, 0)
		// Without randomness ECDSA is that of RFC 6979: the same each time.
		*c.out, err = x509.CreateCertificate(nil, c.subject, c.issuer, c.subjectKey.private.Public(), c.sign.private)
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// sign is the value of an OtherSignedNotification of that metadata. The signature
// is r and s of 32 bytes each (SGP.22 §2.6.7.2).
func (s *signer) sign(metadata []byte) ([]byte, error) {
	digest := sha256.Sum256(metadata)
	der, err := s.key.private.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	plain, err := plainSignature(der)
	if err != nil {
		return nil, err
	}
	out := tlv.Append(metadata, 0x5F37, plain...)
	return append(append(out, s.euicc...), s.eum...), nil
}

func plainSignature(der []byte) ([]byte, error) {
	both, _, err := tlv.Expect(der, 0x30)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	for i := range 2 {
		var n []byte
		if n, both, err = tlv.Expect(both, 0x02); err != nil {
			return nil, err
		}
		if len(n) > 33 {
			return nil, fmt.Errorf("%w: an INTEGER of %d bytes", tlv.ErrMalformed, len(n))
		}
		new(big.Int).SetBytes(n).FillBytes(out[32*i : 32*i+32])
	}
	return out, nil
}
