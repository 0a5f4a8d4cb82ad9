package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/atr"
)

// bestSpeed is the fastest speed that a card which takes most and a reader take:
// the reader's clock, kHz, its highest rate and the rates that it lists, bit/s
// (none: any up to the highest). An interface device may propose less than TA1
// says (ISO/IEC 7816-3 §9.2).
func bestSpeed(most atr.Speed, kHz, highest int, rates []uint32) atr.Speed {
	best := atr.DefaultSpeed
	if !most.Valid() {
		return best
	}
	taken := func(s atr.Speed) bool {
		baud := s.Baud(kHz)
		if baud > float64(highest)*1.005 || kHz > s.MaxClock() && s.F() != 372 {
			return false
		}
		for _, r := range rates {
			if math.Abs(float64(r)-baud) <= baud*0.005 {
				return true
			}
		}
		return len(rates) == 0
	}
	for _, fi := range []int{int(most >> 4), 1} {
		for di := range 16 {
			s := atr.NewSpeed(fi, di)
			if s.Valid() && s.D() <= most.D() && s.Baud(kHz) <= most.Baud(kHz) && s.Baud(kHz) > best.Baud(kHz) && taken(s) {
				best = s
			}
		}
	}
	return best
}

// parameters is the protocol data structure of CCID 1.1 §6.1.7.
func parameters(a atr.ATR, p Protocol, s atr.Speed) []byte {
	convention := byte(0)
	if a.Inverse {
		convention = 0x02
	}
	guard, stop := byte(a.ExtraGuardTime()), byte(a.ClockStop())
	if p == T0 {
		return []byte{byte(s), convention, guard, byte(a.WI()), stop}
	}
	t1 := a.T1()
	checksum := 0x10 | convention
	if t1.CRC {
		checksum |= 0x01
	}
	return []byte{byte(s), checksum, guard, byte(t1.BWI<<4 | t1.CWI), stop, byte(t1.IFSC), 0}
}

// choose gives the protocol to use: what the options ask for, else T=1, else T=0,
// of those that card and reader have. In specific mode it is the card's.
func (c *Conn) choose(a atr.ATR) (Protocol, error) {
	want := []Protocol{c.options.Protocol}
	if c.options.Protocol == AnyProtocol {
		want = []Protocol{T1, T0}
	}
	specific, fixed := a.Specific()
	for _, p := range want {
		offered := a.Offers(p.number())
		if fixed {
			offered = specific.T == p.number()
		}
		if offered && c.device.desc.Speaks(p.number()) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("%w: the card offers T=%v, the reader's dwProtocols is %X, wanted is %v",
		ErrProtocol, a.Protocols(), c.device.desc.ProtocolSet, c.options.Protocol)
}

// errPPS says that a PPS failed, or that the reader does not take what the card
// agreed to: the card needs a reset and speaks its first protocol at the default
// speed.
var errPPS = errors.New("PPS failed")

// negotiate agrees with card and reader on protocol and speed after a reset. Where
// that fails, it takes the card's power once and goes on without a PPS.
func (c *Conn) negotiate(ctx context.Context, a atr.ATR) (atr.ATR, error) {
	err := c.agree(ctx, a, true)
	if !errors.Is(err, errPPS) {
		return a, err
	}
	if err := c.slot.powerOff(ctx); err != nil {
		return a, err
	}
	if a, err = c.answerToReset(ctx); err != nil {
		return a, err
	}
	return a, c.agree(ctx, a, false)
}

// agree is negotiate without the second try; mayPPS is false where the card has
// shown that it does not take one.
func (c *Conn) agree(ctx context.Context, a atr.ATR, mayPPS bool) error {
	desc := &c.device.desc
	protocol, err := c.choose(a)
	if err != nil {
		return err
	}
	features := desc.Features
	byReader := features&(AutoNegotiation|AutoPPS) != 0
	specific, fixed := a.Specific()
	speed := atr.DefaultSpeed
	switch {
	case fixed && specific.Implicit:
	case fixed:
		speed = a.TA1()
	case mayPPS:
		speed = bestSpeed(a.TA1(), desc.Clock(), desc.Rate(), c.device.dataRates(ctx))
	}
	if !fixed && !byReader && features.Level() <= TPDU {
		change := protocol.number() != a.First() || speed != atr.DefaultSpeed
		switch {
		case change && mayPPS:
			if speed, err = c.pps(ctx, protocol, speed); err != nil {
				return err
			}
		case change: // without a PPS the card's first protocol is all there is
			if c.options.Protocol != AnyProtocol || a.First() > 1 || !desc.Speaks(a.First()) {
				return fmt.Errorf("%w: the card refuses the PPS to %v", ErrProtocol, protocol)
			}
			protocol = T0
			if a.First() == 1 {
				protocol = T1
			}
		}
	}
	if protocol, err = c.configure(ctx, a, protocol, speed); err != nil {
		if mayPPS && !fixed && speed != atr.DefaultSpeed && isCode(err) {
			err = fmt.Errorf("%w: %w", errPPS, err)
		}
		return err
	}
	c.protocol, c.speed = protocol, speed
	c.t1 = nil
	if protocol == T1 && features.Level() <= TPDU {
		ifsd := desc.IFSD()
		if features&AutoIFSD != 0 {
			ifsd = 0
		}
		c.t1 = newT1(a.T1(), ifsd, desc.MaxMessage())
		c.t1.exchange = c.block
	}
	return nil
}

// configure tells the reader what it does not know yet, and gives the protocol
// that it uses.
func (c *Conn) configure(ctx context.Context, a atr.ATR, p Protocol, s atr.Speed) (Protocol, error) {
	desc := &c.device.desc
	want := parameters(a, p, s)
	t, now, err := c.slot.getParameters(ctx)
	known := err == nil
	if err != nil && !isCode(err) {
		return 0, err
	}
	same := known && t == p.number()
	if same && (bytes.Equal(now, want) || desc.Features&AutoNegotiation != 0) {
		return p, nil
	}
	if err := c.slot.setParameters(ctx, p.number(), want); err != nil {
		switch {
		case !isCode(err):
			return 0, err
		case same && desc.Features.Level() >= ShortAPDU: // it sees to the rest by itself
			return p, nil
		case known && t <= 1 && desc.Features.Level() >= ShortAPDU && c.options.Protocol == AnyProtocol:
			return [...]Protocol{T0, T1}[t], nil
		}
		return 0, fmt.Errorf("the reader does not take %v at %v: %w", p, s, err)
	}
	if desc.Features&(AutoBaud|AutoClock) == 0 && s != atr.DefaultSpeed {
		if err := c.slot.setRate(ctx, uint32(desc.Clock()), uint32(s.Baud(desc.Clock()))); err != nil && !isCode(err) {
			return 0, err
		}
	}
	return p, nil
}

// isCode reports whether err says that the reader refused a command, and no more.
func isCode(err error) bool {
	var code Code
	return errors.As(err, &code) && !errors.Is(err, apdu.ErrCardRemoved)
}

// pps proposes a protocol and a speed to the card, and gives the speed that it
// takes (ISO/IEC 7816-3 §9). Its error matches errPPS where card and reader are
// there yet.
func (c *Conn) pps(ctx context.Context, p Protocol, s atr.Speed) (atr.Speed, error) {
	const ppss, pps1Follows = 0xFF, 0x10
	request := []byte{ppss, byte(p.number()), 0}[:2]
	if s != atr.DefaultSpeed {
		request[1] |= pps1Follows
		request = append(request, byte(s))
	}
	request = append(request, atr.Checksum(request))
	answer, err := c.ppsExchange(ctx, request)
	switch {
	case err != nil && (isCode(err) || errors.Is(err, ErrReader) && c.device.lost() == nil):
		return 0, fmt.Errorf("%w: %w", errPPS, err)
	case err != nil:
		return 0, err
	case bytes.Equal(answer, request):
		return s, nil
	case len(answer) == 3 && answer[0] == ppss && answer[1] == byte(p.number()) && atr.Checksum(answer) == 0:
		return atr.DefaultSpeed, nil // PPS1 is left out: F=372, D=1 (§9.3)
	}
	return 0, fmt.Errorf("%w: the card answers % X to % X", errPPS, answer, request)
}

func (c *Conn) ppsExchange(ctx context.Context, request []byte) ([]byte, error) {
	if c.device.desc.Features.Level() == TPDU {
		a, err := c.slot.transfer(ctx, request, 0, 0)
		return bytes.Clone(a.data), err
	}
	head, err := c.characters(ctx, request, 2)
	if err != nil {
		return nil, err
	}
	n := 1 // PCK
	for bit := 4; bit < 7; bit++ {
		n += int(head[1] >> bit & 1)
	}
	rest, err := c.characters(ctx, nil, n)
	return append(head, rest...), err
}
