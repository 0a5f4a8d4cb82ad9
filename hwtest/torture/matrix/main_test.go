package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/torture"
)

// fakeGo puts a program before the go command that prints lines and ends with a
// status.
func fakeGo(t *testing.T, status int, lines ...string) {
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncat <<'END'\n%s\nEND\nexit %d\n", strings.Join(lines, "\n"), status)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755))
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestRun(t *testing.T) {
	good := torture.Result{Stack: "calls", Trial: torture.Trial{Driver: "server", Kind: "short"}, Outcome: "done", Sessions: 1, Steps: []string{"SELECT"}}
	bad := good
	bad.Mismatches = []string{"x"}
	page := filepath.Join(t.TempDir(), "faults.md")

	var out strings.Builder
	fakeGo(t, 0, "=== RUN", good.Line(), good.Line())
	require.NoError(t, run(t.Context(), &out, torture.All, 1, page))
	assert.True(t, strings.HasSuffix(out.String(), "\ntrials 8, mismatches 0\n"), out.String())
	assert.Contains(t, out.String(), "=== RUN\n")
	assert.Contains(t, out.String(), "nothing goes wrong")
	written, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Contains(t, string(written), "## calls")

	out.Reset()
	fakeGo(t, 1, good.Line(), bad.Line())
	err = run(t.Context(), &out, 8, 1, "")
	assert.ErrorIs(t, err, errMismatches)
	assert.ErrorContains(t, err, "exit status 1")
	assert.True(t, strings.HasSuffix(out.String(), "\ntrials 8, mismatches 4\n"), out.String())

	out.Reset()
	fakeGo(t, 1, "no such package")
	assert.ErrorContains(t, run(t.Context(), &out, 8, 1, page), "TestVPCD in ./hwtest/torture: exit status 1")
	assert.Contains(t, out.String(), "trials 0, mismatches 0\n")
}
