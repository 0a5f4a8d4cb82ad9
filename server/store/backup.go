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

// Backup writes a copy of the SQLite record at path as it is at one moment into a
// new file (mode 0600), while servers go on with the record. The record stays of
// the schema that it has, which may be an older program's. The file is there whole
// and on disk, or not at all; one that is there already stays, and the error
// matches os.ErrExist.
func Backup(ctx context.Context, path, file string) (err error) {
	if IsPostgres(path) {
		return ErrNotSQLite
	}
	if path, err = filepath.Abs(path); err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	db, err := openFile(path, url.Values{"mode": {"rw"}, "_pragma": {"busy_timeout(15000)"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return place(file, func(temp string) error {
		if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, temp); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if err := examine(ctx, temp); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
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
	// SQLite does not say so where closing a file cannot bring the last writes
	// into it, as on a full disk.
	if info, err := os.Stat(temp + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("store: %s: not all could be written", file)
	}
	if err := syncFile(temp, os.O_RDWR); err != nil { // Windows syncs nothing that is only read
		return fmt.Errorf("store: %w", err)
	}
	// A link replaces nothing, as a renaming would.
	if err = os.Link(temp, file); err != nil && !errors.Is(err, os.ErrExist) {
		err = moveNew(temp, file)
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	// That the name is on disk too; not every system lets a directory be synced.
	_ = syncFile(dir, os.O_RDONLY)
	return nil
}

// moveNew moves a file to a name that nothing has, where there are no links, such
// as on FAT and some network file systems. A crash within it leaves an empty file.
func moveNew(temp, file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Rename(temp, file)); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}

func syncFile(name string, how int) error {
	f, err := os.OpenFile(name, how, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// examine holds an SQLite record against what it must be, without changing it.
func examine(ctx context.Context, file string) (err error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	db, err := openFile(abs, url.Values{"mode": {"ro"}, "immutable": {"1"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var found string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&found); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if found != "ok" {
		return fmt.Errorf("%w: %s", ErrDamaged, found)
	}
	var version int64
	if err := db.QueryRowContext(ctx, newestApplied).Scan(&version); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	p, err := (&Store{db: db, dialect: sqliteDialect}).provider()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return known(p, version)
}

// Restored is what Restore and AfterRestore did.
type Restored struct {
	Last     time.Time // of what the record tells of
	Breakers int       // operators whose breaker is tripped
	Cards    int64     // that will be read before anything is sent to them
	Unknown  int       // requests whose outcome is not known any more
}

// Restore makes an SQLite record at path of a backup, as AfterRestore says. It is
// there whole or not at all; one that is there stays, and the error matches
// os.ErrExist, or ErrInUse where a server works there. The backup is not changed.
// A record that is in use, or was not closed, is no backup (ErrDamaged): its last
// writes are in another file.
func Restore(ctx context.Context, backup, path string) (r Restored, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return r, fmt.Errorf("store: %w", err)
	}
	for _, name := range []string{path, path + "-wal", path + "-shm", path + "-journal"} {
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
		if err := copyBackup(ctx, temp, backup); err != nil {
			return err
		}
		if err := examine(ctx, temp); err != nil {
			return fmt.Errorf("%s: %w", backup, err)
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

func copyBackup(ctx context.Context, to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is no file", ErrDamaged, from)
	}
	if from, err = filepath.EvalSymlinks(from); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	for _, more := range []string{from + "-wal", from + "-journal"} {
		if info, err := os.Stat(more); err == nil && info.Size() > 0 {
			return fmt.Errorf("%w: %s has more of it, which is not copied: make a backup of that record, or end its server first", ErrDamaged, more)
		}
	}
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	_, err = io.Copy(out, until{ctx, in})
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// until is a reader that ends with ctx.
type until struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (u until) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(b)
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
		err := s.writeFor(ctx, operator, "restored", func(tx *tx) error { return tx.tripRestored(operator) })
		if err != nil {
			return r, err
		}
		r.Breakers++
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
func (t *tx) tripRestored(operator int64) error {
	scopes, err := t.scopes(operator, nil)
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: operator %d has no guard", ErrDamaged, operator)
	case err != nil || scopes[0].TrippedAt != nil:
		return err
	}
	return t.trip(operator, scopes, restoredBreaker)
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
