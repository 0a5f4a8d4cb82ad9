package trace

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// Card is a trace as a card: it answers commands as the trace says. It is in the
// form that the virtual readers take (ATR, Power, Reset, Process), and Connect
// makes an apdu.Conn of it. It is safe for concurrent use.
//
// It is a tape. A command must be the next one, but for what the rules let
// differ, and gets its answer; a redacted byte is any byte in a command and 00 in
// an answer. With BestMatch it may stand anywhere: the nearest from the tape's
// position on counts, and goes round at the end; where there is none, one that is
// the same but for logical channel and Le. What matches nothing is answered by
// 6F00, moves nothing, and is told as a Miss.
//
// Where the trace has an event for an answer the card does that: it leaves its
// reader (Removed) or is mute (Error, and where a command has no answer). A
// power-up or a reset that is next on the tape is stepped over; any other begins
// the tape anew.
type Card struct {
	rules  *Rules
	best   bool
	missed func(Miss)
	items  []*item
	like   map[uint64][]int // BestMatch: the commands by key, ascending
	nearly map[uint64][]int // BestMatch: by key without channel and Le
	short  bool             // no command has extended length
	first  []byte           // the first ATR on the tape

	mu       sync.Mutex
	atr      []byte // as far as the tape went
	live     *items // what the terminal sends: for what may differ in it
	at       int    // the item that is next
	misses   int
	removals int
	until    time.Time // a card that was removed is away until then
}

// Miss is a command that is not the next on the tape, or is not on it at all.
type Miss struct {
	Got  Exchange // the command, redacted
	Want Exchange // what was next, redacted; empty at the end of the tape and with BestMatch
}

func (m Miss) String() string {
	if m.Want.Session == 0 {
		return fmt.Sprintf("%s: the trace has no such command here", shorten(m.Got.Command))
	}
	return fmt.Sprintf("%s: line %d has %s next", shorten(m.Got.Command), m.Want.Line(), shorten(m.Want.Command))
}

// CardOption is a choice of a Card's.
type CardOption func(*Card)

// BestMatch has commands match wherever they stand on the tape.
func BestMatch() CardOption { return func(c *Card) { c.best = true } }

// WithRules has r say what may differ, in place of DefaultRules.
func WithRules(r *Rules) CardOption { return func(c *Card) { c.rules = r } }

// OnMiss has fn told of what matches nothing. It must not call the card.
func OnMiss(fn func(Miss)) CardOption { return func(c *Card) { c.missed = fn } }

// NewCard makes a card of a trace, powered and at its beginning. The trace must
// not change any more.
func NewCard(t *Trace, opts ...CardOption) *Card {
	c := &Card{rules: DefaultRules(), short: true, like: map[uint64][]int{}, nearly: map[uint64][]int{}}
	for _, o := range opts {
		o(c)
	}
	c.live = newItems(nil, c.rules)
	tape := newItems(Sessions(t), c.rules)
	for {
		it, err := tape.next()
		if err != nil {
			break // io.EOF: entries in memory have no other
		}
		c.items = append(c.items, it)
		c.index(len(c.items)-1, it)
	}
	if c.first == nil {
		c.first = []byte{0x3B, 0x00} // ISO/IEC 7816-3: the least there is
	}
	c.rewind()
	return c
}

func (c *Card) index(i int, it *item) {
	if it.x.Command.Kind == Command {
		c.short = c.short && !apdu.IsExtended(it.x.Command.Data)
		if c.best && len(it.x.Command.Data) >= 4 {
			c.like[it.key] = append(c.like[it.key], i)
			near := nearKey(it)
			c.nearly[near] = append(c.nearly[near], i)
		}
		return
	}
	if e := it.x.Answer; c.first == nil && isStart(e) {
		c.first = e.Data
	}
}

// isStart reports whether an event has an answer to reset.
func isStart(e Entry) bool { return (e.Name == Connected || e.Name == Reset) && len(e.Data) > 0 }

// nearKey is a command's key without its channel and Le.
func nearKey(it *item) uint64 {
	e := it.x.Command
	data := dataOf(e.Data)
	var h maphash.Hash
	h.SetSeed(keySeed)
	_, _ = h.Write(e.Data[1:4])
	b := slices.Clone(e.Data)
	for _, s := range it.command.spans {
		clear(b[s.From:s.To])
	}
	for _, list := range [][]Span{it.secret[0], e.Mask} {
		for _, s := range list {
			clear(b[s.From:s.To])
		}
	}
	if it.command.any == "" {
		_, _ = h.Write(b[data.From:data.To])
	}
	return h.Sum64()
}

// ATR is the answer to reset: what the tape had last, or has first.
func (c *Card) ATR() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.atr)
}

// Power turns the card on or off.
func (c *Card) Power(on bool) {
	if on {
		c.Reset()
	}
}

// Reset is a warm reset.
func (c *Card) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live.masker.reset()
	c.live.redactor = Redactor{}
	if !c.stepOver(Reset, Connected) {
		c.rewind()
	}
}

func (c *Card) rewind() { c.at, c.atr = 0, c.first }

// stepOver goes behind the next event of one of these names, if no command comes
// before.
func (c *Card) stepOver(names ...string) bool {
	for i := c.at; i < len(c.items) && c.items[i].x.Command.Kind != Command; i++ {
		if e := c.items[i].x.Answer; slices.Contains(names, e.Name) {
			c.at = i + 1
			if isStart(e) {
				c.atr = e.Data
			}
			return true
		}
	}
	return false
}

// Left is how many commands the tape still has.
func (c *Card) Left() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range c.items[c.at:] {
		if it.x.Command.Kind == Command {
			n++
		}
	}
	return n
}

// Misses is how many commands matched nothing.
func (c *Card) Misses() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.misses
}

// Away reports whether the card is out of its reader, and for how long still.
func (c *Card) Away() (left time.Duration, away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left = time.Until(c.until)
	return max(left, 0), left > 0
}

// Process answers a command APDU. It is nil where the card is away or mute.
func (c *Card) Process(capdu []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.until) {
		return nil
	}
	if e := c.answer(capdu); e.Kind == Response {
		return slices.Clone(e.Data)
	}
	return nil
}

// answer is what the trace has for a command: a response or an event.
func (c *Card) answer(capdu []byte) Entry {
	got := &item{}
	c.live.sent(got, Entry{Kind: Command, Data: slices.Clone(capdu)})
	i := c.find(got)
	if i < 0 {
		return c.miss(got)
	}
	c.at = i + 1
	it := c.items[i]
	c.live.answered(got, it.x.Answer)
	if it.x.Answer.Name == Removed {
		c.removals++
		c.until = time.Now().Add(c.absence(i))
	}
	return it.x.Answer
}

var noPreciseDiagnosis = Entry{Kind: Response, Data: []byte{0x6F, 0x00}} // ISO/IEC 7816-4 §5.6

func (c *Card) miss(got *item) Entry {
	c.misses++
	if c.missed != nil {
		m := Miss{Got: got.shown(false)}
		if next := c.next(); !c.best && next < len(c.items) {
			m.Want = c.items[next].shown(false)
		}
		c.missed(m)
	}
	return noPreciseDiagnosis
}

// next is the command that is next on the tape; its length where there is none.
func (c *Card) next() int {
	i := c.at
	for i < len(c.items) && c.items[i].x.Command.Kind != Command {
		i++
	}
	return i
}

// find is the command on the tape that answers got, -1 where there is none.
func (c *Card) find(got *item) int {
	if !c.best {
		if i := c.next(); i < len(c.items) && c.matches(i, got) {
			return i
		}
		return -1
	}
	if i := c.nearest(c.like[got.key], func(i int) bool { return c.matches(i, got) }); i >= 0 {
		return i
	}
	if len(got.x.Command.Data) < 4 {
		return -1
	}
	return c.nearest(c.nearly[nearKey(got)], func(i int) bool { return c.nearlyMatches(i, got) })
}

// nearest is the first of list from the tape's position on that fits, or the
// first from the beginning; -1 where none does.
func (c *Card) nearest(list []int, fits func(i int) bool) int {
	k, _ := slices.BinarySearch(list, c.at)
	for _, half := range [][]int{list[k:], list[:k]} {
		for _, i := range half {
			if fits(i) {
				return i
			}
		}
	}
	return -1
}

func (c *Card) matches(i int, got *item) bool {
	cmp := comparison{rules: c.rules}
	cmp.command(c.items[i], got)
	return !cmp.worse
}

// nearlyMatches is matches for data alone.
func (c *Card) nearlyMatches(i int, got *item) bool {
	x, y := c.items[i].x.Command, got.x.Command
	cmp := comparison{rules: c.rules}
	cmp.bytes("command", x, y, Span{1, 4}, Span{1, 4}, nil)
	if c.items[i].command.any == "" {
		cmp.bytes("command", x, y, dataOf(x.Data), dataOf(y.Data), c.items[i].command.spans)
	}
	return !cmp.worse
}

// Bounds of how long a card that was removed stays away. pcscd looks every
// 0.4 s.
const (
	minAbsence = time.Second
	maxAbsence = 10 * time.Second
)

// absence is how long the trace has the card away.
func (c *Card) absence(i int) time.Duration {
	left := c.items[i].x.Answer.At
	for _, it := range c.items[i+1:] {
		if it.x.Command.Kind == Command {
			return min(max(it.x.Command.At-left, minAbsence), maxAbsence)
		}
		if it.x.Answer.Name == Connected {
			return min(max(it.x.Answer.At-left, minAbsence), maxAbsence)
		}
	}
	return minAbsence
}

// CardConn is a connection to a Card. It does not outlive the card's removal. It
// serves one goroutine.
type CardConn struct {
	card     *Card
	removals int
	closed   bool
}

var _ apdu.Conn = (*CardConn)(nil)

// Connect connects to the card, which is there again if it was removed. A tape
// that is at its end begins anew.
func (c *Card) Connect() *CardConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
	if !c.stepOver(Connected) && c.next() == len(c.items) {
		c.rewind()
	}
	return &CardConn{card: c, removals: c.removals}
}

// Transmit implements apdu.Transmitter.
func (c *CardConn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	c.card.mu.Lock()
	defer c.card.mu.Unlock()
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	switch e := c.card.answer(capdu); {
	case e.Kind == Response:
		return slices.Clone(e.Data), nil
	case e.Name == Removed:
		return nil, fmt.Errorf("trace: %w", apdu.ErrCardRemoved)
	default:
		return nil, failed(e)
	}
}

// transportErrors are those that a trace has by their words.
var transportErrors = []error{
	apdu.ErrCardReset, apdu.ErrTimeout, apdu.ErrNoCard, apdu.ErrNoReader, apdu.ErrCardBusy, apdu.ErrShortAnswer, apdu.ErrTransport,
}

// failed is the error that an event was: one of package apdu's by its words, a
// card that does not answer where there are none, else apdu.ErrTransport.
func failed(e Entry) error {
	if e.Kind == 0 || e.Text == "" {
		return fmt.Errorf("trace: %w", apdu.ErrTimeout)
	}
	for _, err := range transportErrors {
		if strings.Contains(e.Text, err.Error()) {
			return fmt.Errorf("trace: %w", err)
		}
	}
	return fmt.Errorf("trace: %w: %s", apdu.ErrTransport, e.Text)
}

func (c *CardConn) check(ctx context.Context) error {
	switch {
	case c.closed:
		return fmt.Errorf("trace: %w: the connection is closed", apdu.ErrTransport)
	case ctx.Err() != nil:
		return ctx.Err()
	case c.removals != c.card.removals:
		return fmt.Errorf("trace: %w", apdu.ErrCardRemoved)
	}
	return nil
}

// ATR implements apdu.Conn.
func (c *CardConn) ATR() []byte { return c.card.ATR() }

// Reset implements apdu.Conn.
func (c *CardConn) Reset(ctx context.Context) error {
	c.card.mu.Lock()
	err := c.check(ctx)
	c.card.mu.Unlock()
	if err != nil {
		return err
	}
	c.card.Reset()
	return nil
}

// Close implements io.Closer.
func (c *CardConn) Close() error {
	c.closed = true
	return nil
}

// ShortOnly implements apdu.ShortOnly: where the trace has no extended length,
// neither has a terminal that is to match it.
func (c *CardConn) ShortOnly() bool { return c.card.short }
