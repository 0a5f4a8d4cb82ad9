package ccid

import (
	"context"
	"slices"
	"time"
)

// SlotEvent says that a card came into a slot or left it, or that the reader
// reports a hardware error there.
type SlotEvent struct {
	Slot    int
	Present bool
	// Hardware is bHardwareErrorCode (CCID 1.1 §6.3.2): 01 is overcurrent; 0 where
	// a card came or left.
	Hardware byte
}

// Watch calls fn for each slot that has a card, and then for each that comes or
// goes, until ctx ends or the reader has gone; it returns why. It listens on
// the interrupt pipe, and asks where there is none.
func (d *Device) Watch(ctx context.Context, fn func(SlotEvent)) error {
	seen := make([]slotState, len(d.slots))
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		d.mu.Lock()
		changed, gone, interrupt := d.changed, d.gone, d.interrupt
		now := make([]slotState, len(d.slots))
		for i, s := range d.slots {
			now[i] = s.state
		}
		d.mu.Unlock()
		if gone != nil {
			return gone
		}
		for i, n := range now {
			came := n.changes != seen[i].changes || n.present != seen[i].present
			if came && seen[i].present {
				fn(SlotEvent{Slot: i})
			}
			if came && n.present {
				fn(SlotEvent{Slot: i, Present: true})
			}
			if n.errors != seen[i].errors {
				fn(SlotEvent{Slot: i, Present: n.present, Hardware: n.hardware})
			}
		}
		seen = now
		// A slot that is thought empty is asked all the same: an answer that tells
		// of a card that left may come in after the news that it is back.
		poll := tick.C
		if interrupt && !slices.ContainsFunc(now, func(s slotState) bool { return !s.present }) {
			poll = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-poll:
			d.poll(ctx)
		}
	}
}

// poll asks the slots that are not at work; those that are learn it by their
// answers.
func (d *Device) poll(ctx context.Context) {
	for _, s := range d.slots {
		select {
		case s.use <- struct{}{}:
			_, _ = s.status(context.WithoutCancel(ctx)) // where it fails, the next look shows why
			s.release()
		default:
		}
	}
}

// note takes down whether a card is in a slot.
func (d *Device) note(s *slot, present bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.state.known && s.state.present == present {
		return
	}
	if s.state.known {
		s.state.changes++
	}
	s.state.known, s.state.present = true, present
	d.wake()
}

// wake tells who watches; the caller has mu.
func (d *Device) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// changes counts the comings and goings of a slot's card so far.
func (s *slot) changes() int {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	return s.state.changes
}

// listen reads the interrupt pipe until ctx ends or the pipe fails.
func (d *Device) listen(ctx context.Context) {
	defer close(d.done)
	b := make([]byte, 1+(maxSlots+3)/4+2)
	for bad := 0; bad < maxStale; {
		n, err := d.ep.Interrupt(ctx, b)
		if ctx.Err() != nil {
			return
		}
		if err != nil || n < 0 || n > len(b) {
			_ = d.failed(ctx, err) // which notes a reader that has gone
			break
		}
		changes := parseSlotChange(b[:n], len(d.slots))
		slot, code, failed := parseHardwareError(b[:n])
		switch {
		case changes != nil:
			d.slotChange(changes)
		case failed && slot < len(d.slots):
			d.hardwareError(d.slots[slot], code)
		default: // what nobody knows
			bad++
		}
	}
	d.mu.Lock()
	d.interrupt = false
	d.wake()
	d.mu.Unlock()
}

// slotChange takes down a notification.
func (d *Device) slotChange(changes []slotChange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, c := range changes {
		s := d.slots[i]
		first := !s.notified
		s.notified = s.notified || c.changed
		switch {
		case c.present != s.state.present:
			s.state.changes++
		case !c.changed, first:
			// The first tells what Attach has asked already.
			continue
		default: // it left and came, or came and left, between two looks
			s.state.changes += 2
		}
		s.state.known, s.state.present = true, c.present
		d.wake()
	}
}

// hardwareError takes down what the reader reports of a slot.
func (d *Device) hardwareError(s *slot, code byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.state.errors++
	s.state.hardware = code
	d.wake()
}
