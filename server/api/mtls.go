package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

const (
	maxCAFile = 1 << 20 // bytes
	// settling is how old a change of the file has to be: half a file that is
	// being written may be a good one.
	settling = time.Second
	maxGood  = 4096
)

// ClientCAs are the certificates of a PEM file that clients' have to chain to. The
// file is read again when it has changed; where it is bad then, those before
// stay. It is safe for concurrent use.
type ClientCAs struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	pool *x509.CertPool
	read fs.FileInfo // of the file when it was last read, good or bad; nil: it could not be
	// good has the certificates that chain to pool, by their SHA-256, and until when
	// that holds: a chain costs more to verify than all else of most requests.
	good map[[sha256.Size]byte]time.Time
}

// OpenClientCAs reads a file of certificates.
func OpenClientCAs(path string, log *slog.Logger) (*ClientCAs, error) {
	c := &ClientCAs{path: path, log: log}
	info, err := os.Stat(path)
	if err == nil {
		c.pool, err = readPool(path)
	}
	if err != nil {
		return nil, fmt.Errorf("client CAs: %w", err)
	}
	c.read = info
	return c, nil
}

func readPool(path string) (*x509.CertPool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxCAFile {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxCAFile)
	}
	pool := x509.NewCertPool()
	n := 0
	for rest := b; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 || n == 0 {
				return nil, fmt.Errorf("%s: certificates in PEM are wanted, and nothing else", path)
			}
			return pool, nil
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: block %d is no certificate", path, n+1)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("%s: certificate %d, of %q, is not a CA's", path, n+1, cert.Subject)
		}
		pool.AddCert(cert)
	}
}

// current is the certificates of now. The caller has locked mu.
func (c *ClientCAs) current() *x509.CertPool {
	info, err := os.Stat(c.path)
	if err != nil {
		if c.read != nil {
			c.log.Error("client CAs not read; the ones before stay", "error", err)
		}
		c.read = nil
		return c.pool
	}
	age := time.Since(info.ModTime())
	if c.read != nil && info.ModTime().Equal(c.read.ModTime()) && info.Size() == c.read.Size() && os.SameFile(info, c.read) || age >= 0 && age < settling {
		return c.pool
	}
	c.read = info
	pool, err := readPool(c.path)
	if err != nil {
		c.log.Error("client CAs are bad; the ones before stay", "error", err)
		return c.pool
	}
	c.pool, c.good = pool, nil
	c.log.Info("client CAs loaded", "file", c.path)
	return pool
}

// verify says what is wrong with a client certificate, the first of what the
// client showed (RFC 5280 §6). The client has proven that it has its key.
func (c *ClientCAs) verify(shown []*x509.Certificate, now time.Time) error {
	leaf, between := shown[0], x509.NewCertPool()
	name := sha256.Sum256(leaf.Raw)
	c.mu.Lock()
	pool := c.current()
	until, known := c.good[name]
	c.mu.Unlock()
	if known && now.After(leaf.NotBefore) && now.Before(until) {
		return nil
	}
	for _, cert := range shown[1:] {
		between.AddCert(cert)
	}
	why := ""
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	var invalid x509.CertificateInvalidError
	switch errors.As(err, &invalid); {
	case !server.ForClients(leaf):
		why = "is not for client authentication (extended key usage clientAuth)"
	case now.After(leaf.NotAfter):
		why = "expired at " + leaf.NotAfter.Format(time.RFC3339) + "; have it renewed"
	case now.Before(leaf.NotBefore):
		why = "is not good before " + leaf.NotBefore.Format(time.RFC3339)
	case err == nil:
		c.remember(name, pool, chains[0])
		return nil
	case invalid.Cert != nil && invalid.Reason == x509.Expired:
		why = "chains to a CA certificate that has expired"
	default:
		why = "does not chain to a CA that this server takes (serve --client-ca); send those between with it"
	}
	return &server.Unauthenticated{Detail: "the client certificate " + why}
}

// remember keeps that a certificate chains to what is still the pool.
func (c *ClientCAs) remember(name [sha256.Size]byte, pool *x509.CertPool, chain []*x509.Certificate) {
	until := chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if pool != c.pool {
		return
	}
	if c.good == nil || len(c.good) >= maxGood {
		c.good = map[[sha256.Size]byte]time.Time{}
	}
	c.good[name] = until
}

// identify is whose token, client certificate, or both, a request came with.
func (a *API) identify(ctx huma.Context, token string) (store.Operator, error) {
	state := ctx.TLS()
	if a.cas == nil || state == nil || len(state.PeerCertificates) == 0 {
		return a.server.Authenticate(ctx.Context(), token)
	}
	if err := a.cas.verify(state.PeerCertificates, time.Now()); err != nil {
		return store.Operator{}, err
	}
	op, err := a.server.AuthenticateCertificate(ctx.Context(), state.PeerCertificates[0])
	if err != nil || token == "" {
		return op, err
	}
	other, err := a.server.Authenticate(ctx.Context(), token)
	if err != nil {
		return store.Operator{}, err
	}
	if op.User.ID != other.User.ID {
		return store.Operator{}, &server.Unauthenticated{Detail: "the client certificate and the token are of two users; send one of them, or those of one user"}
	}
	op.User.Roles &= other.User.Roles
	return op, nil
}
