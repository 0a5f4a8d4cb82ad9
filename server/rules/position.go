package rules

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// place is where something stands: line from 1, column from 1, in characters.
type place struct{ line, column int }

func placeOf(n *yaml.Node) place { return place{n.Line, n.Column} }

// locate finds where a place of a scalar's text stands in the file. YAML folds
// lines, strips indents and has escapes, so text and file are followed side by
// side, character by character but for white space. Where they part the
// scalar's start is the answer.
func locate(lines []string, n *yaml.Node, want place) place {
	start := placeOf(n)
	c := newCursor(lines, start)
	c.skipTag()
	var quote rune
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		c.nextLine() // beyond the header
	case n.Style&yaml.DoubleQuotedStyle != 0:
		quote = '"'
	case n.Style&yaml.SingleQuotedStyle != 0:
		quote = '\''
	}
	if quote != 0 && c.next() != quote {
		return start
	}
	at := place{1, 1} // in the text
	for _, r := range n.Value {
		found := c.place
		if !unicode.IsSpace(r) {
			c.skipSpace()
			found = c.place
			got := c.next()
			if quote == '"' && got == '\\' || quote == '\'' && got == '\'' {
				got = c.next()
			}
			if got != r {
				return start
			}
		}
		if at == want {
			return found
		}
		if at.column++; r == '\n' {
			at = place{at.line + 1, 1}
		}
	}
	return c.place
}

// cursor reads the file's characters.
type cursor struct {
	lines []string // from its own on
	place
	rest string // of its line
}

func newCursor(lines []string, at place) *cursor {
	c := &cursor{lines: lines[min(at.line-1, len(lines)):], place: place{at.line, 1}}
	c.rest = c.first()
	for range at.column - 1 {
		c.next()
	}
	return c
}

func (c *cursor) first() string {
	if len(c.lines) == 0 {
		return ""
	}
	return c.lines[0]
}

func (c *cursor) nextLine() {
	c.lines, c.place = c.lines[1:], place{c.line + 1, 1}
	c.rest = c.first()
}

// next gives the next character of the line, 0 at its end, and goes past it.
func (c *cursor) next() rune {
	r, size := utf8.DecodeRuneInString(c.rest)
	if size == 0 {
		return 0
	}
	c.rest = c.rest[size:]
	c.column++
	return r
}

// skipSpace goes past white space and line ends.
func (c *cursor) skipSpace() {
	for len(c.lines) > 0 {
		r, size := utf8.DecodeRuneInString(c.rest)
		switch {
		case size == 0:
			c.nextLine()
		case unicode.IsSpace(r):
			c.next()
		default:
			return
		}
	}
}

// skipTag goes past a tag, such as !!str, which stands before the text.
func (c *cursor) skipTag() {
	if !strings.HasPrefix(c.rest, "!") {
		return
	}
	for r := c.next(); r != 0 && !unicode.IsSpace(r); r = c.next() {
	}
	c.skipSpace()
}
