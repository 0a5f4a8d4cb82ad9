// Package usb is the reader stacks of package torture that have a USB CCID
// reader: package ccidsim's, with an emulated card, behind pcsc/ccid's driver or
// behind pcscd and libccid; on its pipes in this process, or on the vhci_hcd of a
// virtual machine.
package usb

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// serial is the reader's serial number, by which it is found again.
const serial = "TORTURE"

// config is the reader: it leaves T=1 to its host and gives a mute card up soon.
func config() ccidsim.Config {
	return ccidsim.Config{
		Level: ccidsim.TPDU, Automatic: ccidsim.AutoVoltage, Serial: serial,
		Patience: 100 * time.Millisecond,
	}
}

// identity is the identity of the reader's slot.
var identity = reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: serial}.ID(0, false)

// model is the reader, with a card in its slot.
type model struct {
	device *ccidsim.Device

	mu   sync.Mutex
	card *torture.Card
	fate ccidsim.Fate // of the command under way
}

func newModel() *model {
	m := &model{}
	cfg := config()
	cfg.Hooks.After = func(int, []byte, []byte) ccidsim.Fate {
		m.mu.Lock()
		defer m.mu.Unlock()
		fate := m.fate
		m.fate = ccidsim.Fate{}
		return fate
	}
	m.device = ccidsim.New(cfg)
	return m
}

// Put exchanges the card. One with another answer to reset is inserted anew, and
// so is the first.
func (m *model) Put(c *torture.Card) {
	m.mu.Lock()
	before := m.card
	m.card = c
	m.mu.Unlock()
	if before == nil || string(before.ATR()) != string(c.ATR()) {
		m.device.Remove(0)
		time.Sleep(pulledFor)
		m.device.Insert(0, m)
	}
}

// Reader is the identity of the reader's slot.
func (m *model) Reader() string { return identity }

func (m *model) strike(f torture.Fault) error {
	kind, known := map[torture.Fault]ccidsim.FateKind{
		torture.Pulled: ccidsim.Pull, torture.Bounced: ccidsim.Pull, torture.Unplugged: ccidsim.Unplug,
		torture.Mute: ccidsim.Mute, torture.Hung: ccidsim.Mute,
	}[f]
	if !known {
		return fmt.Errorf("usb: no such fault: %s", f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fate = ccidsim.Fate{Kind: kind}
	return nil
}

// pulledFor is how long somebody needs to pull a card and put it back.
const pulledFor = 500 * time.Millisecond

func (m *model) mend(f torture.Fault) {
	switch f {
	case torture.Mute, torture.Hung:
		m.device.Remove(0)
		time.Sleep(pulledFor)
		m.device.Reinsert(0)
	case torture.Pulled, torture.Bounced:
		m.device.Reinsert(0)
	case torture.Unplugged:
		m.device.Plug()
	}
}

func (m *model) now() *torture.Card {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.card
}

// ATR is that of the card that is in the reader now; so are the others.
func (m *model) ATR() []byte { return m.now().ATR() }

// Power turns it on or off.
func (m *model) Power(on bool) { m.now().Power(on) }

// Reset resets it.
func (m *model) Reset() { m.now().Reset() }

// Process has it carry out a command.
func (m *model) Process(capdu []byte) []byte { return m.now().Process(capdu) }

// ccidSource is pcsc/ccid's readers, with every call to a card bounded.
type ccidSource struct {
	*ccid.Source
	wait time.Duration
}

func (s *ccidSource) Open(ctx context.Context, name string, _ reader.Mode) (apdu.Conn, error) {
	c, err := s.Connect(ctx, name, ccid.Options{MaxWait: s.wait})
	if err != nil {
		return nil, err
	}
	return c, nil
}
