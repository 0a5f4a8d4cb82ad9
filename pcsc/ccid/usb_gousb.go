//go:build cgo

package ccid

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/gousb"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// guard makes an error of gousb's panics: it panics where libusb cannot start,
// and on descriptors that number interfaces as it does not expect.
func guard(err *error) {
	switch r := recover().(type) {
	case nil:
	case error:
		*err = fmt.Errorf("libusb: %w", r)
	default:
		*err = fmt.Errorf("libusb: %v", r)
	}
}

func newLibusb() (c *gousb.Context, err error) {
	defer guard(&err)
	return gousb.NewContext(), nil
}

// start starts a libusb context of its own for each use: one that stays learns of
// new devices only where udev runs.
func start() (*gousb.Context, error) {
	c, err := newLibusb()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoUSB, err)
	}
	return c, nil
}

// stop ends a context; that takes up to 0.1 s, which nobody waits for.
func stop(c *gousb.Context) { go c.Close() }

// listLibusb lists the readers by libusb. gousb keeps no class descriptors, so
// each device that may be one is opened and asked.
func listLibusb(ctx context.Context) (found []Plugged, err error) {
	c, err := start()
	if err != nil {
		return nil, err
	}
	defer stop(c)
	devices, err := openDevices(c, func(d *gousb.DeviceDesc) bool {
		for _, config := range d.Configs {
			for _, i := range config.Interfaces {
				for _, s := range i.AltSettings {
					if s.Class == usbClass || s.Class == usbVendorClass && speaksCCID(uint16(d.Vendor), uint16(d.Product)) {
						return ctx.Err() == nil
					}
				}
			}
		}
		return false
	})
	for _, d := range devices {
		defer d.Close()
		usb := identity(d.Desc)
		usb.Serial, _ = d.SerialNumber()
		manufacturer, _ := d.Manufacturer()
		product, _ := d.Product()
		d.ControlTimeout = abortTime
		for index := range len(d.Desc.Configs) {
			b := make([]byte, maxDescriptors-1)
			const standardIn, getDescriptor = 0x80, 0x06
			n, err := d.Control(standardIn, getDescriptor, descConfiguration<<8|uint16(index), 0, b)
			if err == nil {
				found = append(found, newPlugged(usb, manufacturer, product, b[:n])...)
			}
		}
	}
	if len(found) == 0 && err != nil { // the devices that can be opened count
		return nil, libusbError(err, Plugged{})
	}
	return found, ctx.Err()
}

func openDevices(c *gousb.Context, want func(*gousb.DeviceDesc) bool) (devices []*gousb.Device, err error) {
	defer guard(&err)
	return c.OpenDevices(want)
}

func identity(d *gousb.DeviceDesc) reader.USB {
	u := reader.USB{Vendor: uint16(d.Vendor), Product: uint16(d.Product), Bus: d.Bus, Address: d.Address}
	for i, port := range d.Path {
		separator := "."
		if i == 0 {
			separator = fmt.Sprintf("%d-", d.Bus)
		}
		u.Path += fmt.Sprintf("%s%d", separator, port)
	}
	return u
}

// libusbError makes of gousb's errors what they mean. Some come as text alone.
func libusbError(err error, p Plugged) error {
	if err == nil {
		return nil
	}
	is := func(code gousb.Error, status ...gousb.TransferStatus) bool {
		if errors.Is(err, code) || strings.HasSuffix(err.Error(), fmt.Sprintf("[code %d]", code)) {
			return true
		}
		for _, s := range status {
			if errors.Is(err, s) {
				return true
			}
		}
		return false
	}
	switch {
	case is(gousb.ErrorNoDevice, gousb.TransferNoDevice), is(gousb.ErrorNotFound):
		return fmt.Errorf("%w: %w", ErrUnplugged, err)
	case is(gousb.ErrorAccess):
		return &permissionError{p.USB}
	case is(gousb.ErrorBusy):
		return busyError(p)
	}
	return err
}

// gousbPipes are a reader's pipes by libusb.
type gousbPipes struct {
	plugged Plugged
	context *gousb.Context
	device  *gousb.Device
	config  *gousb.Config
	claimed *gousb.Interface
	out     *gousb.OutEndpoint
	in, int *gousb.InEndpoint // int is nil where there is no such pipe

	life  context.Context // ends with Close
	close context.CancelFunc
	use   sync.RWMutex // transfers have it shared
}

func openLibusb(ctx context.Context, p Plugged) (Endpoints, error) {
	if !p.usb.complete() {
		return nil, fmt.Errorf("%w: the reader's pipes", ErrDescriptor)
	}
	c, err := start()
	if err != nil {
		return nil, err
	}
	g := &gousbPipes{plugged: p, context: c}
	g.life, g.close = context.WithCancel(context.Background())
	if err := g.claim(); err != nil {
		g.Close()
		return nil, libusbError(err, p)
	}
	if ctx.Err() != nil {
		g.Close()
		return nil, ctx.Err()
	}
	return g, nil
}

// claim opens the device and takes the reader's interface.
func (g *gousbPipes) claim() (err error) {
	defer guard(&err)
	p := g.plugged
	devices, err := openDevices(g.context, func(d *gousb.DeviceDesc) bool {
		return d.Bus == p.USB.Bus && d.Address == p.USB.Address && uint16(d.Vendor) == p.USB.Vendor && uint16(d.Product) == p.USB.Product
	})
	if len(devices) == 0 {
		if err == nil { // others' errors are in err too: those count for this one alone
			err = ErrUnplugged
		}
		return err
	}
	g.device = devices[0]
	g.device.ControlTimeout = abortTime
	if g.config, err = g.device.Config(p.usb.Configuration); err != nil {
		return err
	}
	if g.claimed, err = g.config.Interface(p.USB.Interface, p.usb.Setting); err != nil {
		return err
	}
	const number = 0x0F // an endpoint's address without its direction
	if g.out, err = g.claimed.OutEndpoint(int(p.usb.BulkOut & number)); err != nil {
		return err
	}
	if g.in, err = g.claimed.InEndpoint(int(p.usb.BulkIn & number)); err != nil {
		return err
	}
	if p.usb.Int != 0 {
		g.int, err = g.claimed.InEndpoint(int(p.usb.Int & number))
	}
	return err
}

// transfer makes one transfer, which Close ends too.
func (g *gousbPipes) transfer(ctx context.Context, b []byte, call func(context.Context, []byte) (int, error)) (int, error) {
	g.use.RLock()
	defer g.use.RUnlock()
	if g.life.Err() != nil {
		return 0, errClosed
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.life, cancel)()
	n, err := call(inner, b)
	switch {
	case err == nil:
		return n, nil
	case g.life.Err() != nil:
		return 0, errClosed
	case errors.Is(err, gousb.TransferCancelled) && ctx.Err() != nil:
		return n, ctx.Err()
	case errors.Is(err, gousb.TransferStall):
		g.clearHalt()
	}
	return 0, libusbError(err, g.plugged)
}

// clearHalt lets the bulk pipes go on after a stall (USB 2.0 §9.4.5). gousb has
// no call for it.
func (g *gousbPipes) clearHalt() {
	const toEndpoint, clearFeature, endpointHalt = 0x02, 0x01, 0
	for _, address := range []uint8{g.plugged.usb.BulkOut, g.plugged.usb.BulkIn} {
		_, _ = g.device.Control(toEndpoint, clearFeature, endpointHalt, uint16(address), nil) // the next transfer shows
	}
}

// Out implements Endpoints.
func (g *gousbPipes) Out(ctx context.Context, b []byte) error {
	n, err := g.transfer(ctx, b, g.out.WriteContext)
	if err == nil && n != len(b) {
		err = brokenReader("%d bytes of %d were taken", n, len(b))
	}
	return err
}

// In implements Endpoints.
func (g *gousbPipes) In(ctx context.Context, b []byte) (int, error) {
	return g.transfer(ctx, b, g.in.ReadContext)
}

// Interrupt implements Endpoints.
func (g *gousbPipes) Interrupt(ctx context.Context, b []byte) (int, error) {
	if g.int == nil {
		return 0, errors.ErrUnsupported
	}
	return g.transfer(ctx, b[:min(len(b), g.int.Desc.MaxPacketSize)], g.int.ReadContext)
}

// Control implements Endpoints; libusb bounds it by a time of its own.
func (g *gousbPipes) Control(ctx context.Context, requestType, request uint8, value, index uint16, b []byte) (int, error) {
	return g.transfer(ctx, b, func(_ context.Context, b []byte) (int, error) {
		return g.device.Control(requestType, request, value, index, b)
	})
}

// Close implements Endpoints.
func (g *gousbPipes) Close() error {
	g.close()
	g.use.Lock()
	defer g.use.Unlock()
	if g.context == nil {
		return nil
	}
	if g.claimed != nil {
		g.claimed.Close()
	}
	var err error
	if g.config != nil {
		err = g.config.Close()
	}
	if g.device != nil {
		err = errors.Join(err, g.device.Close())
	}
	stop(g.context)
	g.context = nil
	return err
}
