package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/store"
)

// backupJSON is what backup prints.
type backupJSON struct {
	File    string  `json:"file"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

func newBackupCmd() *cobra.Command {
	var where recordFlags
	cmd := &cobra.Command{
		Use:   "backup --data DIR FILE",
		Short: "Copy a server's record into a file, while the server runs",
		Long: `Writes the SQLite record of a data directory, as it is at one moment, into a new
file with mode 0600, and checks it. The server may run meanwhile, and goes on.

The file has all of the record: operators with the hashes of their tokens, cards
with their public keys, requests, receipts, the audit trail, and the secrets of
webhooks. It has no private key: keep the key sets, and tls.key and audit.key of
the data directory, beside it and as safely.

A PostgreSQL record is backed up by pg_dump.

  cardbridge backup --data ./data backup-$(date +%F).db`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, began := newPrinter(cmd), time.Now()
			place, err := where.where()
			if err != nil {
				return err
			}
			ended := p.growing(cmd.Context(), place)
			err = store.Backup(cmd.Context(), place, args[0])
			ended()
			switch {
			case errors.Is(err, store.ErrNotSQLite):
				return fmt.Errorf("%w: use pg_dump --format=custom --file=%s URL", err, args[0])
			case errors.Is(err, os.ErrExist):
				return fmt.Errorf("%s is there already, and stays: give another name", args[0])
			case err != nil:
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			out := backupJSON{args[0], info.Size(), time.Since(began).Seconds()}
			if p.json {
				return p.object(out)
			}
			_, err = fmt.Fprintf(p.out, "%s: %.1f MB in %.1f s, whole\n", out.File, float64(out.Bytes)/1e6, out.Seconds)
			return err
		},
	}
	where.addFlags(cmd)
	addJSONFlag(cmd)
	return cmd
}

// growing tells every few seconds that a record is copied, until ended is called.
func (p *printer) growing(ctx context.Context, record string) (ended func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for began := time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Second):
			}
			if info, err := os.Stat(record); err == nil {
				p.step("copying a record of %.0f MB, for %s now", float64(info.Size())/1e6, time.Since(began).Round(time.Second))
			}
		}
	}()
	return cancel
}

// restoredJSON is what restore prints.
type restoredJSON struct {
	Last     time.Time `json:"last"` // of what the record tells of
	Breakers int       `json:"breakers"`
	Cards    int64     `json:"cards"`
	Unknown  int       `json:"unknown"`
}

func newRestoreCmd() *cobra.Command {
	var where recordFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "restore {--data DIR FILE | --store URL [--yes]}",
		Short: "Put a backup of a record in its place, safe to go on with",
		Long: `Makes the record of a data directory that has none of a file that backup wrote,
after checking it. With --store it does to a PostgreSQL database, which pg_restore
has filled, what follows, and asks first. No server may run on the record meanwhile.

What happened after the backup the record does not know. So

- every operator's breaker is tripped: nothing new goes to a card until you reset
  it (guard reset), because the guard's counts lack what was sent since. Wait for
  one of its windows first, or know what was sent;
- every card's state is read again before anything is sent to it;
- a request of which nothing was sent at the time of the backup is unknown for
  good: it may have been carried out since, and is not sent again. Operators ask
  anew. A request that was sent is recovered from its card;
- users and tokens that were removed or revoked since are back: do it again
  before you start the server.

  cardbridge restore --data ./new-data backup-2026-11-28.db
  cardbridge restore --store postgres://cardbridge@db.example/restored`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := where.where()
			if err != nil {
				return err
			}
			var done store.Restored
			switch postgres := store.IsPostgres(place); {
			case postgres && len(args) > 0:
				return fmt.Errorf("a file goes into a PostgreSQL database by pg_restore; then run this without %s", args[0])
			case postgres:
				// It may be the one that servers work on, by way of the environment.
				if !yes {
					if err := confirm(cmd, fmt.Sprintf("Is %s just restored, and does no server run on it? Every breaker is tripped, and what waits there is not sent any more.\nGo on?", publicStore(place))); err != nil {
						return err
					}
				}
				err = where.with(cmd.Context(), func(records *store.Store) (err error) {
					done, err = records.AfterRestore(cmd.Context())
					return err
				})
			case len(args) == 0:
				return errors.New("which FILE, as backup wrote it?")
			default:
				if err := os.MkdirAll(where.data, 0o700); err != nil {
					return err
				}
				done, err = store.Restore(cmd.Context(), args[0], place)
			}
			switch {
			case errors.Is(err, os.ErrExist):
				return fmt.Errorf("%w: there is a record, and it stays; restore into another directory, or move it away (%s* too)", err, recordFile)
			case err != nil:
				return err
			}
			p := newPrinter(cmd)
			if p.json {
				return p.object(restoredJSON(done))
			}
			_, err = fmt.Fprintf(p.out, `restored: it tells of what was until %s, of nothing since
  %s tripped: cardbridge guard reset, once a window of the guard has passed
  %s read before anything is sent there
  %s unknown for good
  users and tokens that were removed since then are back: cardbridge operator list
`, done.Last.Local().Format(time.DateTime), many(done.Breakers, "breaker is", "breakers are"), many(done.Cards, "card is", "cards are"), many(done.Unknown, "request is", "requests are"))
			return err
		},
	}
	where.addFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "with --store: do not ask")
	addJSONFlag(cmd)
	return cmd
}
