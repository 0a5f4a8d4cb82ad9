package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const vectorSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func secret(t testing.TB, text string) Secret {
	s, err := ParseSecret(text)
	require.NoError(t, err)
	return s
}

// The vector that the specification's own libraries are tested with.
func TestVector(t *testing.T) {
	got, err := Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), secret(t, vectorSecret))
	require.NoError(t, err)
	assert.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", got)
}

// signed is a message signed by the specification's words.
func signed(id string, at time.Time, body string, secrets ...Secret) http.Header {
	var list []string
	for _, s := range secrets {
		mac := hmac.New(sha256.New, s.Bytes())
		fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body)
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return http.Header{
		"Webhook-Id": {id}, "Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)}, "Webhook-Signature": {strings.Join(list, " ")},
	}
}

func TestReceive(t *testing.T) {
	one, err := NewSecret()
	require.NoError(t, err)
	two, err := NewSecret()
	require.NoError(t, err)
	const body = `{"type":"deactivation.finished","timestamp":"2026-01-02T03:04:05Z","data":{"id":"x"}}`
	now := time.Now()
	with := func(change func(http.Header)) http.Header {
		h := signed("msg_1", now, body, one)
		change(h)
		return h
	}
	for name, c := range map[string]struct {
		header  http.Header
		body    string
		secrets []Secret
		want    error
	}{
		"good":                {signed("msg_1", now, body, one), body, []Secret{one}, nil},
		"receiver rotates":    {signed("msg_1", now, body, one), body, []Secret{two, one}, nil},
		"sender rotates":      {signed("msg_1", now, body, two, one), body, []Secret{one}, nil},
		"asymmetric beside":   {with(func(h http.Header) { h["Webhook-Signature"][0] = "v1a,AAAA " + h["Webhook-Signature"][0] }), body, []Secret{one}, nil},
		"another's":           {signed("msg_1", now, body, two), body, []Secret{one}, ErrSignature},
		"no secret":           {signed("msg_1", now, body, one), body, nil, ErrSignature},
		"an empty secret":     {signed("msg_1", now, body, Secret{}), body, []Secret{{}}, ErrSignature},
		"old":                 {signed("msg_1", now.Add(-6*time.Minute), body, one), body, []Secret{one}, ErrSignature},
		"from the future":     {signed("msg_1", now.Add(6*time.Minute), body, one), body, []Secret{one}, ErrSignature},
		"another body":        {signed("msg_1", now, body, one), body + " ", []Secret{one}, ErrSignature},
		"another id":          {with(func(h http.Header) { h.Set("webhook-id", "msg_2") }), body, []Secret{one}, ErrSignature},
		"no id":               {with(func(h http.Header) { h.Del("webhook-id") }), body, []Secret{one}, ErrSignature},
		"no timestamp":        {with(func(h http.Header) { h.Del("webhook-timestamp") }), body, []Secret{one}, ErrSignature},
		"no signature":        {with(func(h http.Header) { h.Del("webhook-signature") }), body, []Secret{one}, ErrSignature},
		"another version":     {with(func(h http.Header) { h["Webhook-Signature"][0] = "v2" + h["Webhook-Signature"][0][2:] }), body, []Secret{one}, ErrSignature},
		"timestamp of a word": {with(func(h http.Header) { h.Set("webhook-timestamp", "now") }), body, []Secret{one}, ErrSignature},
		"not JSON":            {signed("msg_1", now, "x", one), "x", []Secret{one}, ErrMalformed},
		"too long":            {signed("msg_1", now, "x", one), strings.Repeat("x", maxMessage+1), []Secret{one}, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
			r.Header = c.header
			m, err := Receive(r, c.secrets...)
			if c.want != nil {
				assert.ErrorIs(t, err, c.want)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, "msg_1", m.ID)
			assert.Equal(t, Finished, m.Type)
			assert.JSONEq(t, `{"id":"x"}`, string(m.Data))
		})
	}
}

func TestSecrets(t *testing.T) {
	s, err := NewSecret()
	require.NoError(t, err)
	assert.Equal(t, s, secret(t, s.Reveal()))
	b, err := json.Marshal(map[string]any{"s": s})
	require.NoError(t, err)
	printed := fmt.Sprintf("%v %+v %#v %s %q %x %d %v", s, s, s, s, s, s, s, []Secret{s}) + string(b)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s)
	for _, text := range []string{s.Reveal()[6:], fmt.Sprintf("%x", s.Bytes()), fmt.Sprint(s.Bytes())} {
		assert.NotContains(t, printed+log.String(), text)
	}
	of := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, good := range []string{of(24), of(64), vectorSecret} {
		_, err := ParseSecret(good)
		assert.NoError(t, err, good)
	}
	for _, bad := range []string{"", "whsec_", of(23), of(65), vectorSecret[6:], "WHSEC_" + vectorSecret[6:], vectorSecret + "\n", "whsec_\n" + vectorSecret[6:], vectorSecret + "=", of(25)[:37], "whsk_" + vectorSecret[6:], strings.ReplaceAll(vectorSecret, "9", "-")} {
		_, err := ParseSecret(bad)
		assert.ErrorIs(t, err, ErrSecret, "%q", bad)
	}
}

func TestURLs(t *testing.T) {
	lab := NewClient(Config{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}})
	for _, good := range []string{"https://example.com", "https://example.com:8443/a/b?c=d", "https://8.8.8.8/", "https://[2606:4700::1111]/", "https://10.1.2.3/", "https://[fd00::1]/"} {
		assert.NoError(t, lab.CheckURL(good), good)
	}
	for _, bad := range []string{
		"", "x", "http://example.com", "ftp://example.com", "HTTPS//x", "https:", "https://", "https:///x", "https://:443/", "https:example.com", "//example.com",
		"https://user@example.com/", "https://a:b@example.com/", "https://example.com/#x", "https://exa mple.com/", "https://example.com/\x00", "https://example.com/\n",
		"https://example.com/" + strings.Repeat("x", maxURL), "https://[::1", "https://example.com:x/", "file:///etc/passwd", "javascript:x",
		"https://127.0.0.1/", "https://[::1]/", "https://192.168.1.1/", "https://169.254.169.254/latest", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
		"https://0.0.0.0/", "https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[64:ff9b::7f00:1]/", "https://[::7f00:1]/", "https://100.64.0.1/", "https://224.0.0.1/", "https://255.255.255.255/", "https://[2002:7f00:1::]/",
	} {
		assert.ErrorIs(t, lab.CheckURL(bad), ErrURL, "%q", bad)
	}
}

func TestSchedule(t *testing.T) {
	c := NewClient(Config{})
	total := time.Duration(0)
	for n, want := range Schedule {
		wait, again := c.Next(n+1, Result{Error: "x"})
		require.True(t, again)
		assert.GreaterOrEqual(t, wait, want)
		assert.LessOrEqual(t, wait, want+want/5+1)
		total += want
	}
	assert.Greater(t, total, 3*24*time.Hour)
	assert.Less(t, total, c.Patience)
	_, again := c.Next(len(Schedule)+1, Result{Error: "x"})
	assert.False(t, again)
	_, again = c.Next(1, Result{Error: "x", Gone: true})
	assert.False(t, again)
	wait, _ := c.Next(1, Result{Error: "x", RetryAfter: time.Hour})
	assert.Equal(t, time.Hour, wait)
	wait, _ = c.Next(9, Result{Error: "x", RetryAfter: time.Second})
	assert.GreaterOrEqual(t, wait, 24*time.Hour)
	seen := map[time.Duration]bool{}
	for range 20 {
		wait, _ := c.Next(3, Result{Error: "x"})
		seen[wait] = true
	}
	assert.Greater(t, len(seen), 1, "jitter")
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "86401": 24 * time.Hour, "4294967295": 24 * time.Hour, "-1": 0, "1.5": 0, "99999999999999999999": 0, "soon": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": 0, "Fri, 02 Jan 2099 03:00:00 GMT": 24 * time.Hour,
	} {
		assert.Equal(t, want, retryAfter(text, now), "%q", text)
	}
}

// endpoint is one on loopback that counts the requests that come.
func endpoint(t *testing.T, change ...func(*httptest.Server)) (srv *httptest.Server, hits *atomic.Int32) {
	hits = &atomic.Int32{}
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	for _, f := range change {
		f(srv)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, hits
}

func trusting(srv *httptest.Server) Config {
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return Config{Roots: pool, Timeout: 5 * time.Second}
}

// No name, form or number leads to an address that is not allowed; not a byte
// arrives there.
func TestNoPrivateAddress(t *testing.T) {
	var connections atomic.Int32
	srv, _ := endpoint(t, func(s *httptest.Server) { s.Config.ConnState = func(net.Conn, http.ConnState) { connections.Add(1) } })
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)
	s := secret(t, vectorSecret)
	closed := NewClient(trusting(srv))
	for _, host := range []string{"localhost", "127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "[::ffff:0:0]", "2130706433", "0x7f000001", "127.1", "017700000001"} {
		r := closed.Send(t.Context(), "https://"+host+":"+port+"/", "msg_1", []byte("{}"), s)
		assert.NotEmpty(t, r.Error, host)
		assert.Zero(t, r.Status, host)
		assert.NotContains(t, r.Error, "127.0.0.1", "what a name means here is not told")
	}
	r := closed.Send(t.Context(), "https://localhost:"+port+"/", "msg_1", []byte("{}"), s)
	assert.Equal(t, errPrivate.Error(), r.Error, "the name is looked up, and its address looked at")
	assert.Zero(t, connections.Load())

	config := trusting(srv)
	config.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	r = NewClient(config).Send(t.Context(), srv.URL, "msg_1", []byte("{}"), s)
	assert.Empty(t, r.Error)
	assert.Equal(t, 200, r.Status)
	// The same in IPv6's clothes is the same.
	r = NewClient(config).Send(t.Context(), "https://[::ffff:127.0.0.1]:"+port+"/", "msg_1", []byte("{}"), s)
	assert.NotContains(t, r.Error, errPrivate.Error())
}

// A redirect to where messages must not go is an answer like another.
func TestNoRedirect(t *testing.T) {
	inner, hits := endpoint(t)
	srv := httptest.NewTLSServer(http.RedirectHandler(inner.URL, http.StatusPermanentRedirect))
	defer srv.Close()
	config := trusting(srv)
	config.Roots.AddCert(inner.Certificate())
	config.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	r := NewClient(config).Send(t.Context(), srv.URL, "msg_1", []byte("{}"), secret(t, vectorSecret))
	assert.Equal(t, 308, r.Status)
	assert.Contains(t, r.Error, "redirects")
	assert.Zero(t, hits.Load())
}

func TestTLSIsVerified(t *testing.T) {
	srv, hits := endpoint(t)
	s := secret(t, vectorSecret)
	allow := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	r := NewClient(Config{Allow: allow, Roots: x509.NewCertPool()}).Send(t.Context(), srv.URL, "msg_1", []byte("{}"), s)
	assert.Equal(t, "its certificate does not verify", r.Error)
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	config := trusting(srv)
	config.Allow = allow
	r = NewClient(config).Send(t.Context(), "https://localhost:"+u.Port(), "msg_1", []byte("{}"), s)
	assert.Equal(t, "its certificate does not verify", r.Error, "it is for another name")
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	r = NewClient(config).Send(t.Context(), "https"+strings.TrimPrefix(plain.URL, "http"), "msg_1", []byte("{}"), s)
	assert.Contains(t, r.Error, "no HTTPS server")
	old, _ := endpoint(t, func(s *httptest.Server) { s.TLS = &tls.Config{MaxVersion: tls.VersionTLS11} })
	r = NewClient(config).Send(t.Context(), old.URL, "msg_1", []byte("{}"), s)
	assert.NotEmpty(t, r.Error)
	assert.Zero(t, hits.Load())
}

// slowly writes an answer byte by byte and never ends.
func slowly(t *testing.T, begin string) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv, _ := endpoint(t)
	secure := tls.NewListener(ln, &tls.Config{Certificates: srv.TLS.Certificates})
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := secure.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, begin)
				for {
					if _, err := c.Write([]byte("x")); err != nil {
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
			}()
		}
	}()
	return ln
}

func TestSlowAnswers(t *testing.T) {
	srv, _ := endpoint(t)
	config := trusting(srv) // httptest's certificate is the same everywhere
	config.Allow, config.Timeout = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 300*time.Millisecond
	c := NewClient(config)
	for name, begin := range map[string]string{"header": "HTTP/1.1 200 OK\r\nX: ", "status line": "HTTP/1.1 200 "} {
		r := c.Send(t.Context(), "https://"+slowly(t, begin).Addr().String(), "msg_1", []byte("{}"), secret(t, vectorSecret))
		assert.Equal(t, "no answer in time", r.Error, name)
		assert.Less(t, r.Took, 30*time.Second)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.NotEmpty(t, c.Send(ctx, srv.URL, "msg_1", []byte("{}"), secret(t, vectorSecret)).Error)
}

func FuzzVerify(f *testing.F) {
	s := secret(f, vectorSecret)
	f.Add("msg_1", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte(`{"test": 2432232314}`))
	f.Add("", "", "", []byte{})
	f.Add("x", "-9223372036854775808", "v1, v1,, ,", []byte("{"))
	f.Fuzz(func(t *testing.T, id, at, signature string, body []byte) {
		if _, err := Verify(http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {at}, "Webhook-Signature": {signature}}, body, s); err == nil {
			t.Fatal("forged")
		}
	})
}

func FuzzSecret(f *testing.F) {
	f.Add(vectorSecret)
	f.Add("whsec_")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSecret(text)
		if err == nil && s.Reveal() != text {
			t.Fatalf("%q read as another", text)
		}
	})
}

// What is admitted by its URL names no address that is not public.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{"https://example.com/", "https://[::ffff:127.0.0.1]/", "https://127.0.0.1:1/", "https://a@b/", "https://[fe80::1%25x]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if checkURL(text, nil) != nil {
			return
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Hostname() == "" {
			t.Fatal(text)
		}
		if ip := net.ParseIP(u.Hostname()); ip != nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast()) {
			t.Fatal(text)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Fri, 02 Jan 2026 03:05:05 GMT")
	f.Fuzz(func(t *testing.T, text string) {
		if d := retryAfter(text, time.Now()); d < 0 || d > maxRetryWait {
			t.Fatal(d)
		}
	})
}
