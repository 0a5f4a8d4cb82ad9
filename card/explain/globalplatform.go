package explain

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// globalPlatform is the commands of GlobalPlatform Card Specification §11.
var globalPlatform = map[byte]spec{
	0x50: {"INITIALIZE UPDATE", (*Explainer).initializeUpdate},
	0x7A: {"END R-MAC SESSION", nil},
	0x82: {"EXTERNAL AUTHENTICATE", (*Explainer).gpExternalAuthenticate},
	0xA4: {"SELECT", (*Explainer).selectFile},
	0xCA: {"GET DATA", (*Explainer).getData},
	0xCB: {"GET DATA", nil},
	0xD8: {"PUT KEY", (*Explainer).putKey},
	0xE2: {"STORE DATA", (*Explainer).storeData},
	0xE4: {"DELETE", (*Explainer).gpDelete},
	0xE6: {"INSTALL", (*Explainer).install},
	0xE8: {"LOAD", (*Explainer).load},
	0xF0: {"SET STATUS", (*Explainer).setStatus},
	0xF2: {"GET STATUS", (*Explainer).gpStatus},
}

func (x *Explainer) initializeUpdate(c *channel) {
	x.add("", "key version", fmt.Sprint(c.now.cmd.P1))
	x.add("", "host challenge", hexa(c.now.cmd.Data))
	c.now.answer = func(x *Explainer, _ *channel, b []byte, _ apdu.StatusWord) {
		if len(b) < 13 {
			x.anyData(b)
			return
		}
		x.add("", "key diversification", hexa(b[:10]))
		x.add("", "key version", fmt.Sprint(b[10]))
		x.add("", "secure channel protocol", fmt.Sprintf("SCP%02X", b[11]))
		x.add("", "challenge and cryptogram", hexa(b[12:]))
	}
}

func (x *Explainer) gpExternalAuthenticate(c *channel) {
	x.add("", "security", flags("C-MAC", "C-DECRYPTION", "", "", "R-MAC", "R-ENCRYPTION")([]byte{c.now.cmd.P1}))
	x.add("", "cryptogram", hexa(c.now.cmd.Data))
}

func (x *Explainer) putKey(c *channel) {
	x.add("", "key version", fmt.Sprint(c.now.cmd.P1&0x7F))
	x.add("", "key", fmt.Sprint(c.now.cmd.P2&0x7F))
	c.now.cmd.Data = nil
}

func (x *Explainer) gpDelete(c *channel) {
	if c.now.cmd.P2&0x80 != 0 {
		x.add("", "related objects", "too")
	}
	x.tree(c.now.cmd.Data, objects{0x4F: {name: "AID", show: aid}, 0xD0: {name: "key"}, 0xD2: {name: "key version"}}, 0)
}

// install is INSTALL (§11.5): what for, then fields with a length before each.
func (x *Explainer) install(c *channel) {
	b := c.now.cmd.Data
	x.out.Title += " for " + flags("", "load", "install", "make selectable", "extradition", "personalisation", "registry update")([]byte{c.now.cmd.P1})
	names := []string{"load file", "module", "application", "privileges", "parameters", "token"}
	if c.now.cmd.P1&0x06 == 0x02 {
		names = []string{"load file", "security domain", "hash", "parameters", "token"}
	}
	for _, name := range names {
		n, at, ok := readLength(b, 0)
		if !ok || n > len(b)-at {
			break
		}
		v := b[at : at+n]
		b = b[at+n:]
		switch {
		case n == 0:
		case name == "load file" || name == "module" || name == "application" || name == "security domain":
			x.add("", name, aid(v))
		default:
			x.add("", name, hexa(v))
		}
	}
	c.now.name = x.out.Title
}

func (x *Explainer) load(c *channel) {
	x.add("", "block", block(c.now.cmd))
	x.add("", "data", sized(c.now.cmd.Data))
}

func (x *Explainer) setStatus(c *channel) {
	x.add("", "of", scope(c.now.cmd.P1))
	x.add("", "state", fmt.Sprintf("%02X", c.now.cmd.P2))
	x.add("", "AID", aid(c.now.cmd.Data))
}

func scope(p1 byte) string {
	return coded(map[byte]string{0x80: "issuer security domain", 0x40: "applications and security domains", 0x60: "application and its security domain", 0x20: "load files", 0x10: "load files and modules"})([]byte{p1})
}

func (x *Explainer) gpStatus(c *channel) {
	if c.now.cmd.P2&1 != 0 {
		x.add("", "occurrence", "next")
	}
	x.add("", "of", scope(c.now.cmd.P1))
	x.tree(c.now.cmd.Data, objects{0x4F: {name: "AID", show: aid}, 0x5C: {name: "tags asked for", show: tagList}}, 0)
	c.now.answer = func(x *Explainer, _ *channel, b []byte, _ apdu.StatusWord) {
		if !isObjects(b) {
			x.anyData(b)
			return
		}
		x.tree(b, objects{0xE3: {name: "entry", inside: objects{
			0x4F:   {name: "AID", show: aid},
			0x9F70: {name: "life cycle", show: coded(map[byte]string{0x01: "loaded or OP_READY", 0x03: "installed", 0x07: "selectable or INITIALIZED", 0x0F: "personalised or SECURED", 0x7F: "CARD_LOCKED", 0xFF: "TERMINATED"})},
			0xC5:   {name: "privileges"},
			0x84:   {name: "module", show: aid},
			0xC4:   {name: "load file", show: aid},
			0xCC:   {name: "security domain", show: aid},
		}}}, 0)
	}
}
