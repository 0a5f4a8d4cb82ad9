package reader

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// SysfsUSB is where Linux shows its USB devices.
const SysfsUSB = "/sys/bus/usb/devices"

// maxAttribute bounds what is read of one of sysfs's files, which is a page.
const maxAttribute = 4096

// Classes of USB interfaces (bInterfaceClass).
const (
	classUnspecified = 0x00
	classCCID        = 0x0B
	classVendor      = 0xFF
)

// USBDevice is a USB device as the kernel shows it.
type USBDevice struct {
	USB                       // Interface is 0
	Manufacturer, Name string // iManufacturer, iProduct
	Interfaces         []USBInterface
}

// USBInterface is one interface of a USB device.
type USBInterface struct {
	Number int
	Class  uint8  // bInterfaceClass
	Name   string // iInterface
}

// Readers are the device's interfaces that may be card readers: those of the
// smart-card class, else those of the vendor's own class, by which some readers
// go that are older than the other.
func (d USBDevice) Readers() []USBInterface {
	var ccid, own []USBInterface
	for _, i := range d.Interfaces {
		switch i.Class {
		case classCCID:
			ccid = append(ccid, i)
		case classUnspecified, classVendor:
			own = append(own, i)
		}
	}
	if len(ccid) > 0 {
		return ccid
	}
	return own
}

// USBDevices lists the USB devices under root (SysfsUSB, but for tests), by bus
// and address. Where the kernel shows none there are none; a device that leaves
// while it is read is left out.
func USBDevices(root string) ([]USBDevice, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var devices []USBDevice
	for _, e := range entries {
		if d, ok := usbDevice(root, e.Name()); ok {
			devices = append(devices, d)
		}
	}
	for _, e := range entries { // "1-2.3:1.0" is an interface of "1-2.3"
		path, _, isInterface := strings.Cut(e.Name(), ":")
		at := slices.IndexFunc(devices, func(d USBDevice) bool { return d.Path == path })
		if !isInterface || at < 0 {
			continue
		}
		if i, ok := usbInterface(filepath.Join(root, e.Name())); ok {
			devices[at].Interfaces = append(devices[at].Interfaces, i)
		}
	}
	for _, d := range devices {
		slices.SortFunc(d.Interfaces, func(a, b USBInterface) int { return cmp.Compare(a.Number, b.Number) })
	}
	slices.SortFunc(devices, func(a, b USBDevice) int {
		return cmp.Or(cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Address, b.Address))
	})
	return devices, nil
}

func usbDevice(root, path string) (USBDevice, bool) {
	if strings.Contains(path, ":") {
		return USBDevice{}, false
	}
	dir := filepath.Join(root, path)
	bus, err1 := number(dir, "busnum", 10, 16)
	address, err2 := number(dir, "devnum", 10, 16)
	vendor, err3 := number(dir, "idVendor", 16, 16)
	product, err4 := number(dir, "idProduct", 16, 16)
	if errors.Join(err1, err2, err3, err4) != nil {
		return USBDevice{}, false
	}
	return USBDevice{
		USB: USB{
			Vendor: uint16(vendor), Product: uint16(product), Serial: attribute(dir, "serial"),
			Bus: int(bus), Address: int(address), Path: path,
		},
		Manufacturer: attribute(dir, "manufacturer"),
		Name:         attribute(dir, "product"),
	}, true
}

func usbInterface(dir string) (USBInterface, bool) {
	n, err1 := number(dir, "bInterfaceNumber", 16, 8)
	class, err2 := number(dir, "bInterfaceClass", 16, 8)
	if errors.Join(err1, err2) != nil {
		return USBInterface{}, false
	}
	return USBInterface{Number: int(n), Class: uint8(class), Name: attribute(dir, "interface")}, true
}

// attribute is the text in one of sysfs's files; "" where there is none.
func attribute(dir, name string) string {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAttribute))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

func number(dir, name string, base, bits int) (uint64, error) {
	return strconv.ParseUint(strings.TrimSpace(attribute(dir, name)), base, bits)
}
