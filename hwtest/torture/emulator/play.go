package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// play is one sequence on a card.
type play struct {
	*torment
	es10       es10
	intent     *intent          // of the command that the terminal sends now
	seen       *appletsim.Image // after the last command: nothing else changes it
	held       []byte           // by the memory before the command under way
	last       []byte           // what an operate sent last
	owed       *intent          // authorised by the last operate, not carried out yet
	at         int              // step
	channels   [4]bool          // opened by the player
	violations []violation
}

// run plays q, and gives what it broke. What panics is a violation too.
func (t *torment) run(q sequence) (violations []violation) {
	p := &play{torment: t}
	defer func() {
		if r := recover(); r != nil {
			violations = append(p.violations, violation{answers, p.at, fmt.Sprintf("panic: %v", r)})
		}
	}()
	if err := t.restore(q.Personality); err != nil {
		return []violation{{coherent, 0, err.Error()}}
	}
	p.seen = p.now()
	for i, s := range q.Steps {
		p.at = i
		p.do(s)
		if len(p.violations) > 0 {
			return p.violations // what follows says nothing new
		}
	}
	p.at = len(q.Steps)
	p.checkViews()
	return p.violations
}

func (p *play) do(s step) {
	switch {
	case s.Fault != nil:
		if _, err := p.card.Inject(*s.Fault); err != nil && len(p.card.Faults()) < fault.MaxArmed {
			p.violate(answers, "%v", err)
		}
	case s.Restart == "reset":
		p.card.Reset()
		p.restarted()
	case s.Restart == "power":
		p.card.Power(false)
		p.card.Power(true)
		p.restarted()
	case s.Restart == "insert":
		p.card.Remove()
		p.card.Insert()
		p.restarted()
	case s.Operate != nil:
		p.operate(s.Operate)
	case s.Replay:
		if p.last != nil { // where it was lost on the way, its session may still stand
			p.intent = p.owed
			p.send(p.last)
			p.intent = nil
		}
	default:
		b, err := hex.DecodeString(s.APDU)
		if err != nil {
			p.violate(answers, "the step is no APDU: %v", err)
			return
		}
		p.send(b)
	}
}

func (p *play) restarted() {
	p.es10.restart()
	p.channels = [4]bool{}
}

// send sends one command, and checks what came of it. The response is nil where
// there is none.
func (p *play) send(capdu []byte) []byte {
	p.got, p.cuts, p.struck, p.memory.written = nil, nil, 0, nil
	p.held = p.memory.holds
	restarts := p.restarts
	before := p.seen
	rapdu := p.card.Process(capdu)
	got := capdu
	if len(p.got) > 0 {
		got = p.got[0]
	}
	p.seen = p.now()
	p.check(got, before, p.seen)
	_, away := p.card.Away()
	if p.restarts != restarts || away {
		p.restarted()
	}
	muted := slices.ContainsFunc(p.card.Faults(), func(a fault.Armed) bool { return a.Fault.Kind == fault.Mute && a.Strikes > 0 })
	if p.struck == 0 && len(rapdu) < 2 && !away && !muted && p.card.Powered() {
		p.violate(answers, "%X: %X", capdu, rapdu)
	}
	if away {
		p.card.Insert() // whoever pulled it puts it back
		p.restarted()
	}
	return rapdu
}

// line is the card as a terminal's connection.
type line struct {
	*play
	short bool
}

// Transmit implements apdu.Transmitter.
func (l line) Transmit(_ context.Context, capdu []byte) ([]byte, error) {
	if len(capdu) > 1 && (capdu[1] == card.INSDeactivate || capdu[1] == card.INSActivate) {
		l.last = slices.Clone(capdu)
	}
	rapdu := l.send(capdu)
	if rapdu == nil {
		return nil, apdu.ErrCardRemoved
	}
	return rapdu, nil
}

// ATR implements apdu.Conn.
func (l line) ATR() []byte {
	if l.short {
		return nil
	}
	return l.card.ATR()
}

// Reset implements apdu.Conn.
func (l line) Reset(context.Context) error { return nil }

// Close implements apdu.Conn.
func (l line) Close() error { return nil }

// operate is a session, as far as it comes.
func (p *play) operate(o *operate) {
	ctx := context.Background()
	ch := apdu.BasicChannel(line{p, o.Short})
	if o.Channel > 0 {
		opened, err := ch.Open(ctx)
		if err != nil {
			return
		}
		defer func() { _ = opened.Close(ctx) }() // the card may have restarted
		ch = opened
	}
	im := p.card.Image()
	cmd := card.Command{INS: o.INS, RequestID: id.RequestID{o.Request, 1}, Counter: im.EventCounter + uint32(o.Behind)}
	if on, _ := enabled(im); on != nil {
		cmd.Operator = on.Owner
	}
	if o.Profile >= 0 && o.Profile < profiles {
		iccid := p.initial["plain"].Profiles[o.Profile]
		cmd.ICCID, cmd.Operator = &iccid.ICCID, iccid.Owner
	} else if o.INS == card.INSActivate {
		return // it must name one
	}
	if o.Other {
		cmd.Operator[1] ^= 0x10
	}
	target := p.target
	target.Suite = cryptogram.Suite(o.Suite)
	terminal := *p.terminal
	if o.Impostor {
		terminal.Keys.Auth = spoilt(terminal.Keys.Auth)
	}
	if o.Reads {
		p.reads(ctx, &terminal, ch, target)
		return
	}
	_, _ = terminal.Attempt(ctx, ch, target, card.Attempt{ // what came of it stands in the memory
		Command: cmd, Recorded: im.EventCounter,
		BeforeSend: func(context.Context) error {
			if !o.Impostor { // who may think it has a session where a fault says 9000
				p.intent = &intent{o.INS, o.Suite, cmd.ICCID, cmd.Operator, cmd.Counter}
				p.owed = p.intent
			}
			return nil
		},
	})
	p.intent = nil
}

// reads is a session that is authorised to read alone.
func (p *play) reads(ctx context.Context, terminal *card.Terminal, ch *apdu.Channel, target card.Target) {
	if _, err := card.Select(ctx, ch); err != nil {
		return
	}
	s, err := terminal.Authenticate(ctx, ch, target, [32]byte{})
	if err != nil {
		return
	}
	st, err := s.Status(ctx)
	if err != nil {
		return
	}
	im := p.now()
	same := st.EventCounter == im.EventCounter && len(st.Profiles) == len(im.Profiles)
	for _, q := range st.Profiles {
		have := find(im, q.ICCID)
		same = same && have != nil && string(have.State) == q.State.String()
	}
	if !same {
		p.violate(coherent, "GET STATUS says %v, the memory %v", st, states(im))
	}
}

// spoilt are keys whose operation gives a wrong value.
func spoilt(keys []cryptogram.PrivateKey) (out []cryptogram.PrivateKey) {
	for _, k := range keys {
		out = append(out, wrongKey{k})
	}
	return out
}

type wrongKey struct{ cryptogram.PrivateKey }

// Private implements cryptogram.PrivateKey, wrongly; PrivateTo says that it is
// checked.
func (k wrongKey) Private(_ context.Context, c []byte) ([]byte, error) {
	return make([]byte, len(c)), nil
}

func (k wrongKey) PrivateTo(_ context.Context, dst, _ []byte) error { clear(dst); return nil }
