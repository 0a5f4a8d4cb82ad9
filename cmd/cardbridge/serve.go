package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/metrics"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/store"
)

// shutdownTimeout is for replies under way when the server is told to end.
const shutdownTimeout = 15 * time.Second

// endTimeout is what a server takes to end at most, once attempts are over: what
// cards said is recorded, the audit trail signed, replies sent.
const endTimeout = 90 * time.Second

// maxLease bounds how long the cards of a server that died are left alone.
const maxLease = 10 * time.Minute

// serving is the flags of serve.
type serving struct {
	recordFlags
	operating
	limiting
	rules    string
	lease    time.Duration
	approval time.Duration
	signing  time.Duration // between checkpoints of the audit trail
	keysets  []string
	keys     keySource
	driver   string
	listen   string
	traces   string
	insecure bool
	clientCA string
	verbose  bool
	webhooks webhookFlags
	origins  origins // of the flags' values
}

func newServeCmd() *cobra.Command {
	s := serving{keys: *newKeySource()}
	var check bool
	cmd := &cobra.Command{
		Use:   "serve --data DIR --keyset FILE [--store URL] [--rules FILE]",
		Short: "Run the card management server",
		Long: `Runs the card management server on all PC/SC readers of this machine.

The record is a SQLite file in the data directory, or a PostgreSQL database that
several servers share (--store). A password in its URL is better told in the
environment, in CARDBRIDGE_STORE, or in PostgreSQL's own ~/.pgpass. TLS is on: the
server makes its own key and certificate in the data directory on first start,
and prints the pin that clients need: the SHA-256 of its public key (SPKI), which
stays when the certificate is renewed. Once ready it prints one line with its URL
and pin.

Every flag may stand in a file too, under its name without dashes (--config,
YAML; lists for those that may be given more than once), and in the environment:
CARDBRIDGE_LISTEN for --listen, CARDBRIDGE_LOG_FORMAT for --log-format, with
commas between several values. A flag goes before the environment, and that
before the file. A key or a variable that no flag has is an error.

The file of management rules (docs/rules.md) is read again when it changes, and
on SIGHUP; a bad one is told in the log, and the rules before it stay.

  cardbridge keys new server.json
  cardbridge operator add --data ./data --mccmnc 46011 "Example Mobile"
  cardbridge serve --data ./data --keyset server.json --rules rules.yaml
  CARDBRIDGE_STORE=postgres://cardbridge@db.example/cardbridge cardbridge serve --data ./data --keyset server.json
  cardbridge serve --config /etc/cardbridge/config.yaml`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) (err error) {
			s.origins, err = configure(cmd.Flags())
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if check {
				return s.check(cmd.Context(), newPrinter(cmd), cmd.Flags())
			}
			if err := s.valid(); err != nil {
				return err
			}
			source, err := sourceOf(s.driver)
			if err != nil {
				return err
			}
			return s.run(cmd.Context(), newPrinter(cmd), source)
		},
	}
	s.recordFlags.addFlags(cmd)
	f := cmd.Flags()
	f.Lookup("data").Usage = "`DIR` of the TLS key and the SQLite record; made if it is not there"
	f.String(configFlag, "", "`FILE` of settings, in YAML: the names of these flags and their values")
	f.StringVar(&s.rules, "rules", "", "`FILE` of management rules and budgets (default: those that rules show prints)")
	f.DurationVar(&s.lease, "lease", server.DefaultLease, "how long a claim on a card holds unrenewed, and so how long other servers wait for one that died")
	f.DurationVar(&s.approval, "approval-timeout", server.DefaultApproval, "how long a request waits for a second user's approval")
	f.DurationVar(&s.signing, "audit-checkpoint", server.DefaultCheckpoint, "how often what happened is signed in the audit trail, and so how much of it is not proven yet")
	f.StringArrayVar(&s.keysets, "keyset", nil, "the server's key set `FILE`, readable by its owner alone; while keys are rotated several, the newest first: each card is met under the first that it holds (docs/keys.md)")
	s.keys.addFlags(f)
	addDriverFlag(f, &s.driver)
	f.StringVar(&s.listen, "listen", "127.0.0.1:8443", "`HOST:PORT` to listen on")
	f.StringVar(&s.traces, "trace", "", "`DIR` for the APDUs of each session with a card, as text traces (docs/trace.md)")
	f.StringVar(&s.clientCA, "client-ca", "", "`FILE` of CA certificates, in PEM: client certificates of theirs stand for the users that have them (operator user certificate add); read again when it changes")
	f.BoolVar(&s.insecure, "insecure-http", false, "HTTP without TLS, on a loopback address only")
	f.StringSliceVar(&s.webhooks.allow, "webhook-allow", nil, "`NETWORK`, such as 10.1.0.0/16, to whose addresses webhooks may go; without it to public ones alone")
	f.StringVar(&s.webhooks.ca, "webhook-ca", "", "`FILE` of CA certificates, in PEM, that webhooks' endpoints may have beside those that the system trusts")
	f.BoolVar(&s.verbose, "verbose", false, "log details: --log-level debug")
	s.operating.addFlags(f)
	f.BoolVar(&check, "check", false, "do not serve, but say whether all is there that it needs, and where each setting comes from; exit status 1 where it is not")
	s.limiting.addFlags(f)
	addJSONFlag(cmd)
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagRequired("keyset")
	return cmd
}

// valid says which flag has a value that it does not take.
func (s *serving) valid() error {
	if s.lease < time.Second || s.lease > maxLease || s.approval < time.Second || s.approval > server.MaxTimeout {
		return fmt.Errorf("--lease takes 1s to %s, --approval-timeout 1s to %s", maxLease, server.MaxTimeout)
	}
	if s.signing < 100*time.Millisecond || s.signing > time.Hour {
		return errors.New("--audit-checkpoint takes 100ms to 1h")
	}
	return nil
}

// readyJSON is what serve prints once it is ready.
type readyJSON struct {
	URL string `json:"url"`
	Pin string `json:"pin,omitempty"`
}

// run serves until ctx ends.
func (s *serving) run(ctx context.Context, p *printer, source reader.Source) (err error) {
	observed := metrics.New(time.Now())
	log, err := s.log(p.err, s.verbose)
	if err != nil {
		return err
	}
	operations := rsafast.NewScheduler(rsafast.Config{Observe: observed.RSA})
	defer operations.Close()
	defer s.keys.Close()
	terminals, err := s.keys.terminals(ctx, s.keysets, operations, log)
	if err != nil {
		return err
	}
	ln, err := listen(ctx, "listen", s.listen)
	if err != nil {
		return err
	}
	defer ln.Close()
	ready := readyJSON{URL: "https://" + reachable(ln.Addr())}
	if s.insecure {
		if addr, ok := ln.Addr().(*net.TCPAddr); !ok || !addr.IP.IsLoopback() {
			return fmt.Errorf("--insecure-http on %s: tokens would cross the network in the clear; use a loopback address, or TLS", ln.Addr())
		}
		ready.URL = "http://" + reachable(ln.Addr())
	}
	if s.traces != "" {
		if err := os.MkdirAll(s.traces, 0o700); err != nil {
			return err
		}
		source = tracing{source, s.traces}
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	set, file, err := s.watchRules(ctx, log)
	if err != nil {
		return err
	}
	webhooks, err := s.webhooks.client()
	if err != nil {
		return err
	}
	defer webhooks.Close()
	where, err := s.where()
	if err != nil {
		return err
	}
	records, err := s.make(ctx, store.WithArrivals(observed.Arrived), store.WithCommits(observed.Committed))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	log.Info("record opened", "store", publicStore(where), "shared", records.Shared(), "lease", s.lease, "approval_timeout", s.approval)
	signer, err := makeAuditKey(s.data)
	if err != nil {
		return fmt.Errorf("key of the audit trail: %w", err)
	}
	log.Info("audit trail signed", "key", signer.Verifier(), "every", s.signing)
	srv, err := server.New(server.Config{
		Checkpoints: signer, CheckpointEvery: s.signing,
		Store: records, Inventory: inventory.New(source, log), Terminal: terminals[0], Older: terminals[1:], Log: log,
		Rules: set, Lease: s.lease, Approval: s.approval,
		Webhooks: webhooks, Show: api.Show, Observer: observed, Drain: s.drain,
	})
	if err != nil {
		return err
	}
	options, err := s.apiOptions(log)
	if err != nil {
		return err
	}
	operators := api.New(srv, log, options...)
	operators.Answered = observed.Answered
	observed.Watch(metrics.Sources{Server: srv, Rules: file, Queued: operations.Queued, Log: log})
	stopMetrics, err := s.serveMetrics(ctx, observed, operators, log)
	if err != nil {
		return err
	}
	defer stopMetrics()
	web := api.NewServer(operators)
	ln = api.Bounded(ln, s.connections, s.connectionsOfOne)
	if !s.insecure {
		cert, pin, err := api.Certificate(s.data, time.Now())
		if err != nil {
			return fmt.Errorf("TLS key and certificate: %w", err)
		}
		web.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
		if s.clientCA != "" {
			web.TLSConfig.ClientAuth = tls.RequestClientCert // the API verifies, and says what is wrong
		}
		ready.Pin = pin
	}

	var failed error
	engine := make(chan error, 1)
	go func() { engine <- srv.Run(ctx); end() }()
	served := make(chan error, 1)
	select {
	case <-srv.Started(): // only who owns the record takes requests in
		go func() {
			if s.insecure {
				served <- web.Serve(ln)
			} else {
				served <- web.ServeTLS(ln, "", "")
			}
			end()
		}()
		observed.Ready()
		if failed = announce(p, ready); failed != nil {
			end()
		} else {
			notify(log, daemon.SdNotifyReady)
		}
	case <-ctx.Done():
		served <- http.ErrServerClosed
	}
	<-ctx.Done()
	observed.Draining()
	// For as long as it may take, whatever the unit says.
	notify(log, fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyStopping, (s.drain+endTimeout).Microseconds()))
	// The engine goes first: it ends those who wait for a step.
	err = errors.Join(failed, <-engine)
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if serr := web.Shutdown(down); serr != nil {
		log.Warn("clients cut off", "error", serr)
		_ = web.Close() // they are gone either way
	}
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// notify tells systemd, where that waits to be told (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd not told", "state", state, "error", err)
	}
}

// watchRules gives the management rules of now: those of a file until ctx ends,
// read again when it changes and on SIGHUP.
func (s *serving) watchRules(ctx context.Context, log *slog.Logger) (func() *rules.Set, *rules.File, error) {
	if s.rules == "" {
		log.Info("management rules built in", "digest", rules.Default().Digest())
		signal.Ignore(syscall.SIGHUP) // whoever has servers read their rules again ends none
		context.AfterFunc(ctx, func() { signal.Reset(syscall.SIGHUP) })
		return rules.Default, nil, nil
	}
	file, err := rules.Open(s.rules)
	if err != nil {
		return nil, nil, err
	}
	told := func(what string) {
		log.Info(what, "file", s.rules, "rules", len(file.Current().Rules()), "digest", file.Current().Digest())
	}
	told("management rules loaded")
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go file.Watch(ctx, log)
	go func() {
		defer signal.Stop(hangups)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			if err := file.Reload(); err != nil {
				log.Error("management rules not reloaded; the ones before stay", "file", s.rules, "error", err)
				continue
			}
			told("management rules reloaded")
		}
	}()
	return file.Current, file, nil
}

func announce(p *printer, r readyJSON) error {
	if p.json {
		return p.object(r)
	}
	line := "ready at " + r.URL
	if r.Pin != "" {
		line += " pin " + r.Pin
	}
	_, err := fmt.Fprintln(p.out, line)
	return err
}

// reachable is an address to reach a listener at from this machine.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
}
