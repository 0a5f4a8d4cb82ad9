package servertest

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// migrated is the first record that NewRecord was given, as a file.
var migrated struct {
	once sync.Once
	file []byte
	err  error
}

// NewRecord gives the path of a record file of t's own, a copy of what migrate
// made of a path, once for the process: each migration takes longer than most
// tests.
func NewRecord(t testing.TB, migrate func(path string) error) string {
	path := filepath.Join(t.TempDir(), "record.db")
	migrated.once.Do(func() {
		first := filepath.Join(t.TempDir(), "first.db")
		if migrated.err = migrate(first); migrated.err == nil {
			migrated.file, migrated.err = os.ReadFile(first)
		}
	})
	require.NoError(t, migrated.err)
	require.NoError(t, os.WriteFile(path, migrated.file, 0o600))
	return path
}

// Break makes writes of these kinds, such as "INSERT ON events", fail in the
// record file at path, as on a full disk, until mend is called.
func Break(t testing.TB, path string, kinds ...string) (mend func()) {
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "_pragma=busy_timeout(15000)"}
	db, err := sql.Open("sqlite", dsn.String())
	require.NoError(t, err)
	run := func(query string) {
		_, err := db.Exec(query)
		require.NoError(t, err)
	}
	for i, kind := range kinds {
		run(fmt.Sprintf(`CREATE TRIGGER broken_%d BEFORE %s BEGIN SELECT RAISE(ABORT, 'disk full'); END`, i, kind))
	}
	mend = sync.OnceFunc(func() {
		for i := range kinds {
			run(fmt.Sprintf(`DROP TRIGGER broken_%d`, i))
		}
		require.NoError(t, db.Close())
	})
	t.Cleanup(mend)
	return mend
}
