package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pin moves the calling goroutine's thread to one processor, for good, and with
// it whatever program it starts. A core of -1 is the last that may be used.
func pin(core int) error {
	runtime.LockOSThread()
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return err
	}
	for i := range len(allowed) * 64 {
		if core < 0 && allowed.IsSet(i) {
			one.Zero()
			one.Set(i)
		}
	}
	if core >= 0 {
		if !allowed.IsSet(core) {
			return fmt.Errorf("processor %d is not one of this program's", core)
		}
		one.Set(core)
	}
	return unix.SchedSetaffinity(0, &one)
}

// processorTime is the time that processors gave this program.
func processorTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err) // Linux has the clock
	}
	return time.Duration(t.Nano())
}

// processorName is what the kernel calls the processor.
func processorName() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
