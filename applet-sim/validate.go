package appletsim

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// material is an image's keys, ready to use.
type material struct {
	keys    cryptogram.PrivateKeys
	servers []server // in ascending order of kid
}

// server is one server that the card knows.
type server struct {
	kid  byte
	keys cryptogram.PublicKeys
	sid  [32]byte
}

// load checks the image and parses its keys. The error matches ErrImage.
func (im *Image) load() (material, error) {
	var m material
	if err := im.EID.Check(); err != nil {
		return m, fmt.Errorf("%w: eid: %w", ErrImage, err)
	}
	if err := im.checkProfiles(); err != nil {
		return m, err
	}
	var err error
	if m.keys, err = im.Keys.Private(); err != nil {
		return m, fmt.Errorf("%w: keys: %w", ErrImage, err)
	}
	if err := im.checkSuites(len(m.keys.Auth)); err != nil {
		return m, err
	}
	if m.servers, err = im.loadServers(); err != nil {
		return m, err
	}
	return m, im.checkRuntime(m.servers)
}

// checkMemory checks what a card stores beside its keys.
func (im *Image) checkMemory(servers []server) error {
	if err := im.checkProfiles(); err != nil {
		return err
	}
	return im.checkRuntime(servers)
}

func (im *Image) loadServers() ([]server, error) {
	if n := len(im.ServerKeySets); im.ServerKeySets == nil || n > maxKeySets {
		return nil, fmt.Errorf("%w: %d server key sets, at most %d wanted, and [] for none", ErrImage, n, maxKeySets)
	}
	var all []server
	for _, set := range im.ServerKeySets {
		keys, err := set.Public()
		if err != nil {
			return nil, fmt.Errorf("%w: server key set %d: %w", ErrImage, set.ID, err)
		}
		if findServer(all, set.ID) != nil {
			return nil, fmt.Errorf("%w: two server key sets with id %d", ErrImage, set.ID)
		}
		all = append(all, server{kid: set.ID, keys: keys, sid: cryptogram.ServerID(set.ID, keys)})
	}
	slices.SortFunc(all, func(a, b server) int { return int(a.kid) - int(b.kid) })
	return all, nil
}

func findServer(all []server, kid byte) *server {
	for i := range all {
		if all[i].kid == kid {
			return &all[i]
		}
	}
	return nil
}

func (im *Image) checkSuites(authKeys int) error {
	if len(im.Suites) == 0 {
		return fmt.Errorf("%w: no suites", ErrImage)
	}
	for i, s := range im.Suites {
		switch {
		case s != int(cryptogram.Suite01) && s != int(cryptogram.Suite03):
			return fmt.Errorf("%w: suite %d, 1 or 3 wanted", ErrImage, s)
		case slices.Contains(im.Suites[:i], s):
			return fmt.Errorf("%w: suite %d twice", ErrImage, s)
		case s > authKeys:
			return fmt.Errorf("%w: suite %d with %d auth keys", ErrImage, s, authKeys)
		}
	}
	return nil
}

func (im *Image) checkProfiles() error {
	if len(im.Profiles) > maxProfiles {
		return fmt.Errorf("%w: %d profiles, at most %d wanted", ErrImage, len(im.Profiles), maxProfiles)
	}
	enabled, fallback := 0, 0
	for i, p := range im.Profiles {
		if err := p.check(); err != nil {
			return fmt.Errorf("%w: profile %d: %w", ErrImage, i+1, err)
		}
		if im.find(p.ICCID) != i {
			return fmt.Errorf("%w: profile %d: ICCID %s is another profile's too", ErrImage, i+1, p.ICCID)
		}
		if p.State == Enabled {
			enabled++
		}
		if p.Fallback {
			fallback++
		}
	}
	if enabled > 1 {
		return fmt.Errorf("%w: %d profiles are enabled, at most 1 may be", ErrImage, enabled)
	}
	if fallback > 1 {
		return fmt.Errorf("%w: %d profiles have the fallback attribute, at most 1 may", ErrImage, fallback)
	}
	return nil
}

func (p *Profile) check() error {
	// All zeroes is what an absent member leaves; neither exists as a number.
	if p.ICCID == (id.ICCID{}) {
		return fmt.Errorf("%w: no iccid", id.ErrInvalid)
	}
	if p.Owner == (id.MCCMNC{}) {
		return fmt.Errorf("%w: no mccmnc", id.ErrInvalid)
	}
	if _, err := id.ICCIDFromBytes(p.ICCID[:]); err != nil {
		return err
	}
	if _, err := id.MCCMNCFromBytes(p.Owner[:]); err != nil {
		return err
	}
	if !slices.Contains(states, p.State) {
		return fmt.Errorf("state %.20q, %q or %q wanted", p.State, Disabled, Enabled)
	}
	if !slices.Contains(classes, p.Class) {
		return fmt.Errorf("class %.20q, %q wanted", p.Class, classes)
	}
	for _, s := range []string{p.Provider, p.Name} {
		if len(s) > maxName || !utf8.ValidString(s) {
			return fmt.Errorf("name of %d bytes, at most %d bytes of UTF-8 wanted", len(s), maxName)
		}
	}
	return nil
}

func (im *Image) checkRuntime(servers []server) error {
	if im.Runtime == nil {
		return nil
	}
	if n := len(im.Runtime.Answers); n > maxAnswers {
		return fmt.Errorf("%w: %d stored answers, at most %d wanted", ErrImage, n, maxAnswers)
	}
	for i, a := range im.Runtime.Answers {
		if err := a.check(); err != nil {
			return fmt.Errorf("%w: stored answer %d: %w", ErrImage, i+1, err)
		}
		if im.answer(a.RequestID) != &im.Runtime.Answers[i] {
			return fmt.Errorf("%w: two stored answers to request %s", ErrImage, a.RequestID)
		}
	}
	for i, f := range im.Runtime.Failures {
		if findServer(servers, f.KID) == nil {
			return fmt.Errorf("%w: failures under key set %d, which the card does not have", ErrImage, f.KID)
		}
		if slices.IndexFunc(im.Runtime.Failures, func(o Failures) bool { return o.KID == f.KID }) != i {
			return fmt.Errorf("%w: two failure counts for key set %d", ErrImage, f.KID)
		}
	}
	if n := len(im.Runtime.Faults); n > fault.MaxArmed {
		return fmt.Errorf("%w: %d faults, at most %d wanted", ErrImage, n, fault.MaxArmed)
	}
	if err := im.Runtime.About.check(); err != nil {
		return err
	}
	if err := im.Runtime.EUICC.check(im); err != nil {
		return err
	}
	return im.checkUSIMs()
}

// check verifies that a stored answer is one to an operation that was done.
func (a *StoredAnswer) check() error {
	if len(a.Hash) != 32 {
		return fmt.Errorf("hash of %d bytes, 32 wanted", len(a.Hash))
	}
	if len(a.Response) > maxResponse {
		return fmt.Errorf("response of %d bytes, at most %d wanted", len(a.Response), maxResponse)
	}
	rest, last := []byte(a.Response), tlv.Tag(0)
	for len(rest) > 0 {
		o, after, err := tlv.Read(rest)
		if err != nil {
			return err
		}
		if last == 0 && (o.Tag != tagResult || len(o.Value) != 1 || result(o.Value[0]) != resultDone) {
			return fmt.Errorf("%w: the response does not begin with result 00", tlv.ErrMalformed)
		}
		rest, last = after, o.Tag
	}
	if last != tagReceipt {
		return fmt.Errorf("%w: the response does not end with a receipt", tlv.ErrMalformed)
	}
	return nil
}
