package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/cardbridge/cardbridge/server/guard"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// Errors of backups.
var (
	// ErrNotSQLite says that the record is PostgreSQL's, whose own tools back it
	// up and restore it.
	ErrNotSQLite = errors.New("store: the record is not an SQLite file")
	// ErrDamaged says that a file is no record, or not a whole one.
	ErrDamaged = errors.New("store: not a whole record")
	// ErrNewer says that a record's schema is of a newer program.
	ErrNewer = errors.New("store: the record is of a newer program")
)

// Backup writes a copy of an SQLite record as it is at one moment into a new
// file (mode 0600), while servers go on with the record. The file is there whole
// and on disk, or not at all; one that is there already stays, and the error
// matches os.ErrExist.
func (s *Store) Backup(ctx context.Context, file string) error {
	if s.Shared() {
		return ErrNotSQLite
	}
	return place(file, func(temp string) error {
		if _, err := s.db.ExecContext(ctx, `VACUUM INTO ?`, temp); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		_, err := examine(ctx, temp)
		return err
	})
}

// place has write fill a temporary file beside file, which then becomes it.
func place(file string, write func(temp string) error) (err error) {
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, "."+filepath.Base(file)+"-") // mode 0600
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	temp := f.Name()
	defer func() {
		for _, name := range []string{temp, temp + "-wal", temp + "-shm"} {
			if rerr := os.Remove(name); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("store: %w", rerr))
			}
		}
	}()
	if err := f.Close(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := write(temp); err != nil {
		return err
	}
	if err := syncFile(temp); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := os.Link(temp, file); err != nil { // which replaces nothing, as a renaming would
		return fmt.Errorf("store: %w", err)
	}
	// That the name is on disk too; not every system lets a directory be synced.
	_ = syncFile(dir)
	return nil
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// examine holds an SQLite record against what it must be, without changing it,
// and gives the time of the last thing that it tells of.
func examine(ctx context.Context, file string) (last time.Time, err error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return last, fmt.Errorf("store: %w", err)
	}
	db, err := openFile(abs, url.Values{"mode": {"ro"}, "immutable": {"1"}})
	if err != nil {
		return last, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var found string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&found); err != nil {
		return last, fmt.Errorf("%w: %s: %w", ErrDamaged, file, err)
	}
	if found != "ok" {
		return last, fmt.Errorf("%w: %s: %s", ErrDamaged, file, found)
	}
	var version, at sql.NullInt64
	err = db.QueryRowContext(ctx, `SELECT (SELECT max(version_id) FROM goose_db_version), (SELECT at FROM events ORDER BY seq DESC LIMIT 1)`).Scan(&version, &at)
	if err != nil {
		return last, fmt.Errorf("%w: %s: %w", ErrDamaged, file, err)
	}
	newest, err := (&Store{db: db, dialect: sqliteDialect}).newest()
	if err != nil {
		return last, err
	}
	if version.Int64 > newest {
		return last, fmt.Errorf("%w: %s has schema version %d, and this one knows those up to %d", ErrNewer, file, version.Int64, newest)
	}
	return fromMillis(at.Int64), nil
}

// newest is the version of the schema that this program brings a record to.
func (s *Store) newest() (int64, error) {
	p, err := s.provider()
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	sources := p.ListSources()
	return sources[len(sources)-1].Version, nil
}

// Restored is what Restore and AfterRestore did.
type Restored struct {
	Last     time.Time // of what the record tells of
	Breakers int       // operators whose breaker was tripped
	Cards    int64     // that will be read before anything is sent to them
	Unknown  int       // requests whose outcome is not known any more
}

// Restore makes an SQLite record at path of a backup, as AfterRestore says. It is
// there whole or not at all; one that is there stays, and the error matches
// os.ErrExist, or ErrInUse where a server works there. The backup is not changed.
func Restore(ctx context.Context, backup, path string) (r Restored, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return r, fmt.Errorf("store: %w", err)
	}
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			return r, fmt.Errorf("store: %s: %w", name, os.ErrExist)
		}
	}
	release, err := ownFile(ctx, path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, release()) }()
	err = place(path, func(temp string) error {
		if err := copyFile(temp, backup); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if _, err := examine(ctx, temp); err != nil {
			return err
		}
		s, err := Open(ctx, temp)
		if err != nil {
			return err
		}
		r, err = s.AfterRestore(ctx)
		return errors.Join(err, s.Close())
	})
	return r, err
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

const (
	restoredBreaker = "the record was restored from a backup: what was sent since is not counted in it"
	restoredRequest = "the record was restored from a backup of a time when nothing was sent for this request; whether it was carried out since is not known"
)

// AfterRestore makes a record safe to go on with that was restored from a
// backup, and does not know what was done since: every operator's breaker trips,
// as the guard's counts are too low; every card is read before anything is sent
// to it; and a request that had not ended and of which nothing was sent is
// unknown for good, as it may have been carried out since, and is never sent
// again. One that was sent is recovered, as after any other crash. No server may
// run meanwhile. Doing it twice, or again after it was cut short, does no harm.
func (s *Store) AfterRestore(ctx context.Context) (Restored, error) {
	var r Restored
	var last sql.NullInt64
	if err := (reads{s, ctx}).row(`SELECT at FROM events ORDER BY seq DESC LIMIT 1`).Scan(&last); err != nil && !isNoRow(err) {
		return r, fmt.Errorf("store: %w", err)
	}
	r.Last = fromMillis(last.Int64)
	ids, err := collect(reads{s, ctx}, func(row scanner) (id int64, err error) { return id, row.Scan(&id) }, `SELECT id FROM operators ORDER BY id`)
	if err != nil {
		return r, err
	}
	for _, operator := range ids {
		tripped := false
		err := s.writeFor(ctx, operator, "restored", func(tx *tx) (err error) {
			tripped, err = tx.tripRestored(operator)
			return err
		})
		if err != nil {
			return r, err
		}
		if tripped {
			r.Breakers++
		}
		for more := true; more; {
			n := 0
			err := s.writeFor(ctx, operator, "restored", func(tx *tx) (err error) {
				n, err = tx.forget(operator)
				return err
			})
			if err != nil {
				return r, err
			}
			r.Unknown += n
			more = n > 0
		}
	}
	err = s.write(ctx, "restored", func(tx *tx) error {
		res, err := tx.exec(`UPDATE cards SET unsettled = ?`, true)
		if err != nil {
			return err
		}
		if r.Cards, err = res.RowsAffected(); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		return tx.addEvents(Event{Kind: "record restored", Internal: true, Detail: map[string]any{
			"last": r.Last, "breakers": r.Breakers, "cards": r.Cards, "requests": r.Unknown,
		}})
	})
	return r, err
}

// tripRestored trips an operator's breaker, unless it has.
func (t *tx) tripRestored(operator int64) (bool, error) {
	scopes, err := collect(t, scanScope,
		`SELECT `+scopeColumns+` FROM guard_scopes WHERE operator_id = ? ORDER BY id`+t.s.dialect.forUpdate("guard_scopes"), operator)
	if err != nil || scopes[0].TrippedAt != nil {
		return false, err
	}
	return true, t.trip(operator, []guard.Scope{scopes[0]}, restoredBreaker)
}

// forgetting is how many requests end in one transaction.
const forgetting = 500

// forget ends some of an operator's requests of which nothing was sent as far as
// the record knows. It reports how many.
func (t *tx) forget(operator int64) (int, error) {
	list, err := collect(t, scanRequest, `SELECT `+requestColumns+` FROM deactivations
		WHERE operator_id = ? AND finished_at IS NULL AND sent_at IS NULL ORDER BY seq LIMIT ?`, operator, forgetting)
	if err != nil {
		return 0, err
	}
	now := fromMillis(millis(t.now))
	for i := range list {
		r := &list[i]
		if err := t.release(r); err != nil {
			return 0, err
		}
		var how Management
		var counter sql.NullInt64
		err := t.row(`SELECT management, CASE management WHEN 'applet' THEN event_counter END FROM cards WHERE eid = ?`, r.EID.String()).Scan(&how, &counter)
		if isNoRow(err) { // and so nothing can have been sent
			step := Event{Kind: string(Expired), Detail: map[string]any{"text": restoredRequest}}
			if _, err := t.finish(nil, r, Outcome{State: Expired, Detail: restoredRequest, Steps: []Event{step}}); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("store: %w", err)
		}
		// Sent, as far as anybody can tell: now, and after what is known of its card.
		if _, err := t.exec(`UPDATE deactivations SET state = ?, detail = ?, updated_at = ?, finished_at = ?, sent_at = ?, how = ?, counter = ? WHERE id = ?`,
			string(Unknown), restoredRequest, millis(now), millis(now), millis(now), string(how), counter, r.ID.String()); err != nil {
			return 0, err
		}
		r.State, r.Detail, r.UpdatedAt, r.FinishedAt, r.SentAt, r.How = Unknown, restoredRequest, now, &now, &now, how
		if err := t.tell(webhook.Finished, r); err != nil {
			return 0, err
		}
		step := Event{Kind: string(Unknown), Detail: map[string]any{"text": restoredRequest}}
		if err := t.addEvents(r.steps([]Event{step})...); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}
