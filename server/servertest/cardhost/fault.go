package cardhost

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cardbridge/cardbridge/server/servertest"
)

// FaultKind is what goes wrong at a command.
type FaultKind string

// The faults. Duration is Fault.For.
const (
	PullBefore FaultKind = "pull before" // the card leaves before it carries out the command
	PullAfter  FaultKind = "pull after"  // it leaves after that, with its answer
	LoseAnswer FaultKind = "lose answer" // it carries it out and stays; the answer is lost
	LateAnswer FaultKind = "late answer" // the answer comes late, by that duration
	WriteFails FaultKind = "write fails" // the card's next persistent write, at this command or a later, fails
)

// Faults are all kinds.
var Faults = []FaultKind{PullBefore, PullAfter, LoseAnswer, LateAnswer, WriteFails}

// Fault has one command to a card go wrong. Several are counted apart.
type Fault struct {
	Kind FaultKind `json:"kind"`
	// APDU says at which C-APDU from now on: 1 is the next. Where INS is not 0,
	// only those with that INS count, secured or not, such as
	// servertest.INSDeactivate.
	APDU int  `json:"apdu"`
	INS  byte `json:"ins,omitempty"`
	// For is how long a card that was pulled stays away (0: until
	// Control.Insert), and how late an answer is.
	For time.Duration `json:"for"`
}

// maxFaults is how many may wait at one card.
const maxFaults = 1000

func (f Fault) check() error {
	for _, k := range Faults {
		if f.Kind == k && f.APDU >= 1 && f.For >= 0 {
			return nil
		}
	}
	return fmt.Errorf("cardhost: no such fault: %q at APDU %d, for %s", f.Kind, f.APDU, f.For)
}

// Draw is a random fault, half of them at DEACTIVATE, the others within the
// first 8 APDUs. It lasts longest at the most, and no card stays away for good.
func Draw(r *rand.Rand, longest time.Duration) Fault {
	f := Fault{Kind: Faults[r.IntN(len(Faults))], APDU: 1, INS: servertest.INSDeactivate}
	if r.IntN(2) == 0 {
		f.APDU, f.INS = 1+r.IntN(8), 0
	}
	f.For = 1 + time.Duration(r.Int64N(max(1, int64(longest))))
	return f
}
