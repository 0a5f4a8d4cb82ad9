package servertest

import (
	"database/sql"
	"fmt"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

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
