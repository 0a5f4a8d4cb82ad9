package ccid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// Device is a reader, with one slot or several. It serves any number of
// goroutines; each slot is one's at a time.
type Device struct {
	ep   Endpoints
	desc Descriptor
	name string

	busy    chan struct{} // has a place for each slot that may be at work
	writing chan struct{} // has a place for who writes
	reading chan struct{} // has a place for who reads, for all that wait
	midway  bool          // of who has reading: a message was given up in its middle
	slots   []*slot

	end  context.CancelFunc // of the interrupt pipe's reader
	done chan struct{}      // it has ended

	mu        sync.Mutex
	seq       byte
	gone      error // why no call is possible any more
	changed   chan struct{}
	interrupt bool // the interrupt pipe works
	rates     []uint32
	ratesRead bool
}

// slot is a slot of a reader. Who has use has the rest, but for inbox and what
// the device's mu guards.
type slot struct {
	d      *Device
	number int
	use    chan struct{}
	inbox  chan answer // what others read that is for this slot
	// waiting says that the slot has a command of which it awaits the answer.
	waiting atomic.Bool
	tx, rx  []byte
	// pending says that a command was sent and its answer is not known to have
	// been read: the reader must be told to forget it.
	pending bool
	icc     byte // bmICCStatus of the last answer

	state     slotState // d.mu
	connected bool      // d.mu
	notified  bool      // d.mu
}

// slotState is what is known of a slot's card. changes counts its comings and
// goings, errors the hardware errors that the reader reported; hardware is the
// last of them.
type slotState struct {
	known, present  bool
	changes, errors int
	hardware        byte
}

const (
	readSize  = 1024 // of a first read: a multiple of every bulk packet size
	maxAnswer = headerLength + 65536 + 2 + 64
)

// Attach drives the reader behind e, whose class descriptor is d. It asks each
// slot's status, takes slots that do not answer for missing, and leaves the cards
// alone. name says in errors which reader it is. The Device owns e from then on; where Attach fails, e is closed.
func Attach(ctx context.Context, e Endpoints, d Descriptor, name string) (*Device, error) {
	dev := &Device{
		ep: e, desc: d, name: name,
		busy:    make(chan struct{}, d.BusySlots()),
		writing: make(chan struct{}, 1),
		reading: make(chan struct{}, 1),
		changed: make(chan struct{}),
		done:    make(chan struct{}),
	}
	for n := range d.Slots() {
		dev.slots = append(dev.slots, &slot{
			d: dev, number: n,
			use:   make(chan struct{}, 1),
			inbox: make(chan answer, 4),
			rx:    make([]byte, readSize),
		})
	}
	for n := range dev.slots {
		_, err := dev.Present(ctx, n)
		if err != nil && n > 0 && dev.lost() == nil && ctx.Err() == nil { // a descriptor that promises slots
			dev.slots = dev.slots[:n]
			break
		}
		if err != nil {
			e.Close()
			return nil, &Error{Op: "attach", Reader: name, Err: err}
		}
	}
	background, end := context.WithCancel(context.Background())
	dev.end, dev.interrupt = end, true
	go dev.listen(background)
	return dev, nil
}

// Name is the reader's.
func (d *Device) Name() string { return d.name }

// Descriptor is the reader's class descriptor.
func (d *Device) Descriptor() Descriptor { return d.desc }

// Slots is the number of slots.
func (d *Device) Slots() int { return len(d.slots) }

// Close gives up the reader; what goes on in it fails.
func (d *Device) Close() error {
	d.mu.Lock()
	first := d.gone == nil || !errors.Is(d.gone, errClosed)
	d.gone = errClosed
	d.wake()
	d.mu.Unlock()
	if !first {
		return nil
	}
	d.end()
	err := d.ep.Close()
	<-d.done
	return err
}

var errClosed = fmt.Errorf("%w: it was closed here", ErrUnplugged)

// Present asks whether a card is in a slot. It waits where the slot is at work.
func (d *Device) Present(ctx context.Context, number int) (bool, error) {
	s, err := d.slot(number)
	if err != nil {
		return false, err
	}
	if err := s.acquire(ctx); err != nil {
		return false, err
	}
	defer s.release()
	icc, err := s.status(ctx)
	return icc != iccNone, err
}

func (d *Device) slot(number int) (*slot, error) {
	if number < 0 || number >= len(d.slots) {
		return nil, fmt.Errorf("%w: slot %d of %d", apdu.ErrNoReader, number, len(d.slots))
	}
	return d.slots[number], nil
}

// acquire makes the slot the caller's, until release.
func (s *slot) acquire(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case s.use <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slot) release() { <-s.use }

// command sends a command and gives the reader's answer to it. One that says that
// the command failed is an error: apdu.ErrCardRemoved, or a Code. The answer's
// data is the slot's, until its next command. Where the answer does not come, the
// reader is told to forget the command.
func (s *slot) command(ctx context.Context, kind byte, p [3]byte, data []byte) (answer, error) {
	d := s.d
	if err := d.lost(); err != nil {
		return answer{}, err
	}
	select {
	case d.busy <- struct{}{}:
	case <-ctx.Done():
		return answer{}, ctx.Err() // nothing was sent
	}
	defer func() { <-d.busy }()
	s.waiting.Store(true)
	defer s.waiting.Store(false)
	if s.pending {
		if err := s.abort(ctx); err != nil {
			return answer{}, d.failed(ctx, err)
		}
	}
	s.pending = true
	seq := d.next()
	var a answer
	err := s.send(ctx, kind, seq, p, data)
	if err == nil {
		a, err = s.await(ctx, seq, answers[kind])
	}
	if err != nil {
		err = d.failed(ctx, err)
		if d.lost() == nil { // s.pending stays where the reader does not follow
			_ = s.abort(context.WithoutCancel(ctx))
		}
		return answer{}, err
	}
	s.pending = false
	switch {
	case a.status != statusFailed:
		return a, nil
	case a.icc == iccNone:
		return a, fmt.Errorf("%w: %w", apdu.ErrCardRemoved, a.code)
	}
	return a, a.code
}

// next is a new sequence number.
func (d *Device) next() byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	return d.seq
}

// send sends a command.
func (s *slot) send(ctx context.Context, kind, seq byte, p [3]byte, data []byte) error {
	d := s.d
	for len(s.inbox) > 0 {
		<-s.inbox
	}
	s.tx = appendMessage(s.tx[:0], kind, s.number, seq, p, data)
	select {
	case d.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.writing }()
	return d.ep.Out(ctx, s.tx)
}

// await reads until the answer to the command of that sequence number comes, and
// hands what is for other slots to them.
func (s *slot) await(ctx context.Context, seq, kind byte) (answer, error) {
	extensions := 0
	for stale := 0; stale < maxStale; {
		a, handed, err := s.next(ctx)
		switch {
		case err != nil:
			return answer{}, err
		case handed:
			continue
		case int(a.slot) != s.number, a.seq != seq:
			stale++
			continue
		case a.kind != kind && (a.kind != ansSlotStatus || a.status != statusFailed):
			return answer{}, brokenReader("answer of type %02X, not %02X", a.kind, kind)
		}
		s.icc = a.icc
		s.d.note(s, a.icc != iccNone)
		if a.status != statusExtension {
			return a, nil
		}
		if extensions++; extensions > maxExtensions {
			return answer{}, brokenReader("%d time extensions", extensions)
		}
	}
	return answer{}, brokenReader("%d answers to other commands, none to this one", maxStale)
}

// next is the next answer: for this slot, if somebody else has read it, or the
// reader's. handed says that it was another slot's, which has it now.
func (s *slot) next(ctx context.Context) (a answer, handed bool, err error) {
	select {
	case a = <-s.inbox:
		return a, false, nil
	case s.d.reading <- struct{}{}:
	case <-ctx.Done():
		return answer{}, false, ctx.Err()
	}
	defer func() { <-s.d.reading }() // who reads next must find what was handed over
	select {
	case a = <-s.inbox: // who read before had it
		return a, false, nil
	default:
	}
	a, err = s.read(ctx)
	if err == nil && int(a.slot) != s.number {
		handed = s.d.deliver(a)
	}
	return a, handed, err
}

// deliver hands an answer to its slot, and reports whether that waits for one.
func (d *Device) deliver(a answer) bool {
	if int(a.slot) >= len(d.slots) || !d.slots[a.slot].waiting.Load() {
		return false
	}
	a.data = append([]byte(nil), a.data...)
	select {
	case d.slots[a.slot].inbox <- a:
		return true
	default:
		return false
	}
}

// read reads one message of the reader into the slot's buffer.
func (s *slot) read(ctx context.Context) (answer, error) {
	for s.d.midway { // the rest is no message, whatever it looks like
		m, err := s.d.ep.In(ctx, s.rx[:readSize])
		if err != nil {
			return answer{}, err
		}
		s.d.midway = m == readSize
	}
	n, want := 0, readSize
	for empty := 0; ; {
		m, err := s.d.ep.In(ctx, s.rx[n:want])
		if err != nil {
			s.d.midway = n > 0 || m > 0
			return answer{}, err
		}
		if m < 0 || m > want-n {
			return answer{}, brokenReader("transfer of %d bytes into %d", m, want-n)
		}
		if n += m; n == 0 { // the end of a message that filled its last packet
			if empty++; empty > maxEmpty {
				return answer{}, brokenReader("%d transfers without a byte", empty)
			}
			continue
		}
		if n < want {
			return parseAnswer(s.rx[:n])
		}
		length := messageLength(s.rx)
		if length <= n {
			return parseAnswer(s.rx[:n])
		}
		if length > maxAnswer {
			return answer{}, brokenReader("message that claims %d bytes", length)
		}
		want = (length + readSize - 1) / readSize * readSize
		if want > len(s.rx) {
			s.rx = append(s.rx[:n], make([]byte, want-n)...)
		}
	}
}

// abort has the reader forget what this slot was sent (CCID 1.1 §5.3.1), and
// reads up to its answer; what comes before that, well formed or not, is lost. A
// reader that does not take aborts is asked for the slot's status instead.
func (s *slot) abort(ctx context.Context) error {
	d := s.d
	var err error
	for _, kind := range []byte{cmdAbort, cmdSlotStatus} {
		try, cancel := context.WithTimeout(ctx, abortTime)
		err = s.resynchronise(try, kind)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(d.failed(ctx, err), ErrUnplugged) {
			break
		}
	}
	return err
}

// resynchronise sends a command and reads up to its answer.
func (s *slot) resynchronise(ctx context.Context, kind byte) error {
	d := s.d
	seq := d.next()
	if kind == cmdAbort {
		// Both halves carry one sequence number. A reader that does not take the
		// request may yet take the message.
		_, _ = d.ep.Control(ctx, requestOut, requestAbort, uint16(seq)<<8|uint16(s.number), uint16(d.desc.Interface), nil)
	}
	if err := s.send(ctx, kind, seq, [3]byte{}, nil); err != nil {
		return err
	}
	for range 4 * maxStale {
		a, _, err := s.next(ctx)
		switch {
		case errors.Is(err, ErrReader):
		case err != nil:
			return err
		case int(a.slot) == s.number && a.seq == seq:
			s.icc = a.icc
			d.note(s, a.icc != iccNone)
			s.pending = false
			return nil
		}
	}
	return brokenReader("no answer to an abort")
}

// failed says what a pipe's failure means, and remembers a reader that has gone.
func (d *Device) failed(ctx context.Context, err error) error {
	if gone := d.lost(); gone != nil {
		return gone
	}
	err = pipeError(err)
	switch {
	case err == nil:
	case errors.Is(err, ErrUnplugged):
		d.mu.Lock()
		if d.gone == nil {
			d.gone = err
			d.wake()
		}
		d.mu.Unlock()
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", apdu.ErrTimeout, ctx.Err())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled): // a shorter time of ours
		return fmt.Errorf("%w: %w", ErrReader, apdu.ErrTimeout)
	}
	return err
}

// lost is why the reader can be used no more, or nil.
func (d *Device) lost() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

// status asks for a slot's status: bmICCStatus.
func (s *slot) status(ctx context.Context) (icc byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	a, err := s.command(ctx, cmdSlotStatus, [3]byte{}, nil)
	if err != nil && errors.Is(err, apdu.ErrCardRemoved) && s.d.lost() == nil {
		return iccNone, nil // a reader that says so by failing
	}
	return a.icc, err
}

// powerOn gives the card power, or a warm reset where it has it: its answer to
// reset.
func (s *slot) powerOn(ctx context.Context, v Voltage) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, powerTime)
	defer cancel()
	a, err := s.command(ctx, cmdPowerOn, [3]byte{byte(v)}, nil)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), a.data...), nil
}

func (s *slot) powerOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	_, err := s.command(ctx, cmdPowerOff, [3]byte{}, nil)
	return err
}

// transfer is PC_to_RDR_XfrBlock. The answer's data is the slot's.
func (s *slot) transfer(ctx context.Context, data []byte, bwi byte, level uint16) (answer, error) {
	return s.command(ctx, cmdXfrBlock, [3]byte{bwi, byte(level), byte(level >> 8)}, data)
}

// getParameters gives bProtocolNum and the protocol data structure (CCID 1.1
// §6.2.3).
func (s *slot) getParameters(ctx context.Context) (t int, data []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	a, err := s.command(ctx, cmdGetParameters, [3]byte{}, nil)
	if err != nil {
		return 0, nil, err
	}
	return int(a.param), append([]byte(nil), a.data...), nil
}

func (s *slot) setParameters(ctx context.Context, t int, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	_, err := s.command(ctx, cmdSetParameters, [3]byte{byte(t)}, data)
	return err
}

// setRate sets clock, kHz, and data rate, bit/s (CCID 1.1 §6.1.14).
func (s *slot) setRate(ctx context.Context, kHz, rate uint32) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	data := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, kHz), rate)
	_, err := s.command(ctx, cmdSetRateAndFreq, [3]byte{}, data)
	return err
}

// dataRates are the rates that the reader lists, bit/s; none where it takes any
// up to its highest (CCID 1.1 §5.3.3).
func (d *Device) dataRates(ctx context.Context) []uint32 {
	d.mu.Lock()
	rates, read := d.rates, d.ratesRead
	d.mu.Unlock()
	if read || d.desc.NumDataRates == 0 {
		return rates
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	b := make([]byte, min(4*int(d.desc.NumDataRates), maxControlSize))
	n, err := d.ep.Control(ctx, requestIn, requestDataRates, 0, uint16(d.desc.Interface), b)
	if err != nil || n > len(b) { // a reader that has no list takes what it takes
		n = 0
	}
	for b = b[:max(n, 0)]; len(b) >= 4; b = b[4:] {
		rates = append(rates, binary.LittleEndian.Uint32(b))
	}
	d.mu.Lock()
	d.rates, d.ratesRead = rates, err == nil
	d.mu.Unlock()
	return rates
}

// pollInterval is how often slots are asked whose reader has no interrupt pipe.
const pollInterval = 250 * time.Millisecond
