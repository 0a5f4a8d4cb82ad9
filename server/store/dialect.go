package store

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
)

// dialect is in what the databases differ. Queries are written with ? for their
// arguments.
type dialect struct {
	name   string // of the migrations' directory
	goose  goose.Dialect
	begin  string
	remote bool // statements can hang, and other servers work on the same rows
	// forUpdate locks the rows of a SELECT, of the table that it names.
	forUpdate func(table string) string
	// skipLocked does so for those that nobody else holds.
	skipLocked string
	// in asks whether a column's value is one of a list argument.
	in   func(column string) string
	list func([]string) any
	bind func(query string) string
}

var sqliteDialect = &dialect{
	name: "sqlite", goose: goose.DialectSQLite3, begin: `BEGIN IMMEDIATE`,
	forUpdate: func(string) string { return "" },
	in:        func(column string) string { return column + ` IN (SELECT value FROM json_each(?))` },
	list: func(l []string) any {
		b, _ := json.Marshal(l) // strings do not fail
		return string(b)
	},
	bind: func(q string) string { return q },
}

var postgresDialect = &dialect{
	name: "postgres", goose: goose.DialectPostgres, begin: `BEGIN`, remote: true,
	forUpdate:  func(table string) string { return ` FOR UPDATE OF ` + table },
	skipLocked: ` FOR UPDATE SKIP LOCKED`,
	in:         func(column string) string { return column + ` = ANY(?)` },
	list:       func(l []string) any { return l },
	bind:       numbered,
}

var numberedQueries sync.Map // of queries written with ?

// numbered has $1, $2 … in place of each ?.
func numbered(query string) string {
	if q, ok := numberedQueries.Load(query); ok {
		return q.(string)
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	numberedQueries.Store(query, b.String())
	return b.String()
}

// retry reports whether the database gave a transaction up for the sake of
// another one's: for a deadlock, or since the other used the same idempotency
// key first.
func (d *dialect) retry(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	case "23505": // unique_violation
		return e.ConstraintName == "idempotency_keys_pkey"
	}
	return false
}

// errBadConn tells database/sql to throw a connection away.
var errBadConn = driver.ErrBadConn
