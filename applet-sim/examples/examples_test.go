package examples

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const root = "../.."

// build builds the program as the Makefile does.
func build(t *testing.T) string {
	program := filepath.Join(t.TempDir(), "applet-sim")
	cmd := exec.Command("go", "build", "-o", program, "./cmd/applet-sim")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// TestPython runs the example against the real program, which is static and pure
// Go.
func TestPython(t *testing.T) {
	program := build(t)
	f, err := elf.Open(program)
	require.NoError(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		assert.NotEqual(t, elf.PT_INTERP, p.Type, "it asks for a dynamic linker")
	}
	libraries, err := f.ImportedLibraries()
	require.NoError(t, err)
	assert.Empty(t, libraries)

	card := filepath.Join(t.TempDir(), "card.json")
	out, err := exec.Command(program, "new", card).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("python3", "control.py", program, card).Output()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "EID 89049032110000000000000000000082\n"+
		`struck {"kind": "wrong-sw", "sw": "6F00"}`+"\n"+
		`struck {"kind": "remove-before", "apdu": 2, "away": "10ms"}`+"\n"+
		"enabled ['8988001000000000000']\n", string(out))
}

// TestWorkflow: the workflow is one, and what it runs is there.
func TestWorkflow(t *testing.T) {
	b, err := os.ReadFile("github-actions.yml")
	require.NoError(t, err)
	var workflow struct {
		Name        string            `yaml:"name"`
		On          []string          `yaml:"on"`
		Permissions map[string]string `yaml:"permissions"`
		Jobs        map[string]struct {
			RunsOn string `yaml:"runs-on"`
			Steps  []struct {
				Uses string         `yaml:"uses"`
				With map[string]any `yaml:"with"`
				Run  string         `yaml:"run"`
			} `yaml:"steps"`
		} `yaml:"jobs"`
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	d.KnownFields(true)
	require.NoError(t, d.Decode(&workflow))
	require.Len(t, workflow.Jobs, 3)
	program := build(t)
	help := func(args ...string) string {
		out, err := exec.Command(program, append(args, "--help")...).Output()
		require.NoError(t, err)
		return string(out)
	}
	paths, flags, runs := regexp.MustCompile(`(?:\./|applet-sim/)[\w/.-]+`), regexp.MustCompile(`--[\w-]+`), 0
	for name, job := range workflow.Jobs {
		assert.NotEmpty(t, job.RunsOn, name)
		for _, step := range job.Steps {
			require.True(t, (step.Uses == "") != (step.Run == ""), "%s: a step uses or runs", name)
			for line := range strings.Lines(step.Run) {
				runs++
				if args, ok := strings.CutPrefix(strings.TrimSpace(line), "bin/applet-sim "); ok {
					words := strings.Fields(args)
					of := help()
					if !strings.HasPrefix(words[0], "-") {
						of = help(words[0])
						assert.Contains(t, of, "applet-sim "+words[0])
					}
					for _, flag := range flags.FindAllString(args, -1) {
						assert.Contains(t, of, flag+" ", line)
					}
					continue
				}
				for _, path := range paths.FindAllString(strings.ReplaceAll(line, "bin/applet-sim", ""), -1) {
					_, err := os.Stat(filepath.Join(root, path))
					assert.NoError(t, err, line)
				}
			}
		}
	}
	assert.Greater(t, runs, 8)
}
