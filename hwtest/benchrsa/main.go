package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/cpu"
)

// peerVar tells this program, started by itself on one processor, that it is to
// measure, and where OpenSSL's side is.
const peerVar = "CARDBRIDGE_BENCHRSA_PEER"

// withoutAVX512 has both sides do without AVX-512.
var withoutAVX512 = []string{
	"GODEBUG=cpu.avx512f=off",      // of x/sys/cpu
	"OPENSSL_ia32cap=:~0xd0230000", // AVX512 F, DQ, IFMA, CD, BW, VL
}

// options are the program's flags.
type options struct {
	core   int
	cc     string
	slice  time.Duration
	rounds int
	cards  int
	fleet  int
	sizes  []int // bits of a modulus; 2048, which handshakes have, among them
}

func main() {
	o := options{sizes: []int{2048, 3072, 4096}}
	flag.IntVar(&o.core, "core", -1, "processor to run on; -1: the last that may be used")
	flag.StringVar(&o.cc, "cc", "cc", "C compiler for OpenSSL's side")
	flag.DurationVar(&o.slice, "slice", 30*time.Millisecond, "length of a slice; one of handshakes has 8")
	flag.IntVar(&o.rounds, "rounds", 15, "slices of each contestant")
	flag.IntVar(&o.cards, "cards", 8, "cards, with keys of their own, that handshakes are with")
	flag.IntVar(&o.fleet, "fleet", 32, "handshakes at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchrsa:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if peer := os.Getenv(peerVar); peer != "" {
		return measure(ctx, o, peer, os.Stdout)
	}
	dir, err := os.MkdirTemp("", "benchrsa")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	peer := filepath.Join(dir, "peer")
	if err := buildPeer(ctx, o.cc, peer); err != nil {
		return err
	}
	if err := pin(o.core); err != nil {
		return err
	}
	ratios, err := again(ctx, peer, nil)
	if err != nil {
		return err
	}
	if cpu.X86.HasAVX512F {
		fmt.Println("\nThe same with AVX-512 switched off on both sides, as on a processor without it:")
		fmt.Println()
		narrow, err := again(ctx, peer, withoutAVX512)
		if err != nil {
			return err
		}
		for i, r := range narrow {
			name, value, _ := strings.Cut(r, " ")
			narrow[i] = name + "/no-avx512 " + value
		}
		ratios = append(narrow, ratios...)
	}
	fmt.Println()
	for _, r := range ratios {
		fmt.Println(ratioMark + r)
	}
	return nil
}

// ratioMark begins the lines for machines to read.
const ratioMark = "ratio "

// again runs this program on the processor that this thread is on, to measure,
// hands on what it prints, and keeps its ratios.
func again(ctx context.Context, peer string, env []string) (ratios []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Env = append(append(os.Environ(), peerVar+"="+peer, "GOMAXPROCS=1"), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if r, ok := strings.CutPrefix(lines.Text(), ratioMark); ok {
			ratios = append(ratios, r)
		} else {
			fmt.Println(lines.Text())
		}
	}
	return ratios, cmd.Wait()
}
