package hwtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/report"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

var (
	benchFile = flag.String("bench", "", "bench file (docs/hardware.md); none: a virtual bench of two emulated cards")
	allow     = flag.String("allow", "", "ICCIDs, separated by commas, of cards that may be changed: any profile of the card")
	outDir    = flag.String("out", "hwtest-report", "directory for the reports")
	list      = flag.Bool("list", false, "say what would be run on the bench, and run nothing")
)

// childVar says to this program that another of its kind makes the reports.
const childVar = "CARDBRIDGE_HWTEST_CHILD"

// root is the test that is the bench; the others test the bench's own code.
const root = "TestBench"

const exitUsage = 2

// TestMain is the program. Under go test it runs the tests; run by itself it
// starts itself again to run TestBench, and makes reports of what that prints.
func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case *list:
		os.Exit(printList())
	case underGoTest() || os.Getenv(childVar) != "":
		if onVirtual() {
			rig.Enter()
		}
		os.Exit(m.Run())
	}
	os.Exit(supervise())
}

// underGoTest reports whether go test runs this program: it alone sets that flag.
func underGoTest() bool {
	f := flag.Lookup("test.paniconexit0")
	return f != nil && f.Value.String() == "true"
}

// benchName is what the reports call the bench.
func benchName() string {
	if onVirtual() {
		return "virtual"
	}
	return *benchFile
}

func complain(err error) int {
	fmt.Fprintf(os.Stderr, "hwtest: %v\n", err)
	return exitUsage
}

// supervise runs the tests in a child, shows how they go, writes the reports, and
// gives the child's exit status.
func supervise() int {
	if flag.NArg() > 0 {
		return complain(fmt.Errorf("%q is no flag; see -help", flag.Arg(0)))
	}
	if _, err := newFloor(); err != nil { // better now than in a test
		return complain(err)
	}
	self, err := os.Executable()
	if err != nil {
		return complain(err)
	}
	host, _ := os.Hostname() // a report without is none the worse
	c := report.NewCollector(benchName(), report.Host{Name: host, OS: runtime.GOOS, Arch: runtime.GOARCH}, root)
	p := newProgress(os.Stdout)
	c.OnEvent = p.event

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	args := slices.Concat([]string{"-test.run=^" + root + "$"}, os.Args[1:], []string{"-test.v=test2json"})
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, c, c
	cmd.WaitDelay = 5 * time.Second // what else holds the pipe
	p.begin(benchName())
	if err := cmd.Start(); err != nil {
		return complain(err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // the report is made of what ran till then
		}
	}()
	status := 0
	if err := cmd.Wait(); err != nil {
		status = 1
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			status = exit.ExitCode()
		}
	}
	suite := c.Finish()
	if len(suite.Cases) == 0 {
		status = max(status, 1) // no bench is good because nothing was looked at
	}
	if err := report.Write(*outDir, suite); err != nil {
		complain(err)
		status = max(status, 1)
	}
	p.finish(suite, *outDir)
	return status
}

// printList says what would be run.
func printList() int {
	f, err := newFloor()
	if err != nil {
		return complain(err)
	}
	var readers []reader.Reader
	if onVirtual() {
		for _, r := range f.Readers {
			readers = append(readers, reader.Reader{Name: r.Reader, ID: "name:" + r.Reader})
		}
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if readers, err = f.source.Readers(ctx); err != nil {
			return complain(err)
		}
	}
	there, missing, others := f.stations(readers)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, s := range there {
		fmt.Fprintf(w, "%s\t%s\n", s.reader.Name, s.reader.ID)
		for _, c := range checks {
			what := c.what
			if reason := c.lacks(s); reason != "" {
				what = "would not run: " + reason
			}
			fmt.Fprintf(w, "  %s\t%s\n", c.name, what)
		}
	}
	for _, r := range missing {
		fmt.Fprintf(w, "%s\twould fail: %s\n", r.Reader, missingText(r, readers))
	}
	for _, r := range others {
		fmt.Fprintf(w, "%s\twould not run: the bench file does not name this reader\n", r.Name)
	}
	if len(readers) == 0 {
		fmt.Fprintln(w, "no readers")
	}
	if err := w.Flush(); err != nil {
		return complain(err)
	}
	return 0
}
