//go:build !linux

package usbip

import "fmt"

// Port is a port of the virtual host controller with a device in it.
type Port struct{}

// Plug fails: the virtual host controller is Linux's.
func Plug(int, Device) (*Port, error) { return nil, fmt.Errorf("%w, on Linux", ErrNoController) }

// Number is the port's number.
func (*Port) Number() int { return 0 }

// Done is closed when the device has left the port.
func (*Port) Done() <-chan struct{} { return nil }

// Close takes the device out.
func (*Port) Close() error { return nil }
