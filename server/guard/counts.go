package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	slots    = 60 // of a window; more make the edge of the window sharper
	maxSlots = 4 * slots
	// maxMillis is more than any clock says, and far from overflow.
	maxMillis = 1 << 50
)

// Counts are what was asked for and what was sent, by slots of time. The zero
// value counts nothing. A slot counts until all of it is out of the window, so
// that a window holds up to a sixtieth of its length more than it must and
// never less.
type Counts struct {
	width int64  // of a slot, milliseconds
	slots []slot // ascending
}

type slot struct {
	n           int64 // the slot begins at n*width since 1970
	asked, sent int64
}

// Sum is what was asked for and sent in the window that ends now. What a clock
// that went back left in the future counts.
func (c *Counts) Sum(now time.Time, window time.Duration) (asked, sent int64) {
	edge := now.UnixMilli() - window.Milliseconds()
	for _, s := range c.slots {
		if (s.n+1)*c.width > edge {
			asked += s.asked
			sent += s.sent
		}
	}
	return asked, sent
}

// Asked counts one request.
func (c *Counts) Asked(now time.Time, window time.Duration) { c.at(now, window).asked++ }

// Sent counts one command.
func (c *Counts) Sent(now time.Time, window time.Duration) { c.at(now, window).sent++ }

// ForgetAsked forgets what was asked for, not what was sent.
func (c *Counts) ForgetAsked() {
	for i := range c.slots {
		c.slots[i].asked = 0
	}
}

// at is the slot of now. It forgets what is out of the window. What is in the
// future counts as of now, so that it leaves the window some time.
func (c *Counts) at(now time.Time, window time.Duration) *slot {
	width := max(window.Milliseconds()/slots, 1)
	if c.width != width {
		c.rescale(width)
	}
	ms := now.UnixMilli()
	edge, n := ms-window.Milliseconds(), floorDiv(ms, width)
	cur := slot{n: n}
	keep := c.slots[:0]
	for _, s := range c.slots {
		switch {
		case s.n >= n:
			cur.asked += s.asked
			cur.sent += s.sent
		case (s.n+1)*width > edge:
			keep = append(keep, s)
		}
	}
	c.slots = append(keep, cur)
	return &c.slots[len(c.slots)-1]
}

// rescale puts each slot where it ends, so that nothing leaves the window
// early.
func (c *Counts) rescale(width int64) {
	var out []slot
	for _, s := range c.slots {
		n := floorDiv((s.n+1)*c.width-1, width)
		if l := len(out) - 1; l >= 0 && out[l].n == n {
			out[l].asked += s.asked
			out[l].sent += s.sent
			continue
		}
		out = append(out, slot{n, s.asked, s.sent})
	}
	c.width, c.slots = width, out
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// Append appends the counts as the record keeps them.
func (c *Counts) Append(b []byte) []byte {
	if len(c.slots) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(c.width))
	last := int64(0)
	for _, s := range c.slots {
		b = binary.AppendVarint(b, s.n-last)
		b = binary.AppendUvarint(b, uint64(s.asked))
		b = binary.AppendUvarint(b, uint64(s.sent))
		last = s.n
	}
	return b
}

var errCounts = errors.New("guard: counts that cannot be read")

// ParseCounts reads what Append wrote.
func ParseCounts(b []byte) (Counts, error) {
	var c Counts
	if len(b) == 0 {
		return c, nil
	}
	bad := false
	unsigned := func() int64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<48 {
			bad = true
			return 0
		}
		b = b[n:]
		return int64(v)
	}
	c.width = unsigned()
	bad = bad || c.width == 0 || c.width > maxMillis
	last := int64(0)
	for !bad && len(b) > 0 && len(c.slots) <= maxSlots {
		d, n := binary.Varint(b)
		if n <= 0 || d > 1<<48 || d < -(1<<48) {
			bad = true
			break
		}
		b = b[n:]
		if last += d; last > maxMillis/c.width || last < -maxMillis/c.width {
			bad = true
			break
		}
		c.slots = append(c.slots, slot{last, unsigned(), unsigned()})
	}
	sorted := slices.IsSortedFunc(c.slots, func(a, b slot) int { return int(min(max(a.n-b.n, -1), 1)) })
	if bad || len(c.slots) > maxSlots || !sorted {
		return Counts{}, fmt.Errorf("%w: %d slots", errCounts, len(c.slots))
	}
	return c, nil
}
