package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// printer prints attributes as the testing package does.
type printer struct {
	w    io.Writer
	name string
}

func (p printer) Attr(key, value string) {
	fmt.Fprintf(p.w, "\x16=== ATTR  %s %s %s\n", p.name, key, value)
}

// hostile is what a reader may call itself, and a card its profiles.
const hostile = "</title><script src=\"https://evil.example/x.js\">alert(1)</script> ]]> \x01\x16=== RUN &amp; <img src=x onerror=y> \u202e"

// run is what a test binary prints on a bench of two readers.
func run() []byte {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	at := func(name string) printer { return printer{&b, name} }
	say("something before the first test\n")
	say("\x16=== RUN   TestBench\n")
	say("\x16=== RUN   TestBench/usb\n")
	Omit(at("TestBench/usb"), "this kernel has no USB")
	say("\x16--- PASS: TestBench/usb (0.00s)\n")
	say("\x16=== RUN   TestBench/reader\n")
	Title(at("TestBench/reader"), "Acme Reader 00 00")
	say("\x16=== RUN   TestBench/reader/info\n")
	Fact(at("TestBench/reader/info"), "ATR", "%X", []byte{0x3B, 0x00})
	say("    info.go:12: a line\n        and another\n")
	say("\x16--- PASS: TestBench/reader/info (0.01s)\n")
	say("\x16=== RUN   TestBench/reader/round-trip\n")
	r := rand.New(rand.NewPCG(1, 2))
	times := make([]float64, 300)
	for i := range times {
		times[i] = float64(int(1000*(0.2+r.ExpFloat64()*0.05))) / 1000
	}
	Measure(at("TestBench/reader/round-trip"), Measurement{Name: "round trip", Unit: "ms", Plot: Distribution, Values: times})
	say("\x16--- PASS: TestBench/reader/round-trip (0.30s)\n")
	say("\x16=== RUN   TestBench/reader/power-cycles\n")
	Measure(at("TestBench/reader/power-cycles"), Measurement{Name: "power cycle", Unit: "ms", Plot: Series, Values: []float64{12, 11.5, 13, 40, 12.25}})
	Measure(at("TestBench/reader/power-cycles"), Measurement{Name: "cycles", Unit: "times", Values: []float64{5}})
	say("partial\x16--- FAIL: TestBench/reader/power-cycles (1.00s)\n")
	say("\x16=== RUN   TestBench/reader/conformance\n")
	say("\x16=== RUN   TestBench/reader/conformance/identifiers\n")
	say("\x16=== RUN   TestBench/reader/conformance/identifiers/EID\n")
	say("\x16--- PASS: TestBench/reader/conformance/identifiers/EID (0.01s)\n")
	say("\x16=== RUN   TestBench/reader/conformance/identifiers/other_card\n")
	say("\x16--- PASS: TestBench/reader/conformance/identifiers/other_card (0.01s)\n")
	for i := range manyParts {
		say("\x16=== RUN   TestBench/reader/conformance/identifiers/part_%d\n\x16--- PASS: TestBench/reader/conformance/identifiers/part_%d (0.01s)\n", i, i)
	}
	say("\x16--- PASS: TestBench/reader/conformance/identifiers (0.02s)\n")
	conformance := at("TestBench/reader/conformance")
	OmitSubtest(conformance, "identifiers/other card", "the card has one suite", false)
	OmitSubtest(conformance, "identifiers/EID", "nothing takes the card's power away", true)
	OmitSubtest(conformance, "atomicity/never begun", "nothing injects faults", false)
	say("\x16--- PASS: TestBench/reader/conformance (0.03s)\n")
	say("\x16--- FAIL: TestBench/reader (1.40s)\n")
	say("\x16=== RUN   TestBench/hostile\n")
	Title(at("TestBench/hostile"), hostile)
	say("\x16=== RUN   TestBench/hostile/info\n")
	Fact(at("TestBench/hostile/info"), "vendor <b>", "%s", hostile)
	Prompt(at("TestBench/hostile/info"), "pull %s", "it")
	at("TestBench/hostile/info").Attr("foreign", "some other attribute")
	at("TestBench/hostile/info").Attr(keyFact, "{broken")
	Measure(at("TestBench/hostile/info"), Measurement{Name: hostile, Unit: "<i>", Plot: Series, Values: []float64{-1, 2}})
	say("    info.go:13: %s\n", strings.ReplaceAll(hostile, "\x16", ""))
	say("\x16--- FAIL: TestBench/hostile/info (0.01s)\n")
	say("\x16=== RUN   TestBench/hostile/hangs\n")
	say("panic: the program ended")
	return b.Bytes()
}

// tick is a clock that goes on by 10 ms each time it is looked at.
func tick() func() time.Time {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	return func() time.Time { now = now.Add(10 * time.Millisecond); return now }
}

func collect(t *testing.T, chunk int) (*Suite, []Event) {
	t.Helper()
	var events []Event
	c := newCollector("bench.yaml", Host{Name: "lab", OS: "linux", Arch: "amd64"}, "TestBench", tick())
	c.OnEvent = func(e Event) { events = append(events, e) }
	for out := run(); len(out) > 0; {
		n := min(chunk, len(out))
		wrote, err := c.Write(out[:n])
		require.NoError(t, err)
		require.Equal(t, n, wrote)
		out = out[n:]
	}
	return c.Finish(), events
}

func find(t *testing.T, s *Suite, name string) Case {
	t.Helper()
	for _, c := range s.Cases {
		if c.Name == name {
			return c
		}
	}
	require.Fail(t, "no case "+name)
	return Case{}
}

func TestCollector(t *testing.T) {
	s, events := collect(t, 1<<20)
	byteByByte, _ := collect(t, 1)
	assert.Equal(t, s, byteByByte, "how the output comes in pieces does not matter")

	assert.Equal(t, Totals{Passed: 11, Failed: 3, NotRun: 3}, s.Totals)
	assert.Equal(t, []string{"usb", "Acme Reader 00 00", clean(hostile)}, s.Groups())
	assert.Equal(t, []string{"something before the first test"}, s.Output)

	assert.Equal(t, []string{"this kernel has no USB"}, s.Cases[0].Reasons)
	assert.Equal(t, NotRun, s.Cases[0].Outcome)

	info := s.Cases[1]
	assert.Equal(t, []FactValue{{"ATR", "3B00"}}, info.Facts)
	assert.Equal(t, []string{"    info.go:12: a line", "        and another"}, info.Output)

	cycles := find(t, s, "power-cycles")
	assert.Equal(t, Failed, cycles.Outcome)
	assert.Equal(t, []string{"partial"}, cycles.Output)
	assert.Equal(t, Stats{Count: 5, Min: 11.5, P50: 12.25, P90: 40, P99: 40, Max: 40}, cycles.Measurements[0].Stats)

	assert.Equal(t, Passed, find(t, s, "conformance/identifiers/EID").Outcome, "a part of it was not run")
	assert.Equal(t, []string{"nothing takes the card's power away"}, find(t, s, "conformance/identifiers/EID").Reasons)
	assert.Equal(t, NotRun, find(t, s, "conformance/identifiers/other_card").Outcome)
	assert.Equal(t, NotRun, find(t, s, "conformance/atomicity/never_begun").Outcome)

	hangs := find(t, s, "hangs")
	assert.Equal(t, Failed, hangs.Outcome)
	assert.Equal(t, []string{"panic: the program ended", "the test did not end: the program that ran it ended first"}, hangs.Output)

	var prompts []string
	ended := 0
	for _, e := range events {
		if e.Prompt != "" {
			prompts = append(prompts, e.Prompt)
		}
		if e.Ended {
			ended++
			if e.Test == "TestBench/reader/conformance" {
				assert.Equal(t, Totals{Passed: 9, NotRun: 2}, e.Below)
				assert.Equal(t, "Acme Reader 00 00", e.Title)
			}
		}
	}
	assert.Equal(t, []string{"pull it"}, prompts)
	assert.Equal(t, 21, ended)
}

func TestCollectorBounds(t *testing.T) {
	c := NewCollector("", Host{}, "TestBench")
	fmt.Fprint(c, "\x16=== RUN   TestBench\n")
	for range maxLines + 10 {
		fmt.Fprintln(c, "again")
	}
	_, _ = c.Write(bytes.Repeat([]byte{'x'}, maxLine+100))
	fmt.Fprint(c, "\n\x16--- PASS: TestBench (0.00s)\n")
	s := c.Finish()
	require.Len(t, s.Cases, 1)
	assert.Equal(t, Passed, s.Cases[0].Outcome)
	assert.Len(t, s.Cases[0].Output, maxLines+1)
}

func TestNothingRan(t *testing.T) {
	s := NewCollector("", Host{}, "TestBench").Finish()
	for _, write := range []func(io.Writer, *Suite) error{WriteJSON, WriteJUnit, WriteHTML} {
		assert.NoError(t, write(io.Discard, s))
	}
}

func TestGolden(t *testing.T) {
	s, _ := collect(t, 4096)
	dir := t.TempDir()
	require.NoError(t, Write(dir, s))
	for _, name := range []string{"report.json", "junit.xml", "report.html"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		golden := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(golden, got, 0o644))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		assert.Equal(t, string(want), string(got), name)
	}
}

func TestReadJSON(t *testing.T) {
	s, _ := collect(t, 4096)
	var b bytes.Buffer
	require.NoError(t, WriteJSON(&b, s))
	back, err := ReadJSON(bytes.NewReader(b.Bytes()))
	require.NoError(t, err)
	var again bytes.Buffer
	require.NoError(t, WriteJSON(&again, back))
	assert.Equal(t, b.String(), again.String())

	for _, bad := range []string{"", "{}", `{"schema":"cardbridge-hwtest/2"}`, "[]"} {
		_, err := ReadJSON(strings.NewReader(bad))
		assert.Error(t, err, bad)
	}
}

func TestXMLIsWellFormed(t *testing.T) {
	s, _ := collect(t, 4096)
	var b bytes.Buffer
	require.NoError(t, WriteJUnit(&b, s))
	d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	elements := map[string]int{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
	assert.Equal(t, len(s.Cases), elements["testcase"])
	assert.Equal(t, s.Totals.Failed, elements["failure"])
	assert.Equal(t, s.Totals.NotRun, elements["skipped"])
	assert.Zero(t, elements["script"])
}

// The page refers to nothing but itself, and what the bench says is text in it.
func TestHTMLIsSelfContained(t *testing.T) {
	s, _ := collect(t, 4096)
	var b bytes.Buffer
	require.NoError(t, WriteHTML(&b, s))
	html := b.String()
	for _, element := range []string{"<script", "<img", "<link", "<iframe", "<object", "<i>", "<b></b>", "@import", "url("} {
		assert.NotContains(t, html, element)
	}
	labels := regexp.MustCompile(`aria-label="[^"]*"`) // any text, but for the quote
	for _, tag := range regexp.MustCompile(`<[a-z][^>]*>`).FindAllString(labels.ReplaceAllString(html, ""), -1) {
		assert.NotRegexp(t, `\s(src|href|on[a-z]+|style|xmlns[:a-z]*)\s*=`, tag)
		assert.NotContains(t, tag, "//", "no address in a tag")
	}
	assert.Equal(t, 3, strings.Count(html, "<svg"), "one value is not drawn")
	assert.Equal(t, 3, strings.Count(html, "</svg>"))
	for _, r := range html {
		assert.True(t, r == '\n' || unicode.IsPrint(r), "%U", r)
	}
	assert.Contains(t, html, "<summary>parts of conformance: 9 passed, 0 failed, 2 not run</summary>")
	assert.Contains(t, html, "prefers-color-scheme: dark")
}

func TestPlots(t *testing.T) {
	for name, values := range map[string][]float64{
		"all the same": {5, 5, 5}, "zero": {0, 0}, "negative": {-2, -1}, "two": {1, 1e9}, "tiny": {1e-9, 2e-9},
	} {
		for _, plot := range []Plot{Distribution, Series, "unknown"} {
			out := string(svg(Measurement{Name: name, Unit: "ms", Plot: plot, Values: values, Stats: statsOf(values)}))
			assert.NotContains(t, out, "NaN", name)
			assert.NotContains(t, out, "Inf", name)
			assert.NotRegexp(t, `height="-`, out, name)
		}
	}
	assert.Empty(t, svg(Measurement{Values: []float64{1}}))
}

func TestStats(t *testing.T) {
	values := make([]float64, 200)
	for i := range values {
		values[i] = float64(200 - i)
	}
	assert.Equal(t, Stats{Count: 200, Min: 1, P50: 100, P90: 180, P99: 198, Max: 200}, statsOf(values))
	assert.Zero(t, statsOf(nil))
}

func TestNumbers(t *testing.T) {
	for want, x := range map[string]float64{"0": 0, "65526": 65526, "0.2184": 0.21841, "12.5": 12.5, "1235": 1234.56, "-3": -3} {
		assert.Equal(t, want, number(x))
	}
	for want, s := range map[string]float64{"250 ms": 0.25, "12.5 s": 12.5, "10 min": 600} {
		assert.Equal(t, want, took(s))
	}
}

func FuzzCollector(f *testing.F) {
	f.Add(run())
	f.Add([]byte("\x16=== RUN   TestBench/a\n\x16=== RUN   TestBench/a/b\n\x16--- FAIL: TestBench/a/b (0.00s)\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newCollector("", Host{}, "TestBench", tick())
		_, _ = c.Write(b)
		s := c.Finish()
		var page bytes.Buffer
		require.NoError(t, WriteHTML(&page, s))
		require.NotContains(t, page.String(), "<script")
		require.NoError(t, WriteJUnit(io.Discard, s))
	})
}
