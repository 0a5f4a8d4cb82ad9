package explain

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
)

const insGetResponse = 0xC0

// command explains a command APDU.
func (x *Explainer) command(e trace.Entry) {
	if x.current != nil && x.current.now.open && len(x.current.now.data) == 0 && !x.current.now.accepted {
		x.say(Note, "before", x.current.now.name+" has no response here")
	}
	cmd, err := apdu.ParseCommand(e.Data)
	if err != nil {
		if len(e.Data) < 4 {
			x.out.Title, x.out.Level = "not a command", Bad
			x.current = nil
			return
		}
		cmd = apdu.Command{CLA: e.Data[0], INS: e.Data[1], P1: e.Data[2], P2: e.Data[3]}
		x.say(Bad, "form", "the lengths do not fit the data")
	}
	cl := parseClass(cmd.CLA)
	c := &x.channels[cl.channel]
	x.out.Channel = cl.channel
	x.current = c
	if cmd.INS == insGetResponse && !cl.secure {
		x.out.Title = "GET RESPONSE"
		if c.now.name != "" {
			x.out.Title += " of " + c.now.name
		}
		if cmd.Ne > 0 {
			x.add("", "Le", fmt.Sprintf("%d bytes", cmd.Ne))
		}
		if !c.now.open { // its command is not in the trace
			c.now = exchange{open: true, class: cl, name: "GET RESPONSE"}
		}
		return
	}
	hidden := len(e.Mask) > 0
	what := lookup(c, cl, cmd)
	if cl.chained || c.parts > 0 {
		if c.parts > 0 && (cmd.INS != c.now.cmd.INS || cmd.P1 != c.now.cmd.P1 || cmd.P2 != c.now.cmd.P2) {
			x.say(Note, "chain", "another command, "+c.now.name+" is not complete")
			c.chain, c.parts, c.hidden = nil, 0, false
		}
		if cl.chained || c.parts > 0 {
			c.parts++
			c.hidden = c.hidden || hidden
			c.chain = bounded(c.chain, cmd.Data)
		}
		if cl.chained {
			x.out.Title = fmt.Sprintf("%s, part %d of a chain", what.name, c.parts)
			x.add("", "data", fmt.Sprintf("%d bytes", len(cmd.Data)))
			c.now = exchange{open: true, cmd: cmd, class: cl, name: x.out.Title}
			x.plainCommand(c, cl, cmd.INS)
			return
		}
		if c.parts > 0 {
			x.add("", "chain", fmt.Sprintf("part %d, the last; %d bytes in all", c.parts, len(c.chain)))
			cmd.Data, hidden = c.chain, c.hidden
			c.chain, c.parts, c.hidden = nil, 0, false
		}
	}
	x.plainCommand(c, cl, cmd.INS)
	c.now = exchange{open: true, cmd: cmd, class: cl, name: what.name, hidden: hidden}
	x.out.Title = what.name
	if hidden {
		x.add("", "data", fmt.Sprintf("%d bytes, secret", len(cmd.Data)))
		c.now.cmd.Data = nil
	}
	switch {
	case cl.secure:
		x.secureCommand(c, what)
	case what.explain != nil:
		what.explain(x, c)
	default:
		x.add("", "P1 P2", fmt.Sprintf("%02X %02X", cmd.P1, cmd.P2))
		x.anyData(c.now.cmd.Data)
	}
}

// anyData adds data of which nothing is known.
func (x *Explainer) anyData(b []byte) {
	switch {
	case len(b) == 0:
	case len(b) > 2 && isObjects(b):
		x.tree(b, nil, 0)
	default:
		x.add("", "data", hexa(b))
	}
}

// bounded appends to what is gathered; what is too much is left out.
func bounded(b, more []byte) []byte {
	return append(b, more[:min(len(more), maxGathered-len(b))]...)
}

// response explains a response APDU.
func (x *Explainer) response(e trace.Entry) {
	data, sw, err := apdu.ParseResponse(e.Data)
	if err != nil {
		x.out.Title, x.out.Level = "not a response", Bad
		x.add("", "data", hexa(e.Data))
		return
	}
	c := x.current
	if c == nil || !c.now.open {
		x.out.Title, x.out.Level = status(sw, nil)
		x.say(Note, "command", "none before it")
		return
	}
	x.out.Channel = c.number
	now := &c.now
	x.out.Title, x.out.Level = status(sw, now.words)
	now.secret = now.secret || len(e.Mask) > 0
	if len(now.data) == 0 {
		now.data = data // the entry is its caller's to keep
	} else {
		now.data = bounded(now.data, data)
	}
	if !now.accepted && accepted(sw) {
		now.accepted = true
		if now.done != nil {
			now.done(x, c)
		}
	}
	if more(sw) {
		if len(data) > 0 {
			x.add("", "data", fmt.Sprintf("%d bytes, more follow", len(data)))
		}
		return
	}
	if sw.SW1() == 0x6C { // the same command comes again
		now.open = false
		return
	}
	now.open = false
	x.proactive(sw)
	switch {
	case now.secret:
		x.add("", "data", fmt.Sprintf("%d bytes, secret", len(now.data)))
		if now.cmd.INS&^1 == insInternal && len(now.data) > 1 {
			x.authenticated(now.data[0])
		}
	case now.class.secure:
		x.secureResponse(c, now.data, sw)
	case now.answer != nil:
		now.answer(x, c, now.data, sw)
	default:
		x.anyData(now.data)
	}
	now.data = nil
}

// spec is a command's name and what else there is to say of it.
type spec struct {
	name    string
	explain func(*Explainer, *channel) // of c.now.cmd; sets how its response is explained
}

// lookup finds what an instruction is where the channel stands.
func lookup(c *channel, cl class, cmd apdu.Command) spec {
	var tables []map[byte]spec
	switch {
	case cl.gsm:
		tables = []map[byte]spec{gsmCommands}
	case ours(c, cl, cmd):
		tables = []map[byte]spec{managementCommands, interindustry}
	case cl.proprietary && (c.app != nil && c.app.domain || cmd.INS == 0xF2 && cmd.P1&0xF0 != 0): // P1 of the UICC's STATUS is 0 to 2
		tables = []map[byte]spec{globalPlatform, uicc}
	case cl.proprietary:
		tables = []map[byte]spec{uicc, globalPlatform}
	default:
		tables = []map[byte]spec{interindustry}
	}
	for _, t := range tables {
		if s, ok := t[cmd.INS]; ok {
			return s
		}
	}
	return spec{name: fmt.Sprintf("INS %02X", cmd.INS)}
}

// interindustry is the commands of ISO/IEC 7816-4 and TS 102 221 with a class
// of 0X, 4X or 6X.
var interindustry = map[byte]spec{
	0x04: {"DEACTIVATE FILE", (*Explainer).fileByID},
	0x0C: {"ERASE RECORD", nil},
	0x0E: {"ERASE BINARY", nil},
	0x10: {"PERFORM SCQL OPERATION", nil},
	0x20: {"VERIFY PIN", (*Explainer).pin},
	0x21: {"VERIFY", nil},
	0x22: {"MANAGE SECURITY ENVIRONMENT", nil},
	0x24: {"CHANGE PIN", (*Explainer).pin},
	0x26: {"DISABLE PIN", (*Explainer).pin},
	0x28: {"ENABLE PIN", (*Explainer).pin},
	0x2A: {"PERFORM SECURITY OPERATION", nil},
	0x2C: {"UNBLOCK PIN", (*Explainer).pin},
	0x44: {"ACTIVATE FILE", (*Explainer).fileByID},
	0x46: {"GENERATE ASYMMETRIC KEY PAIR", nil},
	0x70: {"MANAGE CHANNEL", (*Explainer).manageChannel},
	0x73: {"MANAGE SECURE CHANNEL", nil},
	0x75: {"TRANSACT DATA", nil},
	0x82: {"EXTERNAL AUTHENTICATE", nil},
	0x84: {"GET CHALLENGE", (*Explainer).getChallenge},
	0x86: {"GENERAL AUTHENTICATE", nil},
	0x87: {"GENERAL AUTHENTICATE", nil},
	0x88: {"AUTHENTICATE", (*Explainer).authenticate},
	0x89: {"AUTHENTICATE", (*Explainer).authenticate},
	0xA2: {"SEARCH RECORD", (*Explainer).searchRecord},
	0xA4: {"SELECT", (*Explainer).selectFile},
	0xB0: {"READ BINARY", (*Explainer).readBinary},
	0xB2: {"READ RECORD", (*Explainer).readRecord},
	0xC0: {"GET RESPONSE", nil},
	0xC2: {"ENVELOPE", nil},
	0xCA: {"GET DATA", (*Explainer).getData},
	0xCB: {"GET DATA", nil},
	0xD6: {"UPDATE BINARY", (*Explainer).updateBinary},
	0xDA: {"PUT DATA", nil},
	0xDB: {"PUT DATA", nil},
	0xDC: {"UPDATE RECORD", (*Explainer).updateRecord},
	0xE0: {"CREATE FILE", (*Explainer).fcpCommand},
	0xE2: {"APPEND RECORD", nil},
	0xE4: {"DELETE FILE", (*Explainer).fileByID},
	0xE6: {"TERMINATE DF", nil},
	0xE8: {"TERMINATE EF", nil},
	0xFE: {"TERMINATE CARD USAGE", nil},
}

// uicc is the commands of TS 102 221 and TS 102 222 with a class of 8X, CX or EX.
var uicc = map[byte]spec{
	0x10: {"TERMINAL PROFILE", (*Explainer).terminalProfile},
	0x12: {"FETCH", (*Explainer).fetch},
	0x14: {"TERMINAL RESPONSE", (*Explainer).terminalResponse},
	0x32: {"INCREASE", nil},
	0x76: {"SUSPEND UICC", nil},
	0x78: {"GET IDENTITY", nil},
	0x7A: {"EXCHANGE CAPABILITIES", nil},
	0xAA: {"TERMINAL CAPABILITY", (*Explainer).terminalCapability},
	0xC2: {"ENVELOPE", (*Explainer).envelope},
	0xCB: {"RETRIEVE DATA", nil},
	0xD4: {"RESIZE FILE", (*Explainer).fcpCommand},
	0xDB: {"SET DATA", nil},
	0xF2: {"STATUS", (*Explainer).uiccStatus},
}

// gsmCommands is TS 51.011's, class A0.
var gsmCommands = map[byte]spec{
	0x04: {"INVALIDATE", nil},
	0x10: {"TERMINAL PROFILE", (*Explainer).terminalProfile},
	0x12: {"FETCH", (*Explainer).fetch},
	0x14: {"TERMINAL RESPONSE", (*Explainer).terminalResponse},
	0x20: {"VERIFY CHV", (*Explainer).pin},
	0x24: {"CHANGE CHV", (*Explainer).pin},
	0x26: {"DISABLE CHV", (*Explainer).pin},
	0x28: {"ENABLE CHV", (*Explainer).pin},
	0x2C: {"UNBLOCK CHV", (*Explainer).pin},
	0x32: {"INCREASE", nil},
	0x44: {"REHABILITATE", nil},
	0x88: {"RUN GSM ALGORITHM", nil},
	0xA2: {"SEEK", (*Explainer).searchRecord},
	0xA4: {"SELECT", (*Explainer).selectFile},
	0xB0: {"READ BINARY", (*Explainer).readBinary},
	0xB2: {"READ RECORD", (*Explainer).readRecord},
	0xC0: {"GET RESPONSE", nil},
	0xC2: {"ENVELOPE", (*Explainer).envelope},
	0xD6: {"UPDATE BINARY", (*Explainer).updateBinary},
	0xDC: {"UPDATE RECORD", (*Explainer).updateRecord},
	0xF2: {"STATUS", nil},
	0xFA: {"SLEEP", nil},
}

func (x *Explainer) manageChannel(c *channel) {
	cmd := c.now.cmd
	switch {
	case cmd.P1 == 0x80:
		n := int(cmd.P2)
		if n == 0 {
			n = c.number
		}
		x.out.Title = fmt.Sprintf("MANAGE CHANNEL: close channel %d", n)
		c.now.done = func(x *Explainer, _ *channel) { x.clearChannel(n) }
	case cmd.P1 == 0 && cmd.P2 == 0:
		x.out.Title = "MANAGE CHANNEL: open a channel"
		c.now.answer = func(x *Explainer, c *channel, data []byte, sw apdu.StatusWord) {
			if sw == apdu.SWSuccess && len(data) == 1 {
				x.add("", "channel", fmt.Sprintf("%d", data[0]))
				x.openChannel(c, int(data[0]))
				return
			}
			x.anyData(data)
		}
	case cmd.P1 == 0:
		x.out.Title = fmt.Sprintf("MANAGE CHANNEL: open channel %d", cmd.P2)
		c.now.done = func(x *Explainer, c *channel) { x.openChannel(c, int(cmd.P2)) }
	default:
		x.add("", "P1 P2", fmt.Sprintf("%02X %02X", cmd.P1, cmd.P2))
	}
	c.now.name = x.out.Title
}

// openChannel is TS 102 221 §11.1.17: from the basic channel the new one stands
// at the MF, else where the channel of the command stands.
func (x *Explainer) openChannel(from *channel, n int) {
	if n <= 0 || n >= maxChannels || n == from.number {
		return
	}
	x.clearChannel(n)
	if from.number == 0 {
		x.channels[n].dir = mf
		return
	}
	x.channels[n].app, x.channels[n].dir = from.app, from.dir
}

func (x *Explainer) clearChannel(n int) {
	if n <= 0 || n >= maxChannels {
		return
	}
	now := x.channels[n].now // its response may be at hand
	x.channels[n] = channel{number: n, now: now}
	if x.secure.state != idle && x.secure.channel == n {
		x.secure = secureSession{}
	}
}

// pin is VERIFY and its like; the PIN itself was masked.
func (x *Explainer) pin(c *channel) {
	x.out.Title += ": " + keyReference(c.now.cmd.P2)
	c.now.words = pinWords
	if !c.now.hidden && len(c.now.cmd.Data) == 0 {
		x.add("", "data", "none: asks how many tries are left")
		c.now.words = triesWords
	}
	c.now.cmd.Data = nil
}

// keyReference is TS 102 221 §9.5.1.
func keyReference(p2 byte) string {
	switch {
	case p2 == 0:
		return "PIN2 or CHV, reference 00"
	case p2 >= 0x01 && p2 <= 0x08:
		return fmt.Sprintf("PIN appl %d", p2)
	case p2 >= 0x0A && p2 <= 0x0E:
		return fmt.Sprintf("ADM%d", p2-9)
	case p2 == 0x11:
		return "universal PIN"
	case p2 >= 0x81 && p2 <= 0x88:
		return fmt.Sprintf("second PIN appl %d", p2-0x80)
	case p2 >= 0x8A && p2 <= 0x8E:
		return fmt.Sprintf("ADM%d", p2-0x8A+6)
	}
	return fmt.Sprintf("reference %02X", p2)
}

func (x *Explainer) getChallenge(c *channel) {
	c.now.answer = func(x *Explainer, c *channel, data []byte, _ apdu.StatusWord) {
		if len(data) > 0 {
			x.add("", "challenge", hexa(data))
		}
	}
}

// authenticate is TS 31.102 §7.1: the answer was masked.
func (x *Explainer) authenticate(c *channel) {
	cmd := c.now.cmd
	contexts := [...]string{"GSM", "3G", "VGCS/VBS", "", "GBA", "MBMS", "local key establishment"}
	if n := int(cmd.P2 & 0x07); n < len(contexts) && contexts[n] != "" {
		x.out.Title += ", " + contexts[n] + " context"
	}
	if cmd.INS == 0x88 && (cmd.P2&0x07 == 1 || cmd.P2&0x07 == 0) {
		b := cmd.Data
		for _, name := range [...]string{"RAND", "AUTN"} {
			if len(b) > 0 && int(b[0]) < len(b) {
				x.add("", name, hexa(b[1:1+b[0]]))
				b = b[1+b[0]:]
			}
		}
		return
	}
	x.anyData(cmd.Data)
}

// authenticated is what the first byte of an AUTHENTICATE's answer says.
func (x *Explainer) authenticated(tag byte) {
	switch tag {
	case 0xDB:
		x.say(Good, "result", "the network is authenticated")
	case 0xDC:
		x.say(Note, "result", "synchronisation failure")
	}
}

// getData names the object by P1 P2.
func (x *Explainer) getData(c *channel) {
	tag := uint32(c.now.cmd.P1)<<8 | uint32(c.now.cmd.P2)
	if m, ok := dataObjects[tag]; ok {
		x.out.Title += ": " + m.name
	} else {
		x.out.Title += fmt.Sprintf(": tag %02X", tag)
	}
	x.anyData(c.now.cmd.Data)
	c.now.answer = func(x *Explainer, _ *channel, data []byte, _ apdu.StatusWord) {
		if isObjects(data) {
			x.tree(data, dataObjects, 0)
			return
		}
		x.anyData(data)
	}
}
