package card

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/id"
)

// Operation is a DEACTIVATE or ACTIVATE carried through on one card without a
// server: it fills in what is left open from an authenticated GET STATUS, sends
// the command, and recovers an unknown outcome within Attempts. It keeps
// nothing, so an outcome that stays unknown must be recovered by the same
// operation with the same request id and counter.
type Operation struct {
	INS       byte
	RequestID id.RequestID
	Reason    byte
	Operator  *id.MCCMNC // nil: the profile's owner
	ICCID     *id.ICCID  // nil: the enabled profile; for ACTIVATE the only disabled one, if there is one only
	Counter   *uint32    // nil: the card's
	Attempts  int        // sendings at most, 1 or more
	// Open connects to the card, which may have to come back first; it must
	// return when its ctx ends.
	Open func(ctx context.Context) (apdu.Conn, error)
	// Wait bounds one Open, and so how long a card may be away.
	Wait time.Duration
	// Step is told what happens, in words; it may be nil.
	Step func(format string, args ...any)
}

// Run carries op through with the target's card. Report and error are those of
// the last attempt (Terminal.Attempt); the command is what was sent or would
// have been.
func (t *Terminal) Run(ctx context.Context, target Target, op Operation) (Command, Report, error) {
	cmd := Command{INS: op.INS, RequestID: op.RequestID, ICCID: op.ICCID, Reason: op.Reason}
	var conn apdu.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	var rep Report
	for try := 1; cmd.Operator == (id.MCCMNC{}); try++ {
		var err error
		if conn, err = op.open(ctx, conn); err != nil {
			return cmd, rep, err // Wait is over, and there is nothing to recover
		}
		if rep, err = t.fill(ctx, apdu.BasicChannel(conn), target, op, &cmd); err == nil {
			break
		}
		if try >= op.Attempts || !apdu.Gone(err) || ctx.Err() != nil {
			return cmd, rep, err
		}
		op.step("%v; trying again", err)
		conn = op.drop(ctx, conn, try)
	}
	rep = Report{}
	for try := 1; ; try++ {
		sent, authenticated := rep.Sent, rep.Authenticated
		var err error
		if conn, err = op.open(ctx, conn); err != nil && !sent {
			return cmd, rep, err
		}
		if err == nil {
			if sent {
				op.step("sending the same command again, attempt %d of %d", try, op.Attempts)
			}
			rep, err = t.Attempt(ctx, apdu.BasicChannel(conn), target, Attempt{
				Command: cmd, Sent: sent, Recorded: cmd.Counter,
				BeforeSend: func(context.Context) error {
					op.step("authenticated both ways in suite %s, sending %s", target.Suite, cmd.op())
					return nil
				},
			})
			rep.Authenticated = rep.Authenticated || authenticated
		} else {
			err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
		}
		switch {
		case err == nil, rep.Final() && rep.Sent, try >= op.Attempts, ctx.Err() != nil, !rep.Sent && !apdu.Gone(err):
			return cmd, rep, err
		}
		op.step("%v", err)
		conn = op.drop(ctx, conn, try)
	}
}

// fill completes cmd from what the operation gives and from GET STATUS in a
// session of its own, where something is missing.
func (t *Terminal) fill(ctx context.Context, ch *apdu.Channel, target Target, op Operation, cmd *Command) (rep Report, err error) {
	if op.Operator != nil && op.Counter != nil && op.ICCID != nil {
		cmd.Operator, cmd.Counter = *op.Operator, *op.Counter
		return rep, nil
	}
	status, rep, err := t.ReadStatus(ctx, ch, target)
	if err != nil {
		return rep, err
	}
	op.step("event counter %d, profiles: %d", status.EventCounter, len(status.Profiles))
	if cmd.Counter = status.EventCounter; op.Counter != nil {
		cmd.Counter = *op.Counter
	}
	var p Profile
	switch {
	case op.ICCID != nil:
		p, _ = status.Profile(*op.ICCID)
	case op.INS == INSActivate && len(disabled(status)) == 1:
		p = disabled(status)[0]
		cmd.ICCID = &p.ICCID
	default:
		var ok bool
		if p, ok = status.Enabled(); ok {
			cmd.ICCID = &p.ICCID
		} else if op.INS == INSActivate {
			return rep, fmt.Errorf("no profile is enabled and %d are disabled: say which one to activate, by its ICCID", len(disabled(status)))
		}
	}
	switch {
	case op.Operator != nil:
		cmd.Operator = *op.Operator
	case p.Owner != (id.MCCMNC{}):
		cmd.Operator = p.Owner
	case len(status.Profiles) > 0:
		// The card has the last word on a profile that is not there.
		cmd.Operator = status.Profiles[0].Owner
	default:
		return rep, errors.New("the card has no profile: say which operator asks")
	}
	return rep, nil
}

func disabled(status *Status) []Profile {
	return slices.DeleteFunc(slices.Clone(status.Profiles), func(p Profile) bool { return p.State != Disabled })
}

// ReadStatus selects the applet, authenticates for reading only and reads the
// status. The report says how far it came.
func (t *Terminal) ReadStatus(ctx context.Context, ch *apdu.Channel, target Target) (*Status, Report, error) {
	var rep Report
	if _, err := Select(ctx, ch); err != nil {
		return nil, rep, rep.note(err)
	}
	s, err := t.Authenticate(ctx, ch, target, [32]byte{})
	if err != nil {
		return nil, rep, rep.note(err)
	}
	rep.Authenticated, rep.SW = true, apdu.SWSuccess
	status, err := s.Status(ctx)
	return status, rep, rep.note(err)
}

func (op *Operation) open(ctx context.Context, conn apdu.Conn) (apdu.Conn, error) {
	if conn != nil {
		return conn, nil
	}
	return OpenWithin(ctx, op.Wait, op.Open)
}

// OpenWithin calls open until it connects, for wait at most, as long as it is card
// or reader that are not there (apdu.Gone). open must return when its ctx ends.
func OpenWithin(ctx context.Context, wait time.Duration, open func(context.Context) (apdu.Conn, error)) (apdu.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		conn, err := open(ctx)
		if err == nil || !apdu.Gone(err) || !sleep(ctx, retryOpen) {
			return conn, err
		}
	}
}

func (op *Operation) step(format string, args ...any) {
	if op.Step != nil {
		op.Step(format, args...)
	}
}

// drop closes a connection that failed and gives the reader time to notice that
// its card left, longer each time.
func (op *Operation) drop(ctx context.Context, conn apdu.Conn, try int) apdu.Conn {
	if conn != nil {
		conn.Close()
	}
	sleep(ctx, time.Duration(try)*retryAttempt)
	return nil
}

const (
	retryOpen    = 100 * time.Millisecond // between two connects
	retryAttempt = 500 * time.Millisecond // after the first attempt; twice that after the second
)

// sleep reports whether it slept through before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
