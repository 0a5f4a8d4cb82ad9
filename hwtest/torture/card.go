package torture

import (
	"sync"

	"github.com/cardbridge/cardbridge/applet-sim"
)

// Card is an emulated card that counts the commands it is given and has faults
// strike. It is what the readers' emulations take for a card.
type Card struct {
	sim *appletsim.Card

	mu     sync.Mutex
	armed  bool
	steps  [][]byte // the commands since arm
	queue  []Injection
	count  int // of commands since arm, or since the last strike
	strike func(Injection)

	sendings int // of DEACTIVATE, since arm
	doneAt   int // the sending that the card carried out; 0 for none
}

// NewCard makes a card that answers as sim does until it is armed.
func NewCard(sim *appletsim.Card) *Card { return &Card{sim: sim} }

// ATR is the card's answer to reset.
func (c *Card) ATR() []byte { return c.sim.ATR() }

// Power turns the card on or off.
func (c *Card) Power(on bool) { c.sim.Power(on) }

// Reset is a warm reset.
func (c *Card) Reset() { c.sim.Reset() }

// Process carries out a command, unless a fault strikes: then it is nil, and
// there is no answer. Only where the service was killed the card goes on as if
// nothing had happened, and its answer reaches nobody.
func (c *Card) Process(capdu []byte) []byte {
	hit, now := c.next(capdu)
	if !now {
		return c.carryOut(capdu)
	}
	rapdu := []byte{0x6F, 0x00} // ISO/IEC 7816-4: no precise diagnosis
	if hit.Moment == After {
		rapdu = c.carryOut(capdu)
	}
	c.strike(hit)
	if hit.Fault == Killed {
		return rapdu
	}
	return nil
}

func (c *Card) carryOut(capdu []byte) []byte {
	if !isSending(capdu) {
		return c.sim.Process(capdu)
	}
	before := c.sim.Image().EventCounter
	rapdu := c.sim.Process(capdu)
	if c.sim.Image().EventCounter != before {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.doneAt = c.sendings
	}
	return rapdu
}

// isSending reports whether a command is a DEACTIVATE, or the last part of one.
func isSending(capdu []byte) bool {
	return len(capdu) > 1 && capdu[1] == insDeactivate && !chained(capdu)
}

// next counts a command and says whether a fault is due at it.
func (c *Card) next(capdu []byte) (hit Injection, now bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return hit, false
	}
	c.steps = append(c.steps, append([]byte(nil), capdu...))
	c.count++
	if isSending(capdu) {
		c.sendings++
	}
	if len(c.queue) == 0 || c.count < c.queue[0].Step {
		return hit, false
	}
	hit, c.queue, c.count = c.queue[0], c.queue[1:], 0
	return hit, true
}

// arm starts counting and has these faults strike.
func (c *Card) arm(queue []Injection, strike func(Injection)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.queue, c.strike = true, queue, strike
}

// tally is what a card counted.
type tally struct {
	steps    [][]byte // the commands
	left     int      // faults that did not strike
	sendings int      // of DEACTIVATE, seen by the card or not
	doneAt   int      // the one that it carried out, from 1; 0 for none
}

// disarm ends counting; what was not due yet does not strike.
func (c *Card) disarm() tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := tally{c.steps, len(c.queue), c.sendings, c.doneAt}
	c.armed, c.queue, c.steps = false, nil, nil
	return t
}

// image is what the card's memory holds.
func (c *Card) image() *appletsim.Image { return c.sim.Image() }
