package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/guard"
)

// Errors of approvals.
var (
	// ErrFourEyes says that a user approves or rejects what it asked for itself.
	ErrFourEyes = errors.New("store: whoever asked cannot judge it")
	// ErrTripped says that the operator's breaker has tripped.
	ErrTripped = errors.New("store: the operator's breaker has tripped")
)

// Conflict says why a user's step on a request cannot be taken as things stand.
// It matches ErrState, ErrFourEyes or ErrTripped. Nothing was changed.
type Conflict struct {
	Kind  error
	State State  // of the request
	Text  string // in words, for the user
}

func (c *Conflict) Error() string { return c.Text }

// Unwrap gives the kind.
func (c *Conflict) Unwrap() error { return c.Kind }

// Approve lets a request in that waits for it, in the name of a second user of
// its operator. The error matches ErrNotFound where it is another operator's,
// ErrFourEyes, ErrTripped, or ErrState where it does not wait, or not any more.
func (s *Store) Approve(ctx context.Context, op Operator, request id.RequestID) (Request, error) {
	return s.judge(ctx, "approve", op, request, func(tx *tx, r *Request) error {
		card, _, err := readCard(tx, r.EID, r.Operator, "")
		if err != nil {
			return err
		}
		scopes, err := tx.scopes(r.Operator, card.Groups)
		if err != nil {
			return err
		}
		if scopes[0].TrippedAt != nil {
			return &Conflict{ErrTripped, r.State, guard.Tripping(scopes[0].TrippedWhy)}
		}
		r.Epoch, r.scopes = scopes[0].Epoch, scopesOf(scopes)
		if err := tx.place(scopes, r, 1); err != nil {
			return err
		}
		tx.came(Accepted, ByUser)
		now := tx.now
		r.State, r.ApprovedBy, r.ApprovedAt, r.Deadline, r.UpdatedAt = Accepted, op.User.ID, &now, now.Add(r.Timeout), now
		if _, err := tx.exec(`UPDATE deactivations SET state = 'accepted', approved_by = ?, approved_at = ?, deadline = ?, updated_at = ?, scopes = ?, epoch = ? WHERE id = ?`,
			op.User.ID, millis(now), millis(r.Deadline), millis(now), r.scopes, r.Epoch, r.ID.String()); err != nil {
			return err
		}
		return tx.addEvents(r.step(Event{
			Kind: "approved", Operator: op.ID, Detail: map[string]any{"user": op.User.Name, "deadline": r.Deadline},
		}))
	})
}

// Reject ends a request that waits for an approval, in the name of a user of its
// operator: the no of the second user. The errors are those of Approve.
func (s *Store) Reject(ctx context.Context, op Operator, request id.RequestID, refusal Refusal) (Request, error) {
	return s.judge(ctx, "reject", op, request, func(tx *tx, r *Request) error {
		step := Event{Kind: string(Refused), Operator: op.ID, Detail: refusal.detail()}
		step.Detail["by"], step.Detail["user"] = "user", op.User.Name
		out, err := tx.finish(nil, r, Outcome{State: Refused, Refusal: &refusal, User: true, Steps: []Event{step}})
		*r = out
		return err
	})
}

func (s *Store) judge(ctx context.Context, name string, op Operator, request id.RequestID, do func(*tx, *Request) error) (Request, error) {
	var r Request
	err := s.writeFor(ctx, op.ID, name, func(tx *tx) (err error) {
		if r, err = tx.ownRequest(op, request); err != nil {
			return err
		}
		switch {
		case r.State != Held:
			return &Conflict{ErrState, r.State, fmt.Sprintf("the request is %s and waits for no approval", r.State)}
		case r.UserID == op.User.ID:
			return &Conflict{ErrFourEyes, r.State, "whoever asked cannot approve or reject it, a second user must; you can cancel it"}
		case !r.Deadline.After(tx.now):
			return &Conflict{ErrState, r.State, "too late: the approval was wanted by " + r.Deadline.UTC().Format(time.RFC3339)}
		}
		return do(tx, &r)
	})
	return r, err
}

// Cancel ends an operator's request of which nothing was sent. The error matches
// ErrNotFound where it is another operator's, or ErrState.
func (s *Store) Cancel(ctx context.Context, op Operator, request id.RequestID) (Request, error) {
	var r Request
	err := s.writeFor(ctx, op.ID, "cancel", func(tx *tx) (err error) {
		if r, err = tx.ownRequest(op, request); err != nil {
			return err
		}
		if r.FinishedAt != nil || r.SentAt != nil {
			return &Conflict{ErrState, r.State, fmt.Sprintf("the request is %s and cannot be cancelled any more", r.State)}
		}
		const detail = "cancelled before anything was sent to the card"
		step := Event{Kind: string(Cancelled), Operator: op.ID, Detail: map[string]any{"user": op.User.Name, "was": r.State}}
		r, err = tx.finish(nil, &r, Outcome{State: Cancelled, Detail: detail, User: true, Steps: []Event{step}})
		return err
	})
	return r, err
}

// ownRequest locks a request of an operator's own.
func (t *tx) ownRequest(op Operator, request id.RequestID) (Request, error) {
	r, err := t.lockRequest(request)
	if err == nil && r.Operator != op.ID {
		err = ErrNotFound
	}
	return r, err
}
