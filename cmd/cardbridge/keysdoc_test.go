//go:build cgo && linux

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The command lines of docs/keys.md do what the page says, each section's in a new
// directory.
func TestKeysPage(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "bin")+"/", "./cmd/cardbridge")
	build.Dir = "../.."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	page, err := os.ReadFile("../../docs/keys.md")
	require.NoError(t, err)

	for title, check := range map[string]func(t *testing.T, dir, out string){
		"## Encrypted files": func(t *testing.T, dir, out string) {
			assert.Contains(t, out, "file, encrypted")
			assert.Len(t, readSet(t, filepath.Join(dir, "public.json")).Auth, 3)
			_, err := readSet(t, filepath.Join(dir, "public.json")).Public()
			assert.NoError(t, err)
		},
		"## An HSM": func(t *testing.T, dir, out string) {
			assert.Equal(t, 4, strings.Count(out, "sensitive, always sensitive, never extractable"), out)
			assert.Contains(t, out, "pkcs11:token=cardbridge;object=cardbridge-01-enc;id=")
			_, err := readSet(t, filepath.Join(dir, "public.json")).Public()
			assert.NoError(t, err)
		},
		"## Rotation": func(t *testing.T, dir, out string) {
			assert.Contains(t, out, "ready at https://127.0.0.1:")
			b, err := os.ReadFile(filepath.Join(dir, "b.json"))
			require.NoError(t, err)
			assert.Equal(t, 2, strings.Count(string(b), `"id":`), "the card holds both")
		},
	} {
		t.Run(strings.TrimPrefix(title, "## "), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Symlink(filepath.Join(bin, "bin"), filepath.Join(dir, "bin")))
			var script, serve []string
			for _, line := range section(t, page, title) {
				switch {
				case strings.HasPrefix(line, "["), strings.HasPrefix(line, "LoadCredential"): // a unit's lines
				case strings.Contains(line, " serve "):
					serve = append(serve, line)
				default:
					script = append(script, line)
				}
			}
			require.Greater(t, len(script), 4)
			shell := func(text string) *exec.Cmd {
				cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "set -e\n"+text)
				cmd.Dir = dir
				cmd.Stderr = t.Output()
				return cmd
			}
			out, err := shell(strings.Join(script, "\n")).Output()
			require.NoError(t, err, "%s", out)
			said := string(out)
			for _, line := range serve {
				cmd := shell("exec " + line)
				pipe, err := cmd.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				first, err := bufio.NewReader(pipe).ReadString('\n')
				require.NoError(t, err)
				said += first
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
				require.NoError(t, cmd.Wait())
			}
			check(t, dir, said)
		})
	}
}
