package main

import (
	"bufio"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/servertest/cardhost"
	"github.com/cardbridge/cardbridge/server/store"
)

// childVar has this program be the server, and tells it how.
const childVar = "CARDBRIDGE_BENCHSERVER"

// serving is how the server is to be.
type serving struct {
	Record  string // as store.Open wants it
	Cards   string // the card host's socket
	Dir     string // for the TLS key, profiles and the log
	Workers int
	Plain   bool // RSA without package rsafast
}

// budget is what the guard allows in a benchmark that deactivates all there is.
const budget = "{max: 100000000, ceiling: 1000000000}"

// usage is what the server says of itself.
type usage struct {
	Spent    time.Duration // of processors
	Resident int64         // bytes
	Heap     int64         // bytes in use after a collection
	Cards    int           // in the readers, and identified
	RSA      operations    // so far
	Queries  map[string]queryTime
	Error    string
}

// started is what it says first.
type started struct{ URL, Pin string }

// serve is the server: as `cardbridge serve`, on the cards of a card host, and
// with words on its standard input for what is to be measured of it. It ends
// when that ends.
func serve(c serving) (err error) {
	logFile, err := os.OpenFile(filepath.Join(c.Dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	log := slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: slog.LevelInfo}))
	var counted counter
	keys, closeKeys, err := counted.keys(c.Plain)
	if err != nil {
		return err
	}
	defer closeKeys()
	ctx, end := context.WithCancel(context.Background())
	defer end()
	var asked timings
	records, err := store.Open(ctx, c.Record, store.WithTimings(asked.add))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	cards := cardhost.NewSource(c.Cards, nil)
	defer cards.Close()
	readers := inventory.New(cards, log)
	set := servertest.RulesWith(budget)
	srv, err := server.New(server.Config{
		Store: records, Inventory: readers, Terminal: &card.Terminal{Keys: keys}, Log: log, Workers: c.Workers,
		Rules: func() *rules.Set { return set },
	})
	if err != nil {
		return err
	}
	web := api.NewServer(api.New(srv, log, api.WithLimits(api.Limits{})))
	cert, pin, err := api.Certificate(c.Dir, time.Now())
	if err != nil {
		return err
	}
	web.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	engine := make(chan error, 1)
	go func() { engine <- srv.Run(ctx); end() }()
	<-srv.Started()
	served := make(chan error, 1)
	go func() { served <- web.ServeTLS(ln, "", ""); end() }()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(started{"https://" + ln.Addr().String(), pin}); err != nil {
		return err
	}
	go func() {
		defer end()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			u := usage{RSA: counted.sum()}
			if err := obey(in.Text(), &asked, &u); err != nil {
				u.Error = err.Error()
			}
			u.Cards = len(readers.EIDs())
			if out.Encode(u) != nil {
				return
			}
		}
	}()
	<-ctx.Done()
	err = <-engine
	_ = web.Close()
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// obey does what a word asks for: "usage"; "memory", which is usage after a
// collection; "profile FILE" and "profiled" begin and end a profile, "time" and
// "timed" the timing of statements.
func obey(line string, asked *timings, u *usage) error {
	word, file, _ := strings.Cut(line, " ")
	switch word {
	case "usage":
	case "memory":
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		u.Heap = int64(m.HeapAlloc)
	case "profile":
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		return pprof.StartCPUProfile(f)
	case "profiled":
		pprof.StopCPUProfile()
	case "time":
		asked.begin()
	case "timed":
		u.Queries = asked.end()
	default:
		return fmt.Errorf("no such word: %q", word)
	}
	u.Spent, u.Resident = processorTime(), residentSize()
	return nil
}

// counter counts RSA operations on their way to whoever does them.
type counter struct{ private, public atomic.Int64 }

func (c *counter) sum() operations { return operations{c.private.Load(), c.public.Load()} }

// keys is the server's key set as `cardbridge serve` loads it, counted; plain:
// in package cryptogram's own hands, where public operations cannot be counted.
func (c *counter) keys(plain bool) (cryptogram.ServerKeys, func(), error) {
	set, err := cryptogram.ParseKeySet(servertest.KeySetFile())
	if err != nil {
		return cryptogram.ServerKeys{}, nil, err
	}
	if plain {
		keys, err := set.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) {
			key, err := cryptogram.NewKey(k)
			return countedKey{key, c}, err
		})
		return keys, func() {}, err
	}
	s := rsafast.NewScheduler(rsafast.Config{})
	keys, err := set.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) {
		key, err := s.Load(k)
		return countedKey{key, c}, err
	})
	keys.Ops = countedOps{s, c}
	return keys, s.Close, err
}

type countedKey struct {
	cryptogram.CheckedKey
	c *counter
}

func (k countedKey) Private(ctx context.Context, x []byte) ([]byte, error) {
	k.c.private.Add(1)
	return k.CheckedKey.Private(ctx, x)
}

func (k countedKey) PrivateTo(ctx context.Context, dst, x []byte) error {
	k.c.private.Add(1)
	return k.CheckedKey.PrivateTo(ctx, dst, x)
}

type countedOps struct {
	cryptogram.PublicOps
	c *counter
}

func (o countedOps) PublicTo(ctx context.Context, k *rsa.PublicKey, dst, x []byte) error {
	o.c.public.Add(1)
	return o.PublicOps.PublicTo(ctx, k, dst, x)
}

// child is the server's process.
type child struct {
	started
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startServer(c serving) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	p := &child{cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), childVar+"="+string(config))
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(out)
	if err := p.out.Decode(&p.started); err != nil {
		return nil, errors.Join(fmt.Errorf("the server does not start: %w", err), p.stop())
	}
	return p, nil
}

// ask gives the server a word for obey.
func (p *child) ask(word string) (u usage, err error) {
	if _, err := fmt.Fprintln(p.in, word); err != nil {
		return u, err
	}
	if err := p.out.Decode(&u); err != nil {
		return u, fmt.Errorf("the server does not say %s: %w", word, err)
	}
	if u.Error != "" {
		return u, fmt.Errorf("the server: %s: %s", word, u.Error)
	}
	return u, nil
}

// sees waits until the server has identified that many cards.
func (p *child) sees(ctx context.Context, cards int) error {
	for {
		u, err := p.ask("usage")
		if err != nil || u.Cards >= cards {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d cards identified: %w", u.Cards, cards, ctx.Err())
		}
	}
}

func (p *child) stop() error {
	_ = p.in.Close()
	timer := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	return p.cmd.Wait()
}
