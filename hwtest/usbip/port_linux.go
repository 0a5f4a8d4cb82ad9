package usbip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// controller is where vhci_hcd shows its first controller.
const controller = "/sys/devices/platform/vhci_hcd.0"

// settleTime bounds how long the kernel may take to notice that a device came
// or went.
const settleTime = 10 * time.Second

const portFree = 4 // VDEV_ST_NULL

// Port is a port of the virtual host controller with a device in it.
type Port struct {
	number int
	dir    string
	cancel context.CancelFunc
	once   sync.Once
	ended  chan struct{}
	err    error
}

// choosing serialises the choice of a port.
var choosing sync.Mutex

// Plug plugs a device into that port, counted from 0, and waits until what was
// there before has left it; into the first free one for AnyPort. It needs root.
func Plug(port int, d Device) (*Port, error) { return plug(controller, port, d) }

func plug(dir string, number int, d Device) (*Port, error) {
	choosing.Lock()
	defer choosing.Unlock()
	number, err := choose(dir, number)
	if err != nil {
		return nil, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("usbip: socketpair: %w", err)
	}
	defer syscall.Close(fds[1]) // the kernel holds it by then
	file := os.NewFile(uintptr(fds[0]), "usbip")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("usbip: %w", err)
	}
	const bus = 1 // devid is the exporter's own: bus and device number
	line := fmt.Sprintf("%d %d %d %d", number, fds[1], bus<<16|(number+1), speed(d))
	if err := os.WriteFile(filepath.Join(dir, "attach"), []byte(line), 0); err != nil {
		conn.Close()
		return nil, fmt.Errorf("usbip: plug into port %d: %w", number, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Port{number: number, dir: dir, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.err = Serve(ctx, conn, d)
	}()
	return p, nil
}

// choose gives a free port: number, or the first one where it is AnyPort. Of a
// port that has just become free the kernel may not have let the device go yet;
// told of the next one then, it could take it for the same.
func choose(dir string, number int) (int, error) {
	for end := time.Now().Add(settleTime); ; time.Sleep(2 * time.Millisecond) {
		ports, err := ports(dir)
		if err != nil {
			return 0, err
		}
		wait := number >= 0
		for _, p := range ports {
			if p.status != portFree || p.number != number && number >= 0 {
				continue
			}
			if !occupied(dir, p.number) {
				return p.number, nil
			}
			wait = true
		}
		if !wait || time.Now().After(end) {
			return 0, fmt.Errorf("%w of %d", ErrNoPort, len(ports))
		}
	}
}

// occupied reports whether the kernel has a device at a port, attached or not.
func occupied(dir string, number int) bool {
	devices, err := filepath.Glob(filepath.Join(dir, "usb*", "*-"+strconv.Itoa(number+1)))
	return err == nil && len(devices) > 0
}

// portStatus is a line of vhci_hcd's status.
type portStatus struct{ number, status int }

// ports lists the high speed ports: full and high speed devices go there.
func ports(dir string) ([]portStatus, error) {
	f, err := os.Open(filepath.Join(dir, "status"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoController
	} else if err != nil {
		return nil, fmt.Errorf("usbip: %w", err)
	}
	defer f.Close()
	var all []portStatus
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var hub string
		var p portStatus
		if n, _ := fmt.Sscanf(strings.TrimSpace(lines.Text()), "%s %d %d", &hub, &p.number, &p.status); n == 3 && hub == "hs" {
			all = append(all, p)
		}
	}
	return all, nil
}

// Number is the port's number.
func (p *Port) Number() int { return p.number }

// Done is closed when the device has left the port, or the kernel gave it up.
func (p *Port) Done() <-chan struct{} { return p.ended }

// Close takes the device out and waits until the kernel has the port free
// again, and has let the device go. Its error says that it did not within 10 s, or that the kernel did not
// speak USB/IP before.
func (p *Port) Close() error {
	p.once.Do(p.cancel)
	<-p.ended
	if _, err := choose(p.dir, p.number); err != nil {
		return err
	}
	return p.err
}
