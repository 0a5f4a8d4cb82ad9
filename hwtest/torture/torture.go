// Package torture brings faults about in the middle of a deactivation on a real
// reader stack, and checks that the record of the card ends as the card is.
//
// A trial is one deactivation on one stack: at one APDU of it, or at several, a
// fault strikes, before the card has seen the APDU or after it carried it out
// and before its answer. The fault lasts until the client has met it, and is
// mended then. After that the outcome, the record and the card must agree, and
// the outcome must be known (docs/protocol.md §8).
//
// The matrix of a stack is every APDU × every fault × both moments. All that a
// trial leaves to chance comes from its seed, so that it can be run again.
package torture

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Fault is what goes wrong.
type Fault string

// The faults. All but Bounced and Hung last until the client has met an error.
const (
	Pulled    Fault = "pulled"    // the card leaves its reader
	Bounced   Fault = "bounced"   // the card leaves its reader and is back at once: a bad contact
	Unplugged Fault = "unplugged" // the reader leaves
	Killed    Fault = "killed"    // the PC/SC service is killed (SIGKILL), and started again
	Mute      Fault = "mute"      // the card never answers, and is pulled and put back then
	Hung      Fault = "hung"      // the card answers nothing before its next reset, and nobody touches it
)

var faultWords = map[Fault]string{
	Pulled:    "card pulled",
	Bounced:   "card pulled and back at once",
	Unplugged: "reader unplugged",
	Killed:    "pcscd killed",
	Mute:      "card mute, pulled and put back",
	Hung:      "card mute until reset",
}

// Words name the fault for people.
func (f Fault) Words() string { return faultWords[f] }

// Moment says when in an exchange a fault strikes.
type Moment string

// The moments.
const (
	Before Moment = "before" // the card does not see the command
	After  Moment = "after"  // the card carried the command out; its answer is lost
)

// Moments are all of them.
var Moments = []Moment{Before, After}

// Injection is one fault at one APDU.
type Injection struct {
	Step   int    `json:"step"` // the APDU, from 1: of the deactivation, or since the injection before
	Fault  Fault  `json:"fault"`
	Moment Moment `json:"moment"`
}

func (i Injection) String() string { return fmt.Sprintf("%d:%s:%s", i.Step, i.Fault, i.Moment) }

// Trial is one deactivation and what goes wrong in it.
type Trial struct {
	Driver     string      `json:"driver"`
	Kind       string      `json:"kind"`
	Injections []Injection `json:"injections"` // in order of time; none: nothing goes wrong
	Seed       uint64      `json:"seed"`
}

// String is what ParseTrial takes: server/extended/7/4:pulled:after,2:mute:before,
// with the seed in third place.
func (t Trial) String() string {
	var at []string
	for _, i := range t.Injections {
		at = append(at, i.String())
	}
	return fmt.Sprintf("%s/%s/%d/%s", t.Driver, t.Kind, t.Seed, strings.Join(at, ","))
}

// ParseTrial parses what Trial.String gives.
func ParseTrial(s string) (Trial, error) {
	bad := fmt.Errorf("torture: trial %.100q: driver/kind/seed/step:fault:moment,… wanted", s)
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return Trial{}, bad
	}
	t := Trial{Driver: parts[0], Kind: parts[1]}
	var err error
	if t.Seed, err = strconv.ParseUint(parts[2], 10, 64); err != nil {
		return Trial{}, bad
	}
	if _, known := drivers[t.Driver]; !known {
		return Trial{}, fmt.Errorf("%w: no driver %q", bad, t.Driver)
	}
	if _, known := kinds[t.Kind]; !known {
		return Trial{}, fmt.Errorf("%w: no kind of card %q", bad, t.Kind)
	}
	if parts[3] == "" {
		return t, nil
	}
	for at := range strings.SplitSeq(parts[3], ",") {
		f := strings.Split(at, ":")
		if len(f) != 3 || !slices.Contains(Moments, Moment(f[2])) || Fault(f[1]).Words() == "" {
			return Trial{}, bad
		}
		step, err := strconv.Atoi(f[0])
		if err != nil || step < 1 {
			return Trial{}, bad
		}
		t.Injections = append(t.Injections, Injection{Step: step, Fault: Fault(f[1]), Moment: Moment(f[2])})
	}
	return t, nil
}

// Stack is one reader on a reader stack, for one trial at a time. One with a
// method Helped() bool tells whether it had to be helped since it was last asked.
type Stack interface {
	// Name of the stack.
	Name() string
	// Faults are those that it can bring about.
	Faults() []Fault
	// Put makes c the card in the reader. Nobody needs to notice: a card that is
	// put in has no session.
	Put(c *Card)
	// Source is the readers as a program meets them that has just started. A
	// call to the card takes wait at most.
	Source(wait time.Duration) reader.Source
	// Reader is the reader's name, or its identity.
	Reader() string
	// Strike brings a fault about, while the card has a command and does not
	// answer it. It must return without waiting for that command.
	Strike(Fault) error
	// Mend ends the fault: afterwards the card is in the reader, which is there,
	// or will be soon, and answers.
	Mend(context.Context, Fault) error
}
