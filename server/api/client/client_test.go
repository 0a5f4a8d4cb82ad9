package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api/client"
)

const (
	tries   = 3
	request = "01890a5d-ac96-774b-bcce-b302099a8057"
)

func newClient(t *testing.T, url string) *client.Client {
	c, err := client.New(url, "cbt_x", nil)
	require.NoError(t, err)
	return c.Insist(tries)
}

// Where a server points elsewhere, the token does not go there.
func TestFollowsNoRedirect(t *testing.T) {
	var elsewhere, here atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		here.Add(1)
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	c := newClient(t, srv.URL)
	for _, ask := range []func() error{
		func() error { _, err := c.ListReaders(t.Context(), client.ListReadersParams{}); return err },
		func() error { _, err := c.SetGroups(t.Context(), "x", client.CardGroups{}); return err },
		func() error { _, err := c.Follow(t.Context(), request, nil); return err },
	} {
		here.Store(0)
		assert.ErrorContains(t, ask(), "307")
		assert.EqualValues(t, 1, here.Load(), "and it is no use to ask again")
	}
	assert.Zero(t, elsewhere.Load())
}

// A certificate that nobody vouches for: told at once, and what to do.
func TestWithoutPin(t *testing.T) {
	var connections atomic.Int32
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	_, err := newClient(t, srv.URL).ListReaders(t.Context(), client.ListReadersParams{})
	assert.ErrorContains(t, err, "--pin")
	assert.EqualValues(t, 1, connections.Load())

	config, err := client.PinnedTLS(strings.Repeat("0", 64))
	require.NoError(t, err)
	pinned, err := client.New(srv.URL, "cbt_x", config)
	require.NoError(t, err)
	_, err = pinned.Insist(tries).ListReaders(t.Context(), client.ListReadersParams{})
	assert.ErrorIs(t, err, client.ErrPin)
	assert.EqualValues(t, 2, connections.Load())
	config, err = client.PinnedTLS(client.Pin(srv.Certificate()))
	require.NoError(t, err)
	pinned, err = client.New(srv.URL, "cbt_x", config)
	require.NoError(t, err)
	_, err = pinned.ListReaders(t.Context(), client.ListReadersParams{})
	var report *client.Problem
	require.ErrorAs(t, err, &report)
	assert.EqualValues(t, http.StatusNotFound, report.Status)
}

// A reply that is lost is not a request that failed, and one that did not leave
// is not lost.
func TestLost(t *testing.T) {
	var came atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		came.Add(1)
		panic(http.ErrAbortHandler)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer srv.Close()
	var lost *client.LostError
	_, err := newClient(t, srv.URL).ApproveDeactivation(t.Context(), request)
	assert.ErrorAs(t, err, &lost)
	assert.EqualValues(t, tries, came.Load())

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	_, err = newClient(t, "http://"+closed.Addr().String()).ApproveDeactivation(t.Context(), request)
	assert.Error(t, err)
	assert.False(t, errors.As(err, &lost))
}

// A no after a reply that was lost may be of what was done the first time.
func TestLostAndRefused(t *testing.T) {
	var came atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if came.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"status": 409, "detail": "the request is accepted and waits for no approval"}`)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer srv.Close()
	_, err := newClient(t, srv.URL).ApproveDeactivation(t.Context(), request)
	var lost *client.LostError
	var report *client.Problem
	assert.ErrorAs(t, err, &lost)
	assert.ErrorAs(t, err, &report)
	assert.EqualValues(t, 2, came.Load())
	_, err = newClient(t, srv.URL).ApproveDeactivation(t.Context(), request)
	assert.ErrorAs(t, err, &report)
	assert.False(t, errors.As(err, &lost), "nothing was lost this time")
}

// What another kind of server answers is not believed, and not read without end.
func TestHostileReplies(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
	}{
		"no JSON":        {http.StatusOK, "<html>"},
		"another shape":  {http.StatusOK, `{"readers":"none"}`},
		"an endless one": {http.StatusOK, `{"readers":[{"name":"` + strings.Repeat("x", 5<<20)},
		"no problem":     {http.StatusBadGateway, "bad gateway"},
		"an empty one":   {http.StatusForbidden, "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer srv.Close()
			_, err := newClient(t, srv.URL).Insist(1).ListReaders(t.Context(), client.ListReadersParams{})
			assert.Error(t, err)
			assert.Less(t, len(err.Error()), 500)
		})
	}
}

// An event that does not end is not kept until memory does.
func TestEndlessEvent(t *testing.T) {
	const most = 256 << 20
	sent := make(chan int, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		n := 0
		for field := 0; n < most; field++ {
			k, err := fmt.Fprintf(w, "x%d: %s\n", field, strings.Repeat("x", 64<<10))
			if n += k; err != nil {
				break
			}
		}
		sent <- n
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = newClient(t, srv.URL).Follow(ctx, request, func(client.Step) {})
	}()
	assert.Less(t, <-sent, most/4)
	cancel()
	<-done
}
