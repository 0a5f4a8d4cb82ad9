package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestControlledInAReader: a program takes the card out of a reader and puts it
// back, has a fault strike there, and ends the emulator.
func TestControlledInAReader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	cmd, out := program(t, "--card", cardFile(t), "--vpcd", l.Addr().String(), "--control", "127.0.0.1:0",
		"--fault", `{"kind":"refuse","sw":"6F01","ins":"CA"}`, "--fault", `{"kind":"atr","atr":"3B00","times":1}`)
	require.True(t, out.Scan())
	addr, ok := strings.CutPrefix(out.Text(), "control ")
	require.True(t, ok, out.Text())
	control, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer control.Close()
	require.NoError(t, control.SetDeadline(time.Now().Add(time.Minute)))
	lines := bufio.NewScanner(control)
	require.True(t, lines.Scan(), "it says hello")
	ask := func(request string) (answer map[string]any) {
		_, err := control.Write([]byte(request + "\n"))
		require.NoError(t, err)
		require.True(t, lines.Scan())
		require.NoError(t, json.Unmarshal(lines.Bytes(), &answer))
		require.Equal(t, true, answer["ok"], lines.Text())
		return answer
	}

	s := accept(t, l)
	s.write(readATR)
	assert.Equal(t, "3B00", s.read())
	s.write(powerOn)
	s.write(readATR)
	assert.NotEqual(t, "3B00", s.read())
	assert.True(t, strings.HasSuffix(s.transmit(selectApplet), "9000"))
	assert.Equal(t, "6F01", s.transmit("80CA005A00"))
	ask(`{"op":"fault.set","fault":{"kind":"remove-after","away":"20ms"}}`)
	s.write("80CA005A00")
	_, err = s.conn.Read(make([]byte, 1))
	require.Error(t, err, "the card left")

	s = accept(t, l)
	ask(`{"op":"remove"}`)
	s.write(readATR) // vpcd looks every 0.4 s
	_, err = s.conn.Read(make([]byte, 1))
	require.Error(t, err, "the card was taken out")
	ask(`{"op":"insert"}`)
	s = accept(t, l)
	s.write(powerOn)
	assert.Equal(t, "6985", s.transmit("80CA005A00"))
	ask(`{"op":"quit"}`)
	require.NoError(t, cmd.Wait())
}

// TestControlledAlone: without a reader, at a socket.
func TestControlledAlone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control")
	cmd, out := program(t, "--card", cardFile(t), "--control", socket)
	require.True(t, out.Scan())
	assert.Equal(t, "control "+socket, out.Text())
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte(`{"op":"quit"}` + "\n"))
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
}

// TestEndsAtOnce: the program ends when it is told to, whatever a fault has it
// wait for.
func TestEndsAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	cmd, _ := program(t, "--card", cardFile(t), "--vpcd", l.Addr().String(), "--fault", `{"kind":"late","apdu":2,"delay":"1h"}`)
	s := accept(t, l)
	s.write(powerOn)
	assert.True(t, strings.HasSuffix(s.transmit(selectApplet), "9000"))
	s.write("80CA005A00")
	time.Sleep(50 * time.Millisecond) // it is under way, most likely
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}

func TestControlThatCannotBe(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--control", "0.0.0.0:1"}, "loopback"},
		{[]string{"--control", filepath.Join(t.TempDir(), "none", "s")}, "--control takes"},
		{[]string{"--control", "127.0.0.1:0", "--fault", "{}"}, "table of faults"},
		{[]string{"--control", "127.0.0.1:0", "--trace", "x"}, "two cards"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, 1, run(t.Context(), append(tt.args, "--card", cardFile(t)), &stdout, &stderr))
		assert.Contains(t, stderr.String(), tt.want)
	}
}
