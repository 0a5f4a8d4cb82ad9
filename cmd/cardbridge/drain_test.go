package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/server/api/client"
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
	res := post(t, s.ready.URL, s.path("token"), servertest.EID(2).String(), "")
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

// post asks for a deactivation once, under an Idempotency-Key unless that is empty.
func post(t testing.TB, url, token, eid, key string) *http.Response {
	t.Helper()
	secret, err := os.ReadFile(token)
	require.NoError(t, err)
	body, err := json.Marshal(map[string]string{"eid": eid})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/deactivations", bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(secret)))
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	return res
}

// The program itself, with cards in a real pcscd, is told to end while one of them
// takes its time over its answer: once, and the attempt is brought to its end;
// twice, and the process is gone at once, and the next one finds out.
func TestTerminated(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 2})
	h := &host{test: t, keyset: newKeySet(t), dir: t.TempDir(), insecure: true}
	added, status := object(t, "operator", "add", "--data", filepath.Join(h.dir, "data"), "--mccmnc", "46011", "Eleven")
	require.Zero(t, status)
	token := filepath.Join(h.dir, "token")
	require.NoError(t, os.WriteFile(token, []byte(added["token"].(string)), 0o600))
	once := newCard(t, h.keyset, pcscd.Slots()[0], "--profile", "mccmnc=46011,state=enabled")
	twice := newCard(t, h.keyset, pcscd.Slots()[1], "--profile", "mccmnc=46011,state=enabled")
	h.start(t)
	for _, c := range []*testCard{once, twice} {
		_, status := h.ask(t, "card", "register", "--card", c.record)
		require.Zero(t, status)
	}
	// terminate asks for a deactivation under a key, and tells the server to end
	// once the card has carried it out and not answered; release has it answer.
	terminate := func(c *testCard, key string) (request string, release func()) {
		reached, goOn := make(chan struct{}), make(chan struct{})
		var first sync.Once
		c.card.Observe(appletsim.Observer{Exchange: func(capdu, _ []byte) {
			if len(capdu) > 1 && capdu[1] == byte(card.INSDeactivate) {
				first.Do(func() { close(reached); <-goOn })
			}
		}})
		release = sync.OnceFunc(func() { close(goOn) })
		t.Cleanup(release)
		res := post(t, h.ready.URL, token, c.eid, key)
		require.Equal(t, http.StatusAccepted, res.StatusCode)
		select {
		case <-reached:
		case <-time.After(10 * time.Second):
			require.Fail(t, "the card was not asked")
		}
		require.NoError(t, h.cmd.Process.Signal(syscall.SIGTERM))
		require.Eventually(t, func() bool { code, _ := get(t, h.ready.URL+"/readyz"); return code == http.StatusServiceUnavailable }, 10*time.Second, time.Millisecond)
		return filepath.Base(res.Header.Get("Location")), release
	}
	became := func(request string) *client.Deactivation {
		c, err := client.New(h.ready.URL, added["token"].(string), nil)
		require.NoError(t, err)
		r, err := c.GetDeactivation(t.Context(), request)
		require.NoError(t, err)
		return r
	}

	request, release := terminate(once, "one")
	refused := post(t, h.ready.URL, token, twice.eid, "two")
	assert.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
	assert.Equal(t, "5", refused.Header.Get("Retry-After"))
	again := post(t, h.ready.URL, token, once.eid, "one")
	assert.Equal(t, http.StatusAccepted, again.StatusCode)
	assert.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	release()
	require.NoError(t, h.cmd.Wait(), "exit status 0")
	h.start(t)
	assert.EqualValues(t, "done", became(request).State)
	h.agree(t, once)
	assert.EqualValues(t, 1, once.card.Image().EventCounter)

	request, release = terminate(twice, "two")
	require.NoError(t, h.cmd.Process.Signal(syscall.SIGTERM))
	var exit *exec.ExitError
	require.ErrorAs(t, h.cmd.Wait(), &exit)
	assert.Equal(t, syscall.SIGTERM, exit.Sys().(syscall.WaitStatus).Signal(), "ended by it, and not by its own will")
	release()
	h.start(t)
	require.Eventually(t, func() bool { return became(request).Finished }, 20*time.Second, 50*time.Millisecond)
	assert.EqualValues(t, "done", became(request).State)
	h.agree(t, twice)
	assert.EqualValues(t, 1, twice.card.Image().EventCounter, "it was done once")
	h.end(t, syscall.SIGTERM)
}
