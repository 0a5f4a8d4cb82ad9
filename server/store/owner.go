package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

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
	db, err := openFile(path, url.Values{"_pragma": {"busy_timeout(0)"}, "_txlock": {"exclusive"}})
	if err != nil {
		return nil, err
	}
	// The transaction must outlive ctx.
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		var e *sqlite.Error
		if errors.As(err, &e) && e.Code()&0xFF == sqlite3.SQLITE_BUSY {
			err = fmt.Errorf("%w: %s is locked", ErrInUse, path)
		} else {
			err = fmt.Errorf("store: %s: %w", path, err)
		}
		return nil, errors.Join(err, db.Close())
	}
	return func() error { return errors.Join(tx.Rollback(), db.Close()) }, nil
}
