package appletsim

import (
	"context"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// Conn is an in-process connection to a card. As with a real reader, it does
// not outlive the card's removal, nor a reset by another connection. It serves
// one goroutine.
type Conn struct {
	card     *Card
	removals int // of the card, when this was made
	resets   int
	closed   bool
}

var _ apdu.Conn = (*Conn)(nil)

// Connect makes a connection to the card as it is, without a reset. On a card
// that is out of its reader every call fails with apdu.ErrCardRemoved.
func (c *Card) Connect() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := &Conn{card: c, removals: c.removal.count, resets: c.resets}
	if _, away := c.away(); away {
		conn.removals-- // it never sees the card
	}
	return conn
}

// Transmit implements apdu.Transmitter.
func (c *Conn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	rapdu, err := c.card.transmit(ctx, capdu, func() error { return c.check(ctx) }, waitingTime)
	if err == nil && rapdu == nil {
		return nil, fmt.Errorf("emulated card: %w", apdu.ErrCardRemoved)
	}
	return rapdu, err
}

// waitingTime is how long a reader waits for a card of which it hears nothing:
// the block waiting time of answerToReset's BWI at 4 MHz (ISO/IEC 7816-3 §11.4.3).
const waitingTime = 1500 * time.Millisecond

// transmit has one command and its answer pass between the card and a reader
// that check lets. Where the card is mute it waits in vain, and fails.
func (c *Card) transmit(ctx context.Context, capdu []byte, check func() error, patience time.Duration) ([]byte, error) {
	select {
	case c.line <- struct{}{}:
		defer func() { <-c.line }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answer, err := c.begin(capdu, check)
	if answer.mute {
		answer.delay += patience
	}
	if err != nil || answer.delay == 0 {
		return answer.rapdu, err
	}
	t := time.NewTimer(answer.delay)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-answer.left:
		return nil, nil
	case <-t.C:
	}
	if answer.mute && patience > 0 {
		return nil, fmt.Errorf("emulated card: %w in %s", apdu.ErrTimeout, patience)
	}
	return answer.rapdu, nil
}

func (c *Card) begin(capdu []byte, check func() error) (outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := check(); err != nil {
		return outcome{}, err
	}
	out := c.edge(capdu)
	out.left = c.removal.next
	return out, nil
}

// ATR implements apdu.Conn.
func (c *Conn) ATR() []byte { return c.card.ATR() }

// Reset implements apdu.Conn: a warm reset. Other connections to the card fail
// with apdu.ErrCardReset from then on.
func (c *Conn) Reset(ctx context.Context) error {
	c.card.mu.Lock()
	defer c.card.mu.Unlock()
	if err := c.check(ctx); err != nil {
		return err
	}
	c.card.reset()
	c.resets = c.card.resets
	return nil
}

// Close implements io.Closer. The card stays as it is.
func (c *Conn) Close() error {
	c.closed = true
	return nil
}

// check says why the connection cannot be used, if so.
func (c *Conn) check(ctx context.Context) error {
	switch {
	case c.closed:
		return fmt.Errorf("emulated card: %w: the connection is closed", apdu.ErrTransport)
	case ctx.Err() != nil:
		return ctx.Err()
	case c.removals != c.card.removal.count:
		return fmt.Errorf("emulated card: %w", apdu.ErrCardRemoved)
	case c.resets != c.card.resets:
		return fmt.Errorf("emulated card: %w", apdu.ErrCardReset)
	}
	return nil
}
