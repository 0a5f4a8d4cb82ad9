package trace

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Rules say what may differ between two traces of the same session: nonces,
// cryptograms, MACs, counters (docs/trace-rules.md). The zero Rules let nothing
// differ but times and the words of errors. They are safe for concurrent use.
type Rules struct {
	rules  []rule // the first that matches a command holds
	anyATR bool
	timing *timing
}

// timing bounds how much slower an answer may be.
type timing struct {
	factor float64
	slack  time.Duration
}

// rule is what may differ in one kind of command and its answer.
type rule struct {
	name     string
	match    []pattern
	command  part
	response part
	sw       bool // the status word
}

// part is what may differ of command or response data.
type part struct {
	any    bool // all of it, whatever its length
	ranges []Span
	paths  [][]uint32 // of data objects, by the tags that lead to them
}

func (p *part) empty() bool { return !p.any && len(p.ranges) == 0 && len(p.paths) == 0 }

// pattern is CLA INS P1 P2 with nibbles that do not matter.
type pattern struct{ value, mask [4]byte }

func (p *pattern) matches(header [4]byte) bool {
	for i, m := range p.mask {
		if header[i]&m != p.value[i] {
			return false
		}
	}
	return true
}

// RulesError says what is wrong with a file of rules.
type RulesError struct {
	Line   int // from 1; 0 where the file as a whole is meant
	Reason string
}

func (e *RulesError) Error() string {
	if e.Line == 0 {
		return "trace rules: " + e.Reason
	}
	return fmt.Sprintf("trace rules: line %d: %s", e.Line, e.Reason)
}

// Bounds of a file of rules.
const (
	maxRulesFile = 1 << 20 // bytes
	maxRules     = 1000
	maxPath      = 8 // tags
)

// ParseRules reads a file of rules. Unless it says builtin: false, those of
// DefaultRules apply where none of its own does. The error is a *RulesError
// where the text is no such file, else r's.
func ParseRules(r io.Reader) (*Rules, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxRulesFile+1))
	if err != nil {
		return nil, fmt.Errorf("trace rules: %w", err)
	}
	if len(b) > maxRulesFile {
		return nil, &RulesError{0, fmt.Sprintf("longer than %d bytes", maxRulesFile)}
	}
	rules, builtin, err := parseRules(string(b))
	if err != nil {
		return nil, err
	}
	if builtin {
		rules.rules = append(rules.rules, DefaultRules().rules...)
	}
	return rules, nil
}

// rulesFile is the file as YAML has it. Rules are nodes, for their lines.
type rulesFile struct {
	Version int         `yaml:"version"`
	Builtin *bool       `yaml:"builtin"`
	ATR     string      `yaml:"atr"`
	Timing  *timingFile `yaml:"timing"`
	Rules   []yaml.Node `yaml:"rules"`
}

type timingFile struct {
	Factor float64 `yaml:"factor"`
	Slack  string  `yaml:"slack"`
}

type ruleFile struct {
	Name     string `yaml:"name"`
	Match    words  `yaml:"match"`
	Command  words  `yaml:"command"`
	Response words  `yaml:"response"`
}

// words is one word or a list.
type words []string

// UnmarshalYAML takes either form.
func (w *words) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*w = words{n.Value}
		return nil
	}
	var list []string
	err := n.Decode(&list)
	*w = list
	return err
}

func parseRules(text string) (*Rules, bool, error) {
	var f rulesFile
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return nil, false, rulesError(0, err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, false, &RulesError{0, "more than one document"}
	}
	if f.Version != 1 {
		return nil, false, &RulesError{0, fmt.Sprintf("version %d, 1 wanted", f.Version)}
	}
	if len(f.Rules) > maxRules {
		return nil, false, &RulesError{0, fmt.Sprintf("%d rules, at most %d", len(f.Rules), maxRules)}
	}
	r := &Rules{}
	switch f.ATR {
	case "any":
		r.anyATR = true
	case "", "same":
	default:
		return nil, false, &RulesError{0, fmt.Sprintf("atr %.20q is neither same nor any", f.ATR)}
	}
	if f.Timing != nil {
		t, err := f.Timing.parse()
		if err != nil {
			return nil, false, &RulesError{0, err.Error()}
		}
		r.timing = t
	}
	for i := range f.Rules {
		one, err := parseRule(&f.Rules[i])
		if err != nil {
			return nil, false, rulesError(f.Rules[i].Line, err)
		}
		r.rules = append(r.rules, one)
	}
	return r, f.Builtin == nil || *f.Builtin, nil
}

// rulesError makes a *RulesError of YAML's own, which names lines itself.
func rulesError(line int, err error) error {
	reason, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "yaml: "), "\n")
	if types := (*yaml.TypeError)(nil); errors.As(err, &types) && len(types.Errors) > 0 {
		reason, _, _ = strings.Cut(types.Errors[0], " in type ") // which is one of ours
		if line > 0 {
			if _, rest, ok := strings.Cut(reason, ": "); ok && strings.HasPrefix(reason, "line ") {
				reason = rest
			}
		}
	}
	if errors.Is(err, io.EOF) {
		reason = "empty"
	}
	return &RulesError{line, clean(reason)}
}

func (f *timingFile) parse() (*timing, error) {
	t := &timing{factor: f.Factor}
	if f.Factor < 1 || f.Factor > 1e6 {
		return nil, fmt.Errorf("timing: factor %g is not from 1 to 1000000", f.Factor)
	}
	if f.Slack != "" {
		d, err := time.ParseDuration(f.Slack)
		if err != nil || d < 0 || d > maxTime {
			return nil, fmt.Errorf("timing: slack %.20q is no duration", f.Slack)
		}
		t.slack = d
	}
	return t, nil
}

func parseRule(n *yaml.Node) (rule, error) {
	// Node.Decode knows no KnownFields, so the names are held against the list.
	if n.Kind != yaml.MappingNode {
		return rule{}, errors.New("a rule is a mapping: name, match, command, response")
	}
	for i := 0; i < len(n.Content); i += 2 {
		switch key := n.Content[i].Value; key {
		case "name", "match", "command", "response":
		default:
			return rule{}, fmt.Errorf("a rule has no %.40q", key)
		}
	}
	var f ruleFile
	if err := n.Decode(&f); err != nil {
		return rule{}, err
	}
	r := rule{name: clean(f.Name)}
	if r.name == "" || len(f.Match) == 0 {
		return rule{}, errors.New("a rule needs name and match")
	}
	for _, m := range f.Match {
		p, err := parsePattern(m)
		if err != nil {
			return rule{}, err
		}
		r.match = append(r.match, p)
	}
	if err := r.command.parse(f.Command); err != nil {
		return rule{}, fmt.Errorf("command: %w", err)
	}
	var data []string
	for _, w := range f.Response {
		if w == "sw" {
			r.sw = true
		} else {
			data = append(data, w)
		}
	}
	if err := r.response.parse(data); err != nil {
		return rule{}, fmt.Errorf("response: %w", err)
	}
	return r, nil
}

// parsePattern takes one to four bytes, X for a nibble that does not matter.
func parsePattern(s string) (p pattern, err error) {
	fields := strings.Fields(s)
	if len(fields) < 1 || len(fields) > len(p.value) {
		return p, fmt.Errorf("match %.40q is not CLA, CLA INS, CLA INS P1 or CLA INS P1 P2", s)
	}
	for i, f := range fields {
		if len(f) != 2 {
			return p, fmt.Errorf("match %.40q: %.10q is not two digits", s, f)
		}
		for _, c := range []byte(f) {
			p.value[i] <<= 4
			p.mask[i] <<= 4
			if c == 'X' || c == 'x' {
				continue
			}
			v, err := strconv.ParseUint(string(c), 16, 4)
			if err != nil {
				return p, fmt.Errorf("match %.40q: %q is neither a digit nor X", s, c)
			}
			p.value[i] |= byte(v)
			p.mask[i] |= 0x0F
		}
	}
	return p, nil
}

func (p *part) parse(list []string) error {
	for _, w := range list {
		kind, rest, _ := strings.Cut(strings.TrimSpace(w), " ")
		rest = strings.TrimSpace(rest)
		switch {
		case kind == "any" && rest == "":
			p.any = true
		case kind == "data" && rest == "":
			p.ranges = append(p.ranges, Span{0, endOfData})
		case kind == "bytes":
			s, err := parseRange(rest)
			if err != nil {
				return err
			}
			p.ranges = append(p.ranges, s)
		case kind == "tag":
			path, err := parsePath(rest)
			if err != nil {
				return err
			}
			p.paths = append(p.paths, path)
		default:
			return fmt.Errorf("%.40q is none of data, any, bytes FROM-TO, tag PATH, sw", w)
		}
	}
	return nil
}

// endOfData is beyond what commands and answers hold, however many APDUs they
// come in.
const endOfData = 1 << 30

// parseRange takes "3", "0-15" and "12-".
func parseRange(s string) (Span, error) {
	first, last, ranged := strings.Cut(s, "-")
	from, err := strconv.ParseUint(first, 10, 24)
	to := from
	switch {
	case err != nil:
	case !ranged:
	case last == "":
		to = endOfData - 1
	default:
		to, err = strconv.ParseUint(last, 10, 24)
	}
	if err != nil || to < from {
		return Span{}, fmt.Errorf("bytes %.40q: FROM-TO wanted, counted from 0", s)
	}
	return Span{int(from), int(to) + 1}, nil
}

// parsePath takes tags in hexadecimal, / between them.
func parsePath(s string) ([]uint32, error) {
	var path []uint32
	for f := range strings.SplitSeq(s, "/") {
		b, err := hex.DecodeString(f)
		if err != nil || !isTag(b) || len(path) == maxPath {
			return nil, fmt.Errorf("tag %.40q: at most %d tags of up to 3 bytes wanted, / between them", s, maxPath)
		}
		tag := uint32(0)
		for _, v := range b {
			tag = tag<<8 | uint32(v)
		}
		path = append(path, tag)
	}
	return path, nil
}

// isTag reports whether b is one tag as BER codes it.
func isTag(b []byte) bool {
	if len(b) == 0 || len(b) > 3 {
		return false
	}
	for i, v := range b {
		more := v&0x80 != 0
		if i == 0 {
			more = v&0x1F == 0x1F
		}
		if more != (i < len(b)-1) {
			return false
		}
	}
	return true
}
