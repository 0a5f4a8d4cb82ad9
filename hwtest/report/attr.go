package report

import (
	"encoding/json"
	"fmt"
	"strings"
)

// A T is told attributes; every testing.TB is one.
type T interface{ Attr(key, value string) }

// Keys of the attributes. Their values are JSON, and so one line whatever they
// hold.
const (
	keyTitle       = "cardbridge-title"
	keyFact        = "cardbridge-fact"
	keyMeasurement = "cardbridge-measurement"
	keyNotRun      = "cardbridge-not-run"
	keyOmitted     = "cardbridge-omitted"
	keyPrompt      = "cardbridge-prompt"
)

func attr(t T, key string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("report: %s: %v", key, err)) // numbers that are none: a test's mistake
	}
	t.Attr(key, string(b))
}

// Title names what a test and those below it are about, as people know it.
func Title(t T, title string) { attr(t, keyTitle, title) }

// Fact notes something found out.
func Fact(t T, name, format string, args ...any) {
	attr(t, keyFact, FactValue{name, fmt.Sprintf(format, args...)})
}

// Measure notes a measurement. Its values must be finite.
func Measure(t T, m Measurement) { attr(t, keyMeasurement, m) }

// Omit says why a test did not do what it is for, where that is no failure.
func Omit(t T, format string, args ...any) { attr(t, keyNotRun, fmt.Sprintf(format, args...)) }

// OmitSubtest says why a test below t, by its name there, was not run, or, where
// inPart is set, which part of it was not.
func OmitSubtest(t T, name, reason string, inPart bool) {
	attr(t, keyOmitted, omission{strings.ReplaceAll(name, " ", "_"), reason, inPart})
}

type omission struct {
	Test   string `json:"test"`
	Reason string `json:"reason"`
	InPart bool   `json:"in_part"`
}

// Prompt asks the person at the bench to do something now.
func Prompt(t T, format string, args ...any) { attr(t, keyPrompt, fmt.Sprintf(format, args...)) }
