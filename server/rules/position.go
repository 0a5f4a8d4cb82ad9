package rules

import (
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// place is where something stands: line from 1, column from 1, in characters.
type place struct{ line, column int }

func placeOf(n *yaml.Node) place { return place{n.Line, n.Column} }

// within finds where a place of a scalar's text stands in the file. YAML folds
// lines, strips indents and has escapes, so text and file are followed side by
// side, character by character but for white space. Where they part the
// scalar's start is the answer.
func within(lines []string, n *yaml.Node, want place) place {
	start := placeOf(n)
	c := &cursor{lines, start}
	c.skipTag()
	var quote rune
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		c.place = place{c.line + 1, 1} // beyond the header
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
	lines []string
	place
}

// peek is the next character of the line, 0 at its end.
func (c *cursor) peek() rune {
	if c.line > len(c.lines) {
		return 0
	}
	s := c.lines[c.line-1]
	for range c.column - 1 {
		_, size := utf8.DecodeRuneInString(s)
		s = s[size:]
	}
	if s == "" {
		return 0
	}
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

// next is peek, and goes past the character.
func (c *cursor) next() rune {
	r := c.peek()
	if r != 0 {
		c.column++
	}
	return r
}

func (c *cursor) skipSpace() {
	for c.line <= len(c.lines) {
		switch r := c.peek(); {
		case r == 0:
			c.place = place{c.line + 1, 1}
		case unicode.IsSpace(r):
			c.column++
		default:
			return
		}
	}
}

// skipTag goes past a tag, such as !!str, which stands before the text.
func (c *cursor) skipTag() {
	if c.peek() != '!' {
		return
	}
	for r := c.next(); r != 0 && !unicode.IsSpace(r); r = c.next() {
	}
	c.skipSpace()
}
