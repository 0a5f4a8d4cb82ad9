// Package metrics is what a server tells Prometheus of itself.
//
// A label's values are bounded: routes are patterns, readers and operators are
// counted up to a bound and told together beyond it, and no EID, ICCID, request
// or user is ever one.
package metrics

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/store"
)

const namespace = "cardbridge"

// Metrics counts what it is told. It implements server.Observer. Its methods are
// safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	readers  *readerNames
	began    time.Time

	requests, apiFailures        *prometheus.CounterVec
	requestSeconds               *prometheus.HistogramVec
	arrivals                     *prometheus.CounterVec
	attempts, readerErrors       *prometheus.CounterVec
	attemptSeconds               *prometheus.HistogramVec
	claimsLost, keyErrors        prometheus.Counter
	deliveries                   *prometheus.CounterVec
	deliverySeconds              prometheus.Histogram
	commits                      *prometheus.CounterVec
	commitSeconds, commitBatch   prometheus.Histogram
	rsaOperations                *prometheus.CounterVec
	rsaSeconds, rsaBatch         *prometheus.HistogramVec
	startSeconds, draining, live prometheus.Gauge
}

// New makes the metrics of a process that began to start at a moment.
func New(began time.Time) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), began: began}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(v)
		return v
	}
	gauge := func(name, help string) prometheus.Gauge {
		v := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
		m.registry.MustRegister(v)
		return v
	}
	one := func(v *prometheus.HistogramVec) prometheus.Histogram {
		return v.WithLabelValues().(prometheus.Histogram)
	}

	m.requests = counter("http_requests_total", "HTTP requests that were answered, by the route's pattern and the class of the status.", "method", "route", "code")
	m.requestSeconds = histogram("http_request_seconds", "How long answers took, long polls and streams too.",
		[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}, "method", "route")
	m.apiFailures = counter("authentication_failures_total", "Authentications that failed: of a user (401), or between a card and the server.", "of")
	m.arrivals = counter("deactivations_total", "Requests that came into a state, by who brought them there.", "state", "by")
	m.attempts = counter("reader_attempts_total", "Attempts at requests, and readings of cards' states, by reader and outcome.", "reader", "outcome")
	m.attemptSeconds = histogram("attempt_seconds", "How long an attempt on a card took, from opening the reader to the verified answer.",
		[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}, "outcome")
	m.readerErrors = counter("reader_errors_total", "What stood in the way of attempts, by reader.", "reader", "kind")
	m.claimsLost = counter("claims_lost_total", "Claims on cards that passed, or could not be renewed, while work went on under them.").WithLabelValues()
	m.keyErrors = counter("key_errors_total", "Attempts in whose way the server's own keys stood, such as those of an HSM that is away.").WithLabelValues()
	m.deliveries = counter("webhook_deliveries_total", "Sendings of webhooks' messages.", "result")
	m.deliverySeconds = one(histogram("webhook_delivery_seconds", "How long one sending of a webhook's message took.", []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 15}))
	m.commits = counter("record_commits_total", "Transactions that wrote the record.", "result")
	m.commitSeconds = one(histogram("record_commit_seconds", "How long a transaction took until it was durable.",
		[]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30}))
	m.commitBatch = one(histogram("record_commit_writes", "How many writes shared one commit.", []float64{1, 2, 4, 8, 16, 32, 64}))
	m.rsaOperations = counter("rsa_operations_total", "RSA operations under the server's private keys, and under public keys.", "kind")
	m.rsaSeconds = histogram("rsa_call_seconds", "Processor time of one call of the RSA engine, which does a batch of operations.",
		[]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1}, "kind")
	m.rsaBatch = histogram("rsa_batch_operations", "How many operations shared one call of the RSA engine.", []float64{1, 2, 4, 6, 8, 12, 16}, "kind")
	m.startSeconds = gauge("start_seconds", "How long the server took from its start until it was ready.")
	m.draining = gauge("draining", "1 while the server was told to end and finishes what is under way.")
	m.live = gauge("ready_timestamp_seconds", "When the server became ready, in seconds since 1970; 0 before.")

	// What an alert is about is there from the start, at 0.
	for _, of := range []string{"user", "card"} {
		m.apiFailures.WithLabelValues(of)
	}
	for state, by := range map[store.State]string{store.Unknown: store.ByServer, store.Done: store.ByCard, store.Held: store.ByServer, store.Accepted: store.ByServer} {
		m.arrivals.WithLabelValues(string(state), by)
	}
	for _, result := range []string{"ok", "failed"} {
		m.commits.WithLabelValues(result)
		m.deliveries.WithLabelValues(result)
	}
	for _, kind := range []string{"private", "public"} {
		m.rsaOperations.WithLabelValues(kind)
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "1, with what the program was built from."}, []string{"version", "revision", "go"})
	m.registry.MustRegister(build)
	build.WithLabelValues(built()).Set(1)
	m.readers = newReaderNames(func(name string) {
		m.attempts.DeletePartialMatch(prometheus.Labels{"reader": name})
		m.readerErrors.DeletePartialMatch(prometheus.Labels{"reader": name})
	})
	return m
}

// built is the module's version, the commit and Go's version.
func built() (version, revision, goes string) {
	version, revision, goes = "unknown", "unknown", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	version, goes = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, EnableOpenMetrics: true})
}

// Gatherer gives the metrics to tests.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Ready says that the server is ready.
func (m *Metrics) Ready() {
	m.startSeconds.Set(time.Since(m.began).Seconds())
	m.live.SetToCurrentTime()
}

// Draining says that the server was told to end.
func (m *Metrics) Draining() { m.draining.Set(1) }

// Answered counts one HTTP request: route is its pattern, without the method.
func (m *Metrics) Answered(method, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(method, route, strconv.Itoa(status/100)+"xx").Inc()
	m.requestSeconds.WithLabelValues(method, route).Observe(took.Seconds())
	if status == http.StatusUnauthorized {
		m.apiFailures.WithLabelValues("user").Inc()
	}
}

// Arrived is for store.WithArrivals.
func (m *Metrics) Arrived(state store.State, by string) {
	m.arrivals.WithLabelValues(string(state), by).Inc()
}

// Committed is for store.WithCommits.
func (m *Metrics) Committed(writes int, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.commits.WithLabelValues(result).Inc()
	m.commitSeconds.Observe(took.Seconds())
	m.commitBatch.Observe(float64(writes))
}

// RSA is for rsafast.Config.Observe.
func (m *Metrics) RSA(public bool, operations int, took time.Duration) {
	kind := "private"
	if public {
		kind = "public"
	}
	m.rsaOperations.WithLabelValues(kind).Add(float64(operations))
	m.rsaSeconds.WithLabelValues(kind).Observe(took.Seconds())
	m.rsaBatch.WithLabelValues(kind).Observe(float64(operations))
}

// Attempted implements server.Observer.
func (m *Metrics) Attempted(at inventory.Place, outcome string, err error, took time.Duration) {
	m.attemptSeconds.WithLabelValues(outcome).Observe(took.Seconds())
	m.readers.with(at.Name, func(reader string) {
		m.attempts.WithLabelValues(reader, outcome).Inc()
		if kind := kindOf(err); kind != "" {
			m.readerErrors.WithLabelValues(reader, kind).Inc()
		}
	})
	if errors.Is(err, card.ErrKeys) && !errors.Is(err, context.Canceled) {
		m.keyErrors.Inc()
	}
	var auth *card.AuthError
	if errors.As(err, &auth) {
		m.apiFailures.WithLabelValues("card").Inc()
	}
}

// ClaimsLost implements server.Observer.
func (m *Metrics) ClaimsLost(n int) { m.claimsLost.Add(float64(n)) }

// Delivered implements server.Observer.
func (m *Metrics) Delivered(ok bool, took time.Duration) {
	result := "ok"
	if !ok {
		result = "failed"
	}
	m.deliveries.WithLabelValues(result).Inc()
	m.deliverySeconds.Observe(took.Seconds())
}

// kindOf is an error as a label has it; "" for what is no fault of reader or
// card.
func kindOf(err error) string {
	var auth *card.AuthError
	var refused *apdu.Error
	switch {
	case err == nil, errors.Is(err, store.ErrRefused), errors.Is(err, store.ErrHeld), errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrState),
		errors.Is(err, card.ErrKeys):
		return ""
	case errors.As(err, &auth):
		return "authentication"
	}
	for _, k := range []struct {
		err  error
		kind string
	}{
		{apdu.ErrCardRemoved, "card_removed"},
		{apdu.ErrCardReset, "card_reset"},
		{apdu.ErrTimeout, "timeout"},
		{apdu.ErrNoCard, "no_card"},
		{apdu.ErrNoReader, "no_reader"},
		{apdu.ErrCardBusy, "busy"},
		{apdu.ErrTransport, "transport"},
		{apdu.ErrShortAnswer, "transport"},
		{card.ErrUnverified, "unverified"},
		{card.ErrMalformed, "malformed"},
		{apdu.ErrMalformed, "malformed"},
	} {
		if errors.Is(err, k.err) {
			return k.kind
		}
	}
	if errors.As(err, &refused) {
		return "refused"
	}
	return "other"
}
