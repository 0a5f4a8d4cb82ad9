// Package store is the record: operators, cards, deactivation requests, and the
// append-only trail of everything that happened to them.
//
// A Store is an SQLite file, for one server, or a PostgreSQL database that
// several servers share. Each method is one transaction, durable when it
// returns. What a method changes and the events that tell of it are written
// together.
//
// What is done with a card needs a Claim on it: a lease with a fencing token.
// Whoever's lease has passed can write nothing of it any more.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
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
	// ErrHeld says that a request waits for an approval and was not sent.
	ErrHeld = errors.New("store: waits for an approval")
	// ErrTooMany says that a bound of the record would be passed.
	ErrTooMany = errors.New("store: too many")
	// ErrFenced says that a claim's lease has passed, or that somebody else has
	// claimed the card since. Nothing was changed.
	ErrFenced = errors.New("store: the claim on the card has passed")
)

//go:embed migrations
var migrations embed.FS

// Store is the record. It is safe for concurrent use.
type Store struct {
	path    string // of an SQLite file; else empty
	db      *sql.DB
	dialect *dialect
	clock   func() time.Time // nil: the database's
	faults  func(write string, committed bool) error
	timed   func(query string, args []any, took time.Duration) // nil: nobody asks, as of those below

	committed func(writes int, took time.Duration, err error)
	arrived   func(state State, by string)

	unaudited bool
	scanned   int // rows that a page of a list looks at

	migrated struct{ from, to int64 } // the schema, by this process; 0: it was not

	writes     chan *writing
	writers    sync.WaitGroup
	closing    chan struct{}
	closed     chan struct{} // once nobody writes any more
	close      sync.Once
	statements sync.Map     // query to *sql.Stmt, for reads
	wrote      atomic.Int64 // the last write that went well, milliseconds; 0 where the last one failed
}

// Option changes how a Store is opened.
type Option func(*Store)

// WithClock sets the clock that stamps records and events, and by which leases
// and deadlines pass. The default is the system's for an SQLite file, and the
// database's for PostgreSQL.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.clock = now } }

// WithFaults has f called around each write, by its name: before it, where an
// error keeps it from being done, and once it is committed, where an error says
// that nobody was told. For tests of what happens then.
func WithFaults(f func(write string, committed bool) error) Option {
	return func(s *Store) { s.faults = f }
}

// WithTimings has f told of every statement, as it is written with ? for its
// arguments, of these, and how long it took until its rows were read. f is called
// by many goroutines, and keeps no argument.
func WithTimings(f func(query string, args []any, took time.Duration)) Option {
	return func(s *Store) { s.timed = f }
}

// WithoutAudit leaves all events out. It is for measuring what they cost, and for
// nothing else: requests without steps, and a record that proves nothing.
func WithoutAudit() Option { return func(s *Store) { s.unaudited = true } }

// timing begins the time of a statement; end tells of it.
func (s *Store) timing(query string, args []any) (end func()) {
	if s.timed == nil {
		return func() {}
	}
	began := time.Now()
	return func() { s.timed(query, args, time.Since(began)) }
}

// IsPostgres reports whether where names a PostgreSQL database: a URL such as
// postgres://user@host/database.
func IsPostgres(where string) bool {
	return strings.HasPrefix(where, "postgres://") || strings.HasPrefix(where, "postgresql://")
}

// Open opens a record and brings its schema up to date: an SQLite file at a
// path, made (mode 0600) where it is not there, or a PostgreSQL database at a
// URL. The error matches ErrNewer where the schema is a newer program's.
func Open(ctx context.Context, where string, opts ...Option) (*Store, error) {
	s := &Store{scanned: maxScanned, writes: make(chan *writing, maxBatch), closing: make(chan struct{}), closed: make(chan struct{})}
	for _, o := range opts {
		o(s)
	}
	var err error
	writers := 1
	if IsPostgres(where) {
		writers = postgresWriters
		err = s.openPostgres(where)
	} else {
		err = s.openSQLite(where)
	}
	if err != nil {
		return nil, err
	}
	if err := s.migrate(ctx); err != nil {
		s.db.Close()
		return nil, fmt.Errorf("store: %w", err)
	}
	for range writers {
		s.writers.Add(1)
		go s.runWrites()
	}
	if s.migrated.to > 0 {
		if err := s.Note(ctx, Event{Kind: "schema migrated", Internal: true, Detail: map[string]any{"from": s.migrated.from, "to": s.migrated.to}}); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// migrate brings the schema up to date. Two processes may do so at once: the
// one that loses the race finds the other's work done.
func (s *Store) migrate(ctx context.Context) error {
	for try := 0; ; try++ {
		p, err := s.provider()
		if err != nil {
			return err
		}
		done, err := p.Up(ctx)
		if n := len(done); n > 0 {
			s.migrated.from, s.migrated.to = done[0].Source.Version-1, done[n-1].Source.Version
		}
		if err == nil {
			var version int64
			if err = s.db.QueryRowContext(ctx, newestApplied).Scan(&version); err == nil {
				return known(p, version)
			}
		}
		if try == 3 || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// newestApplied is the version of a record's schema, whatever program made it.
const newestApplied = `SELECT max(version_id) FROM goose_db_version`

// known refuses a schema that is newer than the last one of this program, which
// would write into it what it does not know the meaning of.
func known(p *goose.Provider, version int64) error {
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; version > newest {
		return fmt.Errorf("%w: its schema is version %d, and this program knows those up to %d", ErrNewer, version, newest)
	}
	return nil
}

func (s *Store) provider() (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations/"+s.dialect.name)
	if err != nil {
		return nil, err
	}
	opts := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if s.dialect.remote {
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return nil, err
		}
		opts = append(opts, goose.WithSessionLocker(patient{locker}))
	}
	return goose.NewProvider(s.dialect.goose, s.db, dir, opts...)
}

// Version is that of the record's schema.
func (s *Store) Version(ctx context.Context) (int64, error) {
	p, err := s.provider()
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	version, err := p.GetDBVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return version, nil
}

// Downgrade takes the schema back to the version of an older program; what only
// newer ones know is lost. No server may work on the record: for an SQLite one
// the error matches ErrInUse where one does. The Store is to be closed then.
func (s *Store) Downgrade(ctx context.Context, version int64) (err error) {
	release, err := s.Own(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := s.Note(ctx, Event{Kind: "schema taken back", Internal: true, Detail: map[string]any{"to": version}}); err != nil {
		return err
	}
	p, err := s.provider()
	if err == nil {
		_, err = p.DownTo(ctx, version)
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Close waits for writes under way and closes the record.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.closing)
		s.writers.Wait()
		close(s.closed)
	})
	return s.db.Close()
}

// Shared says whether several servers may work on the record at once.
func (s *Store) Shared() bool { return s.dialect.remote }

// Now is the store's clock, of this machine where the database's own is not
// asked.
func (s *Store) Now() time.Time { return s.now() }

func (s *Store) now() time.Time {
	if s.clock != nil {
		return s.clock()
	}
	return time.Now()
}

// at calls the fault function.
func (s *Store) at(write string, committed bool) error {
	if s.faults == nil {
		return nil
	}
	return s.faults(write, committed)
}

// pingEvery is how old the last good write may be to stand for the next.
const pingEvery = 10 * time.Second

// Ping reports whether the record can be written, by a small write unless
// another one went well just now.
func (s *Store) Ping(ctx context.Context) error {
	if age := s.now().Sub(fromMillis(s.wrote.Load())); age >= 0 && age < pingEvery {
		return nil
	}
	return s.write(ctx, "ping", func(tx *tx) error {
		res, err := tx.exec(`UPDATE health SET at = ? WHERE id = 1`, millis(tx.now))
		return oneRow(res, err, ErrNotFound)
	})
}

// oneRow turns an UPDATE that met no row into otherwise.
func oneRow(res sql.Result, err, otherwise error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if n == 0 {
		return otherwise
	}
	return nil
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
