package ccidsim

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"
)

// line is a powered card's end of the I/O line: what it receives, byte by byte or
// in blocks, and what it sends. Its mutex is held for an exchange.
type line struct {
	slot *slot
	card Card
	atr  atr

	mu       sync.Mutex
	fresh    bool // nothing received since the reset
	protocol byte
	fd       byte // the rate that it sends and receives at
	t0       *t0
	t1       *t1

	received []byte      // in answer to which it sends
	sent     []byte      // and which the reader has not read
	job      chan []byte // the command APDU under way; nil for none
	mute     bool        // until the next reset

	command []byte // extended level: command APDU of which the rest is to come
	rest    []byte // and response APDU of which the host has had the beginning
}

func newLine(s *slot, card Card, a atr) *line {
	l := &line{slot: s, card: card, atr: a, fresh: true, protocol: a.first(), fd: defaultFD}
	if a.specific {
		l.fd = a.fd
	}
	l.t0 = &t0{line: l, direction: hasData, single: s.device.cfg.SingleBytes}
	if d := s.device.cfg.HasData; d != nil {
		l.t0.direction = d
	}
	l.t1 = &t1{line: l, ifsc: a.ifsc, ifsd: defaultIFSD, crc: a.crc}
	return l
}

// agree is a PPS that the reader does by itself; it gives the Fi and Di that both
// then have.
func (l *line) agree(protocol, fd byte) byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fresh && !l.atr.specific {
		l.protocol = protocol
		if fd == l.atr.fd {
			l.fd = fd
		}
	}
	return l.fd
}

// write has the card receive bytes at the reader's rate. A card that is mute, or
// listens at another rate, does not.
func (l *line) write(b []byte, fd byte) {
	if l.mute || len(b) == 0 {
		return
	}
	if fd != l.fd {
		l.mute = true
		return
	}
	fresh := l.fresh
	l.fresh = false
	l.received = bytes.Clone(b)
	switch {
	case fresh && b[0] == 0xFF && !l.atr.specific:
		l.pps(l.received)
	case l.protocol == 1:
		l.t1.receive(l.received)
	default:
		l.job = nil // the reader gave up the command before: its answer is lost
		l.t0.receive(l.received)
	}
}

// pps answers to a PPS request (ISO/IEC 7816-3 §9); a card that does not
// understand one is silent.
func (l *line) pps(b []byte) {
	if len(b) < 3 || xor(b) != 0 {
		l.mute = true
		return
	}
	pps0 := b[1]
	protocol := pps0 & 0x0F
	size := 3
	for bit := byte(0x10); bit <= 0x40; bit <<= 1 {
		if pps0&bit != 0 {
			size++
		}
	}
	if len(b) != size || !slices.Contains(l.atr.protocols, protocol) {
		l.mute = true
		return
	}
	// Only PPS1 is taken, and only with what TA1 says; without, the default rate
	// holds.
	out := []byte{0xFF, protocol}
	fd := byte(defaultFD)
	if pps0&0x10 != 0 && (b[2] == l.atr.fd || b[2] == defaultFD) {
		fd = b[2]
		out[1] |= 0x10
		out = append(out, fd)
	}
	l.emit(append(out, xor(out)))
	l.protocol, l.fd = protocol, fd
}

// emit has the card send.
func (l *line) emit(b []byte) {
	if hook := l.slot.device.currentHooks().Line; hook != nil {
		b = hook(l.slot.number, l.received, b)
	}
	l.sent = append(l.sent, b...)
}

// process has the card begin a command APDU.
func (l *line) process(capdu []byte) {
	job := make(chan []byte, 1)
	l.job = job
	go func() { job <- l.slot.process(l, capdu) }()
}

// read waits until the card has sent something, which is given. It fails where
// the card is mute, and where ctx ends.
func (l *line) read(ctx context.Context) ([]byte, slotError) {
	err := l.await(ctx, func() bool { return len(l.sent) > 0 }, func(rapdu []byte) {
		if l.protocol == 1 {
			l.t1.respond(rapdu)
		} else {
			l.t0.respond(rapdu)
		}
	}, l.slot.device.cfg.CardExtension)
	b := l.sent
	l.sent = nil
	return b, err
}

// exchange has the card carry out a command APDU, and waits for its response,
// where the reader and the card have the protocol between themselves.
func (l *line) exchange(ctx context.Context, capdu []byte) (rapdu []byte, err slotError) {
	l.fresh = false
	if l.mute {
		return nil, l.silence(ctx)
	}
	l.process(capdu)
	err = l.await(ctx, func() bool { return rapdu != nil }, func(b []byte) { rapdu = b }, 0)
	return rapdu, err
}

// await lets the card work until done says so. respond gets its response APDU;
// every late, where not 0, the card asks for patience.
func (l *line) await(ctx context.Context, done func() bool, respond func([]byte), late time.Duration) slotError {
	if done() {
		return errNone
	}
	if l.job == nil || l.mute {
		return l.silence(ctx)
	}
	reader := time.NewTicker(l.slot.device.cfg.Extension)
	defer reader.Stop()
	var card <-chan time.Time
	if late > 0 {
		t := time.NewTicker(late)
		defer t.Stop()
		card = t.C
	}
	for !done() {
		select {
		case rapdu := <-l.job:
			l.job = nil
			if rapdu == nil {
				l.mute = true
				return l.silence(ctx)
			}
			respond(rapdu)
			if !done() {
				return l.silence(ctx) // a hook had the card send nothing
			}
		case <-card:
			if l.protocol == 1 {
				l.t1.extend()
			} else {
				l.emit([]byte{procedureNull})
			}
		case <-reader.C:
			l.slot.extend(ctx)
		case <-ctx.Done():
			return errMute
		}
	}
	return errNone
}

// silence is how long the reader waits for a card that is mute.
func (l *line) silence(ctx context.Context) slotError {
	if patience := l.slot.device.cfg.Patience; patience > 0 {
		sleep(ctx, patience)
	} else {
		<-ctx.Done()
	}
	return errMute
}
