package appletsim

import (
	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// The card's instructions (§6).
const (
	insDeactivate           = 0x04
	insActivate             = 0x44
	insManageChannel        = 0x70
	insExternalAuthenticate = 0x82
	insInternalAuthenticate = 0x88
	insSelect               = 0xA4
	insGetResponse          = 0xC0
	insGetData              = 0xCA
	insGetStatus            = 0xF2
)

// managementApplet is the application of docs/protocol.md. It is the first of
// every card.
var managementApplet = &application{
	aids:     func(*Card) [][]byte { return appletAIDs },
	exact:    true,
	selected: (*Card).selectApplet,
	instructions: map[byte]instruction{
		insSelect:               {form: interindustry, plain: otherSelect},
		insInternalAuthenticate: {form: interindustry, chained: true, plain: (*Card).internalAuthenticate},
		insExternalAuthenticate: {form: interindustry, chained: true, plain: (*Card).externalAuthenticate},
		insGetData:              {form: proprietary, plain: (*Card).getData},
		insGetStatus:            {form: proprietary, plain: inTheClear, secured: (*Card).getStatus},
		insDeactivate:           {form: proprietary, plain: inTheClear, secured: (*Card).operation},
		insActivate:             {form: proprietary, plain: inTheClear, secured: (*Card).operation},
	},
}

// otherSelect refuses a SELECT that is not by AID: the applet has no files.
func otherSelect(*Card, int, authState, apdu.Command) ([]byte, apdu.StatusWord) {
	return nil, apdu.SWIncorrectP1P2
}

// inTheClear refuses a command that needs secure messaging.
func inTheClear(*Card, int, authState, apdu.Command) ([]byte, apdu.StatusWord) {
	return nil, apdu.SWSecurityStatusNotSatisfied
}

// appletID is the AID of the management applet (§1).
var (
	appletID   = []byte("\xF0cardbridge")
	appletAIDs = [][]byte{appletID}
)

// selectAnswer is what SELECT answers with (§6).
func selectAnswer(im *Image) []byte {
	inner := tlv.Append(nil, 0x80, 0x01)
	inner = tlv.AppendHeader(inner, 0x81, len(im.Suites))
	for _, s := range im.Suites {
		inner = append(inner, byte(s))
	}
	inner = tlv.Append(inner, 0x82, maxCommandData>>8, maxCommandData&0xFF)
	fci := tlv.Append(nil, 0x84, appletID...)
	return tlv.Append(nil, 0x6F, tlv.Append(fci, 0xA5, inner...)...)
}

// selectApplet is SELECT by the applet's AID.
func (c *Card) selectApplet(_ int, _ []byte, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if cmd.P2 != 0x00 {
		return nil, apdu.SWIncorrectP1P2
	}
	if sw := wrongLe(cmd.Ne, len(c.fci)); sw != apdu.SWSuccess {
		return nil, sw
	}
	return c.fci, apdu.SWSuccess
}

func eidObject(im *Image) []byte { return tlv.Append(nil, 0x5A, im.EID[:]...) }

// getData is GET DATA: the EID, or the card info.
func (c *Card) getData(_ int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if len(cmd.Data) > 0 {
		return nil, apdu.SWWrongLength
	}
	var data []byte
	switch {
	case cmd.P1 == 0x00 && cmd.P2 == 0x5A:
		data = c.eid
	case cmd.P1 == 0x00 && cmd.P2 == 0xE1:
		data = c.info()
	default:
		return nil, apdu.SWReferenceNotFound
	}
	if sw := wrongLe(cmd.Ne, len(data)); sw != apdu.SWSuccess {
		return nil, sw
	}
	return data, apdu.SWSuccess
}

// info is the card info: the event counter, and the failures of every key set
// in ascending order.
func (c *Card) info() []byte {
	inner := appendCounter(nil, 0x80, c.image.EventCounter)
	inner = tlv.AppendHeader(inner, 0x81, 3*len(c.material.servers))
	for _, s := range c.material.servers {
		n := c.image.failures(s.kid)
		inner = append(inner, s.kid, byte(n>>8), byte(n))
	}
	return tlv.Append(nil, 0xE1, inner...)
}

func appendCounter(b []byte, tag tlv.Tag, n uint32) []byte {
	return tlv.Append(b, tag, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// getStatus is GET STATUS (§7).
func (c *Card) getStatus(_ *session, cmd apdu.Command, ok bool) ([]byte, apdu.StatusWord) {
	switch {
	case !ok:
		return nil, apdu.SWIncorrectData
	case cmd.P1 != 0 || cmd.P2 != 0:
		return nil, apdu.SWIncorrectP1P2
	case cmd.Data != nil:
		return nil, apdu.SWIncorrectData
	}
	var out []byte
	for i := range c.image.Profiles {
		out = tlv.Append(out, 0xE3, c.image.Profiles[i].info()...)
	}
	return appendCounter(out, 0x94, c.image.EventCounter), apdu.SWSuccess
}

// info is the profile as GET STATUS has it.
func (p *Profile) info() []byte {
	b := tlv.Append(nil, 0x5A, p.ICCID[:]...)
	b = tlv.Append(b, 0x9F70, p.State.code())
	b = tlv.Append(b, 0x91, []byte(p.Provider)...)
	b = tlv.Append(b, 0x92, []byte(p.Name)...)
	b = tlv.Append(b, 0x95, p.Class.code())
	b = tlv.Append(b, 0xB7, tlv.Append(nil, 0x80, p.Owner[:]...)...)
	b = tlv.Append(b, 0x99, p.policyRules()...)
	fallback := byte(0)
	if p.Fallback {
		fallback = 1
	}
	return tlv.Append(b, 0xDF01, fallback)
}

// policyRules is the value of the BIT STRING of PPR1 (bit 1) and PPR2 (bit 2),
// preceded by the number of unused bits, as DER has it: no trailing zero bits.
func (p *Profile) policyRules() []byte {
	switch {
	case p.PPR1 && p.PPR2:
		return []byte{5, 0x60}
	case p.PPR2:
		return []byte{5, 0x20}
	case p.PPR1:
		return []byte{6, 0x40}
	}
	return []byte{0}
}
