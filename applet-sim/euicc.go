package appletsim

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim/isdr"
	"github.com/cardbridge/cardbridge/card/id"
)

const insStoreData = 0xE2

// issuerDomain is the ISD-R: the card's profiles by SGP.22's ES10c, of the same
// memory as the management applet's.
var issuerDomain = &application{
	aids:         func(c *Card) [][]byte { return c.euicc.aids },
	selected:     (*Card).selectISDR,
	closed:       func(c *Card, n int) { c.euicc.blocks[n] = isdr.Blocks{} },
	instructions: map[byte]instruction{insStoreData: {form: proprietary, plain: (*Card).storeData}},
	proactive:    true,
}

// euicc is what the card has of its ISD-R.
type euicc struct {
	domain isdr.ISDR
	aids   [][]byte
	blocks [maxChannels]isdr.Blocks // RAM
}

func newEUICC(c *Card) euicc {
	about := c.image.about()
	return euicc{
		domain: isdr.ISDR{
			Memory: (*euiccMemory)(c), Rand: c.rand,
			Options: isdr.Options{RefuseBy69E1: about.M2MRefusals, SettleByReset: about.SettleByReset},
		},
		aids: hexed(about.ISDR),
	}
}

func hexed(in []Hex) (out [][]byte) {
	for _, h := range in {
		out = append(out, h)
	}
	return out
}

// selectISDR is SELECT by an AID of the ISD-R.
func (c *Card) selectISDR(_ int, aid []byte, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	const noFCI = 0x0C // bits of P2
	if cmd.P2&noFCI == noFCI {
		return nil, apdu.SWSuccess
	}
	return isdr.SelectAnswer(aid), apdu.SWSuccess
}

// storeData is STORE DATA (SGP.22 §5.7.2).
func (c *Card) storeData(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	request, sw := c.euicc.blocks[n].Add(cmd.P1, cmd.P2, cmd.Data)
	if request == nil {
		return nil, sw
	}
	answer, sw, refresh := c.euicc.domain.Process(request, c.toolkit.command != nil)
	if refresh {
		c.refresh()
	}
	return answer, sw
}

// EUICC is what an image's runtime says of the card as an eUICC. What it leaves out has a
// default.
type EUICC struct {
	ISDR          []Hex  `json:"isdr_aids,omitempty"`            // AIDs of the ISD-R; default: that of SGP.22
	DefaultDP     string `json:"default_dp_address,omitempty"`   // default SM-DP+; default: none
	RootDS        string `json:"root_ds_address,omitempty"`      // root SM-DS
	Notify        string `json:"notification_address,omitempty"` // of every profile; "-": there are no notifications
	M2MRefusals   bool   `json:"m2m_refusals,omitempty"`         // isdr.Options.RefuseBy69E1
	SettleByReset bool   `json:"settle_by_reset,omitempty"`      // isdr.Options.SettleByReset
	Plain         bool   `json:"plain,omitempty"`                // it has no management applet
}

var defaultEUICC = EUICC{
	ISDR:   []Hex{{0xA0, 0x00, 0x00, 0x05, 0x59, 0x10, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x89, 0x00, 0x00, 0x01, 0x00}},
	RootDS: "ds.example.com",
	Notify: "dp.example.com",
}

const (
	noNotifications = "-"

	maxISDR    = 8
	maxAddress = 128 // bytes of a host name
)

// about is what the image says of the card as an eUICC, defaults included.
func (im *Image) about() EUICC {
	e := defaultEUICC
	if im.Runtime == nil || im.Runtime.About == nil {
		return e
	}
	said := *im.Runtime.About
	if said.ISDR == nil {
		said.ISDR = e.ISDR
	}
	if said.RootDS == "" {
		said.RootDS = e.RootDS
	}
	if said.Notify == "" {
		said.Notify = e.Notify
	}
	return said
}

func (e *EUICC) clone() *EUICC {
	if e == nil {
		return nil
	}
	c := *e
	return &c
}

func (e *EUICC) check() error {
	if e == nil {
		return nil
	}
	if len(e.ISDR) > maxISDR {
		return fmt.Errorf("%w: euicc: %d AIDs, at most %d wanted", ErrImage, len(e.ISDR), maxISDR)
	}
	for _, aid := range e.ISDR {
		if len(aid) < 5 || len(aid) > 16 || bytes.Equal(aid, appletID) {
			return fmt.Errorf("%w: euicc: AID %X, 5 to 16 bytes wanted", ErrImage, []byte(aid))
		}
	}
	for _, address := range []string{e.DefaultDP, e.RootDS, e.Notify} {
		if err := checkText("address", address, maxAddress); err != nil {
			return fmt.Errorf("%w: euicc: %w", ErrImage, err)
		}
	}
	return nil
}

func checkText(what, s string, most int) error {
	if len(s) > most || !utf8.ValidString(s) {
		return fmt.Errorf("%s of %d bytes, at most %d bytes of UTF-8 wanted", what, len(s), most)
	}
	return nil
}

// EUICCRuntime is what the ISD-R stores beside the profiles.
type EUICCRuntime struct {
	Profiles      []EUICCProfile      `json:"profiles,omitempty"`           // those that differ from what the image makes of them
	DefaultDP     *string             `json:"default_dp_address,omitempty"` // nil: the image's
	Notifications []EUICCNotification `json:"notifications,omitempty"`      // the oldest first
	Sequence      uint32              `json:"sequence,omitempty"`           // number of the last notification
	BeforeTest    *id.ICCID           `json:"before_test,omitempty"`        // isdr.State.BeforeTest; nil: none
}

// EUICCProfile is what the ISD-R stores of a profile.
type EUICCProfile struct {
	ICCID    id.ICCID `json:"iccid"`
	AID      Hex      `json:"aid,omitempty"` // of the ISD-P; none: by the profile's place in the image
	Nickname string   `json:"nickname,omitempty"`
}

// EUICCNotification is a notification that waits.
type EUICCNotification struct {
	Sequence uint32   `json:"sequence"`
	Event    Event    `json:"event"`
	Address  string   `json:"address"`
	ICCID    id.ICCID `json:"iccid"`
}

// Event is what a notification is of: install, enable, disable or delete.
type Event string

// In the order of their bits.
var events = []Event{"install", "enable", "disable", "delete"}

func (r *EUICCRuntime) clone() *EUICCRuntime {
	if r == nil {
		return nil
	}
	c := *r
	c.Profiles = slices.Clone(r.Profiles)
	c.Notifications = slices.Clone(r.Notifications)
	return &c
}

// check holds r against the image that it belongs to.
func (r *EUICCRuntime) check(im *Image) error {
	if r == nil {
		return nil
	}
	for i, p := range r.Profiles {
		switch {
		case im.find(p.ICCID) < 0:
			return fmt.Errorf("%w: euicc: profile %s, which the card does not have", ErrImage, p.ICCID)
		case r.profile(p.ICCID) != &r.Profiles[i]:
			return fmt.Errorf("%w: euicc: profile %s twice", ErrImage, p.ICCID)
		case p.AID != nil && (len(p.AID) < 5 || len(p.AID) > 16):
			return fmt.Errorf("%w: euicc: AID %X, 5 to 16 bytes wanted", ErrImage, []byte(p.AID))
		}
		if err := checkText("nickname", p.Nickname, isdr.MaxNickname); err != nil {
			return fmt.Errorf("%w: euicc: profile %s: %w", ErrImage, p.ICCID, err)
		}
	}
	for i := range im.Profiles {
		aid := im.aid(i)
		if slices.IndexFunc(im.Profiles[:i], func(p Profile) bool { return bytes.Equal(aid, im.aid(im.find(p.ICCID))) }) >= 0 {
			return fmt.Errorf("%w: euicc: two profiles with AID %X", ErrImage, aid)
		}
	}
	if len(r.Notifications) > isdr.MaxNotifications {
		return fmt.Errorf("%w: euicc: %d notifications, at most %d wanted", ErrImage, len(r.Notifications), isdr.MaxNotifications)
	}
	last := uint32(0)
	for _, n := range r.Notifications {
		if n.Sequence <= last || n.Sequence > r.Sequence || !slices.Contains(events, n.Event) {
			return fmt.Errorf("%w: euicc: notification %d (%.20q) is not one of ascending numbers up to %d", ErrImage, n.Sequence, n.Event, r.Sequence)
		}
		last = n.Sequence
		if err := checkText("address", n.Address, maxAddress); err != nil {
			return fmt.Errorf("%w: euicc: notification %d: %w", ErrImage, n.Sequence, err)
		}
	}
	if r.DefaultDP != nil {
		if err := checkText("address", *r.DefaultDP, isdr.MaxAddress); err != nil {
			return fmt.Errorf("%w: euicc: %w", ErrImage, err)
		}
	}
	return nil
}

// profile is what is stored of a profile, nil for nothing.
func (r *EUICCRuntime) profile(iccid id.ICCID) *EUICCProfile {
	if i := slices.IndexFunc(r.Profiles, func(p EUICCProfile) bool { return p.ICCID == iccid }); i >= 0 {
		return &r.Profiles[i]
	}
	return nil
}

// euiccRuntime is what the ISD-R has stored, not to be changed; empty at first.
func (im *Image) euiccRuntime() *EUICCRuntime {
	if im.Runtime == nil || im.Runtime.EUICC == nil {
		return &EUICCRuntime{}
	}
	return im.Runtime.EUICC
}

// aid is the AID of the ISD-P of profile i.
func (im *Image) aid(i int) []byte {
	if p := im.euiccRuntime().profile(im.Profiles[i].ICCID); p != nil && p.AID != nil {
		return p.AID
	}
	const first = 0x10 // as real eUICCs number them (SGP.02 §2.2.3)
	return []byte{0xA0, 0x00, 0x00, 0x05, 0x59, 0x10, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x89, 0x00, 0x00, byte(first + i), 0x00}
}

// euiccMemory is the card's memory as the ISD-R has it.
type euiccMemory Card

// State implements isdr.Memory.
func (m *euiccMemory) State() isdr.State {
	im, stored, about := m.image, m.image.euiccRuntime(), m.image.about()
	s := isdr.State{
		EID: im.EID, RootDS: about.RootDS, DefaultDP: about.DefaultDP, InitialDP: about.DefaultDP, Sequence: stored.Sequence,
		Profiles: make([]isdr.Profile, len(im.Profiles)),
	}
	if stored.DefaultDP != nil {
		s.DefaultDP = *stored.DefaultDP
	}
	if stored.BeforeTest != nil {
		s.BeforeTest = *stored.BeforeTest
	}
	if about.Notify == noNotifications {
		about.Notify = ""
	}
	for i, p := range im.Profiles {
		s.Profiles[i] = isdr.Profile{
			ICCID: p.ICCID, AID: im.aid(i), Enabled: p.State == Enabled, Provider: p.Provider, Name: p.Name, Class: isdr.Class(p.Class.code()),
			Owner: p.Owner, PPR1: p.PPR1, PPR2: p.PPR2, NotifyAddress: about.Notify,
		}
		if own := stored.profile(p.ICCID); own != nil {
			s.Profiles[i].Nickname = own.Nickname
		}
	}
	for _, n := range stored.Notifications {
		s.Notifications = append(s.Notifications, isdr.Notification{
			Sequence: n.Sequence, Event: isdr.Event(slices.Index(events, n.Event)), Address: n.Address, ICCID: n.ICCID,
		})
	}
	return s
}

var errCounter = errors.New("appletsim: the event counter is at its end")

// SetState implements isdr.Memory.
func (m *euiccMemory) SetState(s isdr.State, changed bool) error {
	next := m.image.clone()
	if changed {
		if next.EventCounter == math.MaxUint32 {
			return errCounter
		}
		next.EventCounter++
	}
	stored := &EUICCRuntime{Sequence: s.Sequence}
	if s.DefaultDP != s.InitialDP {
		stored.DefaultDP = &s.DefaultDP
	}
	if s.BeforeTest != (id.ICCID{}) {
		stored.BeforeTest = &s.BeforeTest
	}
	for _, n := range s.Notifications {
		stored.Notifications = append(stored.Notifications, EUICCNotification{n.Sequence, events[n.Event], n.Address, n.ICCID})
	}
	next.runtime().EUICC = stored
	next.Profiles = next.Profiles[:0]
	for _, p := range s.Profiles {
		was := m.image.Profiles[m.image.find(p.ICCID)]
		was.State = states[flag(p.Enabled)]
		next.Profiles = append(next.Profiles, was)
	}
	for i, p := range s.Profiles {
		own := EUICCProfile{ICCID: p.ICCID, Nickname: p.Nickname}
		if !bytes.Equal(p.AID, next.aid(i)) {
			own.AID = p.AID // those before it are gone
		}
		if own.Nickname != "" || own.AID != nil {
			stored.Profiles = append(stored.Profiles, own)
		}
	}
	next.dropUSIMs()
	return (*Card)(m).persist(next)
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}
