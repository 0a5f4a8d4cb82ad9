// Package cardhost is emulated cards in another process, thousands of them,
// each in a reader of its own: for benchmarks, whose figures are then the
// server's alone, and for tests that kill a server while the cards live on.
//
// A program that calls Start is its own host: it starts itself again, and Enter
// makes that second process serve the cards.
//
//	func main() {
//		cardhost.Enter()
//		...
//		host, err := cardhost.Start(ctx, cardhost.Config{Cards: 1000})
//		...
//		readers := host.Source(nil) // or cardhost.NewSource(host.Addr(), nil) in a third process
//
// Card n has the image servertest.Image(n) and is in the reader Name(n). All
// share one key set, which is loaded once.
package cardhost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says what a host has; it cannot be changed later.
type Config struct {
	First int `json:"first"` // the number of the first card
	Cards int `json:"cards"` // how many; all are inserted at the start
	// Workers is how many RSA calls the host makes at the same time; 0: as many
	// as Go uses cores.
	Workers int `json:"workers"`
}

// maxCards is what the cards' numbers must stay below: what servertest.EID has
// room for.
const maxCards = 100_000_000

func (c Config) check() error {
	if c.First < 0 || c.Cards < 0 || c.First > maxCards || c.Cards > maxCards-c.First {
		return fmt.Errorf("cardhost: %d cards from %d on: their numbers are to be 0 to %d", c.Cards, c.First, maxCards-1)
	}
	return nil
}

const namePrefix = "reader "

// Name is the reader of card n.
func Name(n int) string { return namePrefix + strconv.Itoa(n) }

// number is the card of the reader of that name.
func number(name string) (n int, ok bool) {
	digits, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= 0 && n < maxCards && Name(n) == name
}

const (
	configVar = "CARDBRIDGE_CARDHOST" // the Config, in the process that is the host
	dirVar    = "CARDBRIDGE_CARDHOST_DIR"
	ready     = "ready\n"

	stopTimeout = 10 * time.Second
)

// Enter makes the process that Start has started a host, and ends it when its
// time has come; in any other it returns at once. Call it first of all.
func Enter() {
	config := os.Getenv(configVar)
	if config == "" {
		return
	}
	if err := beHost(config, os.Getenv(dirVar)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// beHost serves until standard input ends, as it does with the process that
// started this one, however that ends. Then the directory goes.
func beHost(config, dir string) (err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var c Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return fmt.Errorf("cardhost: %s: %w", configVar, err)
	}
	h, err := New(c)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := net.Listen("unix", socketIn(dir))
	if err != nil {
		return fmt.Errorf("cardhost: %w", err)
	}
	signal.Ignore(os.Interrupt) // a terminal's is for the process that started this one
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	if _, err := io.WriteString(os.Stdout, ready); err != nil {
		return fmt.Errorf("cardhost: %w", err)
	}
	if err := h.Serve(ctx, l); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func socketIn(dir string) string { return filepath.Join(dir, "socket") }

// Process is a host in a process of its own. It ends with the process that
// started it at the latest.
type Process struct {
	cmd   *exec.Cmd
	dir   string
	alive io.Closer // the host's standard input
	stop  func() error
}

// Start starts this program again as a host and returns once it serves. ctx
// bounds the start alone.
func Start(ctx context.Context, c Config) (*Process, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("cardhost: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cardhost: %w", err)
	}
	dir, err := os.MkdirTemp("", "cardhost-") // the path of a socket is to be short
	if err != nil {
		return nil, fmt.Errorf("cardhost: %w", err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), configVar+"="+string(config), dirVar+"="+dir)
	cmd.Stderr = os.Stderr
	p := &Process{cmd: cmd, dir: dir}
	p.stop = sync.OnceValue(p.end)
	var out io.ReadCloser
	if p.alive, err = cmd.StdinPipe(); err == nil {
		out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cardhost: %w", err), os.RemoveAll(dir))
	}
	stop := context.AfterFunc(ctx, func() { _ = p.alive.Close() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if !stop() {
		err = ctx.Err()
	}
	if err == nil && line != ready {
		err = errors.New("the program does not call Enter first of all")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cardhost: the host does not start: %w", err), p.Stop())
	}
	return p, nil
}

// Addr is the path of the host's socket, for NewSource and NewControl.
func (p *Process) Addr() string { return socketIn(p.dir) }

// PID is the host's process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// CPU is the time that the host has computed for, once it was stopped.
func (p *Process) CPU() time.Duration {
	if p.cmd.ProcessState == nil {
		return 0
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// Source is NewSource at Addr.
func (p *Process) Source(sees func(card int) bool) *Source { return NewSource(p.Addr(), sees) }

// Control is NewControl at Addr.
func (p *Process) Control() *Control { return NewControl(p.Addr()) }

// Stop ends the host; it does nothing the second time. What the cards remember
// is gone.
func (p *Process) Stop() error { return p.stop() }

func (p *Process) end() error {
	_ = p.alive.Close()
	kill := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.cmd.Wait()
	return errors.Join(err, os.RemoveAll(p.dir))
}
