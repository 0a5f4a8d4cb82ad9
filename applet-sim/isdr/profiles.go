package isdr

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

// Tags of ProfileInfo, and of what names a profile.
const (
	tagICCID         tlv.Tag = 0x5A
	tagAID           tlv.Tag = 0x4F
	tagState         tlv.Tag = 0x9F70
	tagNickname      tlv.Tag = 0x90
	tagProvider      tlv.Tag = 0x91
	tagName          tlv.Tag = 0x92
	tagClass         tlv.Tag = 0x95
	tagNotifications tlv.Tag = 0xB6
	tagOwner         tlv.Tag = 0xB7
	tagPPR           tlv.Tag = 0x99

	tagTagList tlv.Tag = 0x5C
)

// profileTags are the tags of ProfileInfo in their order. Those up to the class,
// and the policy rules, are told where no tag list asks for others.
var profileTags = []tlv.Tag{
	tagICCID, tagAID, tagState, tagNickname, tagProvider, tagName, tagClass, tagNotifications, tagOwner, tagPPR,
}

var defaultTags = []tlv.Tag{tagICCID, tagAID, tagState, tagNickname, tagProvider, tagName, tagClass, tagPPR}

// appendTag appends a member of ProfileInfo where the profile has it. Provider
// and name are there even if they are empty: client programs rely on that.
func (p *Profile) appendTag(b []byte, tag tlv.Tag) []byte {
	switch tag {
	case tagICCID:
		return tlv.Append(b, tag, p.ICCID[:]...)
	case tagAID:
		return tlv.Append(b, tag, p.AID...)
	case tagState:
		return tlv.Append(b, tag, flag(p.Enabled))
	case tagProvider:
		return tlv.Append(b, tag, []byte(p.Provider)...)
	case tagName:
		return tlv.Append(b, tag, []byte(p.Name)...)
	case tagClass:
		return tlv.Append(b, tag, byte(p.Class))
	case tagOwner:
		return tlv.Append(b, tag, tlv.Append(nil, 0x80, p.Owner[:]...)...)
	case tagNickname:
		if p.Nickname != "" {
			return tlv.Append(b, tag, []byte(p.Nickname)...)
		}
	case tagNotifications:
		if p.NotifyAddress != "" {
			one := tlv.Append(nil, 0x80, bits(true, true, true, true)...)
			one = tlv.Append(one, 0x81, []byte(p.NotifyAddress)...)
			return tlv.Append(b, tag, tlv.Append(nil, 0x30, one...)...)
		}
	case tagPPR:
		if p.PPR1 || p.PPR2 {
			return tlv.Append(b, tag, bits(false, p.PPR1, p.PPR2)...)
		}
	}
	return b
}

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// bits is the value of a BIT STRING with named bits, as DER has it: no trailing
// zero bits.
func bits(on ...bool) []byte {
	n := len(on)
	for n > 0 && !on[n-1] {
		n--
	}
	out := make([]byte, 1+(n+7)/8)
	out[0] = byte((8 - n%8) % 8)
	for i, b := range on[:n] {
		if b {
			out[1+i/8] |= 0x80 >> (i % 8)
		}
	}
	return out
}

// bit reads bit n of the value of a BIT STRING; it must be checked.
func bit(v []byte, n int) bool { return 1+n/8 < len(v) && v[1+n/8]&(0x80>>(n%8)) != 0 }

func isBits(v []byte) bool { return len(v) > 0 && v[0] < 8 && (len(v) > 1 || v[0] == 0) }

// profilesInfo is GetProfilesInfo (§5.7.15).
func (c *call) profilesInfo(body []byte) ([]byte, error) {
	var criteria, tagList []byte
	if err := objects(body, map[tlv.Tag]*[]byte{0xA0: &criteria, tagTagList: &tagList}); err != nil {
		return nil, err
	}
	incorrect := []byte{0x81, 0x01, 1}
	tags, ok := readTags(tagList)
	fits := func(*Profile) bool { return true }
	if criteria != nil && ok {
		fits, ok = readCriteria(criteria)
	}
	if !ok {
		return incorrect, nil
	}
	var all []byte
	for i := range c.Profiles {
		if !fits(&c.Profiles[i]) {
			continue
		}
		var info []byte
		for _, tag := range tags {
			info = c.Profiles[i].appendTag(info, tag)
		}
		all = tlv.Append(all, 0xE3, info...)
		if len(all) > maxAnswer {
			break
		}
	}
	return list(all), nil
}

// readTags reads a tag list: the tags of ProfileInfo that it has, in their order.
func readTags(b []byte) ([]tlv.Tag, bool) {
	if b == nil {
		return defaultTags, true
	}
	var asked []tlv.Tag
	for len(b) > 0 {
		tag := tlv.Tag(b[0])
		b = b[1:]
		if tag&0x1F == 0x1F {
			if len(b) == 0 || b[0]&0x80 != 0 {
				return nil, false
			}
			tag = tag<<8 | tlv.Tag(b[0])
			b = b[1:]
		}
		asked = append(asked, tag)
	}
	return slices.DeleteFunc(slices.Clone(profileTags), func(t tlv.Tag) bool { return !slices.Contains(asked, t) }), true
}

// readCriteria reads what a search is for: one AID, ICCID or class.
func readCriteria(b []byte) (func(*Profile) bool, bool) {
	o, rest, err := tlv.Read(b)
	switch {
	case err != nil || len(rest) > 0:
	case o.Tag == tagClass && len(o.Value) == 1:
		return func(p *Profile) bool { return byte(p.Class) == o.Value[0] }, true
	case o.Tag == tagAID, o.Tag == tagICCID:
		return func(p *Profile) bool { return p.named(o) }, true
	}
	return nil, false
}

// named reports whether an AID or ICCID is the profile's. An ICCID without its
// padding is taken, for some clients leave it out.
func (p *Profile) named(o tlv.Object) bool {
	if o.Tag == tagAID {
		return bytes.Equal(o.Value, p.AID)
	}
	var iccid id.ICCID
	if len(o.Value) > len(iccid) {
		return false
	}
	for i := range iccid {
		iccid[i] = 0xFF
	}
	copy(iccid[:], o.Value)
	return iccid == p.ICCID
}

// find reads an AID or ICCID and gives the index of the profile that has it, -1
// for none.
func (c *call) find(b []byte) (int, error) {
	o, rest, err := tlv.Read(b)
	if err != nil {
		return 0, err
	}
	if len(rest) > 0 || o.Tag != tagAID && o.Tag != tagICCID {
		return 0, tlv.ErrMalformed
	}
	return slices.IndexFunc(c.Profiles, func(p Profile) bool { return p.named(o) }), nil
}

// target reads the request of EnableProfile and DisableProfile.
func (c *call) target(body []byte) (index int, refresh bool, err error) {
	var name, flag []byte
	if err := objects(body, map[tlv.Tag]*[]byte{0xA0: &name, 0x81: &flag}); err != nil {
		return 0, false, err
	}
	if len(flag) != 1 {
		return 0, false, tlv.ErrMalformed
	}
	index, err = c.find(name)
	return index, flag[0] != 0, err // pySim-shell has 01 for TRUE
}

// enable is EnableProfile (§5.7.16): it disables the enabled profile in the same
// step. The policy rules of that one hold whatever is enabled.
func (c *call) enable(body []byte) ([]byte, error) {
	target, refresh, err := c.target(body)
	if err != nil {
		return nil, err
	}
	on := c.State.enabled()
	switch {
	case target < 0:
		return result(resultNone), nil
	case c.Profiles[target].Enabled:
		return result(resultState), nil
	case on >= 0 && c.Profiles[on].PPR1:
		return c.forbidden()
	}
	p := &c.Profiles[target]
	if on >= 0 && c.Profiles[on].Class == Test && p.Class != Test && c.BeforeTest != (id.ICCID{}) && c.BeforeTest != p.ICCID {
		return result(resultReenabling), nil
	}
	if refresh && c.busy {
		return result(resultBusy), nil
	}
	switch {
	case p.Class != Test:
		c.BeforeTest = id.ICCID{}
	case on >= 0 && c.Profiles[on].Class != Test:
		c.BeforeTest = c.Profiles[on].ICCID
	}
	if on >= 0 {
		c.Profiles[on].Enabled = false
		c.notify(&c.Profiles[on], Disable)
	}
	p.Enabled = true
	c.notify(p, Enable)
	c.write, c.changed, c.refresh = true, true, refresh
	return result(resultOK), nil
}

// disable is DisableProfile (§5.7.17).
func (c *call) disable(body []byte) ([]byte, error) {
	target, refresh, err := c.target(body)
	if err != nil {
		return nil, err
	}
	switch {
	case target < 0:
		return result(resultNone), nil
	case !c.Profiles[target].Enabled:
		return result(resultState), nil
	case c.Profiles[target].PPR1:
		return c.forbidden()
	case refresh && c.busy:
		return result(resultBusy), nil
	}
	c.BeforeTest = id.ICCID{}
	c.Profiles[target].Enabled = false
	c.notify(&c.Profiles[target], Disable)
	c.write, c.changed, c.refresh = true, true, refresh
	return result(resultOK), nil
}

func (c *call) forbidden() ([]byte, error) {
	if c.Options.RefuseBy69E1 {
		return nil, errPolicy
	}
	return result(resultPolicy), nil
}

// delete is DeleteProfile (§5.7.18).
func (c *call) delete(body []byte) ([]byte, error) {
	target, err := c.find(body)
	switch {
	case err != nil:
		return nil, err
	case target < 0:
		return result(resultNone), nil
	case c.Profiles[target].Enabled:
		return result(resultState), nil
	case c.Profiles[target].PPR2:
		return c.forbidden()
	}
	c.remove(func(p *Profile) bool { return p == &c.Profiles[target] })
	return result(resultOK), nil
}

// remove deletes the profiles that gone says.
func (c *call) remove(gone func(*Profile) bool) {
	kept := make([]Profile, 0, len(c.Profiles))
	for i := range c.Profiles {
		p := &c.Profiles[i]
		if !gone(p) {
			kept = append(kept, *p)
			continue
		}
		c.notify(p, Delete)
		if p.ICCID == c.BeforeTest {
			c.BeforeTest = id.ICCID{}
		}
		c.write, c.changed = true, true
	}
	c.Profiles = kept
}

// MaxNickname is the most bytes of a nickname.
const MaxNickname = 64

// setNickname is SetNickname (§5.7.21); an empty one takes it away.
func (c *call) setNickname(body []byte) ([]byte, error) {
	var iccid, name []byte
	if err := objects(body, map[tlv.Tag]*[]byte{tagICCID: &iccid, tagNickname: &name}); err != nil {
		return nil, err
	}
	if iccid == nil || name == nil || len(name) > MaxNickname || !utf8.Valid(name) {
		return nil, tlv.ErrMalformed
	}
	for i := range c.Profiles {
		if p := &c.Profiles[i]; p.named(tlv.Object{Tag: tagICCID, Value: iccid}) {
			p.Nickname, c.write = string(name), true
			return result(resultOK), nil
		}
	}
	return result(resultNone), nil
}

// memoryReset is eUICCMemoryReset (§5.7.19): it deletes profiles whether they are
// enabled or not and whatever their policy rules say.
func (c *call) memoryReset(body []byte) ([]byte, error) {
	var options []byte
	if err := objects(body, map[tlv.Tag]*[]byte{0x82: &options}); err != nil {
		return nil, err
	}
	if !isBits(options) {
		return nil, tlv.ErrMalformed
	}
	operational, test, address := bit(options, 0), bit(options, 1), bit(options, 2)
	gone := func(p *Profile) bool { return operational && p.Class == Operational || test && p.Class == Test }
	on := c.State.enabled()
	c.refresh = on >= 0 && gone(&c.Profiles[on])
	if c.refresh && c.busy {
		c.refresh = false
		return result(resultBusy), nil
	}
	c.remove(gone)
	if address && c.DefaultDP != c.InitialDP {
		c.DefaultDP, c.write = c.InitialDP, true
	}
	if !c.write {
		return result(resultNone), nil
	}
	return result(resultOK), nil
}
