package ccidsim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// Errors of the pipes. They match the errno that Linux has for the same.
var (
	// ErrUnplugged says that the device is not there.
	ErrUnplugged = fmt.Errorf("ccidsim: unplugged: %w: %w", apdu.ErrNoReader, syscall.ENODEV)
	// ErrStall says that the device refused a control request, or has no such
	// endpoint.
	ErrStall = fmt.Errorf("ccidsim: stall: %w: %w", apdu.ErrTransport, syscall.EPIPE)
	// ErrClosed says that the host closed its pipes.
	ErrClosed = errors.New("ccidsim: pipes are closed")
)

// Level is the level of exchange that a reader works at (CCID §3.2 and
// dwFeatures).
type Level uint32

// The levels, as dwFeatures has them.
const (
	Character    Level = 0
	TPDU         Level = 0x00010000
	ShortAPDU    Level = 0x00020000
	ExtendedAPDU Level = 0x00040000
)

func (l Level) String() string {
	switch l {
	case Character:
		return "character"
	case TPDU:
		return "TPDU"
	case ShortAPDU:
		return "short APDU"
	case ExtendedAPDU:
		return "extended APDU"
	}
	return fmt.Sprintf("level %08X", uint32(l))
}

// Automatic is what a reader does by itself (dwFeatures).
type Automatic uint32

// Automatic features.
const (
	AutoConfig     Automatic = 0x02  // sets its parameters by the ATR
	AutoVoltage    Automatic = 0x08  // selects the voltage
	AutoClock      Automatic = 0x10  // sets the clock by the parameters
	AutoBaud       Automatic = 0x20  // sets the baud rate by the parameters
	AutoParameters Automatic = 0x40  // negotiates parameters, by PPS, at activation
	AutoPPS        Automatic = 0x80  // does a PPS when the host sets parameters
	ClockStop      Automatic = 0x100 // can stop the card's clock
	AutoIFSD       Automatic = 0x400 // announces its IFSD to a T=1 card
)

// Config is what a Device is like. Its zero value is a reader with one slot, at
// the character level, that does nothing by itself.
type Config struct {
	Level     Level
	Automatic Automatic
	Slots     int // 0: one
	BusySlots int // bMaxCCIDBusySlots; 0: one

	Vendor, Product uint16 // 0, 0: 08E6:4433
	Serial          string // iSerialNumber; "": none
	Name            string // iProduct; "": one that tells the level
	FullSpeed       bool   // 64 byte packets in place of 512
	NoInterrupt     bool   // no interrupt endpoint

	MaxMessage int  // dwMaxCCIDMessageLength; 0: 271, at the extended level 65554
	MaxIFSD    int  // dwMaxIFSD; 0: 254
	Voltages   byte // bVoltageSupport; 0: all of Volt5, Volt3 and Volt1_8
	MaxBaud    int  // dwMaxDataRate, bits per second; 0: 344105

	// Patience is how long the reader waits for a card that is mute before it
	// says so; 0: 500 ms; negative: it waits for good.
	Patience time.Duration
	// Extension is how often the reader asks for more time while a card works;
	// 0: 500 ms.
	Extension time.Duration
	// CardExtension is how often a card that works asks for more time itself, by
	// S(WTX request) or a NULL byte; 0: 400 ms.
	CardExtension time.Duration
	// SingleBytes has T=0 cards pass the data byte by byte (procedure byte INS
	// complemented).
	SingleBytes bool
	// PowerOn is how long a card takes to answer to reset.
	PowerOn time.Duration

	// HasData tells whether data of the host's follows a T=0 header, as a card
	// must know by the instruction; nil: by the instructions of ISO/IEC 7816-4.
	// It matters at the character level alone.
	HasData func(header []byte) bool
	// Escape answers PC_to_RDR_Escape; nil: not supported.
	Escape func(in []byte) []byte
	// Descriptor may change the class descriptor that the reader shows. What it
	// does is not changed by that.
	Descriptor func(class []byte) []byte
	// Hooks are the hooks to begin with.
	Hooks Hooks
}

// Voltages of bVoltageSupport.
const (
	Volt5   = 0x01
	Volt3   = 0x02
	Volt1_8 = 0x04
)

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	wait := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Slots, 1)
	def(&c.BusySlots, 1)
	def(&c.MaxIFSD, 254)
	def(&c.MaxBaud, 344105)
	if c.Level == ExtendedAPDU {
		def(&c.MaxMessage, headerSize+65544)
	}
	def(&c.MaxMessage, headerSize+261)
	if c.Vendor == 0 && c.Product == 0 {
		c.Vendor, c.Product = 0x08E6, 0x4433
	}
	if c.Name == "" {
		c.Name = "CCID model, " + c.Level.String()
	}
	if c.Voltages == 0 {
		c.Voltages = Volt5 | Volt3 | Volt1_8
	}
	wait(&c.Patience, 500*time.Millisecond)
	wait(&c.Extension, 500*time.Millisecond)
	wait(&c.CardExtension, 400*time.Millisecond)
	return c
}

// Device is one CCID reader. It is safe for concurrent use.
type Device struct {
	cfg Config

	mu    sync.Mutex
	slots []*slot
	hooks Hooks
	gone  chan struct{} // closed while unplugged
	wake  chan struct{} // closed and made anew when something for the host is there

	out       []byte   // the bulk-OUT message that is being assembled
	in        [][]byte // bulk-IN transfers that wait
	zlp       bool     // the transfer that was read last ends with an empty packet
	interrupt [][]byte // interrupt messages that Inject brought
	config    byte     // bConfigurationValue
}

// New makes a device that is plugged in and has no cards.
func New(cfg Config) *Device {
	d := &Device{cfg: cfg.withDefaults(), hooks: cfg.Hooks, gone: make(chan struct{}), wake: make(chan struct{})}
	for i := range d.cfg.Slots {
		d.slots = append(d.slots, &slot{device: d, number: i})
	}
	return d
}

// Insert puts a card into a slot, in place of the one that is there.
func (d *Device) Insert(slot int, card Card) {
	d.Remove(slot)
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slots[slot]
	s.insert(card)
}

// Reinsert puts back the card that was in the slot last; it does nothing where
// one is in it, or none ever was.
func (d *Device) Reinsert(slot int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.slots[slot]; !s.present && s.card != nil {
		s.insert(s.card)
	}
}

// Remove takes the card out of a slot. A command under way ends without an
// answer of the card's; Remove waits until the card has stopped.
func (d *Device) Remove(slot int) {
	d.mu.Lock()
	s := d.slots[slot]
	s.remove()
	d.mu.Unlock()
	s.powerDown()
}

// Unplug takes the device away from its host: every pipe fails with
// ErrUnplugged, and the cards lose their power.
func (d *Device) Unplug() {
	d.mu.Lock()
	if d.unplugged() {
		d.mu.Unlock()
		return
	}
	close(d.gone)
	for _, s := range d.slots {
		s.reset()
	}
	d.out, d.in, d.zlp, d.interrupt, d.config = nil, nil, false, nil, 0
	d.mu.Unlock()
	for _, s := range d.slots {
		s.powerDown()
	}
}

// Plug gives the device back to its host, as new.
func (d *Device) Plug() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.unplugged() {
		return
	}
	d.gone = make(chan struct{})
	for _, s := range d.slots {
		s.changed = s.present
	}
}

// Unplugged is closed when the device is unplugged. Each Plug makes a new one.
func (d *Device) Unplugged() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

func (d *Device) unplugged() bool {
	select {
	case <-d.gone:
		return true
	default:
		return false
	}
}

// notify wakes the host's reads. The caller holds mu.
func (d *Device) notify() {
	close(d.wake)
	d.wake = make(chan struct{})
}

// await calls try, with mu held, until it says that it is done or ctx or the
// device ends.
func (d *Device) await(ctx context.Context, try func() bool) error {
	for {
		d.mu.Lock()
		if d.unplugged() {
			d.mu.Unlock()
			return ErrUnplugged
		}
		if err := ctx.Err(); err != nil {
			d.mu.Unlock()
			return err
		}
		done, wake, gone := try(), d.wake, d.gone
		d.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-wake:
		case <-gone:
		case <-ctx.Done():
		}
	}
}
