package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/cardbridge/cardbridge/card/rsafast"
)

// measure runs all races and prints their tables, and the ratios.
func measure(ctx context.Context, o options, path string, out io.Writer) (err error) {
	began := time.Now()
	p, err := startPeer(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	version, err := p.line("version")
	if err != nil {
		return err
	}
	var hz float64
	if err := p.ask("clock", &hz); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, one core at %.2f GHz (measured); engine %s; %s; %s\n",
		processorName(), hz/1e9, rsafast.Engine(), version, runtime.Version())
	keys := map[int]*rsa.PrivateKey{}
	for _, bits := range o.sizes {
		if keys[bits], err = rsa.GenerateKey(rand.Reader, bits); err != nil {
			return err
		}
		if err := p.load(keys[bits]); err != nil {
			return err
		}
	}
	m := &measurement{options: o, peer: p, out: out, keys: keys, hz: hz}
	for _, part := range []func(context.Context) error{m.private, m.public, m.handshake} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if err := p.Close(); err != nil {
		return err
	}
	busy := processorTime() + p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	fmt.Fprintf(out, "\nthe core was the benchmark's for %.0f %% of the time\n", 100*busy.Seconds()/time.Since(began).Seconds())
	for _, r := range m.ratios {
		fmt.Fprintf(out, "%s%s %.3f\n", ratioMark, r.name, r.value)
	}
	return nil
}

type measurement struct {
	options
	peer   *peer
	out    io.Writer
	keys   map[int]*rsa.PrivateKey
	hz     float64
	ratios []namedRatio
}

type namedRatio struct {
	name  string
	value float64
}

func (m *measurement) keep(name string, value float64) {
	m.ratios = append(m.ratios, namedRatio{name, value})
}

func (m *measurement) private(context.Context) error {
	fmt.Fprintf(m.out, "\nprivate operations a second, checked with e (rsafast: %d in a call)\n", rsafast.Width())
	fmt.Fprintf(m.out, "%6s %10s %10s %10s %10s %12s %10s %14s\n",
		"bits", "rsafast", "one alone", "OpenSSL", "crypto/rsa", "/ OpenSSL", "/ Go", "cycles/product")
	for _, bits := range m.sizes {
		k := m.keys[bits]
		fast, err := fastPrivate(k, rsafast.Width())
		if err != nil {
			return err
		}
		lone, err := fastPrivate(k, 1)
		if err != nil {
			return err
		}
		r, err := race(m.rounds, m.slice, fast, m.peer.contestant("private", bits), goPrivate(k), lone)
		if err != nil {
			return err
		}
		fmt.Fprintf(m.out, "%6d %10.0f %10.0f %10.0f %10.0f %10.2f x %8.2f x %14.2f\n", bits, r.median(0), r.median(3),
			r.median(1), r.median(2), r.ratio(0, 1), r.ratio(0, 2), m.hz/r.median(0)*float64(rsafast.Width())/products(bits))
		m.keep(fmt.Sprintf("rsa%d/openssl", bits), r.ratio(0, 1))
		m.keep(fmt.Sprintf("rsa%d/go", bits), r.ratio(0, 2))
	}
	return nil
}

// products is the products of 52-bit limbs that one prime's share of a private
// operation takes at the least: for each bit of the exponent a squaring, for
// each window of 5 a multiplication, the table's 30, and a reduction of each.
func products(bits int) float64 {
	const window = 5
	limbs := (bits/2 + 51) / 52
	squarings, multiplications := bits/2, bits/2/window+1<<window-2
	return float64(squarings*limbs*(limbs+1)/2 + (squarings+2*multiplications)*limbs*limbs)
}

func (m *measurement) public(context.Context) error {
	fmt.Fprintf(m.out, "\npublic operations a second (rsafast: %d in a call, keys never seen before; crypto/rsa so too; OpenSSL: one key)\n", rsafast.PublicWidth())
	fmt.Fprintf(m.out, "%6s %10s %10s %10s %10s %12s %10s\n", "bits", "rsafast", "one alone", "OpenSSL", "crypto/rsa", "/ OpenSSL", "/ Go")
	for _, bits := range m.sizes {
		k := m.keys[bits]
		standard, err := goPublic(k)
		if err != nil {
			return err
		}
		r, err := race(m.rounds, m.slice/2, fastPublic(k, rsafast.PublicWidth()), m.peer.contestant("public", bits), standard, fastPublic(k, 1))
		if err != nil {
			return err
		}
		fmt.Fprintf(m.out, "%6d %10.0f %10.0f %10.0f %10.0f %10.2f x %8.2f x\n", bits,
			r.median(0), r.median(3), r.median(1), r.median(2), r.ratio(0, 1), r.ratio(0, 2))
	}
	return nil
}

func (m *measurement) handshake(ctx context.Context) error {
	f, err := newFleet(ctx, m.cards)
	if err != nil {
		return err
	}
	s := rsafast.NewScheduler(rsafast.Config{})
	defer s.Close()
	fast, err := f.onRSAFast(s)
	if err != nil {
		return err
	}
	standard, err := f.onCryptoRSA()
	if err != nil {
		return err
	}
	k := m.keys[2048]
	private, err := fastPrivate(k, rsafast.Width())
	if err != nil {
		return err
	}
	const longer = 8
	r, err := race(m.rounds, longer*m.slice, f.handshakes(ctx, fast, m.fleet), f.handshakes(ctx, standard, m.fleet),
		private, fastPublic(k, rsafast.PublicWidth()))
	if err != nil {
		return err
	}
	bound := func(round []float64) float64 { return 1 / (2/round[2] + 2/round[3]) }
	share := r.over(func(round []float64) float64 { return round[0] / bound(round) })
	fmt.Fprintf(m.out, "\nhandshakes a second, server's side, suite 01, 2048 bits, %d at a time with %d cards\n", m.fleet, m.cards)
	fmt.Fprintf(m.out, "%10.0f  on rsafast and its scheduler\n", r.median(0))
	fmt.Fprintf(m.out, "%10.0f  the same code on crypto/rsa: %.2f x\n", r.median(1), r.ratio(0, 1))
	fmt.Fprintf(m.out, "%10.0f  if there were nothing but its 2 private and 2 public operations in full calls: %.3f of it is reached\n", r.over(bound), share)
	m.keep("handshake/go", r.ratio(0, 1))
	m.keep("handshake/rsa-bound", share)
	return nil
}
