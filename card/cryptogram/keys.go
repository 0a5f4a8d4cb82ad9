package cryptogram

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
)

// PrivateKeys is one side's key set (§2): one auth key or three, n1 < n2 < n3,
// and the key of the outer layer.
type PrivateKeys struct {
	Auth []PrivateKey
	Enc  PrivateKey
	Ops  PublicOps // does the holder's operations under its peers' keys; nil: this package
}

// PublicKeys is the public half of a key set.
type PublicKeys struct {
	Auth []*rsa.PublicKey
	Enc  *rsa.PublicKey
}

// Public is the public half.
func (k PrivateKeys) Public() PublicKeys {
	p := PublicKeys{Enc: k.Enc.Public()}
	for _, a := range k.Auth {
		p.Auth = append(p.Auth, a.Public())
	}
	return p
}

// layers is the auth keys that a suite uses, in order.
func (k PrivateKeys) layers(s Suite) ([]PrivateKey, error) {
	n := s.Layers()
	if n == 0 || n > len(k.Auth) {
		return nil, fmt.Errorf("%w: suite %s with %d auth keys", ErrKey, s, len(k.Auth))
	}
	return k.Auth[:n], nil
}

func (k PublicKeys) layers(s Suite) ([]*rsa.PublicKey, error) {
	n := s.Layers()
	if n == 0 || n > len(k.Auth) {
		return nil, fmt.Errorf("%w: suite %s with %d auth keys", ErrKey, s, len(k.Auth))
	}
	return k.Auth[:n], nil
}

// Supports reports whether the set has the keys of a suite.
func (k PublicKeys) Supports(s Suite) bool { return s.Layers() > 0 && s.Layers() <= len(k.Auth) }

// Validate checks all that §2 asks of a key set: sizes, exponent, one or three
// auth keys of one length in ascending order. The error matches ErrKey.
func (k PublicKeys) Validate() error {
	if len(k.Auth) != 1 && len(k.Auth) != 3 {
		return fmt.Errorf("%w: %d auth keys, 1 or 3 wanted", ErrKey, len(k.Auth))
	}
	for i, a := range k.Auth {
		if err := checkPublic(a); err != nil {
			return fmt.Errorf("auth key %d: %w", i+1, err)
		}
		if i == 0 {
			continue
		}
		if a.Size() != k.Auth[0].Size() {
			return fmt.Errorf("%w: auth key %d has %d bytes, the first %d", ErrKey, i+1, a.Size(), k.Auth[0].Size())
		}
		if a.N.Cmp(k.Auth[i-1].N) <= 0 {
			return fmt.Errorf("%w: auth keys are not in ascending order of their moduli (key %d)", ErrKey, i+1)
		}
	}
	if err := checkPublic(k.Enc); err != nil {
		return fmt.Errorf("enc key: %w", err)
	}
	return nil
}

// KeysPEM is a key set as it stands in files (§9): private keys as PKCS#8 PEM,
// public keys as PKIX PEM. In a server's own file there may stand what LoadBy's
// load makes a key of instead.
type KeysPEM struct {
	Auth []string `json:"auth"`
	Enc  string   `json:"enc"`
}

// String keeps private keys out of logs; JSON has them.
func (k KeysPEM) String() string { return fmt.Sprintf("key set of %d auth keys", len(k.Auth)) }

// GoString keeps private keys out of logs.
func (k KeysPEM) GoString() string { return k.String() }

// KeySetPEM is a server's key set as it stands in files, private or public.
type KeySetPEM struct {
	ID byte `json:"id"` // kid, 01 to 0F
	KeysPEM
}

// ServerKeys is a server's key set, ready to use.
type ServerKeys struct {
	KID byte
	PrivateKeys
}

// SID is the identity of the server that holds the set.
func (k ServerKeys) SID() [32]byte { return ServerID(k.KID, k.Public()) }

const maxPEM = 16 << 10 // bytes; an RSA-4096 private key has 3.3 KB

func decodePEM(s, kind string) ([]byte, error) {
	if len(s) > maxPEM {
		return nil, fmt.Errorf("%w: PEM of %d bytes", ErrKey, len(s))
	}
	block, rest := pem.Decode([]byte(s))
	if block == nil {
		return nil, fmt.Errorf("%w: not PEM", ErrKey)
	}
	if block.Type != kind {
		return nil, fmt.Errorf("%w: PEM holds a %.40q, a %q is wanted", ErrKey, block.Type, kind)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: something follows the PEM block", ErrKey)
	}
	return block.Bytes, nil
}

// ParsePrivate parses a private key as it stands in files, PKCS#8 PEM. The error
// matches ErrKey and has nothing of s.
func ParsePrivate(s string) (*rsa.PrivateKey, error) {
	der, err := decodePEM(s, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: not a PKCS#8 private key", ErrKey)
	}
	r, ok := k.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an RSA key", ErrKey)
	}
	return r, nil
}

func parsePublic(s string) (*rsa.PublicKey, error) {
	der, err := decodePEM(s, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: not a PKIX public key", ErrKey)
	}
	r, ok := k.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an RSA key", ErrKey)
	}
	return r, nil
}

// Private parses the set as private keys and validates it. The error matches
// ErrKey.
func (k KeysPEM) Private() (PrivateKeys, error) {
	return k.PrivateBy(func(r *rsa.PrivateKey) (PrivateKey, error) { return NewKey(r) })
}

// PrivateBy is Private with the keys made by load, which checks each, rather
// than by NewKey.
func (k KeysPEM) PrivateBy(load func(*rsa.PrivateKey) (PrivateKey, error)) (PrivateKeys, error) {
	return k.LoadBy(func(s string) (PrivateKey, error) {
		r, err := ParsePrivate(s)
		if err != nil {
			return nil, err
		}
		key, err := load(r)
		if err != nil && !errors.Is(err, ErrKey) {
			err = fmt.Errorf("%w: %w", ErrKey, err)
		}
		return key, err
	})
}

// LoadBy is Private with the keys made by load of what stands in the file. An
// error of load's comes with the name of the key.
func (k KeysPEM) LoadBy(load func(string) (PrivateKey, error)) (PrivateKeys, error) {
	var set PrivateKeys
	one := func(name, s string) (PrivateKey, error) {
		key, err := load(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return key, nil
	}
	if len(k.Auth) > 3 {
		return set, fmt.Errorf("%w: %d auth keys, 1 or 3 wanted", ErrKey, len(k.Auth))
	}
	for i, s := range k.Auth {
		key, err := one(fmt.Sprintf("auth key %d", i+1), s)
		if err != nil {
			return set, err
		}
		set.Auth = append(set.Auth, key)
	}
	var err error
	if set.Enc, err = one("enc key", k.Enc); err != nil {
		return set, err
	}
	return set, set.Public().Validate()
}

// Public parses the set as public keys and validates it. The error matches
// ErrKey.
func (k KeysPEM) Public() (PublicKeys, error) {
	var set PublicKeys
	if len(k.Auth) > 3 {
		return set, fmt.Errorf("%w: %d auth keys, 1 or 3 wanted", ErrKey, len(k.Auth))
	}
	for i, s := range k.Auth {
		key, err := parsePublic(s)
		if err != nil {
			return set, fmt.Errorf("auth key %d: %w", i+1, err)
		}
		set.Auth = append(set.Auth, key)
	}
	var err error
	if set.Enc, err = parsePublic(k.Enc); err != nil {
		return set, fmt.Errorf("enc key: %w", err)
	}
	return set, set.Validate()
}

// EncodePublic is the set as it stands in files.
func EncodePublic(k PublicKeys) (KeysPEM, error) {
	var out KeysPEM
	encode := func(p *rsa.PublicKey) (string, error) {
		der, err := x509.MarshalPKIXPublicKey(p)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrKey, err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
	}
	for _, a := range k.Auth {
		s, err := encode(a)
		if err != nil {
			return out, err
		}
		out.Auth = append(out.Auth, s)
	}
	var err error
	out.Enc, err = encode(k.Enc)
	return out, err
}

// PublicHalf is the public half of a set of private keys, as it stands in files.
// The error matches ErrKey.
func (k KeysPEM) PublicHalf() (KeysPEM, error) {
	private, err := k.Private()
	if err != nil {
		return KeysPEM{}, err
	}
	return EncodePublic(private.Public())
}

// Generate makes a new key set of 1 or 3 auth keys, ordered, of bits each
// (2048, 3072, 4096), and an enc key of its own, as it stands in files.
func Generate(auth, bits int) (KeysPEM, error) {
	if auth != 1 && auth != 3 {
		return KeysPEM{}, fmt.Errorf("%w: %d auth keys, 1 or 3 wanted", ErrKey, auth)
	}
	if bits != 2048 && bits != 3072 && bits != 4096 {
		return KeysPEM{}, fmt.Errorf("%w: %d bits, 2048, 3072 or 4096 wanted", ErrKey, bits)
	}
	keys := make([]*rsa.PrivateKey, auth+1)
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, bits); err != nil {
			return KeysPEM{}, fmt.Errorf("%w: %w", ErrKey, err)
		}
	}
	slices.SortFunc(keys[:auth], func(a, b *rsa.PrivateKey) int { return a.N.Cmp(b.N) })
	var out KeysPEM
	for i, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return KeysPEM{}, fmt.Errorf("%w: %w", ErrKey, err)
		}
		s := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if i < auth {
			out.Auth = append(out.Auth, s)
		} else {
			out.Enc = s
		}
	}
	return out, nil
}

const maxKID = 0x0F

// Private parses the set as a server's own. The error matches ErrKey.
func (k KeySetPEM) Private() (ServerKeys, error) {
	return k.PrivateBy(func(r *rsa.PrivateKey) (PrivateKey, error) { return NewKey(r) })
}

// PrivateBy is Private with the keys made by load, which checks each, rather
// than by NewKey.
func (k KeySetPEM) PrivateBy(load func(*rsa.PrivateKey) (PrivateKey, error)) (ServerKeys, error) {
	if err := k.checkID(); err != nil {
		return ServerKeys{}, err
	}
	keys, err := k.KeysPEM.PrivateBy(load)
	return ServerKeys{KID: k.ID, PrivateKeys: keys}, err
}

// LoadBy is Private with the keys made by load of what stands in the file.
func (k KeySetPEM) LoadBy(load func(string) (PrivateKey, error)) (ServerKeys, error) {
	if err := k.checkID(); err != nil {
		return ServerKeys{}, err
	}
	keys, err := k.KeysPEM.LoadBy(load)
	return ServerKeys{KID: k.ID, PrivateKeys: keys}, err
}

func (k KeySetPEM) checkID() error {
	if k.ID < 1 || k.ID > maxKID {
		return fmt.Errorf("%w: key set id %d, 1 to 15 wanted", ErrKey, k.ID)
	}
	return nil
}

// Public parses the set as another server's. The error matches ErrKey.
func (k KeySetPEM) Public() (PublicKeys, error) {
	if err := k.checkID(); err != nil {
		return PublicKeys{}, err
	}
	return k.KeysPEM.Public()
}

// ParseKeySet parses a server key set file (§9). Its keys are parsed by Private
// or Public. The error matches ErrKey.
func ParseKeySet(b []byte) (KeySetPEM, error) {
	var k KeySetPEM
	if err := DecodeStrict(b, &k); err != nil {
		return KeySetPEM{}, fmt.Errorf("%w: key set file: %w", ErrKey, err)
	}
	return k, nil
}

// DecodeStrict decodes one JSON value with exactly the members that v has: none
// that is unknown, in other letters or there twice, all text UTF-8, and nothing
// behind it.
func DecodeStrict(b []byte, v any) error {
	return json.Unmarshal(b, v, json.RejectUnknownMembers(true))
}
