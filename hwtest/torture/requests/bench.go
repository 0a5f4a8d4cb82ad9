package requests

import (
	"context"
	"crypto/rsa"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"modernc.org/sqlite"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// bench is what the trials of a run share.
type bench struct {
	operations *rsafast.Scheduler
	terminal   *card.Terminal
	cardKeys   cryptogram.PrivateKeys
	dir        string // of the SQLite records
	steady     *postgres.Server
	brittle    *postgres.Server // is restarted under its trials
	sabotage   *sabotage        // nil: nothing is broken on purpose
	verbose    bool
	patience   time.Duration
	until      time.Time // no trial begins after it; zero: none
	worlds     atomic.Int64
}

// newBench starts what there is need of.
func newBench(ctx context.Context, records map[record]bool) (*bench, error) {
	b := &bench{operations: rsafast.NewScheduler(rsafast.Config{})}
	var err error
	if b.terminal, err = terminal(b.operations); err != nil {
		return nil, err
	}
	m, err := mouldOf(cardPlan{})
	if err != nil {
		return nil, err
	}
	if b.cardKeys, err = m.image.Keys.PrivateBy(b.load); err != nil {
		return nil, err
	}
	b.cardKeys.Ops = b.operations
	if b.dir, err = os.MkdirTemp(memory(), "torture-"); err != nil {
		return nil, err
	}
	for r := range records {
		var p **postgres.Server
		switch {
		case r.restarts():
			p = &b.brittle
		case r.postgres():
			p = &b.steady
		default:
			continue
		}
		if *p != nil {
			continue
		}
		*p, err = postgres.New(ctx, postgres.Options{Dir: memory(), Settings: map[string]string{"fsync": "off", "full_page_writes": "off", "max_connections": "400"}})
		if err == nil {
			err = (*p).Template(ctx, template, func(dsn string) error { return prepare(ctx, dsn) })
		}
		if err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

// memory is a directory in the machine's memory where it has one: the processes
// are killed, not the machine, so that no disk need be waited for.
func memory() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return ""
}

func (b *bench) load(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return b.operations.Load(k) }

// terminal is the server's side, its operations done by a scheduler.
func terminal(s *rsafast.Scheduler) (*card.Terminal, error) {
	set, err := cryptogram.ParseKeySet(servertest.KeySetFile())
	if err != nil {
		return nil, err
	}
	keys, err := set.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return s.Load(k) })
	if err != nil {
		return nil, err
	}
	keys.Ops = s
	return &card.Terminal{Keys: keys}, nil
}

func (b *bench) close() error {
	b.operations.Close()
	err := os.RemoveAll(b.dir)
	for _, p := range []*postgres.Server{b.steady, b.brittle} {
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
	}
	return err
}

const template = "torture"

// prepare makes the record's schema in a database, with triggers that let every
// write fail while the disk is full.
func prepare(ctx context.Context, where string) error {
	s, err := store.Open(ctx, where)
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	db, err := openDB(where)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, statement := range fullDisk(where) {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// openDB opens a record beside its store.
func openDB(where string) (*sql.DB, error) {
	if store.IsPostgres(where) {
		return sql.Open("pgx", where)
	}
	return sql.Open("sqlite", "file:"+where+"?_pragma=busy_timeout(15000)")
}

// written are the tables that every write writes to.
var written = []string{"events", "deactivations", "cards", "guard_scopes"}

// full are the SQLite records whose disk is full.
var full sync.Map

func init() {
	sqlite.MustRegisterScalarFunction("torture_full", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		if where, ok := args[0].(string); ok {
			if _, yes := full.Load(where); yes {
				return nil, errors.New("database or disk is full")
			}
		}
		return int64(0), nil
	})
}

func fullDisk(where string) (out []string) {
	if !store.IsPostgres(where) {
		for _, table := range written {
			for _, what := range []string{"INSERT", "UPDATE"} {
				out = append(out, fmt.Sprintf(`CREATE TRIGGER torture_%s_%s BEFORE %s ON %s BEGIN SELECT torture_full('%s'); END`, table, what, what, table, where))
			}
		}
		return out
	}
	out = append(out, `CREATE TABLE torture_full (yes BOOLEAN)`,
		`CREATE FUNCTION torture_disk() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
			IF EXISTS (SELECT 1 FROM torture_full) THEN
				RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
			END IF;
			RETURN NEW; END $$`)
	for _, table := range written {
		out = append(out, fmt.Sprintf(`CREATE TRIGGER torture_%s BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION torture_disk()`, table, table))
	}
	return out
}

var ruleSets sync.Map // by budget

// rulesWith are the shipped rules with a budget; making them takes long.
func rulesWith(budget string) *rules.Set {
	set, ok := ruleSets.Load(budget)
	if !ok {
		set, _ = ruleSets.LoadOrStore(budget, servertest.RulesWith(budget))
	}
	return set.(*rules.Set)
}
