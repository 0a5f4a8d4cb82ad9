package rules

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the same zones on every machine

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// window is a span of the day, on some days of the week, by the wall clock of a
// zone: an hour that the clock goes through twice is in it twice, one that it
// leaves out is not there.
type window struct {
	days       [7]bool // on which it opens, by time.Weekday
	start, end int     // minutes of the day; where end is not after start it is the next day's
	zone       *time.Location
}

// windows are windows by their text.
type windows map[string]*window

var weekdays = [7]string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// add parses one, a text.
func (w windows) add(text ref.Val) error {
	s, ok := text.(types.String)
	if !ok || w[string(s)] != nil {
		return nil // what is no text the types have refused
	}
	span, err := parseWindow(string(s))
	if err == nil {
		w[string(s)] = span
	}
	return err
}

const windowForm = `wanted is such as "Mon-Fri 22:00-04:00 Europe/Berlin" or "Sat,Sun 00:00-24:00 UTC"`

// parseWindow parses days, times and zone: Mon-Fri 22:00-04:00 Europe/Berlin.
// Days may be a list of days and spans, or be left out for every day.
func parseWindow(text string) (*window, error) {
	f := strings.Fields(text)
	if len(f) == 2 {
		f = append([]string{"Sun-Sat"}, f...)
	}
	if len(f) != 3 {
		return nil, fmt.Errorf("window %.60q: %s", text, windowForm)
	}
	w := &window{}
	for span := range strings.SplitSeq(f[0], ",") {
		first, last, isSpan := strings.Cut(span, "-")
		if !isSpan {
			last = first
		}
		from, to := weekday(first), weekday(last)
		if from < 0 || to < 0 {
			return nil, fmt.Errorf("window %.60q: days %.20q; %s", text, span, windowForm)
		}
		for d := from; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == to {
				break
			}
		}
	}
	start, end, _ := strings.Cut(f[1], "-")
	var ok1, ok2 bool
	w.start, ok1 = minutes(start)
	w.end, ok2 = minutes(end)
	if !ok1 || !ok2 || w.start == 24*60 || w.start == w.end {
		return nil, fmt.Errorf("window %.60q: times %.20q; %s", text, f[1], windowForm)
	}
	if f[2] == "Local" {
		return nil, fmt.Errorf("window %.60q: the zone of whatever machine this is; name one", text)
	}
	var err error
	if w.zone, err = time.LoadLocation(f[2]); err != nil {
		return nil, fmt.Errorf("window %.60q: time zone %.40q is not known", text, f[2])
	}
	return w, nil
}

func weekday(name string) int {
	for i, d := range weekdays {
		if strings.EqualFold(d, name) {
			return i
		}
	}
	return -1
}

// minutes parses HH:MM, up to 24:00.
func minutes(s string) (int, bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	h, err1 := strconv.ParseUint(s[:2], 10, 8)
	m, err2 := strconv.ParseUint(s[3:], 10, 8)
	n := int(h*60 + m)
	return n, err1 == nil && err2 == nil && m < 60 && n <= 24*60
}

func (w *window) contains(t time.Time) bool {
	t = t.In(w.zone)
	h, m, _ := t.Clock()
	at, today := h*60+m, t.Weekday()
	if w.start < w.end {
		return w.days[today] && w.start <= at && at < w.end
	}
	return w.days[today] && w.start <= at || w.days[(today+6)%7] && at < w.end
}
