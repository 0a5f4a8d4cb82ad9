package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// An answer bears the id under which the log has the request: the client's own,
// where it is one.
func TestTrace(t *testing.T) {
	f := newFixture(t)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, c := range []struct{ header, value, want string }{
		{"X-Request-Id", "abc-123:4", "^abc-123:4$"},
		{"traceparent", parent, "^4bf92f3577b34da6a3ce929d0e0e4736$"},
		{"traceparent", strings.Replace(parent, "4bf92f3577b34da6a3ce929d0e0e4736", strings.Repeat("0", 32), 1), "^[0-9a-f]{32}$"},
		{"X-Request-Id", "a b", "^[0-9a-f]{32}$"},
		{"X-Request-Id", strings.Repeat("a", 129), "^[0-9a-f]{32}$"},
		{"X-Request-Id", f.token, "^[0-9a-f]{32}$"},
		{"Accept", "application/json", "^[0-9a-f]{32}$"},
	} {
		for _, path := range []string{"/v1/cards", "/livez", "/nothing"} {
			assert.Regexp(t, c.want, f.do("GET", path, f.token, "", c.header, c.value).Header().Get("X-Request-Id"), "%s %s", c.header, path)
		}
	}
}

func TestAnswered(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	var got []string
	f.api.Answered = func(method, route string, status int, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		assert.Positive(t, took)
		got = append(got, fmt.Sprintf("%s %s %d", method, route, status))
	}
	f.do("GET", "/v1/cards/"+servertest.EID(1).String(), f.token, "")
	f.do("GET", "/v1/cards", "", "")
	f.do("PATCH", "/v1/cards", f.token, "")
	f.do("POST", "/v1/cards", f.token, "{")
	f.do("GET", "/"+servertest.EID(1).String(), f.token, "")
	assert.Equal(t, []string{"GET /v1/cards/{eid} 404", "GET /v1/cards 401", "other other 405", "POST /v1/cards 400", "other other 404"}, got)
}

// A request that a panic ended did not go well, whatever was answered until then.
func TestAnsweredByAPanic(t *testing.T) {
	f := newFixture(t)
	var got []int
	f.api.Answered = func(_, _ string, status int, _ time.Duration) { got = append(got, status) }
	for _, before := range []func(http.ResponseWriter){func(http.ResponseWriter) {}, func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }} {
		assert.Panics(t, func() {
			f.api.Logged(httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/cards", nil), "GET /v1/cards", func(w http.ResponseWriter, _ *http.Request) {
				before(w)
				panic("x")
			})
		})
	}
	assert.Equal(t, []int{500, 500}, got)
}

func TestReadiness(t *testing.T) {
	f := newFixture(t)
	ready := func() (int, map[string]string) {
		r := f.do("GET", "/readyz", "", "")
		var out api.Readiness
		r.into(&out)
		wrong := map[string]string{}
		for _, c := range out.Checks {
			if !c.OK {
				wrong[c.Name] = c.Text
			}
		}
		assert.Len(t, out.Checks, 4)
		assert.Equal(t, map[bool]string{true: "ready", false: "not ready"}[len(wrong) == 0], out.Status)
		return r.Code, wrong
	}
	require.Eventually(t, func() bool { code, _ := ready(); return code == http.StatusOK }, 10*time.Second, time.Millisecond)

	f.readers.Fail(errors.New("the PC/SC service is secret"))
	require.Eventually(t, func() bool { code, _ := ready(); return code == http.StatusServiceUnavailable }, 10*time.Second, 50*time.Millisecond)
	code, wrong := ready()
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Equal(t, map[string]string{"readers": "the readers cannot be seen"}, wrong, "and not why")
	f.readers.Fail(nil)
	require.Eventually(t, func() bool { code, _ := ready(); return code == http.StatusOK }, 10*time.Second, 50*time.Millisecond)

	mend := servertest.Break(t, f.path, "INSERT ON events", "UPDATE ON health")
	require.Eventually(t, func() bool { // a write of another kind may go well in between
		f.do("POST", "/v1/cards", f.token, string(servertest.Record(servertest.Image(1))))
		code, wrong = ready()
		return code == http.StatusServiceUnavailable
	}, 10*time.Second, 50*time.Millisecond)
	assert.Contains(t, wrong, "record")
	assert.Equal(t, http.StatusOK, f.do("GET", "/livez", "", "").Code)
	mend()
	code, _ = ready()
	assert.Equal(t, http.StatusOK, code)

	require.NoError(t, f.stop())
	code, wrong = ready()
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Contains(t, wrong, "engine")
	assert.Equal(t, http.StatusOK, f.do("GET", "/livez", "", "").Code)
}
