package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/store"
)

// recordTimeout is for writing what a card said; it must not depend on whether
// somebody wants the server to end.
const recordTimeout = 30 * time.Second

// carryOut brings a request as far as it comes.
func (s *Server) carryOut(ctx context.Context, req store.Request, c *store.Card, readers []inventory.Place) again {
	defer s.hub.publish(req.ID)
	if req.SentAt == nil {
		// The record may have changed while the request waited.
		if v := s.judge(req, c); v.Refusal != nil {
			_, err := s.Store.Finish(ctx, req.ID, v.Outcome())
			return s.recorded(req, err)
		}
	}
	who, err := target(c)
	if err != nil {
		s.Log.Error("card cannot be addressed", "eid", req.EID, "error", err)
		return soon
	}
	return s.eachReader(ctx, req.EID, readers, func(place inventory.Place) again {
		now, err := s.Store.Request(ctx, req.ID)
		if err != nil {
			s.Log.Error("request not read", "request", req.ID, "error", err)
			return soon
		}
		if now.FinishedAt != nil {
			return no
		}
		return s.attempt(now, c, who, place)
	})
}

// judge holds a request that was taken in against the rules again.
func (s *Server) judge(req store.Request, c *store.Card) store.Verdict {
	return verdict(s.Rules.Evaluate(rulesInput(store.Operator{ID: req.Operator, MCCMNC: req.MCCMNC}, req.EID, req.ICCID, c)))
}

// recorded says how it goes on after the record was written, or was not. Where
// the deadline was faster (store.ErrState) the next look at the queue shows it.
func (s *Server) recorded(req store.Request, err error) again {
	if err == nil {
		return no
	}
	if !errors.Is(err, store.ErrState) {
		s.Log.Error("request not recorded", "request", req.ID, "error", err)
	}
	return soon
}

// attempt is one attempt at a request through one reader.
func (s *Server) attempt(req store.Request, c *store.Card, who card.Target, place inventory.Place) again {
	ctx, cancel := context.WithTimeout(s.work, s.Attempt)
	defer cancel()
	start := store.Event{Kind: "recovering", Detail: map[string]any{"reader": place.Name, "reader_id": place.ID}}
	begin := s.Store.AddStep
	if req.SentAt == nil {
		start.Kind, begin = string(store.Authenticating), s.Store.Authenticate
	}
	if err := begin(ctx, req.ID, start); err != nil {
		return s.recorded(req, err)
	}
	s.hub.publish(req.ID)

	began := time.Now()
	cmd, rep, err := s.send(ctx, req, c, who, place)
	s.Log.Info("attempt", "request", req.ID, "eid", req.EID, "reader", place.Name, "reader_id", place.ID, "outcome", rep.Outcome, "sent", rep.Sent,
		"took", time.Since(began).Round(time.Microsecond), "error", err)
	if rep.Authenticated {
		s.trust(claim{req.EID, place})
	}
	if errors.Is(err, store.ErrRefused) {
		return no
	}
	return s.record(req, c, cmd, rep, err)
}

// send opens the card and sends the request's command. What was sent before is
// sent again as it was.
func (s *Server) send(ctx context.Context, req store.Request, c *store.Card, who card.Target, place inventory.Place) (card.Command, card.Report, error) {
	cmd := card.Command{
		INS: card.INSDeactivate, RequestID: req.ID, Operator: req.MCCMNC, ICCID: req.ICCID, Reason: req.Reason, Counter: req.Counter,
	}
	rep := card.Report{Sent: req.SentAt != nil}
	if rep.Sent {
		rep.Outcome = card.OutcomeUnknown
	}
	conn, err := s.Inventory.Open(ctx, place)
	if err != nil {
		return cmd, rep, err
	}
	defer func() {
		if err := conn.Close(); err != nil {
			s.Log.Debug("reader not closed cleanly", "reader", place.Name, "error", err)
		}
	}()
	ch := apdu.BasicChannel(conn)
	if !rep.Sent {
		if _, err := card.Select(ctx, ch); err != nil {
			return cmd, rep, err
		}
		info, err := card.ReadInfo(ctx, ch)
		if err != nil {
			return cmd, rep, err
		}
		cmd.Counter = info.EventCounter
	}
	a := card.Attempt{Command: cmd, Sent: rep.Sent, Recorded: c.EventCounter}
	a.BeforeSend = func(ctx context.Context) error {
		step := store.Event{Kind: string(store.Sending), Detail: map[string]any{"suite": who.Suite.String(), "event_counter": cmd.Counter}}
		mark := s.Store.AddStep
		if a.Sent {
			step.Detail["again"] = true
		} else {
			mark = func(ctx context.Context, request id.RequestID, e store.Event) error {
				return s.Store.MarkSending(ctx, request, cmd.Counter, e, func(now *store.Card) store.Verdict { return s.judge(req, now) })
			}
		}
		defer s.hub.publish(req.ID)
		if err := mark(ctx, req.ID, step); err != nil {
			return fmt.Errorf("%w: %w", errInternal, err)
		}
		return nil
	}
	rep, err = s.Terminal.Attempt(ctx, ch, who, a)
	return cmd, rep, err
}

// record writes what an attempt established: verified answers, and nothing else.
func (s *Server) record(req store.Request, c *store.Card, cmd card.Command, rep card.Report, cause error) again {
	ctx, cancel := s.recording()
	defer cancel()
	final, state := false, store.Unknown
	switch {
	case rep.Outcome == card.OutcomeDone:
		final, state = true, store.Done
	case rep.Outcome == card.OutcomeRefused:
		final, state = true, store.Refused
	case rep.Outcome == card.OutcomeFailed && rep.Sent:
		final, state = true, store.Failed
	case rep.Outcome == card.OutcomeFailed:
		return s.unsent(ctx, req, cause)
	default:
		// The card's signed 14 will not change, so nothing can be learned of
		// this request any more. It stays unknown, and the card goes on to the
		// next one, once GET STATUS has settled its record.
		final = rep.Final() && rep.Status != nil
	}
	if !final {
		return s.lost(ctx, req, rep, cause)
	}
	o := store.Outcome{State: state, Detail: detail(rep, cause)}
	step := store.Event{Kind: string(state), Detail: map[string]any{"text": o.Detail}}
	if a := rep.Answer; a != nil {
		o.Answer = &store.Answer{
			Result: byte(a.Result), SW: uint16(a.SW), Suite: byte(a.Suite), EventCounter: a.Counter,
			Command: cmd.Data(), Response: a.Data, Receipt: a.Receipt,
		}
		step.Detail["by"], step.Detail["result"], step.Detail["status_word"] = "card", a.Result.Hex(), a.SW.Hex()
		step.Detail["receipt"] = hex.EncodeToString(a.Receipt)
		o.Card = stateOf(req, c, rep)
		o.Unsettled = rep.StatusErr != nil
	}
	o.Steps = []store.Event{step}
	if rep.StatusErr != nil {
		o.Steps = append(o.Steps, store.Event{Kind: "status not read", Internal: true, Detail: map[string]any{"error": rep.StatusErr.Error()}})
	}
	return s.finish(req, o)
}

// recording bounds one writing of what a card said.
func (s *Server) recording() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.work), recordTimeout)
}

// finish ends a request by what its card proved. Where the record cannot be
// written the proof is kept and written later, and until then nothing goes to
// that card: what ended must not be sent again (docs/protocol.md §8).
func (s *Server) finish(req store.Request, o store.Outcome) again {
	for wait := s.Retry.next(0); ; wait = s.Retry.next(wait) {
		ctx, cancel := s.recording()
		_, err := s.Store.Finish(ctx, req.ID, o)
		cancel()
		if err == nil || errors.Is(err, store.ErrState) || s.work.Err() != nil {
			return s.recorded(req, err)
		}
		s.Log.Error("outcome not recorded yet", "request", req.ID, "outcome", o.State, "error", err, "again", wait)
		select {
		case <-time.After(wait):
		case <-s.work.Done():
		}
	}
}

func detail(rep card.Report, cause error) string {
	switch {
	case rep.Outcome == card.OutcomeUnknown:
		return "the card was changed by something else since; whether this request was carried out cannot be known any more"
	case rep.Answer != nil && rep.Outcome == card.OutcomeRefused:
		return "the card refuses: " + rep.Answer.Result.String()
	case rep.Answer != nil:
		return "done, the card's receipt verifies"
	}
	return "the card did nothing: " + text(cause)
}

// stateOf is what an attempt says of the card: all, where GET STATUS was read;
// else, and only where the command was sent for the first time, what the answer
// says. A stored answer that comes again may be older than the card's state.
func stateOf(req store.Request, c *store.Card, rep card.Report) *store.CardState {
	if rep.Status != nil {
		return statusOf(rep.Status)
	}
	a := rep.Answer
	if req.SentAt != nil || a.ICCID == nil {
		return nil
	}
	state := &store.CardState{EventCounter: a.Counter}
	for _, p := range c.Profiles {
		switch {
		case p.State == store.Absent:
			continue
		case p.ICCID == *a.ICCID:
			p.State = profileState(a.State)
		case a.Result != card.Done && a.State != card.Enabled:
			continue // nothing is said of the others
		case a.Fallback != nil && p.ICCID == *a.Fallback:
			p.State = store.Enabled
		default:
			p.State = store.Disabled // at most one is enabled (§7)
		}
		state.Profiles = append(state.Profiles, p)
	}
	return state
}

func statusOf(st *card.Status) *store.CardState {
	state := &store.CardState{EventCounter: st.EventCounter, Complete: true}
	for _, p := range st.Profiles {
		state.Profiles = append(state.Profiles, profileOf(p))
	}
	return state
}

// unsent is an attempt that sent nothing: the request waits for the next one.
func (s *Server) unsent(ctx context.Context, req store.Request, cause error) again {
	if errors.Is(cause, store.ErrState) {
		return soon // its deadline was faster
	}
	s.audit(ctx, req, cause)
	err := s.Store.Wait(ctx, req.ID, store.Event{Kind: string(store.Waiting), Detail: map[string]any{"text": text(cause)}})
	if err != nil {
		return s.recorded(req, err)
	}
	return blame(cause)
}

// lost is an attempt after which a command is out and no answer to it verified.
func (s *Server) lost(ctx context.Context, req store.Request, rep card.Report, cause error) again {
	s.audit(ctx, req, cause)
	if rep.Status != nil {
		if err := s.Store.RecordCard(ctx, req.EID, *statusOf(rep.Status)); err != nil {
			return s.recorded(req, err)
		}
	}
	err := s.Store.Lost(ctx, req.ID, store.Event{Kind: string(store.Unknown), Detail: map[string]any{"text": text(cause)}})
	if err != nil {
		return s.recorded(req, err)
	}
	if rep.Authenticated {
		return soon
	}
	return blame(cause)
}

// audit keeps for the audit log alone what operators must not learn: which
// check of an authentication failed, and what went wrong within the server.
func (s *Server) audit(ctx context.Context, req store.Request, cause error) {
	step := store.Event{Internal: true}
	var auth *card.AuthError
	switch {
	case errors.As(cause, &auth):
		step.Kind, step.Detail = "authentication failed", map[string]any{"reason": auth.Reason}
	case cause != nil && text(cause) == errInternal.Error():
		step.Kind, step.Detail = "internal error", map[string]any{"error": cause.Error()}
	default:
		return
	}
	if err := s.Store.AddStep(ctx, req.ID, step); err != nil {
		s.Log.Error("step not recorded", "request", req.ID, "error", err)
	}
}

// errInternal is an error of the server's own: the audit log alone has more.
var errInternal = errors.New("internal error")

// sentences are what operators read of errors that are not the server's own.
var sentences = []struct {
	err  error
	text string
}{
	{errInternal, errInternal.Error()},
	{apdu.ErrCardRemoved, "the card left the reader"},
	{apdu.ErrCardReset, "the card was reset"},
	{apdu.ErrTimeout, "the card does not answer"},
	{apdu.ErrNoCard, "there is no card in the reader"},
	{apdu.ErrNoReader, "the reader is gone"},
	{apdu.ErrCardBusy, "the card is in use by another program"},
	{apdu.ErrShortAnswer, "the card's answer has no status word"},
	{apdu.ErrTransport, "the reader failed"},
	{card.ErrUnverified, card.ErrUnverified.Error()},
	{card.ErrMalformed, "the card's answer is malformed"},
	{apdu.ErrMalformed, "the card's answer is malformed"},
	{context.DeadlineExceeded, "the attempt took too long"},
	{context.Canceled, "the server ends"},
	{card.ErrOutcomeUnknown, "no answer settles it"},
}

// text is an error as operators read it. It names no file and no part of the
// server.
func text(err error) string {
	var auth *card.AuthError
	var refused *apdu.Error
	switch {
	case err == nil:
		return "no answer"
	case errors.As(err, &auth):
		return auth.Error()
	case errors.As(err, &refused):
		return refused.Error()
	}
	for _, s := range sentences {
		if errors.Is(err, s.err) {
			return s.text
		}
	}
	return errInternal.Error()
}

// blame says how soon to try again: transports fail and come back, a card that
// does not prove itself, refuses or talks nonsense is given time.
func blame(err error) again {
	var auth *card.AuthError
	var refused *apdu.Error
	switch {
	case errors.As(err, &auth), errors.As(err, &refused), errors.Is(err, card.ErrMalformed), errors.Is(err, apdu.ErrMalformed):
		return later
	}
	return soon
}

// settle reads a card's state in a session of its own. waiting, where it is not
// nil, is the request that waits for it.
func (s *Server) settle(ctx context.Context, c *store.Card, waiting *store.Request, readers []inventory.Place) again {
	who, err := target(c)
	if err != nil {
		s.Log.Error("card cannot be addressed", "eid", c.EID, "error", err)
		return soon
	}
	return s.eachReader(ctx, c.EID, readers, func(place inventory.Place) again {
		ctx, cancel := context.WithTimeout(s.work, s.Attempt)
		defer cancel()
		status, err := s.status(ctx, who, place)
		if err == nil {
			s.trust(claim{c.EID, place})
			err = s.Store.RecordCard(ctx, c.EID, *statusOf(status))
		}
		if err != nil {
			s.Log.Info("card not settled", "eid", c.EID, "reader", place.Name, "reader_id", place.ID, "error", err)
			if waiting != nil {
				ctx, cancel := s.recording()
				defer cancel()
				defer s.hub.publish(waiting.ID)
				return s.unsent(ctx, *waiting, err)
			}
			return blame(err)
		}
		return no
	})
}

func (s *Server) status(ctx context.Context, who card.Target, place inventory.Place) (*card.Status, error) {
	conn, err := s.Inventory.Open(ctx, place)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := conn.Close(); err != nil {
			s.Log.Debug("reader not closed cleanly", "reader", place.Name, "error", err)
		}
	}()
	ch := apdu.BasicChannel(conn)
	if _, err := card.Select(ctx, ch); err != nil {
		return nil, err
	}
	session, err := s.Terminal.Authenticate(ctx, ch, who, [32]byte{})
	if err != nil {
		return nil, err
	}
	return session.Status(ctx)
}
