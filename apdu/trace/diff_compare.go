package trace

import (
	"bytes"
	"time"
)

// maxFields bounds what is said of one exchange.
const maxFields = 64

// comparison gathers what differs between two exchanges.
type comparison struct {
	rules  *Rules
	fields []Field
	worse  bool // something differs that may not
}

// compare holds b against a, whose freedom counts: where all else agrees b's is
// the same.
func (r *Rules) compare(a, b *item) (Verdict, []Field) {
	c := comparison{rules: r}
	if c.kinds(a, b) {
		c.command(a, b)
		c.answer(a, b)
	}
	switch {
	case c.worse:
		return Different, c.fields
	case len(c.fields) > 0:
		return May, c.fields
	}
	return Same, nil
}

// sameCommand reports whether two exchanges are of the same command but for what
// may differ or is secret, or of the same event.
func (r *Rules) sameCommand(a, b *item) bool {
	if a.key == b.key {
		return true
	}
	if a.x.Command.Kind != Command || b.x.Command.Kind != Command || !maskedAnywhere(a, b) {
		return false
	}
	c := comparison{rules: r}
	c.command(a, b)
	return !c.worse
}

// maskedAnywhere reports whether commands may be the same whose keys are not.
func maskedAnywhere(a, b *item) bool {
	return len(a.x.Command.Mask) > 0 || len(b.x.Command.Mask) > 0
}

func (c *comparison) add(f Field) {
	if f.Rule == "" {
		c.worse = true
	}
	if len(c.fields) < maxFields {
		c.fields = append(c.fields, f)
	}
}

// kinds reports whether there is more to compare than what kinds they are.
func (c *comparison) kinds(a, b *item) bool {
	if a.x.Command.Kind != b.x.Command.Kind {
		c.add(Field{What: "command"})
		return false
	}
	return true
}

func (c *comparison) command(a, b *item) {
	x, y := a.x.Command, b.x.Command
	if x.Kind == 0 {
		return
	}
	if rule := a.command.any; rule != "" && len(x.Data) != len(y.Data) && len(y.Data) >= 4 {
		c.bytes("command", x, y, Span{0, 4}, Span{0, 4}, nil)
		c.add(Field{"command", Span{4, len(x.Data)}, Span{4, len(y.Data)}, rule})
		return
	}
	c.bytes("command", x, y, whole(x), whole(y), a.command.spans)
}

func whole(e Entry) Span { return Span{0, len(e.Data)} }

func (c *comparison) answer(a, b *item) {
	x, y := a.x.Answer, b.x.Answer
	switch {
	case x.Kind != y.Kind:
		c.add(Field{What: "answer", A: whole(x), B: whole(y)})
	case x.Kind == Event:
		c.event(x, y)
	case x.Kind == Response:
		c.response(a, b)
	}
}

func (c *comparison) event(x, y Entry) {
	if x.Name != y.Name {
		c.add(Field{What: "event"})
		return
	}
	if x.Text != y.Text {
		c.add(Field{What: "text", Rule: ruleWords})
	}
	if !bytes.Equal(x.Data, y.Data) {
		f := Field{What: "ATR", A: whole(x), B: whole(y)}
		if c.rules.anyATR {
			f.Rule = ruleATR
		}
		c.add(f)
	}
}

func (c *comparison) response(a, b *item) {
	x, y := a.x.Answer, b.x.Answer
	n, m := len(x.Data)-2, len(y.Data)-2
	if n < 0 || m < 0 {
		c.bytes("response", x, y, whole(x), whole(y), nil)
		return
	}
	if n != m && a.answer.any != "" {
		c.add(Field{"response", Span{0, n}, Span{0, m}, a.answer.any})
	} else {
		c.bytes("response", x, y, Span{0, n}, Span{0, m}, a.answer.spans)
	}
	c.status(x, y, Span{n, n + 2}, Span{m, m + 2}, a.answer.sw)
	c.time(x, y)
}

// status compares status words, as wholes.
func (c *comparison) status(x, y Entry, a, b Span, rule string) {
	same, why := true, ruleRedacted
	for i := range 2 {
		mx, my := x.Masked(a.From+i), y.Masked(b.From+i)
		differs := x.Data[a.From+i] != y.Data[b.From+i]
		same = same && !differs && mx == my
		if differs && !mx && !my {
			why = rule
		}
	}
	if same {
		return
	}
	c.add(Field{"status word", a, b, why})
}

// time holds b's answer to the time that a's took, where the rules say so.
func (c *comparison) time(x, y Entry) {
	t := c.rules.timing
	if t == nil || x.Took == 0 || y.Took == 0 {
		return
	}
	if y.Took > time.Duration(float64(x.Took)*t.factor)+t.slack {
		c.add(Field{What: "time"})
	}
}

// bytes compares x.Data[a] with y.Data[b]. Of different lengths it is one field,
// from the first byte that differs.
func (c *comparison) bytes(what string, x, y Entry, a, b Span, free []allowed) {
	p, q := x.Data[a.From:a.To], y.Data[b.From:b.To]
	if bytes.Equal(p, q) && len(x.Mask)+len(y.Mask) == 0 {
		return
	}
	w := whys{x: x.Mask, y: y.Mask, free: free}
	last := Field{}
	for i := range min(len(p), len(q)) {
		rule, differs := w.at(a.From+i, b.From+i)
		if p[i] != q[i] {
			differs = true
		}
		if !differs || last.What != "" && last.Rule != rule {
			c.flush(&last)
		}
		if !differs {
			continue
		}
		if rule == "" && len(p) != len(q) {
			c.add(Field{What: what, A: Span{a.From + i, a.To}, B: Span{b.From + i, b.To}})
			return
		}
		if last.What == "" {
			last = Field{what, Span{From: a.From + i}, Span{From: b.From + i}, rule}
		}
		last.A.To, last.B.To = a.From+i+1, b.From+i+1
	}
	c.flush(&last)
	if n := min(len(p), len(q)); len(p) != len(q) {
		c.add(Field{What: what, A: Span{a.From + n, a.To}, B: Span{b.From + n, b.To}})
	}
}

// flush adds a field that is complete.
func (c *comparison) flush(f *Field) {
	if f.What != "" {
		c.add(*f)
	}
	*f = Field{}
}

// whys finds what lets bytes differ, byte after byte: its spans are ascending.
type whys struct {
	x, y []Span // what is redacted
	free []allowed
}

// at is the rule that lets byte i of the one side and j of the other differ, and
// whether they do for being redacted on one side alone. i and j never go back.
func (w *whys) at(i, j int) (rule string, differs bool) {
	for len(w.x) > 0 && w.x[0].To <= i {
		w.x = w.x[1:]
	}
	for len(w.y) > 0 && w.y[0].To <= j {
		w.y = w.y[1:]
	}
	for len(w.free) > 0 && w.free[0].To <= i {
		w.free = w.free[1:]
	}
	mx := len(w.x) > 0 && w.x[0].From <= i
	my := len(w.y) > 0 && w.y[0].From <= j
	switch {
	case mx || my:
		return ruleRedacted, mx != my
	case len(w.free) > 0 && w.free[0].From <= i:
		return w.free[0].rule, false
	}
	return "", false
}
