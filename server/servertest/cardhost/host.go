package cardhost

import (
	"bufio"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// Host is the cards, in this process. Start is for one in another.
type Host struct {
	first int
	slots []slot                       // card first and those after it; not changed
	image func(n int) *appletsim.Image // servertest.Image, but in a test
	keys  cryptogram.PrivateKeys
	rsa   *rsafast.Scheduler
	atr   []byte

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// slot is a reader.
type slot struct {
	n    int
	host *Host

	out bool // the card is; guarded by Host.mu, and changed under mu too

	mu        sync.Mutex
	card      *appletsim.Card // nil until it is first needed
	back      *time.Timer     // puts the card back; nil: none does
	exclusive bool
	shared    int
	faults    []Fault
	met       int // faults
	apdus     int
}

// New makes a host, which must be closed.
func New(c Config) (*Host, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	h := &Host{
		first: c.First, slots: make([]slot, c.Cards), watchers: map[*watcher]struct{}{},
		image: servertest.Image, rsa: rsafast.NewScheduler(rsafast.Config{Workers: c.Workers}),
	}
	for i := range h.slots {
		h.slots[i].n, h.slots[i].host = c.First+i, h
	}
	var err error
	h.keys, err = servertest.Image(0).Keys.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return h.rsa.Load(k) })
	if err != nil {
		h.rsa.Close()
		return nil, fmt.Errorf("cardhost: %w", err)
	}
	h.keys.Ops = h.rsa
	h.atr = servertest.Card(servertest.Image(0)).ATR()
	return h, nil
}

// Close ends the RSA workers, after Serve.
func (h *Host) Close() { h.rsa.Close() }

// Serve serves the cards on l until ctx ends, gives ctx's error then, and closes
// l. A client that is gone leaves its card reset, once the command that it sent
// last is carried out, as a real reader's service does.
func (h *Host) Serve(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			return errors.Join(ctx.Err(), l.Close())
		}
		clients.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			h.serve(ctx, c)
		})
	}
}

// slot is the reader of a card, nil if it is not this host's.
func (h *Host) slot(n int) *slot {
	if n < h.first || n-h.first >= len(h.slots) {
		return nil
	}
	return &h.slots[n-h.first]
}

// serve is one client's connection. Opening and closing is done in the order
// in which the client asks; each card that is open has a goroutine of its own.
func (h *Host) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	out := &writer{conn: c}
	open := map[uint32]*connection{}
	var cards sync.WaitGroup
	defer cards.Wait()
	defer func() {
		for _, card := range open {
			close(card.in)
		}
	}()
	for in := bufio.NewReaderSize(c, 64<<10); ; {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		card := open[f.number]
		switch {
		case f.kind == frameWatch:
			h.watch(ctx, in, out)
			return
		case f.kind == frameControl:
			body, err := h.control(f.body)
			out.answer(f.number, body, err)
		case f.kind == frameOpen && card == nil && len(f.body) == 5:
			card, err := h.open(int(binary.BigEndian.Uint32(f.body)), reader.Mode(f.body[4]))
			if err == nil {
				open[f.number] = card
				cards.Go(func() { card.serve(ctx, out, f.number) })
			}
			out.answer(f.number, h.atr, err)
		case card == nil && f.kind == frameAbandon: // it was not opened
		case card == nil:
			out.answer(f.number, nil, fmt.Errorf("cardhost: %w: no card is open", apdu.ErrTransport))
		case f.kind == frameClose:
			card.left = true
			card.release()
			fallthrough
		case f.kind == frameAbandon:
			delete(open, f.number)
			close(card.in)
		default:
			select {
			case card.in <- f:
			default:
				return // one exchange at a time, and no other kind
			}
		}
	}
}

// answer sends ok with that body, or the error. That the client is gone is found
// by who reads.
func (w *writer) answer(number uint32, body []byte, err error) {
	kind := byte(frameOK)
	if err != nil {
		kind, body = frameError, encodeError(err)
	}
	_ = w.send(kind, number, body)
}

// connection is a card that a client has open.
type connection struct {
	slot    *slot
	conn    *appletsim.Conn
	in      chan frame // APDUs and resets; closed when the client has done with it
	left    bool       // by close, as it is
	release func()
}

func (h *Host) open(n int, mode reader.Mode) (*connection, error) {
	s := h.slot(n)
	if s == nil {
		return nil, fmt.Errorf("%s: %w", Name(n), apdu.ErrNoReader)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.out:
		return nil, fmt.Errorf("%s: %w", Name(n), apdu.ErrNoCard)
	case s.exclusive || mode == reader.Exclusive && s.shared > 0:
		return nil, fmt.Errorf("%s: %w", Name(n), apdu.ErrCardBusy)
	}
	if mode == reader.Exclusive {
		s.exclusive = true
	} else {
		s.shared++
	}
	release := sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if mode == reader.Exclusive {
			s.exclusive = false
		} else {
			s.shared--
		}
	})
	return &connection{slot: s, conn: s.emulate().Connect(), in: make(chan frame, 1), release: release}, nil
}

// serve carries out what the client sends to the card.
func (c *connection) serve(ctx context.Context, out *writer, number uint32) {
	defer c.release()
	for f := range c.in {
		var answer []byte
		var err error
		switch f.kind {
		case frameAPDU:
			answer, err = c.transmit(ctx, f.body)
		case frameReset:
			err = c.conn.Reset(ctx)
		default:
			err = fmt.Errorf("cardhost: %w: a frame of kind %q", apdu.ErrTransport, f.kind)
		}
		out.answer(number, answer, err)
	}
	if !c.left {
		c.slot.card.Reset()
	}
}

// transmit carries a command to the card, and the fault that it meets.
func (c *connection) transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	s := c.slot
	fault := s.next(capdu)
	switch fault.Kind {
	case PullBefore:
		s.remove(fault.For)
	case WriteFails:
		s.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.WriteFails})
	}
	rapdu, err := c.conn.Transmit(ctx, capdu)
	switch fault.Kind {
	case PullAfter:
		s.remove(fault.For)
		return nil, fmt.Errorf("%s: %w", Name(s.n), apdu.ErrCardRemoved)
	case LoseAnswer:
		return nil, fmt.Errorf("%s: %w: the answer is lost", Name(s.n), apdu.ErrTransport)
	case LateAnswer:
		select {
		case <-time.After(fault.For):
		case <-ctx.Done():
		}
	}
	return rapdu, err
}

// emulate makes the card where that was not done; mu is held. Whoever has a
// connection may read card without mu.
func (s *slot) emulate() *appletsim.Card {
	if s.card == nil {
		s.card = servertest.Card(s.host.image(s.n), appletsim.WithKeys(s.host.keys))
		if s.out {
			s.card.Remove()
		}
	}
	return s.card
}

// next counts a command and gives the fault that it meets, the zero Fault for
// none.
func (s *slot) next(capdu []byte) (met Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apdus++
	left := s.faults[:0]
	for _, f := range s.faults {
		if f.INS == 0 || len(capdu) > 1 && capdu[1] == f.INS {
			f.APDU--
		}
		if f.APDU > 0 || met.Kind != "" {
			f.APDU = max(1, f.APDU) // two at one command: the later one waits for the next
			left = append(left, f)
			continue
		}
		met = f
		s.met++
	}
	s.faults = left
	return met
}

// remove pulls the card, for that long or, where away is 0, until insert.
func (s *slot) remove(away time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back = nil
	if away > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(away, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.back == timer { // not overtaken by another remove, or insert
				s.putBack()
			}
		})
		s.back = timer
	}
	if s.tell(true) && s.card != nil {
		s.card.Remove()
	}
}

// insert puts the card back.
func (s *slot) insert() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putBack()
}

// putBack is insert; mu is held.
func (s *slot) putBack() {
	s.back = nil
	if s.tell(false) && s.card != nil {
		s.card.Insert()
	}
}

// tell says to all who watch that the card is out, or in again, if that is new.
func (s *slot) tell(out bool) (changed bool) {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.out == out {
		return false
	}
	s.out = out
	kind := reader.CardInserted
	if out {
		kind = reader.CardRemoved
	}
	for w := range h.watchers {
		w.add(kind, s.n)
	}
	return true
}

// watcher is a client that watches.
type watcher struct {
	events []byte // that are to be sent; guarded by Host.mu
	more   chan struct{}
}

func (w *watcher) add(kind reader.EventKind, n int) {
	w.events = binary.BigEndian.AppendUint32(append(w.events, byte(kind)), uint32(n))
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// watch sends all events to a client until it is gone.
func (h *Host) watch(ctx context.Context, in *bufio.Reader, out *writer) {
	ctx, gone := context.WithCancel(ctx)
	go func() {
		defer gone()
		_, _ = in.ReadByte() // it says no more: the end of the connection
	}()
	w := &watcher{more: make(chan struct{}, 1)}
	h.mu.Lock()
	for i := range h.slots {
		s := &h.slots[i]
		w.add(reader.ReaderAdded, s.n)
		if !s.out {
			w.add(reader.CardInserted, s.n)
		}
	}
	h.watchers[w] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, w)
	}()
	const atOnce = maxFrame / eventLen * eventLen
	for {
		select {
		case <-w.more:
		case <-ctx.Done():
			return
		}
		h.mu.Lock()
		events := w.events
		w.events = nil
		h.mu.Unlock()
		for len(events) > 0 {
			n := min(len(events), atOnce)
			if out.send(frameEvents, 0, events[:n]) != nil {
				return
			}
			events = events[n:]
		}
	}
}

// The operations of frameControl.
const (
	opInsert = "insert"
	opRemove = "remove"
	opArm    = "arm"
	opDisarm = "disarm"
	opStates = "states"
	opWarm   = "warm"
)

// order is what frameControl asks for.
type order struct {
	Op    string        `json:"op"`
	Card  int           `json:"card"`
	Count int           `json:"count,omitempty"` // of cards, for opStates
	For   time.Duration `json:"for,omitempty"`   // for opRemove
	Fault *Fault        `json:"fault,omitempty"` // for opArm
}

// maxStates is how many fit into a frame, with room to spare.
const maxStates = 500

func (h *Host) control(body []byte) ([]byte, error) {
	var o order
	if err := json.Unmarshal(body, &o); err != nil {
		return nil, fmt.Errorf("cardhost: order: %w", err)
	}
	if o.Op == opWarm {
		h.warm()
		return nil, nil
	}
	s := h.slot(o.Card)
	if s == nil {
		return nil, fmt.Errorf("cardhost: card %d: %w", o.Card, apdu.ErrNoReader)
	}
	switch o.Op {
	case opInsert:
		s.insert()
	case opRemove:
		s.remove(o.For)
	case opArm:
		return nil, s.arm(o.Fault)
	case opDisarm:
		s.mu.Lock()
		s.faults = nil
		s.mu.Unlock()
	case opStates:
		return h.states(o.Card, o.Count)
	default:
		return nil, fmt.Errorf("cardhost: no such order: %.20q", o.Op)
	}
	return nil, nil
}

func (s *slot) arm(f *Fault) error {
	if f == nil {
		return errors.New("cardhost: no fault")
	}
	if err := f.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == maxFaults {
		return fmt.Errorf("cardhost: card %d has %d faults waiting", s.n, maxFaults)
	}
	s.faults = append(s.faults, *f)
	return nil
}

// warm makes all cards.
func (h *Host) warm() {
	var next atomic.Int64
	var makers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		makers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(h.slots)); i = next.Add(1) - 1 {
				s := &h.slots[i]
				s.mu.Lock()
				s.emulate()
				s.mu.Unlock()
			}
		})
	}
	makers.Wait()
}

func (h *Host) states(first, count int) ([]byte, error) {
	if count < 0 || count > maxStates {
		return nil, fmt.Errorf("cardhost: %d cards' states at once, at most %d are given", count, maxStates)
	}
	var all []State
	for n := first; n < first+count; n++ {
		s := h.slot(n)
		if s == nil {
			return nil, fmt.Errorf("cardhost: card %d: %w", n, apdu.ErrNoReader)
		}
		all = append(all, s.state())
	}
	return json.Marshal(all)
}

func (s *slot) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{Card: s.n, Present: !s.out, APDUs: s.apdus, FaultsMet: s.met, FaultsLeft: len(s.faults), Connections: s.shared}
	if s.exclusive {
		st.Connections++
	}
	fresh := s.host.image(s.n)
	im := fresh
	if s.card != nil {
		im = s.card.Image() // once the command under way is done
	}
	st.EID, st.EventCounter, st.Changes = im.EID, im.EventCounter, im.EventCounter-fresh.EventCounter
	for _, p := range im.Profiles {
		st.Profiles = append(st.Profiles, ProfileState{p.ICCID, p.State})
	}
	if im.Runtime != nil {
		for _, a := range im.Runtime.Answers {
			st.Done = append(st.Done, a.RequestID)
		}
	}
	return st
}
