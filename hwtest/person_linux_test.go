package hwtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cardbridge/cardbridge/hwtest/report"
)

// terminal opens a pseudo-terminal and gives the end that a program has for its
// standard input.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { slave.Close() })
	return slave
}

// The test is the person: it does what it is asked. The reader goes and comes
// with pcscd.
func TestProgramAsksThePerson(t *testing.T) {
	pcscd, slots := startVirtual(t)
	p := newProgram(t)
	p.bench("person: true" + labBench)
	var out lockedBuffer
	cmd := p.command("-bench", "bench.yaml", "-out", "out", "-test.run", "^TestBench$/./^hot-plug$")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal(t), &out, &out
	require.NoError(t, cmd.Start())
	for _, ask := range []struct {
		prompt string
		do     func()
	}{
		{"pull the card out of " + managed, slots[managed].pull},
		{"put the card back into " + managed, slots[managed].insert},
		{"unplug the reader " + managed, func() { require.NoError(t, pcscd.Kill()) }},
		{"plug the reader " + managed + " in again", func() { require.NoError(t, pcscd.Restart(t.Context())) }},
	} {
		require.Eventually(t, func() bool { return strings.Contains(out.String(), ask.prompt) }, time.Minute, 10*time.Millisecond, out.String())
		ask.do()
	}
	require.NoError(t, cmd.Wait(), out.String())
	s := p.report()
	for _, name := range []string{"card-pulled", "card-inserted", "reader-unplugged", "reader-plugged"} {
		assert.Equal(t, report.Passed, p.find(s, managed, "hot-plug/"+name).Outcome, name)
	}
}
