package appletsim

import (
	"errors"
	"time"
)

// FaultKind is what goes wrong at a persistent write.
type FaultKind int

// The faults.
const (
	// WriteFails: the memory refuses the write; nothing changed.
	WriteFails FaultKind = iota + 1
	// CutBefore: the card leaves its reader before the write is done; its
	// memory is wholly as it was.
	CutBefore
	// CutAfter: the card leaves its reader after the write and before its
	// answer.
	CutAfter
)

// Fault has one persistent write go wrong.
type Fault struct {
	Write int // which one, counted from Inject; 1 is the next
	Kind  FaultKind
	Away  time.Duration // how long a card that was cut stays away; 0: until Insert
}

var errWrite = errors.New("appletsim: persistent write failed")

// Inject arranges for a fault, beside those arranged for before.
func (c *Card) Inject(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, f)
}

// nextFault counts one write down and gives the fault that it meets, the zero
// Fault for none.
func (c *Card) nextFault() (met Fault) {
	var left []Fault
	for _, f := range c.faults {
		if f.Write--; f.Write == 0 {
			met = f
		} else if f.Write > 0 {
			left = append(left, f)
		}
	}
	c.faults = left
	return met
}
