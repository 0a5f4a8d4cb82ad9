package trace

import (
	"io"
	"strconv"
	"time"
)

// The first line of a session: what is written, and what was written before
// there were sessions and masks.
const (
	firstLine  = "# cardbridge trace 2"
	firstLine1 = "# cardbridge trace 1"
)

// Writer writes a trace of any length. Each call is one Write to what is below,
// so that nothing is held back. It is a Sink and serves one goroutine.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter writes to w, which stays the caller's.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Begin implements Sink.
func (w *Writer) Begin(h Header) error {
	w.buf = appendHeader(w.buf[:0], h)
	return w.flush()
}

// Write implements Sink.
func (w *Writer) Write(e Entry) error {
	w.buf = appendEntry(w.buf[:0], e)
	return w.flush()
}

// Close implements Sink; nothing is held back.
func (w *Writer) Close() error { return nil }

func (w *Writer) flush() error {
	_, err := w.w.Write(w.buf)
	return err
}

func appendHeader(b []byte, h Header) []byte {
	b = append(b, firstLine+"\n"...)
	date, redacted := "", ""
	if !h.Date.IsZero() {
		date = h.Date.UTC().Format(time.RFC3339)
	}
	if h.Redacted {
		redacted = "yes"
	}
	for _, f := range [...][2]string{
		{"title", h.Title}, {"card", h.Card}, {"reader", h.Reader}, {"tool", h.Tool},
		{"date", date}, {"origin", string(h.Origin)}, {"redacted", redacted},
	} {
		if v := clean(f[1]); v != "" {
			b = append(b, "# "+f[0]+": "+v+"\n"...)
		}
	}
	return b
}

func appendEntry(b []byte, e Entry) []byte {
	b = append(b, byte(e.Kind))
	if e.Kind == Event {
		b = append(append(b, ' '), e.Name...)
		if text := clean(e.Text); text != "" && e.Name != Connected && e.Name != Reset { // these have an ATR there
			b = append(append(b, ' '), text...)
		}
	}
	if len(e.Data) > 0 {
		b = appendHex(append(b, ' '), e.Data, e.Mask)
	}
	b = append(b, " # +"...)
	b = append(appendFixed(b, e.At, time.Second, 6), 's')
	if e.Kind == Response {
		b = append(b, ' ')
		b = append(appendFixed(b, e.Took, time.Millisecond, 3), "ms"...)
	}
	return append(b, '\n')
}

// appendHex writes masked bytes as **.
func appendHex(b, data []byte, mask []Span) []byte {
	const digits = "0123456789ABCDEF"
	for i, v := range data {
		for len(mask) > 0 && i >= mask[0].To {
			mask = mask[1:]
		}
		if len(mask) > 0 && i >= mask[0].From {
			b = append(b, '*', '*')
		} else {
			b = append(b, digits[v>>4], digits[v&15])
		}
	}
	return b
}

// appendFixed writes d in units, with places behind the point, of which the
// last is microseconds.
func appendFixed(b []byte, d, unit time.Duration, places int) []byte {
	b = strconv.AppendInt(b, int64(d/unit), 10)
	b = append(b, '.')
	rest := int64(d % unit / time.Microsecond)
	for i := range places {
		_ = i
		unit /= 10
		b = append(b, byte('0'+rest/int64(unit/time.Microsecond)))
		rest %= int64(unit / time.Microsecond)
	}
	return b
}
