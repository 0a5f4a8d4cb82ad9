package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// A server that is told to end in the middle of an attempt brings it to its end
// and records it. Meanwhile it is not ready and takes nothing new in.
func TestDrain(t *testing.T) {
	s := serve(t, "--insecure-http")
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	s.insert(1, nil, func(capdu []byte, next servertest.Next) ([]byte, error) {
		if len(capdu) > 1 && capdu[1] == byte(card.INSDeactivate) {
			once.Do(func() { close(reached); <-goOn })
		}
		return next(capdu)
	})
	s.insert(2, nil, nil)
	_, stderr, err := s.ask(newDeactivateCmd(), "--eid", servertest.EID(1).String())
	require.NoError(t, err, stderr)
	<-reached
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	require.Eventually(t, func() bool { code, _ := get(t, s.ready.URL+"/readyz"); return code == http.StatusServiceUnavailable }, 10*time.Second, time.Millisecond)
	token, err := os.ReadFile(s.path("token"))
	require.NoError(t, err)
	body, err := json.Marshal(map[string]string{"eid": servertest.EID(2).String()})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.ready.URL+"/v1/deactivations", bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Equal(t, "5", res.Header.Get("Retry-After"))
	release()
	require.NoError(t, <-stopped)
	assert.Contains(t, s.log.String(), "outcome=done")

	s.start("--insecure-http")
	out, _, err := s.ask(newRequestsCmd(), "--json")
	require.NoError(t, err)
	assert.Equal(t, 1, strings.Count(out, `"state":"done"`), out)
	assert.NotContains(t, out, servertest.EID(2).String(), "what was refused is not recorded")
}
