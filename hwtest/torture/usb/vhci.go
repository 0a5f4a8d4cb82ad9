package usb

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/hwtest/usbip"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// plugged is the reader in a port of the kernel's vhci_hcd.
type plugged struct {
	*model
	port *usbip.Port
}

func plugIn() (*plugged, error) {
	p := &plugged{model: newModel()}
	return p, p.plug()
}

func (p *plugged) plug() (err error) {
	p.port, err = usbip.Plug(usbip.AnyPort, p.device)
	return err
}

// Mend ends a fault of card or reader. A reader that was unplugged goes into
// whatever port is free.
func (p *plugged) Mend(_ context.Context, f torture.Fault) error {
	if f != torture.Unplugged {
		p.mend(f)
		return nil
	}
	if err := p.port.Close(); err != nil {
		return err
	}
	p.mend(f)
	return p.plug()
}

// Gousb is the stack of pcsc/ccid, gousb, libusb, and the kernel's USB.
type Gousb struct{ *plugged }

// StartGousb plugs the reader in, where the kernel has a vhci_hcd.
func StartGousb() (*Gousb, error) {
	p, err := plugIn()
	if err != nil {
		return nil, err
	}
	return &Gousb{p}, nil
}

// Stop takes the reader out.
func (g *Gousb) Stop() error { return g.port.Close() }

// Name of the stack.
func (g *Gousb) Name() string { return torture.OnGousb.Name }

// Faults of the stack.
func (g *Gousb) Faults() []torture.Fault { return torture.OnGousb.Faults }

// Source is pcsc/ccid's readers.
func (g *Gousb) Source(wait time.Duration) reader.Source { return &ccidSource{ccid.New(), wait} }

// Strike brings a fault about.
func (g *Gousb) Strike(f torture.Fault) error { return g.strike(f) }

// Libccid is the stack of pcsc, pcscd, libccid, libusb, and the kernel's USB.
type Libccid struct {
	*plugged
	daemon *rig.PCSCD
	helped atomic.Bool
}

// StartLibccid starts pcscd and plugs the reader in, where the kernel has a
// vhci_hcd. In the other order pcscd may miss it.
func StartLibccid(ctx context.Context) (*Libccid, error) {
	daemon, err := rig.StartPCSCD(ctx, rig.Options{})
	if err != nil {
		return nil, err
	}
	p, err := plugIn()
	if err != nil {
		return nil, errors.Join(err, daemon.Stop())
	}
	return &Libccid{plugged: p, daemon: daemon}, nil
}

// Stop ends pcscd and takes the reader out.
func (l *Libccid) Stop() error {
	return errors.Join(l.daemon.Stop(), l.port.Close())
}

// Log is pcscd's log.
func (l *Libccid) Log() string { return l.daemon.Log() }

// Name of the stack.
func (l *Libccid) Name() string { return torture.OnLibccid.Name }

// Faults of the stack.
func (l *Libccid) Faults() []torture.Fault { return torture.OnLibccid.Faults }

// Source is PC/SC.
func (l *Libccid) Source(wait time.Duration) reader.Source { return torture.PCSC(wait) }

// Strike brings a fault about.
func (l *Libccid) Strike(f torture.Fault) error {
	if f == torture.Killed {
		return l.daemon.Kill()
	}
	return l.strike(f)
}

// Mend ends a fault. libccid may give the reader up once pcscd is back: the
// reader still has the answer to a command of the pcscd that was killed, and
// libccid takes it for a broken frame. Then somebody has to plug the reader in
// anew.
func (l *Libccid) Mend(ctx context.Context, f torture.Fault) error {
	if f != torture.Killed {
		return l.plugged.Mend(ctx, f)
	}
	failures := l.failures()
	if err := l.daemon.Restart(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	source := pcsc.New()
	for ctx.Err() == nil && l.failures() == failures {
		readers, err := source.Readers(ctx)
		if err == nil && slices.ContainsFunc(readers, func(r reader.Reader) bool { return r.ID == identity }) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.helped.Store(true)
	l.device.Unplug()
	return l.plugged.Mend(ctx, torture.Unplugged)
}

// listTimeout is how long pcscd may take to find a reader.
const listTimeout = 10 * time.Second

// failures counts how often pcscd could not use a reader.
func (l *Libccid) failures() int { return strings.Count(l.daemon.Log(), "Failed adding USB device") }

// Helped reports whether the reader was plugged in anew since it was last asked,
// because pcscd had given it up.
func (l *Libccid) Helped() bool { return l.helped.Swap(false) }
