package report_test

import (
	"fmt"

	"github.com/cardbridge/cardbridge/hwtest/report"
)

func ExampleCollector() {
	c := report.NewCollector("virtual", report.Host{OS: "linux"}, "TestBench")
	// What a test binary prints with -test.v=test2json.
	fmt.Fprint(c, "\x16=== RUN   TestBench/reader\n\x16=== RUN   TestBench/reader/atr\n")
	fmt.Fprint(c, "\x16--- PASS: TestBench/reader/atr (0.01s)\n\x16--- PASS: TestBench/reader (0.01s)\n")
	s := c.Finish()
	fmt.Println(s.Totals)
	fmt.Println(s.Cases[0].Group, s.Cases[0].Name, s.Cases[0].Outcome)
	// Output:
	// 1 passed, 0 failed, 0 not run
	// reader atr passed
}
