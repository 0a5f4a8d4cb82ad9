package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const recorded = `# cardbridge trace 1
# origin: hand
! connected 3B8001
> 00A40400023F00
< 611A
> 00C000001A
< 01029000
> 0020000104********
! removed
! connected 3B8001
> 00A40400022F00
< 9000
`

func traceFile(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "card.trace")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestTraceAsCard: a trace is the card in a virtual reader, which leaves where
// the trace says so, and comes back.
func TestTraceAsCard(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	cmd, out := program(t, "--trace", traceFile(t, recorded), "--vpcd", l.Addr().String())
	s := accept(t, l)
	require.True(t, out.Scan())
	s.write(powerOn)
	s.write(readATR)
	assert.Equal(t, "3B8001", s.read())
	assert.Equal(t, "6F00", s.transmit("00B0000000"))
	assert.Equal(t, "611A", s.transmit("00A40400023F00"))
	assert.Equal(t, "01029000", s.transmit("00C000001A"))
	s.write("002000010431323334")
	_, err = s.conn.Read(make([]byte, 1))
	require.Error(t, err, "the card left")
	s = accept(t, l)
	s.write(powerOn)
	assert.Equal(t, "9000", s.transmit("00A40400022F00"))
	assert.Equal(t, "6F00", s.transmit("00A40400022F00"))
	s.write("00")
	s.write(powerOn)
	assert.Equal(t, "611A", s.transmit("00A40400023F00"), "from the beginning")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, cmd.Wait())
}

func TestTraceAsCardInAnyOrder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	rules := traceFile(t, "version: 1\nrules:\n- {name: any file, match: 00 A4, command: data}\n")
	cmd, _ := program(t, "--trace", traceFile(t, recorded), "--vpcd", l.Addr().String(), "--best-match", "--rules", rules)
	s := accept(t, l)
	s.write(powerOn)
	assert.Equal(t, "01029000", s.transmit("00C000001A"))
	assert.Equal(t, "9000", s.transmit("00A40400021234"))
	assert.Equal(t, "611A", s.transmit("00A40400021234"))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, cmd.Wait())
}

func TestTracesThatAreNoCard(t *testing.T) {
	good := traceFile(t, recorded)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--trace", good, "--card", "x"}, "two cards"},
		{[]string{"--trace", good, "--no-extended"}, "a trace says itself"},
		{[]string{"--trace", good, "--remove-after-write", "1"}, "a trace says itself"},
		{[]string{"--card", "x", "--best-match"}, "go with --trace"},
		{[]string{"--trace", filepath.Join(t.TempDir(), "none")}, "no such file"},
		{[]string{"--trace", traceFile(t, "# cardbridge trace 1\n! connected 3B00\n")}, "no command"},
		{[]string{"--trace", good, "--rules", traceFile(t, "version: 7")}, "docs/trace-rules.md"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, 1, run(t.Context(), append(tt.args, "--vpcd", "h:1"), &stdout, &stderr))
		assert.Empty(t, stdout.String())
		assert.Contains(t, stderr.String(), tt.want)
	}
}
