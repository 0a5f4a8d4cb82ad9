package trace

import (
	"fmt"
	"strings"
)

// maxShown is how many bytes of an APDU are shown of one that differs elsewhere
// too, at either end.
const maxShown = 24

// String is the difference in lines: where it is, the command, both answers, and
// what is unlike.
func (d Difference) String() string {
	var b strings.Builder
	switch d.Verdict {
	case Missing:
		fmt.Fprintf(&b, "%s: missing\n", place(&d.A))
	case Extra:
		fmt.Fprintf(&b, "%s: extra\n", place(&d.B))
	case Skipped:
		fmt.Fprintf(&b, "%s: skipped, for it is redacted or nothing to send\n", place(&d.A))
	default:
		fmt.Fprintf(&b, "%s, %s: %s\n", place(&d.A), place(&d.B), d.Verdict)
	}
	d.entries(&b, d.A.Command, d.B.Command)
	d.entries(&b, d.A.Answer, d.B.Answer)
	for _, f := range d.Fields {
		d.field(&b, f)
	}
	return b.String()
}

func place(x *Exchange) string {
	switch line := x.Line(); {
	case x.Session == 0:
		return "now"
	case line == 0:
		return fmt.Sprintf("session %d", x.Session)
	default:
		return fmt.Sprintf("line %d", line)
	}
}

// entries shows one entry of either side, once where both are alike.
func (d *Difference) entries(b *strings.Builder, x, y Entry) {
	first, second := shorten(x), shorten(y)
	switch {
	case d.Verdict == Missing || d.Verdict == Skipped:
		second = ""
	case d.Verdict == Extra:
		first = ""
	case first == second && !d.unlike(x, y):
		if first != "" {
			fmt.Fprintf(b, "    %s\n", first)
		}
		return
	}
	if first != "" {
		fmt.Fprintf(b, "  - %s\n", first)
	}
	if second != "" {
		fmt.Fprintf(b, "  + %s\n", second)
	}
}

// unlike reports whether a field is about these entries.
func (d *Difference) unlike(x, y Entry) bool {
	return string(x.Data) != string(y.Data) || x.Text != y.Text || x.Name != y.Name
}

// shorten is an entry as its line has it, without times, the middle left out
// where it is long.
func shorten(e Entry) string {
	if e.Kind == 0 {
		return ""
	}
	b := []byte{byte(e.Kind), ' '}
	if e.Kind == Event {
		b = append(append(append(b, e.Name...), ' '), clean(e.Text)...)
	}
	n := len(e.Data)
	if n <= 2*maxShown+2 {
		return strings.TrimSpace(string(appendHex(b, e.Data, e.Mask)))
	}
	b = appendSpan(b, e, Span{0, maxShown})
	b = append(b, '.', '.')
	b = appendSpan(b, e, Span{n - maxShown, n})
	return fmt.Sprintf("%s (%d bytes)", b, n)
}

// appendSpan is bytes of an entry, masked ones as **.
func appendSpan(b []byte, e Entry, s Span) []byte {
	var mask []Span
	for _, m := range e.Mask {
		if m.To > s.From && m.From < s.To {
			mask = append(mask, Span{m.From - s.From, m.To - s.From})
		}
	}
	return appendHex(b, e.Data[s.From:s.To], mask)
}

func (d *Difference) field(b *strings.Builder, f Field) {
	x, y := d.A.Answer, d.B.Answer
	if f.What == "command" {
		x, y = d.A.Command, d.B.Command
	}
	fmt.Fprintf(b, "      %s", f.What)
	switch f.What {
	case "time":
		fmt.Fprintf(b, ": %s, then %s", x.Took, y.Took)
	case "text", "event", "answer":
	case "ATR", "status word":
		fmt.Fprintf(b, ": %s, then %s", d.bytes(x, f.A), d.bytes(y, f.B))
	default:
		fmt.Fprintf(b, " %s: %s, then %s", f.A.words(), d.bytes(x, f.A), d.bytes(y, f.B))
	}
	if f.Rule != "" {
		fmt.Fprintf(b, " (may: %s)", f.Rule)
	}
	b.WriteByte('\n')
}

// words is where a span is.
func (s Span) words() string {
	if s.To <= s.From+1 {
		return fmt.Sprintf("byte %d", s.From)
	}
	return fmt.Sprintf("bytes %d-%d", s.From, s.To-1)
}

// bytes are a field's.
func (d *Difference) bytes(e Entry, s Span) string {
	switch n := min(s.To, len(e.Data)) - s.From; {
	case n <= 0:
		return "none"
	case n > maxShown:
		return fmt.Sprintf("%s.. (%d bytes)", appendSpan(nil, e, Span{s.From, s.From + maxShown}), n)
	}
	return string(appendSpan(nil, e, s))
}

// Content is the entry's data in hexadecimal, masked bytes as **; what an event
// says where it has no data.
func (e Entry) Content() string {
	if len(e.Data) == 0 {
		return clean(e.Text)
	}
	return string(appendHex(nil, e.Data, e.Mask))
}
