//go:build !linux

package main

import (
	"errors"
	"runtime"
	"time"
)

var errLinux = errors.New("the processor time of processes is told on Linux alone")

func processorTime() time.Duration { return 0 }

func processorTimeOf(int, bool) (time.Duration, error) { return 0, errLinux }

func residentSize() int64 { return 0 }

func checkDisk(string) error { return errLinux }

func syncTime(string) (time.Duration, error) { return 0, errLinux }

func machine() string { return runtime.GOARCH }

func loadAverage() string { return "unknown" }
