package logging_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/logging"
)

const (
	token  = "cbt_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
	secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	pem    = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQ\n-----END PRIVATE KEY-----"
)

type named struct{ s string }

func (n named) String() string { return n.s }

type valuer struct{ s string }

func (v valuer) LogValue() slog.Value { return slog.StringValue(v.s) }

// Whatever way a secret is handed to the log, it is not in it.
func TestNoSecrets(t *testing.T) {
	for _, format := range []string{logging.Text, logging.JSON} {
		t.Run(format, func(t *testing.T) {
			var b bytes.Buffer
			log, err := logging.New(&b, format, "debug")
			require.NoError(t, err)
			for _, s := range []string{
				token, secret, pem, "postgres://user:swordfish@db.example/record", "host=db password=swordfish user=x",
				"password = 'swordfish'", "Authorization: Bearer swordfish0123456789", "cannot read " + token + " there",
				"postgres://user:sword:fish@db/x?password=swordfish", "postgres://:swordfish@db",
			} {
				log.Info(s)
				log.Error("m", "a", s, "error", fmt.Errorf("wrapped: %w", errors.New(s)), "b", named{s}, "c", valuer{s}, "d", struct{ X string }{s}, "e", []byte(s))
				log.With("w", s).WithGroup("g").Warn("m", slog.Group("in", "x", s))
			}
			for _, key := range []string{"token", "Password", "client_secret", "nonce", "Authorization", "private_key", "passphrase"} {
				log.Info("m", key, "swordfish", slog.Group("in", key, []byte("swordfish")))
			}
			log.Info("m", "key", []byte("swordfish"))
			out := b.String()
			for _, s := range []string{token[4:], secret[6:], "swordfish", "sword:fish", "MIIEvQ", "BKcwgg", "115 119 111"} {
				assert.NotContains(t, out, s)
			}
			assert.Contains(t, out, "db.example/record", "what is no secret stays")
			assert.Contains(t, out, "cannot read")
		})
	}
}

// What is no secret is as it was, in a form that machines read.
func TestJSON(t *testing.T) {
	var b bytes.Buffer
	log, err := logging.New(&b, logging.JSON, "info")
	require.NoError(t, err)
	log.Debug("not told")
	ctx := logging.WithTrace(context.Background(), "abc")
	log.InfoContext(ctx, "attempt", "eid", "8904", "n", 3, "error", nil, "url", "https://host:8443/metrics", "list", []string{"a", "b"})
	var line map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &line), b.String())
	delete(line, "time")
	assert.Equal(t, map[string]any{
		"level": "INFO", "msg": "attempt", "eid": "8904", "n": 3.0, "error": nil, "url": "https://host:8443/metrics", "list": "[a b]", "trace": "abc",
	}, line)
	assert.Equal(t, "abc", logging.Trace(ctx))
}

func TestRefuses(t *testing.T) {
	for _, c := range [][2]string{{"xml", "info"}, {"text", "loud"}, {"text", "info+3"}, {"text", ""}} {
		_, err := logging.New(&bytes.Buffer{}, c[0], c[1])
		assert.Error(t, err, "%v", c)
	}
	for _, level := range []string{"debug", "info", "warn", "error", "INFO"} {
		_, err := logging.New(&bytes.Buffer{}, "text", level)
		assert.NoError(t, err)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("before ", " after")
	f.Add("://", "@")
	f.Add("password=", "'")
	f.Fuzz(func(t *testing.T, before, after string) {
		for _, s := range []string{token, secret} {
			if strings.Contains(before+after, s) {
				return
			}
			if out := logging.Clean(before + " " + s + " " + after); strings.Contains(out, s) {
				t.Errorf("%q is in %q", s, out)
			}
		}
	})
}

func BenchmarkLine(b *testing.B) {
	log, err := logging.New(new(bytes.Buffer), logging.Text, "info")
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		log.Info("http", "method", "GET", "route", "/v1/deactivations/{id}", "status", 200)
	}
}
