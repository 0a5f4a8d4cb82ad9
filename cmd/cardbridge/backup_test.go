package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
)

// Whoever has the servers' database in the environment does not restore it by
// mistake.
func TestRestoreOnPostgresAsks(t *testing.T) {
	t.Setenv("CARDBRIDGE_STORE", postgres.Shared(t).NewDatabase(t, ""))
	_, stderr, status := cli(t, "operator", "add", "--mccmnc", "46011", "One")
	require.Zero(t, status, stderr)
	_, stderr, status = cli(t, "restore")
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "--yes")
	_, stderr, _ = cli(t, "guard", "reset", "--yes", "One")
	assert.Contains(t, stderr, "has not tripped", "nothing was done")
	stdout, stderr, status := cli(t, "restore", "--yes")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "1 breaker is tripped")
}

func TestBackupAndRestore(t *testing.T) {
	dir := "." // paths as people give them
	t.Chdir(t.TempDir())
	data, again, file := "data", "again", "backup.db"
	_, stderr, status := cli(t, "operator", "add", "--data", data, "--mccmnc", "46011", "--token-file", filepath.Join(dir, "token"), "One")
	require.Zero(t, status, stderr)

	out, status := object(t, "backup", "--data", data, "--json", file)
	require.Zero(t, status)
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.EqualValues(t, info.Size(), out["bytes"])
	_, stderr, status = cli(t, "backup", "--data", data, file)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "give another name")

	stdout, stderr, status := cli(t, "restore", "--data", again, file)
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "1 breaker is tripped")
	stdout, _, status = cli(t, "operator", "list", "--data", again)
	require.Zero(t, status)
	assert.Contains(t, stdout, "One")
	_, stderr, status = cli(t, "guard", "reset", "--data", again, "--yes", "One")
	assert.Zero(t, status, stderr)

	_, stderr, status = cli(t, "restore", "--data", data, file)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "it stays")
	_, stderr, status = cli(t, "restore", "--data", filepath.Join(dir, "third"))
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "which FILE")
	_, stderr, status = cli(t, "restore", "--data", filepath.Join(dir, "third"), filepath.Join(dir, "token"))
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "not a whole record")
	_, stderr, status = cli(t, "restore", "--store", "postgres://nowhere/x", file)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "pg_restore")
}
