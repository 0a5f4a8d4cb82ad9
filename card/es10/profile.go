package es10

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

// State of a profile (SGP.22 ProfileState).
type State byte

// The states of a profile.
const (
	Disabled State = 0
	Enabled  State = 1
)

var states = []string{"disabled", "enabled"}

func (s State) String() string { return word(states, "state", byte(s)) }

// MarshalText is the state's word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Class of a profile (SGP.22 ProfileClass).
type Class byte

// The classes of profiles.
const (
	Test         Class = 0
	Provisioning Class = 1
	Operational  Class = 2
)

var classes = []string{"test", "provisioning", "operational"}

func (c Class) String() string { return word(classes, "class", byte(c)) }

// MarshalText is the class's word.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func word(words []string, what string, b byte) string {
	if int(b) < len(words) {
		return words[b]
	}
	return fmt.Sprintf("%s %02X", what, b)
}

// Profile is what an eUICC says of one profile (SGP.22 ProfileInfo). What it
// leaves out is the zero value; a profile without a class is operational.
type Profile struct {
	ICCID    id.ICCID
	AID      []byte // of the ISD-P, 5 to 16 bytes
	State    State
	Nickname string
	Provider string // service provider name
	Name     string
	Class    Class
	Owner    *id.MCCMNC // nil: not said
	PPR1     bool       // disabling is not allowed
	PPR2     bool       // deletion is not allowed
}

// Tags of SGP.22 ProfileInfo.
const (
	tagEID      tlv.Tag = 0x5A
	tagProfile  tlv.Tag = 0xE3
	tagICCID    tlv.Tag = 0x5A
	tagAID      tlv.Tag = 0x4F
	tagState    tlv.Tag = 0x9F70
	tagNickname tlv.Tag = 0x90
	tagProvider tlv.Tag = 0x91
	tagName     tlv.Tag = 0x92
	tagClass    tlv.Tag = 0x95
	tagPPR      tlv.Tag = 0x99
	tagOwner    tlv.Tag = 0xB7

	tagList  tlv.Tag = 0xA0
	tagError tlv.Tag = 0x81
)

// profileTags are asked for: all of a Profile, and no icon.
var profileTags = []byte{0x5A, 0x4F, 0x9F, 0x70, 0x90, 0x91, 0x92, 0x95, 0x99, 0xB7}

// maxProfiles bounds a list; eUICCs hold some tens.
const maxProfiles = 128

// parseEID parses the answer to GetEID.
func parseEID(b []byte) (id.EID, error) {
	in, err := only(b, getEID.tag)
	if err != nil {
		return id.EID{}, err
	}
	v, err := only(in, tagEID)
	if err != nil {
		return id.EID{}, err
	}
	return id.EIDFromBytes(v)
}

// parseProfiles parses the answer to GetProfilesInfo; a list or an error code.
func parseProfiles(b []byte) ([]Profile, error) {
	list, err := parseList(b, getProfilesInfo)
	if err != nil {
		return nil, err
	}
	var profiles []Profile
	for len(list) > 0 {
		if len(profiles) == maxProfiles {
			return nil, fmt.Errorf("more than %d profiles", maxProfiles)
		}
		var v []byte
		if v, list, err = tlv.Expect(list, tagProfile); err != nil {
			return nil, err
		}
		p, err := parseProfile(v)
		if err != nil {
			return nil, fmt.Errorf("profile %d: %w", len(profiles)+1, err)
		}
		if _, twice := find(profiles, p.ICCID); twice {
			return nil, fmt.Errorf("profile %s twice", p.ICCID)
		}
		profiles = append(profiles, p)
	}
	return profiles, nil
}

// fields are how the members of ProfileInfo parse.
var fields = map[tlv.Tag]func(*Profile, []byte) error{
	tagICCID: func(p *Profile, v []byte) (err error) {
		p.ICCID, err = id.ICCIDFromBytes(v)
		return err
	},
	tagAID: func(p *Profile, v []byte) error {
		if len(v) < 5 || len(v) > 16 {
			return fmt.Errorf("an AID of %d bytes", len(v))
		}
		p.AID = v
		return nil
	},
	tagState:    func(p *Profile, v []byte) error { return enumerated(v, len(states), (*byte)(&p.State)) },
	tagNickname: func(p *Profile, v []byte) error { return text(v, &p.Nickname) },
	tagProvider: func(p *Profile, v []byte) error { return text(v, &p.Provider) },
	tagName:     func(p *Profile, v []byte) error { return text(v, &p.Name) },
	tagClass:    func(p *Profile, v []byte) error { return enumerated(v, len(classes), (*byte)(&p.Class)) },
	tagPPR:      func(p *Profile, v []byte) error { return policyRules(v, &p.PPR1, &p.PPR2) },
	tagOwner: func(p *Profile, v []byte) error {
		plmn, _, err := tlv.Expect(v, 0x80)
		if err != nil {
			return err
		}
		owner, err := id.MCCMNCFromBytes(plmn)
		if err == nil {
			p.Owner = &owner
		}
		return nil // some eUICCs say EEEEEE, which is nobody
	},
}

func parseProfile(b []byte) (Profile, error) {
	p := Profile{Class: Operational}
	parse := map[tlv.Tag]func([]byte) error{}
	missing := map[tlv.Tag]bool{tagICCID: true, tagState: true}
	for tag, f := range fields {
		parse[tag] = func(v []byte) error { delete(missing, tag); return f(&p, v) }
	}
	if err := members(b, parse); err != nil {
		return Profile{}, err
	}
	for _, must := range []tlv.Tag{tagICCID, tagState} {
		if missing[must] {
			return Profile{}, fmt.Errorf("no tag %X", uint16(must))
		}
	}
	return p, nil
}

// members reads data objects, each at most once, by what fits their tags. Others,
// which later versions add, are left out.
func members(b []byte, parse map[tlv.Tag]func([]byte) error) error {
	seen := map[tlv.Tag]bool{}
	for len(b) > 0 {
		o, rest, err := tlv.Read(b)
		if err != nil {
			return err
		}
		b = rest
		if seen[o.Tag] {
			return fmt.Errorf("tag %X twice", uint16(o.Tag))
		}
		seen[o.Tag] = true
		if f, known := parse[o.Tag]; known {
			if err := f(o.Value); err != nil {
				return fmt.Errorf("tag %X: %w", uint16(o.Tag), err)
			}
		}
	}
	return nil
}

// parseList is the value of the list that an answer has, or its error code.
func parseList(b []byte, f function) ([]byte, error) {
	in, err := only(b, f.tag)
	if err != nil {
		return nil, err
	}
	o, rest, err := tlv.Read(in)
	switch {
	case err != nil:
		return nil, err
	case len(rest) != 0:
		return nil, fmt.Errorf("%d bytes too many", len(rest))
	case o.Tag == tagError && len(o.Value) == 1:
		return nil, &Error{Function: f.name, Code: o.Value[0]}
	case o.Tag != tagList:
		return nil, fmt.Errorf("tag %X of %d bytes is neither a list nor an error", uint16(o.Tag), len(o.Value))
	}
	return o.Value, nil
}

// enumerated is an INTEGER or a flag of one byte, below n.
func enumerated(v []byte, n int, out *byte) error {
	if len(v) != 1 || int(v[0]) >= n {
		return fmt.Errorf("value %X is unknown", v[:min(len(v), 8)])
	}
	*out = v[0]
	return nil
}

func text(v []byte, out *string) error {
	if !utf8.Valid(v) {
		return errors.New("not UTF-8")
	}
	*out = string(v)
	return nil
}

// policyRules reads the value of the BIT STRING PprIds: PPR1 is bit 1, PPR2 bit 2.
func policyRules(v []byte, ppr1, ppr2 *bool) error {
	if len(v) == 0 || v[0] > 7 || len(v) == 1 && v[0] != 0 {
		return fmt.Errorf("%X is no BIT STRING", v[:min(len(v), 8)])
	}
	if len(v) > 1 {
		*ppr1, *ppr2 = v[1]&0x40 != 0, v[1]&0x20 != 0
	}
	return nil
}

// only is the value of the one data object that b is.
func only(b []byte, tag tlv.Tag) ([]byte, error) {
	v, rest, err := tlv.Expect(b, tag)
	if err == nil && len(rest) != 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	return v, err
}
