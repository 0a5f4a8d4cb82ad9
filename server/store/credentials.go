package store

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Hash is what the store keeps of a credential: the SHA-256 of a token, which is
// made of 32 random bytes, so that a plain hash cannot be searched; or that of
// the SubjectPublicKeyInfo of a client certificate.
type Hash [sha256.Size]byte

// CredentialKind is what a user proves itself by.
type CredentialKind string

// The kinds of credentials.
const (
	Token       CredentialKind = "token"
	Certificate CredentialKind = "certificate"
)

// Grant is a credential to be.
type Grant struct {
	Kind    CredentialKind // empty: Token
	Hash    Hash
	Label   string
	Roles   Roles     // those of the user's that it is good for; 0: all of them
	Expires time.Time // zero: never
}

// Credential is what a user proves itself by. Several are good at once, so that
// one takes over from another without a gap.
type Credential struct {
	ID        int64
	Kind      CredentialKind
	User      string // whose, by name
	Hash      Hash
	Label     string
	Roles     Roles
	CreatedAt time.Time
	ExpiresAt *time.Time // nil: never
	UsedAt    *time.Time // to the hour; nil: never
	RevokedAt *time.Time
}

// States of a credential.
const (
	Live       = "live"
	OutOfDate  = "expired"
	TakenAway  = "revoked"
	usedEvery  = time.Hour // how far behind UsedAt may be
	maxOfAUser = 64        // live credentials
)

// State is Live, OutOfDate or TakenAway, as of a time.
func (c *Credential) State(now time.Time) string {
	switch {
	case c.RevokedAt != nil:
		return TakenAway
	case c.ExpiresAt != nil && !now.Before(*c.ExpiresAt):
		return OutOfDate
	}
	return Live
}

// ErrRoles says that a credential would be good for what its user may not do.
var ErrRoles = errors.New("store: the user does not have these roles")

// AddCredential gives the user of a name another credential, beside those that
// it has. The error matches ErrNotFound where there is no such user, or it was
// removed; ErrExists where the credential is on record already, revoked ones
// too; ErrRoles; and ErrTooMany.
func (s *Store) AddCredential(ctx context.Context, operator, user string, g Grant) (op Operator, c Credential, err error) {
	err = s.changeUser(ctx, "add credential", operator, user, func(tx *tx, u Operator) (Event, error) {
		op = u
		var live int
		err := tx.row(`SELECT count(*) FROM credentials WHERE user_id = ? AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)`,
			u.User.ID, millis(tx.now)).Scan(&live)
		if err != nil {
			return Event{}, err
		}
		if live >= maxOfAUser {
			return Event{}, fmt.Errorf("%w: a user has at most %d live credentials; revoke some", ErrTooMany, maxOfAUser)
		}
		c, err = tx.addCredential(u.User, g)
		return Event{Kind: "credential added", Detail: c.told()}, err
	})
	return op, c, err
}

// SetToken gives the user of a name a token in place of all that it has. The
// error is that of AddCredential.
func (s *Store) SetToken(ctx context.Context, operator, user string, g Grant) (op Operator, c Credential, err error) {
	err = s.changeUser(ctx, "set token", operator, user, func(tx *tx, u Operator) (Event, error) {
		op = u
		revoked, err := tx.revokeAll(u.User, Token)
		if err == nil {
			c, err = tx.addCredential(u.User, g)
		}
		detail := c.told()
		detail["revoked"] = revoked
		return Event{Kind: "token replaced", Detail: detail}, err
	})
	return op, c, err
}

// RevokeCredential ends one credential of the user of a name, by its kind and
// number, for good; one that is revoked already stays as it is. The error
// matches ErrNotFound where the user has none of that number.
func (s *Store) RevokeCredential(ctx context.Context, operator, user string, kind CredentialKind, number int64) (c Credential, err error) {
	err = s.changeUser(ctx, "revoke credential", operator, user, func(tx *tx, u Operator) (Event, error) {
		var err error
		c, err = scanCredential(tx.row(credentialsOf+`WHERE c.id = ? AND c.user_id = ? AND c.kind = ?`, number, u.User.ID, string(kind)))
		if errors.Is(err, ErrNotFound) {
			return Event{}, fmt.Errorf("%w: %s %d of user %q", ErrNotFound, kind, number, user)
		}
		if err != nil || c.RevokedAt != nil {
			return Event{}, err
		}
		now := fromMillis(millis(tx.now))
		c.RevokedAt = &now
		_, err = tx.exec(`UPDATE credentials SET revoked_at = ? WHERE id = ?`, millis(now), number)
		return Event{Kind: "credential revoked", Detail: c.told()}, err
	})
	return c, err
}

// told is what the audit trail says of a credential. The hash of a token stays
// out of it; that of a certificate's key is no secret, and says which it was.
func (c *Credential) told() map[string]any {
	out := map[string]any{"credential": c.ID, "kind": c.Kind, "label": c.Label, "roles": c.Roles.String()}
	if c.ExpiresAt != nil {
		out["expires"] = c.ExpiresAt
	}
	if c.Kind == Certificate {
		out["spki"] = fmt.Sprintf("%x", c.Hash)
	}
	return out
}

func (t *tx) addCredential(user User, g Grant) (Credential, error) {
	c := Credential{Kind: g.Kind, User: user.Name, Hash: g.Hash, Label: g.Label, Roles: g.Roles, CreatedAt: fromMillis(millis(t.now))}
	if c.Kind == "" {
		c.Kind = Token
	}
	if c.Roles == 0 {
		c.Roles = user.Roles
	}
	if c.Roles&^user.Roles != 0 {
		return c, fmt.Errorf("%w: user %q has %s", ErrRoles, user.Name, user.Roles)
	}
	var expires any
	if !g.Expires.IsZero() {
		at := fromMillis(millis(g.Expires))
		c.ExpiresAt, expires = &at, millis(at)
	}
	err := t.row(`INSERT INTO credentials (user_id, kind, hash, label, roles, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)
	              ON CONFLICT (kind, hash) DO NOTHING RETURNING id`,
		user.ID, string(c.Kind), c.Hash[:], c.Label, int64(c.Roles), millis(c.CreatedAt), expires).Scan(&c.ID)
	if isNoRow(err) {
		return c, fmt.Errorf("%w: this %s is on record, live or revoked", ErrExists, c.Kind)
	}
	if err != nil {
		return c, fmt.Errorf("store: %w", err)
	}
	return c, nil
}

// revokeAll ends a user's credentials of a kind, of any where it is empty, and
// gives their numbers.
func (t *tx) revokeAll(user User, kind CredentialKind) ([]int64, error) {
	const those = `WHERE user_id = ? AND (kind = ? OR ? = '') AND revoked_at IS NULL`
	args := []any{user.ID, string(kind), string(kind)}
	numbers, err := collect(t, func(row scanner) (number int64, err error) {
		err = row.Scan(&number)
		return number, err
	}, `SELECT id FROM credentials `+those+` ORDER BY id`, args...)
	if err == nil {
		_, err = t.exec(`UPDATE credentials SET revoked_at = ? `+those, append([]any{millis(t.now)}, args...)...)
	}
	return numbers, err
}

// Credentials lists those of a kind of an operator's users, or of one where it
// is named, oldest first; ErrNotFound where there is no such operator.
func (s *Store) Credentials(ctx context.Context, operator, user string, kind CredentialKind) ([]Credential, error) {
	op, err := s.Operator(ctx, operator)
	if err != nil {
		return nil, err
	}
	return collect(reads{s, ctx}, scanCredential,
		credentialsOf+`WHERE u.operator_id = ? AND (u.name = ? OR ? = '') AND c.kind = ? ORDER BY c.id`, op.ID, user, user, string(kind))
}

const (
	credentialColumns = `c.id, c.kind, u.name, c.hash, c.label, c.roles, c.created_at, c.expires_at, c.used_at, c.revoked_at`
	credentialsOf     = `SELECT ` + credentialColumns + ` FROM credentials c JOIN users u ON u.id = c.user_id `
)

// scanCredential reads a row of credentialColumns, and what comes before them.
func scanCredential(row scanner) (Credential, error) { return scanCredentialAfter(row) }

func scanCredentialAfter(row scanner, before ...any) (Credential, error) {
	var (
		c                      Credential
		hash                   []byte
		created                int64
		expires, used, revoked sql.NullInt64
	)
	err := row.Scan(append(before, &c.ID, &c.Kind, &c.User, &hash, &c.Label, &c.Roles, &created, &expires, &used, &revoked)...)
	if err != nil {
		return c, found(err)
	}
	copy(c.Hash[:], hash)
	c.CreatedAt = fromMillis(created)
	c.ExpiresAt, c.UsedAt, c.RevokedAt = fromNullMillis(expires), fromNullMillis(used), fromNullMillis(revoked)
	return c, nil
}

// OperatorByCredential is the operator and user that a credential stands for,
// and the credential, whatever its State; or ErrNotFound.
func (s *Store) OperatorByCredential(ctx context.Context, kind CredentialKind, hash Hash) (Operator, Credential, error) {
	var op Operator
	var mccmnc string
	var at int64
	c, err := scanCredentialAfter(reads{s, ctx}.row(
		`SELECT o.id, o.name, o.mccmnc, o.created_at, u.id, u.name, u.roles, `+credentialColumns+`
		 FROM credentials c JOIN users u ON u.id = c.user_id JOIN operators o ON o.id = u.operator_id WHERE c.kind = ? AND c.hash = ?`, string(kind), hash[:]),
		&op.ID, &op.Name, &mccmnc, &at, &op.User.ID, &op.User.Name, &op.User.Roles)
	if err != nil {
		return Operator{}, Credential{}, err
	}
	if subtle.ConstantTimeCompare(c.Hash[:], hash[:]) != 1 {
		return Operator{}, Credential{}, ErrNotFound
	}
	return op, c, op.fill(mccmnc, at)
}

// Stale reports whether UsedAt is so far behind that a use is worth telling.
func (c *Credential) Stale(now time.Time) bool {
	return c.UsedAt == nil || now.Sub(*c.UsedAt) >= usedEvery
}

// CredentialsUsed records that credentials were used now, at most once an hour
// for each.
func (s *Store) CredentialsUsed(ctx context.Context, numbers []int64) error {
	return s.write(ctx, "credentials used", func(tx *tx) error {
		for _, n := range numbers {
			_, err := tx.exec(`UPDATE credentials SET used_at = ? WHERE id = ? AND (used_at IS NULL OR used_at <= ?)`,
				millis(tx.now), n, millis(tx.now.Add(-usedEvery)))
			if err != nil {
				return err
			}
		}
		return nil
	})
}
