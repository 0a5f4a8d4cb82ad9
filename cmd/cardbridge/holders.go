package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const procRoot = "/proc"

// process is another program that may stand in the way.
type process struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
}

func (p process) String() string { return fmt.Sprintf("%s (process %d)", p.Name, p.PID) }

// pcscClients are the other programs that use PC/SC, as far as this user may
// know: those that have its client library in memory. proc is where Linux shows
// processes; elsewhere there are none to be seen.
func pcscClients(proc string) []process {
	return processes(proc, func(dir string) bool {
		maps, err := os.ReadFile(filepath.Join(dir, "maps"))
		return err == nil && bytes.Contains(maps, []byte("/libpcsclite.so"))
	})
}

// processes are the other ones of which is says so, by process number.
func processes(proc string, is func(dir string) bool) []process {
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*")) // the pattern is right
	var found []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || !is(dir) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil { // it has ended
			continue
		}
		if n := strings.TrimSpace(string(name)); n != "pcscd" {
			found = append(found, process{pid, n})
		}
	}
	slices.SortFunc(found, func(a, b process) int { return cmp.Compare(a.PID, b.PID) })
	return found
}
