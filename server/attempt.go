package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/store"
)

// recordTimeout is for writing what a card said; it must not depend on whether
// somebody wants the server to end.
const recordTimeout = 30 * time.Second

// slow is how long an authentication takes before operators are told of it as a
// state of its own.
const slow = time.Second

// carryOut does what there is to do under a claim, through one reader: it settles
// the record of a card, or brings its next request as far as it comes. Every way
// out gives the claim back.
func (s *Server) carryOut(work *taken, place inventory.Place) again {
	ctx, cancel := s.leased(work)
	defer cancel()
	c, req := work.Card, work.Request
	who, err := target(c)
	if err != nil {
		s.Log.Error("card cannot be addressed", "eid", c.EID, "error", err)
		s.release(work.Claim)
		return soon
	}
	// The rules, and a first sending, start from a record that is the card's.
	// In recovery GET STATUS is read anyhow.
	if c.Unsettled && (req == nil || req.SentAt == nil) {
		return s.settle(ctx, work, who, place)
	}
	defer s.hub.publish(req.ID)
	if req.SentAt == nil && !work.fresh {
		// The record may have changed while the request waited.
		v, err := s.reconsider(ctx, work)
		if err == nil && v.Refusal != nil {
			_, err = s.Store.Finish(ctx, work.Claim, req.ID, v.Outcome())
			return s.recorded(work, err)
		}
		if err != nil {
			return s.recorded(work, err)
		}
	}
	return s.attempt(ctx, work, who, place)
}

// recorded says how it goes on after the record was written, or was not. Where
// the deadline was faster (store.ErrState), or the claim has passed, the next
// look at the queue shows it.
func (s *Server) recorded(work *taken, err error) again {
	if err == nil {
		return no
	}
	switch {
	case errors.Is(err, store.ErrFenced):
		s.Observer.ClaimsLost(1)
		s.Log.Warn("claim has passed, nothing was recorded under it", "eid", work.Claim.EID, "error", err)
		return soon
	case !errors.Is(err, store.ErrState):
		s.Log.Error("request not recorded", "eid", work.Claim.EID, "error", err)
	}
	s.release(work.Claim)
	return soon
}

// attempt is one attempt at a request through one reader.
func (s *Server) attempt(ctx context.Context, work *taken, who card.Target, place inventory.Place) again {
	began := time.Now()
	a := &attempt{s: s, work: work, who: who, place: place}
	if work.Card.Management == store.ES10c {
		return a.plain(ctx)
	}
	a.step(map[bool]string{false: string(store.Authenticating), true: "recovering"}[work.Request.SentAt != nil],
		map[string]any{"reader": place.Name, "reader_id": place.ID})
	told := time.AfterFunc(slow, func() { a.tell(ctx) })
	rep, err := a.send(ctx)
	told.Stop()
	req := work.Request
	s.Log.Info("attempt", "request", req.ID, "eid", req.EID, "reader", place.Name, "reader_id", place.ID, "kid", hexKID(a.kid), "outcome", rep.Outcome, "sent", rep.Sent,
		"took", time.Since(began).Round(time.Microsecond), "error", err)
	s.attempted(place, outcomeOf(rep), err, time.Since(began))
	if rep.Authenticated {
		s.trust(suspect{req.EID, place})
	}
	if errors.Is(err, store.ErrRefused) || errors.Is(err, store.ErrHeld) {
		return no
	}
	return a.record(rep, err)
}

// attempt is what is known of one attempt while it lasts.
type attempt struct {
	s     *Server
	work  *taken
	who   card.Target
	place inventory.Place
	cmd   card.Command
	read  *store.CardState // what was read of a plain eUICC before anything was sent
	kid   byte             // of the key set that it goes under; 0 until that is known
	apdus exchanges

	mu    sync.Mutex
	steps []store.Event // that are not written yet
}

// step keeps a step, to be written with the next that has to be durable: no
// transaction of its own for what only tells how far an attempt has come.
func (a *attempt) step(kind string, detail map[string]any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.steps = append(a.steps, store.Event{At: a.s.Store.Now(), Kind: kind, Detail: detail})
}

// take gives the steps to whoever writes them.
func (a *attempt) take(more ...store.Event) []store.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	steps := append(a.steps, more...)
	a.steps = nil
	return steps
}

// tell writes the steps of an attempt that takes its time.
func (a *attempt) tell(ctx context.Context) {
	if a.work.Request.SentAt != nil {
		return
	}
	steps := a.take()
	if len(steps) == 0 {
		return // the mark has them
	}
	if err := a.s.Store.Authenticate(ctx, a.work.Claim, a.work.Request.ID, steps...); err != nil {
		a.s.Log.Debug("steps not recorded", "request", a.work.Request.ID, "error", err)
	}
	a.s.hub.publish(a.work.Request.ID)
}

// send opens the card and sends the request's command. What was sent before is
// sent again as it was.
func (a *attempt) send(ctx context.Context) (card.Report, error) {
	req := a.work.Request
	a.cmd = card.Command{
		INS: card.INSDeactivate, RequestID: req.ID, Operator: req.MCCMNC, ICCID: req.ICCID, Reason: req.Reason, Counter: req.Counter,
	}
	rep := card.Report{Sent: req.SentAt != nil}
	if rep.Sent {
		rep.Outcome = card.OutcomeUnknown
	}
	conn, err := a.open(ctx)
	if err != nil {
		return rep, err
	}
	defer a.s.disconnect(conn, a.place)
	ch := apdu.BasicChannel(conn)
	info, terminal, err := a.s.terminal(ctx, ch, a.who)
	if err != nil {
		return rep, err
	}
	a.kid = terminal.Keys.KID
	if !rep.Sent {
		a.cmd.Counter = info.EventCounter
	}
	t := card.Attempt{Command: a.cmd, Sent: rep.Sent, Recorded: a.work.Card.EventCounter}
	t.BeforeSend = func(ctx context.Context) error {
		detail := map[string]any{"suite": a.who.Suite.String(), "kid": hexKID(a.kid), "event_counter": a.cmd.Counter}
		if err := a.mark(ctx, t.Sent, detail); err != nil {
			return fmt.Errorf("%w: %w", errInternal, err)
		}
		return nil
	}
	return terminal.Attempt(ctx, ch, a.who, t)
}

// open connects to the card, and keeps what passes.
func (a *attempt) open(ctx context.Context) (apdu.Conn, error) {
	if a.work.Card.Management == store.ES10c && len(a.s.Inventory.Readers(a.work.Card.EID)) > 1 {
		return nil, errSeveral
	}
	conn, err := a.s.Inventory.Open(ctx, a.place)
	if err != nil {
		return nil, err
	}
	return a.apdus.wrap(conn, a.place.Name), nil
}

// terminal selects the applet and gives the server under the key set that the
// card holds.
func (s *Server) terminal(ctx context.Context, ch *apdu.Channel, who card.Target) (*card.Info, *card.Terminal, error) {
	if _, err := card.Select(ctx, ch); err != nil {
		return nil, nil, err
	}
	info, err := card.ReadInfo(ctx, ch)
	if err != nil {
		return nil, nil, err
	}
	t, err := s.terminals().For(info, who.Suite)
	return info, t, err
}

// hexKID is a key set's id as it stands in steps and in the log.
func hexKID(kid byte) string { return fmt.Sprintf("%02X", kid) }

// mark writes that the command is about to go out.
func (a *attempt) mark(ctx context.Context, again bool, detail map[string]any) error {
	defer a.s.hub.publish(a.work.Request.ID)
	step := store.Event{Kind: string(store.Sending), Detail: detail}
	if again {
		step.Detail["again"] = true
		return a.s.Store.Again(ctx, a.work.Claim, a.work.Request.ID, a.take(step)...)
	}
	before := a.take()
	err := a.s.Store.MarkSending(ctx, a.work.Claim, *a.work.Request, a.cmd.Counter, before, step, func(m *store.Moment, r *store.Request) store.Verdict {
		v := a.judge(m, r)
		if v.Refusal != nil || v.Hold != "" {
			v.Steps, v.Card = a.apdus.peek(), a.read
		}
		return v
	})
	if err != nil {
		a.mu.Lock()
		a.steps = append(a.steps, before...)
		a.mu.Unlock()
	}
	return err
}

// record writes what an attempt established: verified answers, and nothing else.
func (a *attempt) record(rep card.Report, cause error) again {
	final, state := false, store.Unknown
	switch {
	case rep.Outcome == card.OutcomeDone:
		final, state = true, store.Done
	case rep.Outcome == card.OutcomeRefused:
		final, state = true, store.Refused
	case rep.Outcome == card.OutcomeFailed && rep.Sent:
		final, state = true, store.Failed
	case rep.Outcome == card.OutcomeFailed:
		return a.unsent(cause)
	default:
		// The card's signed 14 will not change, so nothing can be learned of
		// this request any more. It stays unknown, and the card goes on to the
		// next one, once GET STATUS has settled its record.
		final = rep.Final() && rep.Status != nil
	}
	if !final {
		return a.lost(rep, cause)
	}
	o := store.Outcome{State: state, Detail: detail(rep, cause)}
	step := store.Event{Kind: string(state), Detail: map[string]any{"text": o.Detail}}
	if answer := rep.Answer; answer != nil {
		o.Answer = &store.Answer{
			Result: byte(answer.Result), SW: uint16(answer.SW), Suite: byte(answer.Suite), EventCounter: answer.Counter,
			Command: a.cmd.Data(), Response: answer.Data, Receipt: answer.Receipt,
		}
		step.Detail["by"], step.Detail["result"], step.Detail["status_word"] = "card", answer.Result.Hex(), answer.SW.Hex()
		step.Detail["kid"] = hexKID(a.kid)
		// All that the receipt's verification needs beside the card's keys.
		step.Detail["command"], step.Detail["response"] = hex.EncodeToString(o.Answer.Command), hex.EncodeToString(answer.Data)
		step.Detail["receipt"] = hex.EncodeToString(answer.Receipt)
		o.Card = stateOf(a.work.Request, a.work.Card, rep)
		o.Unsettled = rep.StatusErr != nil
	}
	o.Steps = a.take(a.apdus.take(step)...)
	if rep.StatusErr != nil {
		o.Steps = append(o.Steps, store.Event{Kind: "status not read", Internal: true, Detail: map[string]any{"error": rep.StatusErr.Error()}})
	}
	return a.finish(o)
}

// recording bounds one writing of what a card said.
func (s *Server) recording() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.work), recordTimeout)
}

// finish ends a request by what its card proved. Where the record cannot be
// written the proof is kept and written later, and until then nothing goes to
// that card from here: what ended must not be sent again (docs/protocol.md §8).
// Once the claim has passed the proof is another server's to get: the card gives
// it again.
func (a *attempt) finish(o store.Outcome) again {
	for wait := a.s.Retry.next(0); ; wait = a.s.Retry.next(wait) {
		ctx, cancel := a.s.recording()
		_, err := a.s.Store.Finish(ctx, a.work.Claim, a.work.Request.ID, o)
		cancel()
		if err == nil || errors.Is(err, store.ErrState) || errors.Is(err, store.ErrFenced) || a.s.work.Err() != nil {
			return a.s.recorded(a.work, err)
		}
		a.s.Log.Error("outcome not recorded yet", "request", a.work.Request.ID, "outcome", o.State, "error", err, "again", wait)
		select {
		case <-time.After(wait):
		case <-a.s.work.Done():
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
func stateOf(req *store.Request, c *store.Card, rep card.Report) *store.CardState {
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
func (a *attempt) unsent(cause error) again {
	if errors.Is(cause, store.ErrFenced) || errors.Is(cause, store.ErrState) {
		return a.s.recorded(a.work, cause) // another server, or the deadline, was faster
	}
	ctx, cancel := a.s.recording()
	defer cancel()
	step := store.Event{Kind: string(store.Waiting), Detail: map[string]any{"text": text(cause)}}
	if err := a.s.Store.Wait(ctx, a.work.Claim, a.work.Request.ID, append(a.take(a.apdus.take(audit(cause)...)...), step)...); err != nil {
		return a.s.recorded(a.work, err)
	}
	return blame(cause)
}

// lost is an attempt after which a command is out and no answer to it verified.
func (a *attempt) lost(rep card.Report, cause error) again {
	ctx, cancel := a.s.recording()
	defer cancel()
	var state *store.CardState
	if rep.Status != nil {
		state = statusOf(rep.Status)
	}
	step := store.Event{Kind: string(store.Unknown), Detail: map[string]any{"text": text(cause)}}
	if err := a.s.Store.Lost(ctx, a.work.Claim, a.work.Request.ID, state, append(a.take(a.apdus.take(audit(cause)...)...), step)...); err != nil {
		return a.s.recorded(a.work, err)
	}
	if rep.Authenticated {
		return soon
	}
	return blame(cause)
}

// audit is for the audit log alone, what operators must not learn: which check
// of an authentication failed, and what went wrong within the server.
func audit(cause error) []store.Event {
	var auth *card.AuthError
	switch {
	case errors.As(cause, &auth):
		return []store.Event{{Internal: true, Kind: "authentication failed", Detail: map[string]any{"reason": auth.Reason}}}
	case cause != nil && text(cause) == errInternal.Error():
		return []store.Event{{Internal: true, Kind: "internal error", Detail: map[string]any{"error": cause.Error()}}}
	}
	return nil
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
	{es10.ErrMalformed, "the card's answer is malformed"},
	{es10.ErrNotDone, "the card says that it is done, and it is not"},
	{es10.ErrAnotherCard, "the reader has another card"},
	{errApplet, errApplet.Error()},
	{errSeveral, errSeveral.Error()},
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
	var code *es10.Error
	var keys *card.KeySetError
	switch {
	case err == nil:
		return "no answer"
	case errors.As(err, &auth):
		return auth.Error()
	case errors.As(err, &keys):
		return keys.Error()
	case errors.As(err, &refused):
		return refused.Error()
	case errors.As(err, &code):
		return code.Error()
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
	var code *es10.Error
	var keys *card.KeySetError
	switch {
	case errors.As(err, &auth), errors.As(err, &refused), errors.As(err, &code), errors.As(err, &keys), errors.Is(err, card.ErrMalformed), errors.Is(err, apdu.ErrMalformed),
		errors.Is(err, es10.ErrMalformed), errors.Is(err, es10.ErrAnotherCard), errors.Is(err, errApplet):
		return later
	}
	return soon
}

// settle reads a card's state, on a connection of its own.
func (s *Server) settle(ctx context.Context, work *taken, who card.Target, place inventory.Place) again {
	began := time.Now()
	a := &attempt{s: s, work: work, who: who, place: place}
	state, err := a.state(ctx)
	s.attempted(place, settled(err), err, time.Since(began))
	if err == nil {
		s.trust(suspect{work.Card.EID, place})
		record, cancel := s.recording()
		defer cancel()
		if err = s.Store.RecordCard(record, work.Claim, *state, a.apdus.peek()...); err == nil {
			return more
		}
	}
	s.Log.Info("card not settled", "eid", work.Card.EID, "reader", place.Name, "reader_id", place.ID, "error", err)
	if work.Request != nil {
		defer s.hub.publish(work.Request.ID)
		return a.unsent(err)
	}
	s.release(work.Claim, append(a.apdus.take(audit(err)...), store.Event{Kind: "card not settled", Internal: true, Detail: map[string]any{"error": err.Error()}})...)
	return blame(err)
}

// disconnect closes a card's connection.
func (s *Server) disconnect(conn apdu.Conn, place inventory.Place) {
	if err := conn.Close(); err != nil {
		s.Log.Debug("reader not closed cleanly", "reader", place.Name, "error", err)
	}
}

// state reads a card's state: in an authenticated session, or of a plain eUICC.
func (a *attempt) state(ctx context.Context) (*store.CardState, error) {
	conn, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	defer a.s.disconnect(conn, a.place)
	if a.work.Card.Management == store.ES10c {
		return readPlain(ctx, conn, a.work.Card, false)
	}
	ch := apdu.BasicChannel(conn)
	_, terminal, err := a.s.terminal(ctx, ch, a.who)
	if err != nil {
		return nil, err
	}
	session, err := terminal.Authenticate(ctx, ch, a.who, [32]byte{})
	if err != nil {
		return nil, err
	}
	status, err := session.Status(ctx)
	if err != nil {
		return nil, err
	}
	return statusOf(status), nil
}
