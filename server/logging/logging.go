// Package logging is the server's log: text or JSON lines, with the trace of the
// HTTP request that a line is of, and without what must not be in a log.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

// Formats of a log.
const (
	Text = "text"
	JSON = "json"
)

// TraceKey is the attribute that the lines of one HTTP request share.
const TraceKey = "trace"

// New makes a log of a format, Text or JSON, from a level on: debug, info, warn
// or error.
func New(w io.Writer, format, level string) (*slog.Logger, error) {
	var from slog.Level
	if err := from.UnmarshalText([]byte(level)); err != nil || strings.ContainsAny(level, "+-") {
		return nil, fmt.Errorf("log level %q: there are debug, info, warn and error", level)
	}
	options := &slog.HandlerOptions{Level: from, ReplaceAttr: redact}
	switch format {
	case Text:
		return slog.New(handler{slog.NewTextHandler(w, options)}), nil
	case JSON:
		return slog.New(handler{slog.NewJSONHandler(w, options)}), nil
	}
	return nil, fmt.Errorf("log format %q: there are %s and %s", format, Text, JSON)
}

type traceKey struct{}

// WithTrace has lines that are written with ctx bear an id.
func WithTrace(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, traceKey{}, id)
}

// Trace is the id of WithTrace; empty for none.
func Trace(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}

// handler adds the trace and reads over messages.
type handler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	r.Message = Clean(r.Message)
	if id := Trace(ctx); id != "" {
		r.AddAttrs(slog.String(TraceKey, id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }

const redacted = "[redacted]"

// secretNames are in the names of attributes that are never shown.
var secretNames = []string{"token", "secret", "password", "passphrase", "authorization", "cookie", "private", "nonce"}

// redact takes out what by its name or its shape is a secret. Raw bytes are
// never shown: whoever has some to tell of says in which form.
func redact(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindLogValuer {
		a.Value = a.Value.Resolve()
	}
	name := strings.ToLower(a.Key)
	for _, s := range secretNames {
		if strings.Contains(name, s) {
			return slog.String(a.Key, redacted)
		}
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(Clean(a.Value.String()))
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case nil, *slog.Source:
		case []byte:
			a.Value = slog.StringValue(fmt.Sprintf("%d bytes", len(v)))
		default:
			a.Value = slog.StringValue(Clean(fmt.Sprint(v)))
		}
	}
	return a
}

// shapes are what secrets look like: users' tokens, webhooks' secrets, what
// stands between user and host in a URL, private keys in PEM, HTTP credentials.
var shapes = []struct {
	mark string // is in each
	re   *regexp.Regexp
	with string
}{
	{"cbt_", regexp.MustCompile(`cbt_[0-9A-Za-z_-]{8,}`), "cbt_" + redacted},
	{"whsec_", regexp.MustCompile(`whsec_[0-9A-Za-z+/=_-]{8,}`), "whsec_" + redacted},
	{"://", regexp.MustCompile(`(://[^\s/?#:@]*):[^\s/?#]*@`), "${1}:" + redacted + "@"},
	{"password", regexp.MustCompile(`(?i)(password\s*=\s*)('[^']*'|[^\s&']+)`), "${1}" + redacted},
	{"PRIVATE KEY", regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), redacted},
	{"earer ", regexp.MustCompile(`(?i)(bearer )[0-9A-Za-z._~+/=-]{8,}`), "${1}" + redacted},
}

// Clean is text without secrets that can be told by their shape.
func Clean(text string) string {
	for _, s := range shapes {
		if strings.Contains(text, s.mark) {
			text = s.re.ReplaceAllString(text, s.with)
		}
	}
	return text
}
