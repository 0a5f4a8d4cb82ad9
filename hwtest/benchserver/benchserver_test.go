package main

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/server/servertest/cardhost"
)

// The program starts itself again as the cards' host and as the server.
func TestMain(m *testing.M) {
	cardhost.Enter()
	if os.Getenv(childVar) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// All is measured; what the figures are is not tested.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, suite := range []cryptogram.Suite{cryptogram.Suite01, cryptogram.Suite03} {
		t.Run(suite.String(), func(t *testing.T) {
			o := options{dir: os.TempDir(), databases: []string{"sqlite", "postgres"}, suite: suite, planDir: dir, plain: true}.quickly()
			var out bytes.Buffer
			require.NoError(t, run(t.Context(), o, &out))
			lines := regexp.MustCompile(`(?m)^ratio (\S+) (\S+)$`).FindAllStringSubmatch(out.String(), -1)
			var names []string
			for _, l := range lines {
				names = append(names, l[1])
				value, err := strconv.ParseFloat(l[2], 64)
				assert.NoError(t, err)
				assert.Positive(t, value, l[1])
			}
			assert.Equal(t, []string{
				"deactivation/rsa-bound-sqlite", "deactivation/rsa-bound-sqlite/plain",
				"deactivation/rsa-bound-postgres", "deactivation/rsa-bound-postgres/plain",
			}, names)
			assert.True(t, strings.HasSuffix(out.String(), lines[len(lines)-1][0]+"\n"), "they are the last")
			for _, name := range o.databases {
				plans, err := os.ReadFile(dir + "/plans-" + name + ".txt")
				require.NoError(t, err)
				assert.Contains(t, string(plans), "UPDATE deactivations SET state = 'sending'")
			}
		})
	}
}
