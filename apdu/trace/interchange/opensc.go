package interchange

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// openscTool reads what opensc-tool --send-apdu prints:
//
//	Sending: 00 A4 00 04 02 3F 00
//	Received (SW1=0x90, SW2=0x00):
//	6F 07 82 01 38 83 02 3F 00 o...8..?.
//
// How many bytes were received is not said. A row has up to 16 and then the
// characters that they are, which tell digits from text.
type openscTool struct {
	sw   []byte
	data []byte
	open bool // an answer goes on
}

func isOpenSCTool(b []byte) bool {
	if rest, ok := bytes.CutPrefix(b, []byte("Sending: ")); ok {
		return isHex(rest, 4)
	}
	return bytes.HasPrefix(b, []byte("Received (SW1=0x"))
}

func (o *openscTool) line(out *output, b []byte) error {
	if o.open {
		if row, ok := dumpRow(b); ok {
			if len(o.data)+len(row) > maxAPDU {
				return fmt.Errorf("more than %d bytes", maxAPDU)
			}
			o.data = append(o.data, row...)
			if len(row) < 16 {
				return o.end(out)
			}
			return nil
		}
	}
	err := o.end(out)
	if name, ok := bytes.CutPrefix(b, []byte("Using reader with a card: ")); ok {
		out.reader(name)
		return err
	}
	if rest, ok := bytes.CutPrefix(b, []byte("Sending: ")); ok {
		c, err := hexBytes(rest)
		if err != nil {
			return err
		}
		return out.command(c)
	}
	if rest, ok := bytes.CutPrefix(b, []byte("Received (SW1=0x")); ok {
		one, rest, _ := bytes.Cut(rest, []byte(", SW2=0x"))
		two, rest, _ := bytes.Cut(rest, []byte(")"))
		o.sw, err = hexBytes(append(append([]byte(nil), one...), two...))
		if err != nil || len(o.sw) != 2 {
			o.sw = nil
			return errors.New("no status word")
		}
		o.open, o.data = true, nil
		if len(rest) == 0 { // no colon, no data
			return o.end(out)
		}
		return nil
	}
	if err == nil && len(b) > 0 {
		err = errNotUnderstood
	}
	return err
}

func (o *openscTool) end(out *output) error {
	if !o.open {
		return nil
	}
	r := append(o.data, o.sw...)
	o.open, o.data = false, nil
	return out.response(r, 0)
}

// dumpRow is the bytes of a row of a hex dump with text beside it.
func dumpRow(b []byte) ([]byte, bool) {
	var row []byte
	for i := 0; len(row) < 16 && i+1 < len(b) && digit(b[i]) >= 0 && digit(b[i+1]) >= 0 && (i+2 == len(b) || b[i+2] == ' '); i += 3 {
		row = append(row, byte(digit(b[i])<<4|digit(b[i+1])))
	}
	for n := len(row); n > 0; n-- {
		for _, column := range [...]int{3 * n, 3 * 16} { // rows are not filled up where there is but one
			if column <= len(b) && isTextOf(b[column:], row[:n]) && len(bytes.TrimSpace(b[3*n-1:column])) == 0 {
				return row[:n], true
			}
		}
	}
	return nil, false
}

// isTextOf reports whether text is what a dump has for the bytes; blanks at its
// end may have been lost.
func isTextOf(text, row []byte) bool {
	if len(text) > len(row) {
		return false
	}
	for i, v := range row {
		want := byte('.')
		if 0x20 <= v && v < 0x7F {
			want = v
		}
		switch {
		case i < len(text) && text[i] != want && text[i] != '.':
			return false
		case i >= len(text) && want != ' ':
			return false
		}
	}
	return true
}

// openscDebug reads a debug log of OpenSC, of either kind:
//
//	P:9018; T:0x1400 2023-04-12 09:19:12.002 [opensc-tool] reader-pcsc.c:323:pcsc_transmit: reader 'Reader 0'
//	Outgoing APDU (7 bytes):
//	00 A4 00 0C 02 3F 00 .....?.
//	Incoming APDU data [    2 bytes] =====================================
//	90 00 ..
//	======================================================================
type openscDebug struct {
	kind trace.Kind
	want int // bytes that are still to come
	data []byte
	last time.Duration // the time of day that was read last
	days time.Duration
	zero time.Duration // that of the first line
	set  bool
}

// dumpHead is the kind and the bytes that a dump's first line announces.
func dumpHead(b []byte) (trace.Kind, int, bool) {
	kind := trace.Command
	rest, ok := bytes.CutPrefix(b, []byte("Outgoing APDU "))
	if !ok {
		kind = trace.Response
		if rest, ok = bytes.CutPrefix(b, []byte("Incoming APDU ")); !ok {
			return 0, 0, false
		}
	}
	n, _, ok := bytes.Cut(bytes.TrimLeft(rest, "data([ "), []byte(" bytes"))
	if !ok {
		return 0, 0, false
	}
	count, err := strconv.Atoi(string(n))
	return kind, count, err == nil
}

func isOpenSCDebug(b []byte) bool {
	_, _, ok := dumpHead(b)
	return ok
}

func (o *openscDebug) line(out *output, b []byte) error {
	if kind, n, ok := dumpHead(b); ok {
		err := o.end(out)
		if n < 2 || n > maxAPDU {
			return fmt.Errorf("an APDU of %d bytes", n)
		}
		o.kind, o.want, o.data = kind, n, nil
		return err
	}
	if o.want > 0 {
		row := min(o.want, 16)
		if len(b) >= 3*row-1 {
			v, err := hexBytes(b[:3*row-1])
			if err == nil && len(v) == row {
				o.data = append(o.data, v...)
				if o.want -= row; o.want == 0 {
					return o.done(out)
				}
				return nil
			}
		}
		if err := o.end(out); err != nil {
			return err
		}
	}
	o.clock(out, b)
	if _, rest, ok := bytes.Cut(b, []byte("transmit: reader '")); ok {
		name, _, _ := bytes.Cut(rest, []byte{'\''})
		out.reader(name)
	}
	return nil // a debug log has much else to say
}

func (o *openscDebug) done(out *output) error {
	data := o.data
	o.want, o.data = 0, nil
	if o.kind == trace.Command {
		return out.command(data)
	}
	return out.response(data, 0)
}

func (o *openscDebug) end(*output) error {
	if o.want == 0 {
		return nil
	}
	n := o.want
	o.want, o.data = 0, nil
	return fmt.Errorf("an APDU before it lacks %d bytes", n)
}

// clock takes the time of day in a line, and the date where it is before it.
func (o *openscDebug) clock(out *output, b []byte) {
	i := bytes.IndexByte(b, '.')
	if i < 8 || i+4 > len(b) {
		return
	}
	t, err := time.Parse("15:04:05.000", string(b[i-8:i+4]))
	if err != nil {
		return
	}
	of := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second + time.Duration(t.Nanosecond())
	if !o.set {
		o.zero, o.set = of, true
		if i >= 19 && !out.begun {
			if d, err := time.Parse("2006-01-02", string(b[i-19:i-9])); err == nil {
				out.header.Date = d.Add(of)
			}
		}
	} else if of < o.last-12*time.Hour && o.days < maxTime {
		o.days += 24 * time.Hour // past midnight
	}
	o.last = of
	out.at = max(0, o.days+of-o.zero)
}
