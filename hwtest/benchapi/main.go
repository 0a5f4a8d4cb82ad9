// Command benchapi measures the operators' interface against the bare database
// that does the same statements, the audit trail against none, keys in a token
// against keys in a file, and a server's start. It ends in lines
// "ratio NAME VALUE".
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server/store"
)

// options are the program's flags.
type options struct {
	dir     string
	program string // cardbridge; "": its start is not measured
	clients int
	cards   int
	rounds  int
	slice   time.Duration
	tokens  bool
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where the records are made; on a disk")
	flag.StringVar(&o.program, "cardbridge", "", "the program whose start is measured")
	flag.IntVar(&o.clients, "clients", 8, "clients at once, of the interface and of the bare database")
	flag.IntVar(&o.cards, "cards", 240, "registered cards, and cards that are deactivated with and without the audit trail")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds; each measures everything once")
	flag.DurationVar(&o.slice, "slice", 500*time.Millisecond, "how long one thing is measured in a round")
	flag.BoolVar(&o.tokens, "tokens", true, "measure card/pkcs11 too, with SoftHSM2")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ratios, err := o.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchapi:", err)
		os.Exit(1)
	}
	for _, r := range ratios {
		fmt.Printf("ratio %s %.3f\n", r.name, r.value)
	}
}

type ratio struct {
	name  string
	value float64
}

func (o *options) run(ctx context.Context) (out []ratio, err error) {
	dir, err := os.MkdirTemp(o.dir, "benchapi-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Printf("%d clients, %d rounds of %s each; records on %s\n\n", o.clients, o.rounds, o.slice, o.dir)
	database := func(suffix string, records [3]string) error {
		more, err := o.interfaces(ctx, suffix, records[0])
		if err != nil {
			return err
		}
		out = append(out, more...)
		audit, err := o.audits(ctx, records[1], records[2])
		out = append(out, ratio{"audit/none" + suffix, audit})
		return err
	}
	if err := database("", [3]string{filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db"), filepath.Join(dir, "c.db")}); err != nil {
		return nil, err
	}
	pg, err := postgres.New(ctx, postgres.Options{Dir: o.dir})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pg.Stop()) }()
	var records [3]string
	for i := range records {
		if records[i], err = pg.CreateDatabase(ctx, ""); err != nil {
			return nil, err
		}
	}
	if err := database("-postgres", records); err != nil {
		return nil, err
	}
	if o.program != "" {
		if err := o.starts(ctx, dir); err != nil {
			return nil, err
		}
	}
	if o.tokens {
		more, err := tokens(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// interfaces measures reads, lists and creations over HTTP against the same
// statements on the bare database, and against net/http that answers the same
// bytes to the same client, in turns.
func (o *options) interfaces(ctx context.Context, suffix, record string) ([]ratio, error) {
	w, err := newWorld(ctx, record, o.cards)
	if err != nil {
		return nil, err
	}
	defer w.close()
	fill := func() error { // so that a page is full
		_, err := rate(ctx, o.clients, o.slice, w.kinds()[2].at(w.url))
		return err
	}
	if err := fill(); err != nil {
		return nil, err
	}
	var out []ratio
	for _, k := range w.kinds() {
		said, err := w.learn(ctx, k.at(w.url))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		bare, err := newReplay(record, said)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		plain := w.echo()
		defer plain.Close()
		var apis, bares, plains, ratios, toHTTP []float64
		for range o.rounds {
			a, err := rate(ctx, o.clients, o.slice, k.at(w.url))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			b, err := rate(ctx, o.clients, o.slice, bare.run)
			if err != nil {
				return nil, fmt.Errorf("%s, bare: %w", k.name, err)
			}
			p, err := rate(ctx, o.clients, o.slice, k.at(plain.URL))
			if err != nil {
				return nil, fmt.Errorf("%s, net/http: %w", k.name, err)
			}
			apis, bares, plains, ratios, toHTTP = append(apis, a), append(bares, b), append(plains, p), append(ratios, a/b), append(toHTTP, a/p)
		}
		if err := bare.close(); err != nil {
			return nil, err
		}
		fmt.Printf("%-16s %3d statements  interface %7.0f/s  bare database %7.0f/s  bare net/http %7.0f/s\n",
			k.name+suffix, len(said), median(apis), median(bares), median(plains))
		out = append(out, ratio{"api-" + k.name + "/database" + suffix, median(ratios)}, ratio{"api-" + k.name + "/http" + suffix, median(toHTTP)})
	}
	return out, nil
}

// audits measures whole deactivations of emulated cards with the audit trail and
// without, in turns.
func (o *options) audits(ctx context.Context, with, without string) (float64, error) {
	each := o.cards / o.rounds
	var worlds [2]*world
	for i, record := range []string{with, without} {
		var opts []store.Option
		if i == 1 {
			opts = append(opts, store.WithoutAudit())
		}
		w, err := newWorld(ctx, record, each*o.rounds, opts...)
		if err != nil {
			return 0, err
		}
		defer w.close()
		if err := w.insert(ctx); err != nil {
			return 0, err
		}
		worlds[i] = w
	}
	var ratios []float64
	var all [2][]float64
	for round := range o.rounds {
		var rates [2]float64
		for i, w := range worlds {
			var err error
			if rates[i], err = w.deactivations(ctx, round*each, each, o.clients); err != nil {
				return 0, err
			}
			all[i] = append(all[i], rates[i])
		}
		ratios = append(ratios, rates[0]/rates[1])
	}
	fmt.Printf("%-20s deactivations with the audit trail %.0f/s, without %.0f/s\n\n", "", median(all[0]), median(all[1]))
	return median(ratios), nil
}

// starts measures how long `cardbridge serve` takes until it is ready, and its
// memory then.
func (o *options) starts(ctx context.Context, dir string) error {
	keys := filepath.Join(dir, "server.json")
	if out, err := exec.CommandContext(ctx, o.program, "keys", "new", keys).CombinedOutput(); err != nil {
		return fmt.Errorf("keys new: %w: %s", err, out)
	}
	var took []time.Duration
	var resident int64
	for range o.rounds {
		cmd := exec.CommandContext(ctx, o.program, "serve", "--data", filepath.Join(dir, "data"), "--keyset", keys, "--listen", "127.0.0.1:0")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return err
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		took = append(took, time.Since(began))
		if err == nil && !strings.HasPrefix(line, "ready at") {
			err = fmt.Errorf("serve says %q", line)
		}
		if err == nil {
			resident, err = residentOf(cmd.Process.Pid)
		}
		err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
		if err != nil {
			return fmt.Errorf("serve: %w", err)
		}
	}
	first := took[0]
	slices.Sort(took)
	fmt.Printf("start: %s the first time, %s then (median); %.0f MB resident, idle\n\n", first.Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), float64(resident)/1e6)
	return nil
}

// residentOf is a process's memory, in bytes.
func residentOf(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}

// perCPU is a line of card/pkcs11's benchmark.
var perCPU = regexp.MustCompile(`BenchmarkPrivate/(\S+?)/many\S*\s.*?([0-9.]+) ops/cpu-s`)

// tokens measures private operations in SoftHSM2 against those of keys in memory,
// by many goroutines, a second of processor time each.
func tokens(ctx context.Context) ([]ratio, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkPrivate", "./card/pkcs11").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("card/pkcs11: %w: %s", err, out)
	}
	rates := map[string]float64{}
	for _, m := range perCPU.FindAllStringSubmatch(string(out), -1) {
		var v float64
		if _, err := fmt.Sscan(m[2], &v); err != nil {
			return nil, err
		}
		rates[m[1]] = v
	}
	if len(rates) != 3 {
		return nil, fmt.Errorf("card/pkcs11's benchmark says something else: %s", out)
	}
	fmt.Printf("private operations in a second of processor time: SoftHSM2 %.0f, plain key %.0f, scheduler %.0f\n\n", rates["pkcs11"], rates["pem-plain"], rates["pem-scheduler"])
	return []ratio{{"pkcs11/pem", rates["pkcs11"] / rates["pem-scheduler"]}, {"pkcs11/pem-plain", rates["pkcs11"] / rates["pem-plain"]}}, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

var quiet = slog.New(slog.DiscardHandler)
