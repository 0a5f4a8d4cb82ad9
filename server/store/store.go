// Package store is the record: operators, cards, deactivation requests, and the
// append-only trail of everything that happened to them.
//
// A Store is a database file that several processes of one machine may use at
// once. Each method is one transaction, durable when it returns. What a method
// changes and the events that tell of it are written together.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Errors that those of this package match.
var (
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("store: not found")
	// ErrExists says that a record with this key is there already.
	ErrExists = errors.New("store: exists already")
	// ErrKeyReused says that an idempotency key came back with another body.
	ErrKeyReused = errors.New("store: idempotency key was used for another request")
	// ErrState says that a request is not in a state that the step starts from:
	// somebody else, or its deadline, was faster. Nothing was changed.
	ErrState = errors.New("store: request is not in a state for this")
	// ErrRefused says that a rule refused a request and so ended it.
	ErrRefused = errors.New("store: refused by a rule")
)

//go:embed migrations
var migrations embed.FS

// Store is the record on disk. It is safe for concurrent use.
type Store struct {
	path string
	db   *sql.DB
	now  func() time.Time

	mu    sync.Mutex // one writer of this process at a time; the database has one anyway
	wrote time.Time  // the last write that went well, zero where the last one failed; guarded by mu
}

// Option changes how a Store is opened.
type Option func(*Store)

// WithClock sets the clock that stamps records and events.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Open opens the database file at path, makes it (mode 0600) where it is not
// there, and brings its schema up to date.
func Open(ctx context.Context, path string, opts ...Option) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	f, err := os.OpenFile(abs, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	// WAL with synchronous FULL: a commit is on disk before it is reported.
	db, err := openFile(abs, url.Values{
		"_pragma": {"busy_timeout(15000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	})
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	s := &Store{path: abs, db: db, now: time.Now}
	for _, o := range opts {
		o(s)
	}
	if err := migrate(ctx, db); err != nil {
		db.Close()
		return nil, fmt.Errorf("store: %s: %w", path, err)
	}
	return s, nil
}

// openFile opens an SQLite file at an absolute path, whatever characters are in
// it.
func openFile(path string, options url.Values) (*sql.DB, error) {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a drive letter
	}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: options.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return db, nil
}

// migrate brings the schema up to date. Two processes may do so at once: the
// one that loses the race finds the other's work done.
func migrate(ctx context.Context, db *sql.DB) error {
	for try := 0; ; try++ {
		p, err := provider(db)
		if err != nil {
			return err
		}
		if _, err = p.Up(ctx); err == nil || try == 3 || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func provider(db *sql.DB) (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithDisableGlobalRegistry(true))
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// pingEvery is how old the last good write may be to stand for the next.
const pingEvery = 10 * time.Second

// Ping reports whether the record can be written, by a small write unless
// another one went well just now.
func (s *Store) Ping(ctx context.Context) error {
	s.mu.Lock()
	age := s.now().Sub(s.wrote)
	s.mu.Unlock()
	if age >= 0 && age < pingEvery {
		return nil
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE health SET at = ? WHERE id = 1`, millis(s.now()))
		return oneRow(res, err, ErrNotFound)
	})
}

// write runs fn in one transaction that holds the write lock from its start.
func (s *Store) write(ctx context.Context, fn func(*sql.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = time.Time{}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.wrote = s.now()
	return nil
}

// querier is what *sql.DB and *sql.Tx share.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// scanner is what *sql.Row and *sql.Rows share.
type scanner interface{ Scan(dest ...any) error }

// collect reads all rows through scan.
func collect[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return out, nil
}

// found turns sql's error into ErrNotFound.
func found(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	}
	return fmt.Errorf("store: %w", err)
}

func millis(t time.Time) int64 { return t.UnixMilli() }

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func fromNullMillis(ms sql.NullInt64) *time.Time {
	if !ms.Valid {
		return nil
	}
	t := fromMillis(ms.Int64)
	return &t
}
