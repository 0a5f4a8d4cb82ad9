package explain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

// The commands of docs/protocol.md §6.
const (
	insDeactivate = 0x04
	insActivate   = 0x44
	insStatus     = 0xF2
	insExternal   = 0x82
	insInternal   = 0x88
)

var managementCommands = map[byte]spec{
	insDeactivate: {"DEACTIVATE", (*Explainer).inTheClear},
	insActivate:   {"ACTIVATE", (*Explainer).inTheClear},
	insStatus:     {"GET STATUS", (*Explainer).inTheClear},
	insExternal:   {"EXTERNAL AUTHENTICATE", (*Explainer).externalAuthenticate},
	insInternal:   {"INTERNAL AUTHENTICATE", (*Explainer).internalAuthenticate},
	0xCA:          {"GET DATA", (*Explainer).managementData},
}

// ours reports whether a command is one of the card protocol: the applet is
// selected, or nothing is known of the channel and no other command looks so.
func ours(c *channel, cl class, cmd apdu.Command) bool {
	if c.app != nil {
		return c.app.ours
	}
	switch cmd.INS {
	case insDeactivate, insActivate, insStatus:
		return cl.proprietary && cl.secure && cmd.P1 == 0 && cmd.P2 == 0
	case insInternal, insExternal:
		return !cl.proprietary && (cmd.P1 == 1 || cmd.P1 == 3) && cmd.P2 >= 1 && cmd.P2 <= 0x0F
	case 0xCA:
		return cl.proprietary && cmd.P1 == 0 && cmd.P2 == 0xE1
	}
	return false
}

var managementFCI = objects{
	0x6F: {name: "file control information", inside: objects{
		0x84: {name: "application", show: aid},
		0xA5: {name: "management applet", inside: objects{
			0x80: {name: "protocol version", show: number},
			0x81: {name: "suites", show: hexa},
			0x82: {name: "maximum command data", show: number},
		}},
	}},
}

var managementObjects = objects{
	0x5A: {name: "EID", show: eid},
	0xE1: {name: "card info", inside: objects{
		0x80: {name: "event counter", show: number},
		0x81: {name: "failed authentications", show: failures},
	}},
}

// profileStatus is what GET STATUS answers (§7).
var profileStatus = objects{
	0xE3: {name: "profile", inside: objects{
		0x5A:   {name: "ICCID", show: iccid},
		0x9F70: {name: "state", show: profileState},
		0x91:   {name: "provider", show: utf8Text},
		0x92:   {name: "name", show: utf8Text},
		0x95:   {name: "class", show: enum("test", "provisioning", "operational")},
		0xB7:   {name: "owner", inside: owner},
		0x99:   {name: "policy rules", show: policyRules},
		0xDF01: {name: "fallback", show: yesNo},
	}},
	0x94: {name: "event counter", show: number},
}

// operation and operationAnswer are the data of DEACTIVATE and ACTIVATE (§8).
var operation = objects{
	0x82: {name: "request id", show: uuid},
	0x81: {name: "asked for by", show: plmn},
	0x80: {name: "profile", show: iccid},
	0x83: {name: "reason", show: number},
	0x84: {name: "expected event counter", show: number},
}

var operationAnswer = objects{
	0x90: {name: "result", show: operationResult},
	0x91: {name: "profile", show: iccid},
	0x92: {name: "its state", show: profileState},
	0x93: {name: "fallback profile changed", show: iccid},
	0x94: {name: "event counter", show: number},
	0x95: {name: "suite", show: hexa},
	0x9E: {name: "receipt", show: sized},
}

var profileState = enum("disabled", "enabled")

var operationResults = map[byte]string{
	0x00: "done",
	0x01: "no such profile",
	0x02: "the profile is not in the state that this leaves",
	0x03: "a policy rule forbids it",
	0x10: "the asking operator does not own the profile",
	0x11: "the card's policy wants suite 03 for this",
	0x12: "the fallback profile may not be deactivated",
	0x13: "this request id was done with another command",
	0x14: "the event counter is not the expected one",
	0x7F: "undefined error, nothing changed",
}

func operationResult(b []byte) string {
	if len(b) == 1 {
		if w, ok := operationResults[b[0]]; ok {
			return fmt.Sprintf("%02X %s", b[0], w)
		}
	}
	return hexa(b)
}

func failures(b []byte) string {
	if len(b) == 0 || len(b)%3 != 0 || len(b) > 3*15 {
		return hexa(b)
	}
	var s []string
	for ; len(b) > 0; b = b[3:] {
		s = append(s, fmt.Sprintf("key set %d: %d", b[0], binary.BigEndian.Uint16(b[1:])))
	}
	return strings.Join(s, ", ")
}

// What the status words of §6 say more there: of every command, of the two
// authentication commands, and of DEACTIVATE and ACTIVATE under secure messaging.
var (
	managementWords = words{
		0x6982: "no session",
		0x6985: "conditions not satisfied: the applet is not selected, or nothing is pending",
		0x6987: "secure messaging objects missing or malformed: the session is over",
		0x6988: "the MAC does not verify: the session is over",
		0x6A86: "incorrect P1 P2, or a suite that the card does not have",
	}
	authenticationWords = words{
		0x6983: "too many failed authentications since the reset",
		0x6985: "conditions not satisfied: no challenge, or another suite or key set than the challenge's",
		0x6A86: "incorrect P1 P2, or a suite that the card does not have",
		0x6A88: "no such key set, or one key where the suite wants three",
	}
	operationWords = words{
		0x6982: "not the command that the server signed for, or the session's second",
		0x6985: "refused, see the result",
		0x6A80: "data of another form, or the request id was done with another command",
		0x6A88: "no such profile",
	}
)

// secureSession is what is known of the card's one session (§4).
type secureSession struct {
	state   sessionState
	channel int
	ch      cryptogram.Challenge // without SID and EID
	card    *cardKeys            // whose it is; nil where not known
	sm      *securemsg.Session   // nil where the keys are not known
	command [32]byte             // HC, where sm is there
	lost    bool                 // a MAC did not verify: those after it say nothing
	plain   plainCommand
}

type sessionState byte

const (
	idle sessionState = iota
	challenged
	authenticated
)

// plainCommand is the last secured command, decrypted.
type plainCommand struct {
	ins  byte
	data []byte
	ok   bool
}

func (x *Explainer) managementData(c *channel) {
	c.now.words = managementWords
	m, ok := managementObjects[uint32(c.now.cmd.P1)<<8|uint32(c.now.cmd.P2)]
	if !ok {
		x.getData(c)
		return
	}
	x.out.Title += ": " + m.name
	c.now.answer = func(x *Explainer, _ *channel, data []byte, _ apdu.StatusWord) { x.tree(data, managementObjects, 0) }
}

func (x *Explainer) inTheClear(c *channel) {
	c.now.words = managementWords
	x.say(Note, "secure messaging", "none: the card does not do this in the clear")
	x.anyData(c.now.cmd.Data)
}

// suite adds P1 and P2 of the authentication commands.
func (x *Explainer) suite(cmd apdu.Command) {
	s := fmt.Sprintf("%02X", cmd.P1)
	switch cmd.P1 {
	case 1:
		s += " one RSA key"
	case 3:
		s += " three RSA keys"
	}
	x.add("", "suite", s)
	x.add("", "key set", fmt.Sprintf("kid %d", cmd.P2))
}

func (x *Explainer) internalAuthenticate(c *channel) {
	c.now.words = authenticationWords
	cmd := c.now.cmd
	x.suite(cmd)
	if len(cmd.Data) != 16 {
		x.anyData(cmd.Data)
		return
	}
	x.add("", "RS", hexa(cmd.Data)+" (the server's challenge)")
	ch := cryptogram.Challenge{Suite: cryptogram.Suite(cmd.P1), KID: cmd.P2, RS: [16]byte(cmd.Data)}
	c.now.done = func(x *Explainer, c *channel) {
		x.secure = secureSession{state: challenged, channel: c.number, ch: ch}
	}
	c.now.answer = func(x *Explainer, _ *channel, m1 []byte, sw apdu.StatusWord) {
		if len(m1) == 0 {
			return
		}
		x.add("", "M1", sized(m1)+": the card's proof, for the server alone")
		if x.keys == nil || sw != apdu.SWSuccess || ch.Suite.Layers() == 0 {
			return
		}
		switch card, tried := x.keys.openM1(ch, m1); {
		case card != nil:
			x.secure.card = card
			x.say(Good, "M1", "verifies: the card is "+card.eid.String())
		case tried:
			x.say(Bad, "M1", "does not verify under the keys given")
		default:
			x.add("", "M1", "not opened: that takes the server's private keys and the card's public ones")
		}
	}
}

func (x *Explainer) externalAuthenticate(c *channel) {
	c.now.words = authenticationWords
	cmd := c.now.cmd
	x.suite(cmd)
	x.add("", "M2", sized(cmd.Data)+": the server's proof, for the card alone")
	s := &x.secure
	if s.state != challenged || s.channel != c.number {
		x.say(Note, "challenge", "none on this channel in this trace")
		c.now.done = func(x *Explainer, c *channel) {
			x.secure = secureSession{state: authenticated, channel: c.number}
		}
		return
	}
	next := secureSession{state: authenticated, channel: c.number, ch: s.ch, card: s.card}
	*s = secureSession{} // RC serves one EXTERNAL AUTHENTICATE
	switch {
	case cryptogram.Suite(cmd.P1) != next.ch.Suite || cmd.P2 != next.ch.KID:
		x.say(Note, "challenge", "of another suite or key set")
	case x.keys != nil && next.ch.Suite.Layers() != 0:
		x.readM2(&next, cmd.Data)
	}
	c.now.done = func(x *Explainer, _ *channel) { x.secure = next }
}

// readM2 opens M2 where the keys are given.
func (x *Explainer) readM2(next *secureSession, m2 []byte) {
	o, tried := x.keys.openM2(next.ch, m2)
	switch {
	case o != nil:
		next.card, next.command = o.card, o.command
		next.sm = securemsg.New(o.keys.Enc, o.keys.Mac)
		what := "one command, whose hash it has"
		if o.command == [32]byte{} {
			what = "reading only"
		}
		x.say(Good, "M2", "verifies: the server proves itself to "+o.card.eid.String())
		x.add("", "session for", what)
	case tried:
		x.say(Bad, "M2", "does not verify under the keys given")
	default:
		x.add("", "M2", "not opened: that takes the card's private enc key (its image) and the server's public keys")
	}
}

// plainCommand ends the session that a command in the clear ends (§4).
func (x *Explainer) plainCommand(c *channel, cl class, ins byte) {
	s := &x.secure
	if cl.secure || s.state == idle || s.channel != c.number || s.state == challenged && ins == insExternal {
		return
	}
	if s.state == authenticated {
		x.add("", "secure session", "ends with this command in the clear")
	}
	*s = secureSession{}
}

// secureCommand explains a command under secure messaging.
func (x *Explainer) secureCommand(c *channel, what spec) {
	cmd := c.now.cmd
	s := &x.secure
	x.out.Title += ", secured"
	if !ours(c, c.now.class, cmd) {
		if cmd.INS == insExternal && what.explain != nil { // it begins the secure channel
			what.explain(x, c)
			return
		}
		x.add("", "P1 P2", fmt.Sprintf("%02X %02X", cmd.P1, cmd.P2))
		x.anyData(cmd.Data)
		return
	}
	c.now.words = managementWords
	s.plain = plainCommand{}
	if s.state != authenticated || s.channel != c.number {
		x.say(Note, "secure session", "none on this channel in this trace")
		x.secured(cmd.Data)
		return
	}
	if s.sm == nil || s.lost {
		x.secured(cmd.Data)
		return
	}
	data, err := s.sm.UnwrapCommand(cmd.INS, cmd.P1, cmd.P2, cmd.Data)
	switch {
	case errors.Is(err, securemsg.ErrCryptogram):
		x.say(Bad, "MAC", "verifies, and the cryptogram does not decrypt")
		return
	case err != nil:
		s.lost = true
		x.unverified(err)
		x.secured(cmd.Data)
		return
	}
	x.say(Good, "MAC", "verifies")
	s.plain = plainCommand{ins: cmd.INS, data: data, ok: true}
	switch cmd.INS {
	case insDeactivate, insActivate:
		switch cryptogram.HashCommand(cmd.INS, data) {
		case s.command:
			x.say(Good, "authorised", "it is the command that the server signed for in M2")
		default:
			x.say(Bad, "authorised", "it is not the command that the server signed for in M2")
		}
		x.tree(data, operation, 0)
	default:
		x.plainData(cmd, data)
	}
}

// plainData adds decrypted data of a command that has none by the protocol,
// without what would be secret in the clear.
func (x *Explainer) plainData(cmd apdu.Command, data []byte) {
	if len(data) == 0 {
		return
	}
	cmd.CLA, cmd.Data = 0, data
	var r trace.Redactor
	b, err := cmd.AppendBinary(nil)
	if err != nil || len(r.Redact(trace.Entry{Kind: trace.Command, Data: b}).Mask) > 0 {
		x.add("", "data", sized(data)+", secret")
		return
	}
	x.anyData(data)
}

func (x *Explainer) unverified(err error) {
	if errors.Is(err, securemsg.ErrObjects) {
		x.say(Bad, "secure messaging", "data objects missing or malformed")
		return
	}
	x.say(Bad, "MAC", "does not verify")
}

// securedObjects is secure messaging that is not opened (§5).
var securedObjects = objects{
	0x87: {name: "cryptogram", show: func(b []byte) string { return fmt.Sprintf("%d bytes", max(len(b)-1, 0)) }},
	0x97: {name: "Le"},
	0x99: {name: "status word, not verified", show: statusObject},
	0x8E: {name: "MAC"},
}

func statusObject(b []byte) string {
	if len(b) != 2 {
		return hexa(b)
	}
	s, _ := status(apdu.StatusWord(b[0])<<8|apdu.StatusWord(b[1]), managementWords)
	return s
}

func (x *Explainer) secured(field []byte) { x.tree(field, securedObjects, 0) }

// secureResponse explains a response under secure messaging.
func (x *Explainer) secureResponse(c *channel, field []byte, sw apdu.StatusWord) {
	s := &x.secure
	here := s.state == authenticated && s.channel == c.number
	if !ours(c, c.now.class, c.now.cmd) {
		x.anyData(field)
		return
	}
	if sw != apdu.SWSuccess || len(field) == 0 {
		x.anyData(field)
		if here {
			x.say(Note, "secure session", "ends: the card answers in the clear")
			*s = secureSession{}
		}
		return
	}
	if !here || s.sm == nil || s.lost {
		if b := find(field, 0x99); len(b) == 2 && !s.lost {
			_, level := status(apdu.StatusWord(b[0])<<8|apdu.StatusWord(b[1]), nil)
			x.out.Title, x.out.Level = "secured: "+statusObject(b), level
		}
		x.secured(field)
		return
	}
	data, inner, err := s.sm.Unwrap(field)
	switch {
	case errors.Is(err, securemsg.ErrCryptogram):
		x.say(Bad, "MAC", "verifies, and the cryptogram does not decrypt")
		return
	case err != nil:
		s.lost = true
		x.unverified(err)
		x.secured(field)
		return
	}
	meaning := managementWords
	if s.plain.ins != insStatus {
		meaning = operationWords
	}
	title, level := status(inner, meaning)
	x.out.Title, x.out.Level = title+", secured", level
	x.put(Field{Name: "MAC", Value: "verifies", Level: Good})
	switch {
	case !s.plain.ok:
		x.add("", "data", sized(data))
	case s.plain.ins == insStatus:
		x.tree(data, profileStatus, 0)
	case s.plain.ins == insDeactivate || s.plain.ins == insActivate:
		x.tree(data, operationAnswer, 0)
		x.receipt(data)
	case len(data) > 0:
		x.add("", "data", sized(data))
	}
}

// receipt verifies 9E, the last object of an answer (§8).
func (x *Explainer) receipt(data []byte) {
	s := &x.secure
	for rest := data; len(rest) > 0; {
		o, next, ok := readObject(rest)
		if !ok {
			return
		}
		if o.tag == 0x9E {
			suite := find(data, 0x95)
			if len(suite) != 1 || s.card == nil {
				return
			}
			r := cryptogram.Receipt{
				Suite: cryptogram.Suite(suite[0]), EID: s.card.eid,
				Command: cryptogram.HashCommand(s.plain.ins, s.plain.data), Response: data[:len(data)-len(rest)],
			}
			if len(next) != 0 || r.Verify(s.card.public, o.value) != nil {
				x.say(Bad, "receipt", "does not verify")
				return
			}
			x.put(Field{Name: "receipt", Value: "verifies: card " + s.card.eid.String() + " signed this", Level: Good})
			return
		}
		rest = next
	}
}
