package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// fleet is an operator's registered cards, from number 0 on.
type fleet struct {
	record string // as store.Open wants it
	token  string // the operator's
	cards  int    // registered
	used   int    // deactivated already: cards below that number
	tables []table
}

// table is the rows that one registration makes in a table.
type table struct {
	name    string
	columns []string
	rows    [][]cell
}

// cell is a value of card 0's, and where in it its identifiers are.
type cell struct {
	value any
	spots []spot
}

// spot is the identifier of that number, from a byte on.
type spot struct{ at, which int }

// identifiers of card n that its rows have; all cards' are of one length.
func identifiers(n int) []string {
	out := []string{servertest.EID(n).String()}
	for i := range servertest.Image(0).Profiles {
		out = append(out, servertest.ICCID(n, i).String())
	}
	return out
}

// recordOf is the card record file of card n, for one suite.
func recordOf(n int, suite cryptogram.Suite) []byte {
	im := servertest.Image(n)
	im.Suites = []int{int(suite)}
	if suite == cryptogram.Suite01 {
		im.Keys.Auth = im.Keys.Auth[:1]
	}
	return servertest.Record(im)
}

// newFleet makes a record with an operator and its first card, which is
// registered as all cards are.
func newFleet(ctx context.Context, record string, suite cryptogram.Suite) (f *fleet, err error) {
	s, err := store.Open(ctx, record)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	op, token, err := server.AddOperator(ctx, s, "bench", servertest.Owner, "", store.AllRoles)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	srv, err := server.New(server.Config{Store: s, Inventory: inventory.New(servertest.NewReaders(), log), Terminal: servertest.Terminal(), Log: log})
	if err != nil {
		return nil, err
	}
	if _, _, err := srv.RegisterCard(ctx, op, recordOf(0, suite)); err != nil {
		return nil, err
	}
	f = &fleet{record: record, token: token, cards: 1}
	db, err := f.open()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	// The card's state is read: nothing is left to be done for it.
	if _, err := db.ExecContext(ctx, `UPDATE cards SET unsettled = FALSE`); err != nil {
		return nil, err
	}
	for _, name := range []string{"cards", "profiles", "registrations", "events"} {
		t, err := readTable(ctx, db, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.tables = append(f.tables, t)
	}
	return f, nil
}

// open opens the record beside the server.
func (f *fleet) open() (*sql.DB, error) {
	if store.IsPostgres(f.record) {
		return sql.Open("pgx", f.record)
	}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: f.record, RawQuery: url.Values{
		"_pragma": {"busy_timeout(60000)", "synchronous(OFF)", "cache_size(-200000)"},
	}.Encode()}
	return sql.Open("sqlite", dsn.String())
}

// readTable reads the rows of card 0, without the numbers that databases give.
func readTable(ctx context.Context, db *sql.DB, name string) (table, error) {
	t := table{name: name}
	rows, err := db.QueryContext(ctx, `SELECT * FROM `+name+` WHERE eid = '`+servertest.EID(0).String()+`'`)
	if err != nil {
		return t, err
	}
	defer rows.Close()
	all, err := rows.Columns()
	if err != nil {
		return t, err
	}
	seq := slices.Index(all, "seq")
	t.columns = slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == "seq" })
	own := identifiers(0)
	for rows.Next() {
		values, into := make([]any, len(all)), make([]any, len(all))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return t, err
		}
		if seq >= 0 {
			values = slices.Delete(values, seq, seq+1)
		}
		row := make([]cell, len(values))
		for i, v := range values {
			row[i] = newCell(v, own)
		}
		t.rows = append(t.rows, row)
	}
	return t, rows.Err()
}

func newCell(v any, own []string) cell {
	c := cell{value: v}
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case []byte:
		text = string(v)
		c.value = bytes.Clone(v)
	}
	for which, name := range own {
		for at := 0; ; at += len(name) {
			i := strings.Index(text[at:], name)
			if i < 0 {
				break
			}
			at += i
			c.spots = append(c.spots, spot{at, which})
		}
	}
	return c
}

// of is the value of the card that has these identifiers.
func (c cell) of(names []string) any {
	if len(c.spots) == 0 {
		return c.value
	}
	text, isText := c.value.(string)
	b := []byte(text)
	if !isText {
		b = bytes.Clone(c.value.([]byte))
	}
	for _, s := range c.spots {
		copy(b[s.at:], names[s.which])
	}
	if isText {
		return string(b)
	}
	return b
}

// grow registers cards up to that number, as a restore of a backup would: the
// rows that the first one has, in bulk.
func (f *fleet) grow(ctx context.Context, cards int) error {
	if cards <= f.cards {
		return nil
	}
	var err error
	if store.IsPostgres(f.record) {
		err = f.growPostgres(ctx, cards)
	} else {
		err = f.growSQLite(ctx, cards)
	}
	if err != nil {
		return fmt.Errorf("registering %d cards: %w", cards, err)
	}
	f.cards = cards
	return nil
}

const fleetIs = `UPDATE guard_scopes SET fleet = `

// bulkCards is how many cards are registered in one go.
const bulkCards = 20_000

// chunks gives the identifiers of cards from f.cards on, some at a time.
func (f *fleet) chunks(cards int, some func(names [][]string) error) error {
	for from := f.cards; from < cards; from += bulkCards {
		names := make([][]string, 0, bulkCards)
		for n := from; n < min(from+bulkCards, cards); n++ {
			names = append(names, identifiers(n))
		}
		if err := some(names); err != nil {
			return err
		}
	}
	return nil
}

// next gives the rows of cards, one after the other, then nil.
func (t *table) next(names [][]string) func() []any {
	card, row := 0, 0
	return func() []any {
		if row == len(t.rows) {
			card, row = card+1, 0
		}
		if card == len(names) || len(t.rows) == 0 {
			return nil
		}
		out := make([]any, len(t.columns))
		for i, c := range t.rows[row] {
			out[i] = c.of(names[card])
		}
		row++
		return out
	}
}

func (f *fleet) growPostgres(ctx context.Context, cards int) error {
	conn, err := pgx.Connect(ctx, f.record)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// What refers to what is known to be there.
	if _, err := conn.Exec(ctx, `SET session_replication_role = replica`); err != nil {
		return err
	}
	err = f.chunks(cards, func(names [][]string) error {
		for _, t := range f.tables {
			next := t.next(names)
			_, err := conn.CopyFrom(ctx, pgx.Identifier{t.name}, t.columns, pgx.CopyFromFunc(func() ([]any, error) { return next(), nil }))
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What autovacuum would do before long, and a checkpoint, are not the
	// server's time.
	for _, q := range []string{fmt.Sprintf("%s%d", fleetIs, cards), "VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) growSQLite(ctx context.Context, cards int) error {
	db, err := f.open()
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	err = f.chunks(cards, func(names [][]string) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		for _, t := range f.tables {
			if err := t.insert(ctx, tx, names); err != nil {
				return errors.Join(fmt.Errorf("%s: %w", t.name, err), tx.Rollback())
			}
		}
		return tx.Commit()
	})
	if err != nil {
		return err
	}
	for _, q := range []string{fmt.Sprintf("%s%d", fleetIs, cards), `PRAGMA wal_checkpoint(TRUNCATE)`} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// bulkRows is how many rows a statement of insert has.
const bulkRows = 50

func (t *table) insert(ctx context.Context, tx *sql.Tx, names [][]string) error {
	values := "(?" + strings.Repeat(", ?", len(t.columns)-1) + ")"
	statement := func(rows int) string {
		return "INSERT INTO " + t.name + " (" + strings.Join(t.columns, ", ") + ") VALUES " + values + strings.Repeat(", "+values, rows-1)
	}
	full, err := tx.PrepareContext(ctx, statement(bulkRows))
	if err != nil {
		return err
	}
	defer full.Close()
	var args []any
	rows := 0
	next := t.next(names)
	for row := next(); row != nil; row = next() {
		args = append(args, row...)
		if rows++; rows == bulkRows {
			if _, err := full.ExecContext(ctx, args...); err != nil {
				return err
			}
			rows, args = 0, args[:0]
		}
	}
	if rows > 0 {
		_, err = tx.ExecContext(ctx, statement(rows), args...)
	}
	return err
}

// take gives n cards that were not deactivated yet.
func (f *fleet) take(n int) ([]int, error) {
	if f.used+n > f.cards {
		return nil, fmt.Errorf("%d cards are registered, %d are needed", f.cards, f.used+n)
	}
	out := make([]int, n)
	for i := range out {
		out[i] = f.used + i
	}
	f.used += n
	return out, nil
}
