package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/pcsc"
)

// roleVar tells a process of this program what it is: the card, or package
// pcsc's side. Each has a process of its own, so that neither waits for what Go's
// scheduler does for the other.
const (
	roleVar   = "CARDBRIDGE_BENCHPCSC"
	roleCard  = "card"
	rolePeer  = "peer"
	targetVar = "CARDBRIDGE_BENCHPCSC_TARGET" // the card's address, or the reader's name
)

//go:embed testdata/transmit.c
var transmitC []byte

// atr is that of a card that speaks T=1 (ISO/IEC 7816-3 §8).
var atr = []byte{0x3B, 0x80, 0x01, 0x81}

// echo is a card that answers at once, with the command's data.
type echo struct{ answer []byte }

func (*echo) ATR() []byte { return atr }
func (*echo) Power(bool)  {}
func (*echo) Reset()      {}
func (e *echo) Process(capdu []byte) []byte {
	e.answer = append(append(e.answer[:0], capdu[min(5, len(capdu)):]...), 0x90, 0x00)
	return e.answer
}

// beCard is the card until stdin ends.
func beCard() error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := vpcd.Serve(ctx, os.Getenv(targetVar), &echo{})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// bePeer does in Go what transmit.c does.
func bePeer() error {
	ctx := context.Background()
	reader := os.Getenv(targetVar)
	conn, err := pcsc.New().Connect(ctx, reader, pcsc.Options{Protocol: pcsc.T1})
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	var took []time.Duration
	for {
		var size, count int
		if _, err := fmt.Fscanln(in, &size, &count); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		command := make([]byte, size)
		command[1], command[4] = 0xA4, byte(size-5)
		took = took[:0]
		for range count {
			start := time.Now()
			rapdu, err := conn.Transmit(ctx, command)
			took = append(took, time.Since(start))
			if err != nil {
				return err
			}
			if len(rapdu) != size-3 {
				return fmt.Errorf("answer of %d bytes", len(rapdu))
			}
		}
		for _, d := range took {
			if err := binary.Write(out, binary.NativeEndian, uint64(d)); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// peer is a process that makes exchanges when told to.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(cmd *exec.Cmd) (*peer, error) {
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &peer{cmd, in, bufio.NewReaderSize(out, 1<<20)}, cmd.Start()
}

// stop ends the process by the end of its input.
func (p *peer) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// slice has the peer make count exchanges and gives the nanoseconds of each.
func (p *peer) slice(size, count int) ([]float64, error) {
	if _, err := fmt.Fprintln(p.in, size, count); err != nil {
		return nil, err
	}
	raw := make([]byte, 8*count)
	if _, err := io.ReadFull(p.out, raw); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(p.cmd.Path), err)
	}
	took := make([]float64, count)
	for i := range took {
		took[i] = float64(binary.NativeEndian.Uint64(raw[8*i:]))
	}
	return took, nil
}

func role(ctx context.Context, role, target string) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), roleVar+"="+role, targetVar+"="+target)
	return start(cmd)
}

// startCard puts the card into the reader and waits until it is there.
func startCard(ctx context.Context, addr, reader string) (*peer, error) {
	p, err := role(ctx, roleCard, addr)
	if err != nil {
		return nil, err
	}
	if _, err := pcsc.New().WaitCard(ctx, reader); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func startGo(ctx context.Context, reader string) (*peer, error) { return role(ctx, rolePeer, reader) }

// startC compiles the C peer and starts it.
func startC(ctx context.Context, reader string) (*peer, error) {
	dir, err := os.MkdirTemp("", "benchpcsc-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // a program that runs does not need its file
	source, program := filepath.Join(dir, "transmit.c"), filepath.Join(dir, "transmit")
	if err := os.WriteFile(source, transmitC, 0o600); err != nil {
		return nil, err
	}
	flags, err := exec.CommandContext(ctx, "pkg-config", "--cflags", "--libs", "libpcsclite").Output()
	if err != nil {
		return nil, fmt.Errorf("pkg-config libpcsclite: %w (Debian: pkg-config libpcsclite-dev)", err)
	}
	args := append([]string{"-O2", "-Wall", "-o", program, source}, strings.Fields(string(flags))...)
	if out, err := exec.CommandContext(ctx, "cc", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cc: %w\n%s", err, out)
	}
	return start(exec.CommandContext(ctx, program, reader))
}
