// Package rules is the management rules: what has to hold before a card is
// touched (docs/protocol.md §4, step 0; POL2 of GSMA SGP.02). They are data: a
// YAML file of named CEL expressions (docs/rules.md).
package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// Names of the rules of the shipped set that answers and audit trails have.
const (
	OperatorKnown      = "operator-known"
	CardRegistered     = "card-registered"
	ProfileOwned       = "profile-owned"
	ProfileKnown       = "profile-known"
	ProfileEnabled     = "profile-enabled"
	DisableAllowed     = "pol2-disable-allowed"
	ReasonRequired     = "reason-required"
	LastWorkingProfile = "last-working-profile"
	MinimumTimeEnabled = "minimum-time-enabled"
	MaintenanceWindow  = "maintenance-window"
	CriticalGroup      = "critical-group"
)

// Input is what the rules look at: the request, the record of the moment, the
// guard's counts and the clock.
type Input struct {
	Request          *id.RequestID // nil where it has none yet
	EID              id.EID
	ICCID            *id.ICCID // nil: the enabled profile
	Reason           byte      // 0: none
	User             string    // who of the operator's asks
	LeaveUnconnected bool      // the card may be left without a working profile
	Operator         *Operator // who asks; nil where nobody proved who they are
	Card             *Card     // nil where the EID is not registered
	History          History
	Now              time.Time // zero: now
}

// Operator is who asks.
type Operator struct {
	Name   string
	MCCMNC id.MCCMNC
}

// Card is the record of the card that is meant.
type Card struct {
	// Registered says that the operator itself registered the card, and so
	// vouches for its keys.
	Registered bool
	// Plain says that it is a plain eUICC, managed by ES10c and not by the
	// management applet.
	Plain        bool
	Groups       []string
	EventCounter uint32 // docs/protocol.md §7
	Unsettled    bool   // the record may not be the card's state
	RegisteredAt time.Time
	Profiles     []Profile
}

// Profile is the record of one of its profiles.
type Profile struct {
	ICCID          id.ICCID
	Owner          id.MCCMNC
	Enabled        bool
	Absent         bool // no longer on the card
	DisableAllowed bool // POL2
	Class          string
	Provider       string
	Name           string
	PPR1, PPR2     bool // the card's policy rules
	Fallback       bool
	EnabledAt      time.Time // when it was first seen enabled; zero where that is not known
}

// History is what the guard counted in its current window.
type History struct {
	Operator Counts            // of who asks
	Groups   map[string]Counts // of the card's groups
}

// Counts is one budget and what was used of it.
type Counts struct {
	Asked   int64 `json:"asked"`   // requests taken in
	Sent    int64 `json:"sent"`    // deactivations sent to a card
	Pending int64 `json:"pending"` // requests let in and not sent yet
	Fleet   int64 `json:"fleet"`   // cards that the budget is a share of
	Max     int64 `json:"max"`     // what is allowed in a window
	Ceiling int64 `json:"ceiling"` // where the breaker trips, 0: nowhere
}

// profile is the profile that the request means, nil if there is none.
func (in *Input) profile() *Profile {
	if in.Card == nil {
		return nil
	}
	for i := range in.Card.Profiles {
		p := &in.Card.Profiles[i]
		if in.ICCID == nil && p.Enabled || in.ICCID != nil && p.ICCID == *in.ICCID {
			return p
		}
	}
	return nil
}

// Refusal is a rule's no.
type Refusal struct {
	Rule        string `json:"rule"`
	SubjectCode string `json:"subject_code"` // GSMA SGP.02: 8.1.1 the eUICC, 8.2.1 the profile, 8.2.3 POL2
	ReasonCode  string `json:"reason_code"`
	Text        string `json:"text"`
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s (rule %s, %s/%s)", r.Text, r.Rule, r.SubjectCode, r.ReasonCode)
}

// Outcome is what a rule said.
type Outcome string

const (
	Holds         Outcome = "holds"
	Refuses       Outcome = "refuses"
	NeedsApproval Outcome = "needs approval"
	DoesNotApply  Outcome = "does not apply"
	Allows        Outcome = "allows" // of an allowance for plain eUICCs
	Failed        Outcome = "error"  // it could not be evaluated, and so refuses
)

// Result is what one rule said of a request, for the audit trail.
type Result struct {
	Rule    string  `json:"rule"`
	Outcome Outcome `json:"outcome"`
	Text    string  `json:"text,omitempty"` // why, where it does not hold
}

// Decision is what a set says of a request.
type Decision struct {
	// ICCID is of the profile meant, nil if there is none, or where the request
	// is refused, named none and the enabled profile is not theirs to know.
	ICCID   *id.ICCID `json:"iccid,omitempty"`
	Ran     []Result  `json:"rules"`             // that were asked, in order
	Refusal *Refusal  `json:"refusal,omitempty"` // nil: go on
	// AllowedBy is the allowance by which a plain eUICC is managed by ES10c.
	AllowedBy string `json:"allowed_by,omitempty"`
	// Face is what whoever asks may read of the refusal.
	Face *Refusal `json:"operator_reads,omitempty"`
	// Approval is of the first rule that wants a second user's approval, where
	// none refuses.
	Approval *Refusal `json:"approval,omitempty"`
}

// Bounds of an evaluation.
const (
	// MaxCost bounds one expression, in CEL's units: what could exceed it within
	// the bounds below is not loaded, what does is stopped and refuses.
	MaxCost = 50_000
	// What a card is taken to have at most when an expression's cost is
	// estimated.
	maxProfiles = 64
	maxGroups   = 64
	maxString   = 256 // characters
)

// cannotSay is what an operator reads where a rule failed.
const cannotSay = "the rule could not be evaluated"

// Set is rules in the order in which they are held against a request, and the
// guard's budgets. It does not change and is safe for concurrent use.
type Set struct {
	rules      []rule
	allowances []allowance // for plain eUICCs
	guard      guard
	windows    windows // of within, by their text
	digest     [sha256.Size]byte
}

type rule struct {
	wording
	name          string
	subject       string
	reason        string
	when, require *expression // when is nil where the rule always applies
	approve       bool
	cases         []wordingCase
}

// wording is what is read where a rule does not hold.
type wording struct {
	text, audit string
	shownAs     *rule // who asks reads that one's
}

// wordingCase is another wording, for the requests for which when holds.
type wordingCase struct {
	wording
	when *expression
}

// Current is the set itself: a File has one too.
func (s *Set) Current() *Set { return s }

// Digest tells a set from others: the SHA-256 of its file.
func (s *Set) Digest() string { return hex.EncodeToString(s.digest[:]) }

// Rules are the names of the rules in their order.
func (s *Set) Rules() []string {
	names := make([]string, len(s.rules))
	for i := range s.rules {
		names[i] = s.rules[i].name
	}
	return names
}

// Allowances are the names of the allowances for plain eUICCs, in their order.
func (s *Set) Allowances() []string {
	names := make([]string, len(s.allowances))
	for i, a := range s.allowances {
		names[i] = a.name
	}
	return names
}

// Evaluate holds the rules against a request; the first that refuses ends it.
// A rule that cannot be evaluated refuses. A plain eUICC needs an allowance then
// (PlainEUICC). in must not change meanwhile.
func (s *Set) Evaluate(in *Input) Decision {
	a := activations.Get().(*activation)
	a.reset(in)
	defer func() {
		*a = activation{}
		activations.Put(a)
	}()
	d := Decision{ICCID: in.ICCID, Ran: make([]Result, 0, len(s.rules))}
	if a.profile != nil {
		d.ICCID = &a.profile.ICCID
	}
	for i := range s.rules {
		r := &s.rules[i]
		res, face := r.ask(a)
		d.Ran = append(d.Ran, res)
		switch res.Outcome {
		case NeedsApproval:
			if d.Approval == nil {
				d.Approval = face
			}
		case Refuses, Failed:
			d.Refusal = &Refusal{Rule: r.name, SubjectCode: r.subject, ReasonCode: r.reason, Text: res.Text}
			d.Face, d.Approval = face, nil
			if in.ICCID == nil && !a.owned() {
				d.ICCID = nil
			}
			return d
		}
	}
	if in.Card != nil && in.Card.Plain {
		s.askAllowances(a, &d)
	}
	return d
}

// ask holds one rule against a request. face is what whoever asks may read
// where it does not hold.
func (r *rule) ask(a *activation) (res Result, face *Refusal) {
	res = Result{Rule: r.name, Outcome: Holds}
	if r.when != nil {
		applies, err := r.when.eval(a)
		if err != nil {
			return r.failed("when", err)
		}
		if !applies {
			res.Outcome = DoesNotApply
			return res, nil
		}
	}
	holds, err := r.require.eval(a)
	if err != nil {
		return r.failed("require", err)
	}
	if holds {
		return res, nil
	}
	w, err := r.words(a)
	if err != nil {
		return r.failed("cases", err)
	}
	shown, text := r, w.text
	if w.shownAs != nil {
		shown = w.shownAs
		words, err := shown.words(a)
		if err != nil {
			return r.failed("shown_as", err)
		}
		text = words.text
	}
	res.Outcome, res.Text = Refuses, w.audit
	if r.approve {
		res.Outcome = NeedsApproval
	}
	return res, shown.refusal(text)
}

func (r *rule) refusal(text string) *Refusal {
	return &Refusal{Rule: r.name, SubjectCode: r.subject, ReasonCode: r.reason, Text: text}
}

// failed is of a rule that could not be evaluated. Where it is shown as another
// it is so too: that it failed is an answer of its own.
func (r *rule) failed(what string, err error) (Result, *Refusal) {
	res := Result{Rule: r.name, Outcome: Failed, Text: fmt.Sprintf("%s: %.300s", what, err)}
	if r.shownAs != nil {
		return res, r.shownAs.refusal(r.shownAs.text)
	}
	return res, r.refusal(cannotSay)
}

// words is the wording of the first case that fits, else the rule's own.
func (r *rule) words(a *activation) (*wording, error) {
	for i := range r.cases {
		fits, err := r.cases[i].when.eval(a)
		if err != nil {
			return nil, err
		}
		if fits {
			return &r.cases[i].wording, nil
		}
	}
	return &r.wording, nil
}

var activations = sync.Pool{New: func() any { return new(activation) }}
