package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
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
	plans := t.TempDir()
	names := measured(t, options{databases: []string{"sqlite", "postgres"}, suite: cryptogram.Suite01, planDir: plans, plain: true})
	assert.Equal(t, []string{
		"deactivation/rsa-bound-sqlite", "deactivation/rsa-bound-sqlite/plain",
		"deactivation/rsa-bound-postgres", "deactivation/rsa-bound-postgres/plain",
	}, names)
	for _, name := range []string{"sqlite", "postgres"} {
		text, err := os.ReadFile(filepath.Join(plans, "plans-"+name+".txt"))
		require.NoError(t, err)
		assert.Contains(t, string(text), "UPDATE deactivations SET state = 'sending'")
	}
}

func TestSuite03(t *testing.T) {
	names := measured(t, options{databases: []string{"sqlite"}, suite: cryptogram.Suite03})
	assert.Equal(t, []string{"deactivation/rsa-bound-sqlite"}, names)
}

// measured runs the bench and gives the names of the ratios that it ends in.
func measured(t *testing.T, o options) (names []string) {
	o.dir = os.TempDir() // t.TempDir's parent keeps PostgreSQL's user out
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), o.quickly(), &out))
	lines := regexp.MustCompile(`(?m)^ratio (\S+) (\S+)$`).FindAllStringSubmatch(out.String(), -1)
	require.NotEmpty(t, lines)
	for _, l := range lines {
		names = append(names, l[1])
		value, err := strconv.ParseFloat(l[2], 64)
		assert.NoError(t, err)
		assert.Positive(t, value, l[1])
	}
	assert.True(t, strings.HasSuffix(out.String(), lines[len(lines)-1][0]+"\n"), "they are the last")
	return names
}

func TestDiskOnly(t *testing.T) {
	assert.ErrorContains(t, checkDisk("/dev/shm"), "-dir")
}

func TestLayers(t *testing.T) {
	for stack, layer := range map[string]string{
		"runtime.mallocgc encoding/json.Marshal " + ours + "server/store.(*tx).addEvents net/http.(*conn).serve": "store",
		"crypto/x509.ParsePKIXPublicKey " + ours + "card/cryptogram.KeysPEM.Public " + ours + "card.ParseRecord": "cards' keys, parsed",
		"fmaFull " + ours + "card/rsafast.(*Scheduler).work":                                                     "RSA",
		"syscall.Syscall crypto/tls.(*Conn).Write net/http.(*conn).serve":                                        "HTTP, TLS, JSON",
		"runtime.gcBgMarkWorker": runtimeLayer,
	} {
		s := &profile.Sample{}
		for f := range strings.FieldsSeq(stack) {
			s.Location = append(s.Location, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: f}}}})
		}
		assert.Equal(t, layer, layerOf(s), stack)
	}
}
