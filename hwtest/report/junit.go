package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Hostname  string      `xml:"hostname,attr,omitempty"`
	Cases     []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class      string           `xml:"classname,attr"`
	Name       string           `xml:"name,attr"`
	Time       string           `xml:"time,attr"`
	Properties *junitProperties `xml:"properties"`
	Skipped    *junitMessage    `xml:"skipped"`
	Failure    *junitMessage    `xml:"failure"`
	Output     string           `xml:"system-out,omitempty"`
}

type junitProperties struct {
	List []junitProperty `xml:"property"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes the suite as JUnit XML. A case that was not run is skipped
// there, with the reason.
func WriteJUnit(w io.Writer, s *Suite) error {
	all := junitSuites{
		Name: "hwtest " + s.Bench, Tests: len(s.Cases), Failures: s.Totals.Failed, Skipped: s.Totals.NotRun, Time: secondsText(s.Seconds),
	}
	for _, group := range s.Groups() {
		cases := s.in(group)
		n := totals(cases)
		suite := junitSuite{
			Name: orBench(group), Tests: len(cases), Failures: n.Failed, Skipped: n.NotRun,
			Timestamp: s.Started.Format(time.RFC3339), Hostname: s.Host.Name,
		}
		var sum float64
		for _, c := range cases {
			sum += c.Seconds
			suite.Cases = append(suite.Cases, junit(c))
		}
		suite.Time = secondsText(sum)
		all.Suites = append(all.Suites, suite)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func junit(c Case) junitCase {
	out := junitCase{Class: orBench(c.Group), Name: c.Name, Time: secondsText(c.Seconds), Output: strings.Join(c.Output, "\n")}
	var p junitProperties
	add := func(name, value string) { p.List = append(p.List, junitProperty{name, value}) }
	for _, f := range c.Facts {
		add(f.Name, f.Value)
	}
	for _, m := range c.Measurements {
		if m.Stats.Count == 1 {
			add(fmt.Sprintf("%s (%s)", m.Name, m.Unit), number(m.Stats.P50))
			continue
		}
		for _, q := range m.Stats.named() {
			add(fmt.Sprintf("%s %s (%s)", m.Name, q.name, m.Unit), number(q.value))
		}
	}
	reasons := strings.Join(c.Reasons, "; ")
	if c.Outcome != NotRun && reasons != "" {
		add("not run in part", reasons)
	}
	if len(p.List) > 0 {
		out.Properties = &p
	}
	switch c.Outcome {
	case NotRun:
		out.Skipped = &junitMessage{Message: reasons}
	case Failed:
		out.Failure = &junitMessage{Message: c.firstLine(), Text: out.Output}
		out.Output = ""
	}
	return out
}

// firstLine of the output that says anything.
func (c Case) firstLine() string {
	for _, l := range c.Output {
		if l = strings.TrimSpace(l); l != "" {
			return l
		}
	}
	return "failed"
}

type namedValue struct {
	name  string
	value float64
}

func (s Stats) named() []namedValue {
	return []namedValue{{"min", s.Min}, {"p50", s.P50}, {"p90", s.P90}, {"p99", s.P99}, {"max", s.Max}}
}

func orBench(group string) string {
	if group == "" {
		return "bench"
	}
	return group
}

func secondsText(s float64) string { return fmt.Sprintf("%.3f", s) }
