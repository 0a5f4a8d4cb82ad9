package ccidsim

import (
	"encoding/binary"
	"unicode/utf16"
)

// Descriptor types (USB 2.0 table 9-5, CCID §5.1).
const (
	descDevice        = 1
	descConfiguration = 2
	descString        = 3
	descInterface     = 4
	descEndpoint      = 5
	descQualifier     = 6
	descCCID          = 0x21
)

// Strings by their index.
const (
	stringManufacturer = 1
	stringProduct      = 2
	stringSerial       = 3
)

const configurationValue = 1

// DeviceDescriptor is the device descriptor (USB 2.0 §9.6.1).
func (d *Device) DeviceDescriptor() []byte {
	var serial byte
	if d.cfg.Serial != "" {
		serial = stringSerial
	}
	b := []byte{18, descDevice, 0x00, 0x02, 0, 0, 0, 64}
	b = binary.LittleEndian.AppendUint16(b, d.cfg.Vendor)
	b = binary.LittleEndian.AppendUint16(b, d.cfg.Product)
	return append(b, 0x00, 0x01, stringManufacturer, stringProduct, serial, 1)
}

// qualifier is the device qualifier: what the device would be at the other
// speed, which is the same.
func (d *Device) qualifier() []byte {
	return []byte{10, descQualifier, 0x00, 0x02, 0, 0, 0, 64, 1, 0}
}

// ConfigDescriptor is the configuration descriptor with all that follows it:
// interface, class and endpoints (USB 2.0 §9.6.3, CCID §5.1).
func (d *Device) ConfigDescriptor() []byte {
	endpoints := []byte{endpointOut, endpointIn}
	if !d.cfg.NoInterrupt {
		endpoints = append(endpoints, endpointInterrupt)
	}
	b := []byte{9, descConfiguration, 0, 0, 1, configurationValue, 0, 0x80, 50}
	b = append(b, 9, descInterface, 0, 0, byte(len(endpoints)), 0x0B, 0, 0, 0)
	b = append(b, d.ClassDescriptor()...)
	for _, address := range endpoints {
		kind, size, interval := byte(2), d.maxPacket(), byte(0)
		if address == endpointInterrupt {
			kind, size, interval = 3, 16, 4 // 2^(4-1) microframes: 1 ms
		}
		b = append(b, 7, descEndpoint, address, kind, byte(size), byte(size>>8), interval)
	}
	binary.LittleEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// ClassDescriptor is the CCID class descriptor (CCID §5.1).
func (d *Device) ClassDescriptor() []byte {
	c := &d.cfg
	u32 := binary.LittleEndian.AppendUint32
	b := []byte{54, descCCID, 0x10, 0x01, byte(c.Slots - 1), c.Voltages}
	b = u32(b, 3)        // T=0 and T=1
	b = u32(b, clockKHz) // default
	b = u32(b, clockKHz) // maximum
	b = append(b, 0)     // no others
	b = u32(b, uint32(baud(defaultFD)))
	b = u32(b, uint32(c.MaxBaud))
	b = append(b, byte(len(c.rates())))
	b = u32(b, uint32(c.MaxIFSD))
	b = u32(b, 0) // no synchronous protocols
	b = u32(b, 0) // no mechanics
	b = u32(b, uint32(c.Level)|uint32(c.Automatic))
	b = u32(b, uint32(c.MaxMessage))
	b = append(b, 0xFF, 0xFF) // GET RESPONSE and ENVELOPE with the command's class
	b = append(b, 0, 0)       // no display
	b = append(b, 0, byte(c.BusySlots))
	if c.Descriptor != nil {
		b = c.Descriptor(b)
	}
	return b
}

// text is the string descriptor of that index, nil for none.
func (d *Device) text(index byte) []byte {
	var s string
	switch index {
	case 0:
		return []byte{4, descString, 0x09, 0x04} // English
	case stringManufacturer:
		s = "cardbridge"
	case stringProduct:
		s = d.cfg.Name
	case stringSerial:
		s = d.cfg.Serial
	}
	if s == "" {
		return nil
	}
	units := utf16.Encode([]rune(s))
	units = units[:min(len(units), 126)]
	b := []byte{byte(2 + 2*len(units)), descString}
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// Serial is the device's serial number, "" for none.
func (d *Device) Serial() string { return d.cfg.Serial }

// HighSpeed tells high speed from full speed.
func (d *Device) HighSpeed() bool { return !d.cfg.FullSpeed }
