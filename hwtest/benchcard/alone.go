package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
)

// Commands of the emulator.
var (
	selectApplet = append([]byte{0x00, 0xA4, 0x04, 0x00, 11}, append([]byte(card.AID), 0)...)
	selectICCID  = []byte{0x00, 0xA4, 0x08, 0x0C, 0x02, 0x2F, 0xE2}
	readBinary   = []byte{0x00, 0xB0, 0x00, 0x00, 0x0A}
	selectSMSS   = []byte{0x00, 0xA4, 0x08, 0x0C, 0x04, 0x7F, 0xFF, 0x6F, 0x43}
	selectUSIM   = []byte{0x00, 0xA4, 0x04, 0x0C, 0x07, 0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02}
)

// expect sends commands and wants 9000 for each.
func expect(c *appletsim.Card, capdus ...[]byte) error {
	for _, capdu := range capdus {
		_, sw, err := apdu.ParseResponse(c.Process(capdu))
		if err == nil && sw != apdu.SWSuccess {
			err = sw
		}
		if err != nil {
			return fmt.Errorf("%X: %w", capdu, err)
		}
	}
	return nil
}

// rate prints how often f runs in a second, by the median of slices, on this
// thread.
func rate(name string, f func() error) error {
	const slice, slices = 20 * time.Millisecond, 41
	run := func(n int) (time.Duration, error) {
		start := time.Now()
		for range n {
			if err := f(); err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
		}
		return time.Since(start), nil
	}
	n := 1
	for {
		took, err := run(n)
		if err != nil {
			return err
		}
		if took >= slice/4 {
			n = max(1, int(float64(n)*float64(slice)/float64(took)))
			break
		}
		n *= 2
	}
	var each []float64
	for range slices {
		took, err := run(n)
		if err != nil {
			return err
		}
		each = append(each, float64(took)/float64(n))
	}
	ns := median(each)
	fmt.Printf("%-52s  %10.0f /s  %9.2f µs\n", name, 1e9/ns, ns/1e3)
	return nil
}

// inProcess measures the state machine by calls: with its memory in RAM, and in
// a card image file, each of whose writes is synced.
func inProcess() error {
	dir, err := os.MkdirTemp("", "benchcard-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "card.json")
	b, err := testcard.Image(0).Marshal()
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return err
	}
	inRAM, err := appletsim.New(testcard.Image(0))
	if err != nil {
		return err
	}
	onDisk, err := appletsim.Open(path)
	if err != nil {
		return err
	}
	defer onDisk.Close()
	if err := rate("in process: SELECT", func() error { return expect(inRAM, selectApplet) }); err != nil {
		return err
	}
	if err := expect(inRAM, selectUSIM, selectICCID); err != nil {
		return err
	}
	if err := rate("in process: READ BINARY, 10 bytes", func() error { return expect(inRAM, readBinary) }); err != nil {
		return err
	}
	if err := authentications(inRAM); err != nil {
		return err
	}
	for _, m := range []struct {
		name string
		card *appletsim.Card
	}{{"persistence off", inRAM}, {"persistence on", onDisk}} {
		if err := expect(m.card, selectUSIM, selectSMSS); err != nil {
			return err
		}
		n := byte(0)
		err := rate("in process: UPDATE BINARY, 2 bytes, "+m.name, func() error {
			n++
			return expect(m.card, []byte{0x00, 0xD6, 0x00, 0x00, 0x02, n, ^n})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// authentications measures whole authentications, both sides of them: two
// private-key operations each.
func authentications(c *appletsim.Card) error {
	keys, err := testkeys.Server().Private()
	if err != nil {
		return err
	}
	record, err := c.Image().Record()
	if err != nil {
		return err
	}
	registered, err := card.ParseRecord(record)
	if err != nil {
		return err
	}
	terminal, ctx := &card.Terminal{Keys: keys}, context.Background()
	ch := apdu.BasicChannel(c.Connect())
	return rate("in process: SELECT and authentication, suite 01", func() error {
		if _, err := card.Select(ctx, ch); err != nil {
			return err
		}
		_, err := terminal.Authenticate(ctx, ch, registered.Target(), [32]byte{})
		return err
	})
}

// memory measures what a card takes where cards share their keys.
func memory(n int) error {
	keys, err := testkeys.Card().Private()
	if err != nil {
		return err
	}
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what the first one set free to be
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	cards := make([]*appletsim.Card, n)
	before := heap()
	for i := range cards {
		if cards[i], err = appletsim.New(testcard.Image(i), appletsim.WithKeys(keys)); err != nil {
			return err
		}
		if err := expect(cards[i], selectICCID, readBinary, selectApplet); err != nil {
			return err
		}
	}
	fmt.Printf("memory of a card, keys shared, of %d                 %10.1f KiB\n", n, (heap()-before)/float64(n)/1024)
	runtime.KeepAlive(cards)
	return nil
}

// startUp measures the program from its start to its control socket, and to its
// end.
func startUp(ctx context.Context, n int) error {
	dir, err := os.MkdirTemp("", "benchcard-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, image := filepath.Join(dir, "applet-sim"), filepath.Join(dir, "card.json")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/cardbridge/cardbridge/cmd/applet-sim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	if out, err := exec.CommandContext(ctx, program, "new", image).CombinedOutput(); err != nil {
		return fmt.Errorf("applet-sim new: %w\n%s", err, out)
	}
	var took []float64
	for range n {
		cmd := exec.CommandContext(ctx, program, "--card", image, "--control", "127.0.0.1:0")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return err
		}
		_, err = bufio.NewReader(out).ReadString('\n')
		took = append(took, float64(time.Since(start))/1e6)
		if err = errors.Join(err, cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
			return err
		}
	}
	fmt.Printf("start of the program, until it listens, median of %-3d  %10.1f ms\n", n, median(took))
	return nil
}
