package torture

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// VPCD is the stack of pcsc, a real pcscd, and vpcd, its virtual reader.
type VPCD struct {
	daemon *rig.PCSCD
	slot   rig.Slot

	mu    sync.Mutex
	card  *Card
	serve context.CancelFunc // takes the card out of the reader
	ended chan struct{}      // closed once it is out
}

// StartVPCD starts a private pcscd with a virtual reader; rig.Enter comes
// before it.
func StartVPCD(ctx context.Context) (*VPCD, error) {
	daemon, err := rig.StartPCSCD(ctx, rig.Options{Slots: 1})
	if err != nil {
		return nil, err
	}
	return &VPCD{daemon: daemon, slot: daemon.Slots()[0]}, nil
}

// Stop ends pcscd.
func (v *VPCD) Stop() error {
	v.detach(true)
	return v.daemon.Stop()
}

// Name of the stack.
func (v *VPCD) Name() string { return OnVPCD.Name }

// Faults of the stack.
func (v *VPCD) Faults() []Fault { return OnVPCD.Faults }

// Reader is the reader's name.
func (v *VPCD) Reader() string { return v.slot.Reader }

// Source is PC/SC.
func (v *VPCD) Source(wait time.Duration) reader.Source { return PCSC(wait) }

// Log is pcscd's log.
func (v *VPCD) Log() string { return v.daemon.Log() }

// PCSC is the PC/SC service's readers, with every call to a card bounded.
func PCSC(wait time.Duration) reader.Source { return &bounded{pcsc.New(), wait} }

type bounded struct {
	*pcsc.Source
	wait time.Duration
}

func (b *bounded) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	c, err := b.Connect(ctx, name, pcsc.Options{Mode: mode, MaxWait: b.wait})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Put exchanges the card. Where its answer to reset is another, it pulls the one
// that is in the reader: pcscd would not notice.
func (v *VPCD) Put(c *Card) {
	v.mu.Lock()
	before := v.card
	v.mu.Unlock()
	if before != nil && !bytes.Equal(before.ATR(), c.ATR()) {
		v.detach(true)
		time.Sleep(pulledFor)
	}
	v.mu.Lock()
	v.card = c
	v.mu.Unlock()
	v.attach()
}

// attach puts the card into the reader, where it is not.
func (v *VPCD) attach() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.serve != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	v.serve, v.ended = cancel, ended
	go func() {
		defer close(ended)
		_ = vpcd.Serve(ctx, v.slot.Addr, (*vpcdCard)(v)) // ends with ctx
	}()
}

// detach takes the card out; wait says whether to see to it that it is out.
func (v *VPCD) detach(wait bool) {
	v.mu.Lock()
	serve, ended := v.serve, v.ended
	v.serve = nil
	v.mu.Unlock()
	if serve != nil {
		serve()
	}
	if wait && ended != nil {
		<-ended
	}
}

// Strike brings a fault about.
func (v *VPCD) Strike(f Fault) error {
	switch f {
	case Pulled, Bounced:
		v.detach(false)
	case Killed:
		return v.daemon.Kill()
	case Mute: // no answer is all it takes
	default:
		return fmt.Errorf("torture: %s: no such fault on %s", f, v.Name())
	}
	return nil
}

// pulledFor is how long somebody needs to pull a card and put it back, more
// than pcscd's 0.4 s between two looks.
const pulledFor = 500 * time.Millisecond

// Mend ends a fault.
func (v *VPCD) Mend(ctx context.Context, f Fault) error {
	switch f {
	case Killed:
		return v.daemon.Restart(ctx)
	case Mute:
		v.detach(true)
		sleep(ctx, pulledFor)
	}
	v.detach(true)
	v.attach()
	return nil
}

// vpcdCard is the card that is in the reader now.
type vpcdCard VPCD

func (v *vpcdCard) now() *Card {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.card
}

func (v *vpcdCard) ATR() []byte                 { return v.now().ATR() }
func (v *vpcdCard) Power(on bool)               { v.now().Power(on) }
func (v *vpcdCard) Reset()                      { v.now().Reset() }
func (v *vpcdCard) Process(capdu []byte) []byte { return v.now().Process(capdu) }
