package interchange

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// pyscard reads the lines of ConsoleCardConnectionObserver:
//
//	connecting to Virtual PCD 00 00
//	> 00 A4 00 04 02 3F 00
//	<  [] 61 19
type pyscard struct{}

func isPySCard(b []byte) bool {
	if rest, ok := bytes.CutPrefix(b, []byte("< ")); ok {
		// 16 bytes may be the beginning of what scriptor prints.
		return bytes.HasPrefix(rest, []byte(" [] ")) || isHex(rest, 2) && len(rest) != 16*3-1
	}
	return bytes.HasPrefix(b, []byte("connecting to ")) || bytes.HasPrefix(b, []byte("disconnecting from "))
}

func (pyscard) line(out *output, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if name, ok := bytes.CutPrefix(b, []byte("connecting to ")); ok {
		out.reader(name)
		out.event(trace.Connected, nil, "")
		return nil
	}
	if bytes.HasPrefix(b, []byte("disconnecting from ")) {
		out.event(trace.Closed, nil, "")
		return nil
	}
	rest := bytes.TrimSpace(b[1:])
	switch b[0] {
	case '>':
		c, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.command(c)
	case '<':
		r, err := hexBytes(bytes.TrimPrefix(rest, []byte("[]")))
		if err != nil {
			return err
		}
		return out.response(r, 0)
	}
	return errNotUnderstood
}

func (pyscard) end(*output) error { return nil }

// pcscd reads the log of pcscd --apdu, whose lines begin with the microseconds
// since the one before and, in some versions, a thread:
//
//	00000000 APDU: 00 A4 00 04 02 3F 00
//	00043886 SW: 61 19
type pcscd struct{}

// pcscdLine is the time and the text of a line of the log.
func pcscdLine(b []byte) (after time.Duration, text []byte, ok bool) {
	if len(b) < 9 || b[8] != ' ' {
		return 0, nil, false
	}
	us, err := strconv.ParseUint(string(b[:8]), 10, 64)
	if err != nil {
		return 0, nil, false
	}
	text = b[9:]
	if len(text) > 0 && text[0] == '[' {
		if _, rest, ok := bytes.Cut(text, []byte("] ")); ok {
			text = rest
		}
	}
	return time.Duration(us) * time.Microsecond, text, true
}

func isPCSCD(b []byte) bool {
	_, text, ok := pcscdLine(b)
	return ok && (bytes.HasPrefix(text, []byte("APDU: ")) || bytes.HasPrefix(text, []byte("SW: ")))
}

func (pcscd) line(out *output, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	after, text, ok := pcscdLine(b)
	if !ok {
		return errNotUnderstood
	}
	if out.at < maxTime {
		out.at += after
	}
	if rest, ok := bytes.CutPrefix(text, []byte("APDU: ")); ok {
		c, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.command(c)
	}
	if rest, ok := bytes.CutPrefix(text, []byte("SW: ")); ok {
		r, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.response(r, after)
	}
	if _, rest, ok := bytes.Cut(text, []byte("Card ATR: ")); ok {
		atr, err := hexBytes(rest)
		if err != nil {
			return err
		}
		out.event(trace.Connected, atr, "")
	}
	if _, name, ok := bytes.Cut(text, []byte("Card Removed From ")); ok {
		out.event(trace.Removed, nil, string(name))
	}
	return nil // the daemon has much else to say
}

func (pcscd) end(*output) error { return nil }

// maxTime bounds the times of a trace, as docs/trace.md does.
const maxTime = 1000 * time.Hour

// lpac reads the lines of LIBEUICC_DEBUG_APDU; Lc is in hexadecimal, and is Le
// where there is no data:
//
//	[DEBUG] [APDU] [TX] CLA: 81, INS: E2, P1: 91, P2: 00, Lc: 06, Data: BF 3E 03 5C 01 5A
//	[DEBUG] [APDU] [RX] SW1: 61, SW2: 15
type lpac struct{}

func isLPAC(b []byte) bool { return bytes.Contains(b, []byte("[APDU] [TX] CLA:")) }

func (lpac) line(out *output, b []byte) error {
	if _, rest, ok := bytes.Cut(b, []byte("[APDU] [TX] ")); ok {
		c, err := labelled(rest, "CLA", "INS", "P1", "P2", "Lc")
		if err != nil {
			return err
		}
		return out.command(c)
	}
	if _, rest, ok := bytes.Cut(b, []byte("[APDU] [RX] ")); ok {
		r, err := labelled(rest, "SW1", "SW2")
		if err != nil {
			return err
		}
		return out.response(append(r[2:], r[0], r[1]), 0)
	}
	if len(b) == 0 || b[0] == '{' || bytes.Contains(b, []byte("[HTTP]")) {
		return nil
	}
	return errNotUnderstood
}

func (lpac) end(*output) error { return nil }

// labelled is "NAME: xx, NAME: xx, Data: xx…", one byte for each name.
func labelled(b []byte, names ...string) ([]byte, error) {
	var out []byte
	for _, name := range names {
		rest, ok := bytes.CutPrefix(bytes.TrimSpace(b), []byte(name+":"))
		if !ok {
			return nil, fmt.Errorf("no %s", name)
		}
		value, rest, _ := bytes.Cut(rest, []byte{','})
		v, err := hexBytes(bytes.TrimSpace(value))
		if err != nil || len(v) != 1 {
			return nil, fmt.Errorf("%s is not a byte", name)
		}
		out, b = append(out, v[0]), rest
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return out, nil
	}
	data, ok := bytes.CutPrefix(b, []byte("Data:"))
	if !ok {
		return nil, errors.New("no Data")
	}
	v, err := hexBytes(bytes.TrimSpace(data))
	return append(out, v...), err
}

// gppro reads GlobalPlatformPro's --debug; the counts are those of the header
// and data, and of the data and status word:
//
//	SCardConnect("Reader", T=*) -> T=1, 3B8580018073C821100E
//	A>> T=1 (4+0000) 00A40400 00
//	A<< (0018+2) (26ms) 6F108408A000000151000000A5049F6501FF 9000
type gppro struct{}

func isGPPro(b []byte) bool {
	return bytes.HasPrefix(b, []byte("A>> T=")) || bytes.HasPrefix(b, []byte("A<< ("))
}

func (gppro) line(out *output, b []byte) error {
	b = bytes.TrimPrefix(b, []byte("# "))
	switch {
	case bytes.HasPrefix(b, []byte("A>> ")):
		_, rest, ok := bytes.Cut(b, []byte(") "))
		if !ok {
			return errNotUnderstood
		}
		c, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.command(c)
	case bytes.HasPrefix(b, []byte("A<< ")):
		count, rest, ok := bytes.Cut(b[4:], []byte(") "))
		if !ok {
			return errNotUnderstood
		}
		var took time.Duration
		if bytes.HasPrefix(rest, []byte("(")) {
			var ms []byte
			if ms, rest, ok = bytes.Cut(rest[1:], []byte(") ")); !ok {
				return errNotUnderstood
			}
			if d, err := time.ParseDuration(string(ms)); err == nil && 0 <= d && d < maxTime {
				took = d
			}
		}
		r, err := hexBytes(rest)
		if err != nil {
			return err
		}
		if n, _, _ := bytes.Cut(bytes.TrimPrefix(count, []byte("(")), []byte{'+'}); len(r) >= 2 {
			if n, err := strconv.Atoi(string(n)); err == nil && n != len(r)-2 {
				out.doubt(fmt.Sprintf("an answer of %d bytes that says it has %d: cut off?", len(r)-2, n))
			}
		}
		return out.response(r, took)
	case bytes.HasPrefix(b, []byte(`SCardConnect("`)):
		name, rest, _ := bytes.Cut(b[len(`SCardConnect("`):], []byte{'"'})
		out.reader(name)
		_, rest, _ = bytes.Cut(rest, []byte("-> T="))
		_, atr, ok := bytes.Cut(rest, []byte(", "))
		if !ok {
			return nil
		}
		a, err := hexBytes(atr)
		if err != nil {
			return err
		}
		out.event(trace.Connected, a, "")
	case bytes.HasPrefix(b, []byte("SCardDisconnect(")):
		out.event(trace.Closed, nil, "")
	}
	return nil // the program's own output stands between
}

func (gppro) end(*output) error { return nil }

// simtrace reads what simtrace2-sniff prints, and its elder's lines:
//
//	Card state change: reset de-asserted
//	ATR: 3b 9f 96 80
//	TPDU: 00 a4 00 04 02 3f 00 61 2f
type simtrace struct{ seen bool }

func isSIMtrace(b []byte) bool {
	head, rest, ok := bytes.Cut(b, []byte(": "))
	return ok && (bytes.HasPrefix(head, []byte("TPDU")) || string(head) == "APDU" || string(head) == "ATR APDU") && isHex(rest, 2)
}

func (s *simtrace) line(out *output, b []byte) error {
	head, rest, ok := bytes.Cut(b, []byte(": "))
	if !ok {
		if len(b) == 0 || bytes.HasPrefix(b, []byte("Fi/Di ")) || bytes.HasPrefix(b, []byte("(C) ")) ||
			bytes.HasPrefix(b, []byte("simtrace")) || bytes.HasPrefix(b, []byte("Entering main loop")) {
			return nil
		}
		return errNotUnderstood
	}
	kind, flags, _ := bytes.Cut(head, []byte(" ("))
	switch string(kind) {
	case "Card state change":
		if bytes.Contains(rest, []byte("card ejected")) {
			out.event(trace.Removed, nil, "")
		}
		return nil
	case "PPS":
		return nil
	case "ATR", "TPDU", "APDU", "ATR APDU":
	default:
		if bytes.HasPrefix(kind, []byte("Using USB device")) {
			return nil
		}
		return errNotUnderstood
	}
	v, err := hexBytes(rest)
	if err != nil {
		return err
	}
	if flags := bytes.TrimSuffix(flags, []byte(")")); len(flags) > 0 {
		out.doubt(fmt.Sprintf("the sniffer says %.40q", flags))
	}
	if bytes.HasPrefix(kind, []byte("ATR")) {
		out.powered(v, &s.seen)
		return nil
	}
	return out.tpdu(v)
}

func (*simtrace) end(*output) error { return nil }

// pysim reads pySim's --apdu-trace:
//
//	-> 00a4000402 3f00
//	<- 6119:
//	<- 9000: 6f19
type pysim struct{}

func isPySim(b []byte) bool {
	if rest, ok := bytes.CutPrefix(b, []byte("-> ")); ok {
		return isHex(rest, 4)
	}
	sw, _, ok := bytes.Cut(bytes.TrimPrefix(b, []byte("<- ")), []byte{':'})
	return ok && bytes.HasPrefix(b, []byte("<- ")) && isHex(sw, 2)
}

func (pysim) line(out *output, b []byte) error {
	if rest, ok := bytes.CutPrefix(b, []byte("-> ")); ok {
		c, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.command(c)
	}
	if rest, ok := bytes.CutPrefix(b, []byte("<- ")); ok {
		sw, data, _ := bytes.Cut(rest, []byte{':'})
		r, err := hexBytes(data)
		if err != nil {
			return err
		}
		s, err := hexBytes(sw)
		if err != nil || len(s) != 2 {
			return errors.New("no status word")
		}
		return out.response(append(r, s...), 0)
	}
	if bytes.HasPrefix(b, []byte("-- RESET")) {
		out.event(trace.Reset, nil, "")
		return nil
	}
	if len(b) == 0 {
		return nil
	}
	return errNotUnderstood
}

func (pysim) end(*output) error { return nil }

// tca reads the log of the TCA loader:
//
//	Command 80E2910006BF3E035C015A
//	Response 6115
type tca struct{}

func isTCA(b []byte) bool {
	for _, word := range [...]string{"Command ", "Response "} {
		if rest, ok := bytes.CutPrefix(b, []byte(word)); ok {
			return isHex(rest, 2)
		}
	}
	return false
}

func (tca) line(out *output, b []byte) error {
	word, rest, _ := bytes.Cut(b, []byte{' '})
	switch string(bytes.TrimSuffix(word, []byte{':'})) {
	case "Command":
		c, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.command(c)
	case "Response":
		r, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.response(r, 0)
	case "":
		return nil
	}
	return errNotUnderstood
}

func (tca) end(*output) error { return nil }

// powered is an ATR that was heard: the first one begins the session.
func (o *output) powered(atr []byte, seen *bool) {
	name := trace.Reset
	if !*seen && !o.begun {
		name = trace.Connected
	}
	*seen = true
	o.event(name, atr, "")
}

// tpdu is a command and its response as they were heard on T=0.
func (o *output) tpdu(b []byte) error {
	c, r, err := splitTPDU(b)
	if err != nil {
		return err
	}
	if len(c) > 5 && int(c[4]) != len(c)-5 {
		o.doubt("a command whose length field is false: cut off?")
	}
	o.add(trace.Entry{Kind: trace.Command, Data: c})
	return o.response(r, 0)
}
