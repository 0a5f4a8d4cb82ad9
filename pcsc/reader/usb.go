package reader

import (
	"fmt"
	"strings"
)

// USB says what a USB reader is and where it is plugged in.
type USB struct {
	Vendor  uint16 `json:"vendor"`  // idVendor
	Product uint16 `json:"product"` // idProduct
	Serial  string `json:"serial,omitempty"`
	Bus     int    `json:"bus"`
	Address int    `json:"address"` // the device's number on its bus, another after each plugging in
	// Path is the bus and the ports that lead to the device, as Linux writes
	// them: "1-2.3". "" where it is not known.
	Path      string `json:"path,omitempty"`
	Interface int    `json:"interface"` // bInterfaceNumber
}

// ID is the identity of one slot of the reader: by the USB serial number where it
// has one, else by the USB path, else by bus and address. shared says that
// another reader that is there has the same serial number; then it does not count.
//
//	usb:08e6:4433:serial=1234:0.0   (interface 0, slot 0)
//	usb:08e6:4433:path=1-2.3:0.1
func (u USB) ID(slot int, shared bool) string {
	where := fmt.Sprintf("address=%d-%d", u.Bus, u.Address)
	switch serial := printable(u.Serial); {
	case serial != "" && !shared:
		where = "serial=" + serial
	case u.Path != "":
		where = "path=" + u.Path
	}
	return fmt.Sprintf("usb:%04x:%04x:%s:%d.%d", u.Vendor, u.Product, where, u.Interface, slot)
}

// printable is a serial number as a device tells it, without what would confuse
// a terminal or an identity.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7F || r == ':' {
			return -1
		}
		return r
	}, s)
}
