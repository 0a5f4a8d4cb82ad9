package ccidsim

import (
	"context"
	"encoding/binary"
	"slices"
)

// params is abProtocolDataStructure (CCID §6.1.7): what the reader's end of the
// line is set to.
type params struct {
	protocol byte
	fd       byte // bmFindexDindex
	tccks    byte // convention, and in T=1 the kind of checksum
	guard    byte
	waiting  byte // WI in T=0, BWI and CWI in T=1
	stop     byte // bClockStop
	ifsc     byte // T=1
	nad      byte // T=1
}

// defaultParams are the ones after a reset; automatic: by the ATR.
func defaultParams(automatic bool, a atr) params {
	p := params{fd: defaultFD, waiting: 10}
	if !automatic {
		return p
	}
	p.protocol, p.guard = a.first(), a.guard
	if a.specific {
		p.fd = a.fd
	}
	if p.protocol == 1 {
		p.tccks, p.waiting, p.ifsc = 0x10, a.waiting, byte(a.ifsc)
		if a.crc {
			p.tccks |= 1
		}
	}
	return p
}

func (p params) bytes() []byte {
	if p.protocol == 1 {
		return []byte{p.fd, p.tccks, p.guard, p.waiting, p.stop, p.ifsc, p.nad}
	}
	return []byte{p.fd, p.tccks, p.guard, p.waiting, p.stop}
}

// setOrGet is PC_to_RDR_GetParameters, ResetParameters and SetParameters.
func (s *slot) setOrGet(ctx context.Context, m message) (reply, slotError) {
	d := s.device
	d.mu.Lock()
	l, p := s.line, s.params
	d.mu.Unlock()
	if l == nil || ctx.Err() != nil {
		return reply{}, errMute
	}
	var err slotError
	switch m.kind() {
	case resetParameters:
		p = defaultParams(d.cfg.Automatic&AutoConfig != 0, l.atr)
	case setParameters:
		if p, err = s.wanted(l, m); err != errNone {
			return reply{}, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() == nil {
		s.params = p
	}
	return reply{last: p.protocol, data: p.bytes()}, errNone
}

// wanted are the parameters that PC_to_RDR_SetParameters asks for.
func (s *slot) wanted(l *line, m message) (params, slotError) {
	p := params{protocol: m[7]}
	b := m.data()
	switch {
	case p.protocol > 1 || !slices.Contains(l.atr.protocols, p.protocol):
		return p, 7
	case p.protocol == 0 && len(b) != 5, p.protocol == 1 && len(b) != 7:
		return p, errLength
	}
	p.fd, p.tccks, p.guard, p.waiting, p.stop = b[0], b[1], b[2], b[3], b[4]
	if p.protocol == 1 {
		p.ifsc, p.nad = b[5], b[6]
	}
	cfg := &s.device.cfg
	if !cfg.takes(p.fd) {
		return p, headerSize // bmFindexDindex
	}
	if cfg.Automatic&(AutoPPS|AutoParameters) != 0 || cfg.Level == ShortAPDU || cfg.Level == ExtendedAPDU {
		// The reader's own PPS. A card that does not take the rate stays at the
		// default one, and so does the reader.
		p.fd = l.agree(p.protocol, p.fd)
	}
	return p, errNone
}

// The reader's clock, kHz and the Fi and Di that a card begins with.
const (
	clockKHz  = 4000
	defaultFD = 0x11
)

// Fi and Di by their indices; 0 is reserved (ISO/IEC 7816-3 §8.3).
var (
	fi = [16]int{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048}
	di = [16]int{0, 1, 2, 4, 8, 16, 32, 64, 12, 20}
)

// baud is the bits per second of a TA1, 0 for a reserved one.
func baud(fd byte) int {
	f, d := fi[fd>>4], di[fd&0x0F]
	if f == 0 {
		return 0
	}
	return clockKHz * 1000 * d / f
}

// takes reports whether the reader takes a TA1.
func (c *Config) takes(fd byte) bool { b := baud(fd); return b > 0 && b <= c.MaxBaud }

// rates are the data rates of the reader, ascending.
func (c *Config) rates() []int {
	var all []int
	for fd := range 256 {
		if c.takes(byte(fd)) {
			all = append(all, baud(byte(fd)))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// rate is abData of RDR_to_PC_DataRateAndClockFrequency: the reader keeps its
// own.
func (d *Device) rate() []byte {
	b := binary.LittleEndian.AppendUint32(nil, clockKHz)
	return binary.LittleEndian.AppendUint32(b, uint32(baud(defaultFD)))
}
