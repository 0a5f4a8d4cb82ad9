package store

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// Operator is a mobile network operator that may ask for deactivations.
type Operator struct {
	ID        int64
	Name      string
	MCCMNC    id.MCCMNC
	CreatedAt time.Time
}

// TokenHash is what the store keeps of a bearer token. A token is 32 random
// bytes, so that a plain hash cannot be searched.
type TokenHash [sha256.Size]byte

// AddOperator adds an operator. The error matches ErrExists where the name is
// taken.
func (s *Store) AddOperator(ctx context.Context, name string, mccmnc id.MCCMNC, token TokenHash) (Operator, error) {
	op := Operator{Name: name, MCCMNC: mccmnc, CreatedAt: s.now().UTC().Truncate(time.Millisecond)}
	err := s.write(ctx, func(tx *sql.Tx) error {
		var taken bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operators WHERE name = ?)`, name).Scan(&taken); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if taken {
			return fmt.Errorf("%w: operator %q", ErrExists, name)
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO operators (name, mccmnc, token_hash, created_at) VALUES (?, ?, ?, ?)`,
			name, mccmnc.String(), token[:], millis(op.CreatedAt))
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if op.ID, err = res.LastInsertId(); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		return s.addEvent(ctx, tx, Event{
			Kind: "operator added", Internal: true,
			Detail: map[string]any{"operator": op.ID, "name": name, "mccmnc": mccmnc.String()},
		})
	})
	return op, err
}

// OperatorByToken is the operator whose token has this hash, or ErrNotFound.
func (s *Store) OperatorByToken(ctx context.Context, token TokenHash) (Operator, error) {
	var (
		op     Operator
		mccmnc string
		hash   []byte
		at     int64
	)
	err := s.db.QueryRowContext(ctx, `SELECT id, name, mccmnc, token_hash, created_at FROM operators WHERE token_hash = ?`, token[:]).
		Scan(&op.ID, &op.Name, &mccmnc, &hash, &at)
	if err != nil {
		return Operator{}, found(err)
	}
	if subtle.ConstantTimeCompare(hash, token[:]) != 1 {
		return Operator{}, ErrNotFound
	}
	op.CreatedAt = fromMillis(at)
	if op.MCCMNC, err = id.ParseMCCMNC(mccmnc); err != nil {
		return Operator{}, fmt.Errorf("store: operator %d: %w", op.ID, err)
	}
	return op, nil
}
