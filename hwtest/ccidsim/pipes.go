package ccidsim

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
)

// Endpoint addresses.
const (
	endpointOut       = 0x01
	endpointIn        = 0x82
	endpointInterrupt = 0x83
)

// maxQueue is how many bulk-IN transfers wait for a host that does not read;
// more are lost.
const maxQueue = 64

// Pipes are a host's end of a device. It holds one goroutine for each pipe.
type Pipes struct {
	device *Device
	once   sync.Once
	closed context.Context
	close  context.CancelFunc
}

// Open gives the device's pipes to a host in this process. What the device holds
// for its host stays, as when another program claims an interface.
func (d *Device) Open() *Pipes {
	p := &Pipes{device: d}
	p.closed, p.close = context.WithCancel(context.Background())
	return p
}

// with runs a transfer until ctx or the pipes end.
func (p *Pipes) with(ctx context.Context, transfer func(context.Context) (int, error)) (int, error) {
	if p.closed.Err() != nil {
		return 0, ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(p.closed, cancel)
	defer stop()
	n, err := transfer(ctx)
	if err != nil && p.closed.Err() != nil {
		return n, ErrClosed
	}
	return n, err
}

// Out is one bulk-OUT transfer.
func (p *Pipes) Out(ctx context.Context, b []byte) error {
	_, err := p.with(ctx, func(ctx context.Context) (int, error) { return p.device.Transfer(ctx, endpointOut, b) })
	return err
}

// In is one bulk-IN transfer; it waits until there is something.
func (p *Pipes) In(ctx context.Context, b []byte) (int, error) {
	return p.with(ctx, func(ctx context.Context) (int, error) { return p.device.Transfer(ctx, endpointIn, b) })
}

// Interrupt is one interrupt-IN transfer; it waits until there is something.
func (p *Pipes) Interrupt(ctx context.Context, b []byte) (int, error) {
	return p.with(ctx, func(ctx context.Context) (int, error) { return p.device.Transfer(ctx, endpointInterrupt, b) })
}

// Control is one control transfer; requestType's top bit is its direction.
func (p *Pipes) Control(ctx context.Context, requestType, request uint8, value, index uint16, b []byte) (int, error) {
	return p.with(ctx, func(ctx context.Context) (int, error) {
		return p.device.Control(ctx, requestType, request, value, index, b)
	})
}

// Close ends the pipes and what waits on them; the device goes on.
func (p *Pipes) Close() error {
	p.once.Do(p.close)
	return nil
}

// Transfer is one transfer on the endpoint of that address, other than 0.
func (d *Device) Transfer(ctx context.Context, endpoint byte, b []byte) (n int, err error) {
	switch {
	case endpoint == endpointOut:
		return d.transferOut(ctx, b)
	case endpoint == endpointIn:
		err = d.await(ctx, func() (done bool) { n, done = d.takeIn(b); return done })
	case endpoint == endpointInterrupt && !d.cfg.NoInterrupt:
		err = d.await(ctx, func() (done bool) { n, done = d.takeInterrupt(b); return done })
	default:
		return 0, ErrStall
	}
	return n, err
}

func (d *Device) transferOut(ctx context.Context, b []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unplugged() {
		return 0, ErrUnplugged
	}
	if d.out = append(d.out, b...); len(d.out) == 0 {
		return 0, nil // an empty packet that ended a message before
	}
	// A message that does not end with a short packet goes on in the next
	// transfer until its length is there (CCID §6.1).
	short := len(b)%d.maxPacket() != 0 || len(b) == 0
	if !short && len(d.out) < d.outLength() && len(d.out) < d.cfg.MaxMessage {
		return len(b), nil
	}
	m := message(bytes.Clone(d.out))
	d.out = d.out[:0]
	d.command(m)
	return len(b), nil
}

// outLength is how long the message that is being assembled says that it is.
func (d *Device) outLength() int {
	if len(d.out) < headerSize {
		return headerSize
	}
	return headerSize + int(min(binary.LittleEndian.Uint32(d.out[1:]), 1<<24))
}

// takeIn gives the host the transfer that waits first, or as much of it as fits.
// A transfer that filled its packets ends with an empty one, which a host that
// asked for no more than that meets in its next transfer (USB 2.0 §5.8.3).
func (d *Device) takeIn(b []byte) (n int, done bool) {
	if d.zlp {
		d.zlp = false
		return 0, true
	}
	if len(d.in) == 0 {
		return 0, false
	}
	n = copy(b, d.in[0])
	if n < len(d.in[0]) {
		d.in[0] = d.in[0][n:]
		return n, true
	}
	d.zlp = n == len(b) && n > 0 && n%d.maxPacket() == 0
	d.in = d.in[1:]
	return n, true
}

// Inject puts a bulk-IN transfer behind those that wait, whatever the host has
// asked for.
func (d *Device) Inject(transfer []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue(bytes.Clone(transfer))
}

// InjectInterrupt puts an interrupt-IN message before what the slots have to
// tell.
func (d *Device) InjectInterrupt(message []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.interrupt) < maxQueue {
		d.interrupt = append(d.interrupt, bytes.Clone(message))
		d.notify()
	}
}

// queue appends to what waits for the host. The caller holds mu.
func (d *Device) queue(transfer []byte) {
	if len(d.in) < maxQueue {
		d.in = append(d.in, transfer)
		d.notify()
	}
}

// takeInterrupt gives RDR_to_PC_NotifySlotChange (CCID §6.3.1) where a slot
// changed since the last.
func (d *Device) takeInterrupt(b []byte) (n int, done bool) {
	if len(d.interrupt) > 0 {
		n = copy(b, d.interrupt[0])
		d.interrupt = d.interrupt[1:]
		return n, true
	}
	m := make([]byte, 1+(len(d.slots)+3)/4)
	m[0] = notifySlotChange
	for i, s := range d.slots {
		var bits byte
		if s.present {
			bits |= 1
		}
		if s.changed {
			bits |= 2
			done = true
		}
		m[1+i/4] |= bits << (2 * (i % 4))
	}
	if !done {
		return 0, false
	}
	for _, s := range d.slots {
		s.changed = false
	}
	return copy(b, m), true
}

func (d *Device) maxPacket() int {
	if d.cfg.FullSpeed {
		return 64
	}
	return 512
}
