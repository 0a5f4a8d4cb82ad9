package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server/servertest/cardhost"
)

// bench is a run.
type bench struct {
	options
	dir    string // ours
	out    io.Writer
	ratios []namedRatio
}

type namedRatio struct {
	name  string
	value float64
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.suite.Layers() == 0 {
		return errors.New("-suite is 1 or 3")
	}
	if o.main != 0 && !slices.Contains(o.sizes, o.main) {
		return fmt.Errorf("-main %d is none of -sizes", o.main)
	}
	if err := checkDisk(o.dir); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "benchserver-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL's user goes through it
		return err
	}
	b := &bench{options: o, dir: dir, out: out}
	sync, err := syncTime(dir)
	if err != nil {
		return err
	}
	b.say("%s; %d processors; RSA engine %s, %d private operations in a call; %s", machine(), runtime.GOMAXPROCS(0), rsafast.Engine(), rsafast.Width(), runtime.Version())
	ops := operationsOf(o.suite)
	b.say("a write of 4 KiB is on the disk after %s; suite %s costs the server %d private and %d public operations", ms(sync), o.suite, ops.Private, ops.Public)
	for _, name := range o.databases {
		if err := b.database(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	b.say("\nload average at the end %s", loadAverage())
	for _, r := range b.ratios {
		b.say("ratio %s %.3f", r.name, r.value)
	}
	return nil
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", 1e3*d.Seconds()) }

func us(d time.Duration) string { return fmt.Sprintf("%.0f µs", 1e6*d.Seconds()) }

// database measures one of the two.
func (b *bench) database(ctx context.Context, name string) (err error) {
	record, postmaster := filepath.Join(b.dir, "record.db"), 0
	switch name {
	case "sqlite":
		b.say("\n== SQLite (WAL, synchronous FULL)")
	case "postgres":
		p, err := postgres.New(ctx, postgres.Options{Dir: b.dir, Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB"}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.Stop()) }()
		if record, err = p.CreateDatabase(ctx, ""); err != nil {
			return err
		}
		var version string
		if version, postmaster, err = aboutPostgres(ctx, record); err != nil {
			return err
		}
		b.say("\n== %s (fsync on, synchronous_commit on, shared_buffers 256 MB, by its socket)", version)
	default:
		return errors.New("is neither sqlite nor postgres")
	}
	f, err := newFleet(ctx, record, b.suite)
	if err != nil {
		return err
	}
	h := hot{deactivations: b.alone}
	for _, size := range b.sizes {
		began := time.Now()
		if err := f.grow(ctx, size); err != nil {
			return err
		}
		b.say("\n%d cards registered (%s), load average %s", size, time.Since(began).Round(time.Millisecond), loadAverage())
		s := &stage{bench: b, name: name, fleet: f, postmaster: postmaster}
		if size == b.main {
			if err := s.rates(ctx, false); err != nil {
				return err
			}
			if b.plain {
				if err := s.rates(ctx, true); err != nil {
					return err
				}
			}
		}
		at, err := s.atSize(ctx)
		if err != nil {
			return err
		}
		h.sizes, h.at = append(h.sizes, size), append(h.at, at)
	}
	h.tell(b)
	return h.plans(ctx, b, name, f)
}

// aboutPostgres is the version, and the process that all others of the server
// are children of.
func aboutPostgres(ctx context.Context, dsn string) (version string, postmaster int, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", 0, err
	}
	defer conn.Close(ctx)
	var dir string
	err = conn.QueryRow(ctx, `SELECT split_part(version(), ' (', 1), current_setting('data_directory')`).Scan(&version, &dir)
	if err != nil {
		return "", 0, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return "", 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	postmaster, err = strconv.Atoi(line)
	return version, postmaster, err
}

// stage is a fleet that a server works on.
type stage struct {
	*bench
	name       string
	fleet      *fleet
	postmaster int // PostgreSQL's; 0: none

	host   *cardhost.Process
	server *child
	client *client
}

// begin starts the host of the next cards, so many, and a server, and warms all
// of them up.
func (s *stage) begin(ctx context.Context, cards int, plain bool) (err error) {
	warm := 2 * s.atOnce
	if s.host, err = cardhost.Start(ctx, cardhost.Config{First: s.fleet.used, Cards: cards + warm}); err != nil {
		return err
	}
	control := s.host.Control()
	defer control.Close()
	if err := control.Warm(ctx); err != nil {
		return err
	}
	s.server, err = startServer(serving{Record: s.fleet.record, Cards: s.host.Addr(), Dir: s.dir, Workers: s.atOnce, Plain: plain})
	if err != nil {
		return err
	}
	if s.client, err = newClient(s.server.started, s.fleet.token, s.atOnce); err != nil {
		return err
	}
	if err := s.server.sees(ctx, cards+warm); err != nil {
		return err
	}
	_, err = s.deactivate(ctx, warm)
	return err
}

func (s *stage) end(err *error) {
	if s.client != nil {
		s.client.close()
	}
	if s.server != nil {
		*err = errors.Join(*err, s.server.stop())
	}
	if s.host != nil {
		*err = errors.Join(*err, s.host.Stop())
	}
	s.client, s.server, s.host = nil, nil, nil
}

// deactivate deactivates the next n cards.
func (s *stage) deactivate(ctx context.Context, n int) (time.Duration, error) {
	cards, err := s.fleet.take(n)
	if err != nil {
		return 0, err
	}
	return s.client.all(ctx, cards, s.atOnce)
}

// slice is what was measured over some deactivations; times are for one.
type slice struct {
	rate                           float64 // a second, by the clock
	server, rsa                    time.Duration
	generator, cards, databaseTime time.Duration
	ops                            operations // of all
}

func (s slice) share() float64 { return float64(s.rsa) / float64(s.server) }

// rates measures slices of deactivations with bare RSA between them, then how
// long requests take at half the rate.
func (s *stage) rates(ctx context.Context, plain bool) (err error) {
	defer s.end(&err)
	if err := s.begin(ctx, s.slices*s.each+s.profiled()+s.arrivals, plain); err != nil {
		return err
	}
	bare, err := newBare(plain)
	if err != nil {
		return err
	}
	before, err := bare.measure(s.bare)
	if err != nil {
		return err
	}
	all := make([]slice, s.slices)
	var mean cost
	for i := range all {
		if all[i], err = s.slice(ctx); err != nil {
			return err
		}
		after, err := bare.measure(s.bare)
		if err != nil {
			return err
		}
		mean = between(before, after)
		all[i].rsa = mean.of(operationsOf(s.suite))
		before = after
	}
	rate, err := s.tellRates(all, mean, plain)
	if err != nil {
		return err
	}
	if err := s.profile(ctx, plain); err != nil {
		return err
	}
	return s.halfLoad(ctx, rate/2)
}

// halfLoad measures how long requests take from when they are due to their
// outcome, at a rate.
func (s *stage) halfLoad(ctx context.Context, rate float64) error {
	cards, err := s.fleet.take(s.arrivals)
	if err != nil {
		return err
	}
	took, err := s.client.open(ctx, cards, rate)
	if err != nil {
		return err
	}
	s.say("  at half load, %.0f/s as they come (%d): from request to outcome p50 %s, p99 %s", rate, len(took), ms(quantile(took, 0.5)), ms(quantile(took, 0.99)))
	return nil
}

// profile splits the server's time over one more slice by what it goes to.
func (s *stage) profile(ctx context.Context, plain bool) error {
	dir := s.profiles
	if dir == "" {
		dir = s.dir
	}
	file := filepath.Join(dir, s.name+map[bool]string{false: "", true: "-plain"}[plain]+".pprof")
	if _, err := s.server.ask("profile " + file); err != nil {
		return err
	}
	if _, err := s.deactivate(ctx, s.profiled()); err != nil {
		return err
	}
	if _, err := s.server.ask("profiled"); err != nil {
		return err
	}
	split, err := byLayer(file)
	if err != nil {
		return err
	}
	s.say("  what a profile over %d more says each goes to:", s.profiled())
	for _, l := range split {
		s.say("  %10s  %s", us(l.spent/time.Duration(s.profiled())), l.name)
	}
	return nil
}

// atSize measures what may depend on how many cards are registered, and gives
// the times of the statements.
func (s *stage) atSize(ctx context.Context) (at map[string]queryTime, err error) {
	defer s.end(&err)
	if err := s.begin(ctx, s.alone+s.each, false); err != nil {
		return nil, err
	}
	if _, err := s.server.ask("memory"); err != nil {
		return nil, err
	}
	idle, err := s.server.ask("usage")
	if err != nil {
		return nil, err
	}
	time.Sleep(s.idle)
	after, err := s.server.ask("usage")
	if err != nil {
		return nil, err
	}
	work, err := s.slice(ctx)
	if err != nil {
		return nil, err
	}
	memory, err := s.server.ask("memory")
	if err != nil {
		return nil, err
	}
	s.say("  %.0f deactivations/s, %s of the server's time each; server resident %.1f MB, heap %.1f MB with %d cards in readers; idle it takes %.1f %% of a processor",
		work.rate, us(work.server), mb(memory.Resident), mb(memory.Heap), memory.Cards, 100*float64(after.Spent-idle.Spent)/float64(s.idle))
	if _, err := s.server.ask("time"); err != nil {
		return nil, err
	}
	cards, err := s.fleet.take(s.alone)
	if err != nil {
		return nil, err
	}
	if _, err := s.client.all(ctx, cards, 1); err != nil {
		return nil, err
	}
	timed, err := s.server.ask("timed")
	return timed.Queries, err
}

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// profiled is how many deactivations a profile is of.
func (s *stage) profiled() int { return 3 * s.each }

func (s *stage) tellRates(all []slice, c cost, plain bool) (rate float64, err error) {
	mode, suffix := "fast RSA", ""
	if plain {
		mode, suffix = "plain RSA", "/plain"
	}
	ops, n := operationsOf(s.suite), int64(s.each)
	for _, x := range all {
		if x.ops.Private != n*ops.Private || !plain && x.ops.Public != n*ops.Public {
			return 0, fmt.Errorf("%d deactivations took %+v RSA operations, not %+v each", n, x.ops, ops)
		}
	}
	of := func(f func(slice) time.Duration) time.Duration { return median(all, f) }
	rate = median(all, func(x slice) float64 { return x.rate })
	server := of(func(x slice) time.Duration { return x.server })
	s.say("%s, %d at once: %.0f deactivations/s by the clock (medians of %d slices of %d)", mode, s.atOnce, rate, s.slices, s.each)
	s.say("  processor time of each: server %s, of which RSA measured bare %s (private %s, public %s); cards %s, asking %s, database %s",
		us(server), us(of(func(x slice) time.Duration { return x.rsa })), us(c.private), us(c.public),
		us(of(func(x slice) time.Duration { return x.cards })), us(of(func(x slice) time.Duration { return x.generator })),
		us(of(func(x slice) time.Duration { return x.databaseTime })))
	share := median(all, slice.share)
	s.say("  RSA / server %.3f, in slices %.3f to %.3f", share, slices.MinFunc(all, byShare).share(), slices.MaxFunc(all, byShare).share())
	s.ratios = append(s.ratios, namedRatio{"deactivation/rsa-bound-" + s.name + suffix, share})
	return rate, nil
}

func byShare(a, b slice) int { return cmp.Compare(a.share(), b.share()) }

func median[T any, V cmp.Ordered](all []T, f func(T) V) V {
	v := make([]V, len(all))
	for i, x := range all {
		v[i] = f(x)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// slice deactivates the next cards and says what that took.
func (s *stage) slice(ctx context.Context) (slice, error) {
	before, err := s.spent()
	if err != nil {
		return slice{}, err
	}
	took, err := s.deactivate(ctx, s.each)
	if err != nil {
		return slice{}, err
	}
	after, err := s.spent()
	if err != nil {
		return slice{}, err
	}
	n := time.Duration(s.each)
	return slice{
		rate:   float64(s.each) / took.Seconds(),
		server: (after.server.Spent - before.server.Spent) / n, generator: (after.generator - before.generator) / n,
		cards: (after.cards - before.cards) / n, databaseTime: (after.database - before.database) / n,
		ops: operations{after.server.RSA.Private - before.server.RSA.Private, after.server.RSA.Public - before.server.RSA.Public},
	}, nil
}

// spent is what everybody has computed for so far.
type spent struct {
	server                     usage
	generator, cards, database time.Duration
}

func (s *stage) spent() (t spent, err error) {
	if t.server, err = s.server.ask("usage"); err != nil {
		return t, err
	}
	t.generator = processorTime()
	if t.cards, err = processorTimeOf(s.host.PID(), false); err != nil || s.postmaster == 0 {
		return t, err
	}
	t.database, err = processorTimeOf(s.postmaster, true)
	return t, err
}
