package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/guard"
)

// Moment is what a decision on a request is made from.
type Moment struct {
	Now   time.Time
	Card  *Card         // nil where it is not registered
	Guard []guard.Scope // the operator's own, then those of the card's groups
}

const scopeColumns = `id, card_group, fleet, pending, epoch, counts, tripped_at, tripped_why, webhooks`

func scanScope(row scanner) (guard.Scope, error) {
	var (
		s       guard.Scope
		counts  []byte
		tripped sql.NullInt64
	)
	if err := row.Scan(&s.ID, &s.Group, &s.Fleet, &s.Pending, &s.Epoch, &counts, &tripped, &s.TrippedWhy, &s.Webhooks); err != nil {
		return s, found(err)
	}
	s.TrippedAt = fromNullMillis(tripped)
	var err error
	if s.Counts, err = guard.ParseCounts(counts); err != nil {
		return s, fmt.Errorf("store: scope %d: %w", s.ID, err)
	}
	return s, nil
}

// scopes locks an operator's own scope and those of some of its groups, always
// in the order of their numbers.
func (t *tx) scopes(operator int64, groups []string) ([]guard.Scope, error) {
	lock := t.s.dialect.forUpdate("guard_scopes")
	if len(groups) == 0 {
		one, err := scanScope(t.row(`SELECT `+scopeColumns+` FROM guard_scopes WHERE operator_id = ? AND card_group = ''`+lock, operator))
		return []guard.Scope{one}, err
	}
	return collect(t, scanScope,
		`SELECT `+scopeColumns+` FROM guard_scopes WHERE operator_id = ? AND (card_group = '' OR `+t.s.dialect.in("card_group")+`) ORDER BY id`+lock,
		operator, t.s.dialect.list(groups))
}

func (t *tx) saveScopes(list []guard.Scope) error {
	for i := range list {
		s := &list[i]
		var tripped any
		if s.TrippedAt != nil {
			tripped = millis(*s.TrippedAt)
		}
		if _, err := t.exec(`UPDATE guard_scopes SET pending = ?, epoch = ?, counts = ?, tripped_at = ?, tripped_why = ? WHERE id = ?`,
			s.Pending, s.Epoch, s.Counts.Append([]byte{}), tripped, s.TrippedWhy, s.ID); err != nil {
			return err
		}
	}
	return nil
}

// scopesOf is how a request keeps the scopes in which it is counted.
func scopesOf(list []guard.Scope) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.FormatInt(s.ID, 10))
	}
	return b.String()
}

// scopesOfRequest locks the scopes in which a request is counted.
func (t *tx) scopesOfRequest(r *Request) ([]guard.Scope, error) {
	if !strings.Contains(r.scopes, " ") {
		return t.scopes(r.Operator, nil)
	}
	all, err := collect(t, scanScope,
		`SELECT `+scopeColumns+` FROM guard_scopes WHERE operator_id = ? ORDER BY id`+t.s.dialect.forUpdate("guard_scopes"), r.Operator)
	if err != nil {
		return nil, err
	}
	var out []guard.Scope
	for _, s := range all {
		for part := range strings.FieldsSeq(r.scopes) {
			if part == strconv.FormatInt(s.ID, 10) {
				out = append(out, s)
			}
		}
	}
	return out, nil
}

// release gives back the place of a request that was let in and will not be
// sent.
func (t *tx) release(r *Request) error {
	if r.scopes == "" || r.SentAt != nil {
		return nil
	}
	scopes, err := t.scopesOfRequest(r)
	if err != nil {
		return err
	}
	if err := t.place(scopes, r, -1); err != nil {
		return err
	}
	_, err = t.exec(`UPDATE deactivations SET scopes = '' WHERE id = ?`, r.ID.String())
	return err
}

// place adds to the pending of scopes, unless the breaker tripped since the
// request was let in: then its place is gone.
func (t *tx) place(scopes []guard.Scope, r *Request, n int64) error {
	if len(scopes) == 0 || scopes[0].Epoch != r.Epoch {
		return nil
	}
	for i := range scopes {
		scopes[i].Pending = max(scopes[i].Pending+n, 0)
	}
	return t.saveScopes(scopes)
}

// trip opens the operator's breaker: nothing that was let in before keeps its
// place. scopes are locked; the operator's others are, by this.
func (t *tx) trip(operator int64, scopes []guard.Scope, why string) error {
	now := t.now
	scopes[0].TrippedAt, scopes[0].TrippedWhy = &now, why
	for i := range scopes {
		scopes[i].Pending = 0
		scopes[i].Epoch++
	}
	if err := t.saveScopes(scopes); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE guard_scopes SET pending = 0, epoch = ? WHERE operator_id = ? AND epoch < ?`, scopes[0].Epoch, operator, scopes[0].Epoch)
	if err != nil {
		return err
	}
	return t.addEvents(Event{Kind: "breaker tripped", Operator: operator, Detail: map[string]any{"text": why}})
}

// Guard is an operator's scopes: its own first, then those of its card groups.
func (s *Store) Guard(ctx context.Context, operator int64) ([]guard.Scope, error) {
	return collect(reads{s, ctx}, scanScope, `SELECT `+scopeColumns+` FROM guard_scopes WHERE operator_id = ? ORDER BY id`, operator)
}

// ResetBreaker closes the breaker of the operator of a name, in the name of the
// server's administrator, and forgets what was asked for until now, not what was
// sent. The error matches ErrNotFound, or ErrState where it has not tripped.
func (s *Store) ResetBreaker(ctx context.Context, operator string) (Operator, error) {
	var op Operator
	err := s.write(ctx, "reset breaker", func(tx *tx) (err error) {
		if op, err = operatorNamed(tx, operator); err != nil {
			return err
		}
		scopes, err := collect(tx, scanScope,
			`SELECT `+scopeColumns+` FROM guard_scopes WHERE operator_id = ? ORDER BY id`+s.dialect.forUpdate("guard_scopes"), op.ID)
		if err != nil {
			return err
		}
		if scopes[0].TrippedAt == nil {
			return fmt.Errorf("%w: the breaker of operator %q has not tripped", ErrState, operator)
		}
		was := scopes[0].TrippedWhy
		scopes[0].TrippedAt, scopes[0].TrippedWhy = nil, ""
		for i := range scopes {
			scopes[i].Counts.ForgetAsked()
		}
		if err := tx.saveScopes(scopes); err != nil {
			return err
		}
		return tx.addEvents(Event{Kind: "breaker reset", Operator: op.ID, Detail: map[string]any{"by": "administrator", "was": was}})
	})
	return op, err
}

// MaxGroups is how many card groups an operator may have.
const MaxGroups = 256

// ErrGroups says that names of card groups cannot be kept.
var ErrGroups = errors.New("store: a card group's name is not empty, has no space in it, and is given once")

// SetCardGroups sets the groups that an operator counts a card in; none where
// there are none. The error matches ErrNotFound where it has not registered the
// card, ErrTooMany where it would have more than MaxGroups, or ErrGroups.
func (s *Store) SetCardGroups(ctx context.Context, op Operator, eid id.EID, groups []string) error {
	for i, g := range groups {
		if !slices.Equal(strings.Fields(g), []string{g}) || slices.Contains(groups[:i], g) {
			return ErrGroups
		}
	}
	return s.writeFor(ctx, op.ID, "set groups", func(tx *tx) error {
		var before string
		err := tx.row(`SELECT card_groups FROM registrations WHERE operator_id = ? AND eid = ?`+s.dialect.forUpdate("registrations"), op.ID, eid.String()).
			Scan(&before)
		if err != nil {
			return found(err)
		}
		was := strings.Fields(before)
		if slices.Equal(was, groups) {
			return nil
		}
		// The operator's own scope is locked first, as everywhere.
		if _, err := tx.scopes(op.ID, nil); err != nil {
			return err
		}
		var known, all int
		if err := tx.row(`SELECT count(*) FILTER (WHERE `+s.dialect.in("card_group")+`), count(*) FROM guard_scopes WHERE operator_id = ? AND card_group <> ''`,
			s.dialect.list(groups), op.ID).Scan(&known, &all); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if all+len(groups)-known > MaxGroups {
			return fmt.Errorf("%w: an operator has %d card groups at most", ErrTooMany, MaxGroups)
		}
		if _, err := tx.exec(`UPDATE registrations SET card_groups = ? WHERE operator_id = ? AND eid = ?`,
			strings.Join(groups, " "), op.ID, eid.String()); err != nil {
			return err
		}
		for _, g := range groups {
			if _, err := tx.exec(`INSERT INTO guard_scopes (operator_id, card_group, epoch, counts)
			                      SELECT operator_id, ?, epoch, ? FROM guard_scopes WHERE operator_id = ? AND card_group = ''
			                      ON CONFLICT (operator_id, card_group) DO NOTHING`, g, []byte{}, op.ID); err != nil {
				return err
			}
		}
		for n, list := range map[int][]string{-1: was, 1: groups} {
			for _, g := range list {
				if _, err := tx.exec(`UPDATE guard_scopes SET fleet = fleet + ? WHERE operator_id = ? AND card_group = ?`, n, op.ID, g); err != nil {
					return err
				}
			}
		}
		return tx.addEvents(Event{
			Kind: "groups set", EID: &eid, Operator: op.ID, Internal: true, Detail: map[string]any{"groups": groups, "was": was, "user": op.User.Name},
		})
	})
}

func isNoRow(err error) bool { return errors.Is(err, sql.ErrNoRows) }
