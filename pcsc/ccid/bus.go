package ccid

import (
	"context"
	"fmt"
	"strings"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Plugged is a CCID reader that is plugged in: one interface of a USB device.
type Plugged struct {
	USB          reader.USB `json:"usb"`
	Manufacturer string     `json:"manufacturer,omitempty"`
	Product      string     `json:"product,omitempty"`
	Descriptor   Descriptor `json:"descriptor"`
	// Err says why the descriptor cannot be had, or that it is malformed.
	Err error `json:"-"`

	usb usbInterface
}

// Bus is where readers are plugged in.
type Bus interface {
	// List gives the readers that are there now, without disturbing them.
	List(ctx context.Context) ([]Plugged, error)
	// Open claims a reader and gives its pipes. Its error matches ErrNoPermission,
	// apdu.ErrCardBusy (a *BusyError), ErrUnplugged, ErrNotBuilt or ErrNoUSB where
	// it is that.
	Open(ctx context.Context, p Plugged) (Endpoints, error)
}

// newPlugged gives the readers among a USB device's interfaces: those of the
// smart-card class, and those of the vendor class of devices that are known to
// speak CCID.
func newPlugged(usb reader.USB, manufacturer, product string, descriptors []byte) []Plugged {
	interfaces, bad := findInterfaces(descriptors)
	var found []Plugged
	for _, i := range interfaces {
		if i.Class != usbClass && !speaksCCID(usb.Vendor, usb.Product) {
			continue
		}
		p := Plugged{USB: usb, Manufacturer: clean(manufacturer), Product: clean(product), Descriptor: i.Descriptor, usb: i, Err: bad}
		p.USB.Interface = i.Descriptor.Interface
		found = append(found, p)
	}
	return found
}

// maxName bounds a name that a device gives itself, bytes.
const maxName = 64

// clean is a device's name for itself without what would confuse a terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7F || r == '(' || r == ')' {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), maxName)])
}

// same reports whether p and o are one reader, plugged in once.
func (p Plugged) same(o Plugged) bool { return p.key() == o.key() }

// pluggedKey tells readers that are plugged in from each other.
type pluggedKey struct {
	bus, address, iface int
	vendor, product     uint16
}

func (p Plugged) key() pluggedKey {
	return pluggedKey{p.USB.Bus, p.USB.Address, p.USB.Interface, p.USB.Vendor, p.USB.Product}
}

// labels are a reader's name, without the slot, and whether its serial number is
// another reader's too, among all.
func (p Plugged) labels(all []Plugged) (name string, shared bool) {
	several := false
	for _, o := range all {
		switch {
		case o.same(p) || o.USB.Vendor != p.USB.Vendor || o.USB.Product != p.USB.Product:
		case o.USB.Bus == p.USB.Bus && o.USB.Address == p.USB.Address:
			several = true
		case o.USB.Serial == p.USB.Serial:
			shared = true
		}
	}
	where := clean(p.USB.Serial)
	if where == "" || shared {
		where = p.USB.Path
	}
	if where == "" {
		where = fmt.Sprintf("%d-%d", p.USB.Bus, p.USB.Address)
	}
	words := []string{fmt.Sprintf("USB %04x:%04x", p.USB.Vendor, p.USB.Product)}
	for _, w := range []string{p.Manufacturer, p.Product, "(" + where + ")"} {
		if w != "" {
			words = append(words, w)
		}
	}
	if several {
		words = append(words, fmt.Sprintf("interface %d", p.USB.Interface))
	}
	return strings.Join(words, " "), shared
}

// readers are the slots of p among all, as nobody has looked into them.
func (p Plugged) readers(all []Plugged) []reader.Reader {
	name, shared := p.labels(all)
	slots := make([]reader.Reader, p.Descriptor.Slots())
	for i := range slots {
		slots[i] = reader.Reader{Name: fmt.Sprintf("%s slot %d", name, i), ID: p.USB.ID(i, shared)}
	}
	return slots
}
