package interchange

import (
	"strings"
	"time"
	"unicode"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

const (
	upperHex = "0123456789ABCDEF"
	maxText  = 200 // bytes of a header's or an event's text, as docs/trace.md has it
)

// headerFields is what a header says, in one line each, what is empty left out.
func headerFields(h trace.Header) [][2]string {
	date, redacted := "", ""
	if !h.Date.IsZero() {
		date = h.Date.UTC().Format(time.RFC3339Nano)
	}
	if h.Redacted {
		redacted = "yes"
	}
	var out [][2]string
	for _, f := range [...][2]string{
		{"title", h.Title}, {"card", h.Card}, {"reader", h.Reader}, {"tool", h.Tool},
		{"date", date}, {"origin", string(h.Origin)}, {"redacted", redacted},
	} {
		if v := oneLine(f[1]); v != "" {
			out = append(out, [2]string{f[0], v})
		}
	}
	return out
}

// setHeader is the opposite; what it does not know it leaves out.
func setHeader(h *trace.Header, key, value string) {
	value = oneLine(value)
	switch key {
	case "title":
		h.Title = value
	case "card":
		h.Card = value
	case "reader":
		h.Reader = value
	case "tool":
		h.Tool = value
	case "date":
		if d, err := time.Parse(time.RFC3339, value); err == nil && 1 <= d.UTC().Year() && d.UTC().Year() <= 9999 {
			h.Date = d.UTC()
		}
	case "origin":
		switch o := trace.Origin(value); o {
		case trace.Hardware, trace.Emulator, trace.Hand:
			h.Origin = o
		}
	case "redacted":
		h.Redacted = value == "yes"
	}
}

// oneLine is text without control characters, cut to what a line holds.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)), " ")
	if len(s) > maxText {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:maxText], ""))
	}
	return s
}

// word is an event's name as one word, which the text format needs.
func word(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(oneLine(s), " ", "-"), "#", "")
	if s == "" {
		return "event"
	}
	return s
}
