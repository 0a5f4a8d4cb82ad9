package main

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/audit"
	"github.com/cardbridge/cardbridge/server/store"
)

func newAuditExportCmd() *cobra.Command {
	var where recordFlags
	var file string
	cmd := &cobra.Command{
		Use:   "export {--data DIR | --store URL} [--out FILE]",
		Short: "Write a server's audit trail as JSON lines that verify offline",
		Long: `Writes the audit trail of a server's record, events and signed checkpoints, as JSON
lines (docs/audit.md), as it is at this moment; the server may run meanwhile. Who
has the file and the servers' verifier lines (audit key) can verify it anywhere:

  cardbridge audit export --data ./data --out trail.jsonl
  cardbridge audit verify --file trail.jsonl --key "$(cardbridge audit key --data ./data)"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newPrinter(cmd)
			out := p.out
			if file != "" {
				f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				out = f
			}
			err := where.withTrail(cmd, func(t *store.Trail, progress func()) error { return exportTrail(out, t, progress) })
			if f, ok := out.(*os.File); ok && file != "" {
				if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
					_ = os.Remove(file) // half an export is none
				}
			}
			return err
		},
	}
	where.addFlags(cmd)
	cmd.Flags().StringVar(&file, "out", "", "write to this `FILE`, which must not exist yet, for its owner alone")
	return cmd
}

func exportTrail(out io.Writer, t *store.Trail, progress func()) error {
	w := audit.NewWriter(out)
	for l, err := range t.Lines() {
		if err == nil {
			err = w.Write(l)
		}
		if err != nil {
			return err
		}
		progress()
	}
	return w.Close()
}

// withTrail has f work on the audit trail of a record, as it is now. progress
// tells the user how far it is, from time to time.
func (r *recordFlags) withTrail(cmd *cobra.Command, f func(t *store.Trail, progress func()) error) error {
	return r.with(cmd.Context(), func(records *store.Store) error {
		t, err := records.Trail(cmd.Context())
		if err != nil {
			return err
		}
		return errors.Join(f(t, newPrinter(cmd).counting()), t.Close())
	})
}

// tellEvery is how long a user waits for a word.
const tellEvery = 2 * time.Second

// counting gives a function that counts what is done, and tells of it from time
// to time.
func (p *printer) counting() func() {
	n, last := 0, time.Now()
	return func() {
		if n++; n%1024 == 0 && time.Since(last) > tellEvery {
			last = time.Now()
			p.step("%d lines", n)
		}
	}
}
