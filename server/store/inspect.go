package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Schema is the version of a record's schema, 0 where there is none yet, and the
// version that this program brings it up to.
type Schema struct{ Version, Program int64 }

// Inspect reads the version of a record's schema and changes nothing: no schema is
// made, and no file.
func Inspect(ctx context.Context, where string) (schema Schema, err error) {
	s := &Store{dialect: sqliteDialect}
	query := `SELECT name FROM sqlite_master WHERE name = 'goose_db_version'`
	if IsPostgres(where) {
		query = `SELECT to_regclass('goose_db_version')::text`
		err = s.openPostgres(where)
	} else {
		_, err = os.Stat(where)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s.db, err = sql.Open("sqlite", ":memory:")
		case err == nil:
			if where, err = filepath.Abs(where); err == nil {
				s.db, err = openFile(where, nil)
			}
		}
	}
	if err != nil {
		return schema, err
	}
	defer func() { err = errors.Join(err, s.db.Close()) }()
	p, err := s.provider()
	if err != nil {
		return schema, fmt.Errorf("store: %w", err)
	}
	sources := p.ListSources()
	schema.Program = sources[len(sources)-1].Version
	var table sql.NullString
	err = s.db.QueryRowContext(ctx, query).Scan(&table)
	if err == nil && table.Valid {
		err = s.db.QueryRowContext(ctx, newestApplied).Scan(&schema.Version)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return schema, fmt.Errorf("store: %w", err)
	}
	return schema, nil
}
