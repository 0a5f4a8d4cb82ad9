package main

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
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/api"
)

const (
	maxReply     = 4 << 20 // bytes
	replyTimeout = time.Minute
	clientTries  = 5 // a few seconds
	untilDone    = 0 // tries: as many as ctx allows
	maxPause     = 5 * time.Second
)

// remote is the flags of commands that talk to a server.
type remote struct {
	server    string
	tokenFile string
	pin       string
}

func (r *remote) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.server, "server", "", "URL of the server")
	f.StringVar(&r.tokenFile, "token-file", "", "file with the operator's token")
	f.StringVar(&r.pin, "pin", "", "trust the server with this key alone: SHA-256 of its public key (SPKI), 64 hexadecimal digits, as serve prints it")
	_ = cmd.MarkFlagRequired("server")
	_ = cmd.MarkFlagRequired("token-file")
	addJSONFlag(cmd)
}

// client makes requests of a server in the name of an operator.
type client struct {
	base  *url.URL
	token string
	http  *http.Client
}

func (r *remote) client() (*client, error) {
	base, err := url.Parse(r.server)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("--server %q is no URL such as https://host:8443", r.server)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	switch {
	case base.Scheme == "https" && r.pin != "":
		if transport.TLSClientConfig, err = api.PinnedTLS(r.pin); err != nil {
			return nil, err
		}
	case base.Scheme == "https":
	case base.Scheme != "http":
		return nil, fmt.Errorf("--server %q is neither https nor http", r.server)
	case r.pin != "":
		return nil, errors.New("--pin says that the server has a key, and --server that it has none: use an https URL")
	case !loopback(base.Hostname()):
		return nil, fmt.Errorf("--server %q: the token would cross the network in the clear; use https", r.server)
	}
	b, err := readPrivate(r.tokenFile, "an operator's token")
	if err != nil {
		return nil, err
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, fmt.Errorf("%s holds no token: one word is wanted, as operator add prints it", r.tokenFile)
	}
	return &client{
		base: base, token: token,
		http: &http.Client{
			Transport: transport, Timeout: replyTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for this server
		},
	}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// problemError is a server's error report.
type problemError struct{ api.Problem }

func (e *problemError) Error() string {
	text := e.Detail
	for _, d := range e.Errors {
		text += fmt.Sprintf("; %s: %s", d.Location, d.Message)
	}
	if e.SubjectCode != "" {
		text += fmt.Sprintf(" (%s/%s)", e.SubjectCode, e.ReasonCode)
	}
	return text
}

// call makes one request and decodes the reply into out, unless that is nil. The error is a
// *problemError where the server reports one.
func (c *client) call(ctx context.Context, method, path string, header map[string]string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	target := strings.TrimSuffix(c.base.String(), "/") + path
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := c.http.Do(req)
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return fmt.Errorf("%w: a server that made its own certificate is trusted by --pin, as serve prints it", err)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		p := &problemError{}
		if err := json.Unmarshal(b, &p.Problem); err != nil || p.Status == 0 {
			p.Problem = api.Problem{}
			p.Status, p.Detail = res.StatusCode, fmt.Sprintf("the server answers %s, and not in the way of a cardbridge server", res.Status)
		}
		return p
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the server's reply cannot be read: %w", err)
	}
	return nil
}

// lostError says that a request may have reached the server, and what became of
// it there was not told.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// settled reports whether an error leaves no doubt that the server did not do
// what it was asked, and would not if asked again.
func settled(err error) bool {
	var report *problemError
	var cert *tls.CertificateVerificationError
	return errors.As(err, &report) && report.Status < 500 || errors.Is(err, api.ErrPin) || errors.As(err, &cert)
}

// insist repeats a request that may be repeated until the server replies, tries
// times at most. The error is a *lostError where one of them may have arrived.
func (c *client) insist(ctx context.Context, method, path string, header map[string]string, in, out any, tries int) error {
	pause := 200 * time.Millisecond
	lost := false
	for try := 1; ; try++ {
		err := c.call(ctx, method, path, header, in, out)
		if err == nil || settled(err) {
			return err
		}
		var op *net.OpError
		if lost = lost || !errors.As(err, &op) || op.Op != "dial"; lost {
			err = &lostError{err}
		}
		if try == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}
