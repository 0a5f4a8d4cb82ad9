package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/interchange"
)

// Bounds of a trace that is a card: it is kept in memory.
const (
	maxEntries = 1 << 20
	maxBytes   = 256 << 20
)

// traceCard makes a card of a trace, all its sessions after each other. What it
// leaves out and what the card does not know it tells on standard error.
func traceCard(o options, stderr io.Writer) (*trace.Card, error) {
	opts := []trace.CardOption{trace.OnMiss(func(m trace.Miss) { fmt.Fprintln(stderr, "no answer in the trace:", m) })}
	if o.bestMatch {
		opts = append(opts, trace.BestMatch())
	}
	if o.rules != "" {
		rules, err := readRules(o.rules)
		if err != nil {
			return nil, err
		}
		opts = append(opts, trace.WithRules(rules))
	}
	t, err := readTrace(o.trace, stderr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.trace, err)
	}
	return trace.NewCard(t, opts...), nil
}

func readRules(path string) (*trace.Rules, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rules, err := trace.ParseRules(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rules, nil
}

func readTrace(path string, stderr io.Writer) (*trace.Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, _, err := interchange.Open(f, func(w interchange.Warning) { fmt.Fprintf(stderr, "%s: %s\n", path, w) })
	if err != nil {
		return nil, err
	}
	all := &joined{}
	if err := trace.Copy(all, src); err != nil {
		return nil, err
	}
	if all.commands == 0 {
		return nil, fmt.Errorf("%w: there is no command in the trace", errUsage)
	}
	return &all.Trace, nil
}

// joined is a Sink that keeps all sessions as one.
type joined struct {
	trace.Trace
	commands, bytes int
}

func (j *joined) Begin(h trace.Header) error {
	j.Header = h
	return nil
}

func (j *joined) Write(e trace.Entry) error {
	if e.Kind == trace.Command {
		j.commands++
	}
	if j.bytes += len(e.Data); len(j.Entries) == maxEntries || j.bytes > maxBytes {
		return errors.New("the trace is too long to be a card: 1,048,576 entries and 256 MiB at most")
	}
	e.Data, e.Mask = bytes.Clone(e.Data), slices.Clone(e.Mask)
	j.Entries = append(j.Entries, e)
	return nil
}

func (j *joined) Close() error { return nil }
