package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// Operator is a mobile network operator that may ask for deactivations, and
// which of its users does.
type Operator struct {
	ID        int64
	Name      string
	MCCMNC    id.MCCMNC
	CreatedAt time.Time
	User      User
}

// User is who asks in an operator's name.
type User struct {
	ID    int64
	Name  string
	Roles Roles
}

// Roles are what a user may do, one bit each.
type Roles uint8

// The roles.
const (
	MayRead       Roles = 1 << iota // look at cards, requests, readers and the guard
	MayRequest                      // ask for deactivations, cancel them, have cards read anew
	MayApprove                      // approve or reject what others asked for
	MayAdminister                   // register cards, set their policy and groups

	AllRoles = MayRead | MayRequest | MayApprove | MayAdminister
)

var roleNames = []string{"read", "request", "approve", "administer"}

// String names the roles, with a comma between.
func (r Roles) String() string {
	var out []string
	for i, name := range roleNames {
		if r&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}

// ParseRoles reads names as String writes them.
func ParseRoles(text string) (Roles, error) {
	var out Roles
next:
	for part := range strings.SplitSeq(text, ",") {
		for i, name := range roleNames {
			if part == name {
				out |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("no such role: %q; there are %s", part, strings.Join(roleNames, ", "))
	}
	return out, nil
}

// AddOperator adds an operator and its first user, with its first credential. The
// error matches ErrExists where the operator's name is taken.
func (s *Store) AddOperator(ctx context.Context, name string, mccmnc id.MCCMNC, user User, first Grant) (Operator, error) {
	var op Operator
	err := s.write(ctx, "add operator", func(tx *tx) error {
		op = Operator{Name: name, MCCMNC: mccmnc, CreatedAt: tx.now.UTC().Truncate(time.Millisecond)}
		err := tx.row(`INSERT INTO operators (name, mccmnc, created_at) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING RETURNING id`,
			name, mccmnc.String(), millis(op.CreatedAt)).Scan(&op.ID)
		if isNoRow(err) {
			return fmt.Errorf("%w: operator %q", ErrExists, name)
		}
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if _, err := tx.exec(`INSERT INTO guard_scopes (operator_id, card_group, counts) VALUES (?, '', ?)`, op.ID, []byte{}); err != nil {
			return err
		}
		if err := tx.addEvents(Event{
			Kind: "operator added", Internal: true,
			Detail: map[string]any{"operator": op.ID, "name": name, "mccmnc": mccmnc.String()},
		}); err != nil {
			return err
		}
		op.User, err = tx.addUser(op.ID, user, first)
		return err
	})
	return op, err
}

// AddUser adds a user to the operator of a name, with its first credential. The
// error matches ErrNotFound, or ErrExists where the operator has a user of that
// name.
func (s *Store) AddUser(ctx context.Context, operator string, user User, first Grant) (Operator, error) {
	var op Operator
	err := s.write(ctx, "add user", func(tx *tx) (err error) {
		if op, err = operatorNamed(tx, operator); err != nil {
			return err
		}
		op.User, err = tx.addUser(op.ID, user, first)
		return err
	})
	return op, err
}

func (t *tx) addUser(operator int64, user User, first Grant) (User, error) {
	err := t.row(`INSERT INTO users (operator_id, name, roles, created_at) VALUES (?, ?, ?, ?)
	              ON CONFLICT (operator_id, name) DO NOTHING RETURNING id`,
		operator, user.Name, int64(user.Roles), millis(t.now)).Scan(&user.ID)
	if isNoRow(err) {
		return user, fmt.Errorf("%w: user %q", ErrExists, user.Name)
	}
	if err != nil {
		return user, fmt.Errorf("store: %w", err)
	}
	t.writes++ // which only exec counts: what fails from here on must undo it
	c, err := t.addCredential(user, first)
	if err != nil {
		return user, err
	}
	detail := c.told()
	detail["user"], detail["name"], detail["roles"] = user.ID, user.Name, user.Roles.String()
	return user, t.addEvents(Event{Kind: "user added", Operator: operator, Internal: true, Detail: detail})
}

// RemoveUser takes its roles and its credentials from the user of a name, for
// good: what it did stays under the name. unsent is how many of its requests are
// open and were not sent; with cancel they are cancelled in the same transaction.
// A user that was removed before can be so again with cancel alone, for what came
// in meanwhile; else the error matches ErrNotFound, as where there is none.
func (s *Store) RemoveUser(ctx context.Context, operator, user string, cancel bool) (op Operator, unsent int, err error) {
	known, err := s.Operator(ctx, operator)
	if err != nil {
		return op, 0, err
	}
	err = s.writeFor(ctx, known.ID, "remove user", func(tx *tx) error {
		op, err = scanOperator(tx.row(operatorUsers+`WHERE o.id = ? AND u.name = ?`, known.ID, user))
		if errors.Is(err, ErrNotFound) || err == nil && op.User.Roles == 0 && !cancel {
			return fmt.Errorf("%w: user %q of operator %q", ErrNotFound, user, operator)
		}
		if err != nil {
			return err
		}
		// The requests are locked before the user: whoever hands one in has the
		// guard's scopes, which these need, when it comes to its user.
		list, err := collect(tx, scanRequest, `SELECT `+requestColumns+` FROM deactivations
			WHERE operator_id = ? AND user_id = ? AND finished_at IS NULL AND sent_at IS NULL ORDER BY seq`+s.dialect.forUpdate("deactivations"), op.ID, op.User.ID)
		if err != nil {
			return err
		}
		unsent = len(list)
		event := Event{Kind: "user removed", Operator: op.ID, Internal: true, Detail: map[string]any{"user": op.User.ID, "name": op.User.Name, "unsent": unsent, "cancelled": cancel}}
		if cancel {
			for _, r := range list {
				const detail = "cancelled before anything was sent to the card: the user who asked was removed"
				step := Event{Kind: string(Cancelled), Detail: map[string]any{"by": "administrator", "was": r.State, "text": detail}}
				if _, err := tx.finish(nil, &r, Outcome{State: Cancelled, Detail: detail, User: true, Steps: []Event{step}}); err != nil {
					return err
				}
			}
		}
		if op.User.Roles == 0 {
			event.Kind = "requests of a removed user cancelled"
			return tx.addEvents(event)
		}
		op.User.Roles = 0
		if event.Detail["revoked"], err = tx.revokeAll(op.User, ""); err != nil {
			return err
		}
		if _, err := tx.exec(`UPDATE users SET roles = 0 WHERE id = ?`, op.User.ID); err != nil {
			return err
		}
		return tx.addEvents(event)
	})
	return op, unsent, err
}

// changeUser has change do something to the user of a name, and records the
// event that it gives, unless that has no kind.
func (s *Store) changeUser(ctx context.Context, name, operator, user string, change func(*tx, Operator) (Event, error)) error {
	return s.write(ctx, name, func(tx *tx) error {
		op, err := scanOperator(tx.row(operatorUsers+`WHERE o.name = ? AND u.name = ? AND u.roles <> 0`+s.dialect.forUpdate("u"), operator, user))
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: user %q of operator %q", ErrNotFound, user, operator)
		}
		if err != nil {
			return err
		}
		event, err := change(tx, op)
		if err != nil || event.Kind == "" {
			return err
		}
		event.Operator, event.Internal = op.ID, true
		event.Detail["user"], event.Detail["name"] = op.User.ID, op.User.Name
		return tx.addEvents(event)
	})
}

// Operator is the operator of a name, without a user, or ErrNotFound.
func (s *Store) Operator(ctx context.Context, name string) (Operator, error) {
	return operatorNamed(reads{s, ctx}, name)
}

// Operators lists all operators with all of their users, by name: one row for
// each user.
func (s *Store) Operators(ctx context.Context) ([]Operator, error) {
	return collect(reads{s, ctx}, scanOperator, operatorUsers+`ORDER BY o.name, u.id`)
}

// OperatorOf is the operator of a user, and that user, or ErrNotFound.
func (s *Store) OperatorOf(ctx context.Context, user int64) (Operator, error) {
	return scanOperator(reads{s, ctx}.row(operatorUsers+`WHERE u.id = ?`, user))
}

const operatorUsers = `SELECT o.id, o.name, o.mccmnc, o.created_at, u.id, u.name, u.roles FROM users u JOIN operators o ON o.id = u.operator_id `

func scanOperator(row scanner) (Operator, error) {
	var op Operator
	var mccmnc string
	var at int64
	if err := row.Scan(&op.ID, &op.Name, &mccmnc, &at, &op.User.ID, &op.User.Name, &op.User.Roles); err != nil {
		return op, found(err)
	}
	return op, op.fill(mccmnc, at)
}

func operatorNamed(q querier, name string) (Operator, error) {
	op := Operator{Name: name}
	var mccmnc string
	var at int64
	err := q.row(`SELECT id, mccmnc, created_at FROM operators WHERE name = ?`, name).Scan(&op.ID, &mccmnc, &at)
	if isNoRow(err) {
		return op, fmt.Errorf("%w: operator %q", ErrNotFound, name)
	}
	if err != nil {
		return op, fmt.Errorf("store: %w", err)
	}
	return op, op.fill(mccmnc, at)
}

func (op *Operator) fill(mccmnc string, at int64) (err error) {
	op.CreatedAt = fromMillis(at)
	if op.MCCMNC, err = id.ParseMCCMNC(mccmnc); err != nil {
		return fmt.Errorf("store: operator %d: %w", op.ID, err)
	}
	return nil
}

// asker is the operator and user that asked for a request.
func (t *tx) asker(r *Request) (Operator, error) {
	op := Operator{ID: r.Operator, User: User{ID: r.UserID}}
	var mccmnc string
	var at int64
	err := t.row(`SELECT o.name, o.mccmnc, o.created_at, u.name, u.roles FROM users u JOIN operators o ON o.id = u.operator_id WHERE u.id = ?`, r.UserID).
		Scan(&op.Name, &mccmnc, &at, &op.User.Name, &op.User.Roles)
	if err != nil {
		return op, found(err)
	}
	return op, op.fill(mccmnc, at)
}
