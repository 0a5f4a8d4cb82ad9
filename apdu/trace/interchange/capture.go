package interchange

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// The magic numbers of pcap, microseconds and nanoseconds, and of pcapng.
const (
	pcapMicros   = 0xA1B2C3D4
	pcapNanos    = 0xA1B23C4D
	pcapngMagic  = 0x0A0D0D0A // reads the same in either order
	pcapngOrder  = 0x1A2B3C4D
	blockIface   = 1
	blockOld     = 2 // Packet Block, obsolete
	blockSimple  = 3
	blockPacket  = 6
	maxPacket    = 1 << 18 // bytes that are looked at; a longer packet is passed over
	maxInterface = 256     // of one section
)

func captureFormat(head []byte) (Format, bool) {
	if len(head) < 4 {
		return "", false
	}
	le, be := binary.LittleEndian.Uint32(head), binary.BigEndian.Uint32(head)
	for _, magic := range [...]uint32{pcapMicros, pcapNanos} {
		if le == magic || be == magic {
			return PCAP, true
		}
	}
	return PCAPNG, le == pcapngMagic
}

// packet is one of a capture, or the beginning of a section of it.
type packet struct {
	section bool
	header  trace.Header // of a section, where its comment has one
	link    int
	time    time.Time // zero where it is not known
	data    []byte    // valid until the next one
}

// packets is a capture of either kind, which begins with a section. The error
// is io.EOF, that of the reader, or a cutError; after a skipError others follow.
type packets interface{ next() (packet, error) }

// cutError says why nothing more of a capture can be read.
type cutError string

func (e cutError) Error() string { return string(e) + ": what follows is left out" }

// skipError says why a packet is passed over.
type skipError string

func (e skipError) Error() string { return string(e) }

// capture is a Source: a session for each section.
type capture struct {
	r      *bufio.Reader
	in     packets
	number int // of the packet
	found  int // packets with GSMTAP SIM
	out    output
	held   *packet // the beginning of the next section
	err    error
	zero   time.Time
	seen   bool // an ATR

	// Of a section that was redacted, it finds what is zeros for that: a
	// replay must not send them.
	redactor trace.Redactor
}

func newCapture(r io.Reader, w *warner) *capture {
	return &capture{r: bufio.NewReaderSize(r, headSize), out: output{warn: w}}
}

// open reads the first section's beginning.
func (c *capture) open() error {
	head, err := c.r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("interchange: %w", err)
	}
	switch f, _ := captureFormat(head); f {
	case PCAP:
		c.in = &pcap{r: c.r}
	case PCAPNG:
		c.in = &pcapng{r: c.r}
	default:
		return &UnknownFormatError{}
	}
	p, err := c.in.next()
	switch {
	case err == nil:
		c.held = &p
		return nil
	case errors.As(err, new(cutError)), errors.As(err, new(skipError)), errors.Is(err, io.EOF):
		return fmt.Errorf("interchange: not a capture: %w", err)
	}
	return fmt.Errorf("interchange: %w", err)
}

func (c *capture) NextSession() (trace.Header, error) {
	if c.in == nil && c.err == nil {
		if c.err = c.open(); c.err != nil {
			return trace.Header{}, c.err
		}
	}
	for c.held == nil && c.err == nil { // what is left of the session before
		c.out.entries = c.out.entries[:0]
		c.pump()
	}
	if c.held == nil {
		return trace.Header{}, c.err
	}
	c.out.header, c.zero, c.seen, c.out.begun = c.held.header, c.held.header.Date, false, false
	c.out.entries, c.held = c.out.entries[:0], nil
	c.redactor = trace.Redactor{}
	c.pump()
	return c.out.header, nil
}

func (c *capture) Next() (trace.Entry, error) {
	if c.in == nil && c.err == nil {
		if _, err := c.NextSession(); err != nil {
			return trace.Entry{}, err
		}
	}
	c.pump()
	if len(c.out.entries) == 0 {
		if c.held != nil {
			return trace.Entry{}, io.EOF
		}
		return trace.Entry{}, c.err
	}
	e := c.out.entries[0]
	c.out.entries = c.out.entries[:copy(c.out.entries, c.out.entries[1:])]
	if c.out.header.Redacted {
		e = c.redactor.Redact(e)
	}
	return e, nil
}

// pump reads until there is an entry, or the section ends.
func (c *capture) pump() {
	for len(c.out.entries) == 0 && c.held == nil && c.err == nil {
		p, err := c.in.next()
		if err == nil && p.section {
			c.held = &p
			return
		}
		c.number++
		c.out.place = Warning{Packet: c.number}
		switch {
		case err == nil:
			err = c.packet(p)
		case errors.As(err, new(skipError)):
		default:
			c.number--
			c.err = io.EOF
			if errors.As(err, new(cutError)) {
				c.out.place.Packet = c.number + 1
				c.out.doubt(err.Error())
			} else if !errors.Is(err, io.EOF) {
				c.err = fmt.Errorf("interchange: packet %d: %w", c.number+1, err)
			}
			err = nil
			if c.found == 0 {
				c.out.place = Warning{}
				c.out.doubt("no packet with GSMTAP SIM")
			}
		}
		if err != nil {
			c.out.doubt(err.Error())
		}
	}
}

// packet takes what a packet says of a card; most of a capture says nothing.
func (c *capture) packet(p packet) error {
	subtype, payload, ok := simMessage(p.link, p.data)
	if !ok {
		return nil
	}
	c.found++
	if !p.time.IsZero() {
		if c.zero.IsZero() {
			c.zero = p.time
			c.out.header.Date = p.time
		}
		c.out.at = min(max(0, p.time.Sub(c.zero)), maxTime)
	}
	payload = append([]byte(nil), payload...)
	switch subtype {
	case gsmtapATR:
		c.out.powered(payload, &c.seen)
	case gsmtapAPDU:
		return c.out.tpdu(payload)
	}
	return nil
}

// pcap is a capture of the older kind.
type pcap struct {
	r     *bufio.Reader
	order binary.ByteOrder
	unit  time.Duration // of the second number of a time
	link  int
	buf   []byte
}

func (p *pcap) next() (packet, error) {
	if p.order == nil {
		return packet{section: true}, p.open()
	}
	var head [16]byte
	if err := whole(p.r, head[:]); err != nil {
		return packet{}, err
	}
	n := p.order.Uint32(head[8:])
	at := time.Unix(int64(p.order.Uint32(head[:])), 0).Add(time.Duration(p.order.Uint32(head[4:])) * p.unit).UTC()
	if n > maxPacket {
		return packet{}, cutError(fmt.Sprintf("a packet of %d bytes", n))
	}
	p.buf = grown(p.buf, int(n))
	if err := rest(p.r, p.buf); err != nil {
		return packet{}, err
	}
	return packet{link: p.link, time: at, data: p.buf}, nil
}

func (p *pcap) open() error {
	var head [24]byte
	if err := whole(p.r, head[:]); err != nil {
		return err
	}
	p.order = binary.ByteOrder(binary.LittleEndian)
	if magic := binary.BigEndian.Uint32(head[:]); magic == pcapMicros || magic == pcapNanos {
		p.order = binary.BigEndian
	}
	p.unit = time.Microsecond
	if p.order.Uint32(head[:]) == pcapNanos {
		p.unit = time.Nanosecond
	}
	p.link = int(p.order.Uint32(head[20:]) & 0xFFFF)
	return nil
}

// iface is an interface of a section of a pcapng.
type iface struct {
	link   int
	perSec uint64 // units of a time in a second
}

// pcapng is a capture of the newer kind.
type pcapng struct {
	r      *bufio.Reader
	order  binary.ByteOrder
	ifaces []iface
	buf    []byte
}

func (p *pcapng) next() (packet, error) {
	for {
		var head [8]byte
		if err := whole(p.r, head[:]); err != nil {
			return packet{}, err
		}
		if binary.BigEndian.Uint32(head[:]) == pcapngMagic {
			return p.section(head)
		}
		if p.order == nil {
			return packet{}, cutError("no section")
		}
		size := p.order.Uint32(head[4:])
		if size < 12 || size%4 != 0 {
			return packet{}, cutError(fmt.Sprintf("a block of %d bytes", size))
		}
		kind := p.order.Uint32(head[:])
		body, err := p.body(kind, size-12)
		if err != nil {
			return packet{}, err
		}
		switch kind {
		case blockIface:
			if len(body) < 8 {
				return packet{}, skipError("an interface block that is too short")
			}
			if len(p.ifaces) == maxInterface {
				return packet{}, skipError("too many interfaces")
			}
			i := iface{link: int(p.order.Uint16(body)), perSec: 1e6}
			p.options(body[8:], func(code int, v []byte) {
				if code == 9 && len(v) == 1 {
					i.perSec = resolution(v[0])
				}
			})
			p.ifaces = append(p.ifaces, i)
		case blockPacket, blockOld:
			return p.packet(kind, body)
		case blockSimple:
			if len(body) < 4 || len(p.ifaces) == 0 {
				return packet{}, skipError("a packet without an interface")
			}
			n := min(int(p.order.Uint32(body)), len(body)-4)
			return packet{link: p.ifaces[0].link, data: body[4 : 4+n]}, nil
		}
	}
}

// body is what is in a block, without the length at its end. Of a block that
// has nothing for us, or too much, it is nil.
func (p *pcapng) body(kind uint32, n uint32) ([]byte, error) {
	wanted := kind == blockIface || kind == blockPacket || kind == blockOld || kind == blockSimple
	if !wanted || n > maxPacket {
		if _, err := io.CopyN(io.Discard, p.r, int64(n)+4); err != nil {
			return nil, broken(err)
		}
		if wanted {
			return nil, skipError(fmt.Sprintf("a block of %d bytes", n))
		}
		return nil, nil
	}
	p.buf = grown(p.buf, int(n)+4)
	if err := rest(p.r, p.buf); err != nil {
		return nil, err
	}
	return p.buf[:n], nil
}

func (p *pcapng) section(head [8]byte) (packet, error) {
	var order [4]byte
	if err := rest(p.r, order[:]); err != nil {
		return packet{}, err
	}
	switch uint32(pcapngOrder) {
	case binary.LittleEndian.Uint32(order[:]):
		p.order = binary.LittleEndian
	case binary.BigEndian.Uint32(order[:]):
		p.order = binary.BigEndian
	default:
		return packet{}, cutError("a section in no byte order")
	}
	size := p.order.Uint32(head[4:])
	if size < 28 || size%4 != 0 || size > maxPacket {
		return packet{}, cutError(fmt.Sprintf("a section's header of %d bytes", size))
	}
	p.buf = grown(p.buf, int(size)-12)
	if err := rest(p.r, p.buf); err != nil {
		return packet{}, err
	}
	p.ifaces = nil
	out := packet{section: true}
	p.options(p.buf[12:len(p.buf)-4], func(code int, v []byte) {
		if code != 1 {
			return
		}
		for line := range strings.Lines(string(v)) {
			if key, value, ok := strings.Cut(line, ":"); ok {
				setHeader(&out.header, key, value)
			}
		}
	})
	return out, nil
}

func (p *pcapng) packet(kind uint32, body []byte) (packet, error) {
	if len(body) < 20 {
		return packet{}, skipError("a packet block that is too short")
	}
	n := p.order.Uint32(body)
	if kind == blockOld {
		n = uint32(p.order.Uint16(body))
	}
	size := p.order.Uint32(body[12:])
	if int64(n) >= int64(len(p.ifaces)) || int64(size) > int64(len(body)-20) {
		return packet{}, skipError("a packet of an interface that is not there, or longer than its block")
	}
	i := p.ifaces[n]
	stamp := uint64(p.order.Uint32(body[4:]))<<32 | uint64(p.order.Uint32(body[8:]))
	var at time.Time
	if sec := stamp / i.perSec; sec < 1<<36 { // the year 4147
		at = time.Unix(int64(sec), int64(float64(stamp%i.perSec)/float64(i.perSec)*1e9)).UTC()
	}
	return packet{link: i.link, time: at, data: body[20 : 20+size]}, nil
}

// options gives f the options in b.
func (p *pcapng) options(b []byte, f func(code int, value []byte)) {
	for len(b) >= 4 {
		code, n := int(p.order.Uint16(b)), int(p.order.Uint16(b[2:]))
		if code == 0 || n > len(b)-4 {
			return
		}
		f(code, b[4:4+n])
		b = b[min(len(b), 4+(n+3)&^3):]
	}
}

// resolution is the units in a second of if_tsresol.
func resolution(v byte) uint64 {
	if v&0x80 != 0 {
		return 1 << min(v&0x7F, 63)
	}
	n := uint64(1)
	for range min(v, 19) {
		n *= 10
	}
	return n
}

func grown(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// whole reads a record's head: io.EOF before it is the end.
func whole(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return cutError("cut off")
	}
	return err
}

// rest reads what belongs to a head.
func rest(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	return broken(err)
}

func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return cutError("cut off")
	}
	return err
}
