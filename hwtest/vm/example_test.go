//go:build linux && amd64

package vm_test

import (
	"context"
	"testing"

	"github.com/cardbridge/cardbridge/hwtest/vm"
)

// The tests of a package run in a machine that has a USB hub of QEMU's.
func ExampleMain() {
	_ = func(m *testing.M) { // TestMain
		vm.Main(m, vm.Config{
			Files: []string{"../../go.mod"},
			Host: func(context.Context, string) ([]string, func() error, error) {
				return []string{"-device", "qemu-xhci", "-device", "usb-hub"}, nil, nil
			},
		})
	}
}
