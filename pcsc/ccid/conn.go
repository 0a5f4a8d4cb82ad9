package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/atr"
)

// The shortest and the longest command APDU, bytes (ISO/IEC 7816-4 §5.1).
const (
	minCommand = 4
	maxCommand = 4 + 3 + apdu.MaxExtendedData + 2
)

// Conn is a card that is connected. It serves one goroutine; another may close
// it.
//
// Where a call does not come to its end before its context, it fails with an
// error that matches apdu.ErrTimeout and the context's, and the reader is told to
// forget the command. From then on, and once the card has left or lost its power,
// or an exchange by T=0 has failed that the reader does not see to by itself,
// nothing but Reset, ColdReset and Close can be done.
type Conn struct {
	device  *Device
	slot    *slot
	options Options
	onClose func()

	// The following are those of who has slot.use.
	protocol Protocol
	voltage  Voltage // at which the card answered last
	speed    atr.Speed
	answer   atr.ATR
	t1       *t1
	buf      []byte
	changes  int   // of the slot, when the card was last reset
	dead     error // why it can carry no command

	mu     sync.Mutex
	closed bool
}

var (
	_ apdu.Conn      = (*Conn)(nil)
	_ apdu.ShortOnly = (*Conn)(nil)
)

// Connect powers and connects the card in a slot. A slot has one Conn at a time;
// the error for a second matches apdu.ErrCardBusy.
func (d *Device) Connect(ctx context.Context, slot int, o Options) (*Conn, error) {
	return d.connect(ctx, slot, o, nil)
}

// connect is Connect. onClose is called once, when the Conn is closed or where
// there is none.
func (d *Device) connect(ctx context.Context, slot int, o Options, onClose func()) (*Conn, error) {
	if onClose == nil {
		onClose = func() {}
	}
	if o.MaxWait <= 0 {
		o.MaxWait = DefaultMaxWait
	}
	s, err := d.slot(slot)
	if err != nil {
		onClose()
		return nil, &Error{Op: "connect", Reader: d.name, Err: err}
	}
	c := &Conn{device: d, slot: s, options: o, onClose: onClose}
	d.mu.Lock()
	taken := s.connected
	s.connected = true
	d.mu.Unlock()
	if taken {
		onClose()
		return nil, c.failure("connect", apdu.ErrCardBusy)
	}
	err = c.do(ctx, "connect", func(ctx context.Context) error {
		icc, err := s.status(ctx)
		switch {
		case err != nil:
			return err
		case icc == iccNone:
			return apdu.ErrNoCard
		case icc == iccActive: // whatever it is in the middle of
			if err := s.powerOff(ctx); err != nil {
				return err
			}
		}
		return c.begin(ctx)
	})
	if err != nil {
		c.free()
		return nil, err
	}
	return c, nil
}

// begin resets the card and agrees with it.
func (c *Conn) begin(ctx context.Context) error {
	c.changes = c.slot.changes()
	a, err := c.answerToReset(ctx)
	if err == nil {
		a, err = c.negotiate(ctx, a)
	}
	if errors.Is(err, apdu.ErrCardRemoved) && c.device.lost() == nil {
		err = fmt.Errorf("%w: it left while it was connected", apdu.ErrNoCard)
	}
	if err != nil {
		c.dead = fmt.Errorf("the connection ended before: %w", err)
		if errors.Is(err, apdu.ErrNoCard) {
			c.dead = fmt.Errorf("the connection ended before: %w", apdu.ErrCardRemoved)
		}
		return err
	}
	c.answer, c.dead = a, nil
	return nil
}

// answerToReset resets the card: warm where it has power, else at a voltage that
// it takes.
func (c *Conn) answerToReset(ctx context.Context) (atr.ATR, error) {
	var raw []byte
	err := error(CodeClass)
	voltages, used := c.voltages(), VoltageAuto
	for i, v := range voltages {
		used = v
		if raw, err = c.slot.powerOn(ctx, v); err == nil {
			if a, bad := atr.Parse(raw); bad == nil && i < len(voltages)-1 && a.SaysClasses() && !takes(a.Classes(), v) {
				err = CodeClass // it answers at a voltage that it does not take (ISO/IEC 7816-3 §6.2.4)
				if off := c.slot.powerOff(ctx); off != nil {
					return atr.ATR{}, off
				}
				continue
			}
			break
		}
		if !isCode(err) {
			return atr.ATR{}, err
		}
		if off := c.slot.powerOff(ctx); off != nil {
			return atr.ATR{}, off
		}
	}
	if err != nil {
		return atr.ATR{}, fmt.Errorf("answer to reset: %w", err)
	}
	c.voltage = used
	a, err := atr.Parse(raw)
	if err != nil && !errors.Is(err, atr.ErrChecksum) && !errors.Is(err, atr.ErrTrailing) { // the reader took it
		return atr.ATR{}, fmt.Errorf("answer to reset: %w", err)
	}
	return a, nil
}

// voltages are those to try, in this order.
func (c *Conn) voltages() []Voltage {
	desc := &c.device.desc
	if c.options.Voltage != VoltageAuto {
		return []Voltage{c.options.Voltage}
	}
	if c.voltage != VoltageAuto { // a warm reset is at the voltage that the card has
		return []Voltage{c.voltage}
	}
	if desc.Features&AutoVoltage != 0 || desc.Voltages&7 == 0 {
		return []Voltage{VoltageAuto}
	}
	var try []Voltage
	for _, v := range []Voltage{Voltage18, Voltage3, Voltage5} {
		if desc.Voltages>>(v-1)&1 != 0 {
			try = append(try, v)
		}
	}
	return try
}

// takes reports whether a card of those classes takes a voltage.
func takes(classes atr.Classes, v Voltage) bool {
	class := map[Voltage]atr.Classes{Voltage5: atr.ClassA, Voltage3: atr.ClassB, Voltage18: atr.ClassC}[v]
	return class == 0 || classes&class != 0
}

// Protocol is the one in use, T0 or T1.
func (c *Conn) Protocol() Protocol { return c.protocol }

// Speed is the speed that was negotiated.
func (c *Conn) Speed() atr.Speed { return c.speed }

// ShortOnly reports whether the connection carries short commands alone: T=0, and
// readers of the short-APDU level, have no others.
func (c *Conn) ShortOnly() bool {
	return c.protocol == T0 || c.device.desc.Features.Level() == ShortAPDU
}

// ATR is the card's answer to reset.
func (c *Conn) ATR() []byte { return bytes.Clone(c.answer.Raw) }

// Transmit carries one command APDU to the card. In T=0 its answer may be 61xx
// or 6Cxx. An answer of fewer than two bytes is an error that matches
// apdu.ErrShortAnswer.
func (c *Conn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	if len(capdu) < minCommand || len(capdu) > maxCommand {
		return nil, c.failure("transmit", fmt.Errorf("%w: command of %d bytes", apdu.ErrMalformed, len(capdu)))
	}
	var rapdu []byte
	err := c.do(ctx, "transmit", func(ctx context.Context) error {
		if c.dead == nil && c.device.desc.Features&AutoActivation != 0 && c.slot.changes() != c.changes {
			// The reader gave the card that is there now its power: it would take
			// the command, at once and of whoever.
			c.dead = fmt.Errorf("the connection ended before: %w", apdu.ErrCardRemoved)
		}
		if c.dead != nil {
			return c.dead
		}
		var err error
		rapdu, err = c.exchange(ctx, capdu)
		if err == nil && len(rapdu) < 2 {
			err = fmt.Errorf("%w: %d bytes", apdu.ErrShortAnswer, len(rapdu))
		}
		return c.told(err)
	})
	if err != nil {
		return nil, err
	}
	return rapdu, nil
}

// told makes of a failed exchange what the card's going and coming say, and ends
// the connection where it is of no more use.
func (c *Conn) told(err error) error {
	if err == nil || slices.ContainsFunc(unsent, func(e error) bool { return errors.Is(err, e) }) {
		return err
	}
	if c.slot.changes() != c.changes && !errors.Is(err, apdu.ErrCardRemoved) {
		err = fmt.Errorf("%w: %w", apdu.ErrCardRemoved, err)
	} else if isCode(err) && c.slot.icc == iccInactive {
		err = fmt.Errorf("%w: it has no power: %w", apdu.ErrCardReset, err)
	}
	// T=1 resynchronises. A T=0 card may wait for what is left of the command, and
	// would take the next one for that.
	ended := c.protocol == T0 && c.device.desc.Features.Level() <= TPDU
	for _, end := range []error{apdu.ErrCardRemoved, apdu.ErrCardReset, apdu.ErrTimeout} {
		ended = ended || errors.Is(err, end)
	}
	if ended {
		c.dead = fmt.Errorf("the connection ended before: %w", err)
	}
	return err
}

// unsent are the errors that say that the card was sent nothing.
var unsent = []error{ErrExtended, ErrTooLong, apdu.ErrMalformed}

// Reset resets the card (warm where it has power) and makes the Conn usable again,
// by taking the card's power where that does not do.
func (c *Conn) Reset(ctx context.Context) error {
	return c.do(ctx, "reset", func(ctx context.Context) error {
		err := c.begin(ctx)
		if err == nil || errors.Is(err, apdu.ErrNoCard) || c.device.lost() != nil || ctx.Err() != nil {
			return err
		}
		return c.cold(ctx)
	})
}

// ColdReset takes the card's power away and gives it back.
func (c *Conn) ColdReset(ctx context.Context) error {
	return c.do(ctx, "cold reset", c.cold)
}

func (c *Conn) cold(ctx context.Context) error {
	c.voltage = VoltageAuto // it may be another card
	if err := c.slot.powerOff(ctx); err != nil && !isCode(err) {
		if errors.Is(err, apdu.ErrCardRemoved) && c.device.lost() == nil {
			return apdu.ErrNoCard
		}
		return err
	}
	return c.begin(ctx)
}

// Escape sends what the reader's maker has defined and gives the reader's answer.
// It fails with ErrEscape unless Options.AllowEscape is set.
func (c *Conn) Escape(ctx context.Context, data []byte) ([]byte, error) {
	if !c.options.AllowEscape {
		return nil, c.failure("escape", ErrEscape)
	}
	if headerLength+len(data) > c.device.desc.MaxMessage() {
		return nil, c.failure("escape", ErrTooLong)
	}
	var out []byte
	err := c.do(ctx, "escape", func(ctx context.Context) error {
		a, err := c.slot.command(ctx, cmdEscape, [3]byte{}, data)
		out = bytes.Clone(a.data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Abort has the reader forget what is left of a command that it was sent. Calls
// whose context ends do so by themselves.
func (c *Conn) Abort(ctx context.Context) error {
	return c.do(ctx, "abort", func(ctx context.Context) error {
		c.slot.waiting.Store(true)
		defer c.slot.waiting.Store(false)
		return c.slot.abort(ctx)
	})
}

// Close ends the connection and takes the card's power, unless
// Options.LeavePowered is set. It does nothing the second time.
func (c *Conn) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	defer c.free()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if err := c.slot.acquire(ctx); err != nil {
		return c.failure("close", err)
	}
	defer c.slot.release()
	dead := c.dead
	c.dead = fs.ErrClosed
	if c.options.LeavePowered {
		return nil
	}
	if err := c.slot.powerOff(ctx); err != nil && !isCode(err) && dead == nil && !errors.Is(err, apdu.ErrCardRemoved) {
		return c.failure("close", err)
	}
	return nil
}

// free lets another Conn have the slot.
func (c *Conn) free() {
	c.device.mu.Lock()
	c.slot.connected = false
	c.device.mu.Unlock()
	c.onClose()
}

// do makes one call with the slot, bounded by Options.MaxWait.
func (c *Conn) do(ctx context.Context, op string, call func(context.Context) error) error {
	if err := ctx.Err(); err != nil { // nothing has been done
		return c.failure(op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.MaxWait)
	defer cancel()
	if err := c.slot.acquire(ctx); err != nil {
		return c.failure(op, err)
	}
	defer c.slot.release()
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return c.failure(op, fs.ErrClosed)
	}
	if err := call(ctx); err != nil {
		return c.failure(op, err)
	}
	return nil
}

func (c *Conn) failure(op string, err error) error {
	return &Error{Op: op, Reader: c.device.slotName(c.slot.number), Err: err}
}

// slotName is the name of a slot.
func (d *Device) slotName(slot int) string { return fmt.Sprintf("%s slot %d", d.name, slot) }
