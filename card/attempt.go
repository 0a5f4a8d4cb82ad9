package card

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// ErrOutcomeUnknown says that a command was sent and no answer to it verified:
// the card may have carried it out or not. It is neither success nor failure;
// §8 recovers by sending the same command again.
var ErrOutcomeUnknown = errors.New("card: outcome unknown")

// Outcome of a command (§8, "What the server records").
type Outcome int

// The outcomes. Failed says that nothing was done and nothing will be.
const (
	OutcomeFailed Outcome = iota
	OutcomeDone
	OutcomeRefused
	OutcomeUnknown
)

func (o Outcome) String() string {
	switch o {
	case OutcomeFailed:
		return "failed"
	case OutcomeDone:
		return "done"
	case OutcomeRefused:
		return "refused"
	case OutcomeUnknown:
		return "unknown"
	}
	return fmt.Sprintf("outcome %d", int(o))
}

// Attempt is one sending of a command, in a session of its own.
type Attempt struct {
	Command  Command
	Sent     bool   // it was sent before, so this recovers its outcome
	Recorded uint32 // the event counter as it is recorded
	// BeforeSend is called once both sides are authenticated and the command is
	// about to go out: the place for a durable mark. An error stops the attempt
	// before anything is sent. It may be nil.
	BeforeSend func(context.Context) error
}

// Report is what an attempt established.
type Report struct {
	Outcome       Outcome
	Authenticated bool
	Sent          bool            // the command is out, now or before
	SW            apdu.StatusWord // the last status word: inner where verified, else outer; 0 if none
	Answer        *Answer         // nil where none verified
	// Status is what GET STATUS said afterwards in the same session; it settles
	// the record of the card. It is read in recovery and whenever the answer
	// alone does not settle it; nil otherwise, or with StatusErr.
	Status    *Status
	StatusErr error
}

// Final reports whether sending the command again can tell nothing new: it is
// done or refused, or the card signed that its counter has moved on (14), which
// in recovery proves nothing and will not change.
func (r *Report) Final() bool {
	return r.Outcome != OutcomeUnknown || r.Answer != nil
}

// Attempt selects the applet, authenticates and sends the command, as §8 says:
//
//   - OutcomeDone, OutcomeRefused: a verified answer says so, err is nil;
//   - OutcomeFailed: nothing was sent, or the card proved under secure messaging
//     that this sending, the first, did nothing; err says why;
//   - OutcomeUnknown: it was sent, now or before, and no answer settles it; err
//     matches ErrOutcomeUnknown.
func (t *Terminal) Attempt(ctx context.Context, ch *apdu.Channel, target Target, a Attempt) (Report, error) {
	rep := Report{Sent: a.Sent}
	if a.Sent {
		rep.Outcome = OutcomeUnknown
	}
	err := t.attempt(ctx, ch, target, a, &rep)
	if rep.Outcome == OutcomeUnknown {
		if err == nil {
			err = errors.New("no answer settles it")
		}
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return rep, err
}

func (t *Terminal) attempt(ctx context.Context, ch *apdu.Channel, target Target, a Attempt, rep *Report) error {
	data := a.Command.Data()
	if _, err := Select(ctx, ch); err != nil {
		return rep.note(err)
	}
	s, err := t.Authenticate(ctx, ch, target, cryptogram.HashCommand(a.Command.INS, data))
	if err != nil {
		return rep.note(err)
	}
	rep.Authenticated = true
	if a.BeforeSend != nil {
		if err := a.BeforeSend(ctx); err != nil {
			return err
		}
	}
	rep.Sent, rep.Outcome = true, OutcomeUnknown
	body, sw, verified, err := s.secured(ctx, a.Command.op(), a.Command.INS, data)
	rep.SW = sw
	if !verified {
		return err
	}
	settled := false // the answer alone says all that changed
	switch {
	case len(body) == 0 && sw != apdu.SWSuccess:
		// This sending did nothing; an earlier one may have.
		if !a.Sent {
			rep.Outcome = OutcomeFailed
		}
		err = &apdu.Error{Op: a.Command.op(), INS: a.Command.INS, SW: sw}
	default:
		ans, perr := parseAnswer(t.Keys.Ops, target, a.Command, sw, body)
		if perr != nil {
			err = perr
			break
		}
		rep.Answer = ans
		switch {
		case ans.Result == Done:
			rep.Outcome = OutcomeDone
			settled = ans.Counter == a.Recorded+1
		case ans.Result == CounterNotExpected && a.Sent:
			err = fmt.Errorf("the card refuses to repeat it: %s", ans.Result)
		default:
			rep.Outcome = OutcomeRefused
		}
	}
	if a.Sent || !settled && rep.Answer != nil {
		rep.Status, rep.StatusErr = s.Status(ctx)
	}
	return err
}

// note keeps the status word of an error.
func (r *Report) note(err error) error {
	var sw apdu.StatusWord
	if errors.As(err, &sw) {
		r.SW = sw
	}
	return err
}
