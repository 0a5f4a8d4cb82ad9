package explain

import (
	"fmt"
	"strings"

	"github.com/cardbridge/cardbridge/apdu"
)

// proactiveCommands is the types of proactive commands (TS 102 223 §9.4).
var proactiveCommands = map[byte]string{
	0x01: "REFRESH", 0x02: "MORE TIME", 0x03: "POLL INTERVAL", 0x04: "POLLING OFF", 0x05: "SET UP EVENT LIST",
	0x10: "SET UP CALL", 0x11: "SEND SS", 0x12: "SEND USSD", 0x13: "SEND SHORT MESSAGE", 0x14: "SEND DTMF",
	0x15: "LAUNCH BROWSER", 0x16: "GEOGRAPHICAL LOCATION REQUEST", 0x20: "PLAY TONE", 0x21: "DISPLAY TEXT", 0x22: "GET INKEY",
	0x23: "GET INPUT", 0x24: "SELECT ITEM", 0x25: "SET UP MENU", 0x26: "PROVIDE LOCAL INFORMATION", 0x27: "TIMER MANAGEMENT",
	0x28: "SET UP IDLE MODE TEXT", 0x30: "PERFORM CARD APDU", 0x31: "POWER ON CARD", 0x32: "POWER OFF CARD", 0x33: "GET READER STATUS",
	0x34: "RUN AT COMMAND", 0x35: "LANGUAGE NOTIFICATION", 0x40: "OPEN CHANNEL", 0x41: "CLOSE CHANNEL", 0x42: "RECEIVE DATA",
	0x43: "SEND DATA", 0x44: "GET CHANNEL STATUS", 0x45: "SERVICE SEARCH", 0x46: "GET SERVICE INFORMATION", 0x47: "DECLARE SERVICE",
	0x50: "SET FRAMES", 0x51: "GET FRAMES STATUS", 0x60: "RETRIEVE MULTIMEDIA MESSAGE", 0x61: "SUBMIT MULTIMEDIA MESSAGE",
	0x62: "DISPLAY MULTIMEDIA MESSAGE", 0x70: "ACTIVATE", 0x71: "CONTACTLESS STATE CHANGED", 0x72: "COMMAND CONTAINER",
	0x73: "ENCAPSULATED SESSION CONTROL", 0x81: "end of the session",
}

// refreshes is the qualifiers of REFRESH (TS 102 223 §8.6).
var refreshes = [...]string{
	"NAA initialisation and full file change", "file change", "NAA initialisation and file change", "NAA initialisation", "UICC reset",
	"NAA application reset", "NAA session reset", "steering of roaming", "steering of roaming for I-WLAN", "eUICC profile state change",
	"application update",
}

var devices = map[byte]string{
	0x01: "keypad", 0x02: "display", 0x03: "earpiece", 0x81: "UICC", 0x82: "terminal", 0x83: "network", 0x84: "application",
}

var results = map[byte]string{
	0x00: "performed successfully", 0x01: "performed with partial comprehension", 0x02: "performed, with missing information",
	0x03: "REFRESH performed with additional EFs read", 0x04: "performed, the icon not displayed", 0x05: "performed, modified by call control",
	0x06: "performed, limited service", 0x07: "performed with modification", 0x08: "REFRESH performed, the NAA was not active",
	0x10: "the user ended the session", 0x11: "the user wants to go back", 0x12: "no response from the user", 0x13: "help asked for by the user",
	0x20: "the terminal is unable to process", 0x21: "the network is unable to process", 0x22: "the user did not accept", 0x23: "the user cleared down the call",
	0x24: "contradiction with a timer", 0x25: "interaction with call control", 0x26: "launch browser error", 0x30: "beyond the terminal's capabilities",
	0x31: "type not understood", 0x32: "data not understood", 0x33: "number not known", 0x34: "SS error", 0x35: "SMS error",
	0x36: "required values are missing", 0x38: "MultipleCard error", 0x39: "interaction with call control, permanent", 0x3A: "bearer independent protocol error",
	0x3B: "access technology unable to process", 0x3C: "frames error", 0x3D: "MMS error",
}

var events = map[byte]string{
	0x00: "MT call", 0x01: "call connected", 0x02: "call disconnected", 0x03: "location status", 0x04: "user activity", 0x05: "idle screen available",
	0x06: "card reader status", 0x07: "language selection", 0x08: "browser termination", 0x09: "data available", 0x0A: "channel status",
	0x0B: "access technology change", 0x0C: "display parameters changed", 0x0D: "local connection", 0x0E: "network search mode change",
	0x0F: "browsing status", 0x10: "frames information change", 0x11: "I-WLAN access status", 0x12: "network rejection", 0x13: "HCI connectivity",
	0x14: "access technology change (several)", 0x15: "CSG cell selection", 0x16: "contactless state request", 0x17: "IMS registration",
	0x18: "incoming IMS data", 0x19: "profile container", 0x1B: "secured profile container", 0x1C: "poll interval negotiation",
}

// simple is the COMPREHENSION-TLV objects (TS 101 220 §7.2, TS 102 223 §8), their
// tags without the comprehension bit.
var simple = objects{
	0x01: {name: "command", show: commandDetails},
	0x02: {name: "devices", show: deviceIdentities},
	0x03: {name: "result", show: toolkitResult},
	0x04: {name: "duration", show: duration},
	0x05: {name: "alpha identifier", show: alpha},
	0x06: {name: "address", show: address},
	0x08: {name: "subaddress"},
	0x09: {name: "SS string"},
	0x0A: {name: "USSD string"},
	0x0B: {name: "SMS TPDU"},
	0x0C: {name: "cell broadcast page"},
	0x0D: {name: "text", show: textString},
	0x0E: {name: "tone"},
	0x0F: {name: "item", show: item},
	0x10: {name: "item identifier", show: number},
	0x11: {name: "response length"},
	0x12: {name: "file list"},
	0x13: {name: "location information"},
	0x14: {name: "IMEI", show: imei},
	0x15: {name: "help request"},
	0x16: {name: "network measurement results"},
	0x17: {name: "default text", show: textString},
	0x18: {name: "items next action indicators"},
	0x19: {name: "event list", show: eventList},
	0x1A: {name: "cause"},
	0x1B: {name: "location status", show: enum("normal service", "limited service", "no service")},
	0x1C: {name: "transaction identifier"},
	0x1D: {name: "BCCH channel list"},
	0x1E: {name: "icon identifier"},
	0x1F: {name: "item icon identifiers"},
	0x20: {name: "card reader status"},
	0x21: {name: "card ATR"},
	0x22: {name: "C-APDU", show: sized},
	0x23: {name: "R-APDU", show: sized},
	0x24: {name: "timer", show: number},
	0x25: {name: "timer value", show: timer},
	0x26: {name: "date and time"},
	0x27: {name: "call control requested action"},
	0x28: {name: "AT command", show: utf8Text},
	0x29: {name: "AT response", show: utf8Text},
	0x2B: {name: "immediate response"},
	0x2C: {name: "DTMF string"},
	0x2D: {name: "language", show: utf8Text},
	0x2F: {name: "AID", show: aid},
	0x30: {name: "browser identity"},
	0x31: {name: "URL", show: utf8Text},
	0x32: {name: "bearer"},
	0x33: {name: "provisioning file"},
	0x34: {name: "browser termination cause"},
	0x35: {name: "bearer description"},
	0x36: {name: "channel data", show: sized},
	0x37: {name: "channel data length", show: number},
	0x38: {name: "channel status"},
	0x39: {name: "buffer size", show: number},
	0x3C: {name: "transport level", show: transport},
	0x3E: {name: "other address", show: otherAddress},
	0x3F: {name: "access technology", show: coded(map[byte]string{0: "GSM", 1: "TIA/EIA-553", 3: "UTRAN", 8: "E-UTRAN", 10: "NG-RAN"})},
	0x47: {name: "network access name", show: accessName},
	0x50: {name: "text attribute"},
	0x62: {name: "IMEISV", show: imei},
	0x63: {name: "network search mode"},
	0x64: {name: "battery state"},
	0x72: {name: "PDP context activation"},
	0x74: {name: "registry application data"},
	0x75: {name: "PLMN list"},
	0x79: {name: "extended rejection cause"},
}

// comprehension adds the COMPREHENSION-TLV objects of b.
func (x *Explainer) comprehension(b []byte, depth int) {
	for len(b) > 0 && !allOf(b, 0xFF) {
		tag, at := uint32(b[0]&0x7F), 1
		if b[0] == 0x7F && len(b) >= 3 {
			tag, at = uint32(b[1]&0x7F)<<8|uint32(b[2]), 3
		}
		n, at, ok := readLength(b, at)
		if !ok || n > len(b)-at {
			x.put(Field{Depth: depth, Name: "other bytes", Value: hexa(b)})
			return
		}
		v := b[at : at+n]
		m := simple[tag]
		f := Field{Depth: depth, Tag: fmt.Sprintf("%02X", b[0]), Name: m.name, Value: hexa(v)}
		if m.show != nil {
			f.Value = m.show(v)
		}
		b = b[at+n:]
		if !x.put(f) {
			return
		}
	}
}

// proactive notes that a command waits to be fetched.
func (x *Explainer) proactive(sw apdu.StatusWord) {
	if sw.SW1() == 0x91 {
		x.toolkit = true
	}
}

func (x *Explainer) fetch(c *channel) {
	if !x.toolkit {
		x.add("", "before", "no proactive command was announced here")
	}
	x.toolkit = false
	c.now.answer = func(x *Explainer, _ *channel, b []byte, _ apdu.StatusWord) {
		o, _, ok := readObject(b)
		if !ok || o.tag != 0xD0 {
			x.anyData(b)
			return
		}
		if name := proactiveName(o.value); name != "" {
			x.out.Title += ": " + name
		}
		x.put(Field{Tag: "D0", Name: "proactive command"})
		x.comprehension(o.value, 1)
	}
}

// proactiveName is the name of the command in a list of COMPREHENSION-TLV
// objects, of which the first are the command details.
func proactiveName(b []byte) string {
	if len(b) >= 5 && b[0]&0x7F == 1 && b[1] == 3 {
		return proactiveCommands[b[3]]
	}
	return ""
}

func (x *Explainer) terminalResponse(c *channel) {
	b := c.now.cmd.Data
	if name := proactiveName(b); name != "" {
		x.out.Title += " to " + name
	}
	x.comprehension(b, 0)
}

// envelope is ENVELOPE (TS 102 223 §7.5) by its template.
func (x *Explainer) envelope(c *channel) {
	names := map[uint32]string{
		0xD1: "SMS-PP download", 0xD2: "cell broadcast download", 0xD3: "menu selection", 0xD4: "call control", 0xD5: "MO short message control",
		0xD6: "event download", 0xD7: "timer expiration", 0xDA: "MMS transfer status", 0xDB: "MMS notification download", 0xDC: "terminal application",
		0xDD: "geographical location reporting", 0xDF: "ProSe report", 0xE4: "5G ProSe report",
	}
	o, _, ok := readObject(c.now.cmd.Data)
	if !ok {
		x.anyData(c.now.cmd.Data)
		return
	}
	if name := names[o.tag]; name != "" {
		x.out.Title += ": " + name
		c.now.name = x.out.Title
	}
	x.comprehension(o.value, 0)
}

func (x *Explainer) terminalProfile(c *channel) {
	x.add("", "profile", hexa(c.now.cmd.Data))
	if b := c.now.cmd.Data; len(b) > 0 {
		x.add("", "of it", flags("profile download", "SMS-PP download", "cell broadcast download", "menu selection", "SMS-PP data download supported", "timer expiration")(b[:1]))
	}
}

func (x *Explainer) terminalCapability(c *channel) {
	x.tree(c.now.cmd.Data, objects{0xA9: {name: "terminal capability", inside: objects{
		0x80: {name: "power supply"},
		0x81: {name: "extended logical channels"},
		0x82: {name: "additional interfaces", show: flags("UICC-CLF")},
		0x83: {name: "eUICC", show: flags("LUI in the device", "LPD in the device", "LDS in the device", "LUIe by SCWS", "metadata update alerting", "enterprise", "LUIe by E4E", "LPR")},
	}}}, 0)
}

func commandDetails(b []byte) string {
	if len(b) != 3 {
		return hexa(b)
	}
	name, ok := proactiveCommands[b[1]]
	if !ok {
		name = fmt.Sprintf("type %02X", b[1])
	}
	s := fmt.Sprintf("%s, number %d", name, b[0])
	switch {
	case b[1] == 0x01 && int(b[2]) < len(refreshes):
		s += ", " + refreshes[b[2]]
	case b[2] != 0:
		s += fmt.Sprintf(", qualifier %02X", b[2])
	}
	return s
}

func deviceIdentities(b []byte) string {
	if len(b) != 2 {
		return hexa(b)
	}
	return device(b[0]) + " to " + device(b[1])
}

func device(b byte) string {
	if s, ok := devices[b]; ok {
		return s
	}
	if b >= 0x21 && b <= 0x27 {
		return fmt.Sprintf("channel %d", b-0x20)
	}
	return fmt.Sprintf("device %02X", b)
}

func toolkitResult(b []byte) string {
	if len(b) == 0 {
		return hexa(b)
	}
	s, ok := results[b[0]]
	if !ok {
		s = fmt.Sprintf("result %02X", b[0])
	}
	if len(b) > 1 {
		s += ", " + hexa(b[1:])
	}
	return s
}

func duration(b []byte) string {
	units := [...]string{"minutes", "seconds", "tenths of a second"}
	if len(b) != 2 || int(b[0]) >= len(units) {
		return hexa(b)
	}
	return fmt.Sprintf("%d %s", b[1], units[b[0]])
}

// timer is hours, minutes and seconds, nibbles swapped.
func timer(b []byte) string {
	if len(b) != 3 {
		return hexa(b)
	}
	return fmt.Sprintf("%x%x:%x%x:%x%x", b[0]&15, b[0]>>4, b[1]&15, b[1]>>4, b[2]&15, b[2]>>4)
}

func address(b []byte) string {
	if len(b) == 0 {
		return "empty"
	}
	s := swapped(b[1:])
	if b[0]&0x70 == 0x10 {
		s = "+" + s
	}
	return s
}

// textString is a coding scheme and text: packed, 8 bit or UCS2.
func textString(b []byte) string {
	switch {
	case len(b) == 0:
		return "empty"
	case b[0]&0x0C == 0x08:
		return alpha(append([]byte{0x80}, b[1:]...))
	case b[0]&0x0C == 0x04:
		return utf8Text(b[1:])
	}
	return unpack(b[1:])
}

// unpack is the SMS default alphabet, 7 bits a character (TS 23.038 §6.1.2.1).
func unpack(b []byte) string {
	var s strings.Builder
	var acc, n uint
	for _, c := range b[:min(len(b), 2*maxValue)] {
		for acc, n = acc|uint(c)<<n, n+8; n >= 7; acc, n = acc>>7, n-7 {
			if c := byte(acc & 0x7F); c >= ' ' && c <= 'z' && c != '$' && c != '@' {
				s.WriteByte(c)
			} else if c != 0 {
				s.WriteByte('?')
			}
		}
	}
	return `"` + s.String() + `"`
}

func item(b []byte) string {
	if len(b) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d %s", b[0], alpha(b[1:]))
}

func imei(b []byte) string {
	s := swapped(b)
	if len(s) > 1 {
		return s[1:]
	}
	return s
}

func eventList(b []byte) string {
	var s []string
	for _, e := range b[:min(len(b), maxValue)] {
		if name, ok := events[e]; ok {
			s = append(s, name)
		} else {
			s = append(s, fmt.Sprintf("event %02X", e))
		}
	}
	return orNone(s)
}

func transport(b []byte) string {
	if len(b) != 3 {
		return hexa(b)
	}
	kinds := coded(map[byte]string{1: "UDP client", 2: "TCP client", 3: "TCP server", 4: "UDP local", 5: "TCP local", 6: "direct"})
	return fmt.Sprintf("%s, port %d", kinds(b[:1]), int(b[1])<<8|int(b[2]))
}

func otherAddress(b []byte) string {
	if len(b) == 5 && b[0] == 0x21 {
		return fmt.Sprintf("%d.%d.%d.%d", b[1], b[2], b[3], b[4])
	}
	return hexa(b)
}

// accessName is labels with a length before each.
func accessName(b []byte) string {
	var s []string
	for len(b) > 0 && int(b[0]) < len(b) && len(s) < maxDepth {
		s = append(s, string(b[1:1+b[0]]))
		b = b[1+b[0]:]
	}
	return utf8Text([]byte(strings.Join(s, ".")))
}
