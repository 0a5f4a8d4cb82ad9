package main

import (
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cardbridge/cardbridge/pcsc/ccid"
)

const procRoot = "/proc"

// pcscClients are the other programs that use PC/SC, as far as this user may
// know: those that have its client library in memory. proc is where Linux shows
// processes; elsewhere there are none to be seen.
func pcscClients(proc string) []ccid.Holder {
	return processes(proc, func(dir string) bool {
		maps, err := os.ReadFile(filepath.Join(dir, "maps"))
		return err == nil && bytes.Contains(maps, []byte("/libpcsclite.so"))
	})
}

// processes are the other ones of which is says so, by process number.
func processes(proc string, is func(dir string) bool) []ccid.Holder {
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*")) // the pattern is right
	var found []ccid.Holder
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
			found = append(found, ccid.Holder{PID: pid, Name: n})
		}
	}
	slices.SortFunc(found, func(a, b ccid.Holder) int { return cmp.Compare(a.PID, b.PID) })
	return found
}
