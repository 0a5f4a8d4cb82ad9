package pcsc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Flags of a reader's state (winscard.h). Above them, 16 bits count the
// insertions and removals.
const (
	stateChanged     = 0x0002
	stateUnknown     = 0x0004
	stateUnavailable = 0x0008
	statePresent     = 0x0020
	stateExclusive   = 0x0080
	stateInUse       = 0x0100
	stateMute        = 0x0200

	eventCountShift = 16
)

// plugAndPlay is the name under which readers that come and go are a change.
const plugAndPlay = `\\?PnP?\Notification`

// maxStates is how many states libpcsclite takes, plugAndPlay's among them: as
// many as pcscd has readers at most.
const maxStates = 16

// How often to look where nothing wakes: a reader that comes between the list
// and the wait does not; and how long to wait for a service that does not run.
const (
	lookInterval = time.Second
	minBackoff   = 20 * time.Millisecond
	maxBackoff   = time.Second
)

// readerState is a reader's state as known and as it is.
type readerState struct {
	name           string
	current, event uint32
	atr            []byte
}

// slot is a reader and what tells its states apart.
type slot struct {
	reader.Reader
	usb   *reader.USB // nil where it is not known
	state uint32
}

func (s slot) eventCount() uint32 { return s.state >> eventCountShift }

func newSlot(s readerState) slot {
	sl := slot{
		Reader: reader.Reader{
			Name:      s.name,
			Card:      s.event&statePresent != 0,
			Mute:      s.event&stateMute != 0,
			InUse:     s.event&stateInUse != 0,
			Exclusive: s.event&stateExclusive != 0,
		},
		state: s.event &^ stateChanged,
	}
	if sl.Card && !sl.Mute {
		sl.ATR = s.atr
	}
	return sl
}

// poll gives the readers as soon as they differ from known, and after wait at
// the latest.
func poll(svc service, known []slot, wait time.Duration) ([]slot, error) {
	names, err := svc.readers()
	if err != nil {
		return nil, err
	}
	states := make([]readerState, len(names), len(names)+1)
	for i, name := range names {
		states[i].name = name
		if j := slices.IndexFunc(known, func(k slot) bool { return k.Name == name }); j >= 0 {
			states[i].current, states[i].event, states[i].atr = known[j].state, known[j].state, known[j].ATR
		}
	}
	if len(names) < len(known) { // one has gone: no need to wait for more
		wait = 0
	}
	if wait > 0 && len(states) < maxStates { // without it, a new reader is seen after wait
		states = append(states, readerState{name: plugAndPlay})
	}
	if len(states) > 0 {
		if err := svc.status(states, wait); err != nil && !errors.Is(err, CodeTimeout) {
			return nil, err
		}
	}
	now := make([]slot, len(names))
	for i := range now {
		now[i] = newSlot(states[i])
	}
	return now, nil
}

// observe shows see the readers at first and whenever they or their states
// change, or why they cannot be seen, until it says that it has seen enough; it
// fails where ctx ends before, or PC/SC is not there at all.
func (s *Source) observe(ctx context.Context, see func(now []slot, cause error) (enough bool)) error {
	backoff := minBackoff
	for {
		start := time.Now()
		err := s.observeContext(ctx, func(now []slot) bool { return see(now, nil) })
		if time.Since(start) > maxBackoff { // one that fails at once is not tried again at once
			backoff = minBackoff
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrNotBuilt):
			return err
		case see(nil, err):
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// observeContext is observe as long as one PC/SC context lasts: pcscd's end is
// the end of it.
func (s *Source) observeContext(ctx context.Context, see func(now []slot) (enough bool)) error {
	ses, err := s.newSession(ctx, "watch", "")
	if err != nil {
		return err
	}
	defer ses.close(LeaveCard)
	ids := &identifier{source: s}
	var known []slot
	for first := true; ; first = false {
		var now []slot
		wait := lookInterval
		if first {
			wait = 0
		}
		err := ses.do(ctx, "watch", func(svc service) (err error) {
			now, err = poll(svc, known, wait)
			if errors.Is(err, CodeUnknownReader) { // it left after it was listed
				now, err = poll(svc, nil, 0)
			}
			return err
		})
		if err != nil {
			return err
		}
		ids.identify(ctx, now)
		if (first || !slices.EqualFunc(known, now, sameSlot)) && see(now) {
			return nil
		}
		known = now
	}
}

func sameSlot(a, b slot) bool {
	return a.Name == b.Name && a.ID == b.ID && a.state == b.state && bytes.Equal(a.ATR, b.ATR)
}

// Watch sends events to fn until ctx ends, and returns ctx's error. Where the
// PC/SC service ends, the readers are removed; it waits for the service and goes
// on. Only ErrNotBuilt ends it early.
func (s *Source) Watch(ctx context.Context, fn func(reader.Event)) error {
	var before []slot
	return s.observe(ctx, func(now []slot, _ error) bool {
		for _, e := range changes(before, now) {
			if ctx.Err() != nil {
				break
			}
			fn(e)
		}
		before = now
		return false
	})
}

// changes are the events that lead from before to now.
func changes(before, now []slot) []reader.Event {
	var events []reader.Event
	add := func(k reader.EventKind, r reader.Reader) {
		events = append(events, reader.Event{Kind: k, Reader: r})
	}
	find := func(in []slot, as slot) (slot, bool) { // a name may have come to mean another reader
		i := slices.IndexFunc(in, func(s slot) bool { return s.Name == as.Name && s.ID == as.ID })
		if i < 0 {
			return slot{}, false
		}
		return in[i], true
	}
	for _, b := range before {
		if _, still := find(now, b); still {
			continue
		}
		if b.Card {
			add(reader.CardRemoved, reader.Reader{Name: b.Name, ID: b.ID})
		}
		add(reader.ReaderRemoved, reader.Reader{Name: b.Name, ID: b.ID})
	}
	for _, n := range now {
		b, known := find(before, n)
		if !known {
			add(reader.ReaderAdded, n.Reader)
		}
		// The count tells a card that left and came between two looks.
		same := b.Card && n.Card && b.eventCount() == n.eventCount() && b.Mute == n.Mute
		if b.Card && !same {
			add(reader.CardRemoved, reader.Reader{Name: n.Name, ID: n.ID})
		}
		if n.Card && !same {
			add(reader.CardInserted, n.Reader)
		}
	}
	return events
}

// WaitCard waits until a card that answers to reset is in the reader that name
// finds (see Find), whether or not service and reader are there yet. An
// ambiguous name fails at once. Where ctx ends before, the error matches ctx's
// and says what was missing: apdu.ErrNoReader, apdu.ErrNoCard, ErrNoService.
func (s *Source) WaitCard(ctx context.Context, name string) (reader.Reader, error) {
	var found reader.Reader
	var missing error
	err := s.observe(ctx, func(now []slot, cause error) bool {
		found, missing = reader.Reader{}, cause
		if cause != nil {
			return false
		}
		found, missing = Find(readersOf(now), name)
		switch {
		case missing != nil:
			return !errors.Is(missing, apdu.ErrNoReader)
		case !found.Card:
			missing = apdu.ErrNoCard
		case found.Mute:
			missing = CodeUnresponsiveCard
		}
		return missing == nil
	})
	switch {
	case err != nil && missing != nil:
		err = fmt.Errorf("%w: %w", missing, err)
	case err == nil:
		err = missing
	}
	if err != nil {
		return reader.Reader{}, &Error{Op: "wait for a card in", Reader: name, Err: err}
	}
	return found, nil
}
