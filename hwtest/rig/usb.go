package rig

import (
	"bytes"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// USBReader is a virtual reader that says it is a USB reader: PC/SC clients get a
// USB bus and address for it (the kernel has no such device), features and
// properties, and it can be unplugged. It takes a C compiler and libpcsclite's
// headers.
type USBReader struct {
	Name         string // as pcscd's without the numbers: "Kind (serial)"
	Slots        int    // 1 or 2
	Bus, Address int    // 1 to 255
}

//go:embed driver/usb.c
var usbDriver []byte

// Plug says that USB reader i (of Options.USB) is at that bus and address now. If
// it was not there when pcscd started, pcscd finds it at its next Restart: Debian's
// looks for readers on USB alone.
func (p *PCSCD) Plug(i, bus, address int) error {
	r := &p.options.USB[i]
	r.Bus, r.Address = bus, address
	return r.write(p.usbDriver(i), true)
}

// Unplug has USB reader i answer no more, as one that has been unplugged and of
// which pcscd has not heard yet; from its next Restart on it is not there.
func (p *PCSCD) Unplug(i int) error { return p.options.USB[i].write(p.usbDriver(i), false) }

func (p *PCSCD) usbDriver(i int) string {
	return filepath.Join(p.dir, fmt.Sprintf("libifdusb-%d.so", i))
}

func (r USBReader) write(driver string, present bool) error {
	there := 0
	if present {
		there = 1
	}
	what := fmt.Sprintf("%d %d %d %d\n", there, r.Slots, r.Bus, r.Address)
	temporary := driver + ".new" // a file half written would be a reader half plugged in
	if err := os.WriteFile(temporary, []byte(what), 0o644); err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	return os.Rename(temporary, driver+".usb")
}

// configureUSB adds the USB readers to reader.conf, on the ports from there on.
func (p *PCSCD) configureUSB(conf *bytes.Buffer, vpcd []byte, port int) error {
	if len(p.options.USB) == 0 {
		return nil
	}
	compiled, err := compileUSBDriver(p.dir)
	if err != nil {
		return err
	}
	for i, r := range p.options.USB {
		driver := p.usbDriver(i)
		if err := os.WriteFile(driver, compiled, 0o755); err != nil {
			return fmt.Errorf("rig: %w", err)
		}
		if err := os.WriteFile(driver+".vpcd", vpcd, 0o755); err != nil {
			return fmt.Errorf("rig: %w", err)
		}
		if err := r.write(driver, true); err != nil {
			return err
		}
		writeEntry(conf, r.Name, port, driver)
		for slot := range r.Slots {
			p.slots = append(p.slots, Slot{
				Addr:   net.JoinHostPort("127.0.0.1", strconv.Itoa(port+slot)),
				Reader: fmt.Sprintf("%s 00 %02X", r.Name, slot),
			})
		}
		port += slotsPerDriver
	}
	return nil
}

func compileUSBDriver(dir string) ([]byte, error) {
	source, driver := filepath.Join(dir, "usb.c"), filepath.Join(dir, "usb.so")
	if err := os.WriteFile(source, usbDriver, 0o644); err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	flags, err := exec.Command("pkg-config", "--cflags", "libpcsclite").Output()
	if err != nil {
		return nil, fmt.Errorf("rig: pkg-config libpcsclite: %w: install the packages pkg-config and libpcsclite-dev", err)
	}
	args := append(strings.Fields(string(flags)), "-shared", "-fPIC", "-O1", "-Wall", "-o", driver, source, "-ldl")
	if out, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("rig: cc: %w\n%s", err, out)
	}
	return os.ReadFile(driver)
}
