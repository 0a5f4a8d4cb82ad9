package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/store"
)

// checkTimeout bounds what is asked of a database or of the PC/SC service.
const checkTimeout = 10 * time.Second

// checkJSON is what serve --check prints.
type checkJSON struct {
	OK       bool          `json:"ok"`
	Checks   []checkedJSON `json:"checks"`
	Settings []settingJSON `json:"settings"`
}

type checkedJSON struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Text  string `json:"text"` // what is there, or the fault
	Do    string `json:"do,omitempty"`
}

type settingJSON struct {
	Setting string `json:"setting"`
	Value   string `json:"value"`
	From    string `json:"from"`
}

// check says whether a start would find what it needs. It makes and changes
// nothing; what a start makes itself need not be there.
func (s *serving) check(ctx context.Context, p *printer, f *pflag.FlagSet) error {
	out := checkJSON{OK: true}
	for _, c := range []struct {
		name string
		do   string // about a fault
		look func(context.Context) (string, error)
	}{
		{"settings", "cardbridge serve --help has what each takes", s.checkSettings},
		{"data directory", "let the user that serves write into it", s.checkData},
		{"key sets", "cardbridge keys new makes one; mode 0600, its owner the user that serves", s.checkKeys},
		{"rules", "cardbridge rules check FILE shows the place", s.checkRules},
		{"record", "--store or --data name it; docs/operations.md has how it goes up and down", s.checkRecord},
		{"owner", "end that server, or give this one a record of its own: --data; a PostgreSQL record takes any number", s.checkOwner},
		{"TLS and audit keys", "put back what is damaged; a start makes what is missing", s.checkOwnKeys},
		{"addresses", "end what listens there, or choose another: --listen, --metrics-listen", s.checkAddresses},
		{"readers", "start the PC/SC service (systemctl start pcscd.socket) and let the user at it, or --driver usb", s.checkReaders},
	} {
		bounded, cancel := context.WithTimeout(ctx, checkTimeout)
		text, err := c.look(bounded)
		cancel()
		done := checkedJSON{Check: c.name, OK: err == nil, Text: text}
		if err != nil {
			out.OK, done.Text, done.Do = false, err.Error(), c.do
		}
		out.Checks = append(out.Checks, done)
	}
	f.VisitAll(func(flag *pflag.Flag) {
		if from := s.origins.of(flag.Name); from != fromDefault {
			value := flag.Value.String()
			if flag.Name == "store" {
				value = publicStore(value)
				if !store.IsPostgres(flag.Value.String()) {
					value = "(hidden)" // it is no URL, and may yet be meant as one
				}
			}
			out.Settings = append(out.Settings, settingJSON{flag.Name, value, from})
		}
	})
	if err := p.checked(out); err != nil {
		return err
	}
	if !out.OK {
		return exitStatus(exitError)
	}
	return nil
}

func (p *printer) checked(out checkJSON) error {
	if p.json {
		return p.object(out)
	}
	var rows, settings [][]string
	for _, c := range out.Checks {
		state := "ok"
		if !c.OK {
			state = "FAULT"
		}
		rows = append(rows, []string{c.Check, state, c.Text, c.Do})
	}
	p.table("CHECK|STATE|WHAT|WHAT TO DO", rows)
	for _, s := range out.Settings {
		settings = append(settings, []string{s.Setting, s.Value, s.From})
	}
	_, err := fmt.Fprintln(p.out)
	p.table("SETTING|VALUE|FROM", settings)
	return err
}

func (s *serving) checkSettings(context.Context) (string, error) {
	_, logged := s.log(io.Discard, s.verbose)
	_, options := s.apiOptions(slog.New(slog.DiscardHandler))
	webhooks, err := s.webhooks.client()
	if err == nil {
		webhooks.Close()
	}
	if err := errors.Join(s.valid(), logged, options, err); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d set, the others by default", len(s.origins)), nil
}

// checkData looks whether files can be made in the data directory, or it can be
// made itself.
func (s *serving) checkData(context.Context) (string, error) {
	dir, what := s.data, "writable"
	for {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir, what = filepath.Dir(dir), "made at the first start"
			continue
		}
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no directory", dir)
		}
		if err != nil {
			return "", err
		}
		break
	}
	probe, err := os.CreateTemp(dir, ".cardbridge-check-*")
	if err != nil {
		return "", err
	}
	return s.data + ": " + what, errors.Join(probe.Close(), os.Remove(probe.Name()))
}

func (s *serving) checkKeys(ctx context.Context) (string, error) {
	operations := rsafast.NewScheduler(rsafast.Config{})
	defer operations.Close()
	all, err := s.keys.terminals(ctx, s.keysets, operations, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	text := "kid"
	for _, t := range all {
		text += fmt.Sprintf(" %d", t.Keys.KID)
	}
	return text, nil
}

func (s *serving) checkRules(context.Context) (string, error) {
	if s.rules == "" {
		return "those that are built in", nil
	}
	file, err := rules.Open(s.rules)
	if err != nil {
		return "", err
	}
	return s.rules + ": " + many(len(file.Current().Rules()), "rule", "rules"), nil
}

func (s *serving) checkRecord(ctx context.Context) (string, error) {
	where, err := s.where()
	if err != nil {
		return "", err
	}
	schema, err := store.Inspect(ctx, where)
	where = publicStore(where)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", where, err)
	case schema.Version > schema.Program:
		return "", fmt.Errorf("%s has schema version %d, of a newer program; this one knows up to %d", where, schema.Version, schema.Program)
	case schema.Version == 0:
		return where + ": made at the first start", nil
	case schema.Version < schema.Program:
		return fmt.Sprintf("%s: schema version %d, which a start brings up to %d; make a backup first", where, schema.Version, schema.Program), nil
	}
	return fmt.Sprintf("%s: schema version %d", where, schema.Version), nil
}

func (s *serving) checkOwner(ctx context.Context) (string, error) {
	where, err := s.where()
	if err != nil {
		return "", err
	}
	if store.IsPostgres(where) {
		return "as many servers as there are", nil
	}
	in, err := store.InUse(ctx, where)
	if err == nil && in {
		err = store.ErrInUse
	}
	return "no other server works on the record", err
}

func (s *serving) checkOwnKeys(context.Context) (string, error) {
	_, audit := auditKeyOf(s.data)
	tls := error(nil)
	if !s.insecure {
		tls = api.CheckKey(s.data)
	}
	text := "readable"
	for _, err := range []*error{&audit, &tls} {
		if errors.Is(*err, fs.ErrNotExist) {
			text, *err = "what is missing is made at the first start", nil
		}
	}
	return text, errors.Join(audit, tls)
}

func (s *serving) checkAddresses(ctx context.Context) (string, error) {
	for _, at := range []string{s.listen, cmp.Or(s.metrics, "127.0.0.1:0")} {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
		if err != nil {
			return "", err
		}
		defer ln.Close() // the two may be the same
		if tcp, ok := ln.Addr().(*net.TCPAddr); s.insecure && at == s.listen && (!ok || !tcp.IP.IsLoopback()) {
			return "", fmt.Errorf("--insecure-http on %s: a loopback address is wanted, or TLS", at)
		}
	}
	return "free", nil
}

func (s *serving) checkReaders(ctx context.Context) (string, error) {
	source, err := sourceOf(s.driver)
	if err != nil {
		return "", err
	}
	if err := inventory.New(source, slog.New(slog.DiscardHandler)).Check(ctx); err != nil {
		return "", err
	}
	return "reachable by " + cmp.Or(s.driver, driverPCSC), nil
}
