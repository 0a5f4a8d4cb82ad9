package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

// Metrics and health have an address of their own, and are not on the operators'.
func TestServeMetrics(t *testing.T) {
	s := serve(t)
	require.NoError(t, s.stop())
	s.startWith(func(v *serving) { v.metrics, v.logFormat = "127.0.0.1:0", "json" })
	s.insert(1, nil, nil)
	_, stderr, status := s.deactivate(1)
	require.Zero(t, status, "%s", stderr)
	at := regexp.MustCompile(`http://127\.0\.0\.1:[0-9]+/metrics`).FindString(s.log.String())
	require.NotEmpty(t, at, s.log)
	code, body := get(t, at)
	require.Equal(t, http.StatusOK, code)
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(body))
	require.NoError(t, err)
	for _, name := range []string{
		"cardbridge_rsa_operations_total", "cardbridge_rsa_batch_operations", "cardbridge_attempt_seconds", "cardbridge_record_commit_seconds",
		"cardbridge_start_seconds", "process_resident_memory_bytes", "cardbridge_guard_sent", "cardbridge_build_info",
	} {
		assert.Contains(t, families, name)
	}
	for _, probe := range []string{"livez", "readyz"} {
		for _, base := range []string{strings.TrimSuffix(at, "metrics"), s.ready.URL + "/"} {
			code, body := get(t, base+probe)
			assert.Equal(t, http.StatusOK, code, "%s%s: %s", base, probe, body)
		}
	}
	code, _ = get(t, s.ready.URL+"/metrics")
	assert.Equal(t, http.StatusNotFound, code)
	code, _ = get(t, strings.TrimSuffix(at, "metrics")+"v1/cards")
	assert.Equal(t, http.StatusNotFound, code)
	require.NoError(t, s.stop())

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	v := serving{recordFlags: s.record, keysets: []string{s.path("server.json")}, listen: "127.0.0.1:0", insecure: true}
	v.metrics = ln.Addr().String()
	assert.ErrorContains(t, v.run(t.Context(), &printer{out: io.Discard, err: io.Discard}, s.readers), "in use")
}

// systemd is told when the server is ready, and, once it is told to end, to wait
// for as long as that may take.
func TestSystemdIsTold(t *testing.T) {
	s := serve(t)
	require.NoError(t, s.stop())
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", socket.LocalAddr().String())
	told := func() string {
		b := make([]byte, 256)
		require.NoError(t, socket.SetReadDeadline(time.Now().Add(10*time.Second)))
		n, err := socket.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	s.startWith(func(v *serving) { v.drain = 5 * time.Minute })
	assert.Equal(t, "READY=1", told())
	require.NoError(t, s.stop())
	assert.Equal(t, "STOPPING=1\nEXTEND_TIMEOUT_USEC=390000000", told())
}

// A server that cannot say that it is ready has failed.
func TestNotAnnounced(t *testing.T) {
	s := serve(t)
	require.NoError(t, s.stop())
	v := serving{recordFlags: s.record, keysets: []string{s.path("server.json")}, listen: "127.0.0.1:0", insecure: true}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	assert.ErrorIs(t, v.run(t.Context(), &printer{out: full, err: io.Discard}, s.readers), syscall.ENOSPC)
}

// The lines of one request share its trace, down to what the server did.
func TestLogOfARequest(t *testing.T) {
	s := serve(t)
	require.NoError(t, s.stop())
	s.startWith(func(v *serving) { v.logFormat, v.logLevel = "json", "debug" })
	s.insert(1, nil, nil)
	_, stderr, status := s.deactivate(1)
	require.Zero(t, status, "%s", stderr)
	require.NoError(t, s.stop())
	traces := map[string][]string{}
	var http map[string]any
	for text := range strings.Lines(s.log.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) != nil {
			continue // of the server before, which wrote text
		}
		if trace, ok := line["trace"].(string); ok {
			traces[trace] = append(traces[trace], line["msg"].(string))
			if line["route"] == "/v1/deactivations" {
				http = line
			}
		}
	}
	require.NotNil(t, http, s.log)
	assert.Equal(t, []string{"request accepted", "http"}, traces[http["trace"].(string)])
	assert.Equal(t, "One", http["operator"])
	assert.Equal(t, "default", http["user"])
	assert.Equal(t, "POST", http["method"])
	assert.Equal(t, 202.0, http["status"])
	assert.Equal(t, "INFO", http["level"])
	assert.Greater(t, len(traces), 2)
}
