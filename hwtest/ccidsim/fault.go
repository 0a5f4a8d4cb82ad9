package ccidsim

import "time"

// Fate is what becomes of a command, and of who carries it.
type Fate struct {
	Kind FateKind
	// Away is how long a card that is pulled stays away; 0: until Insert or
	// Reinsert.
	Away time.Duration
}

// FateKind is a kind of Fate.
type FateKind int

// The fates.
const (
	GoOn   FateKind = iota // nothing happens
	Pull                   // the card leaves its slot
	Mute                   // the card does not answer, nor to anything before its next reset
	Unplug                 // the device leaves its host
)

// Hooks bend what a device does. Each may be nil. They are called from the
// device's goroutines, for several slots at once, and may call its methods, but
// must not wait for the command that they are asked about.
type Hooks struct {
	// Before is asked before the card in a slot sees a command APDU.
	Before func(slot int, capdu []byte) Fate
	// After is asked once it has carried it out, before its answer leaves. rapdu
	// is nil where the card gave none.
	After func(slot int, capdu, rapdu []byte) Fate
	// Line gives what the card really sends in place of sent, in answer to what
	// it received: blocks in T=1, runs of bytes in T=0, PPS answers. Nil is
	// nothing: the card is silent this time. At the APDU levels the line is the
	// reader's own affair in T=1, and not shown.
	Line func(slot int, received, sent []byte) []byte
	// Reply gives the bulk-IN transfers to send in place of answer, the true
	// message, to the host's command.
	Reply func(command, answer []byte) [][]byte
	// Works tells how long the card in a slot works on a command.
	Works func(slot int, capdu []byte) time.Duration
}

// SetHooks sets the hooks from now on.
func (d *Device) SetHooks(h Hooks) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hooks = h
}

func (d *Device) currentHooks() Hooks {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hooks
}

// Fault is a fate for one command to come.
type Fault struct {
	Command int  // which one the card gets, counted from Arm; 1 is the next
	After   bool // once the card has carried it out, before its answer leaves
	Fate    Fate
	Do      func() // called first where not nil
}

// Arm arranges for a fault in a slot, beside those arranged for before. Hooks are
// asked first.
func (d *Device) Arm(slot int, f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slots[slot]
	f.Command += s.commands
	s.faults = append(s.faults, f)
}

// Disarm takes back what was armed in a slot.
func (d *Device) Disarm(slot int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slots[slot].faults = nil
}

// Commands is how many command APDUs the card in a slot was to be given so far.
func (d *Device) Commands(slot int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.slots[slot].commands
}

// fate asks the hooks and the faults what becomes of the command under way.
func (s *slot) fate(after bool, capdu, rapdu []byte) Fate {
	s.device.mu.Lock()
	h := s.device.hooks
	if !after {
		s.commands++
	}
	var met *Fault
	for i, f := range s.faults {
		if f.Command == s.commands && f.After == after {
			met = &f
			s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			break
		}
	}
	s.device.mu.Unlock()

	var fate Fate
	if ask := h.Before; !after && ask != nil {
		fate = ask(s.number, capdu)
	}
	if ask := h.After; after && ask != nil {
		fate = ask(s.number, capdu, rapdu)
	}
	if fate.Kind == GoOn && met != nil {
		if met.Do != nil {
			met.Do()
		}
		fate = met.Fate
	}
	return fate
}
