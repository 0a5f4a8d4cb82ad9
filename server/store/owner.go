package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrInUse says that another server works on this record.
var ErrInUse = errors.New("store: another server works on this record")

// Own makes this process the one server that works on an SQLite record, until
// release or the process's end, however it ends, and gives back the claims of
// those before it. The error matches ErrInUse where another one is. Who only
// adds or reads records need not own them. A PostgreSQL record has no owner.
func (s *Store) Own(ctx context.Context) (release func() error, err error) {
	if s.Shared() {
		return func() error { return nil }, nil
	}
	release, err = ownFile(ctx, s.path)
	if err != nil {
		return nil, err
	}
	if err := s.releaseAll(ctx); err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xFF == sqlite3.SQLITE_BUSY
}

// InUse reports whether a server works on the SQLite record at a path, whether or
// not it is there. It changes nothing.
func InUse(ctx context.Context, path string) (in bool, err error) {
	path, err = filepath.Abs(path + ".owner")
	if err == nil {
		_, err = os.Stat(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	db, err := openFile(path, url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(0)"}})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var n int
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master`).Scan(&n)
	switch {
	case isBusy(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("store: %s: %w", path, err)
	}
	return false, nil
}

// ownFile is Own for the SQLite record at a path, whether or not it is there.
func ownFile(ctx context.Context, path string) (release func() error, err error) {
	// A lock of a database file of its own: it works wherever SQLite does, and
	// the system takes it away from a process that dies.
	path += ".owner"
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	// Who looks whether it is locked (InUse) is gone in a moment.
	db, err := openFile(path, url.Values{"_pragma": {"busy_timeout(200)"}, "_txlock": {"exclusive"}})
	if err != nil {
		return nil, err
	}
	// The transaction must outlive ctx.
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		if isBusy(err) {
			err = fmt.Errorf("%w: %s is locked", ErrInUse, path)
		} else {
			err = fmt.Errorf("store: %s: %w", path, err)
		}
		return nil, errors.Join(err, db.Close())
	}
	return func() error { return errors.Join(tx.Rollback(), db.Close()) }, nil
}
