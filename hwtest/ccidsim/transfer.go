package ccidsim

import "context"

// wLevelParameter and bChainParameter at the extended APDU level (CCID §6.1.4,
// §6.2.1).
const (
	chainWhole  = 0x00
	chainFirst  = 0x01
	chainLast   = 0x02
	chainMiddle = 0x03
	chainEmpty  = 0x10
)

const errLevel slotError = 8 // wLevelParameter

// transfer is PC_to_RDR_XfrBlock.
func (s *slot) transfer(ctx context.Context, m message) (reply, slotError) {
	s.device.mu.Lock()
	l, p, class := s.line, s.params, s.class
	s.stopped = false // the reader starts the clock again by itself
	s.device.mu.Unlock()
	if l == nil || ctx.Err() != nil {
		return reply{}, errMute
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if class == 0 {
		class = 0xFF
	}
	var data []byte
	var err slotError
	switch s.device.cfg.Level {
	case Character:
		data, err = s.characters(ctx, l, p, m)
	case TPDU:
		data, err = s.block(ctx, l, p, m)
	case ShortAPDU:
		if c := m.data(); len(c) < 4 || len(c) > 5 && c[4] == 0 {
			return reply{}, errLength
		}
		data, err = l.apdu(ctx, p, class, m.data())
	case ExtendedAPDU:
		return l.chained(ctx, p, class, m)
	}
	if room := s.device.cfg.MaxMessage - headerSize; err == errNone && len(data) > room {
		return reply{}, errOverrun
	}
	return reply{data: data}, err
}

// characters sends bytes and gives as many as the host asks for, at most: the
// ones that have come.
func (s *slot) characters(ctx context.Context, l *line, p params, m message) ([]byte, slotError) {
	l.write(m.data(), p.fd)
	n := int(m.level())
	if n == 0 {
		return nil, errNone
	}
	b, err := l.read(ctx)
	if len(b) > n {
		l.sent = append(l.sent, b[n:]...)
		b = b[:n]
	}
	return b, err
}

// block is an exchange at the TPDU level: a PPS, a T=1 block, a T=0 command.
func (s *slot) block(ctx context.Context, l *line, p params, m message) ([]byte, slotError) {
	b := m.data()
	pps := len(b) > 0 && b[0] == 0xFF && l.fresh
	switch {
	case m.level() != 0:
		return nil, errLevel
	case len(b) == 0:
		return nil, errLength
	case p.protocol == 0 && !pps:
		return l.tpdu(ctx, b, p.fd)
	}
	l.sent = nil
	l.write(b, p.fd)
	answer, err := l.read(ctx)
	if err == errNone && !pps && len(answer) > 3+s.device.cfg.MaxIFSD+2 {
		return nil, errOverrun
	}
	return answer, err
}

// apdu is an exchange at the APDU levels, where the reader has the protocol;
// class is that of its GET RESPONSE, FF the command's own.
func (l *line) apdu(ctx context.Context, p params, class byte, capdu []byte) ([]byte, slotError) {
	extended := len(capdu) > 5 && capdu[4] == 0
	if p.protocol == 1 || extended { // in T=0 an extended one goes by ENVELOPE, which nobody outside sees
		return l.exchange(ctx, capdu)
	}
	// ISO/IEC 7816-3 §12.2: a case 4 command leaves without its Le, and fetches
	// that by GET RESPONSE.
	command, le := capdu, 0
	switch n := len(capdu); {
	case n == 5:
		le = p3(capdu)
	case n > 5 && n == 6+int(capdu[4]):
		if le = int(capdu[n-1]); le == 0 {
			le = 256
		}
		command = capdu[:n-1]
	}
	var data []byte
	for range 256 { // each round gives a byte at least, but for a 6Cxx
		b, err := l.tpdu(ctx, command, p.fd)
		if err != errNone || len(b) < 2 {
			return b, err
		}
		sw1, sw2 := b[len(b)-2], b[len(b)-1]
		data = append(data, b[:len(b)-2]...)
		switch {
		case sw1 == 0x6C && len(command) == 5:
			command = append(command[:4:4], sw2)
		case sw1 == 0x61 && len(data) < le && len(capdu) > 5:
			cla := class
			if cla == 0xFF {
				cla = capdu[0]
			}
			n := min(le-len(data), 256)
			if sw2 != 0 {
				n = min(n, int(sw2))
			}
			command = []byte{cla, insGetResponse, 0, 0, byte(n)}
		default:
			return append(data, sw1, sw2), errNone
		}
	}
	return nil, errHardware
}

// chained is an exchange at the extended APDU level, where an APDU may take
// several messages.
func (l *line) chained(ctx context.Context, p params, class byte, m message) (reply, slotError) {
	switch level := m.level(); level {
	case chainEmpty:
		if l.rest == nil || len(m.data()) > 0 {
			return reply{}, errLevel
		}
		return l.next(chainMiddle, chainLast), errNone
	case chainWhole, chainFirst:
		l.command = nil
	case chainMiddle, chainLast:
		if l.command == nil {
			return reply{}, errLevel
		}
	default:
		return reply{}, errLevel
	}
	l.rest = nil
	if len(l.command)+len(m.data()) > maxCommand {
		l.command = nil
		return reply{}, errOverrun
	}
	l.command = append(l.command, m.data()...)
	if level := m.level(); level == chainFirst || level == chainMiddle {
		return reply{last: chainEmpty}, errNone
	}
	capdu := l.command
	l.command = nil
	if len(capdu) < 4 {
		return reply{}, errLength
	}
	rapdu, err := l.apdu(ctx, p, class, capdu)
	if err != errNone {
		return reply{}, err
	}
	l.rest = rapdu
	return l.next(chainFirst, chainWhole), errNone
}

// next gives what a message holds of the response APDU.
func (l *line) next(more, end byte) reply {
	room := l.slot.device.cfg.MaxMessage - headerSize
	if len(l.rest) <= room {
		r := reply{data: l.rest, last: end}
		l.rest = nil
		return r
	}
	r := reply{data: l.rest[:room], last: more}
	l.rest = l.rest[room:]
	return r
}
