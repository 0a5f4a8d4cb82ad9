package fault

import (
	"encoding/hex"
	"maps"
	"slices"
	"time"
)

// Timing is how long a card takes. What it took in truth is not counted.
type Timing struct {
	Profile string        // what the rest adds to; one of Profiles, or none
	Command time.Duration // for each command
	Byte    time.Duration // for each byte of the command and of its answer
	Write   time.Duration // for each persistent write
	// Work is the time for commands by the beginning of their INS, P1 and P2: of
	// those that fit the longest counts.
	Work map[string]time.Duration // keys of 1 to 3 bytes
}

// profiles are cards as they are met.
//
// A byte on the line is 12 etu (ISO/IEC 7816-3 §11, T=0 with guard time 0): 48 µs
// at F=512, D=32 and 4 MHz, 1.25 ms at F=372, D=1 and 3.57 MHz (9600 baud).
// A private RSA-2048 operation with CRT takes cards 0.2 to 0.6 s, a public one
// about 15 ms; suite 03 does three. A page of flash takes about 5 ms to write.
var profiles = map[string]Timing{
	"uicc": {
		Command: time.Millisecond, Byte: 48 * time.Microsecond, Write: 5 * time.Millisecond,
		Work: rsaWork(300*time.Millisecond, 15*time.Millisecond),
	},
	"uicc-9600": {
		Command: 3 * time.Millisecond, Byte: 1250 * time.Microsecond, Write: 10 * time.Millisecond,
		Work: rsaWork(600*time.Millisecond, 30*time.Millisecond),
	},
}

// rsaWork is the work of the management applet's commands and of the USIM's
// AUTHENTICATE.
func rsaWork(private, public time.Duration) map[string]time.Duration {
	return map[string]time.Duration{
		"\x88":         30 * time.Millisecond, // AUTHENTICATE: Milenage
		"\x88\x01":     private + public,      // INTERNAL AUTHENTICATE, suite 01: M1
		"\x88\x03":     3*private + public,
		"\x82\x01":     private + public, // EXTERNAL AUTHENTICATE: M2
		"\x82\x03":     private + 3*public,
		"\x04\x00\x00": private, // DEACTIVATE: the receipt
		"\x44\x00\x00": private,
	}
}

// Profiles are the names of the timing profiles.
func Profiles() []string { return slices.Sorted(maps.Keys(profiles)) }

const (
	maxWork    = 256 // entries
	maxWorkKey = 3   // bytes
)

func (t *Timing) check() error {
	if _, known := profiles[t.Profile]; t.Profile != "" && !known {
		return invalid("timing profile %.40q, one of %v wanted", t.Profile, Profiles())
	}
	if len(t.Work) > maxWork {
		return invalid("timing: work for %d commands, at most %d", len(t.Work), maxWork)
	}
	for k, d := range t.Work {
		if len(k) < 1 || len(k) > maxWorkKey || d < 0 || d > maxTime {
			return invalid("timing: work %X: INS, INS P1 or INS P1 P2, and a time up to %s wanted", k, maxTime)
		}
	}
	for _, d := range []time.Duration{t.Command, t.Byte, t.Write} {
		if d < 0 || d > time.Hour {
			return invalid("timing: %s is not a time up to an hour", d)
		}
	}
	return nil
}

// of is the time of one exchange.
func (t *Timing) of(capdu, rapdu []byte, writes int) time.Duration {
	total := t.Command + t.Byte*time.Duration(len(capdu)+len(rapdu)) + t.Write*time.Duration(writes)
	profile := profiles[t.Profile]
	if t.Profile != "" {
		profile.Profile = ""
		total += profile.of(capdu, rapdu, writes)
	}
	for n := min(len(capdu)-1, maxWorkKey); n > 0; n-- {
		if d, there := t.Work[string(capdu[1:1+n])]; there {
			return total + d
		}
	}
	return total
}

// wireTimes is a Timing as JSON has it.
type wireTimes struct {
	Profile string              `json:"profile,omitzero"`
	Command duration            `json:"command,omitzero"`
	Byte    duration            `json:"byte,omitzero"`
	Write   duration            `json:"write,omitzero"`
	Work    map[string]duration `json:"work,omitempty"` // by INS, INS P1, or INS P1 P2 in hexadecimal
}

func (t *Timing) wire() wireTimes {
	w := wireTimes{Profile: t.Profile, Command: duration(t.Command), Byte: duration(t.Byte), Write: duration(t.Write)}
	for k, d := range t.Work {
		if w.Work == nil {
			w.Work = map[string]duration{}
		}
		text, _ := hexBytes(k).MarshalText()
		w.Work[string(text)] = duration(d)
	}
	return w
}

func (w *wireTimes) timing() (Timing, error) {
	t := Timing{Profile: w.Profile, Command: time.Duration(w.Command), Byte: time.Duration(w.Byte), Write: time.Duration(w.Write)}
	for k, d := range w.Work {
		key, err := hex.DecodeString(k)
		if err != nil {
			return t, invalid("timing: work %.20q: %v", k, err)
		}
		if t.Work == nil {
			t.Work = map[string]time.Duration{}
		}
		if _, twice := t.Work[string(key)]; twice {
			return t, invalid("timing: work %.20q twice", k)
		}
		t.Work[string(key)] = time.Duration(d)
	}
	return t, nil
}
