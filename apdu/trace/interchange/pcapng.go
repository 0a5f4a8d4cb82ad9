package interchange

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// pcapngSink writes GSMTAP SIM in UDP, IPv4 and Ethernet, a section for each
// session, whose comment has the header. A packet is a TPDU of T=0 as a sniffer
// hears it; resets are their ATR. Other events have no packet, and of what was
// redacted the packets have zeros.
type pcapngSink struct {
	w       io.Writer
	buf     []byte
	date    time.Time
	command []byte // waits for its response
	waits   bool
}

const frameHead = 14 + 20 + 8 + gsmtapHeader // bytes before the payload

func (s *pcapngSink) Begin(h trace.Header) error {
	s.date, s.waits = h.Date, false
	if h.Date.IsZero() {
		s.date = time.Unix(0, 0)
	}
	var comment []byte
	for _, f := range headerFields(h) {
		comment = fmt.Appendf(comment, "%s: %s\n", f[0], f[1])
	}
	b := s.begin(pcapngMagic)
	b = binary.LittleEndian.AppendUint32(b, pcapngOrder)
	b = binary.LittleEndian.AppendUint32(b, 1)          // version 1.0
	b = binary.LittleEndian.AppendUint64(b, ^uint64(0)) // of any length
	b = appendOption(b, 1, comment)
	b = appendOption(b, 4, []byte("cardbridge"))
	b = appendOption(b, 0, nil)
	if err := s.flush(b); err != nil {
		return err
	}
	b = s.begin(blockIface)
	b = binary.LittleEndian.AppendUint32(b, linkEthernet)
	b = binary.LittleEndian.AppendUint32(b, 0) // packets of any length
	return s.flush(b)
}

func (s *pcapngSink) Write(e trace.Entry) error {
	switch e.Kind {
	case trace.Command:
		s.command, s.waits = append(s.command[:0], e.Data...), len(e.Data) >= 4
	case trace.Response:
		if !s.waits || len(e.Data) < 2 {
			return nil
		}
		s.waits = false
		var err error
		emitTPDUs(s.command, e.Data, func(head [5]byte, data []byte, sw [2]byte) {
			if err == nil {
				err = s.packet(gsmtapAPDU, e.At, head[:], data, sw[:])
			}
		})
		return err
	case trace.Event:
		s.waits = false
		if (e.Name == trace.Connected || e.Name == trace.Reset) && len(e.Data) > 0 {
			return s.packet(gsmtapATR, e.At, e.Data)
		}
	}
	return nil
}

func (s *pcapngSink) Close() error { return nil }

func (s *pcapngSink) packet(subtype byte, at time.Duration, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > 65535-frameHead+14 { // bytes that are no command: such a one is a chain
		return nil
	}
	us := uint64(s.date.Add(at).UnixMicro())
	b := s.begin(blockPacket)
	b = binary.LittleEndian.AppendUint32(b, 0) // interface
	b = binary.LittleEndian.AppendUint32(b, uint32(us>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(us))
	b = binary.LittleEndian.AppendUint32(b, uint32(frameHead+n))
	b = binary.LittleEndian.AppendUint32(b, uint32(frameHead+n))

	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00) // Ethernet, IPv4 inside
	ip := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(frameHead-14+n))
	b = append(b, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
	binary.BigEndian.PutUint16(b[ip+10:], checksum(b[ip:]))
	b = binary.BigEndian.AppendUint16(b, gsmtapPort)
	b = binary.BigEndian.AppendUint16(b, gsmtapPort)
	b = binary.BigEndian.AppendUint16(b, uint16(8+gsmtapHeader+n))
	b = append(b, 0, 0) // no checksum
	b = append(b, 2, gsmtapHeader/4, gsmtapSIM, 0, 0, 0, 0, 0, 0, 0, 0, 0, subtype, 0, 0, 0)
	for _, p := range parts {
		b = append(b, p...)
	}
	for len(b)&3 != 0 {
		b = append(b, 0)
	}
	return s.flush(b)
}

// begin is a block without its length.
func (s *pcapngSink) begin(kind uint32) []byte {
	return append(binary.LittleEndian.AppendUint32(s.buf[:0], kind), 0, 0, 0, 0)
}

// flush writes a block with its length.
func (s *pcapngSink) flush(b []byte) error {
	n := uint32(len(b) + 4)
	binary.LittleEndian.PutUint32(b[4:], n)
	s.buf = binary.LittleEndian.AppendUint32(b, n)
	_, err := s.w.Write(s.buf)
	return err
}

func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)&3 != 0 {
		b = append(b, 0)
	}
	return b
}

// checksum is that of RFC 791.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(be16(b))
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	return ^uint16(sum)
}
