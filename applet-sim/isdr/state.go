package isdr

import (
	"slices"

	"github.com/cardbridge/cardbridge/card/id"
)

// State is what an eUICC stores, as far as the ISD-R sees it.
type State struct {
	EID           id.EID
	Profiles      []Profile
	Notifications []Notification // the oldest first
	Sequence      uint32         // number of the last notification
	DefaultDP     string         // SM-DP+ address, a host name; "": none
	InitialDP     string         // what a memory reset makes of it
	RootDS        string         // SM-DS address
	// BeforeTest is the operational profile that was enabled before a test
	// profile was; zero: none.
	BeforeTest id.ICCID
}

// Profile is one profile (§5.7.15, ProfileInfo).
type Profile struct {
	ICCID         id.ICCID
	AID           []byte // of the ISD-P, 5 to 16 bytes
	Enabled       bool
	Nickname      string
	Provider      string
	Name          string
	Class         Class
	Owner         id.MCCMNC
	PPR1          bool   // disabling not allowed
	PPR2          bool   // deletion not allowed
	NotifyAddress string // a host name, for every event; "": no notifications
}

// Class of a profile.
type Class byte

// The classes.
const (
	Test Class = iota
	Provisioning
	Operational
)

// Event is what a notification is of.
type Event byte

// The events: bits of NotificationEvent.
const (
	Install Event = iota
	Enable
	Disable
	Delete
)

// Notification is what the eUICC has for a profile's SM-DP+, until it is removed.
type Notification struct {
	Sequence uint32
	Event    Event
	Address  string
	ICCID    id.ICCID
}

// MaxNotifications is how many an eUICC keeps; the oldest makes room.
const MaxNotifications = 32

// enabled is the index of the enabled profile, or -1.
func (s *State) enabled() int {
	return slices.IndexFunc(s.Profiles, func(p Profile) bool { return p.Enabled })
}

// enabledICCID is the enabled profile's; zero: none.
func (s *State) enabledICCID() id.ICCID {
	if on := s.enabled(); on >= 0 {
		return s.Profiles[on].ICCID
	}
	return id.ICCID{}
}

// notify adds a notification of an event of p.
func (s *State) notify(p *Profile, e Event) {
	if p.NotifyAddress == "" {
		return
	}
	s.Sequence++
	all := append(slices.Clip(s.Notifications), Notification{s.Sequence, e, p.NotifyAddress, p.ICCID})
	s.Notifications = all[max(0, len(all)-MaxNotifications):]
}
