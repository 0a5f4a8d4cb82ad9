// Package explain says in words what an APDU or a whole trace does: the command
// and the file or application that it is for, its data objects by name, the
// status word, and, where the keys are given, what secure messaging carried and
// whether it verifies.
//
// It takes whatever a trace holds, in bounded memory, and shows nothing that is
// secret: PINs, keys, results of AUTHENTICATE and decrypted nonces never leave
// it.
package explain

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
)

// Level says how an explanation is to be taken.
type Level byte

// The levels, by weight.
const (
	Plain Level = iota // what is said, no more
	Good               // it succeeded, it verifies
	Note               // worth a look
	Bad                // it failed, was refused, does not verify
)

var levels = [...]string{"plain", "good", "note", "bad"}

func (l Level) String() string { return levels[l] }

// MarshalText is the level's word.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Field is one thing that an entry says.
type Field struct {
	Depth int    // within the field before it that has a smaller one
	Tag   string // of a data object, in hexadecimal
	Name  string
	Value string
	Level Level
}

// Explained is an entry in words. The entry's secrets are masked.
type Explained struct {
	trace.Entry
	Title   string
	Level   Level
	Channel int     // the logical channel of a command or response
	Fields  []Field // valid until the next call
}

// Bounds against traces that say too much.
const (
	maxFields   = 1000    // of one entry
	maxDepth    = 12      // of data objects
	maxGathered = 1 << 17 // bytes of a chain, or of a response in parts
	maxValue    = 96      // bytes that a value shows
)

// Explainer explains the entries of one connection in their order: what a
// command means depends on those before it. It keeps the bytes of the entries
// that it was given, which nobody may change afterwards, and serves one
// goroutine.
type Explainer struct {
	keys     *Keys
	redactor trace.Redactor
	channels [maxChannels]channel
	current  *channel // whose response comes next
	secure   secureSession
	toolkit  bool // a proactive command was announced
	out      Explained
}

const maxChannels = 20

// channel is what is known of a logical channel.
type channel struct {
	number int
	app    *application // the selected one; nil where none or not known
	dir    *file        // current MF, DF or ADF; nil where not known
	ef     *file        // current EF
	now    exchange
	chain  []byte // the parts of a command so far
	parts  int
	hidden bool // some part was redacted

	es10       []byte // the blocks of STORE DATA so far
	es10Hidden bool
}

// exchange is a command and what is known of its response.
type exchange struct {
	open     bool // there was a command and not all of its response
	cmd      apdu.Command
	class    class
	name     string
	hidden   bool   // the command has bytes that were redacted
	data     []byte // of the response so far
	secret   bool   // the response has bytes that were redacted
	words    words  // what status words mean here
	accepted bool   // done was called
	done     func(*Explainer, *channel)
	answer   func(*Explainer, *channel, []byte, apdu.StatusWord)
}

// New makes an Explainer; keys may be nil.
func New(keys *Keys) *Explainer {
	x := &Explainer{keys: keys}
	x.Begin()
	return x
}

// Begin forgets what was before: another session begins.
func (x *Explainer) Begin() {
	x.redactor = trace.Redactor{}
	x.reset()
}

// reset is what a reset of the card leaves.
func (x *Explainer) reset() {
	for i := range x.channels {
		x.channels[i] = channel{number: i}
	}
	x.current = nil
	x.secure = secureSession{}
	x.toolkit = false
}

// Explain says what an entry does. Its Fields are valid until the next call.
func (x *Explainer) Explain(e trace.Entry) Explained {
	e = x.redactor.Redact(e)
	x.out = Explained{Entry: e, Fields: x.out.Fields[:0]}
	switch e.Kind {
	case trace.Command:
		x.command(e)
	case trace.Response:
		x.response(e)
	default:
		x.event(e)
	}
	return x.out
}

func (x *Explainer) event(e trace.Entry) {
	x.out.Title, x.out.Level = e.Name, Note
	switch e.Name {
	case trace.Connected:
		x.reset()
		x.out.Title, x.out.Level = "connected", Plain
	case trace.Reset:
		x.reset()
		x.out.Title = "the card was reset"
	case trace.Removed:
		x.out.Title, x.out.Level = "the card left", Bad
		x.interrupted()
		x.reset()
	case trace.Closed:
		x.out.Title, x.out.Level = "closed", Plain
	case trace.Error:
		x.out.Title, x.out.Level = "no response", Bad
		x.interrupted()
		x.current = nil
	}
	if e.Text != "" {
		x.add("", "text", e.Text)
	}
	if len(e.Data) > 0 {
		x.atr(e.Data)
	}
}

// interrupted says what a command without a response leaves.
func (x *Explainer) interrupted() {
	if x.current != nil && x.current.now.open {
		x.say(Note, "outcome", x.current.now.name+": not known")
	}
}

func (x *Explainer) atr(b []byte) {
	x.add("", "ATR", hexa(b))
	caps := apdu.ParseCapabilities(b)
	if caps.ExtendedLength || caps.CommandChaining || caps.Channels > 1 {
		s := fmt.Sprintf("%d logical channels", caps.Channels)
		if caps.Channels == 8 {
			s = "8 or more logical channels"
		}
		if caps.CommandChaining {
			s += ", command chaining"
		}
		if caps.ExtendedLength {
			s += ", extended length"
		}
		x.add("", "capabilities", s)
	}
}

// add appends a field at depth 0.
func (x *Explainer) add(tag, name, value string) { x.put(Field{Tag: tag, Name: name, Value: value}) }

// say appends a field of a level, which the whole entry takes on where it
// weighs more.
func (x *Explainer) say(l Level, name, value string) {
	x.put(Field{Name: name, Value: value, Level: l})
	x.out.Level = max(x.out.Level, l)
}

// put appends a field and reports whether there is room for more.
func (x *Explainer) put(f Field) bool {
	switch n := len(x.out.Fields); {
	case n > maxFields:
		return false
	case n == maxFields:
		f = Field{Name: "…", Value: "more than is shown", Level: Note}
	}
	x.out.Fields = append(x.out.Fields, f)
	return true
}
