package explain

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// words is what status words mean for some command, beyond what they say of
// themselves.
type words map[apdu.StatusWord]string

// statusWords are those of ISO/IEC 7816-4, TS 102 221, TS 31.102, TS 51.011 and
// GlobalPlatform that apdu does not name.
var statusWords = words{
	0x6200: "no information given, nothing changed",
	0x6281: "part of the data may be corrupted",
	0x6282: "end of file or record before Le bytes",
	0x6283: "the file or application is deactivated",
	0x6285: "the file is terminated",
	0x62F1: "more data available",
	0x62F2: "more data available and proactive command pending",
	0x62F3: "response data available",
	0x63F1: "more data expected",
	0x63F2: "more data expected and proactive command pending",
	0x6400: "no information given, nothing changed",
	0x6500: "no information given, memory changed",
	0x6800: "function in CLA not supported",
	0x6900: "command not allowed",
	0x6981: "command incompatible with the file structure",
	0x6984: "referenced data invalidated",
	0x6986: "command not allowed: no EF is selected",
	0x6989: "command not allowed: secure channel: security not satisfied",
	0x6999: "the applet cannot be selected",
	0x69E1: "POL1 of the profile forbids it",
	0x6A81: "function not supported",
	0x6A83: "record not found",
	0x6A84: "not enough memory",
	0x6A85: "Lc inconsistent with the data objects",
	0x6A87: "Lc inconsistent with P1 P2",
	0x6A89: "the file exists already",
	0x6B00: "wrong P1 P2: outside the file",
	0x6F00: "no diagnosis",
	0x9240: "memory problem",
	0x9300: "SIM Application Toolkit is busy",
	0x9400: "no EF selected",
	0x9402: "outside the file",
	0x9404: "file or pattern not found",
	0x9408: "file does not fit the command",
	0x9484: "algorithm not supported",
	0x9802: "no CHV initialised",
	0x9804: "access condition not fulfilled",
	0x9808: "contradicts the CHV status",
	0x9810: "contradicts the invalidation status",
	0x9840: "CHV blocked",
	0x9850: "the maximum is reached",
	0x9862: "authentication error: incorrect MAC",
	0x9863: "security session or association expired",
	0x9864: "authentication error: security context not supported",
	0x9865: "key freshness failure",
	0x9866: "authentication error: no memory available",
}

var pinWords = words{
	0x6983: "the PIN is blocked",
	0x6984: "the PIN is disabled or not initialised",
	0x6A88: "no such PIN",
}

// triesWords is the answers to a VERIFY without data.
var triesWords = func() words {
	w := words{0x6983: pinWords[0x6983], 0x6984: pinWords[0x6984], 0x6A88: pinWords[0x6A88], 0x9000: "verified already, or disabled"}
	for n := range apdu.StatusWord(16) {
		w[0x63C0|n] = fmt.Sprintf("not verified yet, %d tries left", n)
	}
	return w
}()

// status puts a status word into words.
func status(sw apdu.StatusWord, here words) (string, Level) {
	l := Bad
	switch {
	case accepted(sw) && sw.SW1() != 0x62:
		l = Good
	case sw.SW1() == 0x62, sw.SW1() == 0x63 && sw != apdu.SWAuthenticationFailed && sw.SW2()&0xF0 != 0xC0, sw.SW1() == 0x6C:
		l = Note
	}
	if more(sw) {
		l = Plain
	}
	if w, ok := here[sw]; ok {
		if sw.SW1() == 0x63 && l == Bad {
			l = Note
		}
		return sw.Hex() + " " + w, l
	}
	if s := sw.String(); len(s) > 4 { // it has words of its own
		return s[:4] + " " + s[6:len(s)-1], l
	}
	if w, ok := statusWords[sw]; ok {
		return sw.Hex() + " " + w, l
	}
	switch sw.SW1() {
	case 0x63:
		if sw.SW2()&0xF0 == 0xC0 {
			return fmt.Sprintf("%s verification failed, %d tries left", sw.Hex(), sw.SW2()&0x0F), l
		}
	case 0x91:
		return fmt.Sprintf("%s success, a proactive command of %d bytes is pending", sw.Hex(), shortLe(sw)), l
	case 0x92:
		return fmt.Sprintf("%s success after %d internal retries", sw.Hex(), sw.SW2()&0x0F), l
	case 0x9E:
		return fmt.Sprintf("%s SIM data download error, %d bytes", sw.Hex(), shortLe(sw)), l
	case 0x9F:
		return fmt.Sprintf("%s %d more response bytes", sw.Hex(), shortLe(sw)), l
	}
	if w, ok := classWords[sw.SW1()]; ok {
		return sw.Hex() + " " + w, l
	}
	return sw.Hex() + " unknown", l
}

// classWords is the meaning of SW1 where SW2 says nothing known.
var classWords = map[byte]string{
	0x62: "warning, nothing changed",
	0x63: "warning, memory changed",
	0x64: "execution error, nothing changed",
	0x65: "execution error, memory changed",
	0x66: "security error",
	0x67: "wrong length",
	0x68: "function in CLA not supported",
	0x69: "command not allowed",
	0x6A: "wrong parameters",
	0x6B: "wrong P1 P2",
	0x6F: "internal error",
	0x94: "file error",
	0x98: "security error",
}

// shortLe is SW2 as a number of bytes.
func shortLe(sw apdu.StatusWord) int {
	if sw.SW2() == 0 {
		return apdu.MaxShortNe
	}
	return int(sw.SW2())
}

// accepted reports whether a status word says that the command was carried out.
func accepted(sw apdu.StatusWord) bool {
	switch sw.SW1() {
	case 0x90, 0x61, 0x91, 0x9F:
		return true
	case 0x92:
		return sw.SW2() < 0x10
	}
	return sw == 0x6283 // a deactivated file is selected all the same
}

// more reports whether the rest of the response is fetched by GET RESPONSE.
func more(sw apdu.StatusWord) bool { return sw.SW1() == 0x61 || sw.SW1() == 0x9F }
