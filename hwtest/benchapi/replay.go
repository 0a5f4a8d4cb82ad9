package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/cardbridge/cardbridge/server/store"
)

// statement is one that the server made, with its arguments.
type statement struct {
	query string
	args  []any
}

// replay does the statements of one request again, on a connection to the
// database and nothing else. What must be new each time is: the request's id, its
// Idempotency-Key, and the chain of its events.
type replay struct {
	db    *sql.DB
	list  []statement
	id    string // of the request that was made; "": none was
	chain []byte // of its events
	// writing lets one in: SQLite has one writer, and would have the others sleep.
	writing *sync.Mutex
	mu      sync.Mutex
	free    []*session // that nobody uses now
}

func newReplay(record string, list []statement) (*replay, error) {
	r := &replay{list: list}
	var err error
	if store.IsPostgres(record) {
		r.db, err = sql.Open("pgx", record)
	} else {
		r.writing = &sync.Mutex{}
		dsn := url.URL{Scheme: "file", OmitHost: true, Path: record, RawQuery: url.Values{
			"_pragma": {"busy_timeout(15000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		}.Encode()}
		r.db, err = sql.Open("sqlite", dsn.String())
	}
	if err != nil {
		return nil, err
	}
	r.db.SetMaxOpenConns(8)
	r.db.SetMaxIdleConns(8)
	for i, s := range list {
		if strings.HasPrefix(s.query, "INSERT INTO deactivations") {
			r.id = s.args[0].(string)
		}
		if strings.HasPrefix(s.query, "INSERT INTO events") {
			r.chain = s.args[7].([]byte) // the columns' order: at, kind, request_id, eid, operator_id, internal, detail, chain
		}
		if store.IsPostgres(record) {
			r.list[i].query = numbered(s.query)
		}
	}
	return r, nil
}

// numbered has $1, $2 … in place of each ?, as PostgreSQL wants it.
func numbered(query string) string {
	parts := strings.Split(query, "?")
	var b strings.Builder
	for i, p := range parts {
		if b.WriteString(p); i < len(parts)-1 {
			fmt.Fprintf(&b, "$%d", i+1)
		}
	}
	return b.String()
}

func (r *replay) close() error { return r.db.Close() }

// run does the statements once.
func (r *replay) run(ctx context.Context) error {
	conn, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer r.put(conn)
	fresh := make([]byte, 16)
	rand.Read(fresh) // never fails
	id, chain := hex.EncodeToString(fresh), make([]byte, len(r.chain))
	rand.Read(chain)
	for _, s := range r.list {
		if s.query == "BEGIN IMMEDIATE" {
			r.writing.Lock()
			defer r.writing.Unlock()
		}
		args := make([]any, len(s.args))
		for i, a := range s.args {
			switch v := a.(type) {
			case string:
				if r.id != "" && (v == r.id || strings.HasPrefix(v, keyPrefix)) {
					a = id
				}
			case []byte:
				if len(v) > 0 && slices.Equal(v, r.chain) {
					a = chain
				}
			}
			args[i] = a
		}
		if err := conn.do(ctx, s.query, args); err != nil {
			_ = conn.do(ctx, "ROLLBACK", nil) // so that nobody waits for it
			return fmt.Errorf("%.60s…: %w", s.query, err)
		}
	}
	return nil
}

// session is a connection with its prepared statements.
type session struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// take gives a connection that was used before, or a new one.
func (r *replay) take(ctx context.Context) (*session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.free); n > 0 {
		s := r.free[n-1]
		r.free = r.free[:n-1]
		return s, nil
	}
	conn, err := r.db.Conn(ctx)
	return &session{conn, map[string]*sql.Stmt{}}, err
}

func (r *replay) put(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, s)
}

// do does a statement and reads all of its rows.
func (s *session) do(ctx context.Context, query string, args []any) error {
	stmt := s.stmts[query]
	if stmt == nil {
		var err error
		if stmt, err = s.conn.PrepareContext(ctx, query); err != nil {
			return err
		}
		s.stmts[query] = stmt
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	into := make([]any, len(columns))
	for i := range into {
		into[i] = new(any)
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
	}
	return rows.Err()
}
