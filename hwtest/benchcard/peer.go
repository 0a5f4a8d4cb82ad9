package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
)

//go:embed testdata/cacard.c
var cacardC []byte

// roleVar has a process of this program be the emulated card at that address.
const roleVar = "CARDBRIDGE_BENCHCARD"

// beCard is the card until stdin ends.
func beCard() error {
	c, err := appletsim.New(testcard.Image(0))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := vpcd.Serve(ctx, os.Getenv(roleVar), c); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// contender is a card in a reader, and its commands.
type contender struct {
	name    string
	prepare [][]byte
	choose  []byte // SELECT by AID
	read    []byte // 10 bytes, after prepare
	conn    *pcsc.Conn
}

// against measures both cards in turn, and gives the median of the paired ratios.
func against(ctx context.Context, o options) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	daemon, err := rig.StartPCSCD(ctx, rig.Options{Slots: 2})
	if err != nil {
		return 0, err
	}
	defer daemon.Stop()
	slots := daemon.Slots()
	ours, err := start(self(ctx, slots[0].Addr))
	if err != nil {
		return 0, err
	}
	defer ours()
	cmd, cleanUp, err := cacard(ctx, slots[1].Addr)
	if err != nil {
		return 0, err
	}
	defer cleanUp()
	theirs, err := start(cmd)
	if err != nil {
		return 0, err
	}
	defer theirs()

	pki := []byte{0x00, 0xA4, 0x04, 0x00, 0x07, 0xA0, 0x00, 0x00, 0x00, 0x79, 0x01, 0x00, 0x00}
	contenders := []*contender{
		{name: "emulator", choose: selectApplet, prepare: [][]byte{selectUSIM, selectICCID}, read: readBinary},
		{name: "libcacard", choose: pki, prepare: [][]byte{pki}, read: []byte{0x80, 0x52, 0x00, 0x00, 0x02, 0x01, 0x0A, 0x0A}},
	}
	source := pcsc.New()
	for i, c := range contenders {
		if _, err := source.WaitCard(ctx, slots[i].Reader); err != nil {
			return 0, fmt.Errorf("%s: %w", c.name, err)
		}
		if c.conn, err = source.Connect(ctx, slots[i].Reader, pcsc.Options{}); err != nil {
			return 0, fmt.Errorf("%s: %w", c.name, err)
		}
		defer c.conn.Close()
	}
	var all []float64
	for _, part := range []string{"SELECT", "read of 10 bytes"} {
		rates := map[string][]float64{}
		var ratios []float64
		for round := range o.rounds + 1 { // the first warms up
			order := slices.Clone(contenders)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			took := map[string]float64{}
			for _, c := range order {
				if took[c.name], err = c.slice(ctx, part == "SELECT", o.count); err != nil {
					return 0, fmt.Errorf("%s: %s: %w", c.name, part, err)
				}
			}
			if round == 0 {
				continue
			}
			for name, t := range took {
				rates[name] = append(rates[name], 1e9/t)
			}
			ratios = append(ratios, took["libcacard"]/took["emulator"])
		}
		fmt.Printf("through pcscd and vpcd: %-18s  emulator %6.0f /s  libcacard %6.0f /s  ratio %.3f\n", part, median(rates["emulator"]), median(rates["libcacard"]), median(ratios))
		all = append(all, ratios...)
	}
	return median(all), nil
}

// slice gives the median nanoseconds of count exchanges.
func (c *contender) slice(ctx context.Context, choose bool, count int) (float64, error) {
	command, before := c.choose, [][]byte(nil)
	if !choose {
		command, before = c.read, c.prepare
	}
	for _, capdu := range before {
		if _, err := c.transmit(ctx, capdu); err != nil {
			return 0, err
		}
	}
	took := make([]float64, count)
	for i := range took {
		t, err := c.transmit(ctx, command)
		if err != nil {
			return 0, err
		}
		took[i] = float64(t)
	}
	return median(took), nil
}

func (c *contender) transmit(ctx context.Context, capdu []byte) (time.Duration, error) {
	begun := time.Now()
	rapdu, err := c.conn.Transmit(ctx, capdu)
	took := time.Since(begun)
	if err != nil {
		return 0, err
	}
	_, sw, err := apdu.ParseResponse(rapdu)
	if err == nil && sw != apdu.SWSuccess && sw.SW1() != 0x61 { // by T=0 pcscd leaves Le out
		err = sw
	}
	if err != nil {
		return 0, fmt.Errorf("%X: %w", capdu, err)
	}
	return took, nil
}

// start starts a process and gives what ends it.
func start(cmd *exec.Cmd) (stop func(), err error) {
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		in.Close()
		time.AfterFunc(time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
	}, nil
}

func self(ctx context.Context, addr string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+addr)
	return cmd
}

// cacard compiles libcacard's card, makes the keys that it has, and gives the
// command that runs it.
func cacard(ctx context.Context, addr string) (cmd *exec.Cmd, cleanUp func(), err error) {
	dir, err := os.MkdirTemp("", "benchcard-")
	if err != nil {
		return nil, nil, err
	}
	cleanUp = func() { os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			cleanUp()
		}
	}()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("cacard.c"), cacardC, 0o600); err != nil {
		return nil, nil, err
	}
	flags, err := exec.CommandContext(ctx, "pkg-config", "--cflags", "--libs", "libcacard").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("pkg-config libcacard: %w (Debian: libcacard-dev)", err)
	}
	runs := [][]string{
		append([]string{"cc", "-O2", "-Wall", "-o", file("cacard"), file("cacard.c")}, strings.Fields(string(flags))...),
		{"certutil", "-N", "-d", "sql:" + dir, "--empty-password"},
	}
	if err := os.WriteFile(file("noise"), fmt.Append(nil, time.Now()), 0o600); err != nil { // certutil wants some beside its own
		return nil, nil, err
	}
	args := []string{"", dir}
	if _, args[0], err = net.SplitHostPort(addr); err != nil {
		return nil, nil, err
	}
	for i := range 3 {
		name := fmt.Sprintf("bench%d", i+1)
		args = append(args, name)
		runs = append(runs, []string{"certutil", "-S", "-d", "sql:" + dir, "-s", "CN=" + name, "-n", name, "-x", "-t", ",,", "-v", "12",
			"-g", "2048", "-z", file("noise"), "-m", fmt.Sprint(i + 1)})
	}
	for _, run := range runs {
		if out, err := exec.CommandContext(ctx, run[0], run[1:]...).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w (Debian: gcc, libnss3-tools)\n%s", run[0], err, out)
		}
	}
	return exec.CommandContext(ctx, file("cacard"), args...), cleanUp, nil
}
