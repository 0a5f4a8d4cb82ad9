package report

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// Sizes of a plot in its own units.
const (
	plotWidth  = 640
	plotHeight = 180
	left       = 56 // room for the labels of the axes
	right      = 12
	top        = 18
	bottom     = 26
	bars       = 48
)

// number is x with at most four significant digits, as people write it.
func number(x float64) string {
	if math.Abs(x) >= 1000 || x == math.Trunc(x) {
		return strconv.FormatFloat(math.Round(x), 'f', -1, 64)
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}

// svg draws a measurement; "" where it is one value. All text in it is numbers,
// or escaped.
func svg(m Measurement) template.HTML {
	if len(m.Values) < 2 {
		return ""
	}
	var p painter
	label := fmt.Sprintf("%s in %s, %d values: p50 %s, p90 %s, p99 %s, max %s", m.Name, m.Unit, m.Stats.Count,
		number(m.Stats.P50), number(m.Stats.P90), number(m.Stats.P99), number(m.Stats.Max))
	p.add(`<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, plotWidth, plotHeight, template.HTMLEscapeString(label))
	if m.Plot == Series {
		p.series(m)
	} else {
		p.distribution(m)
	}
	p.add(`</svg>`)
	return template.HTML(p.b.String())
}

type painter struct{ b strings.Builder }

func (p *painter) add(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

const (
	x0, x1 = left, plotWidth - right
	y0, y1 = plotHeight - bottom, top
)

// between maps v in [lo, hi] to [a, b].
func between(v, lo, hi, a, b float64) float64 {
	if hi <= lo {
		return (a + b) / 2
	}
	return a + (v-lo)/(hi-lo)*(b-a)
}

func (p *painter) text(x, y float64, anchor, s string) {
	p.add(`<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, template.HTMLEscapeString(s))
}

func (p *painter) axes() {
	p.add(`<path class="axis" d="M%d %dV%dH%d"/>`, x0, y1, y0, x1)
}

// distribution draws how often which value was measured. The last bar is all
// that is far beyond p90, so that outliers do not flatten the rest.
func (p *painter) distribution(m Measurement) {
	s := m.Stats
	lo, hi := s.Min, min(s.P99, s.Min+3*(s.P90-s.Min))
	if hi <= lo {
		hi = s.Max
	}
	if hi <= lo {
		lo, hi = lo-1, hi+1
	}
	var counts [bars + 1]int
	most := 0
	for _, v := range m.Values {
		i := min(int(between(v, lo, hi, 0, bars)), bars)
		if v == hi {
			i = bars - 1
		}
		counts[i]++
		most = max(most, counts[i])
	}
	width := float64(x1-x0) / (bars + 1)
	p.axes()
	for i, n := range counts {
		if n == 0 {
			continue
		}
		class := "bar"
		if i == bars {
			class = "bar tail"
		}
		y := between(float64(n), 0, float64(most), y0, y1)
		p.add(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, class, x0+float64(i)*width, y, width-1, y0-y)
	}
	p.text(x0-6, y1+4, "end", strconv.Itoa(most))
	p.text(x0-6, y0, "end", "0")
	p.text(x0, y0+18, "start", number(lo)+" "+m.Unit)
	p.text(x0+bars*width, y0+18, "end", number(hi)+" "+m.Unit)
	if counts[bars] > 0 {
		p.text(x1, y1-6, "end", fmt.Sprintf("beyond: %d, max %s %s", counts[bars], number(s.Max), m.Unit))
	}
	for i, q := range []namedValue{{"p50", s.P50}, {"p90", s.P90}} {
		x := between(q.value, lo, hi, x0, x0+bars*width)
		p.add(`<path class="mark" d="M%.1f %dV%d"/>`, x, y0, y1)
		p.text(x+3, float64(y1+8+12*i), "start", q.name) // one below the other: they may be close
	}
}

// series draws value by value, from 0 up.
func (p *painter) series(m Measurement) {
	hi := m.Stats.Max
	if hi <= 0 {
		hi = 1
	}
	p.axes()
	p.add(`<polyline class="line" points="`)
	for i, v := range m.Values {
		p.add("%.1f,%.1f ", between(float64(i), 0, float64(len(m.Values)-1), x0, x1), between(max(v, 0), 0, hi, y0, y1))
	}
	p.add(`"/>`)
	y := between(max(m.Stats.P50, 0), 0, hi, y0, y1)
	p.add(`<path class="mark" d="M%d %.1fH%d"/>`, x0, y, x1)
	p.text(x1, y-3, "end", "p50 "+number(m.Stats.P50)+" "+m.Unit)
	p.text(x0-6, y1+4, "end", number(hi))
	p.text(x0-6, y0, "end", "0")
	p.text(x0, y0+18, "start", "1")
	p.text(x1, y0+18, "end", strconv.Itoa(len(m.Values)))
}
