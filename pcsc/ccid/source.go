package ccid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Source is the CCID readers of a bus. It serves any number of goroutines. It
// holds a reader, which keeps pcscd and other programs from it, while a card in it
// is connected, and as long as Watch watches.
type Source struct {
	bus  Bus
	mu   sync.Mutex
	held map[pluggedKey]*held
}

// held is a reader that is in use; it has as many uses as are counted.
type held struct {
	opening chan struct{} // closed once device or err is known
	device  *Device
	err     error
	uses    int           // Source.mu
	ending  chan struct{} // Source.mu; made once nobody uses device, closed once that is given up
}

var _ reader.Source = (*Source)(nil)

// New gives the readers on this machine's USB.
func New() *Source { return NewSource(systemBus{}) }

// NewSource gives the readers on bus.
func NewSource(bus Bus) *Source { return &Source{bus: bus, held: map[pluggedKey]*held{}} }

// Info is a reader that is plugged in, and what is wrong with it.
type Info struct {
	Plugged
	Name string `json:"name"` // without the slot
	// Slots are the reader's; whether a card is in them is known only where Err is
	// nil.
	Slots []reader.Reader `json:"slots"`
	// Err says why the reader cannot be used: ErrNoPermission, apdu.ErrCardBusy
	// (a *BusyError), ErrNotBuilt, ErrDescriptor, …
	Err error `json:"-"`
	// Problem is Err's text.
	Problem string `json:"problem,omitempty"`
}

// Devices lists every reader, those that cannot be used too. It claims each for
// a moment to ask whether cards are in it, and gives none power.
func (s *Source) Devices(ctx context.Context) ([]Info, error) {
	all, err := s.bus.List(ctx)
	if err != nil {
		return nil, &Error{Op: "list readers", Err: err}
	}
	infos := make([]Info, len(all))
	var asked sync.WaitGroup
	for i, p := range all {
		infos[i] = Info{Plugged: p, Slots: p.readers(all)}
		infos[i].Name, _ = p.labels(all)
		asked.Go(func() { s.look(ctx, &infos[i]) }) // one that hangs does not stop the others
	}
	asked.Wait()
	return infos, nil
}

// look asks what is in a reader's slots.
func (s *Source) look(ctx context.Context, info *Info) {
	d, release, err := s.hold(ctx, info.Plugged, info.Name)
	if err == nil {
		defer release()
		for i := range info.Slots {
			if info.Slots[i].Card, info.Slots[i].InUse, err = d.peek(ctx, i); err != nil {
				break
			}
			info.Slots[i].Exclusive = info.Slots[i].InUse
		}
	}
	if err == nil {
		err = info.Plugged.Err
	}
	if err != nil {
		info.Err, info.Problem = err, err.Error()
	}
	for i := range info.Slots {
		if errors.Is(err, apdu.ErrCardBusy) {
			info.Slots[i].InUse, info.Slots[i].Exclusive = true, true
		}
	}
}

// peek tells whether a card is in a slot, and whether it is connected: then it is
// not asked again.
func (d *Device) peek(ctx context.Context, number int) (card, connected bool, err error) {
	s, err := d.slot(number)
	if err != nil {
		return false, false, err
	}
	d.mu.Lock()
	state, connected := s.state, s.connected
	d.mu.Unlock()
	if connected {
		return state.present, true, nil
	}
	card, err = d.Present(ctx, number)
	return card, false, err
}

// Readers lists the slots of the readers that can be used or are in use.
func (s *Source) Readers(ctx context.Context) ([]reader.Reader, error) {
	infos, err := s.Devices(ctx)
	if err != nil {
		return nil, err
	}
	var readers []reader.Reader
	for _, info := range infos {
		if info.Err == nil || errors.Is(info.Err, apdu.ErrCardBusy) || errors.Is(info.Err, ErrDescriptor) {
			readers = append(readers, info.Slots...)
		}
	}
	return readers, nil
}

// Open connects the card in the slot of that name or ID. USB readers are always
// exclusive to this program, whatever the mode.
func (s *Source) Open(ctx context.Context, name string, _ reader.Mode) (apdu.Conn, error) {
	c, err := s.Connect(ctx, name, Options{})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Connect powers and connects the card in the slot of that name or ID, or the
// only one whose name has it as a part.
func (s *Source) Connect(ctx context.Context, name string, o Options) (*Conn, error) {
	max := o.MaxWait
	if max <= 0 {
		max = DefaultMaxWait
	}
	bounded, cancel := context.WithTimeout(ctx, max)
	defer cancel()
	p, slot, err := s.find(bounded, name)
	if err != nil {
		return nil, &Error{Op: "connect", Reader: name, Err: err}
	}
	d, release, err := s.hold(bounded, p.Plugged, p.Name)
	if err != nil {
		return nil, &Error{Op: "connect", Reader: name, Err: err}
	}
	c, err := d.connect(ctx, slot, o, sync.OnceFunc(release))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// find finds a slot by name.
func (s *Source) find(ctx context.Context, name string) (Info, int, error) {
	all, err := s.bus.List(ctx)
	if err != nil {
		return Info{}, 0, err
	}
	var found Info
	var slot int
	var names, matches []string
	for _, p := range all {
		label, _ := p.labels(all)
		for i, r := range p.readers(all) {
			switch {
			case r.Name == name || r.ID == name:
				return Info{Plugged: p, Name: label}, i, nil
			case strings.Contains(r.Name, name):
				matches = append(matches, r.Name)
				found, slot = Info{Plugged: p, Name: label}, i
			}
			names = append(names, r.Name)
		}
	}
	switch {
	case len(matches) == 1:
		return found, slot, nil
	case len(matches) > 1:
		return Info{}, 0, fmt.Errorf("ambiguous: %q", matches)
	case len(names) == 0:
		return Info{}, 0, fmt.Errorf("%w: there are no USB CCID readers", apdu.ErrNoReader)
	}
	return Info{}, 0, fmt.Errorf("%w: there are %q", apdu.ErrNoReader, names)
}

// hold opens a reader, or takes part in one that is open; release gives it up.
func (s *Source) hold(ctx context.Context, p Plugged, name string) (d *Device, release func(), err error) {
	key := p.key()
	s.mu.Lock()
	h, open := s.held[key]
	for open && h.ending != nil { // until then it cannot be claimed anew
		s.mu.Unlock()
		select {
		case <-h.ending:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		s.mu.Lock()
		h, open = s.held[key]
	}
	if open && h.device != nil && h.device.lost() != nil { // it was unplugged
		open = false
	}
	if !open {
		h = &held{opening: make(chan struct{})}
		s.held[key] = h
	}
	h.uses++
	s.mu.Unlock()
	if !open {
		go func() { // for whoever waits for it, so that no one's context ends it
			defer close(h.opening)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), powerTime)
			defer cancel()
			d, err := s.attach(ctx, p, name)
			s.mu.Lock()
			defer s.mu.Unlock()
			if h.device, h.err = d, err; err != nil {
				s.forget(key, h)
			}
		}()
	}
	free := func() { s.release(key, h) }
	select {
	case <-h.opening:
	case <-ctx.Done():
		go func() {
			<-h.opening
			free()
		}()
		return nil, nil, ctx.Err()
	}
	if h.err != nil {
		return nil, nil, h.err
	}
	return h.device, free, nil
}

func (s *Source) attach(ctx context.Context, p Plugged, name string) (*Device, error) {
	e, err := s.bus.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return Attach(ctx, e, p.Descriptor, name)
}

// release counts one use less, and closes a reader that has none.
func (s *Source) release(key pluggedKey, h *held) {
	s.mu.Lock()
	h.uses--
	last := h.uses == 0 && h.device != nil
	if last {
		h.ending = make(chan struct{})
	}
	s.mu.Unlock()
	if !last {
		return
	}
	_ = h.device.Close() // nobody is left to tell
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(key, h)
	close(h.ending)
}

// forget takes h out of those that can be shared; the caller has mu.
func (s *Source) forget(key pluggedKey, h *held) {
	if s.held[key] == h {
		delete(s.held, key)
	}
}

// How often Watch looks for readers, and tries one that it could not use.
const (
	lookInterval  = 500 * time.Millisecond
	retryInterval = 2 * time.Second
)

// Watch sends events to fn until ctx ends, and returns ctx's error. Only
// ErrNotBuilt and ErrNoUSB end it early. A reader that another program holds is
// there, and its cards are seen once it is free. Cards are not given power, so
// events carry no answer to reset.
func (s *Source) Watch(ctx context.Context, fn func(reader.Event)) error {
	w := &watch{source: s, events: make(chan watchEvent), followed: map[pluggedKey]*follower{}}
	defer w.stop()
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		all, err := s.bus.List(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrNotBuilt), errors.Is(err, ErrNoUSB):
			return &Error{Op: "watch", Err: err}
		case err == nil:
			w.update(ctx, all, fn)
		}
		for looking := false; !looking; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case e := <-w.events:
				if e.err != nil {
					return &Error{Op: "watch", Err: e.err}
				}
				w.tell(e, fn)
			case <-tick.C:
				looking = true
			}
		}
	}
}

// watch is one Watch.
type watch struct {
	source   *Source
	events   chan watchEvent
	followed map[pluggedKey]*follower
}

// tell tells of an event of a reader that is followed.
func (w *watch) tell(e watchEvent, fn func(reader.Event)) {
	if f := w.followed[e.key]; f != nil {
		f.tell(e.slot, e.card, fn)
	}
}

// watchEvent is a card that came or went, or what ends the watch.
type watchEvent struct {
	key  pluggedKey
	slot int
	card bool
	err  error
}

// follower is a reader that is watched.
type follower struct {
	slots []reader.Reader // as they were told
	stop  context.CancelFunc
	done  chan struct{}
}

// tell tells what happened in a slot.
func (f *follower) tell(slot int, card bool, fn func(reader.Event)) {
	r := &f.slots[slot]
	switch {
	case r.Card == card:
	case card:
		r.Card = true
		fn(reader.Event{Kind: reader.CardInserted, Reader: *r})
	default:
		r.Card = false
		fn(reader.Event{Kind: reader.CardRemoved, Reader: *r})
	}
}

// update tells which readers came and went, and follows those that are there. A
// reader whose name changed, as another with its serial number came or went, is
// another reader.
func (w *watch) update(ctx context.Context, all []Plugged, fn func(reader.Event)) {
	present := map[pluggedKey][]reader.Reader{}
	for _, p := range all {
		present[p.key()] = p.readers(all)
	}
	for key, f := range w.followed {
		now, there := present[key]
		if there && slices.EqualFunc(f.slots, now, func(a, b reader.Reader) bool { return a.Name == b.Name && a.ID == b.ID }) {
			continue
		}
		delete(w.followed, key)
		w.end(f, func(e watchEvent) { w.tell(e, fn) })
		for i := range f.slots {
			f.tell(i, false, fn)
			fn(reader.Event{Kind: reader.ReaderRemoved, Reader: f.slots[i]})
		}
	}
	for _, p := range all {
		key := p.key()
		if w.followed[key] != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		f := &follower{slots: present[key], stop: stop, done: make(chan struct{})}
		w.followed[key] = f
		for _, r := range f.slots {
			fn(reader.Event{Kind: reader.ReaderAdded, Reader: r})
		}
		name, _ := p.labels(all)
		go func() {
			defer close(f.done)
			w.follow(ctx, p, name)
		}()
	}
}

// follow sends what happens in one reader until ctx ends.
func (w *watch) follow(ctx context.Context, p Plugged, name string) {
	send := func(e watchEvent) {
		e.key = p.key()
		select {
		case w.events <- e:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		d, release, err := w.source.hold(ctx, p, name)
		if err == nil {
			_ = d.Watch(ctx, func(e SlotEvent) { send(watchEvent{slot: e.Slot, card: e.Present}) })
			release()
			for slot := range d.Slots() {
				send(watchEvent{slot: slot})
			}
		} else if errors.Is(err, ErrNotBuilt) {
			send(watchEvent{err: err})
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
		}
	}
}

// end ends a follower and waits until it has given up its reader. others gets
// what other followers say in the meantime; they say it once.
func (w *watch) end(f *follower, others func(watchEvent)) {
	f.stop()
	for {
		select {
		case <-f.done:
			return
		case e := <-w.events:
			others(e)
		}
	}
}

func (w *watch) stop() {
	for _, f := range w.followed {
		w.end(f, func(watchEvent) {})
	}
}
