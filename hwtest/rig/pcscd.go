package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// MaxSlots is the number of readers that a pcscd can have.
const MaxSlots = 16

const (
	socketDir = "/run/pcscd" // compiled into pcscd: one in each mount namespace
	socket    = socketDir + "/pcscd.comm"
	pidFile   = socketDir + "/pcscd.pid"

	slotsPerDriver = 2 // compiled into vpcd
	firstPort      = 35963
	confName       = "reader.conf.d"

	startTimeout = 10 * time.Second
	stopTimeout  = 3 * time.Second
	maxLog       = 1 << 20 // bytes of pcscd's log that are kept
)

// Where pcscd and the drivers are, as Debian, Fedora and a build from source
// have them.
var (
	daemonDirs = []string{"/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"}
	driverDirs = []string{
		"/usr/lib/pcsc/drivers", "/usr/lib64/pcsc/drivers",
		"/usr/local/lib/pcsc/drivers", "/usr/local/lib64/pcsc/drivers",
	}
)

// Options are what StartPCSCD may be told.
type Options struct {
	// Slots is the number of virtual readers, 0 to MaxSlots. They come in
	// pairs: an odd number is rounded up.
	Slots int
	// USB are readers beside those, after them in the list.
	USB []USBReader
	// Debug makes pcscd log its exchanges, APDUs too.
	Debug bool
	// Log gets pcscd's log as it comes; nil keeps it for PCSCD.Log alone.
	Log io.Writer
}

// Slot is a virtual reader: a card attaches to its Addr over TCP, and PC/SC
// clients see it in the reader of that name.
type Slot struct {
	Addr   string // host:port
	Reader string
}

// PCSCD is a running pcscd. Its methods serve one goroutine.
type PCSCD struct {
	options Options
	daemon  string // path
	dir     string // the configuration, ours
	slots   []Slot
	log     logBuffer
	cmd     *exec.Cmd
	ended   chan struct{} // closed once cmd has been waited for
}

// StartPCSCD starts a pcscd with virtual readers and returns once it serves. It
// needs Enter before it, and there can be one at a time. ctx bounds the start
// alone.
func StartPCSCD(ctx context.Context, o Options) (*PCSCD, error) {
	if !entered() {
		return nil, ErrNotEntered
	}
	slots := o.Slots
	for _, r := range o.USB {
		slots += r.Slots
		if r.Slots < 1 || r.Slots > slotsPerDriver {
			return nil, fmt.Errorf("rig: a USB reader of %d slots: it has 1 or %d", r.Slots, slotsPerDriver)
		}
	}
	if o.Slots < 0 || slots > MaxSlots {
		return nil, fmt.Errorf("rig: %d virtual readers: pcscd has room for %d", slots, MaxSlots)
	}
	o.USB = slices.Clone(o.USB)
	daemon, err := find("pcscd", daemonDirs)
	if err != nil {
		return nil, fmt.Errorf("rig: no pcscd in %v: install the package pcscd", daemonDirs)
	}
	dir, err := os.MkdirTemp("/run", "pcscd-conf-")
	if err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	p := &PCSCD{options: o, daemon: daemon, dir: dir}
	p.log.copy = o.Log
	if err = p.configure(); err == nil {
		err = p.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return p, nil
}

// Start is StartPCSCD for a test: it fails the test where that fails, stops the
// daemon when the test ends, and shows the daemon's log if it failed.
func Start(tb testing.TB, o Options) *PCSCD {
	tb.Helper()
	p, err := StartPCSCD(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Stop(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("pcscd's log:\n%s", p.Log())
		}
	})
	return p
}

// Slots are the virtual readers, in the order in which pcscd lists them.
func (p *PCSCD) Slots() []Slot { return p.slots }

// Log is what the daemon has logged, the last MiB of it.
func (p *PCSCD) Log() string { return p.log.String() }

// Stop ends the daemon as its service manager would and removes its
// configuration; it does nothing the second time.
func (p *PCSCD) Stop() error {
	var err error
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(terminate)
		select {
		case <-p.ended:
			p.cmd = nil
		case <-time.After(stopTimeout): // a card that does not answer keeps it from ending
			err = p.Kill()
		}
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

// Kill ends the daemon at once (SIGKILL), as a crash would.
func (p *PCSCD) Kill() error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Kill()
	select {
	case <-p.ended:
		p.cmd = nil
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("rig: pcscd (process %d) survives SIGKILL", p.cmd.Process.Pid)
	}
}

// Restart starts the daemon again with the same readers, and kills it first if
// it still runs. ctx bounds the start.
func (p *PCSCD) Restart(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	return p.start(ctx)
}

// configure writes reader.conf. vpcd keeps its slots in static variables, so
// that two readers on one file of it would be the same: each has its own copy.
func (p *PCSCD) configure() error {
	confDir := filepath.Join(p.dir, confName)
	if err := os.Mkdir(confDir, 0o755); err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	if p.options.Slots == 0 && len(p.options.USB) == 0 {
		return nil
	}
	var serial []string
	for _, d := range driverDirs {
		serial = append(serial, filepath.Join(d, "serial"))
	}
	path, err := find("libifdvpcd.so*", serial)
	if err != nil {
		return fmt.Errorf("rig: no libifdvpcd.so in %v: install the package vsmartcard-vpcd", serial)
	}
	driver, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	var conf bytes.Buffer
	for entry := range (p.options.Slots + slotsPerDriver - 1) / slotsPerDriver {
		driverCopy := filepath.Join(p.dir, fmt.Sprintf("libifdvpcd-%d.so", entry))
		if err := os.WriteFile(driverCopy, driver, 0o755); err != nil {
			return fmt.Errorf("rig: %w", err)
		}
		port := firstPort + entry*slotsPerDriver
		name := fmt.Sprintf("Virtual PCD %c", 'A'+entry) // pcscd tells readers of one driver file apart, not of two
		writeEntry(&conf, name, port, driverCopy)
		for slot := range slotsPerDriver {
			p.slots = append(p.slots, Slot{
				Addr:   net.JoinHostPort("127.0.0.1", strconv.Itoa(port+slot)),
				Reader: fmt.Sprintf("%s 00 %02X", name, slot),
			})
		}
	}
	if err := p.configureUSB(&conf, driver, firstPort+len(p.slots)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(confDir, "vpcd"), conf.Bytes(), 0o644); err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	return nil
}

func writeEntry(conf *bytes.Buffer, name string, port int, driver string) {
	fmt.Fprintf(conf, "FRIENDLYNAME \"%s\"\nDEVICENAME /dev/null:0x%X\nLIBPATH %s\nCHANNELID 0x%X\n\n",
		name, port, driver, port)
}

// start runs the daemon and waits until it accepts clients: it has its readers
// by then.
func (p *PCSCD) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if conn, err := net.Dial("unix", socket); err == nil {
		return errors.Join(errors.New("rig: a pcscd is running already"), conn.Close())
	}
	for _, stale := range []string{socket, pidFile} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rig: %w", err)
		}
	}
	args := []string{"--foreground", "--info", "--config", filepath.Join(p.dir, confName)}
	if p.options.Debug {
		args = append(args, "--debug", "--apdu")
	}
	cmd := exec.Command(p.daemon, args...)
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait() // its status says nothing that the log does not
		close(ended)
	}(p.ended)

	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			p.cmd = nil
			return fmt.Errorf("rig: pcscd ended at its start:\n%s", p.Log())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("rig: pcscd does not open its socket: %w\n%s", ctx.Err(), p.Log()), p.Kill())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// find gives the first file of that name (a pattern) in dirs.
func find(pattern string, dirs []string) (string, error) {
	for _, d := range dirs {
		found, err := filepath.Glob(filepath.Join(d, pattern))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", os.ErrNotExist
}

// logBuffer keeps the last of what is written to it.
type logBuffer struct {
	mu   sync.Mutex
	b    []byte
	copy io.Writer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, b...)
	if over := len(l.b) - maxLog; over > 0 {
		l.b = append(l.b[:0], l.b[over:]...)
	}
	if l.copy != nil {
		return l.copy.Write(b)
	}
	return len(b), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
