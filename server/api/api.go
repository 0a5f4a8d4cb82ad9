// Package api is the operators' HTTP interface: JSON over HTTPS, described by
// the OpenAPI 3.1 document that it serves at /openapi.json.
package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

// Version of the interface, as the document says it.
const Version = "1.0.0"

const (
	maxBody   = 256 << 10 // bytes; a card record with 64 profiles has 30 KB
	maxHeader = 16 << 10  // bytes
	maxWait   = 30        // seconds of waiting for a step
)

// The security schemes.
const (
	bearer    = "bearer"
	mutualTLS = "mutualTLS"
)

// API answers operators. Its methods are safe for concurrent use.
type API struct {
	server *server.Server
	log    *slog.Logger
	huma   huma.API
	mux    *http.ServeMux
	cas    *ClientCAs // nil: no client certificates
	limits *limiter

	// Answered, where it is set before the first request comes, is told of each:
	// its method and its route's pattern, "other" for what there is not.
	Answered func(method, route string, status int, took time.Duration)

	streams   streams
	heartbeat time.Duration // how long a stream may be silent
	slow      time.Duration // how long a client may take to read what is written to its stream
}

// Option changes how an API is made.
type Option func(*API)

// WithClientCAs has client certificates taken, in the place of tokens, that
// chain to one of these. The listener's TLS has to ask for them.
func WithClientCAs(cas *ClientCAs) Option { return func(a *API) { a.cas = cas } }

// New makes the interface of a server.
func New(s *server.Server, log *slog.Logger, opts ...Option) *API {
	adaptHuma()
	config := huma.DefaultConfig("cardbridge", Version)
	config.Info.Description = "Deactivates subscription profiles on UICCs. Every request is held against management rules, carried out on the card, and proven by the card's receipt."
	config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", nil // the document alone: no page that loads scripts from elsewhere
	config.Formats = map[string]huma.Format{"application/json": strictJSON, "json": strictJSON}
	config.RejectUnknownQueryParameters = true
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearer:    {Type: "http", Scheme: "bearer", Description: "A user's token, as `cardbridge operator add` or `operator user token add` printed it."},
		mutualTLS: {Type: "mutualTLS", Description: "A client certificate whose key is a user's (`cardbridge operator user certificate add`), of a CA that the server was started with. With a token too both have to be the same user's."},
	}
	a := &API{server: s, log: log, mux: http.NewServeMux(), heartbeat: heartbeat, slow: slowClient, limits: newLimiter(DefaultLimits)}
	for _, o := range opts {
		o(a)
	}
	a.huma = humago.New(a.mux, config)
	a.huma.UseMiddleware(a.authenticate, wellFormed, onlyJSON)
	a.registerCards()
	a.registerDeactivations()
	a.registerApprovals()
	a.registerGuard()
	a.registerWebhooks()
	a.registerOperations()
	a.registerHealth()
	return a
}

// OpenAPI is the document, in JSON.
func (a *API) OpenAPI() ([]byte, error) { return a.huma.OpenAPI().MarshalJSON() }

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
		// It may have had a Content-Length too, by which a proxy saw it end elsewhere.
		h.Set("Connection", "close") // RFC 9112 §6.1
	}
	answer := a.mux.ServeHTTP
	_, pattern := a.mux.Handler(r)
	if pattern == "" {
		answer = a.unknownRoute
	}
	if !strings.Contains(pattern, " /v1/") {
		if wait := a.limits.open(r.RemoteAddr); wait > 0 {
			answer = func(w http.ResponseWriter, _ *http.Request) {
				p, seconds := tooMany(wait, "of this address")
				w.Header().Set("Retry-After", seconds)
				replyProblem(w, p)
			}
		}
	}
	a.logged(w, r, pattern, answer)
}

// NewServer is an HTTP server for the interface, bounded in all that a client
// can spend of it.
func NewServer(a *API) *http.Server {
	return &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      (maxWait + 30) * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 128,
			MaxReadFrameSize:     16 << 10, // the least that there is
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     slowClient,
		},
	}
}

type operatorKey struct{}

// authenticate lets an operation that is for users go on in the name of the one
// whose token or certificate it came with, if that has the role for it, before
// anything else of the request is looked at.
func (a *API) authenticate(ctx huma.Context, next func(huma.Context)) {
	if len(ctx.Operation().Security) == 0 {
		next(ctx)
		return
	}
	token := bearerOf(ctx)
	credential := credentialOf(ctx, token)
	if wait := a.limits.stranger(ctx.RemoteAddr(), credential); wait > 0 {
		a.late(ctx, wait, "of this address that were nobody's")
		return
	}
	op, err := a.identify(ctx, token)
	if err != nil {
		p := a.problem(ctx.Context(), err)
		if p.Status == http.StatusUnauthorized {
			a.limits.failed(ctx.RemoteAddr())
			challenge := `Bearer realm="cardbridge"`
			if token != "" {
				challenge += `, error="invalid_token"` // RFC 6750 §3.1
			}
			ctx.SetHeader("WWW-Authenticate", challenge)
		}
		writeProblem(ctx, p)
		return
	}
	came(ctx.Context(), op)
	if wait := a.limits.came(op, credential); wait > 0 {
		a.late(ctx, wait, "of this user, or of its operator's users")
		return
	}
	if role, _ := ctx.Operation().Metadata[roleKey].(store.Roles); op.User.Roles&role != role {
		writeProblem(ctx, newProblem(http.StatusForbidden, fmt.Sprintf("this needs the role %s, and user %q has %s by this credential", role, op.User.Name, op.User.Roles)))
		return
	}
	next(huma.WithValue(ctx, operatorKey{}, op))
}

// bearerOf is the token that a request came with, empty for none.
func bearerOf(ctx huma.Context) string {
	scheme, token, _ := strings.Cut(ctx.Header("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// credentialOf names what a request came with.
func credentialOf(ctx huma.Context, token string) [sha256.Size]byte {
	b := []byte(token)
	if state := ctx.TLS(); state != nil && len(state.PeerCertificates) > 0 {
		b = append(b, state.PeerCertificates[0].Raw...)
	}
	return sha256.Sum256(b)
}

// late answers a request that has to wait.
func (a *API) late(ctx huma.Context, wait time.Duration, whose string) {
	p, seconds := tooMany(wait, whose)
	ctx.SetHeader("Retry-After", seconds)
	writeProblem(ctx, p)
}

// onlyJSON turns away what does not call itself JSON, where it calls itself
// anything.
func onlyJSON(ctx huma.Context, next func(huma.Context)) {
	if ct := ctx.Header("Content-Type"); ct != "" {
		if kind, _, err := mime.ParseMediaType(ct); err != nil || kind != "application/json" {
			writeProblem(ctx, newProblem(http.StatusUnsupportedMediaType, "Content-Type: application/json is wanted"))
			return
		}
	}
	next(ctx)
}

// operator is whose token the request came with.
func operator(ctx context.Context) store.Operator {
	op, _ := ctx.Value(operatorKey{}).(store.Operator)
	return op
}

// Roles that operations need.
const (
	reads       = store.MayRead
	asks        = store.MayRequest
	administers = store.MayAdminister
)

const roleKey = "role"

// secured marks an operation as one for users of operators with a role.
func secured(role store.Roles, op huma.Operation) huma.Operation {
	op.Security = []map[string][]string{{bearer: {}}, {mutualTLS: {}}}
	op.Metadata = map[string]any{roleKey: role}
	op.Description = strings.TrimSpace(op.Description + " Role: " + role.String() + ".")
	op.MaxBodyBytes = maxBody
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	if op.Method != http.MethodGet {
		op.Errors = append(op.Errors, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge)
	}
	slices.Sort(op.Errors)
	op.Errors = slices.Compact(op.Errors)
	return op
}
