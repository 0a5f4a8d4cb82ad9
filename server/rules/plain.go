package rules

import "go.yaml.in/yaml/v3"

// PlainEUICC is the rule that every set ends in, whatever its file says: a plain
// eUICC, which is managed by ES10c and proves nothing, is touched only where an
// allowance of the file is for it.
const PlainEUICC = "plain-euicc"

// How cards are managed, as card.management has it.
const (
	managedByApplet = "applet"
	managedByES10c  = "es10c"
)

const notAllowed = "the card is a plain eUICC, and no management rule allows that it is managed by ES10c"

// allowance lets plain eUICCs be managed by ES10c.
type allowance struct {
	name  string
	allow *expression
}

// allowances reads es10c.
func (p *parser) allowances(n *yaml.Node) {
	if n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) > maxRules {
		p.failAt(n, "es10c is no list of at most %d allowances", maxRules)
		return
	}
	for _, c := range n.Content {
		m := p.mapping(c, "an allowance", "name", "allow")
		if m == nil {
			continue
		}
		var a allowance
		if v := p.need(c, m, "name"); v != nil {
			a.name = p.name(v)
		}
		if v := p.need(c, m, "allow"); v != nil {
			a.allow = p.expression(v)
		}
		p.s.allowances = append(p.s.allowances, a)
	}
}

// askAllowances is the rule PlainEUICC, of a request that every other lets pass.
// An allowance that cannot be evaluated allows nothing.
func (s *Set) askAllowances(a *activation, d *Decision) {
	for i := range s.allowances {
		w := &s.allowances[i]
		res := Result{Rule: w.name, Outcome: DoesNotApply}
		switch allowed, err := w.allow.eval(a); {
		case err != nil:
			res, _ = (&rule{name: w.name}).failed("allow", err)
		case allowed:
			res.Outcome = Allows
			d.Ran, d.AllowedBy = append(d.Ran, res), w.name
			return
		}
		d.Ran = append(d.Ran, res)
	}
	d.Ran = append(d.Ran, Result{Rule: PlainEUICC, Outcome: Refuses, Text: notAllowed})
	d.Refusal = &Refusal{Rule: PlainEUICC, SubjectCode: "8.1.1", ReasonCode: "1.2", Text: notAllowed}
	d.Face, d.Approval = d.Refusal, nil
}
