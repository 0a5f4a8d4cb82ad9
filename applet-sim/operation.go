package appletsim

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// result is what comes of a DEACTIVATE or ACTIVATE (§8).
type result byte

const (
	resultDone        result = 0x00
	resultNoProfile   result = 0x01
	resultState       result = 0x02
	resultPolicyRule  result = 0x03
	resultNotOwner    result = 0x10
	resultWantsTriple result = 0x11
	resultFallback    result = 0x12
	resultOtherData   result = 0x13 // of the same request id
	resultCounter     result = 0x14
	resultUndefined   result = 0x7F
)

// status is the inner status word that goes with the result.
func (r result) status() apdu.StatusWord {
	switch r {
	case resultDone:
		return apdu.SWSuccess
	case resultNoProfile:
		return apdu.SWReferenceNotFound
	case resultOtherData:
		return apdu.SWIncorrectData
	case resultUndefined:
		return apdu.SWMemoryFailure
	}
	return apdu.SWConditionsNotSatisfied
}

// Tags of the response data.
const (
	tagResult   tlv.Tag = 0x90
	tagICCID    tlv.Tag = 0x91
	tagState    tlv.Tag = 0x92
	tagFallback tlv.Tag = 0x93
	tagCounter  tlv.Tag = 0x94
	tagSuite    tlv.Tag = 0x95
	tagReceipt  tlv.Tag = 0x9E
)

// request is the command data of DEACTIVATE and ACTIVATE.
type request struct {
	ins       byte
	suite     cryptogram.Suite // of the session
	hash      [32]byte         // H(INS ‖ command data)
	requestID id.RequestID
	operator  id.MCCMNC
	iccid     *id.ICCID // nil: the enabled profile
	counter   uint32    // expected
}

// parse reads command data of exactly §8's form.
func (r *request) parse(b []byte) bool {
	fixed := func(tag tlv.Tag, dst []byte) bool {
		value, rest, err := tlv.Expect(b, tag)
		if err != nil || len(value) != len(dst) {
			return false
		}
		copy(dst, value)
		b = rest
		return true
	}
	var iccid id.ICCID
	var reason [1]byte
	var counter [4]byte
	if !fixed(0x82, r.requestID[:]) || !fixed(0x81, r.operator[:]) {
		return false
	}
	if fixed(0x80, iccid[:]) {
		r.iccid = &iccid
	} else if r.ins != insDeactivate {
		return false
	}
	if !fixed(0x83, reason[:]) || !fixed(0x84, counter[:]) {
		return false
	}
	r.counter = binary.BigEndian.Uint32(counter[:])
	return len(b) == 0
}

// operation is DEACTIVATE and ACTIVATE under a mac that verified: it spends the
// session's one, whatever comes of it.
func (c *Card) operation(s *session, cmd apdu.Command, ok bool) ([]byte, apdu.StatusWord) {
	second := s.spent
	s.spent = true
	if !ok {
		return nil, apdu.SWIncorrectData
	}
	r := request{ins: cmd.INS, suite: s.suite, hash: cryptogram.HashCommand(cmd.INS, cmd.Data)}
	if subtle.ConstantTimeCompare(r.hash[:], s.hc[:]) != 1 || second {
		return nil, apdu.SWSecurityStatusNotSatisfied
	}
	if cmd.P1 != 0 || cmd.P2 != 0 {
		return nil, apdu.SWIncorrectP1P2
	}
	if !r.parse(cmd.Data) {
		return nil, apdu.SWIncorrectData
	}
	if a := c.image.answer(r.requestID); a != nil && bytes.Equal(a.Hash, r.hash[:]) {
		return a.Response, apdu.SWSuccess
	}
	return c.carryOut(r)
}

// carryOut changes the profiles as the request asks, and signs what came of it.
func (c *Card) carryOut(r request) ([]byte, apdu.StatusWord) {
	target := c.image.enabled()
	if r.iccid != nil {
		target = c.image.find(*r.iccid)
	}
	res := c.judge(r, target)
	var next *Image
	other, ok := -1, false
	if res == resultDone {
		if next, other, ok = c.image.after(r.ins, target); !ok {
			res = resultUndefined
		}
	}
	if res == resultDone {
		response, err := c.signed(next, r, resultDone, target, other)
		if err != nil {
			return nil, apdu.SWMemoryFailure
		}
		next.storeAnswer(StoredAnswer{RequestID: r.requestID, Hash: r.hash[:], Response: response})
		if c.persist(next) == nil {
			c.refresh()
			return response, resultDone.status()
		}
		res = resultUndefined
	}
	response, err := c.signed(c.image, r, res, target, -1)
	if err != nil {
		return nil, apdu.SWMemoryFailure
	}
	return response, res.status()
}

// judge runs §8's checks in their order. target is the profile asked for, -1 if
// there is none.
func (c *Card) judge(r request, target int) result {
	im := c.image
	if im.answer(r.requestID) != nil {
		return resultOtherData
	}
	if r.counter != im.EventCounter {
		return resultCounter
	}
	if target < 0 {
		return resultNoProfile
	}
	p := &im.Profiles[target]
	deactivate := r.ins == insDeactivate
	switch on := im.enabled(); {
	case deactivate && on != target,
		!deactivate && on == target,
		!deactivate && on >= 0 && !im.Profiles[on].Fallback:
		return resultState
	case p.Owner != r.operator:
		return resultNotOwner
	case im.Policy.RequireTriple && r.suite != cryptogram.Suite03:
		return resultWantsTriple
	case deactivate && p.Fallback:
		return resultFallback
	case deactivate && p.PPR1:
		return resultPolicyRule
	}
	return resultDone
}

// after is the image after the operation on target, and the index of the
// fallback profile where that changed too, else -1. ok is as switchTo's.
func (im *Image) after(ins byte, target int) (next *Image, other int, ok bool) {
	on := target
	other = im.fallback()
	if other == target {
		other = -1
	}
	if ins == insDeactivate {
		on = other
	} else if other >= 0 && im.Profiles[other].State != Enabled {
		other = -1
	}
	next, ok = im.switchTo(on)
	return next, other, ok
}

// signed is the response data under im, with its receipt.
func (c *Card) signed(im *Image, r request, res result, target, other int) ([]byte, error) {
	b := tlv.Append(nil, tagResult, byte(res))
	if target >= 0 {
		p := &im.Profiles[target]
		b = tlv.Append(b, tagICCID, p.ICCID[:]...)
		b = tlv.Append(b, tagState, p.State.code())
	}
	if other >= 0 {
		b = tlv.Append(b, tagFallback, im.Profiles[other].ICCID[:]...)
	}
	b = appendCounter(b, tagCounter, im.EventCounter)
	b = tlv.Append(b, tagSuite, byte(r.suite))
	receipt := cryptogram.Receipt{Suite: r.suite, EID: im.EID, Command: r.hash, Response: b}
	value, err := receipt.Sign(context.Background(), c.material.keys)
	if err != nil {
		return nil, err
	}
	return tlv.Append(b, tagReceipt, value...), nil
}
