package report

import (
	_ "embed"
	"html/template"
	"io"
	"strings"
	"time"
)

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"svg":    svg,
	"number": number,
	"class":  func(o Outcome) string { return strings.ReplaceAll(string(o), " ", "-") },
	"lines":  func(l []string) string { return strings.Join(l, "\n") },
	"took":   took,
	"bench":  orBench,
	"words":  func(name string) string { return strings.ReplaceAll(name, "_", " ") }, // as the test was called
	"utc":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
}).Parse(pageSource))

func took(s float64) string {
	switch {
	case s < 1:
		return number(s*1000) + " ms"
	case s < 120:
		return number(s) + " s"
	}
	return number(s/60) + " min"
}

type pageGroup struct {
	Name   string
	Totals Totals
	Blocks []pageBlock
}

// pageBlock is cases that are shown one by one or, where they are the many parts
// of one check, folded under its name.
type pageBlock struct {
	Folded string // name of the check; "" where the cases are not folded
	Totals Totals
	Cases  []Case
}

const manyParts = 8 // of one check: more are folded

func blocks(cases []Case) []pageBlock {
	parts := map[string]int{}
	for _, c := range cases {
		if check, _, part := strings.Cut(c.Name, "/"); part {
			parts[check]++
		}
	}
	var out []pageBlock
	for _, c := range cases {
		check, _, part := strings.Cut(c.Name, "/")
		if !part || parts[check] <= manyParts {
			check = ""
		}
		if n := len(out); n == 0 || out[n-1].Folded != check {
			out = append(out, pageBlock{Folded: check})
		}
		last := &out[len(out)-1]
		last.Cases = append(last.Cases, c)
		last.Totals = totals(last.Cases)
	}
	return out
}

// WriteHTML writes the suite as one page that needs nothing beside it: no
// scripts, no fonts, no pictures.
func WriteHTML(w io.Writer, s *Suite) error {
	data := struct {
		*Suite
		PageGroups []pageGroup
	}{Suite: s}
	for _, g := range s.Groups() {
		cases := s.in(g)
		data.PageGroups = append(data.PageGroups, pageGroup{g, totals(cases), blocks(cases)})
	}
	return page.Execute(w, data)
}
