package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const programEnv = "APPLET_SIM_TEST_PROGRAM"

// TestMain makes the test binary the program itself where the tests ask for it.
func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program starts the program and gives its standard output.
func program(t *testing.T, args ...string) (*exec.Cmd, *bufio.Scanner) {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), programEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewScanner(out)
}

func cardFile(t *testing.T) string {
	b, err := os.ReadFile("../../applet-sim/testdata/card.json")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "card.json")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// slot is vpcd's end of a connection.
type slot struct {
	t    *testing.T
	conn net.Conn
}

func accept(t *testing.T, l net.Listener) slot {
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)))
	conn, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	t.Cleanup(func() { conn.Close() })
	return slot{t, conn}
}

func (s slot) write(message string) {
	b, err := hex.DecodeString(message)
	require.NoError(s.t, err)
	_, err = s.conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	require.NoError(s.t, err)
}

func (s slot) read() string {
	var n [2]byte
	_, err := io.ReadFull(s.conn, n[:])
	require.NoError(s.t, err)
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err = io.ReadFull(s.conn, b)
	require.NoError(s.t, err)
	return strings.ToUpper(hex.EncodeToString(b))
}

func (s slot) transmit(capdu string) string {
	s.write(capdu)
	return s.read()
}

const (
	powerOn      = "01"
	readATR      = "04"
	selectApplet = "00A404000BF06361726462726964676500"
	internal     = "0088010110" + "00000000000000000000000000000000" + "00" // RS, Le
)

// TestProgram: the card is put in, put in again when vpcd comes back, and taken
// out after a write; SIGTERM is a good end.
func TestProgram(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	addr := l.Addr().String()
	path := cardFile(t)
	cmd, out := program(t, "--card", path, "--vpcd", addr, "--remove-after-write", "1", "--remove-for", "100ms", "--no-extended")

	s := accept(t, l)
	require.True(t, out.Scan())
	assert.Equal(t, "attached "+addr, out.Text())
	s.write(powerOn)
	s.write(readATR)
	assert.True(t, strings.HasPrefix(s.read(), "3B"))
	assert.Equal(t, "6700", s.transmit("00A4040000000BF0636172646272696467650000"))
	s.conn.Close()

	s = accept(t, l)
	require.True(t, out.Scan())
	assert.Equal(t, "attached "+addr, out.Text())
	s.write(powerOn)
	assert.True(t, strings.HasSuffix(s.transmit(selectApplet), "9000"))
	assert.True(t, strings.HasSuffix(s.transmit(internal), "6160"))
	assert.Equal(t, "9000", s.transmit("10820101FF"+strings.Repeat("00", 255)))
	s.write("0082010161" + strings.Repeat("00", 97)) // a failure: counted, and no answer
	_, err = io.ReadAll(s.conn)
	require.NoError(t, err)

	s = accept(t, l)
	require.True(t, out.Scan())
	s.write(powerOn)
	assert.True(t, strings.HasSuffix(s.transmit(selectApplet), "9000"))
	assert.Equal(t, "E10E8004000001008106010001"+"0F0000"+"9000", s.transmit("80CA00E100"))

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, cmd.Wait())
}

// TestWaitsAloud: it says once what it waits for, and not on standard output.
func TestWaitsAloud(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "--card", cardFile(t), "--vpcd", addr)
	cmd.Env = append(os.Environ(), programEnv+"=1")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(stderr)
	require.True(t, lines.Scan())
	assert.Equal(t, "waiting for vpcd at "+addr, lines.Text())
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.False(t, lines.Scan(), lines.Text())
	require.NoError(t, cmd.Wait())
	assert.Empty(t, stdout.String())
}

func TestBadCommandLines(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.json")
	require.NoError(t, os.WriteFile(broken, []byte("{}"), 0o600))
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "--card is missing"},
		{[]string{"--card", "x"}, "--vpcd is missing"},
		{[]string{"--card", "x", "--vpcd", "h:1", "--vscard", "s"}, "two readers"},
		{[]string{"--card", cardFile(t), "--vscard", filepath.Join(t.TempDir(), "none", "s")}, "--vscard takes"},
		{[]string{"--card", "x", "--vpcd", "h:1", "--remove-after-write", "-1"}, "negative"},
		{[]string{"--card", "x", "--vpcd", "h:1", "--remove-for", "0s"}, "--remove-for"},
		{[]string{"--card", "x", "--vpcd", "h:1", "more"}, "more"},
		{[]string{"--nonsense"}, "nonsense"},
		{[]string{"--card", filepath.Join(t.TempDir(), "none"), "--vpcd", "h:1"}, "cardbridge card new"},
		{[]string{"--card", broken, "--vpcd", "h:1"}, "bad card image"},
		{[]string{"--card", cardFile(t), "--vpcd", "nowhere"}, "HOST:PORT"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, 1, run(t.Context(), tt.args, &stdout, &stderr))
		assert.Empty(t, stdout.String())
		assert.Contains(t, stderr.String(), tt.want)
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	assert.Equal(t, 0, run(t.Context(), []string{"--help"}, &stdout, &stderr))
	assert.Contains(t, stdout.String(), "--remove-after-write")
}
