// Package fault describes what goes wrong with a card, and decides when. A Fault
// is one description for Go, for a card image and for the control interface
// (docs/emulator.md has the table); a Set are the faults of one card.
//
// Whatever is left to chance comes from the fault's own seed: the same fault and
// the same commands give the same strikes.
package fault

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// ErrInvalid is matched by every error that says a fault cannot be.
var ErrInvalid = errors.New("fault: not a fault")

// Kind is what goes wrong.
type Kind string

// The kinds. A command is carried out unless it says otherwise.
const (
	// At a persistent write.
	WriteFails Kind = "write-fails" // the memory refuses it (6581); nothing changed
	WornOut    Kind = "worn-out"    // the memory refuses it, and every one after it
	CutBefore  Kind = "cut-before"  // the power goes before it; the memory is wholly as it was
	CutTorn    Kind = "cut-torn"    // the power goes when Bytes bytes of it are written
	CutAfter   Kind = "cut-after"   // the power goes after it, before the answer

	// At a command.
	RemoveBefore Kind = "remove-before" // the card leaves its reader; the command is not carried out
	RemoveAfter  Kind = "remove-after"  // the card leaves its reader before it answers
	Mute         Kind = "mute"          // not carried out, no answer
	Lost         Kind = "lost"          // no answer
	Late         Kind = "late"          // the answer comes after Delay more
	Slow         Kind = "slow"          // every answer takes the time that Timing says
	Refuse       Kind = "refuse"        // not carried out, answered with SW
	WrongSW      Kind = "wrong-sw"      // answered with SW in place of its status word
	FlipCommand  Kind = "flip-command"  // Bits bits of the command are flipped on its way
	Flip         Kind = "flip"          // Bits bits of the answer are flipped
	Partial      Kind = "partial"       // no more of the answer than its first Bytes bytes

	// At a reset.
	ATR Kind = "atr" // the answer to reset is ATR
)

// stream is what a kind's strikes are counted in where its fault says nothing.
type stream byte

const (
	commands stream = iota
	writes
	resets
)

// trait is what is particular to a kind.
type trait struct {
	stream   stream
	standing bool // strikes always where Times is 0
	early    bool // strikes before the command is carried out
}

var kinds = map[Kind]trait{
	WriteFails:   {stream: writes},
	WornOut:      {stream: writes, standing: true},
	CutBefore:    {stream: writes},
	CutTorn:      {stream: writes},
	CutAfter:     {stream: writes},
	RemoveBefore: {early: true},
	RemoveAfter:  {},
	Mute:         {early: true},
	Lost:         {},
	Late:         {},
	Slow:         {standing: true},
	Refuse:       {early: true},
	WrongSW:      {},
	FlipCommand:  {early: true},
	Flip:         {},
	Partial:      {},
	ATR:          {stream: resets, standing: true},
}

// Until is what ends a fault that was struck once.
type Until string

// UntilReset ends it at the next reset, power-on or insertion.
const UntilReset Until = "reset"

// Always, as Times, is without end.
const Always = -1

// Fault is what goes wrong, and when.
//
// At most one of Write, APDU and Reset says from which event on, counted from
// when the card was given the fault, of those that INS lets through; 1 is the
// next. With none it is the next of its kind's. From there on it strikes at
// each event, or with Probability, until it has struck Times times.
type Fault struct {
	Kind Kind

	Write int // a persistent write
	APDU  int // a command APDU
	Reset int // a reset or power-on; with 0 an ATR is in force at once
	// INS has only those commands count, or the writes in them, with one of
	// these instructions; nil: all.
	INS         []byte
	Probability float64 // of a strike at each event, above 0 to 1; 0 is 1
	Seed        uint64  // of all chance; 0: the card picks one, and tells it
	Times       int     // strikes; 0: 1, but Slow, WornOut and ATR Always
	Until       Until   // with Mute: from its first strike on, until then

	SW     apdu.StatusWord // of Refuse and WrongSW
	Bits   int             // of Flip and FlipCommand; 0 is 1
	Bytes  int             // of CutTorn and Partial
	Delay  time.Duration   // of Late
	Away   time.Duration   // of the Cuts and Removes: how long the card stays out; 0: until it is inserted
	ATR    []byte          // of ATR, 1 to 64 bytes
	Timing *Timing         // of Slow
}

// Bounds.
const (
	maxCount = 1 << 40
	maxBits  = 1 << 16
	maxBytes = 1 << 21
	maxTime  = 24 * time.Hour
	maxATR   = 64 // bytes; an answer to reset has at most 33, readers meet longer ones
)

// Check says what is wrong with f. The error matches ErrInvalid.
func (f Fault) Check() error {
	t, known := kinds[f.Kind]
	if !known {
		return invalid("kind %.40q, one of %v wanted", f.Kind, Kinds())
	}
	given := 0
	for _, n := range []int{f.Write, f.APDU, f.Reset} {
		if n < 0 || n > maxCount {
			return invalid("%s: an event %d: events are counted from 1", f.Kind, n)
		}
		if n > 0 {
			given++
		}
	}
	switch {
	case given > 1:
		return invalid("%s: write, apdu and reset are three ways to say when: give one", f.Kind)
	case t.stream == writes && (f.APDU > 0 || f.Reset > 0):
		return invalid("%s happens at a write: apdu and reset are not for it", f.Kind)
	case t.stream == resets && (f.Write > 0 || f.APDU > 0 || f.INS != nil):
		return invalid("%s happens at a reset: write, apdu and ins are not for it", f.Kind)
	case t.stream != resets && f.Reset > 0:
		return invalid("%s does not happen at a reset", f.Kind)
	case t.early && f.Write > 0:
		return invalid("%s happens before the command is carried out: at an apdu, not at a write", f.Kind)
	case !(f.Probability >= 0 && f.Probability <= 1): // NaN too
		return invalid("%s: probability %v is not one", f.Kind, f.Probability)
	case f.Times < Always || f.Times > maxCount:
		return invalid("%s: %d times: a number, or -1 for always", f.Kind, f.Times)
	case f.Until != "" && (f.Kind != Mute || f.Until != UntilReset):
		return invalid("%s until %.20q: only mute has an until, of %q", f.Kind, f.Until, UntilReset)
	case f.Until != "" && f.Times != 0:
		return invalid("%s: times and until are two ways to say how long: give one", f.Kind)
	}
	return f.checkEffect()
}

// checkEffect checks what only some kinds have.
func (f Fault) checkEffect() error {
	sw, bits := f.Kind == Refuse || f.Kind == WrongSW, f.Kind == Flip || f.Kind == FlipCommand
	size, away := f.Kind == CutTorn || f.Kind == Partial, slices.Contains([]Kind{CutBefore, CutTorn, CutAfter, RemoveBefore, RemoveAfter}, f.Kind)
	switch {
	case sw != (f.SW != 0):
		return invalid("%s: sw goes with refuse and wrong-sw, which need it", f.Kind)
	case f.Bits != 0 && !bits, f.Bits < 0, f.Bits > maxBits:
		return invalid("%s: bits are of flip and flip-command, 1 to %d", f.Kind, maxBits)
	case f.Bytes != 0 && !size, f.Bytes < 0, f.Bytes > maxBytes:
		return invalid("%s: bytes are of cut-torn and partial, 0 to %d", f.Kind, maxBytes)
	case (f.Kind == Late) != (f.Delay != 0), f.Delay < 0, f.Delay > maxTime:
		return invalid("%s: delay goes with late, which needs it, up to %s", f.Kind, maxTime)
	case f.Away != 0 && !away, f.Away < 0, f.Away > maxTime:
		return invalid("%s: away is of the cuts and removes, up to %s", f.Kind, maxTime)
	case (f.Kind == ATR) != (len(f.ATR) > 0), len(f.ATR) > maxATR:
		return invalid("%s: atr goes with atr, which needs it, 1 to %d bytes", f.Kind, maxATR)
	case (f.Kind == Slow) != (f.Timing != nil):
		return invalid("%s: timing goes with slow, which needs it", f.Kind)
	case f.Timing != nil:
		return f.Timing.check()
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// Kinds are all the kinds, in alphabetical order.
func Kinds() []Kind {
	var all []Kind
	for k := range kinds {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// stream is what f's strikes are counted in.
func (f Fault) stream() stream {
	if f.Write > 0 {
		return writes
	}
	return kinds[f.Kind].stream
}

// first is the event from which on f strikes.
func (f Fault) first() int { return max(1, f.Write, f.APDU, f.Reset) }

// String is the fault as JSON, on one line: what repeats it.
func (f Fault) String() string {
	b, err := json.Marshal(f)
	if err != nil {
		return string(f.Kind)
	}
	return string(b)
}

// wire is a Fault as JSON has it.
type wire struct {
	Kind        Kind       `json:"kind"`
	Write       int        `json:"write,omitzero"`
	APDU        int        `json:"apdu,omitzero"`
	Reset       int        `json:"reset,omitzero"`
	INS         hexBytes   `json:"ins,omitempty"`
	Probability float64    `json:"probability,omitzero"`
	Seed        uint64     `json:"seed,omitzero"`
	Times       int        `json:"times,omitzero"`
	Until       Until      `json:"until,omitzero"`
	SW          hexBytes   `json:"sw,omitempty"`
	Bits        int        `json:"bits,omitzero"`
	Bytes       int        `json:"bytes,omitzero"`
	Delay       duration   `json:"delay,omitzero"`
	Away        duration   `json:"away,omitzero"`
	ATR         hexBytes   `json:"atr,omitempty"`
	Timing      *wireTimes `json:"timing,omitempty"`
}

// MarshalJSON is the fault as docs/emulator.md has it: bytes in hexadecimal,
// times like 1.5s or 20ms.
func (f Fault) MarshalJSON() ([]byte, error) {
	w := wire{
		Kind: f.Kind, Write: f.Write, APDU: f.APDU, Reset: f.Reset, INS: f.INS, Probability: f.Probability, Seed: f.Seed,
		Times: f.Times, Until: f.Until, Bits: f.Bits, Bytes: f.Bytes, Delay: duration(f.Delay), Away: duration(f.Away), ATR: f.ATR,
	}
	if f.SW != 0 {
		w.SW = f.SW.Append(nil)
	}
	if f.Timing != nil {
		t := f.Timing.wire()
		w.Timing = &t
	}
	return json.Marshal(w)
}

// UnmarshalJSON takes exactly the members of docs/emulator.md, and checks the
// fault. The error matches ErrInvalid.
func (f *Fault) UnmarshalJSON(b []byte) error {
	var w wire
	if err := cryptogram.DecodeStrict(b, &w); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	got := Fault{
		Kind: w.Kind, Write: w.Write, APDU: w.APDU, Reset: w.Reset, INS: w.INS, Probability: w.Probability, Seed: w.Seed,
		Times: w.Times, Until: w.Until, Bits: w.Bits, Bytes: w.Bytes, Delay: time.Duration(w.Delay), Away: time.Duration(w.Away), ATR: w.ATR,
	}
	switch len(w.SW) {
	case 0:
	case 2:
		got.SW = apdu.StatusWord(w.SW[0])<<8 | apdu.StatusWord(w.SW[1])
	default:
		return invalid("sw of %d bytes, 2 wanted", len(w.SW))
	}
	if w.Timing != nil {
		t, err := w.Timing.timing()
		if err != nil {
			return err
		}
		got.Timing = &t
	}
	if err := got.Check(); err != nil {
		return err
	}
	*f = got
	return nil
}

// Parse parses one fault in JSON. The error matches ErrInvalid.
func Parse(b []byte) (f Fault, err error) {
	return f, f.UnmarshalJSON(b)
}

// hexBytes is bytes as hexadecimal digits.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%X", []byte(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) error {
	out := make([]byte, hex.DecodedLen(len(b)))
	if _, err := hex.Decode(out, b); err != nil {
		return err
	}
	*h = nil
	if len(out) > 0 {
		*h = out
	}
	return nil
}

// duration is a time as text has it.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(b []byte) error {
	t, err := time.ParseDuration(string(b))
	*d = duration(t)
	return err
}
