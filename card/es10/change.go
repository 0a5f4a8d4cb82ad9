package es10

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
)

// How is what a record, an audit trail or a result says of how a change was made.
const How = "ES10c, without mutual authentication and without a receipt"

// Op is what a Change does.
type Op int

// The operations.
const (
	OpDisable Op = iota + 1
	OpEnable
	OpDelete
	OpSetNickname
	OpMemoryReset
)

// function is the one that carries it out.
func (o Op) function() function {
	return map[Op]function{
		OpDisable: disableProfile, OpEnable: enableProfile, OpDelete: deleteProfile, OpSetNickname: setNickname, OpMemoryReset: memoryReset,
	}[o]
}

func (o Op) String() string { return o.function().name }

// Change is one change of an eUICC.
type Change struct {
	Op Op
	// EID is the card that it must be; nil: any.
	EID *id.EID
	// ICCID is the profile. Nil: for OpDisable the enabled one, for OpEnable the
	// only one that is disabled. OpMemoryReset has none.
	ICCID *id.ICCID
	// Refresh has the card send the terminal a REFRESH (OpDisable, OpEnable).
	Refresh  bool
	Nickname string      // OpSetNickname
	Reset    MemoryReset // OpMemoryReset

	// Sent says that it was sent before, so this recovers its outcome: it is not
	// sent again where the card is as it should be. ICCID says for which profile.
	Sent bool
	// BeforeSend is called once it is about to go out, with what was read: the
	// place for rules about the profile and a durable mark. An error stops the
	// attempt before anything is sent. It may be nil.
	BeforeSend func(context.Context, Report) error
	// BusyWait is how long to wait where the toolkit is busy, the first time;
	// twice that the second, four times at most. 0: 250 ms.
	BusyWait time.Duration

	Options
}

// Report is what an attempt established. Outcome is what was read from the card
// afterwards: done, the card is as it should be; refused, it is not, and the card
// said why; failed, it is not, or nothing was sent; unknown, it was sent, and the
// card could not be read.
type Report struct {
	Outcome card.Outcome
	Sent    bool // the function is out, now or before
	EID     *id.EID
	ISDR    string // AID
	ICCID   *id.ICCID
	// Answer is what the card answered the function: nil for success, an *Error or
	// *apdu.Error for a refusal, else what the transport said. It is not signed.
	Answer error
	Busy   int // answers that the toolkit is busy

	Before, After []Profile // as read; After is nil where it was not
}

// Profile is the profile of the change as it was last read.
func (r *Report) Profile() (Profile, bool) {
	list := r.After
	if list == nil {
		list = r.Before
	}
	if r.ICCID == nil {
		return Profile{}, false
	}
	return find(list, *r.ICCID)
}

func find(list []Profile, iccid id.ICCID) (Profile, bool) {
	if i := slices.IndexFunc(list, func(p Profile) bool { return p.ICCID == iccid }); i >= 0 {
		return list[i], true
	}
	return Profile{}, false
}

// ErrNotDone says that the card answered success and is not as it should be.
var ErrNotDone = errors.New("es10: the card says that it is done, and it is not")

// Attempt makes a change on one connection and reads the card again after a reset,
// which is what a REFRESH asks for and some eUICCs need before they answer.
//
//   - OutcomeDone: err is nil;
//   - OutcomeRefused: err is nil, Report.Answer is the refusal;
//   - OutcomeFailed: err says why; nothing was changed;
//   - OutcomeUnknown: err matches card.ErrOutcomeUnknown. The same change with Sent
//     recovers it.
func Attempt(ctx context.Context, conn apdu.Conn, c Change) (Report, error) {
	rep := Report{Sent: c.Sent, ICCID: c.ICCID}
	if c.Sent {
		rep.Outcome = card.OutcomeUnknown
	}
	err := c.attempt(ctx, conn, &rep)
	if rep.Outcome == card.OutcomeUnknown {
		err = fmt.Errorf("%w: %w", card.ErrOutcomeUnknown, err)
	}
	return rep, err
}

func (c *Change) attempt(ctx context.Context, conn apdu.Conn, rep *Report) error {
	if c.Op.function().name == "" {
		return fmt.Errorf("es10: no operation %d", int(c.Op))
	}
	if err := checkNickname(c.Nickname); err != nil {
		return err
	}
	if c.Sent && c.ICCID == nil && c.Op != OpMemoryReset {
		return fmt.Errorf("es10: %s was sent, and it is not said for which profile", c.Op)
	}
	e, err := c.look(ctx, conn, rep)
	if err == nil && rep.ICCID == nil && c.Op != OpMemoryReset {
		rep.ICCID, err = c.choose(rep.Before)
	}
	if err == nil && c.Sent && c.reached(rep, rep.Before) {
		rep.After, rep.Outcome = rep.Before, card.OutcomeDone
		return leave(ctx, e, nil)
	}
	if err == nil && c.BeforeSend != nil {
		err = c.BeforeSend(ctx, *rep)
	}
	if err != nil {
		return leave(ctx, e, err)
	}
	rep.Sent, rep.Outcome = true, card.OutcomeUnknown
	rep.Answer = c.send(ctx, conn, e, rep)
	if err := c.readAgain(ctx, conn, rep); err != nil {
		if rep.Answer != nil {
			return fmt.Errorf("%w; and reading the card again: %w", rep.Answer, err)
		}
		return fmt.Errorf("reading the card again: %w", err)
	}
	return c.judge(rep)
}

// leave closes the channel of an eUICC that answers yet, and gives err: what
// becomes of the channel tells nothing of the change.
func leave(ctx context.Context, e *EUICC, err error) error {
	if e != nil && !apdu.Gone(err) {
		_ = e.Close(ctx)
	}
	return err
}

// Read lists the profiles of the eUICC that has an EID, after a reset where reset
// says so: what came of a change that was sent is what is read then.
func Read(ctx context.Context, conn apdu.Conn, eid id.EID, reset bool) ([]Profile, error) {
	c, rep := Change{EID: &eid, Sent: reset}, Report{}
	e, err := c.look(ctx, conn, &rep)
	return rep.Before, leave(ctx, e, err)
}

// look opens the ISD-R and reads what there is; after a reset, where that may be
// what came of the change. The EUICC is there with an error too, once it was
// opened.
func (c *Change) look(ctx context.Context, conn apdu.Conn, rep *Report) (*EUICC, error) {
	open := c.open
	if c.Sent {
		open = c.reopen
	}
	e, eid, err := open(ctx, conn)
	if !c.Sent && errors.Is(err, apdu.SWConditionsNotSatisfied) { // it may want a reset first
		e, eid, err = c.reopen(ctx, conn)
	}
	if err != nil {
		return e, err
	}
	rep.EID, rep.ISDR = &eid, e.AID()
	if c.EID != nil && *c.EID != eid {
		return e, fmt.Errorf("%w: the card's EID is %s, %s wanted", ErrAnotherCard, eid, c.EID)
	}
	rep.Before, err = e.Profiles(ctx)
	return e, err
}

func (c *Change) open(ctx context.Context, conn apdu.Conn) (*EUICC, id.EID, error) {
	e, err := Open(ctx, conn, c.Options)
	if err != nil {
		return nil, id.EID{}, err
	}
	eid, err := e.EID(ctx)
	return e, eid, err
}

// reopen is open after a reset.
func (c *Change) reopen(ctx context.Context, conn apdu.Conn) (*EUICC, id.EID, error) {
	if err := conn.Reset(ctx); err != nil {
		return nil, id.EID{}, err
	}
	return c.open(ctx, conn)
}

// choose is the profile where the change names none.
func (c *Change) choose(list []Profile) (*id.ICCID, error) {
	var found []id.ICCID
	for _, p := range list {
		if c.Op == OpDisable && p.State == Enabled || c.Op == OpEnable && p.State == Disabled {
			found = append(found, p.ICCID)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("es10: %s: %d of %d profiles would do: say which one, by its ICCID", c.Op, len(found), len(list))
	}
	return &found[0], nil
}

const (
	defaultBusyWait = 250 * time.Millisecond
	busyTries       = 4
	busyReset       = 1 // from this try on with a reset, which ends any proactive session
)

// send carries the function out, again while the toolkit is busy; once more after
// a reset where the card answers nothing without one.
func (c *Change) send(ctx context.Context, conn apdu.Conn, e *EUICC, rep *Report) error {
	wait := c.BusyWait
	if wait == 0 {
		wait = defaultBusyWait
	}
	reset := false
	for try := 0; ; try++ {
		err := c.call(ctx, e, rep)
		busy, stuck := errors.Is(err, ErrCATBusy), errors.Is(err, apdu.SWConditionsNotSatisfied)
		if busy {
			rep.Busy++
		}
		switch {
		case !busy && !stuck, stuck && reset, try == busyTries:
			return err
		case busy:
			select {
			case <-time.After(wait << try):
			case <-ctx.Done():
				return err
			}
		}
		if stuck || try >= busyReset {
			reset = true
			if e, _, err = c.reopen(ctx, conn); err != nil {
				return err
			}
		}
	}
}

func (c *Change) call(ctx context.Context, e *EUICC, rep *Report) error {
	switch c.Op {
	case OpEnable:
		return e.Enable(ctx, *rep.ICCID, c.Refresh)
	case OpDisable:
		return e.Disable(ctx, *rep.ICCID, c.Refresh)
	case OpDelete:
		return e.Delete(ctx, *rep.ICCID)
	case OpSetNickname:
		return e.SetNickname(ctx, *rep.ICCID, c.Nickname)
	}
	return e.MemoryReset(ctx, c.Reset)
}

// readAgain resets the card and reads its profiles.
func (c *Change) readAgain(ctx context.Context, conn apdu.Conn, rep *Report) error {
	e, eid, err := c.reopen(ctx, conn)
	if err != nil {
		return err
	}
	if eid != *rep.EID {
		return fmt.Errorf("%w: the card's EID is %s now, and was %s", ErrAnotherCard, eid, rep.EID)
	}
	if rep.After, err = e.Profiles(ctx); err != nil {
		return err
	}
	if rep.After == nil {
		rep.After = []Profile{} // a card without profiles was read too
	}
	return leave(ctx, e, nil)
}

// reached reports whether the card is as the change has it.
func (c *Change) reached(rep *Report, list []Profile) bool {
	if c.Op == OpMemoryReset {
		return !slices.ContainsFunc(list, func(p Profile) bool {
			return c.Reset.Operational && p.Class == Operational || c.Reset.Test && p.Class == Test
		})
	}
	p, there := find(list, *rep.ICCID)
	switch c.Op {
	case OpEnable:
		return there && p.State == Enabled
	case OpDisable:
		return there && p.State == Disabled
	case OpSetNickname:
		return there && p.Nickname == c.Nickname
	}
	return !there
}

// judge holds what the card answered against what was read before and afterwards.
func (c *Change) judge(rep *Report) error {
	var code *Error
	var sw *apdu.Error
	answered := errors.As(rep.Answer, &code) || errors.As(rep.Answer, &sw)
	reached := c.reached(rep, rep.After)
	switch {
	case reached && (!answered || !c.reached(rep, rep.Before)):
		rep.Outcome = card.OutcomeDone
		return nil
	case rep.Answer == nil:
		rep.Outcome = card.OutcomeFailed
		return fmt.Errorf("%w: %s", ErrNotDone, c.Op)
	case code != nil && code.Unwrap() != nil && !errors.Is(code, ErrCATBusy) && !errors.Is(code, ErrUndefined),
		sw != nil && sw.SW.SW1() == commandNotAllowed:
		rep.Outcome = card.OutcomeRefused
		return nil
	}
	rep.Outcome = card.OutcomeFailed
	return rep.Answer
}

// commandNotAllowed is SW1 of a refusal by status word; M2M eUICCs have 69E1 for
// POL1.
const commandNotAllowed = 0x69

// Recovery is how Run comes by a card again that has gone.
type Recovery struct {
	// Open connects to the card, which may have to come back first; it must
	// return when its ctx ends.
	Open func(ctx context.Context) (apdu.Conn, error)
	// Wait bounds one Open, and so how long a card may be away.
	Wait     time.Duration
	Attempts int // at most, 1 or more
	// Pause is after the first attempt, for the reader to notice that its card
	// left; twice that after the second. 0: 500 ms.
	Pause time.Duration
	// Step is told what happens, in words; it may be nil.
	Step func(format string, args ...any)
}

// Run makes a change and recovers an unknown outcome within Attempts, each on a
// connection of its own. Report and error are the last attempt's.
func Run(ctx context.Context, c Change, r Recovery) (Report, error) {
	rep := Report{Sent: c.Sent, ICCID: c.ICCID}
	if c.Sent {
		rep.Outcome = card.OutcomeUnknown
	}
	pause := r.Pause
	if pause == 0 {
		pause = defaultPause
	}
	for try := 1; ; try++ {
		conn, err := card.OpenWithin(ctx, r.Wait, r.Open)
		switch {
		case err == nil:
			rep, err = Attempt(ctx, conn, c)
			conn.Close()
			c.Sent, c.ICCID = rep.Outcome == card.OutcomeUnknown, rep.ICCID
			if rep.EID != nil && c.EID == nil {
				c.EID = rep.EID // the card that comes back must be the same
			}
		case c.Sent:
			err = fmt.Errorf("%w: %w", card.ErrOutcomeUnknown, err)
		}
		again := rep.Outcome == card.OutcomeUnknown || rep.Outcome == card.OutcomeFailed && apdu.Gone(err)
		if err == nil || !again || try >= r.Attempts || ctx.Err() != nil {
			return rep, err
		}
		if r.Step != nil {
			r.Step("%v; trying again, attempt %d of %d", err, try+1, r.Attempts)
		}
		select {
		case <-time.After(time.Duration(try) * pause):
		case <-ctx.Done():
		}
	}
}

const defaultPause = 500 * time.Millisecond
