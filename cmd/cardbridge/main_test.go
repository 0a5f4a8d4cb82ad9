package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
)

// asProgram makes the test binary be the program.
const asProgram = "CARDBRIDGE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	rig.Enter()
	postgres.Main(m)
}

// cli runs the program to its end.
func cli(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := program(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err, "%v: %s", args, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = "cardbridge"
	cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0") // a second at each end otherwise
	return cmd
}

// object runs the program with --json and parses what it prints, which must be
// one object on one line.
func object(t testing.TB, args ...string) (out map[string]any, status int) {
	t.Helper()
	stdout, stderr, status := cli(t, append(args, "--json")...)
	require.Equal(t, 1, strings.Count(stdout, "\n"), "%v: %s%s", args, stdout, stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &out), "%v: %s%s", args, stdout, stderr)
	return out, status
}

// testCard is a card in a virtual reader, its record, and the key set it knows.
type testCard struct {
	card           *appletsim.Card
	eid            string
	keyset, record string
	reader         string
}

// newKeySet makes one key set for all of a test's cards.
func newKeySet(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.json")
	_, _, status := cli(t, "keys", "new", file)
	require.Zero(t, status)
	return file
}

// newCard makes a card by the program's own command and puts it into slot; a
// plain eUICC needs no key set.
func newCard(t testing.TB, keyset string, slot rig.Slot, args ...string) *testCard {
	t.Helper()
	dir := t.TempDir()
	c := &testCard{keyset: keyset, record: filepath.Join(dir, "record.json"), reader: slot.Reader}
	image := filepath.Join(dir, "card.json")
	if keyset != "" {
		args = append(args, "--keyset", keyset)
	}
	made, status := object(t, append([]string{"card", "new", "--image", image, "--record", c.record}, args...)...)
	require.Zero(t, status)
	c.eid = made["eid"].(string)
	var err error
	c.card, err = appletsim.Open(image)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	attached, ended := make(chan string, 16), make(chan error, 1)
	go func() {
		ended <- vpcd.Serve(ctx, slot.Addr, c.card,
			vpcd.OnAttached(func(addr string) {
				select {
				case attached <- addr:
				default:
				}
			}),
			vpcd.WithPull(func(_, _ []byte) (time.Duration, bool) { return c.card.Away() }))
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		assert.NoError(t, c.card.Close())
	})
	select {
	case <-attached:
	case <-time.After(10 * time.Second):
		require.Fail(t, "the card was not attached")
	}
	return c
}

func (c *testCard) run(t testing.TB, command string, args ...string) (map[string]any, int) {
	t.Helper()
	return object(t, append([]string{"card", command, "--reader", c.reader, "--keyset", c.keyset, "--card", c.record}, args...)...)
}
