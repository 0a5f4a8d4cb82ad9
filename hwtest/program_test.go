package hwtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/hwtest/report"
)

// program is this program run by itself, as on a lab bench, in a directory of its
// own.
type program struct {
	t   *testing.T
	dir string
}

func newProgram(t *testing.T) *program { return &program{t, t.TempDir()} }

// bench writes a bench file; FILES stands for a directory with the virtual bench's
// key files, with the mode that such files must have.
func (p *program) bench(text string) {
	p.t.Helper()
	files := filepath.Join(p.dir, "virtual")
	require.NoError(p.t, os.MkdirAll(files, 0o700))
	for _, name := range []string{"card.json", "server.json"} {
		b, err := readVirtual(name)
		require.NoError(p.t, err)
		require.NoError(p.t, os.WriteFile(filepath.Join(files, name), b, 0o600))
	}
	text = strings.ReplaceAll(text, "FILES", files)
	require.NoError(p.t, os.WriteFile(filepath.Join(p.dir, "bench.yaml"), []byte(text), 0o600))
}

func (p *program) command(args ...string) *exec.Cmd {
	p.t.Helper()
	self, err := os.Executable()
	require.NoError(p.t, err)
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	p.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // the race detector waits a second at each end
	return cmd
}

// run runs the program and gives its exit status and all that it prints.
func (p *program) run(args ...string) (status int, out string) {
	p.t.Helper()
	cmd := p.command(args...)
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(p.t, err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

func (p *program) report() *report.Suite {
	p.t.Helper()
	f, err := os.Open(filepath.Join(p.dir, "out", "report.json"))
	require.NoError(p.t, err)
	defer f.Close()
	s, err := report.ReadJSON(f)
	require.NoError(p.t, err)
	return s
}

func (p *program) find(s *report.Suite, group, name string) report.Case {
	p.t.Helper()
	i := slices.IndexFunc(s.Cases, func(c report.Case) bool { return c.Group == group && c.Name == name })
	require.GreaterOrEqual(p.t, i, 0, "no case %s of %q", name, group)
	return s.Cases[i]
}

const (
	managed = "Virtual PCD A 00 00"
	euicc   = "Virtual PCD A 00 01"
)

// labBench is the virtual bench as a lab's own.
const labBench = `
readers:
  - reader: A 00 00
    card: {eid: "89049032000000000000000000000163"}
keys:
  - {eid: "89049032000000000000000000000163", record: FILES/card.json, keyset: FILES/server.json}
`

func TestProgramOnTheVirtualBench(t *testing.T) {
	p := newProgram(t)
	status, out := p.run("-out", "out", "-test.run", "^TestBench$/^(bench|Virtual-PCD-A-00-0[01])$/^(readers|usb|info|card|euicc|euicc-switch)$")
	require.Zero(t, status, out)
	s := p.report()
	assert.Equal(t, "virtual", s.Bench)
	assert.Equal(t, []string{"bench", managed, euicc}, s.Groups())
	assert.Zero(t, s.Totals.Failed)
	assert.Equal(t, []string{notUSB}, p.find(s, "bench", "usb").Reasons)
	assert.Contains(t, p.find(s, managed, "card").Facts, report.FactValue{Name: "EID", Value: "89049032000000000000000000000163"})
	assert.Contains(t, p.find(s, euicc, "euicc").Facts,
		report.FactValue{Name: "898600000000000005", Value: "disabled, operational, Lab, old 18 digits"})
	assert.Contains(t, p.find(s, euicc, "euicc-switch").Facts,
		report.FactValue{Name: "89860000000000000505", Value: "disabled, read after a reset, and enabled again"})
	assert.Equal(t, []string{"the card has no ISD-R"}, p.find(s, managed, "euicc-switch").Reasons)
	assert.NotContains(t, out, "\x1b", "no colour in a pipe")
	assert.Contains(t, out, s.Totals.String())
	for _, name := range []string{"report.html", "junit.xml"} {
		assert.FileExists(t, filepath.Join(p.dir, "out", name))
	}
}

// A reader that is missing, a card that is another one, a bench where nothing may
// be changed and nobody is there.
func TestProgramOnALabBench(t *testing.T) {
	startVirtual(t)
	p := newProgram(t)
	p.bench(labBench + `
  - {eid: "89049032000000000000000000000260", record: FILES/card.json, keyset: FILES/server.json}`)
	status, out := p.run("-bench", "bench.yaml")
	assert.Equal(t, exitUsage, status, out)
	assert.Contains(t, out, "the record of")

	p.bench(strings.Replace(labBench, "keys:", `
  - reader: Acme Reader
  - reader: A 00 01
    card: {eid: "89049032000000000000000000000163", iccid: 89860000000000000414, euicc: true}
keys:`, 1))
	status, out = p.run("-bench", "bench.yaml", "-out", "out", "-test.run", "^TestBench$/./^(present|info|usb|card|hot-plug|conformance)$")
	assert.Equal(t, 1, status, out)
	s := p.report()
	missing := p.find(s, "Acme Reader", "present")
	assert.Equal(t, report.Failed, missing.Outcome)
	assert.Contains(t, missing.Output[0], `reader "Acme Reader" is missing`)
	assert.Contains(t, out, `reader "Acme Reader" is missing`)
	wrong := p.find(s, euicc, "card")
	assert.Equal(t, report.Failed, wrong.Outcome)
	said := strings.Join(wrong.Output, "\n")
	assert.Contains(t, said, "the EID is not the bench file's")
	assert.Contains(t, said, "no profile of that ICCID")
	assert.Equal(t, report.Passed, p.find(s, managed, "card").Outcome)
	assert.Equal(t, []string{"it changes the card, and ALLOW names none"}, p.find(s, managed, "conformance").Reasons)
	assert.Equal(t, []string{"nobody is there (person: true in the bench file)"}, p.find(s, managed, "hot-plug").Reasons)
	usb := p.find(s, managed, "usb")
	assert.Equal(t, report.NotRun, usb.Outcome)
	assert.NotEmpty(t, usb.Reasons)

	status, out = p.run("-bench", "bench.yaml", "-list")
	assert.Zero(t, status, out)
	assert.Contains(t, out, "would not run: it changes the card, and ALLOW names none")
	assert.Contains(t, out, `would fail: reader "Acme Reader" is missing`)
}

func TestProgramAllows(t *testing.T) {
	startVirtual(t)
	p := newProgram(t)
	p.bench(labBench)
	const some = "^TestBench$/./^conformance$/^§1$"
	status, out := p.run("-bench", "bench.yaml", "-out", "out", "-allow", "8986000000000000513", "-test.run", some)
	assert.Zero(t, status, out)
	s := p.report()
	assert.Equal(t, []string{"it changes the card, and ALLOW names none of its profiles"}, p.find(s, managed, "conformance").Reasons)
	assert.Equal(t, []string{"the bench file does not name this reader"}, p.find(s, euicc, "all").Reasons)

	status, out = p.run("-bench", "bench.yaml", "-out", "out", "-allow", "89860000000000000422", "-test.run", some)
	assert.Zero(t, status, out)
	assert.Greater(t, p.report().Totals.Passed, 1, "tests of the suite ran")
}

// A plain eUICC is changed where the bench file names it and ALLOW its enabled
// profile.
func TestProgramSwitches(t *testing.T) {
	startVirtual(t)
	p := newProgram(t)
	const some = "^TestBench$/./^euicc-switch$"
	for _, c := range []struct{ bench, allow, reason string }{
		{"card: {}", "89860000000000000505", "the bench file names no plain eUICC here (euicc: true)"},
		{"card: {euicc: true}", "", "it changes the card, and ALLOW names none"},
		{"card: {euicc: true}", "8986000000000000513", "it changes the card, and ALLOW does not name the profile that is enabled"},
		{"card: {euicc: true}", "8986000000000000513,89860000000000000505", ""},
	} {
		p.bench("readers: [{reader: A 00 01, " + c.bench + "}]")
		status, out := p.run("-bench", "bench.yaml", "-out", "out", "-allow", c.allow, "-test.run", some)
		found := p.find(p.report(), euicc, "euicc-switch")
		if c.reason != "" {
			assert.Equal(t, []string{c.reason}, found.Reasons)
			continue
		}
		assert.Zero(t, status, out)
		assert.Equal(t, report.Passed, found.Outcome)
		assert.Len(t, found.Measurements, 2)
	}
}

// worn is a card whose answer to reset changes, and is not well formed in the end.
type worn struct {
	*appletsim.Card
	powered int // times
}

func (c *worn) Power(on bool) {
	if on {
		c.powered++
	}
	c.Card.Power(on)
}

func (c *worn) ATR() []byte {
	atr := c.Card.ATR()
	if c.powered > 10 {
		atr[len(atr)-1] ^= 0x01 // TCK
	}
	return atr
}

// dying is a card that leaves its reader at the 50th command, and every 50th.
type dying struct {
	*appletsim.Card
	commands int
}

func (c *dying) pull(_, _ []byte) (time.Duration, bool) {
	c.commands++
	return time.Second, c.commands%50 == 0
}

// What the checks are there to find, they find.
func TestProgramFindsFaults(t *testing.T) {
	w, d := &worn{Card: newPlainEUICC(t)}, &dying{Card: newPlainEUICC(t)}
	startVirtual(t, w, d)
	p := newProgram(t)
	p.bench("readers: [{reader: A 00 00, card: {}}, {reader: A 00 01, card: {}}]")
	status, out := p.run("-bench", "bench.yaml", "-out", "out", "-test.run", "^TestBench$/./^(round-trip|power-cycles|info)$")
	assert.Equal(t, 1, status, out)
	s := p.report()
	assert.Equal(t, report.Passed, p.find(s, managed, "round-trip").Outcome)
	cycles := p.find(s, managed, "power-cycles")
	assert.Equal(t, report.Failed, cycles.Outcome)
	assert.Contains(t, strings.Join(cycles.Output, "\n"), "is another")
	require.Len(t, cycles.Measurements, 1, "what was measured till then")
	lost := p.find(s, euicc, "round-trip")
	assert.Equal(t, report.Failed, lost.Outcome)
	assert.Contains(t, strings.Join(lost.Output, "\n"), apdu.ErrCardRemoved.Error())
}

// A run that is interrupted has reports of what ran till then.
func TestProgramInterrupted(t *testing.T) {
	startVirtual(t)
	p := newProgram(t)
	p.bench(strings.Replace(labBench, "readers:", "limits: {round_trips: 100000}\nreaders:", 1))
	var out lockedBuffer
	cmd := p.command("-bench", "bench.yaml", "-out", "out", "-test.run", "^TestBench$/./^(info|round-trip)$")
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "info") }, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.Error(t, cmd.Wait())
	s := p.report()
	assert.Equal(t, report.Passed, p.find(s, managed, "info").Outcome)
	assert.Equal(t, report.Failed, p.find(s, managed, "round-trip").Outcome)
	assert.Contains(t, p.find(s, managed, "round-trip").Output, "the test did not end: the program that ran it ended first")
}

func TestProgramRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no bench file":   {"-bench", "none.yaml"},
		"no ICCID":        {"-allow", "everything"},
		"an argument":     {"everything"},
		"an unknown flag": {"-everything"},
	} {
		status, out := newProgram(t).run(args...)
		assert.Equal(t, exitUsage, status, name)
		assert.NotEmpty(t, out, name)
	}
	p := newProgram(t)
	p.bench("readers: [{reader: A}]")
	status, out := p.run("-bench", "bench.yaml", "-out", "out")
	assert.Equal(t, 1, status)
	assert.Contains(t, out, "PC/SC service is not running", "a bench that cannot be looked at says why")
	status, out = newProgram(t).run("-out", "out", "-test.run", "^TestNothing$")
	assert.Equal(t, 1, status, "a bench on which nothing was run is not good: %s", out)
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out, colour: true, width: 30}
	c := report.NewCollector("", report.Host{}, root)
	c.OnEvent = p.event
	say := func(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }
	say("\x16=== RUN   TestBench/r")
	say("\x16=== RUN   TestBench/r/hot-plug")
	say("\x16=== RUN   TestBench/r/hot-plug/card-pulled-with-a-very-long-name")
	say("\x16=== ATTR  TestBench/r/hot-plug cardbridge-prompt \"pull it\"")
	for i := range 20 {
		say("line %d", i)
	}
	say("\x16--- FAIL: TestBench/r/hot-plug/card-pulled-with-a-very-long-name (0.01s)")
	say("\x16--- FAIL: TestBench/r/hot-plug (0.01s)")
	p.finish(c.Finish(), "out")
	said := out.String()
	assert.Contains(t, said, "▶ please pull it")
	assert.Contains(t, said, "(8 lines more in the report)")
	assert.Contains(t, said, "0 passed, 1 failed, 0 not run")
	for _, l := range strings.Split(said, "\r") {
		if strings.Contains(l, "…") && !strings.Contains(l, "\n") {
			assert.Less(t, len([]rune(l)), 40, "what runs now is one line of the terminal")
		}
	}
}

// lockedBuffer is written to by one goroutine and read by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
