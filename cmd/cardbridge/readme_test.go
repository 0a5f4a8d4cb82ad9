package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// The lines of the README do what it says, one after the other, in a new
// directory.
func TestREADME(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 1})
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin")+"/", "./cmd/applet-sim", "./cmd/cardbridge")
	build.Dir = "../.."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	bench := section(t, readme, "## The bench")
	server := section(t, readme, "## The server")
	require.Len(t, bench, 5)
	text := strings.NewReplacer("Virtual PCD 00 00", pcscd.Slots()[0].Reader)
	shell := func(line string) *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", line)
		cmd.Dir = dir
		return cmd
	}
	// background starts a line and gives the first that it prints.
	background := func(line string) string {
		cmd := shell("exec " + line)
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			assert.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			assert.NoError(t, cmd.Wait())
		})
		first, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		return first
	}
	run := func(line string) string {
		cmd := shell(line)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s: %s%s", line, out, stderr.String())
		return string(out)
	}
	for _, line := range bench {
		line = text.Replace(line)
		if line, _, ok := strings.Cut(line, " &"); ok {
			assert.Contains(t, background(line), "attached")
			continue
		}
		run(line)
	}
	var record struct {
		EID string `json:"eid"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "record.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &record))
	ready := background(server[0])
	pin := regexp.MustCompile(`^ready at https://127\.0\.0\.1:8443 pin ([0-9a-f]{64})\n$`).FindStringSubmatch(ready)
	require.NotNil(t, pin, "%s", ready)
	require.Equal(t, []string{"PIN=…", "EID=…"}, server[1:3])
	t.Setenv("PIN", pin[1])
	t.Setenv("EID", record.EID)
	var said []string
	for _, line := range server[3:] {
		said = append(said, run(line))
	}
	require.Len(t, said, 4)
	assert.Regexp(t, `(?m)^outcome +done$`, said[2])
	assert.Regexp(t, `(?m)^receipt +verified$`, said[2])
	assert.Contains(t, said[3], "sending")
}

// section is the command lines of a section, without their comments.
func section(t *testing.T, text []byte, title string) (lines []string) {
	_, rest, ok := strings.Cut(string(text), "\n"+title)
	require.True(t, ok, title)
	rest, _, _ = strings.Cut(rest, "\n## ")
	for line := range strings.Lines(rest) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			command, _, _ = strings.Cut(command, "  # ")
			lines = append(lines, strings.TrimSpace(command))
		}
	}
	return lines
}
