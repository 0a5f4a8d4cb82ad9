package ccid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// USB numbers (USB 2.0 §9.4, §9.6; CCID 1.1 §4.2, §5.1).
const (
	usbClass             = 0x0B // bInterfaceClass of a smart-card device
	usbVendorClass       = 0xFF
	descDevice           = 0x01
	descConfiguration    = 0x02
	descInterface        = 0x04
	descEndpoint         = 0x05
	descCCID             = 0x21
	ccidDescriptorLength = 0x36
)

// ErrDescriptor is matched by errors that say a USB descriptor does not parse.
var ErrDescriptor = errors.New("malformed USB descriptor")

// Features is dwFeatures (CCID 1.1 §5.1).
type Features uint32

// What a reader does by itself, and by what unit it exchanges.
const (
	AutoParameters  Features = 0x00000002 // configures itself from the answer to reset
	AutoActivation  Features = 0x00000004
	AutoVoltage     Features = 0x00000008
	AutoClock       Features = 0x00000010
	AutoBaud        Features = 0x00000020
	AutoNegotiation Features = 0x00000040 // negotiates by itself
	AutoPPS         Features = 0x00000080 // does PPS by the parameters it is given
	ClockStop       Features = 0x00000100
	AnyNAD          Features = 0x00000200
	AutoIFSD        Features = 0x00000400
	LevelTPDU       Features = 0x00010000
	LevelShortAPDU  Features = 0x00020000
	LevelExtAPDU    Features = 0x00040000
	USBWakeUp       Features = 0x00100000

	levels = LevelTPDU | LevelShortAPDU | LevelExtAPDU
)

// Level is the unit in which a reader exchanges with the card.
type Level int

// The levels, CCID 1.1 §3.2.
const (
	Character Level = iota
	TPDU
	ShortAPDU
	ExtendedAPDU
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
		return "short and extended APDU"
	}
	return "unknown level"
}

// Level is the level of exchange; the highest where a reader claims several.
func (f Features) Level() Level {
	switch {
	case f&LevelExtAPDU != 0:
		return ExtendedAPDU
	case f&LevelShortAPDU != 0:
		return ShortAPDU
	case f&LevelTPDU != 0:
		return TPDU
	}
	return Character
}

// Descriptor is a reader's smart-card device class descriptor (CCID 1.1 §5.1) as
// it is. Problems says what is wrong with it; its methods give values that can be
// worked with whatever it says.
type Descriptor struct {
	Interface int `json:"interface"` // bInterfaceNumber of the interface that it describes

	BCD              uint16   `json:"bcd_ccid"`          // bcdCCID: 0110 is 1.10
	MaxSlotIndex     uint8    `json:"max_slot_index"`    // bMaxSlotIndex
	Voltages         uint8    `json:"voltages"`          // bVoltageSupport: 1 is 5 V, 2 is 3 V, 4 is 1.8 V
	ProtocolSet      uint32   `json:"protocols"`         // dwProtocols: bit t is T=t
	DefaultClock     uint32   `json:"default_clock_khz"` // dwDefaultClock, kHz
	MaximumClock     uint32   `json:"maximum_clock_khz"` // dwMaximumClock, kHz
	NumClocks        uint8    `json:"num_clocks"`        // bNumClockSupported
	DataRate         uint32   `json:"data_rate"`         // dwDataRate, bit/s
	MaxDataRate      uint32   `json:"max_data_rate"`     // dwMaxDataRate, bit/s
	NumDataRates     uint8    `json:"num_data_rates"`    // bNumDataRatesSupported
	MaxIFSD          uint32   `json:"max_ifsd"`          // dwMaxIFSD, bytes
	SynchProtocols   uint32   `json:"synch_protocols"`   // dwSynchProtocols
	Mechanical       uint32   `json:"mechanical"`        // dwMechanical
	Features         Features `json:"features"`          // dwFeatures
	MaxMessageLength uint32   `json:"max_message"`       // dwMaxCCIDMessageLength, bytes
	ClassGetResponse uint8    `json:"class_get_response"`
	ClassEnvelope    uint8    `json:"class_envelope"`
	LCDLayout        uint16   `json:"lcd_layout"`
	PINSupport       uint8    `json:"pin_support"`
	MaxBusySlots     uint8    `json:"max_busy_slots"` // bMaxCCIDBusySlots
}

// ParseDescriptor parses a class descriptor, which may have more behind it. Its
// error matches ErrDescriptor.
func ParseDescriptor(b []byte) (Descriptor, error) {
	if len(b) < ccidDescriptorLength || int(b[0]) < ccidDescriptorLength || int(b[0]) > len(b) {
		return Descriptor{}, fmt.Errorf("%w: class descriptor of %d bytes, it has %d", ErrDescriptor, len(b), ccidDescriptorLength)
	}
	if b[1] != descCCID && b[1] != usbVendorClass { // some vendor-class readers have FF
		return Descriptor{}, fmt.Errorf("%w: class descriptor of type %02X", ErrDescriptor, b[1])
	}
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	return Descriptor{
		BCD:              u16(b[2:]),
		MaxSlotIndex:     b[4],
		Voltages:         b[5],
		ProtocolSet:      u32(b[6:]),
		DefaultClock:     u32(b[10:]),
		MaximumClock:     u32(b[14:]),
		NumClocks:        b[18],
		DataRate:         u32(b[19:]),
		MaxDataRate:      u32(b[23:]),
		NumDataRates:     b[27],
		MaxIFSD:          u32(b[28:]),
		SynchProtocols:   u32(b[32:]),
		Mechanical:       u32(b[36:]),
		Features:         Features(u32(b[40:])),
		MaxMessageLength: u32(b[44:]),
		ClassGetResponse: b[48],
		ClassEnvelope:    b[49],
		LCDLayout:        u16(b[50:]),
		PINSupport:       b[52],
		MaxBusySlots:     b[53],
	}, nil
}

// Bounds of what a descriptor is believed.
const (
	maxSlots       = 16
	minMessage     = 64    // a full-speed bulk packet: the least that CCID 1.1 allows
	maxMessage     = 65554 // header, and the longest command APDU
	maxIFSD        = 254   // ISO/IEC 7816-3 §11.4.2
	defaultIFSD    = 32
	fallbackClock  = 4000  // kHz, where none is given
	fallbackRate   = 10753 // bit/s, of F=372 D=1 at that clock
	maxClock       = 100_000
	maxDataRate    = 50_000_000
	maxControlSize = 4 * 255 // a list of clocks or rates
)

// Slots is the number of slots, 1 to 16.
func (d Descriptor) Slots() int { return min(int(d.MaxSlotIndex)+1, maxSlots) }

// BusySlots is how many slots may be at work at once.
func (d Descriptor) BusySlots() int { return max(1, min(int(d.MaxBusySlots), d.Slots())) }

// MaxMessage is the longest message to send, bytes, its header included.
func (d Descriptor) MaxMessage() int {
	return int(max(minMessage, min(d.MaxMessageLength, maxMessage)))
}

// IFSD is the longest information field of T=1 that the reader takes, bytes.
func (d Descriptor) IFSD() int {
	if d.MaxIFSD == 0 || d.MaxIFSD > maxIFSD {
		return maxIFSD
	}
	return int(d.MaxIFSD)
}

// Clock is the clock that the reader starts with, kHz.
func (d Descriptor) Clock() int {
	if d.DefaultClock == 0 || d.DefaultClock > maxClock {
		return fallbackClock
	}
	return int(d.DefaultClock)
}

// Rate is the highest data rate, bit/s.
func (d Descriptor) Rate() int {
	switch rate := max(d.MaxDataRate, d.DataRate); {
	case rate == 0:
		return fallbackRate
	case rate > maxDataRate:
		return maxDataRate
	default:
		return int(rate)
	}
}

// Speaks reports whether the reader speaks T=t; one that claims neither T=0 nor
// T=1 is taken to speak both.
func (d Descriptor) Speaks(t int) bool {
	set := d.ProtocolSet & 3
	return set == 0 || set>>t&1 != 0
}

// Problem is something in a descriptor that cannot be, and how it is taken.
type Problem struct {
	Field string `json:"field"`
	Value uint32 `json:"value"`
	Taken string `json:"taken"`
}

func (p Problem) String() string { return fmt.Sprintf("%s is %#x: %s", p.Field, p.Value, p.Taken) }

// Problems lists what in the descriptor cannot be.
func (d Descriptor) Problems() []Problem {
	var found []Problem
	check := func(wrong bool, field string, value uint32, taken string, args ...any) {
		if wrong {
			found = append(found, Problem{Field: field, Value: value, Taken: fmt.Sprintf(taken, args...)})
		}
	}
	check(d.MaxSlotIndex >= maxSlots, "bMaxSlotIndex", uint32(d.MaxSlotIndex), "%d slots are used", d.Slots())
	check(d.Voltages&7 == 0, "bVoltageSupport", uint32(d.Voltages), "the reader chooses the voltage")
	check(d.ProtocolSet&3 == 0, "dwProtocols", d.ProtocolSet, "taken as T=0 and T=1")
	check(d.Clock() != int(d.DefaultClock), "dwDefaultClock", d.DefaultClock, "taken as %d kHz", d.Clock())
	check(d.MaximumClock < d.DefaultClock, "dwMaximumClock", d.MaximumClock, "less than dwDefaultClock")
	check(d.Rate() != int(d.MaxDataRate), "dwMaxDataRate", d.MaxDataRate, "taken as %d bit/s", d.Rate())
	check(d.IFSD() != int(d.MaxIFSD), "dwMaxIFSD", d.MaxIFSD, "taken as %d bytes", d.IFSD())
	level := d.Features & levels
	check(level&(level-1) != 0, "dwFeatures", uint32(d.Features), "several exchange levels: taken as %s", d.Features.Level())
	check(d.MaxMessage() != int(d.MaxMessageLength), "dwMaxCCIDMessageLength", d.MaxMessageLength, "taken as %d bytes", d.MaxMessage())
	check(d.MaxMessage() < 271 && d.Features.Level() >= ShortAPDU, "dwMaxCCIDMessageLength", d.MaxMessageLength,
		"too short for a command of 261 bytes")
	check(d.MaxBusySlots == 0 || int(d.MaxBusySlots) > int(d.MaxSlotIndex)+1, "bMaxCCIDBusySlots", uint32(d.MaxBusySlots),
		"taken as %d", d.BusySlots())
	return found
}

// Lines say in words what the descriptor says.
func (d Descriptor) Lines() []string {
	var protocols, volts []string
	for t := range 2 {
		if d.Speaks(t) {
			protocols = append(protocols, fmt.Sprintf("T=%d", t))
		}
	}
	for i, v := range []string{"5 V", "3 V", "1.8 V"} {
		if d.Voltages>>i&1 != 0 {
			volts = append(volts, v)
		}
	}
	lines := []string{
		fmt.Sprintf("CCID %x.%02x, %d slot(s), %d busy at once", d.BCD>>8, d.BCD&0xFF, d.Slots(), d.BusySlots()),
		fmt.Sprintf("exchange level: %s, protocols: %s", d.Features.Level(), strings.Join(protocols, ", ")),
		fmt.Sprintf("voltages: %s", strings.Join(volts, ", ")),
		fmt.Sprintf("clock: %d kHz (up to %d), data rate: up to %d bit/s", d.Clock(), d.MaximumClock, d.Rate()),
		fmt.Sprintf("longest message: %d bytes, IFSD: %d bytes", d.MaxMessage(), d.IFSD()),
		"features: " + d.Features.String(),
	}
	for _, p := range d.Problems() {
		lines = append(lines, "problem: "+p.String())
	}
	return lines
}

var featureNames = []struct {
	bit  Features
	name string
}{
	{AutoParameters, "automatic parameters"}, {AutoActivation, "automatic activation"},
	{AutoVoltage, "automatic voltage"}, {AutoClock, "automatic clock"}, {AutoBaud, "automatic baud rate"},
	{AutoNegotiation, "automatic negotiation"}, {AutoPPS, "automatic PPS"}, {ClockStop, "clock stop"},
	{AnyNAD, "any NAD"}, {AutoIFSD, "automatic IFSD"}, {USBWakeUp, "USB wake-up"},
}

func (f Features) String() string {
	var names []string
	for _, n := range featureNames {
		if f&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return fmt.Sprintf("%08X (%s)", uint32(f), strings.Join(names, ", "))
}
