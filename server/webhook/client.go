package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	maxHeader    = 16 << 10 // bytes of an answer
	maxBody      = 4 << 10  // bytes of an answer that are read, so that its connection can be used again
	maxRetryWait = 24 * time.Hour
)

// Schedule is when a message is sent again, each time after the one before it
// failed, as Standard Webhooks recommends: some three days in all.
var Schedule = []time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// Config is what a Client works with. The zero value is for the public Internet.
type Config struct {
	// Allow are addresses beyond public ones that messages may go to.
	Allow []netip.Prefix
	// Roots are whose certificates endpoints may have; nil: the system's.
	Roots *x509.CertPool
	// Timeout bounds one sending; 15 s.
	Timeout time.Duration
	// Schedule is in place of the package's.
	Schedule []time.Duration
	// Patience is how long all of an endpoint's messages may fail until it gets no
	// more; 5 days.
	Patience time.Duration
}

// Client sends messages. It is safe for concurrent use.
type Client struct {
	Config
	transport *http.Transport
}

// NewClient makes a client.
func NewClient(c Config) *Client {
	if c.Timeout <= 0 {
		c.Timeout = 15 * time.Second
	}
	if len(c.Schedule) == 0 {
		c.Schedule = Schedule
	}
	if c.Patience <= 0 {
		c.Patience = 5 * 24 * time.Hour
	}
	// The address is looked at when it is connected to, whatever a name meant
	// before.
	dialer := &net.Dialer{Timeout: c.Timeout, Control: func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return errPrivate
		}
		return admit(a.Addr(), c.Allow)
	}}
	return &Client{Config: c, transport: &http.Transport{
		// No proxy: it would connect to addresses that nobody looked at.
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
		TLSHandshakeTimeout:    c.Timeout,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}}
}

// Close ends what connections are idle.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// CheckURL says what is wrong with an endpoint's URL; the error matches ErrURL.
func (c *Client) CheckURL(url string) error { return checkURL(url, c.Allow) }

// Result is what came of one sending.
type Result struct {
	At     time.Time
	Took   time.Duration
	Status int    // of HTTP; 0 where there was no answer
	Error  string // in words, for whoever has the endpoint; empty where it was delivered
	// RetryAfter is how long the endpoint asks for, 0 where it does not.
	RetryAfter time.Duration
	// Gone says that the endpoint wants no more, ever.
	Gone bool
}

// Delivered reports whether the endpoint took the message.
func (r Result) Delivered() bool { return r.Error == "" }

// Next is when to send a message again that failed that often, with some jitter,
// and false where it is given up.
func (c *Client) Next(failures int, r Result) (time.Duration, bool) {
	if r.Gone || failures < 1 || failures > len(c.Schedule) {
		return 0, false
	}
	wait := c.Schedule[failures-1]
	if wait > 0 {
		wait += rand.N(wait/5 + 1)
	}
	return max(wait, r.RetryAfter), true
}

// Send sends a message once. It follows no redirect.
func (c *Client) Send(ctx context.Context, url, id string, payload []byte, secrets ...Secret) Result {
	r := Result{At: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	err := c.send(ctx, &r, url, id, payload, secrets)
	r.Took = time.Since(r.At)
	if err != nil {
		r.Error = inWords(err)
	}
	return r
}

func (c *Client) send(ctx context.Context, r *Result, url, id string, payload []byte, secrets []Secret) error {
	if err := c.CheckURL(url); err != nil {
		return err // what is allowed may have changed
	}
	signature, err := Sign(id, r.At, payload, secrets...)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
	if err != nil {
		return ErrURL
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "cardbridge")
	// In lower case, as the specification writes them.
	req.Header[standardwebhooks.HeaderWebhookID] = []string{id}
	req.Header[standardwebhooks.HeaderWebhookTimestamp] = []string{strconv.FormatInt(r.At.Unix(), 10)}
	req.Header[standardwebhooks.HeaderWebhookSignature] = []string{signature}
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	r.Status = res.StatusCode
	r.Gone = res.StatusCode == http.StatusGone
	if res.ContentLength >= 0 && res.ContentLength <= maxBody {
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxBody)) // the status is the answer
	}
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return nil
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return answered("it redirects, which is not followed; register where it leads")
	case r.Gone:
		return answered("it is gone")
	}
	r.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	return answered(fmt.Sprintf("it answers %d", res.StatusCode))
}

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3): 0 where it makes no
// sense, a day at most.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryWait)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryWait)
}

// answered is an answer that is no yes.
type answered string

func (a answered) Error() string { return string(a) }

// inWords is an error as whoever has the endpoint reads it: nothing of the
// server's own network.
func inWords(err error) string {
	var (
		no   answered
		cert *tls.CertificateVerificationError
		name *net.DNSError
		dial *net.OpError
		slow net.Error
	)
	switch {
	case errors.As(err, &no):
		return string(no)
	case errors.Is(err, errPrivate):
		return errPrivate.Error()
	case errors.Is(err, ErrURL):
		return ErrURL.Error()
	case errors.As(err, &cert):
		return "its certificate does not verify"
	case errors.As(err, &slow) && slow.Timeout():
		return "no answer in time"
	case errors.As(err, &name):
		return "its name cannot be resolved"
	case errors.As(err, &dial) && dial.Op == "dial":
		return "no connection"
	}
	return "it was cut off, or is no HTTPS server"
}
