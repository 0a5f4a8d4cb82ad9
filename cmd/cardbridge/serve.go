package main

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/store"
)

// shutdownTimeout is for replies under way when the server is told to end.
const shutdownTimeout = 15 * time.Second

// serving is the flags of serve.
type serving struct {
	data     string
	keyset   string
	driver   string
	listen   string
	traces   string
	insecure bool
	verbose  bool
}

func newServeCmd() *cobra.Command {
	var s serving
	cmd := &cobra.Command{
		Use:   "serve --data DIR --keyset FILE",
		Short: "Run the card management server",
		Long: `Runs the card management server on all PC/SC readers of this machine.

The record is a SQLite file in the data directory. TLS is on: the server makes
its own key and certificate there on first start, and prints the pin that
clients need: the SHA-256 of its public key (SPKI), which stays when the
certificate is renewed. Once ready it prints one line with its URL and pin.

  cardbridge keys new server.json
  cardbridge serve --data ./data --keyset server.json
  cardbridge operator add --data ./data --mccmnc 46011 "Example Mobile"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			source, err := sourceOf(s.driver)
			if err != nil {
				return err
			}
			return s.run(cmd.Context(), newPrinter(cmd), source)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.data, "data", "", "directory of the record and the TLS key; made if it is not there")
	f.StringVar(&s.keyset, "keyset", "", "the server's key set file, with private keys, readable by its owner alone")
	addDriverFlag(f, &s.driver)
	f.StringVar(&s.listen, "listen", "127.0.0.1:8443", "address to listen on")
	f.StringVar(&s.traces, "trace", "", "directory for the APDUs of each session with a card, as text traces (docs/trace.md)")
	f.BoolVar(&s.insecure, "insecure-http", false, "HTTP without TLS, on a loopback address only")
	f.BoolVar(&s.verbose, "verbose", false, "log details")
	addJSONFlag(cmd)
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagRequired("keyset")
	return cmd
}

// readyJSON is what serve prints once it is ready.
type readyJSON struct {
	URL string `json:"url"`
	Pin string `json:"pin,omitempty"`
}

// run serves until ctx ends.
func (s *serving) run(ctx context.Context, p *printer, source reader.Source) (err error) {
	level := slog.LevelInfo
	if s.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(p.err, &slog.HandlerOptions{Level: level}))
	if err := checkPrivate(s.keyset); err != nil {
		return err
	}
	operations := rsafast.NewScheduler(rsafast.Config{})
	defer operations.Close()
	keys, err := readKeySetFor(s.keyset, operations)
	if err != nil {
		return err
	}
	if testkeys.Known(keys.Public()) {
		log.Warn(testkeys.Warning, "keyset", s.keyset)
	}
	ln, err := net.Listen("tcp", s.listen)
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
	records, err := openRecord(ctx, s.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	srv, err := server.New(server.Config{
		Store: records, Inventory: inventory.New(source, log), Terminal: &card.Terminal{Keys: keys}, Log: log,
	})
	if err != nil {
		return err
	}
	web := api.NewServer(api.New(srv, log))
	if !s.insecure {
		cert, pin, err := api.Certificate(s.data, time.Now())
		if err != nil {
			return fmt.Errorf("TLS key and certificate: %w", err)
		}
		web.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
		ready.Pin = pin
	}

	ctx, end := context.WithCancel(ctx)
	defer end()
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
		if err := announce(p, ready); err != nil {
			log.Error("not announced", "error", err)
			end()
		}
	case <-ctx.Done():
		served <- http.ErrServerClosed
	}
	<-ctx.Done()
	// The engine goes first: it ends those who wait for a step.
	err = <-engine
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

// readKeySetFor loads a server's key set for a scheduler, which does the
// operations under it, and those under the cards' keys.
func readKeySetFor(path string, s *rsafast.Scheduler) (cryptogram.ServerKeys, error) {
	b, err := readFile(path)
	if err != nil {
		return cryptogram.ServerKeys{}, err
	}
	set, err := cryptogram.ParseKeySet(b)
	if err != nil {
		return cryptogram.ServerKeys{}, fmt.Errorf("%s: %w", path, err)
	}
	keys, err := set.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return s.Load(k) })
	if err != nil {
		return cryptogram.ServerKeys{}, fmt.Errorf("%s: %w", path, err)
	}
	keys.Ops = s
	return keys, nil
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

// openRecord opens the record in a data directory, and makes both if they are
// not there.
func openRecord(ctx context.Context, dir string) (*store.Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return store.Open(ctx, filepath.Join(dir, "record.db"))
}

// checkPrivate says what is wrong with the mode of a file of private keys.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s holds private keys and has mode %04o; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return nil
}
