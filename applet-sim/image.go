package appletsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/applet-sim/uicc"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// ErrImage is matched by every error that says a card image is not one of
// docs/protocol.md §9.
var ErrImage = errors.New("appletsim: bad card image")

// Bounds of a card image. They keep GET STATUS within one response APDU.
const (
	maxImage    = 1 << 20 // bytes
	maxProfiles = 64
	maxName     = 255 // bytes of a provider's or profile's name
	maxKeySets  = 15
	maxAnswers  = 8   // §8: the last 8 done
	maxResponse = 600 // bytes of a stored response; a receipt has at most 512
)

// Image is a card image: what personalises an emulated card, and all that its
// persistent memory holds (§9).
type Image struct {
	EID           id.EID                 `json:"eid"`
	Keys          cryptogram.KeysPEM     `json:"keys"` // private
	ServerKeySets []cryptogram.KeySetPEM `json:"server_keysets"`
	Suites        []int                  `json:"suites"`
	Policy        Policy                 `json:"policy"`
	Profiles      []Profile              `json:"profiles"`
	EventCounter  uint32                 `json:"event_counter"`
	Runtime       *Runtime               `json:"runtime,omitempty"` // nil until something was stored
}

// String keeps the private keys out of logs.
func (im *Image) String() string { return "card image " + im.EID.String() }

// GoString keeps the private keys out of logs.
func (im *Image) GoString() string { return im.String() }

// Policy is what the card asks of every operation.
type Policy struct {
	RequireTriple bool `json:"require_triple"` // suite 03 alone may change a profile's state
}

// Profile is one profile of the card (§7).
type Profile struct {
	ICCID    id.ICCID  `json:"iccid"`
	Owner    id.MCCMNC `json:"mccmnc"`
	State    State     `json:"state"`
	Class    Class     `json:"class"`
	Provider string    `json:"provider"`
	Name     string    `json:"name"`
	PPR1     bool      `json:"ppr1"` // disabling not allowed
	PPR2     bool      `json:"ppr2"` // deletion not allowed
	Fallback bool      `json:"fallback"`
}

// State is a profile's state.
type State string

// The states of §7.
const (
	Disabled State = "disabled"
	Enabled  State = "enabled"
)

func (s State) code() byte { return byte(slices.Index(states, s)) }

// Class is a profile's class.
type Class string

// The classes of §7.
const (
	Test         Class = "test"
	Provisioning Class = "provisioning"
	Operational  Class = "operational"
)

func (c Class) code() byte { return byte(slices.Index(classes, c)) }

// In the order of their codes.
var (
	states  = []State{Disabled, Enabled}
	classes = []Class{Test, Provisioning, Operational}
)

// Runtime is what the card stores beside its profiles, and what this emulator
// alone is told of it (docs/adr/0009-the-uicc.md).
type Runtime struct {
	Answers  []StoredAnswer `json:"answers,omitempty"`  // the oldest first
	Failures []Failures     `json:"failures,omitempty"` // none where it is 0
	About    *EUICC         `json:"about,omitempty"`    // nil: all defaults
	EUICC    *EUICCRuntime  `json:"euicc,omitempty"`    // nil until the ISD-R stored something
	USIMs    []USIM         `json:"usims,omitempty"`    // none where it is as it was made
	Faults   []Fault        `json:"faults,omitempty"`   // armed whenever a card is made of the image
}

// runtimeMark says that a member runtime is this emulator's: another's is
// ignored (§9).
const runtimeMark = "cardbridge applet-sim 1"

type markedRuntime struct {
	By string `json:"by"`
	plainRuntime
}

type plainRuntime Runtime // without methods

// MarshalJSON is the member, with this emulator's mark.
func (r Runtime) MarshalJSON() ([]byte, error) {
	return json.Marshal(markedRuntime{runtimeMark, plainRuntime(r)})
}

// UnmarshalJSON takes what this emulator wrote, strictly, and leaves r empty
// for what another one did.
func (r *Runtime) UnmarshalJSON(b []byte) error {
	var mark struct {
		By string `json:"by"`
	}
	var m markedRuntime
	if json.Unmarshal(b, &mark) == nil && mark.By == runtimeMark {
		if err := cryptogram.DecodeStrict(b, &m); err != nil {
			return err
		}
	}
	*r = Runtime(m.plainRuntime)
	return nil
}

// StoredAnswer is the answer to an operation that was done (§8).
type StoredAnswer struct {
	RequestID id.RequestID `json:"request_id"`
	Hash      Hex          `json:"hash"`     // H(INS ‖ command data)
	Response  Hex          `json:"response"` // response data, receipt included
}

// Failures counts failed authentications under one server key set (§4).
type Failures struct {
	KID   byte   `json:"id"`
	Count uint16 `json:"count"` // saturates
}

// Hex is bytes that a file has as hexadecimal digits.
type Hex = uicc.Hex

// ParseImage parses a card image and checks all of it. The error matches
// ErrImage and tells nothing of the keys.
func ParseImage(b []byte) (*Image, error) {
	if len(b) > maxImage {
		return nil, fmt.Errorf("%w: %d bytes, at most %d wanted", ErrImage, len(b), maxImage)
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrImage)
	}
	im := &Image{}
	if err := cryptogram.DecodeStrict(b, im); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	if _, err := im.load(); err != nil {
		return nil, err
	}
	return im, nil
}

// reread is what the memory of a card that knows those servers holds now. Its
// keys are not parsed again.
func reread(b []byte, servers []server) (*Image, error) {
	now := &Image{}
	if err := cryptogram.DecodeStrict(b, now); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	return now, now.checkMemory(servers)
}

// Marshal is the image as it stands in a file.
func (im *Image) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(im); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	return b.Bytes(), nil
}

// Record is the card record that registers the image's card with a server (§9).
// The error matches cryptogram.ErrKey.
func (im *Image) Record() ([]byte, error) {
	if im.about().Plain {
		return im.plainRecord()
	}
	keys, err := im.Keys.PublicHalf()
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(struct {
		EID          id.EID             `json:"eid"`
		Keys         cryptogram.KeysPEM `json:"keys"`
		Suites       []int              `json:"suites"`
		Policy       Policy             `json:"policy"`
		Profiles     []Profile          `json:"profiles"`
		EventCounter uint32             `json:"event_counter"`
	}{im.EID, keys, im.Suites, im.Policy, im.Profiles, im.EventCounter}, "", "  ")
	return append(b, '\n'), err
}

// plainRecord is the record of a plain eUICC: it has no keys, and ES10c does not
// know the fallback attribute.
func (im *Image) plainRecord() ([]byte, error) {
	type profile struct {
		Profile
		Fallback bool `json:"fallback,omitempty"` // in place of the other
	}
	out := struct {
		Management string    `json:"management"`
		EID        id.EID    `json:"eid"`
		Profiles   []profile `json:"profiles"`
	}{"es10c", im.EID, []profile{}}
	for _, p := range im.Profiles {
		out.Profiles = append(out.Profiles, profile{Profile: p})
	}
	b, err := json.MarshalIndent(out, "", "  ")
	return append(b, '\n'), err
}

// clone is a copy to change: of all but the bytes of stored answers and files.
func (im *Image) clone() *Image {
	c := *im
	c.Keys.Auth = slices.Clone(im.Keys.Auth)
	c.ServerKeySets = slices.Clone(im.ServerKeySets)
	for i := range c.ServerKeySets {
		c.ServerKeySets[i].Auth = slices.Clone(c.ServerKeySets[i].Auth)
	}
	c.Suites = slices.Clone(im.Suites)
	c.Profiles = slices.Clone(im.Profiles)
	if im.Runtime != nil {
		c.Runtime = im.Runtime.clone()
	}
	return &c
}

func (r *Runtime) clone() *Runtime {
	c := &Runtime{
		Answers:  slices.Clone(r.Answers),
		Failures: slices.Clone(r.Failures),
		About:    r.About.clone(),
		EUICC:    r.EUICC.clone(),
		USIMs:    slices.Clone(r.USIMs),
		Faults:   r.Faults, // never changed
	}
	for i := range c.USIMs {
		c.USIMs[i].Data = c.USIMs[i].Clone()
	}
	return c
}

// switchTo is the image with profile i enabled and no other, none where i is
// negative, and the event counter one up: what every cause of a change comes to
// (§7). ok is false where the counter is at its end: it never goes back.
func (im *Image) switchTo(i int) (next *Image, ok bool) {
	if im.EventCounter == math.MaxUint32 {
		return nil, false
	}
	next = im.clone()
	next.EventCounter++
	for j := range next.Profiles {
		next.Profiles[j].State = Disabled
	}
	if i >= 0 {
		next.Profiles[i].State = Enabled
	}
	return next, true
}

// storeAnswer adds an answer and forgets the oldest where there are too many.
func (im *Image) storeAnswer(a StoredAnswer) {
	r := im.runtime()
	r.Answers = append(r.Answers, a)
	r.Answers = r.Answers[max(0, len(r.Answers)-maxAnswers):]
}

func (im *Image) setFailures(kid byte, n uint16) {
	r := im.runtime()
	i := slices.IndexFunc(r.Failures, func(f Failures) bool { return f.KID == kid })
	if i < 0 {
		r.Failures = append(r.Failures, Failures{KID: kid, Count: n})
		return
	}
	r.Failures[i].Count = n
}

func (im *Image) runtime() *Runtime {
	if im.Runtime == nil {
		im.Runtime = &Runtime{}
	}
	return im.Runtime
}

func (im *Image) has(s cryptogram.Suite) bool { return slices.Contains(im.Suites, int(s)) }

// enabled is the index of the enabled profile, -1 if there is none.
func (im *Image) enabled() int {
	return slices.IndexFunc(im.Profiles, func(p Profile) bool { return p.State == Enabled })
}

// enabledICCID is the enabled profile's, all zeroes if there is none.
func (im *Image) enabledICCID() (iccid id.ICCID) {
	if i := im.enabled(); i >= 0 {
		iccid = im.Profiles[i].ICCID
	}
	return iccid
}

// fallback is the index of the profile with the fallback attribute, or -1.
func (im *Image) fallback() int {
	return slices.IndexFunc(im.Profiles, func(p Profile) bool { return p.Fallback })
}

// find is the index of a profile, or -1.
func (im *Image) find(iccid id.ICCID) int {
	return slices.IndexFunc(im.Profiles, func(p Profile) bool { return p.ICCID == iccid })
}

// answer is the stored answer to a request, nil if there is none.
func (im *Image) answer(r id.RequestID) *StoredAnswer {
	if im.Runtime == nil {
		return nil
	}
	for i := range im.Runtime.Answers {
		if im.Runtime.Answers[i].RequestID == r {
			return &im.Runtime.Answers[i]
		}
	}
	return nil
}

func (im *Image) failures(kid byte) uint16 {
	if im.Runtime == nil {
		return 0
	}
	for _, f := range im.Runtime.Failures {
		if f.KID == kid {
			return f.Count
		}
	}
	return 0
}
