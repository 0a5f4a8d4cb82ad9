package appletsim

import (
	"errors"
	"time"

	"github.com/cardbridge/cardbridge/applet-sim/fault"
)

// Fault is what goes wrong with a card, and when: package fault has the kinds.
type Fault = fault.Fault

// FaultKind is what goes wrong.
type FaultKind = fault.Kind

// The faults at a persistent write that every kind of card is tested by.
const (
	WriteFails = fault.WriteFails
	CutBefore  = fault.CutBefore
	CutAfter   = fault.CutAfter
)

var errWrite = errors.New("appletsim: persistent write failed")

// WithFaults arms faults, as Inject does, after those of the image.
func WithFaults(faults ...Fault) Option {
	return func(c *Card) { c.armed = append(c.armed, faults...) }
}

// Observer is told what happens to a card, as it happens. Each may be nil, and
// must not call the card.
type Observer struct {
	// Exchange is called with each command as the card got it, or would have, and
	// its response, nil where the card does not answer. They are the card's and
	// change after the call.
	Exchange func(capdu, rapdu []byte)
	// Restart is called where the card lost what it keeps in RAM: by a reset, with
	// its power, or out of its reader.
	Restart func()
	// Fault is called at each strike of a fault; at the first one alone of a fault
	// that strikes always by its kind.
	Fault func(fault.Strike)
}

// WithObserver has o told what happens to the card, as Observe does.
func WithObserver(o Observer) Option { return func(c *Card) { c.observers = append(c.observers, o) } }

// Observe has o told what happens to the card from now on.
func (c *Card) Observe(o Observer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observers = append(c.observers, o)
}

// OnFault has fn called at each strike of a fault: Observer.Fault.
func OnFault(fn func(fault.Strike)) Option { return WithObserver(Observer{Fault: fn}) }

func (c *Card) struck(s fault.Strike) {
	for _, o := range c.observers {
		if o.Fault != nil {
			o.Fault(s)
		}
	}
}

func (c *Card) restarted() {
	for _, o := range c.observers {
		if o.Restart != nil {
			o.Restart()
		}
	}
}

func (c *Card) exchanged(capdu, rapdu []byte) {
	for _, o := range c.observers {
		if o.Exchange != nil {
			o.Exchange(capdu, rapdu)
		}
	}
}

// Inject arms a fault beside those armed before, and gives its id. The error
// matches fault.ErrInvalid.
func (c *Card) Inject(f Fault) (id int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults.Add(f)
}

// Faults lists the faults that are armed.
func (c *Card) Faults() []fault.Armed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults.List()
}

// ClearFault disarms the fault of that id; 0: all. It reports whether there was
// one.
func (c *Card) ClearFault(id int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults.Clear(id)
}

// Counts are how many commands the card was given, how many persistent writes it
// began, and how many resets and power-ons it has seen.
func (c *Card) Counts() (apdus, writes, resets int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults.Counts()
}

// Powered reports whether the card has power.
func (c *Card) Powered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.powered
}

// arm arms the image's faults and those of WithFaults.
func (c *Card) arm() error {
	if r := c.image.Runtime; r != nil {
		c.armed = append(r.Faults[:len(r.Faults):len(r.Faults)], c.armed...)
	}
	for _, f := range c.armed {
		if _, err := c.faults.Add(f); err != nil {
			return err
		}
	}
	c.armed = nil
	return nil
}

// write has the memory hold next, and gives what it holds then, which after a
// power cut may be what it held before.
func (c *Card) write(next *Image) (held *Image, err error) {
	f := c.faults.Write()
	switch f.Kind {
	case fault.WriteFails, fault.WornOut:
		return nil, errWrite
	case fault.CutBefore:
		c.cut = &f
		return nil, errWrite
	case fault.CutTorn:
		c.cut = &f
		return c.tear(next, f.Bytes)
	case fault.CutAfter:
		c.cut = &f
	}
	err = c.save(next)
	if errors.Is(err, ErrInDoubt) {
		c.cut, err = &Fault{Away: time.Second}, nil // as if it had lost its power
	}
	return next, err
}

// tear has the power go when n bytes of next are written. What the memory then
// holds is what the Store says; without one that can tell, what it held before.
func (c *Card) tear(next *Image, n int) (*Image, error) {
	s, tears := c.store.(TornStore)
	if !tears {
		return nil, errWrite
	}
	b, err := next.Marshal()
	if err != nil {
		return nil, err
	}
	held, err := s.Tear(b, n)
	if err != nil {
		return nil, err
	}
	return reread(held, c.material.servers)
}

// outcome is what leaves the card of a command, and when.
type outcome struct {
	rapdu []byte // nil: none
	mute  bool   // it is in its reader and has power, and does not answer
	delay time.Duration
	left  <-chan struct{} // closed when it leaves its reader
}

// edge has a command pass the faults on its way to the card and back.
func (c *Card) edge(capdu []byte) outcome {
	if _, away := c.away(); away || !c.powered {
		return outcome{}
	}
	v := c.faults.Begin(capdu)
	if !v.Skip {
		capdu = v.CAPDU
	}
	out := c.pass(v)
	c.exchanged(capdu, out.rapdu)
	return out
}

func (c *Card) pass(v fault.Verdict) outcome {
	rapdu := v.Answer
	if !v.Skip {
		rapdu = c.exchange(v.CAPDU)
	}
	switch {
	case c.cut != nil:
		c.faults.End(nil)
		c.remove(c.cut.Away)
		c.cut = nil
		return outcome{}
	case v.Leave:
		c.remove(v.Away)
		return outcome{}
	case rapdu == nil:
		return outcome{mute: true}
	}
	out := c.faults.End(rapdu)
	if out.Leave {
		c.remove(out.Away)
		return outcome{}
	}
	return outcome{rapdu: out.Answer, mute: out.Answer == nil, delay: out.Delay}
}
