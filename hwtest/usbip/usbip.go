// Package usbip plugs a model of a USB device into this machine's kernel: it is
// the server's end of USB/IP, and the kernel's virtual host controller vhci_hcd
// is its client, over a socket pair. Every program then finds the device as if
// it were plugged in.
package usbip

import (
	"context"
	"errors"
	"syscall"
)

// Device is a USB device. Errors that match syscall.EPIPE are a stall, those
// that match syscall.ENODEV say that the device has gone; all others are broken
// transfers.
type Device interface {
	// Control is one control transfer, of the standard's requests too.
	// requestType's top bit is its direction.
	Control(ctx context.Context, requestType, request uint8, value, index uint16, b []byte) (int, error)
	// Transfer is one transfer on the endpoint of that address, whose top bit is
	// the direction. It waits until the device has something to send, or ctx
	// ends; then it must not have sent anything.
	Transfer(ctx context.Context, endpoint byte, b []byte) (int, error)
	// HighSpeed tells high speed from full speed.
	HighSpeed() bool
	// Unplugged is closed when the device leaves its host.
	Unplugged() <-chan struct{}
}

// AnyPort is the first free port.
const AnyPort = -1

// Errors of Plug.
var (
	ErrNoController = errors.New("usbip: the kernel has no virtual USB host controller: load the module vhci-hcd")
	ErrNoPort       = errors.New("usbip: no free port")
)

// ErrMalformed is matched by what Serve returns for a peer that does not speak
// USB/IP.
var ErrMalformed = errors.New("usbip: malformed message")

// speed is enum usb_device_speed, as vhci_hcd takes it.
func speed(d Device) int {
	if d.HighSpeed() {
		return 3
	}
	return 2
}

func maxPacket(d Device) int {
	if d.HighSpeed() {
		return 512
	}
	return 64
}

// status is a transfer's status as Linux has it: 0 or a negative errno.
func status(err error) int32 {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, syscall.EPIPE):
		return statusStall
	case errors.Is(err, syscall.ENODEV):
		return statusShutdown
	}
	return statusProtocol
}
