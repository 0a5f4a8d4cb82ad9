// Command bench measures a round trip to a card in a USB reader both ways, by
// package ccid and by package pcsc over pcscd and its CCID driver, side by side
// in the virtual machine of package vm. Its last line is the ratio of the
// medians, the worse one of two sizes:
//
//	ratio ccid/libccid 0.87
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/hwtest/usbip"
	"github.com/cardbridge/cardbridge/hwtest/vm"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func main() {
	vm.Enter(vm.Config{})
	n := flag.Int("n", 2000, "round trips each way")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	if err := run(ctx, *n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// turn is how many round trips one way makes before it is the other's turn.
const turn = 20

// Vendor and product of the readers.
const (
	vendor  = 0x08E6
	product = 0x4433
)

func run(ctx context.Context, n int) error {
	for port, serial := range []string{"DIRECT", "SERVICE"} {
		d := ccidsim.New(ccidsim.Config{
			Level: ccidsim.TPDU, Automatic: ccidsim.AutoVoltage | ccidsim.AutoPPS, Vendor: vendor, Product: product, Serial: serial,
		})
		d.Insert(0, echo{})
		p, err := usbip.Plug(port, d)
		if err != nil {
			return err
		}
		defer p.Close()
	}
	// pcscd takes every reader that nobody has: the first comes before it.
	direct, err := open(ctx, func() (apdu.Conn, error) {
		return ccid.New().Open(ctx, identity("DIRECT"), reader.Exclusive)
	})
	if err != nil {
		return fmt.Errorf("directly: %w", err)
	}
	defer direct.Close()
	daemon, err := rig.StartPCSCD(ctx, rig.Options{})
	if err != nil {
		return err
	}
	defer daemon.Stop()
	service, err := open(ctx, func() (apdu.Conn, error) {
		readers, err := pcsc.New().Readers(ctx)
		if err != nil {
			return nil, err
		}
		r, err := pcsc.Find(readers, identity("SERVICE"))
		if err != nil {
			return nil, err
		}
		return pcsc.New().Open(ctx, r.Name, reader.Exclusive)
	})
	if err != nil {
		return fmt.Errorf("through pcscd: %w\n%s", err, daemon.Log())
	}
	defer service.Close()

	worst := 0.0
	for _, size := range []int{0, 240} {
		capdu, err := apdu.Command{CLA: 0x80, INS: 0xCA, Data: make([]byte, size), Ne: 256}.AppendBinary(nil)
		if err != nil {
			return err
		}
		byCCID, byService, err := measure(ctx, capdu, n, direct, service)
		if err != nil {
			return err
		}
		fmt.Printf("%3d bytes each way: p50 ccid %v, pcscd with libccid %v, of %d\n", size, byCCID, byService, n)
		worst = max(worst, float64(byCCID)/float64(byService))
	}
	fmt.Printf("ratio ccid/libccid %.3f\n", worst)
	return nil
}

// measure gives the median times of n round trips of each of two connections,
// which take turns.
func measure(ctx context.Context, capdu []byte, n int, conns ...apdu.Conn) (first, second time.Duration, err error) {
	times := make([][]time.Duration, len(conns))
	for len(times[0]) < n+turn {
		for i, c := range conns {
			for range turn {
				start := time.Now()
				if _, err := c.Transmit(ctx, capdu); err != nil {
					return 0, 0, err
				}
				times[i] = append(times[i], time.Since(start))
			}
		}
	}
	p50 := func(d []time.Duration) time.Duration {
		d = d[turn:] // the first turn is for caches to fill
		slices.Sort(d)
		return d[len(d)/2]
	}
	return p50(times[0]), p50(times[1]), nil
}

// open tries until reader and card are there.
func open(ctx context.Context, try func() (apdu.Conn, error)) (apdu.Conn, error) {
	for {
		c, err := try()
		if err == nil || !errors.Is(err, apdu.ErrNoReader) && !errors.Is(err, apdu.ErrNoCard) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func identity(serial string) string {
	return reader.USB{Vendor: vendor, Product: product, Serial: serial}.ID(0, false)
}

// echo is a card that gives back what it gets.
type echo struct{}

func (echo) ATR() []byte {
	return ccidsim.ATR{Protocols: []byte{1}, TA1: 0x95, IFSC: 254, Waiting: 0x45}.Bytes()
}
func (echo) Power(bool) {}
func (echo) Reset()     {}

func (echo) Process(capdu []byte) []byte {
	c, err := apdu.ParseCommand(capdu)
	if err != nil {
		return []byte{0x67, 0x00}
	}
	return append(slices.Clone(c.Data), 0x90, 0x00)
}
