package explain

import (
	"fmt"
	"time"
)

const (
	maxPoints  = 400 // exchanges that a timeline draws one by one
	maxBuckets = 500
	width      = 1000.0 // of the drawing
	laneHeight = 14
)

// point is one exchange of a timeline.
type point struct {
	at, took time.Duration
	channel  int
	row      int // where it is on the page; 0 where it is not
	level    Level
	title    string
}

// timeline is what a session's exchanges look like over time, in bounded memory:
// each where they are few, counts in equal steps where they are many.
type timeline struct {
	points        []point
	n, note, bad  int
	end           time.Duration
	byTime, byAge buckets // over time; over the exchanges' numbers, where they have no times
}

func newTimeline() *timeline {
	return &timeline{byTime: buckets{step: int64(time.Millisecond)}, byAge: buckets{step: 1}}
}

func (t *timeline) add(p point) {
	if t.n++; p.level == Bad {
		t.bad++
	} else if p.level == Note {
		t.note++
	}
	t.end = max(t.end, p.at+p.took)
	if len(t.points) < maxPoints {
		t.points = append(t.points, p)
	}
	t.byTime.add(int64(p.at), p.level)
	t.byAge.add(int64(t.n-1), p.level)
}

// buckets counts in steps, which double whenever they do not reach.
type buckets struct {
	step   int64
	counts []counts
}

type counts struct{ n, note, bad int }

func (b *buckets) add(at int64, l Level) {
	for at/b.step >= maxBuckets {
		b.step *= 2
		half := b.counts[:0]
		for i := 0; i < len(b.counts); i += 2 {
			c := b.counts[i]
			if i+1 < len(b.counts) {
				d := b.counts[i+1]
				c = counts{c.n + d.n, c.note + d.note, c.bad + d.bad}
			}
			half = append(half, c)
		}
		b.counts = half
	}
	i := int(at / b.step)
	for len(b.counts) <= i {
		b.counts = append(b.counts, counts{})
	}
	c := &b.counts[i]
	c.n++
	switch l {
	case Bad:
		c.bad++
	case Note:
		c.note++
	}
}

// drawing is a timeline as rectangles.
type drawing struct {
	Height int
	Rects  []rect
	Lanes  []lane
	From   string
	To     string
}

type rect struct {
	X, Y, W, H string
	Class      string
	Title      string
	Row        int
}

type lane struct {
	Y    int
	Name string
}

func decimal(f float64) string { return fmt.Sprintf("%.2f", f) }

func (t *timeline) draw() drawing {
	if t.n > len(t.points) {
		return t.bars()
	}
	d := drawing{From: "+0 s", To: "+" + t.end.String()}
	lanes := map[int]int{}
	total := float64(t.end)
	if t.end == 0 {
		total = float64(t.n)
		d.From, d.To = "1", fmt.Sprint(t.n)
	}
	for i, p := range t.points {
		y, ok := lanes[p.channel]
		if !ok {
			y = len(lanes) * laneHeight
			lanes[p.channel] = y
			d.Lanes = append(d.Lanes, lane{Y: y + laneHeight - 4, Name: fmt.Sprintf("channel %d", p.channel)})
		}
		x, w := float64(p.at)/total, float64(p.took)/total
		if t.end == 0 {
			x, w = float64(i)/total, 1/total
		}
		title := p.title
		if t.end > 0 {
			title = fmt.Sprintf("+%v %s", p.at, title)
		}
		d.Rects = append(d.Rects, rect{
			X: decimal(x * width), W: decimal(max(w*width-0.5, 1.5)), Y: fmt.Sprint(y + 1), H: fmt.Sprint(laneHeight - 2),
			Class: p.level.String(), Title: title, Row: p.row,
		})
	}
	d.Height = max(len(lanes), 1) * laneHeight
	return d
}

// bars draws the counts: how many, and of these what was refused.
func (t *timeline) bars() drawing {
	const height = 80
	b, name := &t.byTime, func(i int64) string { return "+" + time.Duration(i).String() }
	if t.end == 0 {
		b, name = &t.byAge, func(i int64) string { return fmt.Sprintf("exchange %d", i+1) }
	}
	d := drawing{Height: height, From: name(0), To: name(int64(len(b.counts)) * b.step)}
	most := 1
	for _, c := range b.counts {
		most = max(most, c.n)
	}
	w := width / float64(max(len(b.counts), 1))
	for i, c := range b.counts {
		title := fmt.Sprintf("%s: %d exchanges, %d refused or failed", name(int64(i)*b.step), c.n, c.bad)
		y := float64(height)
		for _, part := range [...]struct {
			n int
			l Level
		}{{c.bad, Bad}, {c.note, Note}, {c.n - c.bad - c.note, Good}} {
			if part.n == 0 {
				continue
			}
			h := float64(part.n) / float64(most) * height
			y -= h
			d.Rects = append(d.Rects, rect{X: decimal(float64(i) * w), W: decimal(w), Y: decimal(y), H: decimal(h), Class: part.l.String(), Title: title})
		}
	}
	return d
}
