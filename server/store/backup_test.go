package store

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
)

// A backup that is taken while much is written is a whole record of one moment.
func TestBackupUnderLoad(t *testing.T) {
	f := onSQLite(t)
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for n := range 4 {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_ = f.Note(ctx, Event{Kind: "load", Detail: map[string]any{"by": n, "n": i}})
			}
		})
	}
	dir := t.TempDir()
	for _, name := range []string{"one.db", "two.db"} {
		file := filepath.Join(dir, name)
		require.NoError(t, Backup(t.Context(), f.where, file))
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
		assert.ErrorIs(t, Backup(t.Context(), f.where, file), os.ErrExist)

		path := filepath.Join(dir, "restored-"+name)
		restored, err := Restore(t.Context(), file, path)
		require.NoError(t, err)
		assert.Equal(t, Restored{Last: restored.Last, Breakers: 1, Cards: 1}, restored)
		s, err := Open(t.Context(), path)
		require.NoError(t, err)
		last := map[any]float64{}
		events, err := s.Events(t.Context(), 0, 1_000_000)
		require.NoError(t, err)
		for _, e := range events {
			if e.Kind == "load" {
				n := e.Detail["n"].(float64)
				assert.Equal(t, last[e.Detail["by"]], n, "each writer's are there without a gap")
				last[e.Detail["by"]] = n + 1
			}
		}
		require.NoError(t, s.Close())
	}
	cancel()
	load.Wait()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		assert.NotEqual(t, ".", e.Name()[:1], "nothing temporary is left: %s", e.Name())
	}
}

func TestRestoreRefuses(t *testing.T) {
	f := onSQLite(t)
	dir := t.TempDir()
	backup := filepath.Join(dir, "backup.db")
	require.NoError(t, Backup(t.Context(), f.where, backup))
	whole, err := os.ReadFile(backup)
	require.NoError(t, err)
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) string {
		require.NoError(t, os.WriteFile(at(name), b, 0o600))
		return at(name)
	}
	spoilt := append([]byte{}, whole...)
	for i := 4096; i < len(spoilt); i += 512 {
		spoilt[i] ^= 0xFF
	}
	for name, b := range map[string][]byte{"empty": {}, "text": []byte("no record"), "cut": whole[:len(whole)/2], "spoilt": spoilt} {
		_, err := Restore(t.Context(), write(name, b), at("new-"+name))
		assert.ErrorIs(t, err, ErrDamaged, name)
		assert.NoFileExists(t, at("new-"+name))
	}
	_, err = Restore(t.Context(), dir, at("new"))
	assert.ErrorIs(t, err, ErrDamaged, "a directory")
	_, err = Restore(t.Context(), os.DevNull, at("new"))
	assert.ErrorIs(t, err, ErrDamaged, "a device")
	require.NoError(t, os.Symlink(f.where, at("link")))
	for _, live := range []string{f.where, at("link")} {
		_, err = Restore(t.Context(), live, at("new"))
		assert.ErrorIs(t, err, ErrDamaged, "the last writes are in its -wal")
		assert.ErrorContains(t, err, "-wal")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Restore(cancelled, backup, at("new"))
	assert.ErrorIs(t, err, context.Canceled)
	for _, left := range []string{"-wal", "-journal"} {
		_, err = Restore(t.Context(), backup, strings.TrimSuffix(write("left"+left, []byte("of another record")), left))
		assert.ErrorIs(t, err, os.ErrExist, left)
		require.NoError(t, os.Remove(at("left"+left)))
	}
	_, err = Restore(t.Context(), at("none"), at("new"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = Restore(t.Context(), backup, f.where)
	assert.ErrorIs(t, err, os.ErrExist, "a record stays")
	_, err = Restore(t.Context(), backup, at("dir/new"))
	assert.Error(t, err)

	release, err := ownFile(t.Context(), at("owned"))
	require.NoError(t, err)
	_, err = Restore(t.Context(), backup, at("owned"))
	assert.ErrorIs(t, err, ErrInUse)
	require.NoError(t, release())

	newer := write("newer", whole)
	db, err := openFile(newer, nil)
	require.NoError(t, err)
	_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (10000, 1)`)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = Restore(t.Context(), newer, at("new"))
	assert.ErrorIs(t, err, ErrNewer)
	assert.NoFileExists(t, at("new"))
	after, err := os.ReadFile(backup)
	require.NoError(t, err)
	assert.Equal(t, whole, after, "the backup is as it was")
}

// A record that is whole as a file, and not as a record.
func TestRestoreOfNonsense(t *testing.T) {
	f := onSQLite(t)
	for name, statement := range map[string]string{
		"no guard":   `DELETE FROM guard_scopes`,
		"no version": `DELETE FROM goose_db_version`,
		"no events":  `DROP TABLE events`,
	} {
		dir := t.TempDir()
		backup := filepath.Join(dir, "backup.db")
		require.NoError(t, Backup(t.Context(), f.where, backup))
		db, err := openFile(backup, url.Values{"_pragma": {"foreign_keys(0)"}})
		require.NoError(t, err)
		_, err = db.Exec(statement)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		_, err = Restore(t.Context(), backup, filepath.Join(dir, "new"))
		assert.Error(t, err, name)
		assert.NoFileExists(t, filepath.Join(dir, "new"), name)
	}
}

// What a full disk keeps out of the file is missed: SQLite closes it without a
// word, and leaves the rest beside it.
func TestRestoreIsWrittenOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new")
	err := place(file, func(temp string) error {
		s, err := Open(t.Context(), temp)
		if err != nil {
			return err
		}
		other, err := openFile(temp, nil) // keeps it from being brought in
		require.NoError(t, err)
		t.Cleanup(func() { other.Close() })
		reading, err := other.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = reading.Rollback() })
		var n int
		require.NoError(t, reading.QueryRow(`SELECT count(*) FROM events`).Scan(&n))
		return errors.Join(s.Note(t.Context(), Event{Kind: "late"}), s.Close())
	})
	assert.ErrorContains(t, err, "not all could be written")
	assert.NoFileExists(t, file)
}

// Where there are no links a name is claimed before it is taken.
func TestClaim(t *testing.T) {
	dir := t.TempDir()
	temp, file := filepath.Join(dir, "temp"), filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(temp, []byte("one"), 0o600))
	require.NoError(t, moveNew(temp, file))
	assert.NoFileExists(t, temp)
	require.NoError(t, os.WriteFile(temp, []byte("two"), 0o600))
	assert.ErrorIs(t, moveNew(temp, file), os.ErrExist)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "one", string(b))
	assert.ErrorIs(t, moveNew(filepath.Join(dir, "none"), filepath.Join(dir, "other")), os.ErrNotExist)
	assert.NoFileExists(t, filepath.Join(dir, "other"))
}

// A backup leaves the record as an older program made it, which may be serving
// on it, and is one that this program restores. A newer program's record is not
// opened at all.
func TestBackupOfAnotherProgram(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.db")
	s, err := Open(t.Context(), path)
	require.NoError(t, err)
	now, err := s.Version(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Downgrade(t.Context(), now-1))
	require.NoError(t, s.Close())
	backup := filepath.Join(dir, "backup.db")
	require.NoError(t, Backup(t.Context(), path, backup))
	for _, file := range []string{path, backup} {
		schema, err := Inspect(t.Context(), file)
		require.NoError(t, err)
		assert.Equal(t, Schema{Version: now - 1, Program: now}, schema)
	}
	_, err = Restore(t.Context(), backup, filepath.Join(dir, "restored.db"))
	require.NoError(t, err)

	each(t, func(t *testing.T, f *fixture) {
		_, err := f.db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (10000, ` + map[bool]string{false: "1", true: "true"}[f.Shared()] + `)`)
		require.NoError(t, err)
		_, err = Open(t.Context(), f.where)
		assert.ErrorIs(t, err, ErrNewer)
	})
}

// What was not sent is unknown for good, what was sent stays to be recovered,
// cards are to be read, and the breaker is tripped.
func TestAfterRestore(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		sent, waiting := f.submit(t, 1), f.submit(t, 2)
		f.mark(t, sent)
		held, err := f.Submit(t.Context(), f.submission(3), func(m *Moment) Verdict {
			return Verdict{ICCID: &f.iccid, Window: time.Hour, Hold: "many", HoldUntil: m.Now.Add(time.Hour)}
		})
		require.NoError(t, err)
		require.NoError(t, f.Release(t.Context(), f.work.Claim))

		for range 2 { // the second time changes nothing
			done, err := f.AfterRestore(t.Context())
			require.NoError(t, err)
			assert.Equal(t, 1, done.Breakers, "are tripped")
			for _, r := range []Request{waiting, held.Request} {
				now, err := f.Request(t.Context(), r.ID)
				require.NoError(t, err)
				assert.Equal(t, Unknown, now.State)
				assert.NotNil(t, now.FinishedAt)
				assert.Equal(t, restoredRequest, now.Detail)
				assert.Equal(t, string(Unknown), f.kinds(t, r)[len(f.kinds(t, r))-1])
			}
			now, err := f.Request(t.Context(), sent.ID)
			require.NoError(t, err)
			assert.Equal(t, Sending, now.State)
			assert.Nil(t, now.FinishedAt)
			c, err := f.Card(t.Context(), f.eid, f.op.ID)
			require.NoError(t, err)
			assert.True(t, c.Unsettled)
			scopes, err := f.Guard(t.Context(), f.op.ID)
			require.NoError(t, err)
			assert.Equal(t, restoredBreaker, scopes[0].TrippedWhy)
			assert.Zero(t, scopes[0].Pending)
		}
		f.claim(t)
		require.NotNil(t, f.work.Request)
		assert.Equal(t, sent.ID, f.work.Request.ID, "it is recovered")
		trail, err := f.Trail(t.Context())
		require.NoError(t, err)
		defer trail.Close()
	})
}

// PostgreSQL's own tools, as docs/operations.md says.
func TestPostgresTools(t *testing.T) {
	pg := postgres.Shared(t)
	f := newFixture(t, pg.NewDatabase(t, ""))
	request := f.submit(t, 1)
	assert.ErrorIs(t, Backup(t.Context(), f.where, filepath.Join(t.TempDir(), "x")), ErrNotSQLite)

	dump, to := filepath.Join(t.TempDir(), "backup.dump"), pg.NewDatabase(t, "")
	for _, args := range [][]string{
		{"pg_dump", "--format=custom", "--file=" + dump, f.where},
		{"pg_restore", "--exit-on-error", "--no-owner", "--dbname=" + to, dump},
	} {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, "%s: %s", args[0], out)
	}
	s, err := Open(t.Context(), to, WithClock(f.clock.now))
	require.NoError(t, err)
	defer s.Close()
	done, err := s.AfterRestore(t.Context())
	require.NoError(t, err)
	assert.Equal(t, Restored{Last: done.Last, Breakers: 1, Cards: 1, Unknown: 1}, done)
	now, err := s.Request(t.Context(), request.ID)
	require.NoError(t, err)
	assert.Equal(t, Unknown, now.State)
}

// What bounds a statement of a server does not bound one that brings the schema
// of a large record up to date: it would only fail again at the next start.
func TestMigrationsTakeTheirTime(t *testing.T) {
	where := postgres.Shared(t).NewDatabase(t, "")
	s, err := Open(t.Context(), where)
	require.NoError(t, err)
	version, err := s.Version(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Downgrade(t.Context(), version-1))
	// Each index takes longer than a statement of a server's may.
	for _, statement := range []string{
		`CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.6); END'`,
		`CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION slow()`,
	} {
		_, err = s.db.Exec(statement)
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())

	s = &Store{}
	require.NoError(t, s.openPostgres(where+map[bool]string{false: "?", true: "&"}[strings.Contains(where, "?")]+"statement_timeout=500"))
	defer s.db.Close()
	s.db.SetMaxOpenConns(1)
	require.NoError(t, s.migrate(t.Context()))
	_, err = s.db.Exec(`SELECT pg_sleep(1)`)
	assert.ErrorContains(t, err, "statement timeout", "it bounds those as before")
}
