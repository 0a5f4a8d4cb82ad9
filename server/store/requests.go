package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/guard"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// State is where a deactivation request stands.
type State string

// The states of a request. Sending is the durable mark that a command may be on
// its way: from there a request is never failed by a deadline, cancelled or
// expired. Unknown is a command that was sent and has no verified answer:
// recovery goes on while the request is not finished.
const (
	Accepted       State = "accepted"
	Held           State = "held" // waits for the approval of a second user
	Waiting        State = "waiting"
	Authenticating State = "authenticating"
	Sending        State = "sending"
	Done           State = "done"
	Refused        State = "refused"   // by a rule (Refusal), by a second user, or by the card (Answer)
	Failed         State = "failed"    // nothing was done
	Expired        State = "expired"   // the deadline passed before anything was sent
	Cancelled      State = "cancelled" // by the operator, before anything was sent
	Unknown        State = "unknown"
)

// unsent are the states from which a command may go out for the first time.
var unsent = []State{Accepted, Waiting, Authenticating}

// Refusal is a management rule's no, or its wish for an approval.
type Refusal struct {
	Rule        string
	SubjectCode string // GSMA, such as 8.2.3
	ReasonCode  string // GSMA, such as 3.8
	Text        string
}

// Answer is a card's verified answer, with the bytes that prove it.
type Answer struct {
	Result       byte
	SW           uint16
	Suite        byte
	EventCounter uint32
	Command      []byte // the command data it answers
	Response     []byte // the response data before the receipt
	Receipt      []byte
}

// Request is a deactivation request.
type Request struct {
	Seq      int64
	ID       id.RequestID
	Operator int64
	UserID   int64 // who asked
	MCCMNC   id.MCCMNC
	EID      id.EID
	ICCID    *id.ICCID // nil only where none was asked for and none was found
	Reason   byte
	// LeaveUnconnected says that whoever asks knows that no profile stays
	// enabled.
	LeaveUnconnected bool
	Timeout          time.Duration // from when it is let in
	Deadline         time.Time
	State            State
	CreatedAt        time.Time
	UpdatedAt        time.Time
	HeldWhy          string // what it waits, or waited, for
	ApprovedBy       int64  // user; 0 for none
	ApprovedAt       *time.Time
	// SentAt is the durable mark, nil before it. How is then how it was sent: as
	// the card is registered. Counter is the expected event counter of the
	// applet's command.
	SentAt     *time.Time
	How        Management
	Counter    uint32
	FinishedAt *time.Time // nothing more will happen
	Detail     string     // in words, for whoever asked
	Refusal    *Refusal
	Answer     *Answer

	// Epoch is that of the operator's breaker when the request was let in.
	Epoch  int64
	scopes string // in which the guard counts it
	told   bool   // the operator had a webhook when it was sent
}

// step is an event of the request.
func (r *Request) step(e Event) Event {
	e.RequestID, e.EID = &r.ID, &r.EID
	return e
}

func (r *Request) steps(list []Event) []Event {
	out := make([]Event, len(list))
	for i, e := range list {
		out[i] = r.step(e)
	}
	return out
}

// Submission is a request as an operator hands it in.
type Submission struct {
	ID               id.RequestID
	Operator         Operator
	EID              id.EID
	ICCID            *id.ICCID
	Reason           byte
	LeaveUnconnected bool
	Timeout          time.Duration
	// Key is the idempotency key, empty for none; BodyHash is of all that the
	// operator asked for.
	Key      string
	BodyHash [sha256.Size]byte
	// Claim, where it is not nil, is the server that claims the card for the
	// request if it is let in and the card is free.
	Claim *Server
	// Await, where it is not empty, says for what a request that is let in waits
	// from the start.
	Await string
}

// Verdict is what the management rules and the guard say of a request.
type Verdict struct {
	ICCID *id.ICCID // the profile meant
	// Refusal is what the operator gets to read; nil lets the request in.
	Refusal *Refusal
	// Hold, where it is not empty, lets it in to wait for the approval of a
	// second user until HoldUntil.
	Hold      string
	HoldUntil time.Time
	// Trip, where it is not empty, trips the operator's breaker.
	Trip string
	// Counted says that the guard counts the request as one that was asked for,
	// in windows of this length; 0 where it does not.
	Window time.Duration
	// Audit is what the audit trail keeps of the decision.
	Audit map[string]any
	// Steps are of the attempt that a refusal, or the wish for an approval, ends.
	Steps []Event
	// Card is what that attempt read of the card, which the verdict rests on; nil
	// where it rests on the record. It is recorded with the verdict.
	Card *CardState
}

// Submitted is what became of a submission.
type Submitted struct {
	Request
	// Replayed says that the operator used the key before for the same: this is
	// the request of then.
	Replayed bool
	// Work is the claim on the card, nil where there is none.
	Work *Work
}

// Submit records a request and decides on it in one transaction. The error
// matches ErrKeyReused where its key came before with something else.
func (s *Store) Submit(ctx context.Context, sub Submission, decide func(*Moment) Verdict) (Submitted, error) {
	var out Submitted
	err := s.writeFor(ctx, sub.Operator.ID, "submit", func(tx *tx) error {
		out = Submitted{}
		if sub.Key != "" {
			before, err := readKey(tx, sub)
			if err == nil {
				out.Request, out.Replayed = before, true
				return nil
			}
			if !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		// The claim comes first: cards are locked before the guard's scopes. A card
		// with something to do is for whoever takes that up, in order.
		var claim *Claim
		if sub.Claim != nil {
			switch token, err := tx.claim(*sub.Claim, sub.EID, noWork); {
			case err == nil:
				claim = &Claim{sub.EID, token}
			case !errors.Is(err, ErrNotFound):
				return err
			}
		}
		card, _, err := readCard(tx, sub.EID, sub.Operator.ID, "")
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		var groups []string
		if card != nil {
			groups = card.Groups
		}
		m := Moment{Now: tx.now, Card: card}
		if m.Guard, err = tx.scopes(sub.Operator.ID, groups); err != nil {
			return err
		}
		v := decide(&m)
		r := Request{
			ID: sub.ID, Operator: sub.Operator.ID, UserID: sub.Operator.User.ID, MCCMNC: sub.Operator.MCCMNC, EID: sub.EID, ICCID: v.ICCID,
			Reason: sub.Reason, LeaveUnconnected: sub.LeaveUnconnected, Timeout: sub.Timeout, Deadline: tx.now.Add(sub.Timeout),
			State: Accepted, CreatedAt: tx.now, UpdatedAt: tx.now, Refusal: v.Refusal, Epoch: m.Guard[0].Epoch,
		}
		steps, err := tx.letIn(&r, v, m.Guard, sub.Await)
		if err != nil {
			return err
		}
		if err := tx.insertRequest(&r); err != nil {
			return err
		}
		switch r.State {
		case Refused:
			tx.came(Refused, ByRule)
		case Held:
			tx.came(Held, ByServer)
		default:
			tx.came(Accepted, ByServer)
		}
		if m.Guard[0].Webhooks > 0 && r.State != Accepted && r.State != Waiting {
			kind := webhook.Held
			if r.FinishedAt != nil {
				kind = webhook.Finished
			}
			if err := tx.tell(kind, &r); err != nil {
				return err
			}
		}
		if sub.Key != "" {
			if _, err := tx.exec(`INSERT INTO idempotency_keys (operator_id, key, body_hash, request_id, created_at) VALUES (?, ?, ?, ?, ?)`,
				sub.Operator.ID, sub.Key, sub.BodyHash[:], sub.ID.String(), millis(tx.now)); err != nil {
				return err
			}
		}
		if err := tx.addEvents(r.steps(steps)...); err != nil {
			return err
		}
		if claim != nil {
			if r.FinishedAt != nil || r.State == Held {
				if err := tx.giveBack(*claim); err != nil {
					return err
				}
			} else {
				out.Work = &Work{Claim: *claim, Card: card, Request: &r, Asker: sub.Operator, At: tx.now}
			}
		}
		out.Request = r
		return nil
	})
	return out, err
}

// letIn carries a verdict out on a request that is about to be written, and
// gives the events that tell of it.
func (t *tx) letIn(r *Request, v Verdict, scopes []guard.Scope, await string) ([]Event, error) {
	audit := map[string]any{"user": r.UserID}
	maps.Copy(audit, v.Audit)
	steps := []Event{{Kind: "decision", Operator: r.Operator, Internal: true, Detail: audit}}
	counted := func(n int64) error {
		if v.Window == 0 {
			return nil
		}
		for i := range scopes {
			scopes[i].Counts.Asked(t.now, v.Window)
			scopes[i].Pending += n
		}
		return t.saveScopes(scopes)
	}
	now := t.now
	switch {
	case v.Refusal != nil:
		r.State, r.FinishedAt, r.Detail = Refused, &now, v.Refusal.Text
		if v.Trip != "" {
			if err := counted(0); err != nil {
				return nil, err
			}
			if err := t.trip(r.Operator, scopes, v.Trip); err != nil {
				return nil, err
			}
		}
		steps = append(steps, Event{Kind: string(Refused), Operator: r.Operator, Detail: v.Refusal.detail()})
	case v.Hold != "":
		r.State, r.HeldWhy, r.Deadline = Held, v.Hold, v.HoldUntil
		if err := counted(0); err != nil {
			return nil, err
		}
		steps = append(steps, Event{Kind: string(Held), Operator: r.Operator, Detail: map[string]any{"text": v.Hold, "until": v.HoldUntil}})
	default:
		if err := counted(1); err != nil {
			return nil, err
		}
		r.scopes = scopesOf(scopes)
		step := Event{Kind: string(Accepted), Operator: r.Operator, Detail: map[string]any{"deadline": r.Deadline}}
		if r.ICCID != nil {
			step.Detail["iccid"] = r.ICCID.String()
		}
		steps = append(steps, step)
		if await != "" {
			r.State = Waiting
			steps = append(steps, Event{Kind: string(Waiting), Detail: map[string]any{"text": await}})
		}
	}
	return steps, nil
}

func (t *tx) insertRequest(r *Request) error {
	var iccid, finished any
	if r.ICCID != nil {
		iccid = r.ICCID.String()
	}
	if r.FinishedAt != nil {
		finished = millis(*r.FinishedAt)
	}
	refusal := Refusal{}
	if r.Refusal != nil {
		refusal = *r.Refusal
	}
	err := t.row(
		`INSERT INTO deactivations (id, operator_id, user_id, mccmnc, eid, iccid, reason, unconnected, timeout, deadline, state, created_at, updated_at,
		                            scopes, epoch, held_why, finished_at, detail, rule, subject_code, reason_code)
		 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq`,
		r.ID.String(), r.Operator, r.UserID, r.MCCMNC.String(), r.EID.String(), iccid, int64(r.Reason), r.LeaveUnconnected,
		r.Timeout.Milliseconds(), millis(r.Deadline), string(r.State), millis(r.CreatedAt), millis(r.UpdatedAt),
		r.scopes, r.Epoch, r.HeldWhy, finished, r.Detail, refusal.Rule, refusal.SubjectCode, refusal.ReasonCode).Scan(&r.Seq)
	t.writes++
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	// As it is read again.
	for _, at := range []*time.Time{&r.Deadline, &r.CreatedAt, &r.UpdatedAt, r.FinishedAt} {
		if at != nil {
			*at = fromMillis(millis(*at))
		}
	}
	return nil
}

// Before is the request that the operator handed in before under a submission's
// key. The error matches ErrNotFound where there is none, and ErrKeyReused.
func (s *Store) Before(ctx context.Context, sub Submission) (Request, error) {
	return readKey(reads{s, ctx}, sub)
}

func readKey(q querier, sub Submission) (Request, error) {
	var hash []byte
	var text string
	err := q.row(`SELECT body_hash, request_id FROM idempotency_keys WHERE operator_id = ? AND key = ?`, sub.Operator.ID, sub.Key).
		Scan(&hash, &text)
	if err != nil {
		return Request{}, found(err)
	}
	if string(hash) != string(sub.BodyHash[:]) {
		return Request{}, ErrKeyReused
	}
	before, err := id.ParseRequestID(text)
	if err != nil {
		return Request{}, fmt.Errorf("store: %w", err)
	}
	return readRequest(q, before, "")
}

const requestColumns = `seq, id, operator_id, user_id, mccmnc, eid, iccid, reason, unconnected, timeout, deadline, state, created_at, updated_at,
	scopes, epoch, held_why, approved_by, approved_at, sent_at, how, counter, told, finished_at,
	detail, rule, subject_code, reason_code, result, status_word, suite, card_counter, command, response, receipt`

func scanRequest(row scanner) (Request, error) {
	var (
		r                                      Request
		rid, mccmnc, eid, state                string
		iccid, how                             sql.NullString
		timeout, deadline, created, updated    int64
		approvedBy, approvedAt                 sql.NullInt64
		sent, counter, finished                sql.NullInt64
		rule, subject, reason                  string
		result, statusWord, suite, cardCounter sql.NullInt64
		command, response, receipt             []byte
	)
	err := row.Scan(&r.Seq, &rid, &r.Operator, &r.UserID, &mccmnc, &eid, &iccid, &r.Reason, &r.LeaveUnconnected, &timeout, &deadline,
		&state, &created, &updated, &r.scopes, &r.Epoch, &r.HeldWhy, &approvedBy, &approvedAt, &sent, &how, &counter, &r.told, &finished,
		&r.Detail, &rule, &subject, &reason, &result, &statusWord, &suite, &cardCounter, &command, &response, &receipt)
	if err != nil {
		return Request{}, found(err)
	}
	if r.ID, err = id.ParseRequestID(rid); err == nil {
		if r.MCCMNC, err = id.ParseMCCMNC(mccmnc); err == nil {
			r.EID, err = id.ParseEID(eid)
		}
	}
	if err == nil && iccid.Valid {
		var c id.ICCID
		c, err = id.ParseICCID(iccid.String)
		r.ICCID = &c
	}
	if err != nil {
		return Request{}, fmt.Errorf("store: request %d: %w", r.Seq, err)
	}
	r.Timeout = time.Duration(timeout) * time.Millisecond
	r.State, r.Deadline, r.CreatedAt, r.UpdatedAt = State(state), fromMillis(deadline), fromMillis(created), fromMillis(updated)
	r.ApprovedBy, r.ApprovedAt = approvedBy.Int64, fromNullMillis(approvedAt)
	r.SentAt, r.How, r.Counter, r.FinishedAt = fromNullMillis(sent), Management(how.String), uint32(counter.Int64), fromNullMillis(finished)
	if rule != "" {
		r.Refusal = &Refusal{Rule: rule, SubjectCode: subject, ReasonCode: reason, Text: r.Detail}
	}
	if result.Valid {
		r.Answer = &Answer{
			Result: byte(result.Int64), SW: uint16(statusWord.Int64), Suite: byte(suite.Int64), EventCounter: uint32(cardCounter.Int64),
			Command: command, Response: response, Receipt: receipt,
		}
	}
	return r, nil
}

func readRequest(q querier, request id.RequestID, lock string) (Request, error) {
	return scanRequest(q.row(`SELECT `+requestColumns+` FROM deactivations WHERE id = ?`+lock, request.String()))
}

// lockRequest reads a request that this transaction changes.
func (t *tx) lockRequest(request id.RequestID) (Request, error) {
	return readRequest(t, request, t.s.dialect.forUpdate("deactivations"))
}

// Request is a request's record, or ErrNotFound.
func (s *Store) Request(ctx context.Context, request id.RequestID) (Request, error) {
	return readRequest(reads{s, ctx}, request, "")
}

// Wait puts a request that was not sent into state Waiting, with the steps that
// say for what, and gives the claim back. The error matches ErrState where it
// was sent or is finished.
func (s *Store) Wait(ctx context.Context, claim Claim, request id.RequestID, steps ...Event) error {
	return s.move(ctx, "wait", claim, request, Waiting, true, nil, steps, unsent...)
}

// Authenticate puts a request that was not sent into state Authenticating. The
// error matches ErrState where it was sent or is finished.
func (s *Store) Authenticate(ctx context.Context, claim Claim, request id.RequestID, steps ...Event) error {
	return s.move(ctx, "authenticate", claim, request, Authenticating, false, nil, steps, unsent...)
}

// Lost puts a request that was sent into state Unknown: the answer did not come
// or does not verify. What GET STATUS said nevertheless is recorded. The claim
// is given back.
func (s *Store) Lost(ctx context.Context, claim Claim, request id.RequestID, card *CardState, steps ...Event) error {
	return s.move(ctx, "lost", claim, request, Unknown, true, card, steps, Sending, Unknown)
}

// move changes a request's state if it is one of from, and writes the steps.
func (s *Store) move(ctx context.Context, name string, claim Claim, request id.RequestID, to State, giveBack bool, card *CardState, steps []Event, from ...State) error {
	return s.write(ctx, name, func(tx *tx) error {
		before, _, err := tx.hold(claim, 0)
		if err != nil {
			return err
		}
		r, err := tx.lockRequest(request)
		if err != nil {
			return err
		}
		if r.FinishedAt != nil || !slices.Contains(from, r.State) {
			return fmt.Errorf("%w: %s, not to be %s", ErrState, r.State, to)
		}
		if r.State != to {
			if _, err := tx.exec(`UPDATE deactivations SET state = ?, updated_at = ? WHERE id = ?`, string(to), millis(tx.now), request.String()); err != nil {
				return err
			}
		}
		if to == Unknown && r.State != to {
			tx.came(Unknown, ByServer)
			if err := tx.tellUnknown(r); err != nil {
				return err
			}
		}
		events, err := tx.apply(before, card)
		if err != nil {
			return err
		}
		if err := tx.addEvents(append(events, r.steps(steps)...)...); err != nil || !giveBack {
			return err
		}
		return tx.giveBack(claim)
	})
}

// Again writes the steps of sending a command another time.
func (s *Store) Again(ctx context.Context, claim Claim, request id.RequestID, steps ...Event) error {
	return s.write(ctx, "again", func(tx *tx) error {
		if _, _, err := tx.hold(claim, 0); err != nil {
			return err
		}
		r, err := tx.lockRequest(request)
		if err != nil {
			return err
		}
		if r.FinishedAt != nil || r.SentAt == nil {
			return fmt.Errorf("%w: %s, not to be sent again", ErrState, r.State)
		}
		return tx.addEvents(r.steps(steps)...)
	})
}

// MarkSending is the durable mark that goes before a command: once it returns
// nil the command, with this expected event counter where it is the applet's,
// counts as sent. It holds only under a claim, for a request that is not sent yet and whose deadline has
// not passed; else the error matches ErrFenced or ErrState and nothing may be
// sent.
//
// decide says for the last time whether it may be sent. A refusal ends the
// request: the error matches ErrRefused. One that is to wait for an approval
// goes back to that: the error matches ErrHeld. before is what happened until
// now, step tells of the mark.
func (s *Store) MarkSending(ctx context.Context, claim Claim, req Request, counter uint32, before []Event, step Event, decide func(*Moment, *Request) Verdict) error {
	var stopped error
	err := s.writeFor(ctx, req.Operator, "mark", func(tx *tx) error {
		stopped = nil
		card, until, err := tx.hold(claim, req.Operator)
		if err != nil {
			return err
		}
		r, err := tx.lockRequest(req.ID)
		if err != nil {
			return err
		}
		if r.EID != claim.EID || r.FinishedAt != nil || r.SentAt != nil || !slices.Contains(unsent, r.State) {
			return fmt.Errorf("%w: %s, not to be sent", ErrState, r.State)
		}
		m := Moment{Card: card}
		if r.scopes != "" {
			m.Guard, err = tx.scopesOfRequest(&r)
		} else {
			m.Guard, err = tx.scopes(r.Operator, card.Groups)
		}
		if err != nil {
			return err
		}
		// Nothing is waited for from here on.
		tx.tick()
		if until <= millis(tx.now) {
			return fmt.Errorf("%w: card %s", ErrFenced, claim.EID)
		}
		if !r.Deadline.After(tx.now) {
			return fmt.Errorf("%w: its deadline has passed", ErrState)
		}
		m.Now = tx.now
		v := decide(&m, &r)
		switch {
		case v.Refusal != nil:
			stopped = fmt.Errorf("%w: %s", ErrRefused, v.Refusal.Text)
			o := v.Outcome()
			o.Steps = append(slices.Clone(before), o.Steps...)
			if _, err := tx.finish(card, &r, o); err != nil {
				return err
			}
			return tx.giveBack(claim)
		case v.Hold != "":
			stopped = fmt.Errorf("%w: %s", ErrHeld, v.Hold)
			if err := tx.holdAgain(card, &r, v, before); err != nil {
				return err
			}
			return tx.giveBack(claim)
		}
		if v.Window != 0 {
			counted := r.scopes != "" && m.Guard[0].Epoch == r.Epoch
			for i := range m.Guard {
				m.Guard[i].Counts.Sent(tx.now, v.Window)
				if counted {
					m.Guard[i].Pending = max(m.Guard[i].Pending-1, 0)
				}
			}
			if err := tx.saveScopes(m.Guard); err != nil {
				return err
			}
		}
		now := millis(tx.now)
		var expected any
		if card.Management == Applet {
			expected = counter
		}
		if _, err := tx.exec(`UPDATE deactivations SET state = 'sending', sent_at = ?, how = ?, counter = ?, told = ?, updated_at = ? WHERE id = ?`,
			now, string(card.Management), expected, m.Guard[0].Webhooks > 0, now, r.ID.String()); err != nil {
			return err
		}
		return tx.addEvents(r.steps(append(slices.Clone(before), step))...)
	})
	if err == nil {
		err = stopped
	}
	return err
}

// holdAgain has a request that was let in wait for an approval after all.
func (t *tx) holdAgain(card *Card, r *Request, v Verdict, before []Event) error {
	if err := t.release(r); err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE deactivations SET state = 'held', held_why = ?, deadline = ?, approved_by = NULL, approved_at = NULL, updated_at = ? WHERE id = ?`,
		v.Hold, millis(v.HoldUntil), millis(t.now), r.ID.String()); err != nil {
		return err
	}
	t.came(Held, ByServer)
	now := *r
	now.State, now.HeldWhy, now.Deadline, now.UpdatedAt = Held, v.Hold, fromMillis(millis(v.HoldUntil)), fromMillis(millis(t.now))
	now.ApprovedBy, now.ApprovedAt = 0, nil
	if err := t.tell(webhook.Held, &now); err != nil {
		return err
	}
	events, err := t.apply(card, v.Card)
	if err != nil {
		return err
	}
	return t.addEvents(append(events, r.steps(append(slices.Concat(before, v.Steps),
		Event{Kind: "decision", Internal: true, Detail: v.Audit},
		Event{Kind: string(Held), Detail: map[string]any{"text": v.Hold, "until": v.HoldUntil}},
	))...)...)
}

// Outcome is how a request ends that was not sent and is refused.
func (v Verdict) Outcome() Outcome {
	return Outcome{State: Refused, Refusal: v.Refusal, Card: v.Card, Steps: append(slices.Clone(v.Steps),
		Event{Kind: "decision", Internal: true, Detail: v.Audit},
		Event{Kind: string(Refused), Detail: v.Refusal.detail()},
	)}
}

// detail is a refusal in a step.
func (f *Refusal) detail() map[string]any {
	return map[string]any{"by": "rule", "rule": f.Rule, "subject_code": f.SubjectCode, "reason_code": f.ReasonCode, "text": f.Text}
}

// Outcome is how a request ends.
type Outcome struct {
	State   State // Done, Refused, Failed, or Unknown where it can never verify any more
	Detail  string
	Refusal *Refusal   // of a management rule
	Answer  *Answer    // of the card, verified; ES10c gives none
	Card    *CardState // what the card said of itself
	// Unsettled says that Card does not tell the card's state of now: GET STATUS
	// has to be read.
	Unsettled bool
	User      bool // brought it about
	Steps     []Event
}

// Finish ends a request and records what the card said of itself, in one
// transaction, and gives the claim back. Without a verified answer a request
// that was sent to the applet can only become Unknown, and one that was sent by
// ES10c has none; what a rule refuses must not have been sent. The error matches ErrState where the request does not allow the outcome,
// and ErrFenced where the claim has passed.
func (s *Store) Finish(ctx context.Context, claim Claim, request id.RequestID, o Outcome) (Request, error) {
	var r Request
	err := s.write(ctx, "finish", func(tx *tx) error {
		card, _, err := tx.hold(claim, 0)
		if err != nil {
			return err
		}
		before, err := tx.lockRequest(request)
		if err != nil {
			return err
		}
		if r, err = tx.finish(card, &before, o); err != nil {
			return err
		}
		return tx.giveBack(claim)
	})
	return r, err
}

// finish ends request r of a card. It gives the request as it is then.
func (t *tx) finish(card *Card, r *Request, o Outcome) (Request, error) {
	if !allows(r, o) {
		return *r, fmt.Errorf("%w: %s, not to be %s", ErrState, r.State, o.State)
	}
	if err := t.release(r); err != nil {
		return *r, err
	}
	t.came(o.State, o.by())
	out := *r
	now := fromMillis(millis(t.now))
	out.State, out.Detail, out.Refusal, out.Answer, out.UpdatedAt, out.FinishedAt = o.State, o.Detail, o.Refusal, o.Answer, now, &now
	var err error
	switch f, a := o.Refusal, o.Answer; {
	case f != nil:
		out.Detail = f.Text
		_, err = t.exec(`UPDATE deactivations SET state = ?, detail = ?, updated_at = ?, finished_at = ?, rule = ?, subject_code = ?, reason_code = ? WHERE id = ?`,
			string(o.State), f.Text, millis(now), millis(now), f.Rule, f.SubjectCode, f.ReasonCode, r.ID.String())
	case a != nil:
		_, err = t.exec(`UPDATE deactivations SET state = ?, detail = ?, updated_at = ?, finished_at = ?,
		                 result = ?, status_word = ?, suite = ?, card_counter = ?, command = ?, response = ?, receipt = ? WHERE id = ?`,
			string(o.State), o.Detail, millis(now), millis(now),
			int64(a.Result), int64(a.SW), int64(a.Suite), a.EventCounter, a.Command, a.Response, a.Receipt, r.ID.String())
	default:
		_, err = t.exec(`UPDATE deactivations SET state = ?, detail = ?, updated_at = ?, finished_at = ? WHERE id = ?`,
			string(o.State), o.Detail, millis(now), millis(now), r.ID.String())
	}
	if err == nil {
		err = t.tell(webhook.Finished, &out)
	}
	if err != nil {
		return *r, err
	}
	events, err := t.apply(card, o.Card)
	if err != nil {
		return *r, err
	}
	if o.Unsettled {
		if err := t.unsettle(r.EID); err != nil {
			return *r, err
		}
	}
	return out, t.addEvents(append(events, r.steps(o.Steps)...)...)
}

// allows says which ends a request may come to (docs/protocol.md §8). What was
// sent by ES10c ends by what was read of the card, without an answer.
func allows(r *Request, o Outcome) bool {
	if r.FinishedAt != nil {
		return false
	}
	sent := r.SentAt != nil
	proven := sent && (o.Answer != nil) == (r.How == Applet)
	switch o.State {
	case Done, Unknown:
		return proven
	case Refused:
		return o.Refusal != nil && !sent || o.Refusal == nil && proven
	case Failed:
		return r.State != Unknown || r.How == ES10c
	case Expired, Cancelled:
		return !sent
	}
	return false
}

// Expire ends every request whose deadline has passed before anything was sent,
// at most limit of them, and gives them back.
func (s *Store) Expire(ctx context.Context, limit int) ([]Request, error) {
	now := `?`
	args := []any{millis(s.now()), limit}
	if s.clock == nil {
		now, args = `(SELECT now_ms())`, []any{limit}
	}
	due := dueRequests + now + ` ORDER BY deadline LIMIT ?`
	list, err := collect(reads{s, ctx}, scanRequest, due, args...) // the common case takes no write lock
	operators := map[int64]bool{}
	for _, r := range list {
		operators[r.Operator] = true
	}
	var out []Request
	for operator := range operators {
		some, expireErr := s.expireOf(ctx, operator, limit)
		out, err = append(out, some...), errors.Join(err, expireErr)
	}
	return out, err
}

func (s *Store) expireOf(ctx context.Context, operator int64, limit int) ([]Request, error) {
	var out []Request
	err := s.writeFor(ctx, operator, "expire", func(tx *tx) error {
		out = nil
		list, err := collect(tx, scanRequest, dueRequests+`? AND operator_id = ? ORDER BY deadline LIMIT ?`+s.dialect.skipLocked,
			millis(tx.now), operator, limit)
		if err != nil {
			return err
		}
		for _, r := range list {
			detail := "the deadline passed before anything was sent to the card"
			if r.State == Held {
				detail = "nobody approved the request in time"
			}
			step := Event{Kind: string(Expired), Detail: map[string]any{"text": detail, "was": r.State}}
			r, err := tx.finish(nil, &r, Outcome{State: Expired, Detail: detail, Steps: []Event{step}})
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

const dueRequests = `SELECT ` + requestColumns + ` FROM deactivations WHERE finished_at IS NULL AND sent_at IS NULL AND deadline <= `
