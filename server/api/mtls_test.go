package api_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// authority is a CA, and the certificates between it and a root.
type authority struct {
	testing.TB
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	between [][]byte
}

// newAuthority is a CA of a name; those of one name differ in their keys alone.
func newAuthority(t testing.TB, name string) *authority {
	a := &authority{TB: t, key: newKey(t)}
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte("same"),
	}, a.key.Public(), nil)
	return a
}

// sign makes a certificate, by the key's own where the CA has none yet.
func (a *authority) sign(c *x509.Certificate, public crypto.PublicKey, parent *x509.Certificate) *x509.Certificate {
	if parent == nil {
		parent = c
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, a.key)
	require.NoError(a, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(a, err)
	return cert
}

// under is a CA that this one vouches for.
func (a *authority) under(name string) *authority {
	b := &authority{TB: a.TB, key: newKey(a.TB)}
	b.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, b.key.Public(), a.cert)
	b.between = append([][]byte{b.cert.Raw}, a.between...)
	return b
}

// client is a client certificate for a key, changed before it is signed.
func (a *authority) client(key crypto.Signer, change ...func(*x509.Certificate)) tls.Certificate {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "a client"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	for _, f := range change {
		f(c)
	}
	cert := a.sign(c, key.Public(), a.cert)
	return tls.Certificate{Certificate: append([][]byte{cert.Raw}, a.between...), PrivateKey: key, Leaf: cert}
}

// write writes the CA's certificate to a file that has been so for a while.
func (a *authority) write(path string) {
	writeSettled(a, path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// changed counts the files that were written: each change has a time of its own.
var changed time.Duration

func writeSettled(t testing.TB, path string, b []byte) {
	require.NoError(t, os.WriteFile(path, b, 0o600))
	changed += time.Second
	at := time.Now().Add(changed - time.Hour)
	require.NoError(t, os.Chtimes(path, at, at))
}

// mutual is a fixture that takes client certificates of a CA.
type mutual struct {
	*fixture
	ca   *authority
	file string
	web  *httptest.Server
}

func newMutual(t *testing.T) *mutual {
	m := &mutual{ca: newAuthority(t, "CA"), file: filepath.Join(t.TempDir(), "ca.pem")}
	m.ca.write(m.file)
	cas, err := api.OpenClientCAs(m.file, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	m.fixture = newFixtureOn(t, servertest.NewRecord(t, migrate), server.Config{}, api.WithClientCAs(cas))
	m.web = m.fixture.web(func(srv *httptest.Server) {
		srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
		srv.EnableHTTP2 = true
	})
	return m
}

// bind has a certificate's key stand for the user of an operator.
func (m *mutual) bind(operator string, cert tls.Certificate, opts ...server.GrantOption) store.Credential {
	_, c, err := server.AddCertificate(m.Context(), m.store, operator, "default", cert.Leaf, opts...)
	require.NoError(m, err)
	return c
}

// by is a client with a certificate, where there is one.
func (m *mutual) by(cert *tls.Certificate) *http.Client {
	c := m.web.Client()
	t := c.Transport.(*http.Transport).Clone()
	if cert != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*cert}
	}
	m.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func (m *mutual) ask(c *http.Client, method, path, token string) (status int, body string) {
	req, err := http.NewRequestWithContext(m.Context(), method, m.web.URL+path, nil)
	require.NoError(m, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.Do(req)
	require.NoError(m, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(m, err)
	m.documented(req, res.StatusCode)
	return res.StatusCode, string(b)
}

// refused checks that a certificate, with a token or without, is turned away and
// told why.
func (m *mutual) refused(cert tls.Certificate, token, why string) {
	m.Helper()
	status, body := m.ask(m.by(&cert), "GET", "/v1/cards", token)
	assert.Equal(m, http.StatusUnauthorized, status)
	var p api.Problem
	require.NoError(m, json.Unmarshal([]byte(body), &p))
	assert.Contains(m, p.Detail, why)
}

func TestClientCertificates(t *testing.T) {
	m := newMutual(t)
	m.register(1)
	eid := servertest.EID(1).String()
	key := newKey(t)
	cert := m.ca.client(key)
	c := m.bind("one", cert)
	assert.Equal(t, "a client", c.Label)

	mine := m.by(&cert)
	status, body := m.ask(mine, "GET", "/v1/cards/"+eid, "")
	assert.Equal(t, http.StatusOK, status, "%s", body)
	status, _ = m.ask(mine, "GET", "/v1/cards/"+eid, m.token)
	assert.Equal(t, http.StatusOK, status, "with a token of the same user")
	status, _ = m.ask(m.by(nil), "GET", "/v1/cards/"+eid, m.token)
	assert.Equal(t, http.StatusOK, status, "a token alone")
	status, _ = m.ask(m.by(nil), "GET", "/v1/cards/"+eid, "")
	assert.Equal(t, http.StatusUnauthorized, status)
	renewed := m.ca.under("between").client(key)
	status, _ = m.ask(m.by(&renewed), "GET", "/v1/cards/"+eid, "")
	assert.Equal(t, http.StatusOK, status, "another certificate of the same key, of a CA under the CA")
	bad := m.ca.client(newKey(t))
	status, _ = m.ask(m.by(&bad), "GET", "/healthz", "")
	assert.Equal(t, http.StatusOK, status, "who needs no name needs no good one")

	// Whose it is decides what is there.
	theirs := m.ca.client(newKey(t))
	m.bind("third", theirs)
	status, there := m.ask(m.by(&theirs), "GET", "/v1/cards/"+eid, "")
	assert.Equal(t, http.StatusNotFound, status)
	_, nothing := m.ask(m.by(&theirs), "GET", "/v1/cards/"+servertest.EID(7).String(), "")
	assert.Equal(t, nothing, there)
	m.refused(theirs, m.token, "of two users")
	m.refused(cert, m.other, "of two users")
	_, token, err := server.AddUser(t.Context(), m.store, "one", "second", store.AllRoles)
	require.NoError(t, err)
	m.refused(cert, token, "of two users")
	m.refused(cert, m.token[:20], "no whole token")
	m.refused(m.ca.client(newKey(t)), m.token, "not one of a user")

	at := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
	}
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	between := m.ca.under("between")
	between.between = nil
	for why, cert := range map[string]tls.Certificate{
		"expired at 20":            m.ca.client(key, at(-2*time.Hour, -time.Hour)),
		"not good before 20":       m.ca.client(key, at(time.Hour, 2*time.Hour)),
		"does not chain to a CA ":  newAuthority(t, "CA").client(key),
		"does not chain to a CA":   between.client(key),
		"(extended key usage clie": m.ca.client(key, usage(x509.ExtKeyUsageServerAuth)),
		"extended key usage":       m.ca.client(key, usage()),
		"is not one of a user":     m.ca.client(newKey(t)),
	} {
		m.refused(cert, "", why)
	}
	self := (&authority{TB: t, key: key}).sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key.Public(), nil)
	m.refused(tls.Certificate{Certificate: [][]byte{self.Raw}, PrivateKey: key}, "", "does not chain")
	for why, cert := range map[string]tls.Certificate{
		"clientAuth": m.ca.client(newKey(t), usage(x509.ExtKeyUsageServerAuth)), "expired": m.ca.client(newKey(t), at(-2*time.Hour, -time.Hour)),
	} {
		_, _, err = server.AddCertificate(t.Context(), m.store, "one", "default", cert.Leaf)
		assert.ErrorIs(t, err, server.ErrInvalid)
		assert.ErrorContains(t, err, why)
	}

	// Somebody else's certificate, without its key.
	stolen := cert
	stolen.PrivateKey = signing{cert.PrivateKey.(crypto.Signer).Public(), newKey(t)}
	_, err = m.by(&stolen).Get(m.web.URL + "/v1/cards")
	assert.Error(t, err)
	config := m.web.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.Certificates = []tls.Certificate{stolen}
	conn, err := tls.Dial("tcp", m.web.Listener.Addr().String(), config)
	require.NoError(t, err) // in TLS 1.3 a client is done before the server has looked
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = conn.Read(make([]byte, 1))
	assert.ErrorContains(t, err, "tls:", "the server's alert")

	// On the connection that it came by, too.
	_, err = m.store.RevokeCredential(t.Context(), "one", "default", store.Certificate, c.ID)
	require.NoError(t, err)
	status, revoked := m.ask(mine, "GET", "/v1/cards", "")
	assert.Equal(t, http.StatusUnauthorized, status)
	nobody := m.ca.client(newKey(t))
	_, never := m.ask(m.by(&nobody), "GET", "/v1/cards", "")
	assert.Equal(t, never, revoked)
	m.refused(renewed, "", "not one of a user")
	_, _, err = server.AddCertificate(t.Context(), m.store, "one", "default", renewed.Leaf)
	assert.ErrorIs(t, err, store.ErrExists, "a key that was revoked does not come back")
}

// A certificate is good for its scope, with a token for what both are good for,
// and until the record says.
func TestCertificatesScope(t *testing.T) {
	m := newMutual(t)
	cert, brief := m.ca.client(newKey(t)), m.ca.client(newKey(t))
	m.bind("one", cert, server.Scoped(store.MayRead|store.MayAdminister))
	client := m.by(&cert)
	status, _ := m.ask(client, "GET", "/v1/cards", "")
	assert.Equal(t, http.StatusOK, status)
	refresh := "/v1/cards/" + servertest.EID(1).String() + "/refresh"
	status, body := m.ask(client, "POST", refresh, "")
	assert.Equal(t, http.StatusForbidden, status)
	assert.Contains(t, body, "role request")
	status, _ = m.ask(client, "POST", refresh, m.token)
	assert.Equal(t, http.StatusForbidden, status, "a token does not widen it")
	_, _, narrow, err := server.AddToken(t.Context(), m.store, "one", "default", server.Scoped(store.MayRequest))
	require.NoError(t, err)
	status, body = m.ask(client, "GET", "/v1/cards", narrow)
	assert.Equal(t, http.StatusForbidden, status, "nothing is left")
	assert.Contains(t, body, "role read")

	m.bind("one", brief, server.Expires(time.Now().Add(50*time.Millisecond)))
	briefly := m.by(&brief)
	require.Eventually(t, func() bool {
		status, _ := m.ask(briefly, "GET", "/v1/cards", "")
		return status == http.StatusUnauthorized
	}, 10*time.Second, time.Millisecond)
	m.refused(brief, "", "was good until 20")
}

// signing is a key that signs by another.
type signing struct {
	public crypto.PublicKey
	crypto.Signer
}

func (s signing) Public() crypto.PublicKey { return s.public }

// The CAs' file is read again when it has changed; a bad one changes nothing.
func TestClientCAsChange(t *testing.T) {
	m := newMutual(t)
	key := newKey(t)
	before, next := m.ca.client(key), newAuthority(t, "next")
	after := next.client(key)
	m.bind("one", before)
	long := m.by(&before)
	good := func(c *http.Client) {
		t.Helper()
		status, body := m.ask(c, "GET", "/v1/cards", "")
		assert.Equal(t, http.StatusOK, status, "%s", body)
	}
	good(long)
	m.refused(after, "", "does not chain")
	for _, bad := range []string{"", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", strings.Repeat("#", 2<<20)} {
		writeSettled(t, m.file, []byte(bad))
		good(long)
	}
	require.NoError(t, os.Remove(m.file))
	good(long)
	next.write(m.file)
	good(m.by(&after))
	m.refused(before, "", "does not chain")
	status, _ := m.ask(long, "GET", "/v1/cards", "")
	assert.Equal(t, http.StatusUnauthorized, status, "on a connection from before too")

	// Half a file that is being written is none.
	require.NoError(t, os.WriteFile(m.file, nil, 0o600))
	good(m.by(&after))
}

func TestClientCAsRefused(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "CA")
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.client(newKey(t)).Certificate[0]})
	good := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	for why, content := range map[string]string{
		"certificates in PEM": "", "and nothing else": string(good) + "more", "not a CA's": string(leaf),
		"block 2 is no certificate": string(good) + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "more than": strings.Repeat(string(good), 4000),
		"block 1 is no": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		path := filepath.Join(dir, "ca.pem")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := api.OpenClientCAs(path, slog.Default())
		assert.ErrorContains(t, err, why)
	}
	_, err := api.OpenClientCAs(filepath.Join(dir, "none"), slog.Default())
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// What a request costs that proves who asks.
func BenchmarkAuthenticate(b *testing.B) {
	ca := newAuthority(b, "CA")
	file := filepath.Join(b.TempDir(), "ca.pem")
	ca.write(file)
	cas, err := api.OpenClientCAs(file, slog.New(slog.DiscardHandler))
	require.NoError(b, err)
	f := newFixtureOn(b, servertest.NewRecord(b, migrate), server.Config{}, api.WithClientCAs(cas))
	cert := ca.client(newKey(b))
	_, _, err = server.AddCertificate(b.Context(), f.store, "one", "default", cert.Leaf)
	require.NoError(b, err)
	for name, prepare := range map[string]func(*http.Request){
		"token":       func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+f.token) },
		"certificate": func(r *http.Request) { r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}} },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest("GET", "/v1/deactivations", nil)
				prepare(r)
				w := httptest.NewRecorder()
				f.api.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(fmt.Sprint(w.Code, w.Body))
				}
			}
		})
	}
}
