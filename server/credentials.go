package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/server/store"
)

// ErrUnauthenticated is matched by every error that says nobody is known to have
// asked.
var ErrUnauthenticated = errors.New("not authenticated")

// Unauthenticated says why, as far as whoever asks may know. That a credential
// has expired is told to whoever has it, as when it would was; that it was
// revoked is not, and reads like one that was never made.
type Unauthenticated struct{ Detail string }

// Error implements error.
func (e *Unauthenticated) Error() string { return e.Detail }

// Is makes it match ErrUnauthenticated.
func (e *Unauthenticated) Is(target error) bool { return target == ErrUnauthenticated }

const (
	needsToken   = "a bearer token is needed: Authorization: Bearer <token>"
	brokenToken  = "this is no whole token: one begins with " + tokenPrefix + " and ends with a checksum, and this one was cut off or mistyped; look at the file that it came from"
	nobodysToken = "the token is not one of a user, or not any more; ask the server's administrator for another (cardbridge operator user token add)"
	expiredToken = "the token expired at %s; ask the server's administrator for another (cardbridge operator user token add)"

	nobodysCertificate = "the client certificate's key is not one of a user, or not any more; ask the server's administrator to add it (cardbridge operator user certificate add)"
	expiredCertificate = "the client certificate's key was good until %s; have another certificate made, with a new key, and ask the server's administrator to add it (cardbridge operator user certificate add)"
)

// DefaultLifetime is how long a token is good for, unless otherwise is said.
const DefaultLifetime = 90 * 24 * time.Hour

const maxLabel = 64 // characters

// GrantOption changes how a credential is made.
type GrantOption func(*store.Grant)

// Expires sets when a credential is no longer good; the zero time is never. The
// default is DefaultLifetime from now for a token, and never for a certificate,
// which has an end of its own.
func Expires(at time.Time) GrantOption { return func(g *store.Grant) { g.Expires = at } }

// Labelled sets what a credential is called in lists.
func Labelled(label string) GrantOption { return func(g *store.Grant) { g.Label = label } }

// Scoped sets for which of its user's roles a credential is good. The default is
// all.
func Scoped(roles store.Roles) GrantOption { return func(g *store.Grant) { g.Roles = roles } }

// AddToken gives the user of a name another token, beside those that it has.
func AddToken(ctx context.Context, s *store.Store, operator, user string, opts ...GrantOption) (store.Operator, store.Credential, string, error) {
	return makeToken(ctx, s, operator, user, opts, s.AddCredential)
}

// NewToken gives the user of a name a token in place of all that it has.
func NewToken(ctx context.Context, s *store.Store, operator, user string, opts ...GrantOption) (store.Operator, store.Credential, string, error) {
	return makeToken(ctx, s, operator, user, opts, s.SetToken)
}

func makeToken(ctx context.Context, s *store.Store, operator, user string, opts []GrantOption,
	add func(context.Context, string, string, store.Grant) (store.Operator, store.Credential, error)) (store.Operator, store.Credential, string, error) {
	token, g, err := newToken(s, opts)
	if err != nil {
		return store.Operator{}, store.Credential{}, "", err
	}
	op, c, err := add(ctx, operator, user, g)
	if err != nil {
		return store.Operator{}, store.Credential{}, "", err
	}
	return op, c, token, nil
}

// AddCertificate binds the key of a client certificate to the user of a name: any
// certificate of that key that a CA of the server's vouches for stands for the
// user. The error matches ErrInvalid where it is not for client authentication,
// or out of date.
//
// The key is what is bound, and no name in the certificate: whoever can have a
// certificate made, or errs when making one, gets into nobody's place by it.
func AddCertificate(ctx context.Context, s *store.Store, operator, user string, cert *x509.Certificate, opts ...GrantOption) (store.Operator, store.Credential, error) {
	g := store.Grant{Kind: store.Certificate, Hash: sha256.Sum256(cert.RawSubjectPublicKeyInfo)}
	if checkText("a label", cert.Subject.CommonName, maxLabel) == nil {
		g.Label = cert.Subject.CommonName
	}
	for _, o := range opts {
		o(&g)
	}
	now := s.Now()
	switch {
	case !ForClients(cert):
		return store.Operator{}, store.Credential{}, fmt.Errorf("%w: the certificate is not for client authentication (extended key usage clientAuth)", ErrInvalid)
	case now.After(cert.NotAfter):
		return store.Operator{}, store.Credential{}, fmt.Errorf("%w: the certificate expired at %s", ErrInvalid, cert.NotAfter.Format(time.RFC3339))
	}
	if err := checkGrant(g, now); err != nil {
		return store.Operator{}, store.Credential{}, err
	}
	return s.AddCredential(ctx, operator, user, g)
}

// ForClients reports whether a certificate says that it is for TLS clients.
func ForClients(cert *x509.Certificate) bool {
	return slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}

// AuthenticateCertificate is Authenticate for the key of a client certificate,
// which the caller has verified.
func (s *Server) AuthenticateCertificate(ctx context.Context, cert *x509.Certificate) (store.Operator, error) {
	return s.identify(ctx, store.Certificate, sha256.Sum256(cert.RawSubjectPublicKeyInfo), nobodysCertificate, expiredCertificate)
}

// A token is the prefix, 32 random bytes in base 62, and the CRC-32 of all that
// in base 62: scanners for secrets know one by its looks, and a typo or a part
// of one shows without asking the record. Those made before have the bytes in
// base64url and no checksum.
const (
	tokenPrefix = "cbt_"
	secretChars = 43 // of 32 bytes
	sumChars    = 6  // of a CRC-32
)

var (
	tokenChars       = len(tokenPrefix) + secretChars + sumChars
	tokenCharsBefore = len(tokenPrefix) + base64.RawURLEncoding.EncodedLen(32)
)

// newToken makes a token and what the store is to keep of it.
func newToken(s *store.Store, opts []GrantOption) (string, store.Grant, error) {
	now := s.Now()
	g := store.Grant{Kind: store.Token, Expires: now.Add(DefaultLifetime)}
	for _, o := range opts {
		o(&g)
	}
	if err := checkGrant(g, now); err != nil {
		return "", g, err
	}
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	token := tokenPrefix + base62(new(big.Int).SetBytes(secret[:]), secretChars)
	token += checksum(token)
	g.Hash = sha256.Sum256([]byte(token))
	return token, g, nil
}

func checkGrant(g store.Grant, now time.Time) error {
	if g.Label != "" {
		if err := checkText("a label", g.Label, maxLabel); err != nil {
			return err
		}
	}
	if !g.Expires.IsZero() && !g.Expires.After(now) {
		return fmt.Errorf("%w: it would have expired already", ErrInvalid)
	}
	return nil
}

func checksum(text string) string {
	return base62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(text)))), sumChars)
}

func base62(n *big.Int, chars int) string {
	text := n.Text(62)
	return strings.Repeat("0", chars-len(text)) + text
}

// wholeToken reports whether text looks like a token.
func wholeToken(text string) bool {
	switch {
	case !strings.HasPrefix(text, tokenPrefix):
		return false
	case len(text) == tokenCharsBefore:
		return true
	case len(text) != tokenChars:
		return false
	}
	body := text[:tokenChars-sumChars]
	return subtle.ConstantTimeCompare([]byte(checksum(body)), []byte(text[len(body):])) == 1
}

// Authenticate is the operator and user whose token this is, with the roles that
// it is good for. The error matches ErrUnauthenticated where it is nobody's.
func (s *Server) Authenticate(ctx context.Context, token string) (store.Operator, error) {
	switch {
	case token == "":
		return store.Operator{}, &Unauthenticated{needsToken}
	case !wholeToken(token):
		return store.Operator{}, &Unauthenticated{brokenToken}
	}
	return s.identify(ctx, store.Token, sha256.Sum256([]byte(token)), nobodysToken, expiredToken)
}

// identify is who a live credential stands for.
func (s *Server) identify(ctx context.Context, kind store.CredentialKind, hash store.Hash, nobodys, expired string) (store.Operator, error) {
	op, c, err := s.Store.OperatorByCredential(ctx, kind, hash)
	if errors.Is(err, store.ErrNotFound) {
		return store.Operator{}, &Unauthenticated{nobodys}
	}
	if err != nil {
		return store.Operator{}, err
	}
	now := s.Store.Now()
	if state := c.State(now); state != store.Live {
		s.Log.Warn("credential refused", "state", state, "kind", kind, "credential", c.ID, "user", op.User.Name, "operator", op.Name)
		if state == store.OutOfDate {
			return store.Operator{}, &Unauthenticated{fmt.Sprintf(expired, c.ExpiresAt.Format(time.RFC3339))}
		}
		return store.Operator{}, &Unauthenticated{nobodys}
	}
	if c.Stale(now) {
		s.used.Store(c.ID, struct{}{})
	}
	op.User.Roles &= c.Roles
	return op, nil
}

// recordUses tells the record which credentials were used, beside the requests
// that did.
func (s *Server) recordUses(ctx context.Context) {
	var numbers []int64
	s.used.Range(func(n, _ any) bool {
		s.used.Delete(n)
		numbers = append(numbers, n.(int64))
		return true
	})
	if len(numbers) == 0 {
		return
	}
	if err := s.Store.CredentialsUsed(ctx, numbers); err != nil && ctx.Err() == nil {
		s.Log.Warn("uses of credentials not recorded", "error", err)
	}
}
