package hwtest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"github.com/cardbridge/cardbridge/hwtest/report"
)

// progress shows a person how a run goes: a line for each check of a reader, in
// colour in a terminal, with what runs now below.
type progress struct {
	out    io.Writer
	colour bool // and a last line that changes
	width  int
	group  string
	now    bool // that line is there
}

func newProgress(f *os.File) *progress {
	p := &progress{out: f, width: 80}
	if term.IsTerminal(int(f.Fd())) {
		p.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			p.width = w
		}
	}
	return p
}

const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p *progress) paint(colour, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (p *progress) line(format string, args ...any) {
	p.erase()
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) erase() {
	if p.now {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.now = false
	}
}

// running shows what runs now.
func (p *progress) running(what string) {
	if !p.colour {
		return
	}
	p.erase()
	if r := []rune("  … " + what); len(r) < p.width {
		fmt.Fprint(p.out, string(r))
	} else {
		fmt.Fprint(p.out, string(r[:p.width-1]))
	}
	p.now = true
}

func (p *progress) begin(bench string) { p.line("hardware bench: %s", bench) }

// event is a Collector's OnEvent.
func (p *progress) event(e report.Event) {
	group, check, ok := strings.Cut(strings.TrimPrefix(e.Test, root+"/"), "/")
	if !ok && e.Ended && e.Result.Outcome == report.Failed && e.Below.Failed == 0 {
		p.line("%s", p.paint(red, "failed")) // as a whole, before there was a check
		p.output(e.Result)
	}
	if !ok && (e.Result.Outcome != report.NotRun || !e.Ended) {
		return // the bench, or a reader as a whole
	}
	if e.Title != "" {
		group = e.Title
	}
	if group != p.group {
		p.group = group
		p.line("%s", p.paint(bold, group))
	}
	below := strings.Contains(check, "/")
	switch {
	case e.Prompt != "":
		p.line("  %s", p.paint(yellow+";"+bold, "▶ please "+e.Prompt))
		if p.colour {
			fmt.Fprint(p.out, "\a")
		}
	case e.Began:
		p.running(check)
	case e.Ended && below && e.Result.Outcome == report.Failed:
		p.line("    %s  %s", p.paint(red, "failed"), check)
		p.output(e.Result)
	case e.Ended && !below:
		p.check(check, e)
	}
}

// check shows a check that has ended.
func (p *progress) check(name string, e report.Event) {
	r := e.Result
	colour := map[report.Outcome]string{report.Passed: green, report.Failed: red, report.NotRun: yellow}[r.Outcome]
	says := []string{}
	switch n := e.Below; {
	case r.Outcome == report.NotRun:
		says = r.Reasons
	case n != (report.Totals{}):
		says = append(says, n.String())
	}
	for _, m := range r.Measurements {
		if m.Stats.Count == 1 {
			says = append(says, fmt.Sprintf("%s %.6g %s", m.Name, m.Stats.P50, m.Unit))
		} else {
			says = append(says, fmt.Sprintf("%s p50 %.3g, p99 %.3g, max %.3g %s (n = %d)", m.Name, m.Stats.P50, m.Stats.P99, m.Stats.Max, m.Unit, m.Stats.Count))
		}
	}
	if name == "" {
		name = "all"
	}
	p.line("  %s  %-17s %s", p.paint(colour, fmt.Sprintf("%-7s", r.Outcome)), name, strings.Join(says, "; "))
	if r.Outcome == report.Failed {
		p.output(r)
	}
}

// output shows the beginning of what a failed check said.
func (p *progress) output(r report.Case) {
	const most = 12 // lines
	for i, l := range r.Output {
		if i == most {
			p.line("      … (%d lines more in the report)", len(r.Output)-most)
			return
		}
		if strings.TrimSpace(l) != "" {
			p.line("      %s", strings.TrimRight(l, " "))
		}
	}
}

func (p *progress) finish(s *report.Suite, dir string) {
	p.erase()
	colour := green
	if s.Totals.Failed > 0 || len(s.Cases) == 0 {
		colour = red
	}
	p.line("%s in %.1f s", p.paint(colour, s.Totals.String()), s.Seconds)
	for _, l := range s.Output {
		p.line("  %s", l)
	}
	for _, name := range []string{"report.html", "report.json", "junit.xml"} {
		p.line("  %s", filepath.Join(dir, name))
	}
}
