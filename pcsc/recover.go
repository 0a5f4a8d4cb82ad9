package pcsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Rung is one way to get a card to answer again; each takes more than the one
// before.
type Rung int

// The rungs: a warm reset; the card's power off and on; a new connection to a
// service that may have restarted, a reader that may have been plugged in again,
// a card that may have been inserted again, and a reset of that card.
const (
	RungReset Rung = iota + 1
	RungPowerCycle
	RungReconnect
)

func (r Rung) String() string {
	switch r {
	case RungReset:
		return "reset"
	case RungPowerCycle:
		return "power cycle"
	case RungReconnect:
		return "new connection"
	}
	return "unknown step"
}

// Step is a rung that was tried.
type Step struct {
	Rung   Rung
	Reader string
	Took   time.Duration
	Err    error // nil where the card answers again
}

func (s Step) String() string {
	if s.Err != nil {
		return fmt.Sprintf("%s after %v: %v", s.Rung, s.Took, s.Err)
	}
	return fmt.Sprintf("%s after %v: the card answers", s.Rung, s.Took)
}

// Reset resets the card, by a warm reset where that does. Where it does not, or
// the connection has ended, it climbs: to a power cycle, then to a new
// connection. The card that answers then is the one that is in the reader now,
// which may be another than before. Each step may take Options.MaxWait and is told to Options.OnRecovery. It climbs
// no further where another program keeps the card (apdu.ErrCardBusy), where an
// earlier call still holds the reader (ErrStuck), or once ctx has ended. Its error
// matches what was wrong at last and what was wrong at first.
func (c *Conn) Reset(ctx context.Context) error { return c.climb(ctx, "reset", RungReset) }

// ColdReset takes the card's power away and gives it back; it climbs as Reset
// does.
func (c *Conn) ColdReset(ctx context.Context) error {
	return c.climb(ctx, "cold reset", RungPowerCycle)
}

func (c *Conn) climb(ctx context.Context, op string, first Rung) error {
	ses := c.current()
	var cause error // what was wrong at first
	if why := ses.why(); why != nil {
		cause = &Error{Op: op, Reader: ses.reader, Code: why.Code, Err: why.Err}
		if errors.Is(cause, os.ErrClosed) {
			return cause
		}
		first = RungReconnect
	}
	for rung := first; ; rung++ {
		if ses.why() != nil { // nothing more can be done on this connection
			rung = RungReconnect
		}
		err := c.step(ctx, op, rung)
		if err == nil {
			return nil
		}
		if rung == RungReconnect || ctx.Err() != nil || errors.Is(err, apdu.ErrCardBusy) {
			return both(op, err, cause)
		}
		if cause == nil {
			cause = err
		}
	}
}

// step tries one rung and tells of it.
func (c *Conn) step(ctx context.Context, op string, rung Rung) error {
	start := time.Now()
	ses := c.current()
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, c.options.maxWait())
		defer cancel()
		switch rung {
		case RungReset:
			return c.reconnect(ctx, op, ses, ResetCard)
		case RungPowerCycle:
			return c.reconnect(ctx, op, ses, UnpowerCard)
		}
		why := ses.why()
		if why == nil {
			why = &Error{Err: errDead}
		}
		_ = ses.end(LeaveCard, why) // an exclusive connection would keep out the next
		if err := c.connect(ctx, op); err != nil {
			return err
		}
		return c.reconnect(ctx, op, c.current(), ResetCard)
	}()
	if c.options.OnRecovery != nil {
		c.options.OnRecovery(Step{Rung: rung, Reader: ses.reader, Took: time.Since(start), Err: err})
	}
	return err
}

func (c *Conn) reconnect(ctx context.Context, op string, ses *session, d Disposition) error {
	err := c.negotiate(ctx, op, ses, func(svc service, p Protocol) (Protocol, error) {
		return svc.reconnect(c.options.Mode == reader.Exclusive, p, d)
	})
	if err == nil {
		c.silent.Store(false)
	}
	return err
}

// both is err, with cause beside it where that is another.
func both(op string, err, cause error) error {
	var last, first *Error
	if !errors.As(err, &last) || !errors.As(cause, &first) || last.Code == first.Code && errors.Is(last, first.Err) {
		return err
	}
	joined := &Error{Op: op, Reader: last.Reader, Code: last.Code, Err: last.Err}
	was := &Error{Op: "before", Code: first.Code, Err: first.Err}
	if joined.Err == nil {
		joined.Err = was
	} else {
		joined.Err = fmt.Errorf("%w; %w", joined.Err, was)
	}
	return joined
}
