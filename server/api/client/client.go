// Package client is a Go client of a server's operators' interface. Its types
// and methods are generated from the OpenAPI document that the server serves.
package client

//go:generate go test -count=1 -run ^TestDocument$ .. -document
//go:generate go tool oapi-codegen -config generate.yaml -o generated.go openapi.json

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"
)

const (
	maxReply     = 4 << 20 // bytes
	replyTimeout = time.Minute
	maxPause     = 5 * time.Second // between tries
)

// Client makes requests of a server in the name of a user. Its methods are safe
// for concurrent use. Where the server reports an error it is a *Problem.
type Client struct {
	base  string
	token string
	http  *http.Client
	tries int // of a request that no reply comes to; 0: as many as its context allows
}

// New makes a client of the server at a URL such as https://host:8443, with a
// user's token, which may be empty where config has a client certificate. A
// config of nil trusts whom the system trusts; that of PinnedTLS trusts one key.
// The token goes to this server alone, and over HTTP to the same machine alone.
func New(server, token string, config *tls.Config) (*Client, error) {
	base, err := url.Parse(server)
	switch {
	case err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("server %q is no URL such as https://host:8443", server)
	case base.Scheme != "https" && base.Scheme != "http":
		return nil, fmt.Errorf("server %q is neither https nor http", server)
	case base.Scheme == "http" && config != nil:
		return nil, fmt.Errorf("server %q has no key: use an https URL", server)
	case base.Scheme == "http" && !loopback(base.Hostname()):
		return nil, fmt.Errorf("server %q: the token would cross the network in the clear; use https", server)
	case token == "" && config != nil && len(config.Certificates) > 0:
	case token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }):
		return nil, errors.New("no token: one word is wanted, as operator add prints it")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	return &Client{
		base: strings.TrimSuffix(base.String(), "/"), token: token, tries: 1,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Insist gives a client that repeats a request that no reply comes to, tries
// times at most, or, where tries is 0, until its context ends. It is for requests
// that may come twice: those that change nothing, set something, or have an
// Idempotency-Key.
func (c *Client) Insist(tries int) *Client {
	insisting := *c
	insisting.tries = tries
	return &insisting
}

// Error says what is wrong, with the GSMA subject and reason codes.
func (p *Problem) Error() string {
	text := p.Detail
	for _, d := range p.Errors {
		text += fmt.Sprintf("; %s: %s", d.Location, d.Message)
	}
	if p.SubjectCode != "" {
		text += fmt.Sprintf(" (%s/%s)", p.SubjectCode, p.ReasonCode)
	}
	return text
}

// LostError says that a request may have reached the server, and what became of
// it there was not told.
type LostError struct{ error }

func (e *LostError) Unwrap() error { return e.error }

// settled reports whether an error leaves no doubt that the server did not do
// what it was asked, and would not if asked again.
func settled(err error) bool {
	var report *Problem
	var cert *tls.CertificateVerificationError
	return errors.As(err, &report) && report.Status < 500 && !late(err) || errors.Is(err, ErrPin) || errors.As(err, &cert)
}

// late reports whether the server did nothing for now, since it was asked for too
// much at once.
func late(err error) bool {
	var report *Problem
	return errors.As(err, &report) && report.Status == http.StatusTooManyRequests
}

// values are those of a query or a header, by name. What is zero is left out.
type values map[string]any

func (v values) each(set func(name, value string)) {
	for name, value := range v {
		if v := reflect.ValueOf(value); !v.IsZero() {
			set(name, text(v))
		}
	}
}

func text(v reflect.Value) string {
	if at, ok := v.Interface().(time.Time); ok {
		return at.Format(time.RFC3339Nano)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return text(v.Elem())
	case reflect.Slice:
		list := make([]string, v.Len())
		for i := range list {
			list[i] = text(v.Index(i))
		}
		return strings.Join(list, ",")
	}
	return fmt.Sprint(v)
}

type request struct {
	method, path  string
	query, header values
	body          any
}

// ask makes a request, again where the client insists, and reads the reply.
func ask[T any](ctx context.Context, c *Client, r request) (*T, error) {
	out := new(T)
	pause := 200 * time.Millisecond
	lost := false
	for try := 1; ; try++ {
		err := c.once(ctx, r, out)
		if err == nil {
			return out, nil
		}
		if settled(err) {
			if lost { // it may tell of what was done the first time
				err = &LostError{err}
			}
			return nil, err
		}
		var op *net.OpError
		if lost = lost || !late(err) && (!errors.As(err, &op) || op.Op != "dial"); lost {
			err = &LostError{err}
		}
		if try == c.tries {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// once makes a request and decodes the reply into out.
func (c *Client) once(ctx context.Context, r request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	res, err := c.send(ctx, r, "application/json")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil || res.StatusCode == http.StatusNoContent {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the server's reply cannot be read: %w", err)
	}
	return nil
}

// send makes one request and gives a reply that is a success.
func (c *Client) send(ctx context.Context, r request, accept string) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, body)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	r.query.each(query.Set)
	req.URL.RawQuery = query.Encode()
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	r.header.each(req.Header.Set)
	res, err := c.http.Do(req)
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return nil, fmt.Errorf("%w: a server that made its own certificate is trusted by its pin (--pin), as serve prints it", err)
	}
	if err != nil || res.StatusCode < 300 {
		return res, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil {
		return nil, err
	}
	p := &Problem{}
	if err := json.Unmarshal(b, p); err != nil || p.Status == 0 {
		p = &Problem{Status: int64(res.StatusCode), Detail: fmt.Sprintf("the server answers %s, and not in the way of a cardbridge server", res.Status)}
	}
	return nil, p
}
