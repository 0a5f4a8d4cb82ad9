package ccidsim

import (
	"bytes"
	"context"
)

// Procedure bytes (ISO/IEC 7816-3 §10.3.3).
const procedureNull = 0x60

const insGetResponse = 0xC0

// t0 is the card's side of T=0 (ISO/IEC 7816-3 §10), with what §12.2 has above
// it: 61xx and GET RESPONSE, 6Cxx, for a card whose own responses are whole.
type t0 struct {
	line *line

	single bool // it passes data byte by byte

	in []byte // header and data, as far as they came
	// direction tells whether data of the host's follows a header. A reader that
	// has the whole command TPDU knows.
	direction func(header []byte) bool

	waiting []byte // data for GET RESPONSE
	sw      []byte // and the status word after it

	header []byte // of a command that was answered with 6Cxx
	kept   []byte // and its response APDU
}

// p3 is Ne of an outgoing command.
func p3(header []byte) int {
	if header[4] == 0 {
		return 256
	}
	return int(header[4])
}

// receive takes bytes; a header is 5 of them.
func (t *t0) receive(b []byte) {
	for _, v := range b {
		t.receiveByte(v)
	}
}

func (t *t0) receiveByte(v byte) {
	t.in = append(t.in, v)
	if len(t.in) < 5 {
		return
	}
	header := t.in[:5]
	if len(t.in) == 5 {
		switch {
		case !t.direction(header):
			t.begin(header)
		case header[4] == 0: // case 1
			t.begin(header[:4])
		default:
			t.wants(header[1])
		}
		return
	}
	if len(t.in) == 5+int(header[4]) {
		t.begin(t.in)
	} else if t.single {
		t.wants(header[1])
	}
}

// wants asks for all of the data, or for its next byte.
func (t *t0) wants(ins byte) {
	if t.single {
		ins = ^ins
	}
	t.line.emit([]byte{ins})
}

// begin has the card carry out a command, but for those that are about the
// command before.
func (t *t0) begin(capdu []byte) {
	t.in = nil
	waiting, sw, header, kept := t.waiting, t.sw, t.header, t.kept
	t.waiting, t.sw, t.header, t.kept = nil, nil, nil, nil
	t.line.received = capdu
	switch {
	case len(capdu) == 5 && capdu[1] == insGetResponse && waiting != nil:
		t.getResponse(capdu, waiting, sw)
	case len(capdu) == 5 && kept != nil && bytes.Equal(capdu[:4], header[:4]) && p3(capdu) == len(kept)-2:
		t.give(capdu, kept)
	default:
		t.header = capdu
		t.line.process(capdu)
	}
}

func (t *t0) getResponse(header, waiting, sw []byte) {
	n := p3(header)
	if n > len(waiting) {
		t.waiting, t.sw = waiting, sw
		t.line.emit([]byte{0x6C, byte(len(waiting))})
		return
	}
	rest := waiting[n:]
	if len(rest) > 0 {
		t.waiting, t.sw = rest, sw
		sw = more(rest)
	}
	t.give(header, append(waiting[:n:n], sw...))
}

// more is 61xx.
func more(rest []byte) []byte { return []byte{0x61, byte(min(len(rest), 256))} }

// give sends a procedure byte, the data and the status word.
func (t *t0) give(header, rapdu []byte) {
	if !t.single {
		t.line.emit(append([]byte{header[1]}, rapdu...))
		return
	}
	n := len(rapdu) - 2
	var b []byte
	for _, v := range rapdu[:n] {
		b = append(b, ^header[1], v)
	}
	t.line.emit(append(b, rapdu[n:]...))
}

// respond sends a response APDU in the way that the protocol has for the command.
func (t *t0) respond(rapdu []byte) {
	capdu := t.header
	t.header = nil
	if len(rapdu) < 2 {
		t.line.emit(rapdu)
		return
	}
	data, sw := rapdu[:len(rapdu)-2], rapdu[len(rapdu)-2:]
	switch {
	case len(data) == 0:
		t.line.emit(sw)
	case len(capdu) != 5, len(data) > 256: // with the host's data, or more than one answer holds
		t.waiting, t.sw = data, sw
		t.line.emit(more(data))
	case len(data) == p3(capdu):
		t.give(capdu, rapdu)
	default:
		t.header, t.kept = capdu, rapdu
		t.line.emit([]byte{0x6C, byte(len(data))})
	}
}

// hasData tells, as a T=0 card must by the header alone, whether data of the
// host's follows. Under secure messaging it always does.
func hasData(header []byte) bool {
	switch cla := header[0]; {
	case cla&0x40 == 0 && cla&0x0C != 0 && cla&0x20 == 0, cla&0x60 == 0x60 && cla != 0xFF:
		return header[4] != 0
	}
	switch header[1] {
	case 0x70: // MANAGE CHANNEL: open has an answer
		return header[2] == 0x80
	case 0x12, 0x84, 0xB0, 0xB2, insGetResponse, 0xCA, 0xF2:
		return false
	}
	return true
}

// tpdu has the reader carry out one T=0 command TPDU: a header, and the host's
// data where there is some. It gives the data and the status word.
func (l *line) tpdu(ctx context.Context, command []byte, fd byte) ([]byte, slotError) {
	known := len(command) != 5
	if len(command) == 4 {
		command = append(command[:4:4], 0)
	}
	if len(command) < 5 || len(command) > 5 && len(command) != 5+int(command[4]) {
		return nil, errLength
	}
	ins, data := command[1], command[5:]
	var got []byte
	need := 0
	if len(data) == 0 {
		need = p3(command)
	}
	l.sent = nil
	if l.t0.in = nil; l.protocol == 0 {
		defer func(d func([]byte) bool) { l.t0.direction = d }(l.t0.direction)
		l.t0.direction = func([]byte) bool { return known }
	}
	l.write(command[:5], fd)
	for {
		b, err := l.read(ctx)
		if err != errNone {
			return nil, err
		}
		for len(b) > 0 {
			p := b[0]
			b = b[1:]
			switch {
			case p == procedureNull: // the card works; so must the host be told
				l.slot.extend(ctx)
			case p == ins, p == ^ins:
				n := 1
				if p == ins {
					n = max(len(data), need-len(got))
				}
				if len(command) > 5 {
					n = min(n, len(data))
					l.write(data[:n], fd)
					data = data[n:]
					break
				}
				for len(b) < n {
					more, err := l.read(ctx)
					if err != errNone {
						return nil, err
					}
					b = append(b, more...)
				}
				got, b = append(got, b[:n]...), b[n:]
			case p&0xF0 == 0x60, p&0xF0 == 0x90:
				for len(b) < 1 {
					more, err := l.read(ctx)
					if err != errNone {
						return nil, err
					}
					b = append(b, more...)
				}
				return append(got, p, b[0]), errNone
			default:
				return nil, errProcedure
			}
		}
	}
}
