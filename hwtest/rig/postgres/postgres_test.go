//go:build linux

package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
)

// childVar has the test program do something else: it is killed, or it is root
// in a namespace.
const childVar = "POSTGRES_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		os.Exit(child())
	}
	postgres.Main(m)
}

// child starts a server, says where its data is, and waits for its input's end.
func child() int {
	s, err := postgres.New(context.Background(), postgres.Options{Volatile: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	conn, err := pgx.Connect(context.Background(), s.DSN("postgres"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var data, name string
	if err := conn.QueryRow(context.Background(), "SELECT current_setting('data_directory'), version()").Scan(&data, &name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(data)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	if err := s.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func do(t *testing.T, dsn, statement string) {
	t.Helper()
	_, err := connect(t, dsn).Exec(t.Context(), statement)
	require.NoError(t, err)
}

func value(t *testing.T, dsn, query string) string {
	t.Helper()
	var v string
	require.NoError(t, connect(t, dsn).QueryRow(t.Context(), query).Scan(&v))
	return v
}

// family is what must not be left of a server.
type family struct {
	dir     string
	pids    []string
	segment string // of System V's shared memory
}

func familyOf(t *testing.T, data string) family {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	require.NoError(t, err)
	lines := strings.Split(string(b), "\n")
	postmaster := lines[0]
	f := family{dir: filepath.Dir(data), pids: []string{postmaster}, segment: strings.Fields(lines[6])[1]}
	children, err := os.ReadFile("/proc/" + postmaster + "/task/" + postmaster + "/children")
	require.NoError(t, err)
	f.pids = append(f.pids, strings.Fields(string(children))...)
	require.Greater(t, len(f.pids), 3)
	require.True(t, f.haveSegment(t))
	return f
}

func (f family) haveSegment(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/sysvipc/shm")
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Fields(line)[1] == f.segment {
			return true
		}
	}
	return false
}

func running(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func (f family) assertGone(t *testing.T) {
	t.Helper()
	assert.NoDirExists(t, f.dir)
	f.assertEnded(t)
}

func (f family) assertEnded(t *testing.T) {
	t.Helper()
	for _, pid := range f.pids {
		assert.False(t, running(pid), "process %s", pid)
	}
	assert.False(t, f.haveSegment(t))
}

func dataOf(t *testing.T, s *postgres.Server) string {
	return value(t, s.DSN("postgres"), "SHOW data_directory")
}

func TestDatabases(t *testing.T) {
	s := postgres.Shared(t)
	assert.Same(t, s, postgres.Shared(t))
	one, two := s.NewDatabase(t, ""), s.NewDatabase(t, "")
	do(t, one, "CREATE TABLE x (n int)")
	do(t, two, "CREATE TABLE x (n int)")
	do(t, one, "INSERT INTO x VALUES (1)")
	assert.Equal(t, "1", value(t, one, "SELECT count(*)::text FROM x"))
	assert.Equal(t, "0", value(t, two, "SELECT count(*)::text FROM x"))
	assert.Equal(t, "UTF8 C", value(t, one, "SELECT pg_encoding_to_char(encoding) || ' ' || datcollate FROM pg_database WHERE datname = current_database()"))

	var gone string
	t.Run("dropped", func(t *testing.T) { gone = s.NewDatabase(t, ""); connect(t, gone) })
	_, err := pgx.Connect(t.Context(), gone)
	assert.ErrorContains(t, err, "does not exist")
	_, err = s.CreateDatabase(t.Context(), "nothing")
	assert.ErrorContains(t, err, `template database "nothing" does not exist`)
	assert.ErrorContains(t, s.DropDatabase(t.Context(), gone), "does not exist")
}

func TestTemplate(t *testing.T) {
	s := postgres.Shared(t)
	fills := 0
	fill := func(dsn string) error {
		fills++
		do(t, dsn, "CREATE TABLE y AS SELECT 7 AS n")
		return nil // with the connection open still
	}
	assert.ErrorContains(t, s.Template(t.Context(), "y", func(string) error { return assert.AnError }), assert.AnError.Error())
	require.NoError(t, s.Template(t.Context(), "y", fill))
	require.NoError(t, s.Template(t.Context(), "y", fill))
	assert.Equal(t, 1, fills)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dsn, err := s.CreateDatabase(t.Context(), "y")
			if assert.NoError(t, err) {
				assert.NoError(t, s.DropDatabase(t.Context(), dsn))
			}
		})
	}
	wg.Wait()
	assert.Equal(t, "7", value(t, s.NewDatabase(t, "y"), "SELECT n::text FROM y"))
}

func TestDurable(t *testing.T) {
	s := postgres.Start(t, postgres.Options{Settings: map[string]string{"max_connections": "17"}})
	dsn := s.NewDatabase(t, "")
	assert.Equal(t, "on on 17", value(t, dsn, "SELECT concat_ws(' ', current_setting('fsync'), current_setting('synchronous_commit'), current_setting('max_connections'))"))
	assert.Equal(t, "", value(t, dsn, "SHOW listen_addresses"))
	assert.Equal(t, "off off", value(t, postgres.Shared(t).DSN("postgres"), "SELECT concat_ws(' ', current_setting('fsync'), current_setting('synchronous_commit'))"))
}

func TestTCP(t *testing.T) {
	s := postgres.Start(t, postgres.Options{Volatile: true, TCP: true})
	dsn, err := url.Parse(s.NewDatabase(t, ""))
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1", dsn.Hostname())
	do(t, dsn.String(), "CREATE TABLE x (n int)")
	require.NoError(t, s.Restart(t.Context()))
	do(t, dsn.String(), "INSERT INTO x VALUES (1)")
	dsn.User = url.UserPassword("postgres", "wrong")
	_, err = pgx.Connect(t.Context(), dsn.String())
	assert.ErrorContains(t, err, "password authentication failed")
}

func TestRestartKeepsData(t *testing.T) {
	s := postgres.Start(t, postgres.Options{Volatile: true})
	dsn, err := s.CreateDatabase(t.Context(), "")
	require.NoError(t, err)
	do(t, dsn, "CREATE TABLE x AS SELECT 1 AS n")
	before := familyOf(t, dataOf(t, s))
	open := connect(t, dsn) // does not keep the server from ending
	require.NoError(t, s.Restart(t.Context()))
	assert.Error(t, open.Ping(t.Context()))
	before.assertEnded(t)
	assert.Equal(t, "1", value(t, dsn, "SELECT n::text FROM x"))
	assert.Contains(t, s.Log(), "received fast shutdown request")
	require.NoError(t, s.Stop())
	require.NoError(t, s.Stop())
	assert.NoDirExists(t, before.dir)
}

func TestKillKeepsWhatWasCommitted(t *testing.T) {
	s := postgres.Start(t, postgres.Options{})
	dsn, err := s.CreateDatabase(t.Context(), "")
	require.NoError(t, err)
	do(t, dsn, "CREATE TABLE x (n int PRIMARY KEY)")
	for round := range 3 {
		before := familyOf(t, dataOf(t, s))
		committed := make(chan int)
		go func() { // writes until the server is gone
			defer close(committed)
			conn, err := pgx.Connect(t.Context(), dsn)
			for n := round * 1_000_000; err == nil; n++ {
				if _, err = conn.Exec(t.Context(), "INSERT INTO x VALUES ($1)", n); err == nil {
					committed <- n
				}
			}
		}()
		last := 0
		for range 50 {
			last = <-committed
		}
		killed := make(chan error, 1)
		go func() { killed <- s.Kill() }()
		for n := range committed {
			last = n
		}
		require.NoError(t, <-killed)
		before.assertEnded(t)
		require.DirExists(t, before.dir)
		require.NoError(t, s.Restart(t.Context()))
		have, err := strconv.Atoi(value(t, dsn, "SELECT max(n)::text FROM x"))
		require.NoError(t, err)
		assert.GreaterOrEqual(t, have, last, "committed and lost")
		assert.LessOrEqual(t, have, last+1)
	}
	assert.Contains(t, s.Log(), "automatic recovery in progress")
	gone := familyOf(t, dataOf(t, s))
	require.NoError(t, s.Kill())
	require.NoError(t, s.Kill())
	require.NoError(t, s.Stop())
	gone.assertGone(t)
	assert.ErrorContains(t, s.Restart(t.Context()), "no such file")
}

// The server is killed as another's kill -9 would, not by Kill.
func TestRestartAfterItsEnd(t *testing.T) {
	s := postgres.Start(t, postgres.Options{Volatile: true})
	pid, err := strconv.Atoi(familyOf(t, dataOf(t, s)).pids[0])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGQUIT))
	for running(strconv.Itoa(pid)) {
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, s.Kill())
	require.NoError(t, s.Restart(t.Context()))
}

func startChild(t *testing.T, attr *syscall.SysProcAttr) (cmd *exec.Cmd, input interface{ Close() error }, data string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd = exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childVar+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	data, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return cmd, in, strings.TrimSpace(data)
}

func TestNothingLeftByAProgram(t *testing.T) {
	cmd, in, data := startChild(t, nil)
	f := familyOf(t, data)
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	f.assertGone(t)
}

func TestNothingLeftByAProgramThatIsKilled(t *testing.T) {
	cmd, _, data := startChild(t, nil)
	f := familyOf(t, data)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(f.dir); os.IsNotExist(err) && !running(f.pids[0]) {
			break
		}
	}
	f.assertGone(t)
}

// In a user namespace whose one user is root there is no user postgres.
func TestRootOfANamespace(t *testing.T) {
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	cmd, in, data := startChild(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: root, GidMappings: root})
	f := familyOf(t, data)
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	f.assertGone(t)
}

func TestStartRefused(t *testing.T) {
	dir, err := os.MkdirTemp("", "refused-") // t.TempDir's parent keeps the user postgres out
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	left := func() []os.DirEntry {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		return entries
	}
	_, err = postgres.New(t.Context(), postgres.Options{Dir: dir, Settings: map[string]string{"shared_buffers": "lots"}})
	assert.ErrorContains(t, err, `invalid value for parameter "shared_buffers"`)
	assert.Empty(t, left())

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = postgres.New(ctx, postgres.Options{Dir: dir})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Empty(t, left())

	_, err = postgres.New(t.Context(), postgres.Options{Dir: filepath.Join(dir, "none")})
	assert.ErrorIs(t, err, os.ErrNotExist)

	if os.Getuid() == 0 {
		require.NoError(t, os.Chmod(dir, 0o700))
		_, err = postgres.New(t.Context(), postgres.Options{Dir: dir})
		assert.ErrorContains(t, err, "which the user postgres must reach")
		assert.Empty(t, left())
	}
}

func TestMissing(t *testing.T) {
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	self, err := os.Executable()
	require.NoError(t, err)
	// A mount namespace in which Debian's directory is empty.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "mount -t tmpfs none /usr/lib/postgresql && exec "+self)
	cmd.Env = []string{childVar + "=1", "PATH=/usr/bin:/usr/sbin:/bin:/sbin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: root, GidMappings: root}
	out, err := cmd.CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(out), "install the package postgresql")
}
