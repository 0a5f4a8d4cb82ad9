package card

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// Instructions under secure messaging (§6).
const (
	INSDeactivate byte = 0x04
	INSActivate   byte = 0x44
	insGetStatus  byte = 0xF2
)

// AID of the management applet (§1).
const AID = "\xF0cardbridge"

// ErrMalformed says that a card's answer is not of the form that the protocol
// gives it.
var ErrMalformed = errors.New("card: malformed answer")

// Result of DEACTIVATE or ACTIVATE (§8).
type Result byte

// The results of §8.
const (
	Done               Result = 0x00
	NoSuchProfile      Result = 0x01
	WrongState         Result = 0x02
	PolicyForbids      Result = 0x03
	NotOwner           Result = 0x10
	TripleRequired     Result = 0x11
	FallbackNotAllowed Result = 0x12
	RequestIDUsed      Result = 0x13
	CounterNotExpected Result = 0x14
	UndefinedError     Result = 0x7F
)

var results = map[Result]struct {
	text string
	sw   apdu.StatusWord
}{
	Done:               {"done", apdu.SWSuccess},
	NoSuchProfile:      {"no such profile", apdu.SWReferenceNotFound},
	WrongState:         {"the profile is not in the state that this leaves", apdu.SWConditionsNotSatisfied},
	PolicyForbids:      {"a policy rule of the card forbids it", apdu.SWConditionsNotSatisfied},
	NotOwner:           {"the asking operator does not own the profile", apdu.SWConditionsNotSatisfied},
	TripleRequired:     {"the card's policy wants suite 03 for this", apdu.SWConditionsNotSatisfied},
	FallbackNotAllowed: {"the fallback profile may not be deactivated", apdu.SWConditionsNotSatisfied},
	RequestIDUsed:      {"this request id was done with another command", apdu.SWIncorrectData},
	CounterNotExpected: {"the event counter is not the expected one", apdu.SWConditionsNotSatisfied},
	UndefinedError:     {"undefined error, nothing changed", apdu.SWMemoryFailure},
}

// Hex is the result as two hexadecimal digits.
func (r Result) Hex() string { return fmt.Sprintf("%02X", byte(r)) }

func (r Result) String() string {
	if e, ok := results[r]; ok {
		return e.text
	}
	return "result " + r.Hex()
}

// Command is one DEACTIVATE or ACTIVATE (§8).
type Command struct {
	INS       byte // INSDeactivate or INSActivate
	RequestID id.RequestID
	Operator  id.MCCMNC
	ICCID     *id.ICCID // nil: the enabled profile, DEACTIVATE only
	Reason    byte      // 00 none; not interpreted
	Counter   uint32    // the event counter that the card is expected to have
}

// Data is the command data, which the session's HC and the receipt cover.
func (c Command) Data() []byte {
	b := tlv.Append(make([]byte, 0, 48), 0x82, c.RequestID[:]...)
	b = tlv.Append(b, 0x81, c.Operator[:]...)
	if c.ICCID != nil {
		b = tlv.Append(b, 0x80, c.ICCID[:]...)
	}
	b = tlv.Append(b, 0x83, c.Reason)
	return tlv.Append(b, 0x84, binary.BigEndian.AppendUint32(nil, c.Counter)...)
}

// ParseCommand reads command data, as Data gives it. The error matches
// ErrMalformed.
func ParseCommand(ins byte, data []byte) (Command, error) {
	c := Command{INS: ins}
	for rest := data; len(rest) > 0; {
		o, r, err := tlv.Read(rest)
		if err != nil {
			return Command{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		switch v := o.Value; {
		case o.Tag == 0x82 && len(v) == len(c.RequestID):
			c.RequestID = id.RequestID(v)
		case o.Tag == 0x81 && len(v) == len(c.Operator):
			c.Operator = id.MCCMNC(v)
		case o.Tag == 0x80 && len(v) == len(id.ICCID{}):
			c.ICCID = (*id.ICCID)(v)
		case o.Tag == 0x83 && len(v) == 1:
			c.Reason = v[0]
		case o.Tag == 0x84 && len(v) == 4:
			c.Counter = binary.BigEndian.Uint32(v)
		}
		rest = r
	}
	if !bytes.Equal(c.Data(), data) {
		return Command{}, fmt.Errorf("%w: not the data of a command", ErrMalformed)
	}
	return c, nil
}

func (c Command) op() string {
	if c.INS == INSActivate {
		return "ACTIVATE"
	}
	return "DEACTIVATE"
}

// target is the state that the command leads to.
func (c Command) target() State {
	if c.INS == INSActivate {
		return Enabled
	}
	return Disabled
}

// Answer is a verified answer to a Command (§8): secure messaging, the receipt
// and the profile are checked.
type Answer struct {
	Result   Result
	SW       apdu.StatusWord // inner status word
	ICCID    *id.ICCID       // the profile; nil where it does not exist or was not looked at
	State    State           // its state now, where ICCID is there
	Fallback *id.ICCID       // the fallback profile that changed its state too; nil if none
	Counter  uint32          // event counter now
	Suite    cryptogram.Suite
	Data     []byte // response data before the receipt
	Receipt  []byte // the value of 9E
}

// Verify checks the receipt of an answer that was kept: signed under the card's
// keys, for this command and these response bytes.
func Verify(target Target, cmd Command, data, receipt []byte) error {
	return verify(nil, target, cmd, data, receipt)
}

// VerifyAnswer is Verify, and holds what the answer says against all that §8 asks
// of an outcome that is recorded. sw is the inner status word.
func VerifyAnswer(target Target, cmd Command, sw apdu.StatusWord, data, receipt []byte) (*Answer, error) {
	return parseAnswer(nil, target, cmd, sw, tlv.Append(bytes.Clone(data), 0x9E, receipt...))
}

// verify is Verify with the public operations by ops (nil: package cryptogram).
func verify(ops cryptogram.PublicOps, target Target, cmd Command, data, receipt []byte) error {
	body, err := parseAnswerBody(data)
	if err != nil {
		return err
	}
	r := cryptogram.Receipt{Suite: body.Suite, EID: target.EID, Command: cryptogram.HashCommand(cmd.INS, cmd.Data()), Response: data}
	return r.VerifyBy(ops, target.Keys, receipt)
}

// parseAnswer parses and verifies response data under §8's "what the server
// records".
func parseAnswer(ops cryptogram.PublicOps, target Target, cmd Command, sw apdu.StatusWord, b []byte) (*Answer, error) {
	last := -1 // where 9E starts
	for rest := b; len(rest) > 0; {
		o, r, err := tlv.Read(rest)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if o.Tag == 0x9E {
			if len(r) != 0 {
				return nil, fmt.Errorf("%w: something follows the receipt", ErrMalformed)
			}
			last = len(b) - len(rest)
		}
		rest = r
	}
	if last < 0 {
		return nil, fmt.Errorf("%w: no receipt", ErrMalformed)
	}
	a, err := parseAnswerBody(b[:last])
	if err != nil {
		return nil, err
	}
	a.SW = sw
	if a.Receipt, _, err = tlv.Expect(b[last:], 0x9E); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := verify(ops, target, cmd, a.Data, a.Receipt); err != nil {
		return nil, err
	}
	switch known, ok := results[a.Result]; {
	case !ok:
		return nil, fmt.Errorf("%w: result %s", ErrMalformed, a.Result.Hex())
	case known.sw != sw:
		return nil, fmt.Errorf("%w: result %s with %s", ErrMalformed, a.Result.Hex(), sw)
	}
	switch {
	case a.ICCID == nil && a.Result != NoSuchProfile && a.Result != RequestIDUsed && a.Result != CounterNotExpected:
		return nil, fmt.Errorf("%w: result %s without a profile", ErrMalformed, a.Result.Hex())
	case a.ICCID != nil && cmd.ICCID != nil && *a.ICCID != *cmd.ICCID:
		return nil, fmt.Errorf("%w: answer about profile %s, %s was asked for", ErrMalformed, a.ICCID, cmd.ICCID)
	case a.Result == Done && a.State != cmd.target():
		return nil, fmt.Errorf("%w: done, and yet the profile is %s", ErrMalformed, a.State)
	}
	return a, nil
}

// parseAnswerBody parses response data before the receipt.
func parseAnswerBody(b []byte) (*Answer, error) {
	a := &Answer{Data: b}
	r := reader{rest: b}
	a.Result = Result(r.byte(0x90))
	if r.next(0x91) {
		a.ICCID = r.iccid(0x91)
		a.State = r.state(0x92)
	}
	if r.next(0x93) {
		a.Fallback = r.iccid(0x93)
	}
	a.Counter = r.uint32(0x94)
	a.Suite = cryptogram.Suite(r.byte(0x95))
	return a, r.end()
}

// Status is what GET STATUS says (§7).
type Status struct {
	Profiles     []Profile
	EventCounter uint32
}

// Enabled is the enabled profile; ok reports whether there is one.
func (s *Status) Enabled() (p Profile, ok bool) {
	for _, p := range s.Profiles {
		if p.State == Enabled {
			return p, true
		}
	}
	return Profile{}, false
}

// Profile is the profile with that ICCID; ok reports whether there is one.
func (s *Status) Profile(iccid id.ICCID) (p Profile, ok bool) { return findProfile(s.Profiles, iccid) }

func parseStatus(b []byte) (*Status, error) {
	s := &Status{}
	r := reader{rest: b}
	for r.next(0xE3) {
		if len(s.Profiles) == maxProfiles {
			return nil, fmt.Errorf("%w: more than %d profiles", ErrMalformed, maxProfiles)
		}
		p := r.nested(0xE3)
		var out Profile
		if iccid := p.iccid(0x5A); iccid != nil {
			out.ICCID = *iccid
		}
		out.State = p.state(0x9F70)
		out.Provider = p.text(0x91)
		out.Name = p.text(0x92)
		out.Class = Class(p.byte(0x95))
		owner := p.nested(0xB7)
		out.Owner = owner.mccmnc(0x80)
		p.keep(owner.end())
		out.PPR1, out.PPR2 = p.policy(0x99)
		out.Fallback = p.flag(0xDF01)
		if out.Class > Operational {
			p.keep(fmt.Errorf("%w: %s", ErrMalformed, out.Class))
		}
		r.keep(p.end())
		s.Profiles = append(s.Profiles, out)
	}
	s.EventCounter = r.uint32(0x94)
	if err := r.end(); err != nil {
		return nil, err
	}
	if err := checkProfiles(s.Profiles); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

// reader takes data objects in order off bytes and keeps the first error.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) keep(err error) {
	if r.err == nil {
		r.err = err
	}
}

// next reports whether the next object has this tag.
func (r *reader) next(tag tlv.Tag) bool {
	if r.err != nil {
		return false
	}
	o, _, err := tlv.Read(r.rest)
	return err == nil && o.Tag == tag
}

func (r *reader) value(tag tlv.Tag) []byte {
	if r.err != nil {
		return nil
	}
	v, rest, err := tlv.Expect(r.rest, tag)
	if err != nil {
		r.err = fmt.Errorf("%w: %w", ErrMalformed, err)
		return nil
	}
	r.rest = rest
	return v
}

// nested reads what is inside an object.
func (r *reader) nested(tag tlv.Tag) reader {
	v := r.value(tag)
	return reader{rest: v, err: r.err}
}

func (r *reader) fixed(tag tlv.Tag, n int) []byte {
	v := r.value(tag)
	if r.err == nil && len(v) != n {
		r.err = fmt.Errorf("%w: tag %X of %d bytes, %d wanted", ErrMalformed, uint16(tag), len(v), n)
	}
	if r.err != nil {
		return make([]byte, n)
	}
	return v
}

func (r *reader) byte(tag tlv.Tag) byte     { return r.fixed(tag, 1)[0] }
func (r *reader) uint32(tag tlv.Tag) uint32 { return binary.BigEndian.Uint32(r.fixed(tag, 4)) }

func (r *reader) flag(tag tlv.Tag) bool {
	v := r.byte(tag)
	if v > 1 {
		r.keep(fmt.Errorf("%w: tag %X is %02X", ErrMalformed, uint16(tag), v))
	}
	return v == 1
}

func (r *reader) state(tag tlv.Tag) State {
	if r.flag(tag) {
		return Enabled
	}
	return Disabled
}

func (r *reader) text(tag tlv.Tag) string {
	v := r.value(tag)
	if !utf8.Valid(v) {
		r.keep(fmt.Errorf("%w: tag %X is not UTF-8", ErrMalformed, uint16(tag)))
	}
	return string(v)
}

func (r *reader) iccid(tag tlv.Tag) *id.ICCID {
	v := r.value(tag)
	if r.err != nil {
		return nil
	}
	c, err := id.ICCIDFromBytes(v)
	if err != nil {
		r.err = fmt.Errorf("%w: %w", ErrMalformed, err)
		return nil
	}
	return &c
}

func (r *reader) mccmnc(tag tlv.Tag) id.MCCMNC {
	v := r.value(tag)
	if r.err != nil {
		return id.MCCMNC{}
	}
	m, err := id.MCCMNCFromBytes(v)
	if err != nil {
		r.err = fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m
}

// policy reads profile policy rules: the value of a DER BIT STRING whose bit 1
// is PPR1 and bit 2 is PPR2 (SGP.22 PprIds).
func (r *reader) policy(tag tlv.Tag) (ppr1, ppr2 bool) {
	v := r.value(tag)
	if r.err != nil {
		return false, false
	}
	if len(v) == 0 || v[0] > 7 || len(v) == 1 && v[0] != 0 {
		r.err = fmt.Errorf("%w: policy rules %X are no BIT STRING", ErrMalformed, v)
		return false, false
	}
	if len(v) == 1 {
		return false, false
	}
	return v[1]&0x40 != 0, v[1]&0x20 != 0
}

func (r *reader) end() error {
	if r.err == nil && len(r.rest) != 0 {
		r.err = fmt.Errorf("%w: %d bytes too many", ErrMalformed, len(r.rest))
	}
	return r.err
}
