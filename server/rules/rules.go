// Package rules is the management rules: what has to hold before a card is
// touched (docs/protocol.md §4, step 0; POL2 of GSMA SGP.02).
package rules

import (
	"fmt"

	"github.com/cardbridge/cardbridge/card/id"
)

// Input is what the rules look at: the request and the record of the moment.
type Input struct {
	Operator *Operator // who asks; nil where nobody proved who they are
	EID      id.EID
	ICCID    *id.ICCID // nil: the enabled profile
	Card     *Card     // nil where the EID is not registered
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
	Profiles   []Profile
}

// Profile is the record of one of its profiles.
type Profile struct {
	ICCID          id.ICCID
	Owner          id.MCCMNC
	Enabled        bool
	Absent         bool // no longer on the card
	DisableAllowed bool // POL2
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

// owns reports whether the operator has a profile in the card.
func (in *Input) owns() bool {
	for _, p := range in.Card.Profiles {
		if p.Owner == in.Operator.MCCMNC {
			return true
		}
	}
	return false
}

// Refusal is a rule's no.
type Refusal struct {
	Rule        string
	SubjectCode string // GSMA SGP.02: 8.1.1 the eUICC, 8.2.1 the profile, 8.2.3 POL2
	ReasonCode  string
	Text        string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s (rule %s, %s/%s)", r.Text, r.Rule, r.SubjectCode, r.ReasonCode)
}

// Rule is one named condition.
type Rule struct {
	Name        string
	SubjectCode string
	ReasonCode  string
	// Check says in words what forbids the request, "" if nothing does. The
	// rules before it have let the request pass.
	Check func(*Input) string
	// Face, where set, is what whoever asks gets to read in place of this
	// rule's refusal, so that it tells them nothing of others' profiles.
	Face func(*Input) *Refusal
}

// Set is rules in the order in which they are held against a request.
type Set []Rule

// Decision is what a set says of a request.
type Decision struct {
	ICCID   *id.ICCID // the profile meant, nil if there is none
	Ran     []string  // the rules that were asked, in order
	Refusal *Refusal  // nil: go on
	// Face is what whoever asks may read of the refusal.
	Face *Refusal
}

// Evaluate holds the rules against a request; the first that refuses ends it.
func (s Set) Evaluate(in Input) Decision {
	d := Decision{ICCID: in.ICCID}
	if p := in.profile(); p != nil {
		d.ICCID = &p.ICCID
	}
	for _, r := range s {
		d.Ran = append(d.Ran, r.Name)
		text := r.Check(&in)
		if text == "" {
			continue
		}
		d.Refusal = &Refusal{Rule: r.Name, SubjectCode: r.SubjectCode, ReasonCode: r.ReasonCode, Text: text}
		d.Face = d.Refusal
		if r.Face != nil {
			d.Face = r.Face(&in)
		}
		if in.ICCID == nil && d.Face != d.Refusal {
			d.ICCID = nil // the enabled profile is not theirs to know
		}
		break
	}
	return d
}
