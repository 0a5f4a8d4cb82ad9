package client

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
)

// Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo, in hexadecimal:
// it outlives the certificate as long as the key stays.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// ErrPin says that a server has another key than the pinned one.
var ErrPin = errors.New("the server's key is not the pinned one")

// PinnedTLS trusts the server with this Pin and no other, whatever its
// certificate says of names and dates.
func PinnedTLS(pin string) (*tls.Config, error) {
	want, err := hex.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("pin %.80q: 64 hexadecimal digits wanted, the SHA-256 of the server's public key (SPKI)", pin)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection verifies, and more strictly
		VerifyConnection: func(s tls.ConnectionState) error {
			sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(sum[:], want) != 1 {
				return fmt.Errorf("%w: it is %x", ErrPin, sum)
			}
			return nil
		},
	}, nil
}
