//go:build !linux

package main

import (
	"errors"
	"runtime"
	"time"
)

func pin(int) error { return errors.New("programs are pinned to a processor on Linux alone") }

// processorTime is the time that passed.
func processorTime() time.Duration { return time.Since(started) }

var started = time.Now()

func processorName() string { return runtime.GOARCH }
