package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/server/logging"
	"github.com/cardbridge/cardbridge/server/store"
)

// otherRoute is the route of what no operation is for.
const otherRoute = "other"

// requestIDHeader has a request's trace, in the reply too.
const requestIDHeader = "X-Request-Id"

var (
	requestID   = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._:/+=-]{0,127}$`)
	traceparent = regexp.MustCompile(`^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$`)
)

// traceOf is the id under which a request is in the log: the client's own, as
// X-Request-Id or the trace-id of W3C's traceparent has it, or a new one. What
// does not look like an id, or like a secret, is none.
func traceOf(h http.Header) string {
	if id := h.Get(requestIDHeader); requestID.MatchString(id) && logging.Clean(id) == id {
		return id
	}
	if m := traceparent.FindStringSubmatch(h.Get("traceparent")); m != nil && strings.Trim(m[1], "0") != "" {
		return m[1]
	}
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// access is what is known of a request once it is answered.
type access struct {
	http.ResponseWriter
	status int
	who    store.Operator // zero where nobody proved to be anybody
}

type accessKey struct{}

// came notes in whose name a request is.
func came(ctx context.Context, op store.Operator) {
	if a, ok := ctx.Value(accessKey{}).(*access); ok {
		a.who = op
	}
}

// WriteHeader implements http.ResponseWriter.
func (a *access) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *access) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *access) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// logged has one request of a route answered, counted and told of in the log: at
// level info where it changes something or was not granted, else at debug.
func (a *API) logged(w http.ResponseWriter, r *http.Request, pattern string, answer func(http.ResponseWriter, *http.Request)) {
	began := time.Now()
	trace := traceOf(r.Header)
	w.Header().Set(requestIDHeader, trace)
	out := &access{ResponseWriter: w}
	ctx := context.WithValue(logging.WithTrace(r.Context(), trace), accessKey{}, out)
	ended := false
	defer func() {
		method, route, found := strings.Cut(pattern, " ")
		if !found {
			method, route = otherRoute, otherRoute
		}
		switch {
		case !ended: // by a panic: whoever asked is cut off
			out.status = http.StatusInternalServerError
		case out.status == 0:
			out.status = http.StatusOK
		}
		took := time.Since(began)
		if a.Answered != nil {
			a.Answered(method, route, out.status, took)
		}
		level := slog.LevelInfo
		switch {
		case probes[route], method == http.MethodGet && out.status < 400:
			level = slog.LevelDebug
		}
		a.log.LogAttrs(ctx, level, "http", slog.String("method", method), slog.String("route", route), slog.Int("status", out.status),
			slog.Duration("took", took.Round(time.Microsecond)), slog.String("operator", out.who.Name), slog.String("user", out.who.User.Name),
			slog.String("from", r.RemoteAddr))
	}()
	answer(out, r.WithContext(ctx))
	ended = true
}
