package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/store"
)

// storeVariable names the environment variable of a record's URL: a password in
// it is in no list of processes.
const storeVariable = "CARDBRIDGE_STORE"

// recordFile is the record in a data directory.
const recordFile = "record.db"

// recordFlags say where a server's record is.
type recordFlags struct{ data, store string }

func (r *recordFlags) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.data, "data", "", "`DIR` with the server's data")
	f.StringVar(&r.store, "store", "", "PostgreSQL `URL` of the record, such as postgres://user@host:5432/database (default: $"+storeVariable+", else the SQLite file in --data)")
}

// where is the path or URL of the record.
func (r *recordFlags) where() (string, error) {
	for _, s := range []struct{ from, url string }{{"--store", r.store}, {"$" + storeVariable, os.Getenv(storeVariable)}} {
		switch {
		case s.url == "":
		case !store.IsPostgres(s.url):
			return "", fmt.Errorf("%s is no PostgreSQL URL such as postgres://user@host:5432/database; an SQLite record is named by --data", s.from)
		default:
			return s.url, nil
		}
	}
	if r.data == "" {
		return "", fmt.Errorf("where is the record? --data names the server's data directory, --store or $%s a PostgreSQL database", storeVariable)
	}
	return filepath.Join(r.data, recordFile), nil
}

// open opens the record, which must be there.
func (r *recordFlags) open(ctx context.Context, opts ...store.Option) (*store.Store, error) {
	where, err := r.where()
	if err != nil {
		return nil, err
	}
	if !store.IsPostgres(where) {
		if _, err := os.Stat(where); err != nil {
			return nil, fmt.Errorf("no record: %w; is --data the server's data directory? serve and operator add make a new one", err)
		}
	}
	return store.Open(ctx, where, opts...)
}

// make opens the record, and makes it, and the data directory, if they are not
// there.
func (r *recordFlags) make(ctx context.Context, opts ...store.Option) (*store.Store, error) {
	where, err := r.where()
	if err != nil {
		return nil, err
	}
	if r.data != "" {
		if err := os.MkdirAll(r.data, 0o700); err != nil {
			return nil, err
		}
	}
	return store.Open(ctx, where, opts...)
}

// with has f work on the record, which must be there.
func (r *recordFlags) with(ctx context.Context, f func(*store.Store) error) error {
	records, err := r.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(records), records.Close())
}

// publicStore is where a record is, without user, password and options. Of a URL
// in which a password is not escaped, and so may stand anywhere, it is nothing.
func publicStore(where string) string {
	if !store.IsPostgres(where) {
		return where
	}
	u, err := url.Parse(where)
	if at := strings.Count(where, "@"); err != nil || at > 1 || at == 1 && u.User == nil {
		return "postgres"
	}
	return "postgres://" + u.Host + u.Path
}
