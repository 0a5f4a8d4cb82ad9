package ccid

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// fakeSysfs is a directory as sysfs shows a device.
func fakeSysfs(t *testing.T, path string, vendor, product uint16, serial string, descriptors []byte) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, path)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for name, text := range map[string]string{
		"busnum": "1\n", "devnum": "7\n", "idVendor": fmt.Sprintf("%04x\n", vendor), "idProduct": fmt.Sprintf("%04x\n", product),
		"serial": serial + "\n", "manufacturer": "A (bad)\x1b[31m maker\n", "product": "Reader\n", "descriptors": string(descriptors),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return root
}

func TestListSysfs(t *testing.T) {
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.ShortAPDU})
	descriptors := append(sim.DeviceDescriptor(), sim.ConfigDescriptor()...)
	found, err := listSysfs(fakeSysfs(t, "1-2.3", 0x1234, 0x5678, "S", descriptors))
	require.NoError(t, err)
	require.Len(t, found, 1)
	p := found[0]
	assert.NoError(t, p.Err)
	assert.Equal(t, reader.USB{Vendor: 0x1234, Product: 0x5678, Serial: "S", Bus: 1, Address: 7, Path: "1-2.3"}, p.USB)
	assert.Equal(t, "A bad[31m maker", p.Manufacturer)
	assert.Equal(t, ShortAPDU, p.Descriptor.Features.Level())
	assert.True(t, p.usb.complete())
	assert.NotZero(t, p.usb.Int)
	assert.Equal(t, "USB 1234:5678 A bad[31m maker Reader (S) slot 0", p.readers(found)[0].Name)

	// A reader of the vendor class is one if it is known to be.
	for i := range descriptors[:len(descriptors)-9] {
		if d := descriptors[i:]; d[0] == 9 && d[1] == descInterface {
			d[5] = usbVendorClass
		}
	}
	found, err = listSysfs(fakeSysfs(t, "1-2", 0x1234, 0x5678, "", descriptors))
	require.NoError(t, err)
	assert.Empty(t, found)
	found, err = listSysfs(fakeSysfs(t, "1-2", 0x04E6, 0x5111, "", descriptors))
	require.NoError(t, err)
	assert.Len(t, found, 1)

	_, err = listSysfs(filepath.Join(t.TempDir(), "none"))
	assert.ErrorIs(t, err, ErrNoUSB)
}

// What cuts the descriptors off makes no reader of less than one.
func TestFindInterfacesCutOff(t *testing.T) {
	whole := ccidsim.New(ccidsim.Config{}).ConfigDescriptor()
	for n := range whole {
		found, _ := findInterfaces(whole[:n])
		for _, i := range found {
			assert.True(t, i.complete())
		}
	}
	_, err := findInterfaces([]byte{0, 4})
	assert.ErrorIs(t, err, ErrDescriptor)
	_, err = findInterfaces([]byte{9, 4, 0})
	assert.ErrorIs(t, err, ErrDescriptor)
}

func TestHolders(t *testing.T) {
	proc := t.TempDir()
	u := reader.USB{Bus: 1, Address: 7}
	for pid, node := range map[string]string{"4242": "/dev/bus/usb/001/007", "4243": "/dev/bus/usb/001/008", "self": "/dev/bus/usb/001/007"} {
		fd := filepath.Join(proc, pid, "fd")
		require.NoError(t, os.MkdirAll(fd, 0o755))
		require.NoError(t, os.Symlink(node, filepath.Join(fd, "9")))
		require.NoError(t, os.WriteFile(filepath.Join(proc, pid, "comm"), []byte("pcscd\n"), 0o644))
	}
	found := holders(proc, u)
	assert.Equal(t, []Holder{{PID: 4242, Name: "pcscd"}}, found)
	assert.Nil(t, holders(filepath.Join(proc, "none"), u))

	err := error(&BusyError{Holders: found})
	assert.ErrorIs(t, err, apdu.ErrCardBusy)
	assert.ErrorContains(t, err, "pcscd (pid 4242)")
	assert.ErrorContains(t, &BusyError{}, "pcscd")
	assert.ErrorContains(t, &BusyError{Driver: "usbhid", Unbind: "echo 1-2:1.0 > …"}, "usbhid")
	denied := error(&permissionError{reader.USB{Vendor: 0x8e6, Product: 0x4433, Bus: 1, Address: 7}})
	assert.ErrorIs(t, denied, ErrNoPermission)
	assert.ErrorContains(t, denied, `ATTR{idVendor}=="08e6"`)
}

// libusb that cannot start is an error, and so is a device that is not there.
func TestOpenWhatIsNotThere(t *testing.T) {
	p := Plugged{USB: reader.USB{Bus: 250, Address: 250}, usb: usbInterface{BulkIn: 0x81, BulkOut: 0x02}}
	_, err := openLibusb(context.Background(), p)
	require.Error(t, err)
	assert.True(t, errorIsOneOf(err, ErrNoUSB, ErrUnplugged, ErrNotBuilt), "%v", err)
	_, err = openLibusb(context.Background(), Plugged{})
	assert.True(t, errorIsOneOf(err, ErrDescriptor, ErrNotBuilt), "%v", err)
	found, err := New().bus.List(context.Background())
	if err != nil {
		assert.True(t, errorIsOneOf(err, ErrNoUSB, ErrNotBuilt), "%v", err)
		assert.Empty(t, found)
	}
}
