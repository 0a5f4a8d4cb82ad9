// Command demo plays cardbridge's main job in four scenes on real parts: a
// private pcscd with virtual readers, emulated cards in them, and the server on
// SQLite. It runs the programs beside it and cleans up after itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// limit bounds the whole demo.
const limit = 3 * time.Minute

func main() {
	rig.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := run(ctx)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	began := time.Now()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cardbridge-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &stage{bin: filepath.Dir(self), dir: dir, colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
	defer func() { err = errors.Join(err, s.stop()) }()

	s.title("Setting the stage")
	if err := s.set(ctx); err != nil {
		return err
	}
	for i, scene := range []func(context.Context) error{s.success, s.ruleRefuses, s.cardRefuses, s.cardPulled} {
		if err := scene(ctx); err != nil {
			return fmt.Errorf("scene %d: %w", i+1, err)
		}
	}
	s.title("All four scenes ended as they should")
	s.say("in %.1f s; everything started here is stopped and removed", time.Since(began).Seconds())
	return nil
}
