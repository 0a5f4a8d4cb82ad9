package report

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Bounds of what a test binary's output may hold.
const (
	maxLine  = 4 << 20 // bytes; what is longer is cut
	maxLines = 2000    // of one case's output; the rest is counted alone
)

// mark begins a framing line (cmd/internal/test2json).
const mark = 0x16

// Event is what happened in a run: a test began or ended, or a person is asked
// to do something.
type Event struct {
	Test   string // path
	Title  string // of the nearest test that has one
	Began  bool
	Ended  bool
	Result Case   // where Ended; its measurements and output as they are so far
	Below  Totals // where Ended: of the cases below the test
	Prompt string // where a person is asked
}

// Collector makes a Suite of the framed output that is written to it. It serves
// one goroutine.
type Collector struct {
	// OnEvent, where it is not nil, is called for each Event as it happens.
	OnEvent func(Event)

	suite   Suite
	root    string // the test whose subtests are the groups
	now     func() time.Time
	tests   []*test
	byName  map[string]*test
	current *test // whom output belongs to
	buf     []byte
	overrun bool // the rest of a line that is too long is being dropped
}

type test struct {
	Case
	path      string
	title     string
	began     time.Time
	ended     bool
	children  int
	failedSub bool
	omitted   []omission
	dropped   int // lines
}

// NewCollector collects the subtests of the test of that name.
func NewCollector(bench string, host Host, root string) *Collector {
	return newCollector(bench, host, root, time.Now)
}

func newCollector(bench string, host Host, root string, now func() time.Time) *Collector {
	return &Collector{
		suite: Suite{Schema: Schema, Bench: bench, Host: host, Started: now().UTC().Truncate(time.Millisecond)},
		root:  root, now: now, byName: map[string]*test{},
	}
}

// Write takes output; it never fails.
func (c *Collector) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if !c.overrun {
			c.buf = append(c.buf, part...)
			if len(c.buf) > maxLine {
				c.buf, c.overrun = c.buf[:maxLine], true
			}
		}
		if i < 0 {
			break
		}
		c.line()
		p = p[i+1:]
	}
	return n, nil
}

// line handles one whole line. A mark begins framing in mid-line too, where a
// test printed without a newline.
func (c *Collector) line() {
	line := strings.TrimSuffix(string(c.buf), "\r")
	c.buf, c.overrun = c.buf[:0], false
	text, framing, framed := strings.Cut(line, string(rune(mark)))
	if text != "" || !framed {
		c.output(text)
	}
	if framed {
		c.frame(framing)
	}
}

func (c *Collector) frame(s string) {
	kind, rest, ok := strings.Cut(strings.TrimLeft(s, " "), " ")
	if !ok || kind != "===" && kind != "---" {
		return // PASS, FAIL: the exit status says it
	}
	verb, rest, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case kind == "===" && verb == "RUN":
		c.begin(rest)
	case kind == "===" && (verb == "NAME" || verb == "CONT" || verb == "PAUSE"):
		c.current = c.byName[rest]
	case kind == "===" && verb == "ATTR":
		name, pair, _ := strings.Cut(rest, " ")
		key, value, _ := strings.Cut(pair, " ")
		if t := c.byName[name]; t != nil {
			c.attribute(t, key, value)
		}
	case kind == "---":
		name, _, _ := strings.Cut(rest, " ")
		if t := c.byName[name]; t != nil {
			c.end(t, strings.TrimSuffix(verb, ":"))
		}
	}
}

func (c *Collector) begin(path string) {
	if c.byName[path] != nil {
		return
	}
	t := &test{path: path, began: c.now()}
	t.Group, t.Name = c.place(path)
	c.tests = append(c.tests, t)
	c.byName[path] = t
	c.current = t
	if p := c.parent(t); p != nil {
		p.children++
	}
	c.tell(Event{Test: path, Title: c.title(t), Began: true})
}

// place says which group a test is in and what it is called there.
func (c *Collector) place(path string) (group, name string) {
	below, ok := strings.CutPrefix(path, c.root+"/")
	if !ok {
		return "", path
	}
	group, name, _ = strings.Cut(below, "/")
	return group, name
}

func (c *Collector) parent(t *test) *test {
	i := strings.LastIndexByte(t.path, '/')
	if i < 0 {
		return nil
	}
	return c.byName[t.path[:i]]
}

func (c *Collector) title(t *test) string {
	for ; t != nil; t = c.parent(t) {
		if t.title != "" {
			return t.title
		}
	}
	return ""
}

func (c *Collector) attribute(t *test, key, value string) {
	var err error
	b := []byte(value)
	switch key {
	case keyTitle:
		err = json.Unmarshal(b, &t.title)
		t.title = clean(t.title)
	case keyFact:
		var f FactValue
		if err = json.Unmarshal(b, &f); err == nil {
			t.Facts = append(t.Facts, FactValue{clean(f.Name), clean(f.Value)})
		}
	case keyMeasurement:
		var m Measurement
		if err = json.Unmarshal(b, &m); err == nil {
			m.Name, m.Unit, m.Stats = clean(m.Name), clean(m.Unit), statsOf(m.Values)
			t.Measurements = append(t.Measurements, m)
		}
	case keyNotRun:
		var reason string
		if err = json.Unmarshal(b, &reason); err == nil {
			t.Reasons = append(t.Reasons, clean(reason))
			t.Outcome = NotRun
		}
	case keyOmitted:
		var o omission
		if err = json.Unmarshal(b, &o); err == nil {
			t.omitted = append(t.omitted, omission{o.Test, clean(o.Reason), o.InPart})
		}
	case keyPrompt:
		var prompt string
		if err = json.Unmarshal(b, &prompt); err == nil {
			c.tell(Event{Test: t.path, Title: c.title(t), Prompt: clean(prompt)})
		}
	default:
		t.Facts = append(t.Facts, FactValue{clean(key), clean(value)}) // some other test's attribute
	}
	if err != nil {
		c.output("attribute " + key + " is not what it should be: " + err.Error())
	}
}

func (c *Collector) end(t *test, verdict string) {
	if t.ended {
		return
	}
	t.ended = true
	t.Seconds = seconds(c.now().Sub(t.began))
	for _, o := range t.omitted {
		c.omit(t, o)
	}
	switch {
	case verdict == "FAIL":
		t.Outcome = Failed
		if p := c.parent(t); p != nil {
			p.failedSub = true
		}
	case verdict == "SKIP":
		t.Outcome = NotRun
	case t.Outcome == "":
		t.Outcome = Passed
	}
	c.current = t
	c.tell(Event{Test: t.path, Title: c.title(t), Ended: true, Result: t.Case, Below: c.below(t)})
}

// below counts the cases below a test.
func (c *Collector) below(t *test) Totals {
	var cases []Case
	for _, sub := range c.tests {
		if strings.HasPrefix(sub.path, t.path+"/") && sub.isCase() {
			cases = append(cases, sub.Case)
		}
	}
	return totals(cases)
}

// omit notes what a test says of one below it, which has ended before.
func (c *Collector) omit(t *test, o omission) {
	sub := c.byName[t.path+"/"+o.Test]
	if sub == nil {
		c.begin(t.path + "/" + o.Test)
		sub = c.byName[t.path+"/"+o.Test]
		sub.ended = true
	}
	if !slices.Contains(sub.Reasons, o.Reason) {
		sub.Reasons = append(sub.Reasons, o.Reason)
	}
	if !o.InPart && sub.Outcome != Failed {
		sub.Outcome = NotRun
	}
}

func (c *Collector) output(line string) {
	line = clean(line)
	if c.current == nil {
		if len(c.suite.Output) < maxLines && line != "" {
			c.suite.Output = append(c.suite.Output, line)
		}
		return
	}
	if len(c.current.Output) < maxLines {
		c.current.Output = append(c.current.Output, line)
	} else {
		c.current.dropped++
	}
}

func (c *Collector) tell(e Event) {
	if c.OnEvent != nil {
		c.OnEvent(e)
	}
}

// Finish ends the run and gives its Suite. Tests that have not ended failed:
// what ran them ended first.
func (c *Collector) Finish() *Suite {
	if len(c.buf) > 0 {
		c.line()
	}
	s := c.suite
	s.Seconds = seconds(c.now().Sub(s.Started))
	for _, t := range slices.Backward(c.tests) { // the innermost first
		if !t.ended {
			t.Output = append(t.Output, "the test did not end: the program that ran it ended first")
			c.end(t, "FAIL")
		}
	}
	s.Cases = []Case{}
	for _, t := range c.tests {
		if !t.isCase() {
			continue
		}
		if group := c.byName[c.root+"/"+t.Group]; group != nil && group.title != "" {
			t.Group = group.title
		}
		if t.Name == "" {
			t.Name = "all"
		}
		if t.dropped > 0 {
			t.Output = append(t.Output, "… and more: the rest was not kept")
		}
		s.Cases = append(s.Cases, t.Case)
	}
	s.Totals = totals(s.Cases)
	return &s
}

// isCase reports whether a test says something of its own: it has no subtests,
// or failed though they did not, or found something out.
func (t *test) isCase() bool {
	return t.children == 0 || t.Outcome == Failed && !t.failedSub || t.Outcome == NotRun ||
		len(t.Facts) > 0 || len(t.Measurements) > 0
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// clean is s without what would confuse a terminal or a reader of the reports:
// cards and readers call themselves what they like.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
