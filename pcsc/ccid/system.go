package ccid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// systemBus is this machine's USB.
type systemBus struct{}

// List implements Bus: by sysfs on Linux, which asks no device anything, else by
// libusb.
func (systemBus) List(ctx context.Context) ([]Plugged, error) {
	if runtime.GOOS == "linux" {
		return listSysfs(reader.SysfsUSB)
	}
	return listLibusb(ctx)
}

// Open implements Bus.
func (systemBus) Open(ctx context.Context, p Plugged) (Endpoints, error) { return openLibusb(ctx, p) }

// maxDescriptors bounds what is read of one device's descriptors, bytes.
const maxDescriptors = 1 << 16

// listSysfs lists the readers under root (reader.SysfsUSB, but for tests).
func listSysfs(root string) ([]Plugged, error) {
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoUSB
	}
	devices, err := reader.USBDevices(root)
	if err != nil {
		return nil, err
	}
	var found []Plugged
	for _, d := range devices {
		descriptors, err := readBounded(filepath.Join(root, d.Path, "descriptors"))
		if err != nil { // it left while it was read
			continue
		}
		found = append(found, newPlugged(d.USB, d.Manufacturer, d.Name, descriptors)...)
	}
	return found, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDescriptors))
}

// Holder is a program that has a reader open, or may have.
type Holder struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
}

func (h Holder) String() string { return fmt.Sprintf("%s (pid %d)", h.Name, h.PID) }

// BusyError says that another program, or a driver of the kernel, holds a
// reader. It matches apdu.ErrCardBusy.
type BusyError struct {
	Holders []Holder // those that can be seen; other users' only by root
	Driver  string   // of the kernel, or ""
	Unbind  string   // what frees the reader from Driver
}

func (e *BusyError) Error() string {
	switch {
	case e.Driver != "":
		return fmt.Sprintf("the kernel's driver %s holds the reader: %s", e.Driver, e.Unbind)
	case len(e.Holders) == 0:
		return "another program holds the reader (pcscd? systemctl stop pcscd.socket pcscd)"
	}
	var names []string
	for _, h := range e.Holders {
		names = append(names, h.String())
	}
	return "another program holds the reader: " + strings.Join(names, ", ")
}

// Is reports whether target is apdu.ErrCardBusy.
func (e *BusyError) Is(target error) bool { return target == apdu.ErrCardBusy }

// Where Linux shows processes and USB devices.
const (
	procRoot = "/proc"
	usbNodes = "/dev/bus/usb"
)

// Holders lists the programs, but this one, that have a USB device open: by
// /proc, as far as this user may look; none on other systems than Linux.
func Holders(u reader.USB) []Holder { return holders(procRoot, u) }

func holders(proc string, u reader.USB) []Holder {
	node := fmt.Sprintf("%s/%03d/%03d", usbNodes, u.Bus, u.Address)
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	var found []Holder
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join(proc, e.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
			target, err := os.Readlink(filepath.Join(dir, fd.Name()))
			return err == nil && target == node
		}) {
			name, _ := readBounded(filepath.Join(proc, e.Name(), "comm"))
			found = append(found, Holder{PID: pid, Name: clean(string(name))})
		}
	}
	return found
}

// busyError says who holds a reader that cannot be claimed.
func busyError(p Plugged) *BusyError {
	e := &BusyError{Holders: Holders(p.USB)}
	number := fmt.Sprintf("%s:%d.%d", p.USB.Path, p.usb.Configuration, p.USB.Interface)
	driver, err := os.Readlink(filepath.Join(reader.SysfsUSB, number, "driver"))
	if base := filepath.Base(driver); err == nil && base != "usbfs" { // usbfs is a program's claim
		e.Driver = base
		e.Unbind = fmt.Sprintf("echo %s > /sys/bus/usb/drivers/%s/unbind", number, base)
	}
	return e
}

// permissionError is ErrNoPermission for one device.
type permissionError struct{ usb reader.USB }

func (e *permissionError) Error() string {
	return fmt.Sprintf("no permission on USB device %04x:%04x (%s/%03d/%03d): a udev rule such as "+
		`SUBSYSTEM=="usb", ATTR{idVendor}=="%04x", ATTR{idProduct}=="%04x", MODE="0660", TAG+="uaccess"`+
		" gives it, or run as root",
		e.usb.Vendor, e.usb.Product, usbNodes, e.usb.Bus, e.usb.Address, e.usb.Vendor, e.usb.Product)
}

func (e *permissionError) Is(target error) bool { return target == ErrNoPermission }
