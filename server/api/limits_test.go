package api_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// limited is a fixture in which a user may ask so often, and in the time of a test
// no more.
func limited(t *testing.T, burst int) *fixture {
	return newFixtureOn(t, servertest.NewRecord(t, migrate), server.Config{}, api.WithLimits(api.Limits{Rate: 1e-3, Burst: burst}))
}

// from is a request from an address.
func (f *fixture) from(address, path, token string) reply {
	req := httptest.NewRequest("GET", path, nil)
	req.RemoteAddr = net.JoinHostPort(address, "4711")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, req)
	f.documented(req, w.Code)
	return reply{w, f.TB}
}

func TestRate(t *testing.T) {
	f := limited(t, 3)
	asked := func(token string) int { return f.from("192.0.2.1", "/v1/cards", token).Code }
	_, second, err := server.AddUser(t.Context(), f.store, "one", "second", store.AllRoles)
	require.NoError(t, err)
	_, third, err := server.AddUser(t.Context(), f.store, "one", "third", store.AllRoles)
	require.NoError(t, err)
	_, _, again, err := server.AddToken(t.Context(), f.store, "one", "default")
	require.NoError(t, err)
	for range 3 {
		assert.Equal(t, http.StatusOK, asked(f.token))
	}
	r := f.from("192.0.2.1", "/v1/cards", f.token)
	p := r.problem(http.StatusTooManyRequests)
	assert.Contains(t, p.Detail, "of this user")
	assert.Regexp(t, `^[1-9][0-9]*$`, r.Header().Get("Retry-After"))
	assert.Equal(t, http.StatusTooManyRequests, asked(again), "another token of the user's")
	for range 3 {
		assert.Equal(t, http.StatusOK, asked(second))
	}
	assert.Equal(t, http.StatusTooManyRequests, asked(third), "all of the operator's users")
	assert.Equal(t, http.StatusOK, asked(f.other), "nobody else's")
}

// Who fails too often waits, and nobody else behind the same address does who was
// somebody before.
func TestRateOfStrangers(t *testing.T) {
	f := limited(t, 1000)
	good := func(address, token string) int { return f.from(address, "/v1/cards", token).Code }
	require.Equal(t, http.StatusOK, good("192.0.2.1", f.token))
	exhaust := func(address, path string, token func() string) {
		t.Helper()
		for range 100_000 {
			r := f.from(address, path, token())
			if r.Code == http.StatusTooManyRequests {
				assert.NotEmpty(t, r.Header().Get("Retry-After"))
				r.problem(http.StatusTooManyRequests)
				return
			}
		}
		t.Error("no end of them")
	}
	none := func() string { return "" }
	exhaust("192.0.2.1", "/v1/cards", none)
	assert.Equal(t, http.StatusOK, good("192.0.2.1", f.token))
	assert.Equal(t, http.StatusUnauthorized, good("192.0.2.2", "x"))
	exhaust("192.0.2.1", "/v1/cards", none)
	assert.Equal(t, http.StatusOK, f.from("192.0.2.1", "/healthz", "").Code, "those are counted for themselves")

	for _, path := range []string{"/healthz", "/openapi.json", "/nothing"} {
		exhaust("192.0.2.9", path, func() string { return f.token })
	}
	assert.Equal(t, http.StatusOK, good("192.0.2.9", f.token))
}

func TestAddressesAreCounted(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:4711": "192.0.2.1", "[::ffff:192.0.2.1]:4711": "192.0.2.1", "[2001:db8::1]:4711": "2001:db8::", "[2001:db8:0:0:ffff::2]:1": "2001:db8::",
		"[2001:db8:0:1::1]:4711": "2001:db8:0:1::", "[fe80::1%eth0]:4711": "fe80::", "@": "invalid IP",
	} {
		assert.Equal(t, want, api.Counted(remote).String(), remote)
	}
}

func TestBucketsAreBounded(t *testing.T) {
	kept, most := api.BucketsOf(3 * 16 << 10)
	assert.Equal(t, most, kept)
}

// What is beyond the bound is closed, and the next is let in once one has ended.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ln := api.Bounded(inner, 3, 2)
	defer ln.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("!"))
			accepted <- c
		}
	}()
	served := func(from string) bool {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = io.ReadFull(c, make([]byte, 1))
		return err == nil
	}
	assert.True(t, served("127.0.0.1"))
	assert.True(t, served("127.0.0.1"))
	assert.False(t, served("127.0.0.1"), "of one address")
	assert.True(t, served("127.0.0.2"))
	assert.False(t, served("127.0.0.3"), "in all")
	c := <-accepted
	require.NoError(t, c.Close())
	_ = c.Close() // twice is once
	assert.True(t, served("127.0.0.3"))
	assert.False(t, served("127.0.0.1"))
}
