package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/server/audit"
)

// maxBatch is how many writes share one commit at most.
const maxBatch = 64

// write runs fn in a transaction, durable when it returns nil. Writes that
// wait at the same time share one commit. fn may run more than once, and must
// set all that it hands out each time; it may not wait for another write. ctx
// ends the wait for fn's turn, not fn.
func (s *Store) write(ctx context.Context, name string, fn func(*tx) error) error {
	return s.writeFor(ctx, 0, name, fn)
}

// writeFor is write for what locks the guard's scopes of one operator. A
// transaction takes those of several operators in the order of their numbers:
// else two would wait for each other.
func (s *Store) writeFor(ctx context.Context, operator int64, name string, fn func(*tx) error) error {
	w := &writing{name: name, operator: operator, fn: fn, ctx: ctx, done: make(chan struct{})}
	select {
	case s.writes <- w:
	case <-ctx.Done():
		return fmt.Errorf("store: %w", ctx.Err())
	case <-s.closing:
		return errClosed
	}
	select {
	case <-w.done:
	case <-s.closed:
		select {
		case <-w.done:
		default:
			return errClosed // nobody took it any more
		}
	}
	if w.panicked != nil {
		panic(w.panicked)
	}
	return w.err
}

var errClosed = errors.New("store: closed")

// writing is one call of write.
type writing struct {
	name     string
	operator int64
	fn       func(*tx) error
	ctx      context.Context
	done     chan struct{}
	err      error
	panicked any // what fn panicked with
	// retries is how often the database gave it up for another one.
	retries int
}

const maxRetries = 8

var errBroken = errors.New("store: a statement of the transaction failed")

// run is fn; where it panics the transaction is undone and the caller panics, not
// the writer.
func (w *writing) run(tx *tx) (err error) {
	defer func() {
		if w.panicked = recover(); w.panicked != nil {
			tx.broken, err = true, errPanic
		}
	}()
	return w.fn(tx)
}

var errPanic = errors.New("store: a write panicked")

func (w *writing) end(err error) {
	w.err = err
	close(w.done)
}

// runWrites works until the store is closed, then ends those that wait.
func (s *Store) runWrites() {
	defer s.writers.Done()
	var c *session
	defer func() { c.close() }()
	batch := make([]*writing, 0, maxBatch)
	for {
		batch = batch[:0]
		select {
		case w := <-s.writes:
			batch = append(batch, w)
		case <-s.closing:
			for {
				select {
				case w := <-s.writes:
					w.end(errClosed)
				default:
					return
				}
			}
		}
	gather:
		for len(batch) < maxBatch {
			select {
			case w := <-s.writes:
				batch = append(batch, w)
			default:
				break gather
			}
		}
		slices.SortStableFunc(batch, func(a, b *writing) int { return cmp.Compare(a.operator, b.operator) })
		c = s.commit(c, batch)
	}
}

// commit runs a batch, in one transaction where all goes well; where one fails,
// each in its own. It gives back the session to go on with, nil where it is not
// to be trusted any more.
func (s *Store) commit(c *session, batch []*writing) *session {
	began := time.Now()
	// A dead connection shows at the first statement. Nothing was done then, so
	// that a new one may do it.
	for try := 0; ; try++ {
		var err error
		if c == nil {
			c, err = s.connect()
		}
		if err == nil {
			if err = c.begin(); err == nil {
				break
			}
			c.close()
			c = nil
		}
		if try > 0 {
			for _, w := range batch {
				w.end(fmt.Errorf("store: %w", err))
			}
			return nil
		}
	}
	alone := len(batch) == 1
	for _, w := range batch {
		if err := w.ctx.Err(); err != nil {
			w.err = fmt.Errorf("store: %w", err)
			continue
		}
		before := c.writes
		err := s.at(w.name, false)
		if err == nil {
			c.tick()
			err = w.run(&c.tx)
		}
		if err == nil && c.broken {
			err = errBroken // PostgreSQL would roll back, and call that a success
		}
		if w.err = err; err == nil || c.writes == before && !c.broken {
			continue // an error before anything was written leaves the others alone
		}
		if c.broken {
			s.wrote.Store(0)
		}
		if c.rollback() != nil {
			c.close()
			c = nil
		}
		if !alone {
			for _, w := range batch {
				w.err = nil
				c = s.commit(c, []*writing{w})
			}
			return c
		}
		if w.retries < maxRetries && s.dialect.retry(err) {
			w.retries++
			w.err = nil
			return s.commit(c, batch)
		}
		w.end(err)
		return c
	}
	err := c.commit()
	s.observed(c, len(batch), began, err)
	if err != nil {
		// Whether it is on disk is not known.
		c.rollback()
		c.close()
		for _, w := range batch {
			if w.err == nil {
				w.err = fmt.Errorf("store: %w", err)
			}
			close(w.done)
		}
		s.wrote.Store(0)
		return nil
	}
	s.wrote.Store(s.now().UnixMilli())
	for _, w := range batch {
		if w.err == nil {
			w.err = s.at(w.name, true)
		}
		close(w.done)
	}
	return c
}

// session is one connection that writes.
type session struct {
	conn  *sql.Conn
	chain audit.Head // of its events, as they are committed; N is 0 before the first
	tx
}

// tx is one transaction under way.
type tx struct {
	s      *Store
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt
	now    time.Time // as of the last tick; the database's where it has a clock for all servers
	begun  time.Time // the database's clock when the transaction began,
	since  time.Time // and this machine's
	writes int       // statements that changed something
	broken bool      // a statement failed
	head   audit.Head
	buf    []byte // to hash in
	// arrivals are told of once the transaction is committed.
	arrivals []arrival
	ctx      context.Context
}

// writeTimeout bounds one statement of a transaction.
const writeTimeout = 30 * time.Second

func (s *Store) connect() (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn, tx: tx{s: s, conn: conn, stmts: map[string]*sql.Stmt{}}}, nil
}

func (c *session) close() {
	if c == nil {
		return
	}
	for _, stmt := range c.stmts {
		stmt.Close()
	}
	// The connection itself goes too: what is left of it is not to be used by
	// others.
	c.conn.Raw(func(any) error { return errBadConn })
	c.conn.Close()
}

func (c *session) begin() error {
	c.writes, c.broken, c.head, c.arrivals = 0, false, c.chain, c.arrivals[:0]
	c.ctx = context.Background()
	if _, err := c.exec(c.s.dialect.begin); err != nil {
		return err
	}
	c.writes = 0
	if c.s.clock != nil {
		c.tick()
		return nil
	}
	c.since = time.Now()
	var ms int64
	if err := c.row(`SELECT now_ms()`).Scan(&ms); err != nil {
		return err
	}
	c.begun = fromMillis(ms)
	c.tick()
	return nil
}

// tick brings now up to date: whoever waited for a lock may have waited for
// long.
func (t *tx) tick() {
	if t.s.clock != nil {
		t.now = t.s.clock()
		return
	}
	t.now = t.begun.Add(time.Since(t.since))
}

func (c *session) commit() error {
	_, err := c.exec(`COMMIT`)
	if err == nil {
		c.chain = c.head
	}
	return err
}

func (c *session) rollback() error {
	_, err := c.exec(`ROLLBACK`)
	return err
}

// stmt is a statement, prepared once for each connection.
func (t *tx) stmt(query string) (*sql.Stmt, error) {
	if stmt := t.stmts[query]; stmt != nil {
		return stmt, nil
	}
	ctx, cancel := t.bounded()
	defer cancel()
	stmt, err := t.conn.PrepareContext(ctx, t.s.dialect.bind(query))
	if err != nil {
		t.broken = true
		return nil, err
	}
	t.stmts[query] = stmt
	return stmt, nil
}

// bounded is the context of one statement.
func (t *tx) bounded() (context.Context, context.CancelFunc) {
	if !t.s.dialect.remote {
		return t.ctx, func() {} // SQLite has its own bounds, and watching a context costs more than most statements
	}
	return context.WithTimeout(t.ctx, writeTimeout)
}

func (t *tx) exec(query string, args ...any) (sql.Result, error) {
	stmt, err := t.stmt(query)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer t.s.timing(query, args)()
	ctx, cancel := t.bounded()
	defer cancel()
	res, err := stmt.ExecContext(ctx, args...)
	if err != nil {
		t.broken = true
		return nil, fmt.Errorf("store: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		t.writes++
	}
	return res, nil
}

func (t *tx) rows(query string, args ...any) (*sql.Rows, func(), error) {
	stmt, err := t.stmt(query)
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	end := t.s.timing(query, args)
	ctx, cancel := t.bounded()
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		cancel()
		t.broken = true
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	return rows, func() {
		if rows.Close(); rows.Err() != nil {
			t.broken = true
		}
		cancel()
		end()
	}, nil
}

// row is one row; Scan gives sql.ErrNoRows where there is none.
func (t *tx) row(query string, args ...any) scanner { return oneRowOf{t, query, args} }

type oneRowOf struct {
	q     querier
	query string
	args  []any
}

// Scan implements scanner.
func (r oneRowOf) Scan(dest ...any) error {
	rows, done, err := r.q.rows(r.query, r.args...)
	if err != nil {
		return err
	}
	defer done()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return sql.ErrNoRows
	}
	return rows.Scan(dest...)
}

// reads is the database outside of a transaction.
type reads struct {
	s   *Store
	ctx context.Context
}

func (r reads) rows(query string, args ...any) (*sql.Rows, func(), error) {
	stmt, err := r.s.prepared(r.ctx, query)
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	end := r.s.timing(query, args)
	rows, err := stmt.QueryContext(r.ctx, args...)
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	return rows, func() { rows.Close(); end() }, nil
}

func (r reads) row(query string, args ...any) scanner { return oneRowOf{r, query, args} }

// prepared is a statement for any connection, prepared once.
func (s *Store) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := s.statements.Load(query); ok {
		return stmt.(*sql.Stmt), nil
	}
	stmt, err := s.db.PrepareContext(ctx, s.dialect.bind(query))
	if err != nil {
		return nil, err
	}
	if before, raced := s.statements.LoadOrStore(query, stmt); raced {
		stmt.Close()
		return before.(*sql.Stmt), nil
	}
	return stmt, nil
}

// querier is what a transaction and the database outside of one share. done
// must be called after the last row.
type querier interface {
	rows(query string, args ...any) (rows *sql.Rows, done func(), err error)
	row(query string, args ...any) scanner
}

// scanner is a row.
type scanner interface{ Scan(dest ...any) error }

// collect reads all rows through scan.
func collect[T any](q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, done, err := q.rows(query, args...)
	if err != nil {
		return nil, err
	}
	defer done()
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
