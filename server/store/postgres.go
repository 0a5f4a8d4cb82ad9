package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3/lock"
)

const (
	// postgresWriters is how many transactions of this process are under way at
	// once. Those of one operator wait for each other at its guard, so that more
	// of them make batches smaller and little else.
	postgresWriters = 3
	postgresReaders = 8
	// connectTimeout bounds finding a database that is gone.
	connectTimeout = 5 * time.Second
)

// openPostgres opens the database at a URL. The error tells no password.
func (s *Store) openPostgres(url string) error {
	config, err := pgx.ParseConfig(url)
	// A password that has a slash splits the URL at the wrong place; errors would
	// tell of it.
	if err != nil || strings.Contains(config.Host+config.Database, "@") {
		return errors.New("store: the PostgreSQL URL cannot be read; it is like postgres://user:password@host:5432/database?sslmode=verify-full, " +
			"with %2F for a slash in the password, %40 for @, %23 for # and %3F for a question mark")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	for name, value := range map[string]string{
		// A server that hangs in a transaction must not keep the others out, and
		// those wait for longer than it may.
		"idle_in_transaction_session_timeout": "10000",
		"lock_timeout":                        "20000",
		"statement_timeout":                   "30000",
		"application_name":                    "cardbridge",
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	s.db = sql.OpenDB(stdlib.GetConnector(*config, stdlib.OptionAfterConnect(durable)))
	s.db.SetMaxOpenConns(postgresWriters + postgresReaders)
	s.db.SetMaxIdleConns(postgresWriters + postgresReaders)
	s.db.SetConnMaxIdleTime(5 * time.Minute)
	s.dialect = postgresDialect
	return nil
}

// durable keeps a database from reporting commits before they are on disk: the
// mark that goes before a command must outlive everything.
func durable(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	return err
}

// patient is the lock of goose's that keeps the schema's other keepers out; while
// it is held no time bounds a statement.
type patient struct{ lock.SessionLocker }

func (p patient) SessionLock(ctx context.Context, conn *sql.Conn) error {
	if err := p.SessionLocker.SessionLock(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, `SET statement_timeout = 0`); err != nil {
		return errors.Join(err, p.SessionLocker.SessionUnlock(ctx, conn))
	}
	return nil
}

func (p patient) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `RESET statement_timeout`)
	return errors.Join(err, p.SessionLocker.SessionUnlock(ctx, conn))
}
