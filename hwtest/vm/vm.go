// Package vm runs a test program in a machine of its own: QEMU with Debian's
// kernel, where USB readers can be plugged in that no machine has.
//
//	func TestMain(m *testing.M) { vm.Main(m, vm.Config{}) }
//
// The machine's file system is made of this program, the libraries that it is
// linked with, pcscd with its CCID driver, and udevd; its first process is this
// program too. It has USB (host controllers of QEMU's, and vhci_hcd for devices
// that a program in it plays), no disk and no network but loopback, and its
// processor is emulated: nothing depends on what the host's kernel has.
//
// Every run starts from nothing. What is downloaded once, Debian's packages
// linux-image-amd64 and udev, is kept in the user's cache directory; see Fetch.
package vm

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Config is what the machine is to be like.
type Config struct {
	// Timeout bounds the whole run; 0 is DefaultTimeout.
	Timeout time.Duration
	// CPUs is the number of processors; 0 is 1.
	CPUs int
	// Env names the environment variables that the program inside gets. It gets
	// Go's own (GODEBUG and the like) in any case.
	Env []string
	// Files are files and directories of the host that are there under the same
	// name. The directory testdata is there in any case.
	Files []string
	// Systemd has systemd as the first process, and the program run as one of its
	// services; pcscd is systemd's then, not the program's.
	Systemd bool
	// Packages are Debian packages of the host's that the machine has too, with
	// all that they depend on, dpkg's database, users and groups. All their files
	// are root's there.
	Packages []string
	// Make runs on the host first of all; the files that it leaves in dir are in
	// the machine's directory Made. It may be nil.
	Make func(ctx context.Context, dir string) error
	// Host runs on the host before the machine starts. It gives arguments for
	// QEMU, such as a device whose other end it serves, and what is to be done
	// when the machine has gone, whose error fails the run. dir is a directory
	// for its sockets; ctx ends when the machine does. It may be nil.
	Host func(ctx context.Context, dir string) (args []string, finish func() error, err error)
}

// Made is where the machine has what Config.Make made.
const Made = "/made"

// DefaultTimeout is generous: a machine with many other things to do needs it.
const DefaultTimeout = 5 * time.Minute

// ErrUnsupported says that this host cannot run the machine.
var ErrUnsupported = errors.New("vm: the virtual machine needs Linux on amd64")

// Main is Enter and the run of m in the machine: all of a TestMain. Tests are
// listed without a machine.
func Main(m *testing.M, c Config) {
	if !slices.ContainsFunc(os.Args[1:], func(a string) bool { return strings.HasPrefix(a, "-test.list=") }) {
		Enter(c)
	}
	os.Exit(m.Run())
}
