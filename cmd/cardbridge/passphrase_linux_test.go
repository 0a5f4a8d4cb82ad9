package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal runs the program with a terminal for standard input and output, types
// what is asked for, and gives what the terminal showed.
func terminal(t *testing.T, typed map[string]string, args ...string) (shown string, status int) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer master.Close()
	raw, err := master.SyscallConn()
	require.NoError(t, err)
	var n int
	require.NoError(t, raw.Control(func(fd uintptr) {
		assert.NoError(t, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0))
		n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
	}))
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := program(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())
	var all bytes.Buffer
	seen := 0
	for buf := make([]byte, 4096); ; {
		n, err := master.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			break // EIO: the other end is closed
		}
		for question, answer := range typed {
			if strings.HasSuffix(all.String()[seen:], question) {
				seen = all.Len()
				time.Sleep(50 * time.Millisecond) // until the echo is off
				_, err := io.WriteString(master, answer+"\n")
				require.NoError(t, err)
			}
		}
	}
	_ = cmd.Wait() // the status says it
	return all.String(), cmd.ProcessState.ExitCode()
}

func TestPassphraseAtATerminal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.json")
	first, again := "passphrase of "+file+": ", "passphrase of "+file+", again: "
	shown, status := terminal(t, map[string]string{first: "typed secret", again: "typed secret"}, "keys", "new", "--single", "--encrypt", file)
	require.Zero(t, status, shown)
	assert.NotContains(t, shown, "typed secret", "no echo")
	shown, status = terminal(t, map[string]string{first: "typed secret"}, "keys", "show", file)
	require.Zero(t, status, shown)
	assert.Equal(t, 1, strings.Count(shown, first), "asked once for all keys")
	assert.NotContains(t, shown, "typed secret")
	shown, status = terminal(t, map[string]string{first: "wrong"}, "keys", "show", file)
	assert.Equal(t, exitError, status)
	assert.Equal(t, 3, strings.Count(shown, first))
	other := file + "2"
	shown, status = terminal(t, map[string]string{"passphrase of " + other + ": ": "one", "passphrase of " + other + ", again: ": "two"}, "keys", "new", "--encrypt", other)
	assert.Equal(t, exitError, status)
	assert.Contains(t, shown, "differ")
	_, err := os.Stat(other)
	assert.ErrorIs(t, err, os.ErrNotExist)
}
