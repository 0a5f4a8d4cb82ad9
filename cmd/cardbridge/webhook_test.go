package main

import (
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// From registering an endpoint to a deactivation that it is told of, with the
// program's own commands and a receiver as docs/webhooks.md has it.
func TestWebhookCommands(t *testing.T) {
	var secret webhook.Secret
	messages := make(chan webhook.Message, 10)
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, err := webhook.Receive(r, secret)
		if err != nil {
			t.Error(err)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		messages <- m
	}))
	defer receiver.Close()
	receiver.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)

	s := serve(t, "--insecure-http")
	require.NoError(t, s.stop())
	s.write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw}))
	s.start("--insecure-http", "--webhook-allow")
	run := func(args ...string) string {
		t.Helper()
		out, stderr, err := s.ask(newWebhookCmd(), args...)
		require.NoError(t, err, "%s", stderr)
		return out
	}
	var w client.Webhook
	require.NoError(t, json.Unmarshal([]byte(run("add", receiver.URL, "--json")), &w))
	var err error
	secret, err = webhook.ParseSecret(w.Secret)
	require.NoError(t, err)
	assert.Contains(t, run("test", w.ID), "delivered, attempt 1: it answered 200")
	assert.Equal(t, webhook.Test, (<-messages).Type)

	s.insert(1, nil, nil)
	res, stderr, status := s.deactivate(1)
	require.Zero(t, status, "%s", stderr)
	select {
	case m := <-messages:
		assert.Equal(t, webhook.Finished, m.Type)
		var d client.Deactivation
		require.NoError(t, json.Unmarshal(m.Data, &d))
		assert.Equal(t, res.RequestID, d.ID)
		assert.EqualValues(t, "done", d.State)
		require.NotNil(t, d.Answer)
		assert.Equal(t, res.Receipt, d.Answer.Receipt)
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was told")
	}
	require.Eventually(t, func() bool { return strings.Count(run("deliveries", w.ID), "delivered") == 2 }, 10*time.Second, 20*time.Millisecond)
	out := run("deliveries", w.ID)
	assert.Contains(t, out, res.RequestID)
	var list client.DeliveryList
	require.NoError(t, json.Unmarshal([]byte(run("deliveries", w.ID, "--limit", "1", "--json")), &list))
	require.Len(t, list.Deliveries, 1)
	run("retry", w.ID, list.Deliveries[0].ID)
	assert.Equal(t, list.Deliveries[0].ID, (<-messages).ID)

	assert.Contains(t, run("list"), receiver.URL)
	assert.NotContains(t, run("list", "--json"), "whsec_")
	old := strings.TrimSpace(w.Secret)
	fresh := strings.TrimSpace(run("rotate", w.ID, "--overlap", "1h"))
	assert.NotEqual(t, old, fresh)
	assert.Contains(t, run("test", w.ID), "delivered", "under the secret until now")
	<-messages
	assert.Contains(t, run("enable", w.ID), w.ID)
	run("remove", w.ID)
	assert.Empty(t, run("list"))

	for _, args := range [][]string{{"add", "http://example.com"}, {"add"}, {"add", "https://10.0.0.1"}, {"remove", w.ID}, {"test", "x"}, {"rotate", w.ID}, {"deliveries", ".."}, {"retry", w.ID}} {
		_, _, err := s.ask(newWebhookCmd(), args...)
		assert.Error(t, err, args)
	}
	assert.NotContains(t, s.log.String(), old)
	assert.NotContains(t, s.log.String(), fresh)
	audit, _, err := s.execute(newAuditCmd(), "--data", s.path("data"), "--json")
	require.NoError(t, err)
	assert.Contains(t, audit, "webhook rotated")
	assert.NotContains(t, audit, "whsec_")
}

func TestWebhookFlags(t *testing.T) {
	dir := &served{TB: t, dir: t.TempDir()}
	for _, f := range []webhookFlags{{allow: []string{"10.0.0.1"}}, {allow: []string{"x"}}, {allow: []string{"10.0.0.0/33"}}, {ca: dir.path("none.pem")}, {ca: dir.write("no.pem", []byte("x"))}} {
		_, err := f.client()
		assert.ErrorContains(t, err, map[bool]string{true: "--webhook-allow", false: ".pem"}[f.ca == ""], "%+v", f)
	}
	c, err := webhookFlags{allow: []string{"10.1.2.3/8", "fd00::/8"}}.client()
	require.NoError(t, err)
	assert.NoError(t, c.CheckURL("https://10.200.0.1/"))
}
