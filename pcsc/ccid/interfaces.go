package ccid

import "fmt"

// usbInterface is an interface of a USB device that has a class descriptor, and
// its endpoints' addresses (0: there is none).
type usbInterface struct {
	Configuration        int // bConfigurationValue
	Setting              int // bAlternateSetting
	Class                uint8
	Descriptor           Descriptor
	BulkOut, BulkIn, Int uint8
}

// complete reports whether the interface has what a reader needs.
func (i usbInterface) complete() bool { return i.BulkOut != 0 && i.BulkIn != 0 }

// maxInterfaces bounds what is read out of one device's descriptors.
const maxInterfaces = 64

// findInterfaces finds the readers in a device's descriptors: configurations, a
// device descriptor before them or not. It gives those that it found before what
// is malformed, too.
func findInterfaces(b []byte) ([]usbInterface, error) {
	var found []usbInterface
	var current usbInterface
	var described, bad bool
	configuration := 0
	flush := func() {
		if described && current.complete() && len(found) < maxInterfaces {
			found = append(found, current)
		}
		described = false
	}
	for len(b) > 0 {
		n := int(b[0])
		if n < 2 || n > len(b) {
			flush()
			return found, fmt.Errorf("%w: one of %d bytes where %d are left", ErrDescriptor, n, len(b))
		}
		d := b[:n]
		b = b[n:]
		switch {
		case d[1] == descDevice:
		case d[1] == descConfiguration && n >= 6:
			flush()
			configuration = int(d[5])
		case d[1] == descInterface && n >= 9:
			flush()
			current = usbInterface{Configuration: configuration, Setting: int(d[3]), Class: d[5]}
			current.Descriptor.Interface = int(d[2])
		case d[1] == descEndpoint && n >= 7:
			current.endpoint(d[2], d[3])
		case (d[1] == descCCID || d[1] == usbVendorClass) && n >= ccidDescriptorLength && !described &&
			(current.Class == usbClass || current.Class == usbVendorClass):
			number := current.Descriptor.Interface
			parsed, err := ParseDescriptor(d)
			if err != nil {
				bad = true
				continue
			}
			current.Descriptor, described = parsed, true
			current.Descriptor.Interface = number
		}
	}
	flush()
	if bad {
		return found, ErrDescriptor
	}
	return found, nil
}

// endpoint notes an endpoint; the first of each kind counts.
func (i *usbInterface) endpoint(address, attributes uint8) {
	const in, bulk, interrupt = 0x80, 2, 3
	note := func(at *uint8) {
		if *at == 0 {
			*at = address
		}
	}
	switch kind := attributes & 3; {
	case kind == bulk && address&in != 0:
		note(&i.BulkIn)
	case kind == bulk:
		note(&i.BulkOut)
	case kind == interrupt && address&in != 0:
		note(&i.Int)
	}
}
