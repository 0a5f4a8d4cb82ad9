package reader_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func plug(t *testing.T, root string, files map[string]string) {
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text+"\n"), 0o644))
	}
}

func TestUSBDevices(t *testing.T) {
	root := t.TempDir()
	plug(t, root, map[string]string{
		"usb1/busnum": "1", "usb1/devnum": "1", "usb1/idVendor": "1d6b", "usb1/idProduct": "0002",
		"1-0:1.0/bInterfaceNumber": "00", "1-0:1.0/bInterfaceClass": "09", // the hub's, of no device by that name
		"1-2.3/busnum": "1", "1-2.3/devnum": "12", "1-2.3/idVendor": "076b", "1-2.3/idProduct": "5422",
		"1-2.3/serial": "K1 2", "1-2.3/manufacturer": "HID", "1-2.3/product": "OMNIKEY 5422",
		"1-2.3:1.1/bInterfaceNumber": "01", "1-2.3:1.1/bInterfaceClass": "0b", "1-2.3:1.1/interface": "CL",
		"1-2.3:1.0/bInterfaceNumber": "00", "1-2.3:1.0/bInterfaceClass": "0b",
		"1-2.3:1.2/bInterfaceNumber": "02", "1-2.3:1.2/bInterfaceClass": "ff",
		"1-4/busnum": "1", "1-4/devnum": "3", "1-4/idVendor": "08e6", "1-4/idProduct": "3437",
		"1-4:1.0/bInterfaceNumber": "00", "1-4:1.0/bInterfaceClass": "ff",
		"1-5/busnum": "1", "1-5/devnum": "x", "1-5/idVendor": "08e6", "1-5/idProduct": "3437", // leaves while it is read
		"1-6/busnum": "1",
		"1-7/busnum": strings.Repeat("1", 1<<20),
	})
	devices, err := reader.USBDevices(root)
	require.NoError(t, err)
	require.Len(t, devices, 3)
	old, omnikey := devices[1], devices[2]
	assert.Equal(t, reader.USBDevice{
		USB:          reader.USB{Vendor: 0x076B, Product: 0x5422, Serial: "K1 2", Bus: 1, Address: 12, Path: "1-2.3"},
		Manufacturer: "HID", Name: "OMNIKEY 5422",
		Interfaces: []reader.USBInterface{{Class: 0x0B}, {Number: 1, Class: 0x0B, Name: "CL"}, {Number: 2, Class: 0xFF}},
	}, omnikey)
	assert.Len(t, omnikey.Readers(), 2)
	assert.Empty(t, devices[0].Readers(), "a hub")
	assert.Equal(t, []reader.USBInterface{{Class: 0xFF}}, old.Readers(), "older than the class")

	devices, err = reader.USBDevices(filepath.Join(root, "none"))
	assert.NoError(t, err)
	assert.Empty(t, devices)
	_, err = reader.USBDevices(filepath.Join(root, "1-6", "busnum"))
	assert.Error(t, err)
}

func TestUSBID(t *testing.T) {
	u := reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: "12 :\x1b34", Bus: 1, Address: 7, Path: "1-2.3", Interface: 1}
	assert.Equal(t, "usb:08e6:4433:serial=1234:1.0", u.ID(0, false))
	assert.Equal(t, "usb:08e6:4433:path=1-2.3:1.1", u.ID(1, true))
	u.Serial = ""
	assert.Equal(t, "usb:08e6:4433:path=1-2.3:1.0", u.ID(0, false))
	u.Path = ""
	assert.Equal(t, "usb:08e6:4433:address=1-7:1.0", u.ID(0, false))
}

func ExampleUSB_ID() {
	u := reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: "0042", Bus: 1, Address: 7, Path: "1-2.3"}
	fmt.Println(u.ID(0, false))
	fmt.Println(u.ID(0, true)) // another reader has the same serial number
	// Output:
	// usb:08e6:4433:serial=0042:0.0
	// usb:08e6:4433:path=1-2.3:0.0
}
