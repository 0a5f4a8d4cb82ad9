package rules

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cardbridge/cardbridge/card/id"
)

// MaxInput bounds the JSON of an Input, in bytes.
const MaxInput = 1 << 20

// inputFile is an Input as JSON has it: by the names that expressions know it
// by. Whether operator, card and profile are known is whether they are there.
type inputFile struct {
	Request  *requestFile  `json:"request"`
	Operator *operatorFile `json:"operator,omitzero"`
	Card     *cardFile     `json:"card,omitzero"`
	History  historyFile   `json:"history,omitzero"`
	Now      time.Time     `json:"now,omitzero"`
}

type requestFile struct {
	ID               *id.RequestID `json:"id,omitzero"`
	EID              *id.EID       `json:"eid"`
	ICCID            *id.ICCID     `json:"iccid,omitzero"`
	Reason           byte          `json:"reason,omitzero"`
	User             string        `json:"user,omitzero"`
	LeaveUnconnected bool          `json:"leave_unconnected,omitzero"`
}

type operatorFile struct {
	Name   string     `json:"name,omitzero"`
	MCCMNC *id.MCCMNC `json:"mccmnc"`
}

type cardFile struct {
	Registered   *bool         `json:"registered"`
	Management   string        `json:"management,omitzero"`
	Groups       []string      `json:"groups,omitzero"`
	EventCounter uint32        `json:"event_counter,omitzero"`
	Unsettled    bool          `json:"unsettled,omitzero"`
	RegisteredAt time.Time     `json:"registered_at,omitzero"`
	Profiles     []profileFile `json:"profiles"`
}

type profileFile struct {
	ICCID          *id.ICCID  `json:"iccid"`
	MCCMNC         *id.MCCMNC `json:"mccmnc"`
	State          string     `json:"state"`
	Class          string     `json:"class,omitzero"`
	Provider       string     `json:"provider,omitzero"`
	Name           string     `json:"name,omitzero"`
	PPR1           bool       `json:"ppr1,omitzero"`
	PPR2           bool       `json:"ppr2,omitzero"`
	Fallback       bool       `json:"fallback,omitzero"`
	DisableAllowed *bool      `json:"disable_allowed"`
	EnabledAt      time.Time  `json:"enabled_at,omitzero"`
}

type historyFile struct {
	Operator Counts            `json:"operator,omitzero"`
	Groups   map[string]Counts `json:"groups,omitzero"`
}

// ParseInput parses the JSON of an Input (docs/rules.md). Members that are not
// known are errors, which name the member that is wrong. card.registered and a
// profile's disable_allowed are true where they are not there.
func ParseInput(b []byte) (*Input, error) {
	if len(b) > MaxInput {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxInput)
	}
	var f inputFile
	if err := json.Unmarshal(b, &f, json.RejectUnknownMembers(true)); err != nil {
		return nil, inputError(b, err)
	}
	return f.input()
}

// inputError says where in the JSON an error is.
func inputError(b []byte, err error) error {
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &semantic):
		why := semantic.Err
		switch t := semantic.GoType; {
		case errors.Is(err, json.ErrUnknownName):
			why = errors.New("no such member")
		case t != nil && (why == nil || semantic.JSONKind == '0'):
			why = fmt.Errorf("a %s where %s is wanted", semantic.JSONKind, wanted(t))
		}
		return fmt.Errorf("%s%.300s", path(semantic.JSONPointer), why)
	case errors.As(err, &syntax):
		line := bytes.Count(b[:min(int(syntax.ByteOffset), len(b))], []byte("\n")) + 1
		return fmt.Errorf("line %d: %s%.300s", line, path(syntax.JSONPointer), syntax.Err)
	}
	return err
}

// path is a JSON pointer as expressions write it, request.reason, with a colon.
func path(p jsontext.Pointer) string {
	if p == "" {
		return ""
	}
	return fmt.Sprintf("%.200s: ", strings.Join(slices.Collect(p.Tokens()), "."))
}

func (f *inputFile) input() (*Input, error) {
	switch {
	case f.Request == nil:
		return nil, errors.New("request is missing")
	case f.Request.EID == nil:
		return nil, errors.New("request.eid is missing")
	case f.Operator != nil && f.Operator.MCCMNC == nil:
		return nil, errors.New("operator.mccmnc is missing")
	}
	r := f.Request
	in := &Input{
		Request: r.ID, EID: *r.EID, ICCID: r.ICCID, Reason: r.Reason, User: r.User, LeaveUnconnected: r.LeaveUnconnected,
		History: History(f.History), Now: f.Now,
	}
	if f.Operator != nil {
		in.Operator = &Operator{f.Operator.Name, *f.Operator.MCCMNC}
	}
	if c := f.Card; c != nil {
		if c.Management != "" && c.Management != managedByApplet && c.Management != managedByES10c {
			return nil, fmt.Errorf("card.management: %.20q is neither applet nor es10c", c.Management)
		}
		in.Card = &Card{
			Registered: c.Registered == nil || *c.Registered, Plain: c.Management == managedByES10c, Groups: c.Groups, EventCounter: c.EventCounter,
			Unsettled: c.Unsettled, RegisteredAt: c.RegisteredAt,
		}
		for i, p := range c.Profiles {
			q, err := p.profile()
			if err != nil {
				return nil, fmt.Errorf("card.profiles.%d.%w", i, err)
			}
			in.Card.Profiles = append(in.Card.Profiles, q)
		}
	}
	return in, nil
}

func (p *profileFile) profile() (Profile, error) {
	switch {
	case p.ICCID == nil:
		return Profile{}, errors.New("iccid is missing")
	case p.MCCMNC == nil:
		return Profile{}, errors.New("mccmnc is missing")
	case p.State != "enabled" && p.State != "disabled" && p.State != "absent":
		return Profile{}, fmt.Errorf("state: %.20q is none of enabled, disabled, absent", p.State)
	}
	return Profile{
		ICCID: *p.ICCID, Owner: *p.MCCMNC, Enabled: p.State == "enabled", Absent: p.State == "absent",
		DisableAllowed: p.DisableAllowed == nil || *p.DisableAllowed, Class: p.Class, Provider: p.Provider, Name: p.Name,
		PPR1: p.PPR1, PPR2: p.PPR2, Fallback: p.Fallback, EnabledAt: p.EnabledAt,
	}, nil
}

// MarshalJSON is what ParseInput parses.
func (in *Input) MarshalJSON() ([]byte, error) {
	f := inputFile{
		Request: &requestFile{in.Request, &in.EID, in.ICCID, in.Reason, in.User, in.LeaveUnconnected},
		History: historyFile(in.History), Now: in.Now,
	}
	if in.Operator != nil {
		f.Operator = &operatorFile{in.Operator.Name, &in.Operator.MCCMNC}
	}
	if c := in.Card; c != nil {
		f.Card = &cardFile{&c.Registered, c.management(), c.Groups, c.EventCounter, c.Unsettled, c.RegisteredAt, make([]profileFile, len(c.Profiles))}
		for i := range c.Profiles {
			p := &c.Profiles[i]
			f.Card.Profiles[i] = profileFile{
				&p.ICCID, &p.Owner, string((*profileObject)(p).state()), p.Class, p.Provider, p.Name,
				p.PPR1, p.PPR2, p.Fallback, &p.DisableAllowed, p.EnabledAt,
			}
		}
	}
	return json.Marshal(&f)
}

// wanted is a Go type in words.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array"
	case reflect.Uint8:
		return "a whole number, 0 to 255,"
	case reflect.Uint32, reflect.Int64:
		return "a whole number"
	case reflect.Map, reflect.Struct:
		if t != reflect.TypeFor[time.Time]() {
			return "an object"
		}
	}
	return "a text"
}
