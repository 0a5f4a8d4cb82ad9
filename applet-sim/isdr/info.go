package isdr

import (
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// svn is the version of SGP.22.
var svn = [3]byte{2, 2, 2}

// eid is GetEID (§5.7.20).
func (c *call) eid(body []byte) ([]byte, error) {
	var tags []byte
	if err := objects(body, map[tlv.Tag]*[]byte{tagTagList: &tags}); err != nil {
		return nil, err
	}
	if len(tags) != 1 || tags[0] != 0x5A {
		return nil, tlv.ErrMalformed
	}
	return tlv.Append(nil, 0x5A, c.EID[:]...), nil
}

// addresses is GetEuiccConfiguredAddresses (§5.7.3).
func (c *call) addresses([]byte) ([]byte, error) {
	var b []byte
	if c.DefaultDP != "" {
		b = tlv.Append(b, 0x80, []byte(c.DefaultDP)...)
	}
	return tlv.Append(b, 0x81, []byte(c.RootDS)...), nil
}

// MaxAddress is the most bytes of an address, a host name.
const MaxAddress = 255

// setDefaultDP is SetDefaultDpAddress (§5.7.4); an empty one takes it away.
func (c *call) setDefaultDP(body []byte) ([]byte, error) {
	var address []byte
	if err := objects(body, map[tlv.Tag]*[]byte{0x80: &address}); err != nil {
		return nil, err
	}
	if address == nil || len(address) > MaxAddress || !utf8.Valid(address) {
		return nil, tlv.ErrMalformed
	}
	c.DefaultDP, c.write = string(address), true
	return result(resultOK), nil
}

// challenge is GetEUICCChallenge (§5.7.7).
func (c *call) challenge([]byte) ([]byte, error) {
	var b [16]byte
	if _, err := io.ReadFull(c.Rand, b[:]); err != nil {
		return nil, fmt.Errorf("challenge: %w", err)
	}
	return tlv.Append(nil, 0x80, b[:]...), nil
}

// info1 is GetEUICCInfo, EUICCInfo1 (§5.7.8).
func (c *call) info1([]byte) ([]byte, error) {
	return appendIssuers(tlv.Append(nil, 0x82, svn[:]...)), nil
}

// info2 is GetEUICCInfo, EUICCInfo2 (§5.7.8). What it says that the eUICC can do
// is what the emulated card does.
func (c *call) info2([]byte) ([]byte, error) {
	const (
		usim, milenage = 1, 4 // bits of UICCCapability
		testProfiles   = 3    // bit of RspCapability
		basic          = 1    // EUICCCategory
	)
	var uicc, rsp [5]bool
	uicc[usim], uicc[milenage], rsp[testProfiles] = true, true, true

	resources := tlv.Append(nil, 0x81, byte(len(c.Profiles))) // applications
	resources = tlv.Append(resources, 0x82, 0x00, 0x08, 0x00, 0x00)
	resources = tlv.Append(resources, 0x83, 0x00, 0x00, 0x40, 0x00)

	b := tlv.Append(nil, 0x81, 2, 3, 1) // profile package version
	b = tlv.Append(b, 0x82, svn[:]...)
	b = tlv.Append(b, 0x83, 1, 0, 0) // firmware
	b = tlv.Append(b, 0x84, resources...)
	b = tlv.Append(b, 0x85, bits(uicc[:]...)...)
	b = tlv.Append(b, 0x87, 2, 3, 0) // GlobalPlatform
	b = tlv.Append(b, 0x88, bits(rsp[:]...)...)
	b = appendIssuers(b)
	b = tlv.Append(b, 0x8B, basic)
	b = tlv.Append(b, 0x04, 1, 0, 0) // protection profile
	return tlv.Append(b, 0x0C, []byte("CB-TEST-0000")...), nil
}

// appendIssuers appends the certificate issuers whose signatures the eUICC takes
// and those under which it signs: one, for tests.
func appendIssuers(b []byte) []byte {
	id := tlv.Append(nil, 0x04, testCI().id...)
	return tlv.Append(tlv.Append(b, 0xA9, id...), 0xAA, id...)
}

// rules is GetRAT (§5.7.22): any operator may have PPR1 and PPR2, with the end
// user's consent.
func (c *call) rules([]byte) ([]byte, error) {
	anyone := tlv.Append(nil, 0x30, tlv.Append(nil, 0x80, 0xEE, 0xEE, 0xEE)...)
	rule := tlv.Append(nil, 0x80, bits(false, true, true)...)
	rule = tlv.Append(rule, 0xA1, anyone...)
	rule = tlv.Append(rule, 0x82, bits(true)...)
	return tlv.Append(nil, 0xA0, tlv.Append(nil, 0x30, rule...)...), nil
}
