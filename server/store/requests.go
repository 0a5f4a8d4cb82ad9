package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// State is where a deactivation request stands.
type State string

// The states of a request. Sending is the durable mark that a command may be on
// its way: from there a request is never failed by a deadline, cancelled or
// expired. Unknown is a command that was sent and has no verified answer:
// recovery goes on while the request is not finished.
const (
	Accepted       State = "accepted"
	Waiting        State = "waiting"
	Authenticating State = "authenticating"
	Sending        State = "sending"
	Done           State = "done"
	Refused        State = "refused" // by a rule (Refusal), or by the card (Answer)
	Failed         State = "failed"  // nothing was done
	Expired        State = "expired" // the deadline passed before anything was sent
	Unknown        State = "unknown"
)

// Refusal is a management rule's no.
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
	Seq       int64
	ID        id.RequestID
	Operator  int64
	MCCMNC    id.MCCMNC // the operator's, as it goes to the card
	EID       id.EID
	ICCID     *id.ICCID // nil only where none was asked for and none was found
	Reason    byte
	Deadline  time.Time
	State     State
	CreatedAt time.Time
	UpdatedAt time.Time
	// SentAt is the durable mark, nil before it; Counter is then the expected
	// event counter of the command.
	SentAt     *time.Time
	Counter    uint32
	FinishedAt *time.Time // nothing more will happen
	Detail     string     // in words, for whoever asked
	Refusal    *Refusal
	Answer     *Answer
}

// Submission is a request as an operator hands it in.
type Submission struct {
	ID       id.RequestID
	Operator Operator
	EID      id.EID
	ICCID    *id.ICCID
	Reason   byte
	Deadline time.Time
	// Key is the idempotency key, empty for none; BodyHash is of all that the
	// operator asked for.
	Key      string
	BodyHash [sha256.Size]byte
}

// Verdict is what the management rules say of a submission.
type Verdict struct {
	ICCID *id.ICCID // the profile meant
	// Refusal is what the operator gets to read; nil lets the request in.
	Refusal *Refusal
	// Audit is what the audit trail keeps of the decision.
	Audit map[string]any
}

// Submit records a request and decides on it in one transaction: decide gets
// the card's record of that moment, nil where it is not registered. Where the
// operator used the key before for the same, the request of then comes back and
// replayed is true; where for something else, the error matches ErrKeyReused.
func (s *Store) Submit(ctx context.Context, sub Submission, decide func(*Card) Verdict) (r Request, replayed bool, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		if sub.Key != "" {
			before, err := readKey(ctx, tx, sub)
			if err == nil {
				r, replayed = before, true
				return nil
			}
			if !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		c, err := readCard(ctx, tx, sub.EID)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		v := decide(c)
		now := millis(s.now())
		state, finished, refusal := Accepted, any(nil), Refusal{}
		if v.Refusal != nil {
			state, finished, refusal = Refused, now, *v.Refusal
		}
		var iccid any
		if v.ICCID != nil {
			iccid = v.ICCID.String()
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO deactivations (id, operator_id, mccmnc, eid, iccid, reason, deadline, state, created_at, updated_at, finished_at,
			                            detail, rule, subject_code, reason_code)
			 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			sub.ID.String(), sub.Operator.ID, sub.Operator.MCCMNC.String(), sub.EID.String(), iccid, sub.Reason, millis(sub.Deadline),
			string(state), now, now, finished, refusal.Text, refusal.Rule, refusal.SubjectCode, refusal.ReasonCode)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if sub.Key != "" {
			_, err := tx.ExecContext(ctx,
				`INSERT INTO idempotency_keys (operator_id, key, body_hash, request_id, created_at) VALUES (?, ?, ?, ?, ?)`,
				sub.Operator.ID, sub.Key, sub.BodyHash[:], sub.ID.String(), now)
			if err != nil {
				return fmt.Errorf("store: %w", err)
			}
		}
		decision := Event{Kind: "decision", RequestID: &sub.ID, EID: &sub.EID, Operator: sub.Operator.ID, Internal: true, Detail: v.Audit}
		if err := s.addEvent(ctx, tx, decision); err != nil {
			return err
		}
		if r, err = readRequest(ctx, tx, sub.ID); err != nil {
			return err
		}
		step := Event{Kind: string(state), Operator: sub.Operator.ID}
		if v.Refusal != nil {
			step.Detail = v.Refusal.detail()
		} else {
			step.Detail = map[string]any{"deadline": r.Deadline}
			if r.ICCID != nil {
				step.Detail["iccid"] = r.ICCID.String()
			}
		}
		return s.addStep(ctx, tx, r, step)
	})
	return r, replayed, err
}

func readKey(ctx context.Context, tx *sql.Tx, sub Submission) (Request, error) {
	var hash []byte
	var text string
	err := tx.QueryRowContext(ctx, `SELECT body_hash, request_id FROM idempotency_keys WHERE operator_id = ? AND key = ?`, sub.Operator.ID, sub.Key).
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
	return readRequest(ctx, tx, before)
}

// addStep writes an event of request r.
func (s *Store) addStep(ctx context.Context, tx *sql.Tx, r Request, e Event) error {
	e.RequestID, e.EID = &r.ID, &r.EID
	return s.addEvent(ctx, tx, e)
}

const requestColumns = `seq, id, operator_id, mccmnc, eid, iccid, reason, deadline, state, created_at, updated_at, sent_at, counter, finished_at,
	detail, rule, subject_code, reason_code, result, status_word, suite, card_counter, command, response, receipt`

func scanRequest(row scanner) (Request, error) {
	var (
		r                                      Request
		rid, mccmnc, eid, state                string
		iccid                                  sql.NullString
		deadline, created, updated             int64
		sent, counter, finished                sql.NullInt64
		rule, subject, reason                  string
		result, statusWord, suite, cardCounter sql.NullInt64
		command, response, receipt             []byte
	)
	err := row.Scan(&r.Seq, &rid, &r.Operator, &mccmnc, &eid, &iccid, &r.Reason, &deadline, &state, &created, &updated, &sent, &counter, &finished,
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
	r.State, r.Deadline, r.CreatedAt, r.UpdatedAt = State(state), fromMillis(deadline), fromMillis(created), fromMillis(updated)
	r.SentAt, r.Counter, r.FinishedAt = fromNullMillis(sent), uint32(counter.Int64), fromNullMillis(finished)
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

func readRequest(ctx context.Context, q querier, request id.RequestID) (Request, error) {
	return scanRequest(q.QueryRowContext(ctx, `SELECT `+requestColumns+` FROM deactivations WHERE id = ?`, request.String()))
}

// Request is a request's record, or ErrNotFound.
func (s *Store) Request(ctx context.Context, request id.RequestID) (Request, error) {
	return readRequest(ctx, s.db, request)
}

// RequestsOf lists an operator's requests, newest first, before the one whose
// Seq is before (0: from the newest), at most limit.
func (s *Store) RequestsOf(ctx context.Context, operator, before int64, limit int) ([]Request, error) {
	if before <= 0 {
		before = 1<<63 - 1
	}
	return collect(ctx, s.db, scanRequest,
		`SELECT `+requestColumns+` FROM deactivations WHERE operator_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?`, operator, before, limit)
}

// NextRequest is the oldest request for a card that is not finished, or
// ErrNotFound: requests for one card are carried out one at a time, in order.
func (s *Store) NextRequest(ctx context.Context, eid id.EID) (Request, error) {
	return scanRequest(s.db.QueryRowContext(ctx,
		`SELECT `+requestColumns+` FROM deactivations WHERE eid = ? AND finished_at IS NULL ORDER BY seq LIMIT 1`, eid.String()))
}

// Wait puts a request that was not sent into state Waiting, with the step that
// says for what. The error matches ErrState where it was sent or is finished.
func (s *Store) Wait(ctx context.Context, request id.RequestID, step Event) error {
	return s.move(ctx, request, Waiting, step, Accepted, Waiting, Authenticating)
}

// Authenticate puts a request that was not sent into state Authenticating. The
// error matches ErrState where it was sent or is finished.
func (s *Store) Authenticate(ctx context.Context, request id.RequestID, step Event) error {
	return s.move(ctx, request, Authenticating, step, Accepted, Waiting, Authenticating)
}

// Lost puts a request that was sent into state Unknown: the answer did not come
// or does not verify.
func (s *Store) Lost(ctx context.Context, request id.RequestID, step Event) error {
	return s.move(ctx, request, Unknown, step, Sending, Unknown)
}

// move changes a request's state if it is one of from, and writes the step.
func (s *Store) move(ctx context.Context, request id.RequestID, to State, step Event, from ...State) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		r, err := readRequest(ctx, tx, request)
		if err != nil {
			return err
		}
		if r.FinishedAt != nil || !slices.Contains(from, r.State) {
			return fmt.Errorf("%w: %s, not to be %s", ErrState, r.State, to)
		}
		if r.State != to {
			if _, err := tx.ExecContext(ctx, `UPDATE deactivations SET state = ?, updated_at = ? WHERE id = ?`,
				string(to), millis(s.now()), request.String()); err != nil {
				return fmt.Errorf("store: %w", err)
			}
		}
		return s.addStep(ctx, tx, r, step)
	})
}

// MarkSending is the durable mark that goes before a command: once it returns
// nil the command with this expected event counter counts as sent. It holds
// only for a request that is being authenticated and whose deadline has not
// passed; else the error matches ErrState and nothing may be sent.
//
// decide gets the card's record of that moment and says for the last time
// whether it may be sent. A refusal ends the request: the error matches
// ErrRefused.
func (s *Store) MarkSending(ctx context.Context, request id.RequestID, counter uint32, step Event, decide func(*Card) Verdict) error {
	var v Verdict
	err := s.write(ctx, func(tx *sql.Tx) error {
		r, err := readRequest(ctx, tx, request)
		if err != nil {
			return err
		}
		c, err := readCard(ctx, tx, r.EID)
		if err != nil {
			return err
		}
		if v = decide(c); v.Refusal != nil {
			_, err := s.finish(ctx, tx, request, v.Outcome())
			return err
		}
		now := millis(s.now())
		res, err := tx.ExecContext(ctx,
			`UPDATE deactivations SET state = 'sending', sent_at = ?, counter = ?, updated_at = ?
			 WHERE id = ? AND state = 'authenticating' AND finished_at IS NULL AND sent_at IS NULL AND deadline > ?`,
			now, counter, now, request.String(), now)
		if err := oneRow(res, err, fmt.Errorf("%w: not to be sent", ErrState)); err != nil {
			return err
		}
		return s.addStep(ctx, tx, r, step)
	})
	if err == nil && v.Refusal != nil {
		return fmt.Errorf("%w: %s", ErrRefused, v.Refusal.Text)
	}
	return err
}

// Outcome is how a request ends that was not sent and is refused.
func (v Verdict) Outcome() Outcome {
	return Outcome{State: Refused, Refusal: v.Refusal, Steps: []Event{
		{Kind: "decision", Internal: true, Detail: v.Audit},
		{Kind: string(Refused), Detail: v.Refusal.detail()},
	}}
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
	Answer  *Answer    // of the card, verified
	Card    *CardState // what the card said of itself
	// Unsettled says that Card does not tell the card's state of now: GET STATUS
	// has to be read.
	Unsettled bool
	Steps     []Event
}

// Finish ends a request and records what the card said of itself, in one
// transaction. Without a verified answer a request that was sent can only
// become Unknown; what a rule refuses must not have been sent. The error matches
// ErrState where the request does not allow the outcome.
func (s *Store) Finish(ctx context.Context, request id.RequestID, o Outcome) (Request, error) {
	var r Request
	err := s.write(ctx, func(tx *sql.Tx) (err error) {
		r, err = s.finish(ctx, tx, request, o)
		return err
	})
	return r, err
}

func (s *Store) finish(ctx context.Context, tx *sql.Tx, request id.RequestID, o Outcome) (Request, error) {
	r, err := readRequest(ctx, tx, request)
	if err != nil {
		return r, err
	}
	if !allows(r, o) {
		return r, fmt.Errorf("%w: %s, not to be %s", ErrState, r.State, o.State)
	}
	now := millis(s.now())
	if f := o.Refusal; f != nil {
		o.Detail = f.Text
		if _, err := tx.ExecContext(ctx, `UPDATE deactivations SET rule = ?, subject_code = ?, reason_code = ? WHERE id = ?`,
			f.Rule, f.SubjectCode, f.ReasonCode, request.String()); err != nil {
			return r, fmt.Errorf("store: %w", err)
		}
	}
	if a := o.Answer; a != nil {
		if _, err := tx.ExecContext(ctx,
			`UPDATE deactivations SET result = ?, status_word = ?, suite = ?, card_counter = ?, command = ?, response = ?, receipt = ? WHERE id = ?`,
			a.Result, a.SW, a.Suite, a.EventCounter, a.Command, a.Response, a.Receipt, request.String()); err != nil {
			return r, fmt.Errorf("store: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, `UPDATE deactivations SET state = ?, detail = ?, updated_at = ?, finished_at = ? WHERE id = ?`,
		string(o.State), o.Detail, now, now, request.String()); err != nil {
		return r, fmt.Errorf("store: %w", err)
	}
	if o.Card != nil {
		if err := s.apply(ctx, tx, r.EID, *o.Card); err != nil {
			return r, err
		}
	}
	if o.Unsettled {
		if err := s.unsettle(ctx, tx, r.EID); err != nil {
			return r, err
		}
	}
	for _, e := range o.Steps {
		if err := s.addStep(ctx, tx, r, e); err != nil {
			return r, err
		}
	}
	return readRequest(ctx, tx, request)
}

// allows says which ends a request may come to (docs/protocol.md §8).
func allows(r Request, o Outcome) bool {
	if r.FinishedAt != nil {
		return false
	}
	sent := r.SentAt != nil
	switch o.State {
	case Done, Unknown:
		return sent && o.Answer != nil
	case Refused:
		return o.Refusal != nil && !sent || o.Refusal == nil && sent && o.Answer != nil
	case Failed:
		return r.State != Unknown
	}
	return false
}

// AddStep writes an event of a request and changes nothing else.
func (s *Store) AddStep(ctx context.Context, request id.RequestID, e Event) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		r, err := readRequest(ctx, tx, request)
		if err != nil {
			return err
		}
		return s.addStep(ctx, tx, r, e)
	})
}

// Expire ends every request whose deadline has passed before anything was sent,
// at most limit of them, and gives them back.
func (s *Store) Expire(ctx context.Context, limit int) ([]Request, error) {
	now := s.now()
	due := func(q querier) ([]Request, error) {
		return collect(ctx, q, scanRequest,
			`SELECT `+requestColumns+` FROM deactivations WHERE finished_at IS NULL AND sent_at IS NULL AND deadline <= ? ORDER BY deadline LIMIT ?`,
			millis(now), limit)
	}
	if list, err := due(s.db); err != nil || len(list) == 0 {
		return nil, err // the common case takes no write lock
	}
	var out []Request
	err := s.write(ctx, func(tx *sql.Tx) error {
		list, err := due(tx)
		if err != nil {
			return err
		}
		const detail = "the deadline passed before anything was sent to the card"
		for _, r := range list {
			if _, err := tx.ExecContext(ctx, `UPDATE deactivations SET state = 'expired', detail = ?, updated_at = ?, finished_at = ? WHERE id = ?`,
				detail, millis(now), millis(now), r.ID.String()); err != nil {
				return fmt.Errorf("store: %w", err)
			}
			if err := s.addStep(ctx, tx, r, Event{Kind: string(Expired), Detail: map[string]any{"text": detail, "was": r.State}}); err != nil {
				return err
			}
		}
		out = list
		return nil
	})
	return out, err
}

// Resume is called once by a server that starts, before it works: what another
// one left in the middle goes back to where it can go on from. A request that
// was being sent is Unknown, one that was being authenticated is Waiting.
func (s *Store) Resume(ctx context.Context) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		list, err := collect(ctx, tx, scanRequest,
			`SELECT `+requestColumns+` FROM deactivations WHERE finished_at IS NULL AND state IN ('authenticating', 'sending') ORDER BY seq`)
		if err != nil {
			return err
		}
		for _, r := range list {
			to, text := Waiting, "the server started again before anything was sent"
			if r.SentAt != nil {
				to, text = Unknown, "the server started again after the command may have been sent"
			}
			if _, err := tx.ExecContext(ctx, `UPDATE deactivations SET state = ?, updated_at = ? WHERE id = ?`,
				string(to), millis(s.now()), r.ID.String()); err != nil {
				return fmt.Errorf("store: %w", err)
			}
			if err := s.addStep(ctx, tx, r, Event{Kind: string(to), Detail: map[string]any{"text": text}}); err != nil {
				return err
			}
		}
		return nil
	})
}
