package appletsim

import (
	"bytes"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// toolkit is the card application toolkit (ETSI TS 102 223): one proactive
// command at a time.
type toolkit struct {
	profile []byte // what TERMINAL PROFILE said; nil: the terminal has no toolkit
	command []byte // the proactive command under way; nil for none
	fetched bool   // the terminal has it and has not responded
}

// terminalInstructions are what a terminal tells the card whatever application
// is selected, the management applet excepted.
var terminalInstructions = map[byte]instruction{
	insTerminalProfile:    {form: proprietary, plain: (*Card).terminalProfile},
	insFetch:              {form: proprietary, plain: (*Card).fetch},
	insTerminalResponse:   {form: proprietary, plain: (*Card).terminalResponse},
	insEnvelope:           {form: proprietary, plain: (*Card).envelope},
	insTerminalCapability: {form: proprietary, plain: (*Card).terminalCapability},
}

const (
	insTerminalProfile    = 0x10
	insFetch              = 0x12
	insTerminalResponse   = 0x14
	insTerminalCapability = 0xAA
	insEnvelope           = 0xC2
)

// refreshCommand is REFRESH, UICC reset (ETSI TS 102 223 §6.6.13), from the card
// to the terminal.
var refreshCommand = []byte{
	0xD0, 0x09,
	0x81, 0x03, refreshNumber, typeRefresh, 0x04,
	0x82, 0x02, 0x81, 0x82,
}

const (
	refreshNumber = 0x01
	typeRefresh   = 0x01
)

// refresh asks a terminal that knows REFRESH for one: the enabled profile is
// another one. Where a proactive command is under way there is nothing to add,
// for REFRESH is the only one.
func (c *Card) refresh() {
	const octet, bit = 2, 0x80 // of TERMINAL PROFILE (TS 102 223 §5.2)
	if t := &c.toolkit; len(t.profile) > octet && t.profile[octet]&bit != 0 {
		t.command, t.fetched = refreshCommand, false
	}
}

// announced is sw, or 91xx in its place where it is 9000 and a proactive command
// is to be fetched.
func (c *Card) announced(ch *channel, sw apdu.StatusWord) apdu.StatusWord {
	t := &c.toolkit
	if sw != apdu.SWSuccess || t.command == nil || t.fetched || !c.application(ch).proactive {
		return sw
	}
	return 0x9100 | apdu.StatusWord(byte(len(t.command)))
}

// toolkitHeader checks that a command is for the basic channel and has no
// parameters.
func toolkitHeader(channel int, cmd apdu.Command) apdu.StatusWord {
	switch {
	case channel != 0:
		return apdu.SWChannelNotSupported
	case cmd.P1 != 0 || cmd.P2 != 0:
		return apdu.SWIncorrectP1P2
	}
	return apdu.SWSuccess
}

// terminalProfile is TERMINAL PROFILE.
func (c *Card) terminalProfile(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if sw := toolkitHeader(n, cmd); sw != apdu.SWSuccess {
		return nil, sw
	}
	if len(cmd.Data) == 0 || len(cmd.Data) > apdu.MaxShortData {
		return nil, apdu.SWWrongLength
	}
	c.toolkit.profile = bytes.Clone(cmd.Data)
	return nil, apdu.SWSuccess
}

// fetch is FETCH.
func (c *Card) fetch(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	t, sw := &c.toolkit, toolkitHeader(n, cmd)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case len(cmd.Data) > 0:
		return nil, apdu.SWWrongLength
	case t.command == nil:
		return nil, apdu.SWConditionsNotSatisfied
	}
	if sw := wrongLe(cmd.Ne, len(t.command)); sw != apdu.SWSuccess {
		return nil, sw
	}
	t.fetched = true
	return t.command, apdu.SWSuccess
}

// terminalResponse is TERMINAL RESPONSE: it ends the proactive command, or has
// it fetched again where the terminal was not able to do it now.
func (c *Card) terminalResponse(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	t, sw := &c.toolkit, toolkitHeader(n, cmd)
	switch {
	case sw != apdu.SWSuccess:
		return nil, sw
	case t.command == nil || !t.fetched:
		return nil, apdu.SWConditionsNotSatisfied
	}
	result, ok := generalResult(cmd.Data)
	if !ok {
		return nil, apdu.SWIncorrectData
	}
	t.fetched = false
	if result != unableNow && result != networkUnableNow {
		t.command = nil
	}
	return nil, apdu.SWSuccess
}

// General results of a TERMINAL RESPONSE that say: later (TS 102 223 §8.12).
const (
	unableNow        = 0x20
	networkUnableNow = 0x21
)

// comprehension is the bit of a simple TLV's tag that says whether it must be
// understood.
const comprehension = 0x80

// generalResult reads a TERMINAL RESPONSE to REFRESH: command details, device
// identities, result (TS 102 223 §6.8).
func generalResult(b []byte) (result byte, ok bool) {
	var details, ids bool
	for len(b) > 0 {
		o, rest, err := tlv.Read(b)
		if err != nil {
			return 0, false
		}
		b = rest
		switch v := o.Value; o.Tag &^ comprehension {
		case 0x01:
			details = len(v) == 3 && v[0] == refreshNumber && v[1] == typeRefresh
		case 0x02:
			ids = len(v) == 2
		case 0x03:
			if len(v) == 0 {
				return 0, false
			}
			return v[0], details && ids
		}
	}
	return 0, false
}

// envelope is ENVELOPE: the card takes what the terminal tells and wants none
// of it.
func (c *Card) envelope(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if sw := toolkitHeader(n, cmd); sw != apdu.SWSuccess {
		return nil, sw
	}
	return oneObject(cmd, func(t tlv.Tag) bool { return t >= 0xD1 && t <= 0xDF })
}

// terminalCapability is TERMINAL CAPABILITY (ETSI TS 102 221 §11.1.19).
func (c *Card) terminalCapability(_ int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if sw := toolkitHeader(0, cmd); sw != apdu.SWSuccess {
		return nil, sw
	}
	return oneObject(cmd, func(t tlv.Tag) bool { return t == 0xA9 })
}

// oneObject takes a command whose data is one data object.
func oneObject(cmd apdu.Command, wanted func(tlv.Tag) bool) ([]byte, apdu.StatusWord) {
	o, rest, err := tlv.Read(cmd.Data)
	if err != nil || len(rest) > 0 || !wanted(o.Tag) {
		return nil, apdu.SWIncorrectData
	}
	return nil, apdu.SWSuccess
}
