package rules

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"go.yaml.in/yaml/v3"

	"github.com/cardbridge/cardbridge/card/id"
)

// Bounds of a file of rules.
const (
	MaxFile   = 256 << 10 // bytes
	maxRules  = 100
	maxVars   = 200
	maxList   = 200 // of a variable
	maxCases  = 20
	maxBudget = 10_000
	maxName   = 64
	maxText   = 500
	maxErrors = 50
	minWindow = time.Minute
	maxWindow = 744 * time.Hour // a month
)

// Error is one thing that is wrong with a file of rules.
type Error struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`   // from 1; 0 where the file as a whole is meant
	Column int    `json:"column,omitempty"` // from 1, in characters; 0 where the line is all that is known
	Msg    string `json:"message"`
}

func (e *Error) Error() string {
	switch {
	case e.Line == 0:
		return e.File + ": " + e.Msg
	case e.Column == 0:
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// Faults are the Errors of what Parse gave.
func Faults(err error) []*Error {
	var one *Error
	var several interface{ Unwrap() []error }
	switch {
	case errors.As(err, &several):
		var out []*Error
		for _, e := range several.Unwrap() {
			out = append(out, Faults(e)...)
		}
		return out
	case errors.As(err, &one):
		return []*Error{one}
	}
	return nil
}

// variable is a constant of the file's.
type variable struct {
	t      *types.Type
	value  ref.Val
	places []place // of its texts
}

// texts are a variable's text, or those of its list.
func (v variable) texts() []ref.Val {
	l, ok := v.value.(traits.Lister)
	if !ok {
		return []ref.Val{v.value}
	}
	return l.Value().([]ref.Val)
}

// Parse reads a file of rules; name is what its errors call it. The error is
// the errors.Join of an *Error for each thing that is wrong, 50 at most.
func Parse(name string, b []byte) (*Set, error) {
	p := &parser{file: name, seen: map[string]*yaml.Node{}}
	s := p.set(b)
	if len(p.errs) == 0 {
		return s, nil
	}
	slices.SortStableFunc(p.errs, func(a, b *Error) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	p.errs = slices.CompactFunc(p.errs, func(a, b *Error) bool { return *a == *b })
	var errs []error
	for _, e := range p.errs[:min(len(p.errs), maxErrors)] {
		errs = append(errs, e)
	}
	if more := len(p.errs) - maxErrors; more > 0 {
		errs = append(errs, &Error{File: name, Msg: fmt.Sprintf("%d more errors", more)})
	}
	return nil, errors.Join(errs...)
}

// parser reads one file. Errors are collected; what is wrong is left out of
// the set, which is thrown away then.
type parser struct {
	file  string
	lines []string
	errs  []*Error
	env   *cel.Env
	vars  map[string]variable
	s     *Set
	seen  map[string]*yaml.Node // rules by name
	shown []reference
}

// reference is a shown_as that is to be resolved.
type reference struct {
	n    *yaml.Node
	from *rule
	w    *wording
}

func (p *parser) fail(at place, format string, args ...any) {
	if at.line > len(p.lines) { // where YAML has what is not there
		at = place{len(p.lines), 0}
	}
	p.errs = append(p.errs, &Error{p.file, at.line, at.column, fmt.Sprintf(format, args...)})
}

func (p *parser) failAt(n *yaml.Node, format string, args ...any) {
	p.fail(placeOf(n), format, args...)
}

func (p *parser) set(b []byte) *Set {
	if len(b) > MaxFile {
		p.fail(place{}, "%d bytes, at most %d", len(b), MaxFile)
		return nil
	}
	text := strings.TrimPrefix(string(b), "\ufeff")
	p.lines = strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(text), "\n")
	if i := invalidUTF8(b); i >= 0 {
		p.fail(place{bytes.Count(b[:i], []byte("\n")) + 1, 0}, "not UTF-8")
		return nil
	}
	root := p.yaml(b)
	if root == nil {
		return nil
	}
	p.s = &Set{windows: windows{}, digest: sha256.Sum256(b)}
	top := p.mapping(root, "the file", "version", "vars", "guard", "rules", "es10c")
	if top == nil {
		return nil
	}
	if v := p.need(root, top, "version"); v != nil && (v.Kind != yaml.ScalarNode || v.Value != "1") {
		p.failAt(v, "version %.20q, 1 wanted", v.Value)
	}
	p.variables(top["vars"])
	if g := p.need(root, top, "guard"); g != nil {
		p.guard(g)
	}
	env, err := newEnv(p.vars, p.s.windows)
	if err != nil {
		p.fail(place{}, "CEL: %v", err)
		return nil
	}
	p.env = env
	if r := p.need(root, top, "rules"); r != nil {
		p.rules(r)
	}
	p.allowances(top["es10c"])
	return p.s
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// yaml parses the one document of the file. Nothing in it may stand for
// something elsewhere.
func (p *parser) yaml(b []byte) *yaml.Node {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		p.yamlError(err)
		return nil
	}
	var second yaml.Node
	if err := d.Decode(&second); err == nil {
		p.failAt(&second, "more than one document")
		return nil
	} else if !errors.Is(err, io.EOF) {
		p.yamlError(err)
		return nil
	}
	if len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" {
		p.fail(place{}, "the file is empty")
		return nil
	}
	if n := anchored(&doc); n != nil {
		p.failAt(n, "anchors and aliases are not allowed")
		return nil
	}
	return doc.Content[0]
}

func (p *parser) yamlError(err error) {
	if errors.Is(err, io.EOF) {
		p.fail(place{}, "the file is empty")
		return
	}
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	var at place
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		at.line, _ = strconv.Atoi(m[1])
		msg = msg[len(m[0]):]
	}
	p.fail(at, "not YAML: %s", msg)
}

func anchored(n *yaml.Node) *yaml.Node {
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return n
	}
	for _, c := range n.Content {
		if a := anchored(c); a != nil {
			return a
		}
	}
	return nil
}

// mapping gives the members of a mapping of which the keys are among these, all
// keys where there are none.
func (p *parser) mapping(n *yaml.Node, what string, keys ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		p.failAt(n, "%s is no mapping", what)
		return nil
	}
	out := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch first := out[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			p.failAt(k, "%s has a key that is no text", what)
		case first != nil:
			p.failAt(k, "%s has %.40q twice", what, k.Value)
		case len(keys) > 0 && !slices.Contains(keys, k.Value):
			p.failAt(k, "%s has no %.40q, but %s", what, k.Value, strings.Join(keys, ", "))
		default:
			out[k.Value] = v
		}
	}
	return out
}

// need gives a member that must be there.
func (p *parser) need(n *yaml.Node, members map[string]*yaml.Node, key string) *yaml.Node {
	v := members[key]
	if v == nil {
		p.failAt(n, "%s is missing", key)
	}
	return v
}

// str gives a scalar's text, of 1 to most characters.
func (p *parser) str(n *yaml.Node, what string, most int) (string, bool) {
	switch count := utf8.RuneCountInString(n.Value); {
	case n.Kind != yaml.ScalarNode:
		p.failAt(n, "%s is no text", what)
	case strings.TrimSpace(n.Value) == "" || n.Tag == "!!null":
		p.failAt(n, "%s is empty", what)
	case count > most:
		p.failAt(n, "%s of %d characters, at most %d", what, count, most)
	default:
		return n.Value, true
	}
	return "", false
}

// line gives a scalar's text of 1 to most characters, which is one line.
func (p *parser) line(n *yaml.Node, what string, most int) string {
	s, ok := p.str(n, what, most)
	s = strings.TrimSpace(s)
	if ok && strings.ContainsFunc(s, unicode.IsControl) {
		p.failAt(n, "%s has a line break or another control character", what)
	}
	return s
}

var identifier = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// variables reads vars.
func (p *parser) variables(n *yaml.Node) {
	p.vars = map[string]variable{}
	if n == nil || n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if len(n.Content)/2 > maxVars {
		p.failAt(n, "%d vars, at most %d", len(n.Content)/2, maxVars)
		return
	}
	p.mapping(n, "vars")
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if !identifier.MatchString(k.Value) || len(k.Value) > maxName {
			p.failAt(k, "vars: the name %.40q is not of lower-case letters, digits and _, at most %d", k.Value, maxName)
			continue
		}
		if made, ok := p.variable(k.Value, v); ok {
			p.vars[k.Value] = made
		}
	}
}

func (p *parser) variable(name string, n *yaml.Node) (variable, bool) {
	if n.Kind == yaml.SequenceNode {
		if len(n.Content) > maxList {
			p.failAt(n, "vars.%s: %d texts, at most %d", name, len(n.Content), maxList)
			return variable{}, false
		}
		list := make([]ref.Val, 0, len(n.Content))
		var places []place
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode || c.Tag != "!!str" {
				p.failAt(c, "vars.%s: a list is of texts; put quotes around what is to be one", name)
				return variable{}, false
			}
			s, ok := p.str(c, "vars."+name, maxText)
			if !ok {
				return variable{}, false
			}
			list, places = append(list, types.String(s)), append(places, placeOf(c))
		}
		return variable{stringList, types.NewRefValList(adapter{}, list), places}, true
	}
	at := []place{placeOf(n)}
	switch {
	case n.Kind != yaml.ScalarNode:
	case n.Tag == "!!bool":
		var v bool
		if n.Decode(&v) == nil {
			return variable{types.BoolType, types.Bool(v), at}, true
		}
	case n.Tag == "!!int":
		var v int64
		if n.Decode(&v) == nil {
			return variable{types.IntType, types.Int(v), at}, true
		}
	case n.Tag == "!!float":
		if v, ok := number(n); ok {
			return variable{types.DoubleType, types.Double(v), at}, true
		}
		p.failAt(n, "vars.%s: %.20q is no finite number", name, n.Value)
		return variable{}, false
	case n.Tag == "!!str":
		if len(n.Value) > maxText {
			p.failAt(n, "vars.%s of %d bytes, at most %d", name, len(n.Value), maxText)
			return variable{}, false
		}
		if d, err := time.ParseDuration(n.Value); err == nil && strings.ContainsAny(n.Value, "hms") && n.Style&yaml.TaggedStyle == 0 {
			return variable{types.DurationType, types.Duration{Duration: d}, at}, true
		}
		return variable{types.StringType, types.String(n.Value), at}, true
	}
	p.failAt(n, "vars.%s is none of bool, int, double, text, duration, list of texts", name)
	return variable{}, false
}

// number is a finite number.
func number(n *yaml.Node) (float64, bool) {
	var v float64
	err := n.Decode(&v)
	return v, err == nil && (n.Tag == "!!float" || n.Tag == "!!int") && !math.IsNaN(v) && !math.IsInf(v, 0)
}

// guard reads the guard's budgets.
func (p *parser) guard(n *yaml.Node) {
	g := p.mapping(n, "guard", "window", "operators", "groups")
	if g == nil {
		return
	}
	if w := p.need(n, g, "window"); w != nil {
		d, err := time.ParseDuration(w.Value)
		if w.Kind != yaml.ScalarNode || err != nil {
			p.failAt(w, "window %.20q is no duration; wanted is such as 1h", w.Value)
		} else if d < minWindow || d > maxWindow {
			p.failAt(w, "window of %s, 1m to 744h wanted", w.Value)
		}
		p.s.guard.window = d
	}
	p.s.guard.operators, p.s.guard.groups = map[id.MCCMNC]Budget{}, map[string]Budget{}
	if ops := p.need(n, g, "operators"); ops != nil {
		p.budgets(ops, "operators", func(k *yaml.Node, b Budget) {
			m, err := id.ParseMCCMNC(k.Value)
			if err != nil {
				p.failAt(k, "operators: %v", err)
				return
			}
			p.s.guard.operators[m] = b
		}, &p.s.guard.operator)
	}
	if groups := g["groups"]; groups != nil {
		p.budgets(groups, "groups", func(k *yaml.Node, b Budget) {
			p.s.guard.groups[p.line(k, "the name of a group", maxName)] = b
		}, &p.s.guard.group)
	}
}

// budgets reads budgets by name; the one named default must be there.
func (p *parser) budgets(n *yaml.Node, what string, take func(*yaml.Node, Budget), standard *Budget) {
	if len(n.Content)/2 > maxBudget {
		p.failAt(n, "%d %s, at most %d", len(n.Content)/2, what, maxBudget)
		return
	}
	m := p.mapping(n, what)
	if m == nil {
		return
	}
	p.need(n, m, "default")
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		b := p.budget(n.Content[i+1])
		if k.Value == "default" {
			*standard = b
		} else {
			take(k, b)
		}
	}
}

func (p *parser) budget(n *yaml.Node) (b Budget) {
	m := p.mapping(n, "a budget", "max", "share", "at_least", "ceiling")
	count := func(key string) int64 {
		v := m[key]
		if v == nil {
			return 0
		}
		var c int64
		if v.Tag != "!!int" || v.Decode(&c) != nil || c < 1 {
			p.failAt(v, "%s %.20q is no number of cards, 1 or more", key, v.Value)
			return 0
		}
		return c
	}
	b.Max, b.AtLeast, b.Ceiling = count("max"), count("at_least"), count("ceiling")
	if v := m["share"]; v != nil {
		share, ok := number(v)
		if !ok || share <= 0 || share > 1 {
			p.failAt(v, "share %.20q is not above 0 and at most 1", v.Value)
			return b
		}
		b.Share = share
	}
	switch {
	case b.Ceiling > 0 && b.Ceiling < b.Max:
		p.failAt(m["ceiling"], "ceiling %d is below max %d", b.Ceiling, b.Max)
	case b.Ceiling > 0 && b.Ceiling < b.AtLeast:
		p.failAt(m["ceiling"], "ceiling %d is below at_least %d", b.Ceiling, b.AtLeast)
	case b.Max > 0 && b.AtLeast > b.Max:
		p.failAt(m["at_least"], "at_least %d is above max %d", b.AtLeast, b.Max)
	case b.AtLeast > 0 && m["share"] == nil:
		p.failAt(m["at_least"], "at_least without share")
	}
	return b
}

var (
	ruleName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	gsmaCode = regexp.MustCompile(`^[1-9][0-9]?(\.[1-9][0-9]?){0,3}$`)
)

// rules reads the rules.
func (p *parser) rules(n *yaml.Node) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		p.failAt(n, "rules is no list of rules")
		return
	}
	if len(n.Content) > maxRules {
		p.failAt(n, "%d rules, at most %d", len(n.Content), maxRules)
		return
	}
	p.s.rules = make([]rule, len(n.Content)) // which do not move: shown_as points at them
	for i, r := range n.Content {
		p.rule(r, &p.s.rules[i])
	}
	p.resolve()
}

func (p *parser) rule(n *yaml.Node, r *rule) {
	m := p.mapping(n, "a rule", "name", "subject_code", "reason_code", "when", "require", "text", "audit", "shown_as", "effect", "cases")
	if m == nil {
		return
	}
	if v := p.need(n, m, "name"); v != nil {
		r.name = p.name(v)
	}
	code := func(key string) string {
		v := p.need(n, m, key)
		if v == nil {
			return ""
		}
		if !gsmaCode.MatchString(v.Value) {
			p.failAt(v, "%s %.20q is no GSMA code; wanted is such as 8.2.1", key, v.Value)
		}
		return v.Value
	}
	r.subject, r.reason = code("subject_code"), code("reason_code")
	switch v := m["effect"]; {
	case v == nil || v.Value == "refuse":
	case v.Value == "approve":
		r.approve = true
	default:
		p.failAt(v, "effect %.20q is neither refuse nor approve", v.Value)
	}
	if v := m["when"]; v != nil {
		r.when = p.expression(v)
	}
	if v := p.need(n, m, "require"); v != nil {
		r.require = p.expression(v)
	}
	p.need(n, m, "text")
	p.wording(&r.wording, m, wording{})
	p.refer(&r.wording, r, m["shown_as"])
	cases, shownAs := m["cases"], m["shown_as"]
	switch {
	case cases == nil:
		return
	case cases.Kind != yaml.SequenceNode || len(cases.Content) > maxCases:
		p.failAt(cases, "cases is no list of at most %d", maxCases)
		return
	}
	r.cases = make([]wordingCase, len(cases.Content))
	for i, n := range cases.Content {
		m := p.mapping(n, "a case", "when", "text", "audit", "shown_as")
		if m == nil {
			continue
		}
		if v := p.need(n, m, "when"); v != nil {
			r.cases[i].when = p.expression(v)
		}
		c := &r.cases[i].wording
		p.wording(c, m, r.wording)
		if v := m["shown_as"]; v != nil {
			p.refer(c, r, v)
		} else {
			p.refer(c, r, shownAs)
		}
	}
}

// name reads the name of a rule or an allowance, which no other has.
func (p *parser) name(n *yaml.Node) string {
	switch first := p.seen[n.Value]; {
	case !ruleName.MatchString(n.Value) || len(n.Value) > maxName:
		p.failAt(n, "name %.40q is not of lower-case letters, digits and hyphens between them, at most %d", n.Value, maxName)
	case n.Value == PlainEUICC:
		p.failAt(n, "name %s is of the rule that every file ends in", n.Value)
	case first != nil:
		p.failAt(n, "rule %s is there already, on line %d", n.Value, first.Line)
	default:
		p.seen[n.Value] = n
		return n.Value
	}
	return ""
}

// wording reads text and audit; what is not there is as in base, and the audit
// trail reads the text where it has none of its own.
func (p *parser) wording(w *wording, m map[string]*yaml.Node, base wording) {
	*w = base
	if v := m["text"]; v != nil {
		w.text = p.line(v, "text", maxText)
		w.audit = w.text
	}
	if v := m["audit"]; v != nil {
		w.audit = p.line(v, "audit", maxText)
	}
}

// refer notes a shown_as, if there is one, until all rules are known.
func (p *parser) refer(w *wording, from *rule, n *yaml.Node) {
	if n != nil {
		p.shown = append(p.shown, reference{n, from, w})
	}
}

// resolve has every shown_as point at its rule, which must not be shown as
// another itself.
func (p *parser) resolve() {
	rules := map[string]*rule{}
	for i := range p.s.rules {
		rules[p.s.rules[i].name] = &p.s.rules[i]
	}
	chained := map[*rule]bool{}
	for _, r := range p.shown {
		chained[r.from] = true
	}
	for _, r := range p.shown {
		switch to := rules[r.n.Value]; {
		case to == nil || r.n.Value == "":
			p.failAt(r.n, "shown_as: there is no rule %.40q", r.n.Value)
		case to == r.from:
			p.failAt(r.n, "shown_as: the rule itself")
		case chained[to]:
			p.failAt(r.n, "shown_as: rule %s is itself shown as another", r.n.Value)
		default:
			r.w.shownAs = to
		}
	}
}
