// Package postgres runs a real PostgreSQL of a test's own: a private cluster
// and socket, gone with the process that started it, also where that one is
// killed. A system's PostgreSQL is not touched.
//
//	func TestMain(m *testing.M) { postgres.Main(m) }
//
//	func TestX(t *testing.T) {
//		dsn := postgres.Shared(t).NewDatabase(t, "")
//		...
//
// It needs Linux, sh, and Debian's package postgresql or its like (14 or
// later). PostgreSQL refuses root: where the process is root, it runs as the
// user postgres.
package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startTimeout = 60 * time.Second // a crash recovery on a busy machine too
	stopTimeout  = 20 * time.Second
	maxLog       = 1 << 20 // bytes of the log that Log gives

	debianDirs = "/usr/lib/postgresql/*/bin" // by major version

	superuser   = "postgres"
	defaultPort = 5432 // of the socket's name
)

// Options are what a Server may be told. The zero value is durable.
type Options struct {
	// Volatile has commits wait for no disk (fsync off, synchronous_commit
	// off): faster, and Kill may lose the last of them.
	Volatile bool
	// TCP has the server listen on a free port of 127.0.0.1 too, with a password
	// of its own, and DSN name that one instead of the socket.
	TCP bool
	// Dir is where the server's directory is made; "" is os.TempDir(). The user
	// postgres must reach it. Below rig.Enter take /run: what is in there goes
	// with the namespaces.
	Dir string
	// Settings are further parameters of postgresql.conf.
	Settings map[string]string
}

// Server is a PostgreSQL server. Restart, Kill and Stop serve one goroutine,
// the others any.
type Server struct {
	options  Options
	bin      string // the directory of initdb and postgres
	as       identity
	dir      string // ours: data, log, socket
	port     int
	password string // "" without TCP
	guard    *guard

	cmd   *exec.Cmd     // the postmaster; nil where it does not run
	ended chan struct{} // closed once cmd has been waited for

	databases atomic.Int64 // that CreateDatabase made
	mu        sync.Mutex
	templates map[string]bool
}

// New starts a server and returns once it serves. ctx bounds the start alone.
func New(ctx context.Context, o Options) (*Server, error) {
	o.Settings = maps.Clone(o.Settings)
	s := &Server{options: o, port: defaultPort, templates: map[string]bool{}}
	var err error
	if s.bin, err = findBin(); err != nil {
		return nil, err
	}
	if s.as, err = newIdentity(); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if s.dir, err = os.MkdirTemp(o.Dir, "pg-"); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if s.dir, err = filepath.Abs(s.dir); err == nil {
		err = s.as.own(s.dir)
	}
	if err == nil {
		s.guard, err = startGuard(s.dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: %w", err), os.RemoveAll(s.dir))
	}
	if err = s.initdb(ctx); err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Start is New for a test: it fails the test where that fails, stops the server
// when the test ends, and shows the server's log if it failed.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := New(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("PostgreSQL's log:\n%s", s.Log())
		}
		if err := s.Stop(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// shared is the server of Shared.
var shared struct {
	mu     sync.Mutex
	server *Server
	err    error
}

// Shared is one server for all tests of the process, started when the first asks
// for it. It is volatile, and no test may restart, kill or stop it. It ends with
// the process; where Main runs the tests, before.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = New(context.Background(), Options{Volatile: true})
	}
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server
}

// Main is a TestMain: it runs the tests and then stops the server of Shared.
func Main(m *testing.M) {
	m.Run() // package testing exits with its code
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		return
	}
	if err := shared.server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// findBin gives the directory of the newest PostgreSQL's programs.
func findBin() (string, error) {
	dirs, err := filepath.Glob(debianDirs)
	if err != nil {
		return "", err
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Compare(majorVersion(b), majorVersion(a)) })
	for _, d := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		_, err := exec.LookPath(filepath.Join(d, "initdb"))
		_, err2 := exec.LookPath(filepath.Join(d, "postgres"))
		if err == nil && err2 == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("postgres: no initdb and postgres in %s or PATH: install the package postgresql", debianDirs)
}

// majorVersion is that of one of debianDirs.
func majorVersion(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// command is one of PostgreSQL's programs, its output in the log.
func (s *Server) command(program string, args ...string) (*exec.Cmd, *os.File, error) {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("postgres: %w", err)
	}
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, log, nil
}

func (s *Server) initdb(ctx context.Context) error {
	args := []string{
		"-D", s.data(), "-U", superuser, "--auth-local=trust", "--auth-host=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
	}
	if s.options.TCP {
		s.password = rand.Text()
		file := filepath.Join(s.dir, "password")
		if err := os.WriteFile(file, []byte(s.password), 0o600); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		if err := s.as.own(file); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		args = append(args, "--pwfile="+file)
		var err error
		if s.port, err = freePort(); err != nil {
			return err
		}
	}
	cmd, log, err := s.command("initdb", args...)
	if err != nil {
		return err
	}
	defer log.Close()
	ended, err := s.as.spawn(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("postgres: in %s, which the user postgres must reach: %w", s.dir, err)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("postgres: initdb: %w", ctx.Err())
	}
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("postgres: initdb: %s\n%s", cmd.ProcessState, s.Log())
	}
	return nil
}

// freePort is a port of 127.0.0.1 that nobody has now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("postgres: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (s *Server) settings() map[string]string {
	on := "on"
	if s.options.Volatile {
		on = "off"
	}
	listen := ""
	if s.options.TCP {
		listen = "127.0.0.1"
	}
	out := map[string]string{
		"listen_addresses":        listen,
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": s.dir,
		"max_connections":         "100",
		"shared_buffers":          "16MB",
		"fsync":                   on,
		"synchronous_commit":      on,
		"full_page_writes":        on,
		// In files of the data directory, not the machine's memory, where SIGKILL
		// would leave them.
		"dynamic_shared_memory_type": "mmap",
	}
	maps.Copy(out, s.options.Settings)
	return out
}

// start runs the postmaster and waits until it serves.
func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args := []string{"-D", s.data()}
	for name, value := range s.settings() {
		args = append(args, "-c", name+"="+value)
	}
	cmd, log, err := s.command("postgres", args...)
	if err != nil {
		return err
	}
	defer log.Close()
	// SIGQUIT is an immediate shutdown: the postmaster takes its children and
	// its shared memory along.
	ended, err := s.as.spawn(cmd, syscall.SIGQUIT)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	s.cmd, s.ended = cmd, ended
	for {
		err := s.exec(ctx, "SELECT")
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			s.cmd = nil
			return fmt.Errorf("postgres: the server ended at its start: %s\n%s", cmd.ProcessState, s.Log())
		case <-ctx.Done():
			return fmt.Errorf("postgres: the server does not serve: %w\n%s", err, s.Log())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// exec carries out one statement in the database postgres.
func (s *Server) exec(ctx context.Context, statement string, args ...any) error {
	conn, err := pgx.Connect(ctx, s.DSN(superuser))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement, args...)
	return errors.Join(err, conn.Close(ctx))
}

// DSN is the URL of a database, through the server's socket unless Options.TCP
// says otherwise. It stays the same through Restart.
func (s *Server) DSN(database string) string {
	u := url.URL{Scheme: "postgres", Path: "/" + database}
	query := url.Values{"sslmode": {"disable"}}
	if s.options.TCP {
		u.User = url.UserPassword(superuser, s.password)
		u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
	} else {
		query.Set("user", superuser)
		query.Set("host", s.dir)
		query.Set("port", strconv.Itoa(s.port))
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// CreateDatabase makes a database as a copy of template ("" for an empty one)
// and gives its DSN. Nobody may be connected to the template.
func (s *Server) CreateDatabase(ctx context.Context, template string) (dsn string, err error) {
	name := fmt.Sprintf("test_%d", s.databases.Add(1))
	if err := s.create(ctx, name, template); err != nil {
		return "", err
	}
	return s.DSN(name), nil
}

func (s *Server) create(ctx context.Context, name, template string) error {
	statement := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize()
	if template != "" {
		statement += " TEMPLATE " + pgx.Identifier{template}.Sanitize()
	}
	if err := s.exec(ctx, statement); err != nil {
		return fmt.Errorf("postgres: %s: %w", statement, err)
	}
	return nil
}

// DropDatabase drops a database by its DSN and ends its connections.
func (s *Server) DropDatabase(ctx context.Context, dsn string) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return s.drop(ctx, config.Database)
}

func (s *Server) drop(ctx context.Context, name string) error {
	if err := s.exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// NewDatabase is CreateDatabase for a test: the database is dropped when the
// test ends.
func (s *Server) NewDatabase(tb testing.TB, template string) (dsn string) {
	tb.Helper()
	dsn, err := s.CreateDatabase(tb.Context(), template)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := s.DropDatabase(ctx, dsn); err != nil {
			tb.Error(err)
		}
	})
	return dsn
}

// Template makes the database of that name for CreateDatabase to copy: fill puts
// in what is to be in it; connections that it leaves open are ended. The second
// call with a name does nothing, whoever makes it.
func (s *Server) Template(ctx context.Context, name string, fill func(dsn string) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.templates[name] {
		return nil
	}
	if err := s.create(ctx, name, ""); err != nil {
		return err
	}
	err := fill(s.DSN(name))
	if err == nil {
		err = s.exec(ctx, fmt.Sprintf("SELECT pg_terminate_backend(pid, %d) FROM pg_stat_activity WHERE datname = $1", stopTimeout.Milliseconds()), name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("postgres: template %s: %w", name, err), s.drop(ctx, name))
	}
	s.templates[name] = true
	return nil
}

// Restart starts the server again with the same data, ports and DSNs. Where it
// still runs, it is shut down first (fast: transactions under way are rolled
// back); after Kill it recovers as from a crash. ctx bounds the start.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.end(syscall.SIGINT); err != nil {
		return err
	}
	return s.start(ctx)
}

// Kill ends the server and all its processes at once (SIGKILL), as a crash of
// the machine would but for what the kernel has yet to write to disk. Restart
// starts it again.
func (s *Server) Kill() error {
	if s.cmd == nil {
		return nil
	}
	if err := killAll(s.cmd.Process, s.ended, s.data()); err != nil {
		return fmt.Errorf("postgres: kill: %w", err)
	}
	s.cmd = nil
	return nil
}

// end has the postmaster shut down in the way of a signal.
func (s *Server) end(sig os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.ended:
		s.cmd = nil
		return nil
	case <-time.After(stopTimeout):
		return s.Kill()
	}
}

// Stop ends the server and removes its directory; it does nothing the second
// time.
func (s *Server) Stop() error {
	return errors.Join(s.end(syscall.SIGQUIT), s.guard.end())
}

// Log is what PostgreSQL has logged, the last MiB of it.
func (s *Server) Log() string {
	f, err := os.Open(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxLog {
		_, _ = f.Seek(-maxLog, io.SeekEnd)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b))
}

// guard is a process that outlives this one for as long as it takes to remove a
// directory.
type guard struct {
	dir   string
	cmd   *exec.Cmd
	alive io.Closer // its standard input, which ends with this process at the latest
	once  sync.Once
	err   error
}

// A server that has not ended yet may still write: rm is tried again.
const guardScript = `trap '' HUP INT TERM
while read -r line; do :; done
tries=0
until rm -rf -- "$0" 2>/dev/null; do
	tries=$((tries + 1))
	[ $tries -lt 200 ] || exit 1
	sleep 0.1
done`

func startGuard(dir string) (*guard, error) {
	cmd := exec.Command("sh", "-c", guardScript, dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = identity{}.attributes()
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{dir: dir, cmd: cmd, alive: alive}, nil
}

// end has the directory removed now.
func (g *guard) end() error {
	g.once.Do(func() {
		_ = g.alive.Close()
		if err := g.cmd.Wait(); err != nil {
			g.err = fmt.Errorf("postgres: directory %s stays: %w", g.dir, err)
		}
	})
	return g.err
}

// sharedMemory is the id of the System V segment by which PostgreSQL knows
// whether another server has the data directory, from the lock file there.
func sharedMemory(data string) (id int, ok bool) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return 0, false
	}
	fields := strings.Fields(lines[6]) // key and id
	if len(fields) != 2 {
		return 0, false
	}
	id, err = strconv.Atoi(fields[1])
	return id, err == nil
}
