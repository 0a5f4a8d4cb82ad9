package rsafast

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// reportEngines, in the environment, makes the program say which engines it has.
const reportEngines = "RSAFAST_TEST_REPORT_ENGINES"

// enginesWith runs this program by itself, with a setting of GODEBUG, and gives
// its engines, the one in use first.
func enginesWith(t *testing.T, setting string) []string {
	t.Helper()
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEngineByEnvironment$")
	program.Env = append(os.Environ(), reportEngines+"=1", "GODEBUG="+setting)
	out, err := program.Output()
	require.NoError(t, err)
	_, after, found := strings.Cut(string(out), "\nengines ")
	require.True(t, found, "%s", out)
	line, _, _ := strings.Cut(after, "\n")
	return strings.Fields(line)
}

// The environment rules engines out, and leaves what else the processor has.
func TestEngineByEnvironment(t *testing.T) {
	if _, ok := os.LookupEnv(reportEngines); ok {
		names := []string{Engine()}
		for _, e := range forced()[1:] {
			names = append(names, nameOf(e))
		}
		_, err := os.Stdout.WriteString("\nengines " + strings.Join(names, " ") + "\n")
		require.NoError(t, err)
		return
	}
	all := enginesWith(t, "")
	require.Contains(t, all, "portable")
	for setting, out := range map[string][]string{
		"cpu.avx512ifma=off":          {"ifma512"},
		"cpu.avx512f=off":             {"ifma512"},
		"cpu.fma=off":                 {"fma52"},
		"cpu.avx512f=off,cpu.fma=off": {"ifma512", "fma52"},
		"cpu.avx2=off":                {"ifma512", "fma52"},
	} {
		want := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(out, name) })
		assert.Equal(t, want, enginesWith(t, setting), "GODEBUG=%s", setting)
	}
}
