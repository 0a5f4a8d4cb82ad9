package ccidsim

import (
	"context"
	"sync"
	"time"
)

// Card is an emulated card. One goroutine at a time calls it; a card that is
// taken out, or whose reader is, finishes what it is doing first.
type Card interface {
	// ATR is the answer to reset; nil: the card is mute.
	ATR() []byte
	// Power turns the card on or off; off loses what a card keeps in RAM.
	Power(on bool)
	// Reset is a warm reset.
	Reset()
	// Process carries out a command APDU and gives the response APDU. With nil
	// the card is mute until its next reset. capdu is the caller's and changes
	// after the call.
	Process(capdu []byte) []byte
}

// slot is one slot. device.mu guards it, but for what hand does.
type slot struct {
	device *Device
	number int

	card     Card
	present  bool
	inserted int  // how often a card was
	changed  bool // since the last NotifySlotChange
	line     *line
	params   params
	stopped  bool // the card's clock
	class    byte // of GET RESPONSE; FF: the command's
	commands int
	faults   []Fault

	flight *flight
	aborts abortState

	hand    sync.Mutex // held for every call to a card
	powered Card       // the card that has power; nil for none
	since   int        // inserted, when it got it
}

// flight is a command that takes time.
type flight struct {
	m      message
	cancel context.CancelFunc
}

// abortState is an abort of which one of the two halves has come (CCID §5.3.1).
type abortState struct {
	control, bulk bool
	seq           byte    // the half's that came
	m             message // PC_to_RDR_Abort
}

func (s *slot) insert(card Card) {
	s.card, s.present, s.changed = card, true, true
	s.inserted++
	s.device.notify()
}

// remove has the card gone; powerDown is to follow, without mu.
func (s *slot) remove() {
	if !s.present {
		return
	}
	s.present, s.changed = false, true
	f := s.flight
	s.reset()
	s.device.notify()
	if f != nil {
		s.fail(f.m, errMute)
	}
}

// reset ends what is under way, without an answer, and has the slot inactive.
func (s *slot) reset() {
	if s.flight != nil {
		s.flight.cancel()
	}
	s.flight, s.line, s.aborts = nil, nil, abortState{}
}

func (s *slot) powerDown() {
	s.hand.Lock()
	defer s.hand.Unlock()
	if s.powered != nil {
		s.powered.Power(false)
		s.powered = nil
	}
}

// status is bmICCStatus.
func (s *slot) status() byte {
	switch {
	case !s.present:
		return iccAbsent
	case s.line == nil:
		return iccInactive
	}
	return iccActive
}

// answer sends the reply to m, and a failure where r.err or r.status say so. The
// caller holds mu; a Reply hook is called without it.
func (s *slot) answer(m message, r reply) {
	r.kind = answerKind(m.kind())
	r.status |= s.status()
	s.device.send(m, r.bytes(m))
}

// fail sends a failure. For errUnsupported, which is 0 as success is, there is
// no other way to say it.
func (s *slot) fail(m message, err slotError) {
	s.answer(m, reply{status: commandFailed, err: err})
}

func (d *Device) send(m message, answer []byte) {
	transfers := [][]byte{answer}
	if hook := d.hooks.Reply; hook != nil {
		gone := d.gone
		d.mu.Unlock()
		transfers = hook(m, answer)
		d.mu.Lock()
		if gone != d.gone || d.unplugged() {
			return
		}
	}
	for _, t := range transfers {
		d.queue(t)
	}
}

// command carries out a bulk-OUT message. The caller holds mu.
func (d *Device) command(m message) {
	if len(m) < headerSize {
		return // there is no slot and no sequence number to answer with
	}
	if m.slot() >= len(d.slots) {
		r := reply{kind: answerKind(m.kind()), status: commandFailed | iccAbsent, err: errSlot}
		d.send(m, r.bytes(m))
		return
	}
	s := d.slots[m.slot()]
	switch {
	case int64(len(m)) != headerSize+int64(m.length()) || len(m) > d.cfg.MaxMessage:
		s.fail(m, errLength)
	case m.kind() == abort:
		s.bulkAbort(m)
	case s.aborts.control:
		s.fail(m, errAborted)
	case s.flight != nil:
		s.fail(m, errSlotBusy)
	default:
		s.carryOut(m)
	}
}

func (s *slot) carryOut(m message) {
	switch m.kind() {
	case getSlotStatus:
		s.answer(m, reply{last: s.clock()})
	case iccPowerOn:
		s.start(m, s.powerOn)
	case iccPowerOff:
		s.start(m, s.powerOff)
	case xfrBlock:
		s.start(m, s.transfer)
	case getParameters, resetParameters, setParameters:
		s.start(m, s.setOrGet)
	case iccClock:
		s.stopClock(m)
	case t0APDU:
		s.getResponseClass(m)
	case setRate:
		s.answer(m, reply{data: s.device.rate()})
	case escape:
		if s.device.cfg.Escape == nil {
			s.fail(m, errUnsupported)
			return
		}
		s.start(m, func(context.Context, message) (reply, slotError) {
			return reply{data: s.device.cfg.Escape(m.data())}, errNone
		})
	default:
		s.fail(m, errUnsupported)
	}
}

// start carries out a command that takes time, beside those of other slots.
func (s *slot) start(m message, do func(context.Context, message) (reply, slotError)) {
	busy := 0
	for _, other := range s.device.slots {
		if other.flight != nil {
			busy++
		}
	}
	if busy >= s.device.cfg.BusySlots {
		s.fail(m, errSlotBusy)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flight{m, cancel}
	s.flight = f
	go func() {
		defer cancel()
		r, err := do(ctx, m)
		s.device.mu.Lock()
		defer s.device.mu.Unlock()
		if s.flight != f {
			return // removed, aborted, unplugged
		}
		s.flight = nil
		if err != errNone {
			r.status, r.err = commandFailed, err
		}
		s.answer(m, r)
	}()
}

// extend asks the host for more time for the command of ctx.
func (s *slot) extend(ctx context.Context) {
	s.device.mu.Lock()
	defer s.device.mu.Unlock()
	if ctx.Err() == nil && len(s.device.in) == 0 {
		s.answer(s.flight.m, reply{status: timeExtension, err: 1})
	}
}

// powerOn is PC_to_RDR_IccPowerOn (CCID §6.1.1): a cold reset, or a warm one
// where the card is active.
func (s *slot) powerOn(ctx context.Context, m message) (reply, slotError) {
	cfg := &s.device.cfg
	const offset = 7 // bPowerSelect
	switch sel := m[offset]; {
	case sel == 0 && cfg.Automatic&AutoVoltage == 0,
		sel > 3, sel > 0 && cfg.Voltages&(1<<(sel-1)) == 0:
		return reply{}, offset
	}
	sleep(ctx, cfg.PowerOn)
	s.hand.Lock()
	s.device.mu.Lock()
	card, inserted, present := s.card, s.inserted, s.present && ctx.Err() == nil
	s.line = nil
	s.device.mu.Unlock()
	if !present {
		s.hand.Unlock()
		return reply{}, errMute
	}
	if s.powered != nil && s.since == inserted {
		card.Reset()
	} else {
		card.Power(true)
		s.powered, s.since = card, inserted
	}
	b := card.ATR()
	s.hand.Unlock()
	a := parseATR(b)
	if sel := m[offset]; len(b) == 0 || sel > 0 && a.classes&(1<<(sel-1)) == 0 {
		s.powerDown()
		if len(b) == 0 {
			return reply{}, errMute
		}
		return reply{}, errClass
	}
	l := newLine(s, card, a)
	p := defaultParams(cfg.Automatic&(AutoConfig|AutoParameters) != 0, a)
	if cfg.Automatic&AutoParameters != 0 && cfg.takes(a.fd) {
		p.fd = l.agree(a.first(), a.fd)
	}
	if cfg.Automatic&AutoIFSD != 0 {
		l.t1.ifsd = cfg.MaxIFSD
	}
	s.device.mu.Lock()
	defer s.device.mu.Unlock()
	if ctx.Err() != nil {
		return reply{}, errMute
	}
	s.line, s.params, s.stopped = l, p, false
	return reply{data: b}, errNone
}

// powerOff is PC_to_RDR_IccPowerOff.
func (s *slot) powerOff(context.Context, message) (reply, slotError) {
	s.device.mu.Lock()
	s.line = nil
	s.device.mu.Unlock()
	s.powerDown()
	return reply{last: 1}, errNone
}

// clock is bClockStatus.
func (s *slot) clock() byte {
	if s.stopped || s.line == nil {
		return 1 // stopped in state L
	}
	return 0
}

// stopClock is PC_to_RDR_IccClock.
func (s *slot) stopClock(m message) {
	switch {
	case s.device.cfg.Automatic&ClockStop == 0:
		s.fail(m, errUnsupported)
	case m[7] > 1:
		s.fail(m, 7)
	case s.line == nil:
		s.fail(m, errMute)
	default:
		s.stopped = m[7] == 1
		s.answer(m, reply{last: s.clock()})
	}
}

// getResponseClass is PC_to_RDR_T0APDU: the class of the GET RESPONSE that the
// reader makes by itself.
func (s *slot) getResponseClass(m message) {
	if s.device.cfg.Level != ShortAPDU && s.device.cfg.Level != ExtendedAPDU {
		s.fail(m, errUnsupported)
		return
	}
	if m[7]&1 != 0 {
		s.class = m[8]
	} else {
		s.class = 0xFF
	}
	s.answer(m, reply{})
}

// bulkAbort is PC_to_RDR_Abort (CCID §6.1.13); it is answered once the control
// request of the same sequence number has come too.
func (s *slot) bulkAbort(m message) {
	if s.aborts.control && s.aborts.seq == m.seq() {
		s.aborts = abortState{}
		s.answer(m, reply{last: s.clock()})
		return
	}
	s.aborts.bulk, s.aborts.seq, s.aborts.m = true, m.seq(), m
	s.aborts.control = false
}

// controlAbort is the control request ABORT (CCID §5.3.1). Until the bulk message
// of the same sequence number comes, every command fails, the one under way
// first.
func (s *slot) controlAbort(seq byte) {
	was := s.aborts
	f := s.flight
	if f != nil {
		f.cancel()
		s.flight = nil
	}
	both := was.bulk && was.seq == seq
	if both {
		s.aborts = abortState{}
	} else {
		s.aborts = abortState{control: true, seq: seq}
	}
	if f != nil {
		s.fail(f.m, errAborted)
	}
	if both {
		s.answer(was.m, reply{last: s.clock()})
	}
}

// process has the card carry out a command APDU; nil: there is no answer.
func (s *slot) process(l *line, capdu []byte) []byte {
	if !s.meets(s.fate(false, capdu, nil)) {
		return nil
	}
	if works := s.device.currentHooks().Works; works != nil {
		sleep(context.Background(), works(s.number, capdu))
	}
	rapdu := s.handOver(l, capdu)
	if !s.meets(s.fate(true, capdu, rapdu)) {
		return nil
	}
	return rapdu
}

// handOver has the card carry out a command APDU, if it is still there.
func (s *slot) handOver(l *line, capdu []byte) []byte {
	s.hand.Lock()
	defer s.hand.Unlock()
	s.device.mu.Lock()
	here := s.line == l
	s.device.mu.Unlock()
	if !here {
		return nil
	}
	return l.card.Process(capdu)
}

// meets has a fate happen, and reports whether the command goes on.
func (s *slot) meets(f Fate) bool {
	switch f.Kind {
	case Pull:
		s.device.Remove(s.number)
		if f.Away > 0 {
			time.AfterFunc(f.Away, func() { s.device.Reinsert(s.number) })
		}
	case Unplug:
		s.device.Unplug()
	}
	return f.Kind == GoOn
}

// sleep waits for d or ctx's end.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
