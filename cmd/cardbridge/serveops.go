package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/server/logging"
	"github.com/cardbridge/cardbridge/server/metrics"
)

// operating is the flags of serve for whoever watches over it.
type operating struct {
	logFormat string
	logLevel  string
	metrics   string
	drain     time.Duration
}

const (
	defaultDrain = 30 * time.Second
	maxDrain     = 10 * time.Minute
)

func (o *operating) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.logFormat, "log-format", logging.Text, "`FORMAT` of the log: text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "`LEVEL` of the log: debug, info, warn or error; debug has requests that only read, too")
	f.StringVar(&o.metrics, "metrics-listen", "", "`HOST:PORT` for Prometheus, such as 127.0.0.1:9464: /metrics, /livez and /readyz, by HTTP and for whoever reaches it (default: none)")
	f.DurationVar(&o.drain, "drain-timeout", defaultDrain, "how long attempts under way may go on once the server is told to end")
}

// log makes the server's log.
func (o *operating) log(w io.Writer, verbose bool) (*slog.Logger, error) {
	level := cmp.Or(o.logLevel, "info")
	if verbose {
		level = "debug"
	}
	return logging.New(w, cmp.Or(o.logFormat, logging.Text), level)
}

// listen listens on the address of a setting.
func listen(ctx context.Context, setting, address string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w; end whoever has the address, or give another", setting, err)
	}
	return ln, nil
}

// serveMetrics answers Prometheus and who asks for the server's health on an
// address of their own until stop is called; without one it does nothing. It is
// no operator's: the guard's state of all of them is in it, and no secret.
func (o *operating) serveMetrics(ctx context.Context, m *metrics.Metrics, health http.Handler, log *slog.Logger) (stop func(), err error) {
	if o.metrics == "" {
		return func() {}, nil
	}
	ln, err := listen(ctx, "metrics-listen", o.metrics)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	for _, probe := range []string{"/livez", "/readyz"} {
		mux.Handle("GET "+probe, health)
	}
	web := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		log.Warn("metrics can be read by whoever reaches this address", "address", ln.Addr())
	}
	log.Info("metrics", "url", "http://"+reachable(ln.Addr())+"/metrics")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := web.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are served no more", "error", err)
		}
	}()
	return func() {
		_ = web.Close() // who scrapes comes again
		<-ended
	}, nil
}
