// Package card is the server's side of the card protocol (docs/protocol.md):
// it authenticates itself and a card to each other, reads the card's profiles,
// and deactivates and activates them, over any apdu.Transmitter.
//
// What a card is told to do is either proven done, proven refused, or unknown:
// see Terminal.Attempt.
package card

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// ErrRecord is matched by every error that says a card record is not one.
var ErrRecord = errors.New("card: bad card record")

// State of a profile, as 9F70 and 92 code it (§7).
type State byte

// The states of a profile.
const (
	Disabled State = 0x00
	Enabled  State = 0x01
)

func (s State) String() string {
	switch s {
	case Disabled:
		return "disabled"
	case Enabled:
		return "enabled"
	}
	return fmt.Sprintf("state %02X", byte(s))
}

// MarshalText is the state's word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the state's word.
func (s *State) UnmarshalText(b []byte) error {
	switch string(b) {
	case "disabled":
		*s = Disabled
	case "enabled":
		*s = Enabled
	default:
		return fmt.Errorf("state %.20q is neither enabled nor disabled", b)
	}
	return nil
}

// Class of a profile, as 95 codes it (§7).
type Class byte

// The classes of profiles (SGP.22 ProfileClass).
const (
	Test         Class = 0
	Provisioning Class = 1
	Operational  Class = 2
)

var classes = []string{"test", "provisioning", "operational"}

func (c Class) String() string {
	if int(c) < len(classes) {
		return classes[c]
	}
	return fmt.Sprintf("class %d", byte(c))
}

// MarshalText is the class's word.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText takes the class's word.
func (c *Class) UnmarshalText(b []byte) error {
	i := slices.Index(classes, string(b))
	if i < 0 {
		return fmt.Errorf("class %.20q is none of %v", b, classes)
	}
	*c = Class(i)
	return nil
}

// Profile is one profile of a card (§7).
type Profile struct {
	ICCID    id.ICCID  `json:"iccid"`
	Owner    id.MCCMNC `json:"mccmnc"`
	State    State     `json:"state"`
	Class    Class     `json:"class"`
	Provider string    `json:"provider"` // service provider name
	Name     string    `json:"name"`
	PPR1     bool      `json:"ppr1"` // disabling is not allowed
	PPR2     bool      `json:"ppr2"` // deletion is not allowed
	Fallback bool      `json:"fallback"`
}

// Record is a card as it is registered with a server (§9).
type Record struct {
	EID           id.EID
	Keys          cryptogram.PublicKeys
	Suites        []cryptogram.Suite
	RequireTriple bool // the card takes DEACTIVATE and ACTIVATE in suite 03 only
	Profiles      []Profile
	EventCounter  uint32
}

const (
	maxRecord   = 256 << 10 // bytes of a card record file
	maxProfiles = 64
)

type recordJSON struct {
	EID    id.EID             `json:"eid"`
	Keys   cryptogram.KeysPEM `json:"keys"`
	Suites []int              `json:"suites"`
	Policy struct {
		RequireTriple bool `json:"require_triple"`
	} `json:"policy"`
	Profiles     []Profile `json:"profiles"`
	EventCounter uint32    `json:"event_counter"`
	// Runtime is what an emulator keeps beside its card image; ignored.
	Runtime json.RawMessage `json:"runtime,omitempty"`
}

// ParseRecord parses a card record file and checks all that §2, §7 and §9 ask
// of it. The error matches ErrRecord.
func ParseRecord(b []byte) (*Record, error) {
	if len(b) > maxRecord {
		return nil, fmt.Errorf("%w: %d bytes", ErrRecord, len(b))
	}
	var j recordJSON
	if err := cryptogram.DecodeStrict(b, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	keys, err := j.Keys.Public()
	if err != nil {
		return nil, fmt.Errorf("%w: keys: %w", ErrRecord, err)
	}
	r := &Record{EID: j.EID, Keys: keys, RequireTriple: j.Policy.RequireTriple, Profiles: j.Profiles, EventCounter: j.EventCounter}
	for _, s := range j.Suites {
		if s != int(cryptogram.Suite01) && s != int(cryptogram.Suite03) {
			return nil, fmt.Errorf("%w: suite %d, 1 or 3 wanted", ErrRecord, s)
		}
		r.Suites = append(r.Suites, cryptogram.Suite(s))
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Record) validate() error {
	if err := r.EID.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if len(r.Suites) == 0 {
		return fmt.Errorf("%w: no suites", ErrRecord)
	}
	for i, s := range r.Suites {
		if !r.Keys.Supports(s) {
			return fmt.Errorf("%w: suite %s with %d auth keys", ErrRecord, s, len(r.Keys.Auth))
		}
		if slices.Contains(r.Suites[:i], s) {
			return fmt.Errorf("%w: suite %s twice", ErrRecord, s)
		}
	}
	if r.RequireTriple && !slices.Contains(r.Suites, cryptogram.Suite03) {
		return fmt.Errorf("%w: require_triple without suite 03", ErrRecord)
	}
	if err := checkProfiles(r.Profiles); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return nil
}

// PlainRecord is a plain eUICC, without the management applet, as it is registered
// with a server: it has no keys. Of its profiles ICCID and owner have to be
// known, the rest is read from the card.
type PlainRecord struct {
	EID      id.EID
	Profiles []Profile
}

// managementES10c is the member that tells a PlainRecord from a Record.
const managementES10c = "es10c"

type plainJSON struct {
	Management string         `json:"management"`
	EID        id.EID         `json:"eid"`
	Profiles   []plainProfile `json:"profiles"`
}

type plainProfile struct {
	ICCID    id.ICCID  `json:"iccid"`
	Owner    id.MCCMNC `json:"mccmnc"`
	State    State     `json:"state"`
	Class    *Class    `json:"class"` // operational
	Provider string    `json:"provider"`
	Name     string    `json:"name"`
	PPR1     bool      `json:"ppr1"`
	PPR2     bool      `json:"ppr2"`
}

// IsPlainRecord reports whether a card record file says that the card is managed
// by ES10c.
func IsPlainRecord(b []byte) bool {
	var j struct {
		Management string `json:"management"`
	}
	return len(b) <= maxRecord && json.Unmarshal(b, &j) == nil && j.Management == managementES10c
}

// ParsePlainRecord parses the record of a plain eUICC: a card record with
// "management": "es10c" in place of keys, suites and policy. The error matches
// ErrRecord.
func ParsePlainRecord(b []byte) (*PlainRecord, error) {
	if len(b) > maxRecord {
		return nil, fmt.Errorf("%w: %d bytes", ErrRecord, len(b))
	}
	var j plainJSON
	if err := cryptogram.DecodeStrict(b, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if j.Management != managementES10c {
		return nil, fmt.Errorf("%w: management %.20q, %s wanted", ErrRecord, j.Management, managementES10c)
	}
	r := &PlainRecord{EID: j.EID}
	for _, p := range j.Profiles {
		out := Profile{
			ICCID: p.ICCID, Owner: p.Owner, State: p.State, Class: Operational, Provider: p.Provider, Name: p.Name, PPR1: p.PPR1, PPR2: p.PPR2,
		}
		if p.Class != nil {
			out.Class = *p.Class
		}
		r.Profiles = append(r.Profiles, out)
	}
	if err := errors.Join(r.EID.Check(), checkProfiles(r.Profiles)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return r, nil
}

// MarshalJSON is what ParsePlainRecord parses.
func (r *PlainRecord) MarshalJSON() ([]byte, error) {
	j := plainJSON{Management: managementES10c, EID: r.EID, Profiles: []plainProfile{}}
	for _, p := range r.Profiles {
		j.Profiles = append(j.Profiles, plainProfile{p.ICCID, p.Owner, p.State, &p.Class, p.Provider, p.Name, p.PPR1, p.PPR2})
	}
	return json.Marshal(j)
}

func checkProfiles(profiles []Profile) error {
	if len(profiles) > maxProfiles {
		return fmt.Errorf("%d profiles, at most %d", len(profiles), maxProfiles)
	}
	enabled, fallback := 0, 0
	for i, p := range profiles {
		if p.ICCID == (id.ICCID{}) {
			return fmt.Errorf("profile %d has no iccid", i+1)
		}
		if p.Owner == (id.MCCMNC{}) {
			return fmt.Errorf("profile %s has no mccmnc", p.ICCID)
		}
		for _, q := range profiles[:i] {
			if q.ICCID == p.ICCID {
				return fmt.Errorf("profile %s twice", p.ICCID)
			}
		}
		if p.State == Enabled {
			enabled++
		}
		if p.Fallback {
			fallback++
		}
	}
	if enabled > 1 {
		return fmt.Errorf("%d profiles are enabled, at most one can be", enabled)
	}
	if fallback > 1 {
		return fmt.Errorf("%d profiles have the fallback attribute, at most one can", fallback)
	}
	return nil
}

// MarshalJSON is the card record file.
func (r *Record) MarshalJSON() ([]byte, error) {
	keys, err := cryptogram.EncodePublic(r.Keys)
	if err != nil {
		return nil, err
	}
	j := recordJSON{EID: r.EID, Keys: keys, Profiles: r.Profiles, EventCounter: r.EventCounter}
	for _, s := range r.Suites {
		j.Suites = append(j.Suites, int(s))
	}
	j.Policy.RequireTriple = r.RequireTriple
	return json.Marshal(j)
}

// Target is the record's part in authentication. The suite is 03 where the card
// demands it, else 01.
func (r *Record) Target() Target {
	t := Target{EID: r.EID, Keys: r.Keys, Suite: cryptogram.Suite01}
	if r.RequireTriple || !slices.Contains(r.Suites, cryptogram.Suite01) {
		t.Suite = cryptogram.Suite03
	}
	return t
}

// Profile is the profile with that ICCID; ok reports whether there is one.
func (r *Record) Profile(iccid id.ICCID) (p Profile, ok bool) { return findProfile(r.Profiles, iccid) }

func findProfile(profiles []Profile, iccid id.ICCID) (Profile, bool) {
	i := slices.IndexFunc(profiles, func(p Profile) bool { return p.ICCID == iccid })
	if i < 0 {
		return Profile{}, false
	}
	return profiles[i], true
}
