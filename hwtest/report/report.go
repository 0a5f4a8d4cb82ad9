// Package report makes a hardware bench's reports out of what its tests print:
// JUnit XML for machines that gate, JSON for machines that compare, one
// self-contained HTML page for people.
//
// The tests say what they measure by Measure, Fact, NotRun and their like, which
// travel as test attributes; a Collector reads the framed output of a test binary
// (-test.v=test2json) into a Suite.
package report

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Schema names the form of the JSON report. Members may be added under it; one
// that changes its meaning changes the number.
const Schema = "cardbridge-hwtest/1"

// Outcome is how a case ended.
type Outcome string

// The outcomes. A case that was not run says why; that is neither good nor bad.
const (
	Passed Outcome = "passed"
	Failed Outcome = "failed"
	NotRun Outcome = "not run"
)

// Suite is one run of a bench.
type Suite struct {
	Schema  string    `json:"schema"`
	Bench   string    `json:"bench"`
	Host    Host      `json:"host"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Totals  Totals    `json:"totals"`
	Cases   []Case    `json:"cases"`
	Output  []string  `json:"output,omitempty"` // lines that belong to no case
}

// Host is the machine that the bench is plugged into.
type Host struct {
	Name string `json:"name,omitempty"`
	OS   string `json:"os"`
	Arch string `json:"arch"`
}

// Totals counts cases.
type Totals struct {
	Passed int `json:"passed"`
	Failed int `json:"failed"`
	NotRun int `json:"not_run"`
}

// Case is one check.
type Case struct {
	Group        string        `json:"group"` // what was checked: a reader, the bench
	Name         string        `json:"name"`
	Outcome      Outcome       `json:"outcome"`
	Reasons      []string      `json:"reasons,omitempty"` // why it, or a part of it, was not run
	Seconds      float64       `json:"seconds"`
	Facts        []FactValue   `json:"facts,omitempty"`
	Measurements []Measurement `json:"measurements,omitempty"`
	Output       []string      `json:"output,omitempty"` // lines
}

// FactValue is something found out that is neither right nor wrong.
type FactValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Plot is how a measurement is drawn.
type Plot string

// The plots. A single value is only said.
const (
	Distribution Plot = "distribution" // how often which value
	Series       Plot = "series"       // value by value, in their order
)

// Measurement is values of one quantity, in the order in which they were taken.
type Measurement struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"` // "ms", "bytes"
	Plot   Plot      `json:"plot,omitempty"`
	Values []float64 `json:"values"`
	// Stats is filled in by the Collector.
	Stats Stats `json:"stats"`
}

// Stats sums a measurement up. Quantiles are values that were measured (nearest
// rank).
type Stats struct {
	Count int     `json:"count"`
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func statsOf(values []float64) Stats {
	if len(values) == 0 {
		return Stats{}
	}
	sorted := slices.Sorted(slices.Values(values))
	quantile := func(q float64) float64 {
		rank := int(math.Ceil(q * float64(len(sorted))))
		return sorted[max(rank, 1)-1]
	}
	return Stats{
		Count: len(sorted), Min: sorted[0], Max: sorted[len(sorted)-1],
		P50: quantile(0.5), P90: quantile(0.9), P99: quantile(0.99),
	}
}

// Groups are the names of the cases' groups in their order.
func (s *Suite) Groups() []string {
	var groups []string
	for _, c := range s.Cases {
		if !slices.Contains(groups, c.Group) {
			groups = append(groups, c.Group)
		}
	}
	return groups
}

func (s *Suite) in(group string) []Case {
	var cases []Case
	for _, c := range s.Cases {
		if c.Group == group {
			cases = append(cases, c)
		}
	}
	return cases
}

func totals(cases []Case) Totals {
	var n Totals
	for _, c := range cases {
		switch c.Outcome {
		case Passed:
			n.Passed++
		case Failed:
			n.Failed++
		default:
			n.NotRun++
		}
	}
	return n
}

func (n Totals) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d not run", n.Passed, n.Failed, n.NotRun)
}

// Write writes the three reports into a directory, which it makes: junit.xml,
// report.json and report.html.
func Write(dir string, s *Suite) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer, *Suite) error{
		"junit.xml": WriteJUnit, "report.json": WriteJSON, "report.html": WriteHTML,
	} {
		var b bytes.Buffer
		if err := write(&b, s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
