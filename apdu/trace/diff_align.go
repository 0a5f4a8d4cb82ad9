package trace

import (
	"errors"
	"hash/maphash"
	"io"
	"slices"
)

// Bounds of what is read ahead.
const (
	maxAhead      = 1 << 13 // exchanges on either side
	maxAheadBytes = 32 << 20
	inARow        = 3       // commands that must agree where traces meet again
	maxCells      = 1 << 18 // of the table that aligns what lies between
	maxSide       = 1 << 9  // exchanges of either side that one table aligns where there are more
)

var keySeed = maphash.MakeSeed()

// keyOf hashes a command without what may differ or is secret, and an event by
// its name.
func keyOf(e Entry, event bool, free freedom, secret []Span) uint64 {
	var h maphash.Hash
	h.SetSeed(keySeed)
	_ = h.WriteByte(byte(e.Kind))
	if event {
		_, _ = h.WriteString(e.Name)
		return h.Sum64()
	}
	if free.any != "" {
		_, _ = h.Write(e.Data[:min(len(e.Data), 4)])
		return h.Sum64()
	}
	if len(free.spans)+len(secret)+len(e.Mask) == 0 {
		_, _ = h.Write(e.Data)
		return h.Sum64()
	}
	b := slices.Clone(e.Data)
	for _, s := range free.spans {
		clear(b[s.From:s.To])
	}
	for _, list := range [][]Span{secret, e.Mask} {
		for _, s := range list {
			clear(b[s.From:s.To])
		}
	}
	_, _ = h.Write(b)
	return h.Sum64()
}

// window is what of a trace was read ahead.
type window struct {
	in    *items
	side  string
	list  []*item
	bytes int
	done  bool // the trace was read to its end
}

func newWindow(src Source, side string, rules *Rules) *window {
	return &window{in: newItems(src, rules), side: side}
}

// fill reads until there are n exchanges, or no more, or no more room.
func (w *window) fill(n int) error {
	for len(w.list) < min(n, maxAhead) && !w.done && w.bytes < maxAheadBytes {
		it, err := w.in.next()
		if errors.Is(err, io.EOF) {
			w.done = true
			return nil
		}
		if err != nil {
			return located(w.side, err)
		}
		w.list = append(w.list, it)
		w.bytes += it.size
	}
	return nil
}

// full reports whether no more can be read ahead than is.
func (w *window) full() bool {
	return w.done || len(w.list) >= maxAhead || w.bytes >= maxAheadBytes
}

// drop forgets the first n exchanges.
func (w *window) drop(n int) {
	for i, it := range w.list[:n] {
		w.bytes -= it.size
		w.list[i] = nil // what append leaves behind must not keep it
	}
	w.list = w.list[n:]
}

// differ aligns two traces.
type differ struct {
	a, b   *window
	rules  *Rules
	report func(Difference) error
	sum    Summary
	clear  bool
}

func (d *differ) run() error {
	for {
		if err := d.fill(1); err != nil {
			return err
		}
		a, b := len(d.a.list), len(d.b.list)
		switch {
		case a == 0 && b == 0:
			return nil
		case a > 0 && b > 0 && d.rules.sameCommand(d.a.list[0], d.b.list[0]):
			if err := d.emit(d.a.list[0], d.b.list[0]); err != nil {
				return err
			}
			d.a.drop(1)
			d.b.drop(1)
			continue
		}
		i, j, err := d.meet()
		if err != nil {
			return err
		}
		if err := d.between(i, j); err != nil {
			return err
		}
	}
}

func (d *differ) fill(n int) error {
	if err := d.a.fill(n); err != nil {
		return err
	}
	return d.b.fill(n)
}

// meet finds how many exchanges lie before the place where both traces agree
// again. It looks twice as far each time, so that it costs no more than what it
// passes by. Where they do not agree again it gives what can be decided: all, or
// half of what was read ahead.
func (d *differ) meet() (int, int, error) {
	for n := 8; ; n *= 2 {
		if err := d.fill(n); err != nil {
			return 0, 0, err
		}
		a, b := d.a.list[:min(n, len(d.a.list))], d.b.list[:min(n, len(d.b.list))]
		if i, j, ok := meeting(a, b, d.a.done && len(a) == len(d.a.list) && d.b.done && len(b) == len(d.b.list)); ok {
			return i, j, nil
		}
		if len(a) == len(d.a.list) && len(b) == len(d.b.list) && d.a.full() && d.b.full() {
			if d.a.done && d.b.done {
				return len(a), len(b), nil
			}
			return (len(a) + 1) / 2, (len(b) + 1) / 2, nil
		}
	}
}

// meeting is the nearest place where commands in a row agree; at the end of both
// traces fewer in a row do, if they go on to it.
func meeting(a, b []*item, end bool) (int, int, bool) {
	first := map[uint64]int{} // in b, by the keys of commands in a row
	for j := len(b) - inARow; j >= 0; j-- {
		first[run(b[j:])] = j
	}
	best, bi, bj := -1, 0, 0
	for i := 0; i+inARow <= len(a); i++ {
		j, ok := first[run(a[i:])]
		if ok && agree(a[i:], b[j:], inARow) && (best < 0 || i+j < best) {
			best, bi, bj = i+j, i, j
		}
	}
	if best < 0 && end {
		n := 0
		for n < inARow && n < min(len(a), len(b)) && a[len(a)-1-n].key == b[len(b)-1-n].key {
			n++
		}
		return len(a) - n, len(b) - n, n > 0
	}
	return bi, bj, best >= 0
}

func run(list []*item) uint64 {
	sum := uint64(0)
	for _, it := range list[:inARow] {
		sum = sum*0x9E3779B97F4A7C15 + it.key
	}
	return sum
}

func agree(a, b []*item, n int) bool {
	for k := range n {
		if a[k].key != b[k].key {
			return false
		}
	}
	return true
}

// between reports the first i exchanges of a and j of b, and forgets them.
func (d *differ) between(i, j int) error {
	for i > 0 || j > 0 {
		p, q := i, j
		if p*q > maxCells {
			p, q = min(p, maxSide), min(q, maxSide)
		}
		if err := d.align(d.a.list[:p], d.b.list[:q]); err != nil {
			return err
		}
		d.a.drop(p)
		d.b.drop(q)
		i -= p
		j -= q
	}
	return nil
}

// Scores of two exchanges side by side: the same command outweighs all that are
// merely of a kind.
const (
	scoreSame = 4
	scoreKind = 1
)

// score is 0 where two exchanges do not belong side by side.
func (d *differ) score(a, b *item) int32 {
	switch {
	case d.rules.sameCommand(a, b):
		return scoreSame
	case a.x.Command.Kind == Command && b.x.Command.Kind == Command && sameKind(a.x.Command.Data, b.x.Command.Data):
		return scoreKind
	}
	return 0
}

// sameKind reports whether two commands have one instruction.
func sameKind(a, b []byte) bool { return len(a) > 1 && len(b) > 1 && a[1] == b[1] }

// align reports two pieces side by side so that the scores are highest.
func (d *differ) align(a, b []*item) error {
	width := len(b) + 1
	table := make([]int32, (len(a)+1)*width) // the score of what is left from there on
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			best := max(table[(i+1)*width+j], table[i*width+j+1])
			if s := d.score(a[i], b[j]); s > 0 {
				best = max(best, s+table[(i+1)*width+j+1])
			}
			table[i*width+j] = best
		}
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		var x, y *item
		here := table[i*width+j]
		switch {
		case i < len(a) && j < len(b) && d.paired(a[i], b[j], here, table[(i+1)*width+j+1]):
			x, y = a[i], b[j]
		case i < len(a) && table[(i+1)*width+j] == here:
			x = a[i]
		default:
			y = b[j]
		}
		if x != nil {
			i++
		}
		if y != nil {
			j++
		}
		if err := d.emit(x, y); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) paired(a, b *item, here, after int32) bool {
	s := d.score(a, b)
	return s > 0 && s+after == here
}

// emit reports one exchange; a or b may be nil.
func (d *differ) emit(a, b *item) error {
	out := Difference{}
	switch {
	case b == nil:
		out.Verdict, out.A = Missing, a.shown(d.clear)
	case a == nil:
		out.Verdict, out.B = Extra, b.shown(d.clear)
	default:
		out.Verdict, out.Fields = d.rules.compare(a, b)
		out.A, out.B = a.shown(d.clear), b.shown(d.clear)
	}
	d.sum.count(out.Verdict)
	if d.report == nil {
		return nil
	}
	return d.report(out)
}
