package server

import (
	"context"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/guard"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/store"
)

// MassDeactivation is the name under which the guard refuses.
const MassDeactivation = "mass-deactivation-guard"

// ask is a request as the rules look at it.
type ask struct {
	op          store.Operator
	request     id.RequestID
	eid         id.EID
	iccid       *id.ICCID
	reason      byte
	unconnected bool
}

// verdict holds a request that comes in against the rules, and what they let
// pass against the guard's budgets.
func (s *Server) verdict(a ask, m *store.Moment) store.Verdict {
	set := s.Rules()
	limits := limitsOf(set, a.op.MCCMNC, m.Guard)
	v, d := evaluate(set, a, m, limits)
	if v.Refusal != nil {
		return v
	}
	g := guard.Admit(m.Guard, limits, m.Now, set.Window())
	s.apply(&v, g, d, m, set)
	return v
}

// judge holds a request against both for the last time before its command goes
// out.
func (a *attempt) judge(m *store.Moment, r *store.Request) store.Verdict {
	if a.read != nil {
		m.Card = m.Card.As(*a.read, m.Now)
	}
	s, set := a.s, a.s.Rules()
	limits := limitsOf(set, r.MCCMNC, m.Guard)
	v, d := evaluate(set, askOf(a.work.Asker, r), m, limits)
	if v.Refusal != nil {
		return v
	}
	approved := r.ApprovedAt != nil
	g := guard.Send(m.Guard, limits, r.Epoch, approved, m.Now, set.Window())
	if g.Kind == guard.Tripped {
		g.Kind = guard.Hold // it was let in: it is not dropped, it waits
	}
	if approved {
		d.Approval = nil
	}
	s.apply(&v, g, d, m, set)
	return v
}

// reconsider holds a request that waited against the rules, before its card is
// touched.
func (s *Server) reconsider(ctx context.Context, work *taken) (store.Verdict, error) {
	all, err := s.Store.Guard(ctx, work.Request.Operator)
	if err != nil {
		return store.Verdict{}, err
	}
	m := &store.Moment{Now: work.At, Card: work.Card} // of the record's clock: this machine's may be another
	for _, scope := range all {
		if scope.Group == "" || slices.Contains(work.Card.Groups, scope.Group) {
			m.Guard = append(m.Guard, scope)
		}
	}
	set := s.Rules()
	v, _ := evaluate(set, askOf(work.Asker, work.Request), m, limitsOf(set, work.Request.MCCMNC, m.Guard))
	return v, nil
}

// askOf is a request that was taken in.
func askOf(op store.Operator, r *store.Request) ask {
	op.MCCMNC = r.MCCMNC
	return ask{op: op, request: r.ID, eid: r.EID, iccid: r.ICCID, reason: r.Reason, unconnected: r.LeaveUnconnected}
}

// evaluate holds a request against the rules alone.
func evaluate(set *rules.Set, a ask, m *store.Moment, limits []guard.Limits) (store.Verdict, rules.Decision) {
	in := input(a, m, limits, set.Window())
	d := set.Evaluate(in)
	v := store.Verdict{ICCID: d.ICCID, Audit: map[string]any{
		"rules": d.Ran, "rules_digest": set.Digest(), "input": in, "allowed": d.Refusal == nil,
	}}
	if d.AllowedBy != "" {
		v.Audit["es10c_allowed_by"] = d.AllowedBy
	}
	if f := d.Refusal; f != nil {
		v.Refusal = refusalOf(d.Face)
		v.Audit["refused_by"], v.Audit["text"] = f.Rule, f.Text
		v.Audit["subject_code"], v.Audit["reason_code"] = f.SubjectCode, f.ReasonCode
	}
	return v, d
}

// apply adds what the guard, or a rule that wants an approval, says to a verdict
// that lets the request in.
func (s *Server) apply(v *store.Verdict, g guard.Decision, d rules.Decision, m *store.Moment, set *rules.Set) {
	v.Window = set.Window()
	if g.Kind == guard.Pass && d.Approval != nil {
		g = guard.Decision{Kind: guard.Hold, Why: d.Approval.Text}
	}
	if g.Kind == guard.Pass {
		return
	}
	v.Audit["guard"] = g.Why
	switch g.Kind {
	case guard.Hold:
		v.Hold, v.HoldUntil = g.Why, m.Now.Add(s.Approval)
	case guard.Trip:
		v.Trip, g.Why = g.Why, guard.Tripping(g.Why)
		fallthrough
	case guard.Tripped:
		v.Refusal = &store.Refusal{Rule: MassDeactivation, SubjectCode: "8.2.3", ReasonCode: "3.8", Text: g.Why}
		v.Audit["allowed"] = false
	}
}

func limitsOf(set *rules.Set, operator id.MCCMNC, scopes []guard.Scope) []guard.Limits {
	out := make([]guard.Limits, len(scopes))
	for i, s := range scopes {
		budget := set.GroupBudget(s.Group)
		if s.Group == "" {
			budget = set.OperatorBudget(operator)
		}
		out[i] = guard.Limits{Max: budget.Allowance(s.Fleet), Ceiling: budget.Ceiling}
		if budget.Ceiling == 0 {
			out[i].Ceiling = guard.NoLimit
		}
	}
	return out
}

// exact is the largest number that JSON keeps for everybody: the audit trail has
// what the rules looked at.
const exact = 1<<53 - 1

func input(a ask, m *store.Moment, limits []guard.Limits, window time.Duration) *rules.Input {
	in := &rules.Input{
		Request: &a.request, EID: a.eid, ICCID: a.iccid, Reason: a.reason, User: a.op.User.Name, LeaveUnconnected: a.unconnected,
		Operator: &rules.Operator{Name: a.op.Name, MCCMNC: a.op.MCCMNC}, Now: m.Now,
	}
	for i, s := range m.Guard {
		asked, sent := s.Counts.Sum(m.Now, window)
		n := rules.Counts{Asked: asked, Sent: sent, Pending: s.Pending, Fleet: s.Fleet, Max: min(limits[i].Max, exact)}
		if limits[i].Ceiling != guard.NoLimit {
			n.Ceiling = limits[i].Ceiling
		}
		if s.Group == "" {
			in.History.Operator = n
			continue
		}
		if in.History.Groups == nil {
			in.History.Groups = map[string]rules.Counts{}
		}
		in.History.Groups[s.Group] = n
	}
	c := m.Card
	if c == nil {
		return in
	}
	in.Card = &rules.Card{
		Registered: c.Registered, Plain: c.Management != store.Applet, Groups: c.Groups, EventCounter: c.EventCounter, Unsettled: c.Unsettled, RegisteredAt: c.RegisteredAt,
		Profiles: make([]rules.Profile, len(c.Profiles)),
	}
	for i, p := range c.Profiles {
		in.Card.Profiles[i] = rules.Profile{
			ICCID: p.ICCID, Owner: p.Owner, Enabled: p.State == store.Enabled, Absent: p.State == store.Absent, DisableAllowed: p.DisableAllowed,
			Class: p.Class, Provider: p.Provider, Name: p.Name, PPR1: p.PPR1, PPR2: p.PPR2, Fallback: p.Fallback, EnabledAt: p.EnabledAt,
		}
	}
	return in
}

func refusalOf(r *rules.Refusal) *store.Refusal {
	return &store.Refusal{Rule: r.Rule, SubjectCode: r.SubjectCode, ReasonCode: r.ReasonCode, Text: r.Text}
}
