package usb

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Pipes is the stack of pcsc/ccid on the reader's own pipes, in this process,
// without USB.
type Pipes struct {
	*model
	bus
}

// NewPipes makes the stack.
func NewPipes() *Pipes {
	p := &Pipes{model: newModel()}
	p.bus.model = p.model
	return p
}

// Name of the stack.
func (p *Pipes) Name() string { return torture.OnPipes.Name }

// Faults of the stack.
func (p *Pipes) Faults() []torture.Fault { return torture.OnPipes.Faults }

// Source is the readers on the bus that has this one.
func (p *Pipes) Source(wait time.Duration) reader.Source {
	return &ccidSource{ccid.NewSource(&p.bus), wait}
}

// Strike brings a fault about.
func (p *Pipes) Strike(f torture.Fault) error { return p.strike(f) }

// Mend ends a fault.
func (p *Pipes) Mend(_ context.Context, f torture.Fault) error {
	if f == torture.Unplugged {
		p.bus.plugged()
	}
	p.mend(f)
	return nil
}

// bus is a bus with one reader on it.
type bus struct {
	model *model

	mu      sync.Mutex
	address int
}

// plugged gives the reader another address, as a host does each time.
func (b *bus) plugged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.address++
}

// List implements ccid.Bus.
func (b *bus) List(context.Context) ([]ccid.Plugged, error) {
	select {
	case <-b.model.device.Unplugged():
		return nil, nil
	default:
	}
	d, err := ccid.ParseDescriptor(b.model.device.ClassDescriptor())
	b.mu.Lock()
	defer b.mu.Unlock()
	usb := reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: serial, Bus: 1, Address: 1 + b.address}
	return []ccid.Plugged{{USB: usb, Descriptor: d, Err: err}}, nil
}

// Open implements ccid.Bus.
func (b *bus) Open(ctx context.Context, want ccid.Plugged) (ccid.Endpoints, error) {
	now, err := b.List(ctx)
	if err != nil {
		return nil, err
	}
	if len(now) == 0 || now[0].USB != want.USB {
		return nil, fmt.Errorf("%w: it is not on the bus", ccid.ErrUnplugged)
	}
	return b.model.device.Open(), nil
}
