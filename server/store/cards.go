package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// ProfileState is a profile's recorded state.
type ProfileState string

// The states of a profile. An absent one was on the card once; its policy is
// kept for when it comes back.
const (
	Enabled  ProfileState = "enabled"
	Disabled ProfileState = "disabled"
	Absent   ProfileState = "absent"
)

// Profile is the record of one profile of a card.
type Profile struct {
	ICCID                id.ICCID
	Owner                id.MCCMNC
	State                ProfileState
	Class                string
	Provider, Name       string
	PPR1, PPR2, Fallback bool
	// DisableAllowed is the owner's rule (POL2): false forbids that the profile
	// is disabled. It is the server's data, true unless set.
	DisableAllowed bool
}

// Card is the record of one card.
type Card struct {
	EID id.EID
	// PublicKeys is the card's key set, suites and policy as it was registered
	// with; the store does not look into it.
	PublicKeys   json.RawMessage
	EventCounter uint32
	Profiles     []Profile
	// Unsettled says that the card may be in another state than the recorded
	// one, until GET STATUS is read.
	Unsettled bool
	// RegisteredBy is the operators that vouch for the card's keys, in the order
	// in which they registered it.
	RegisteredBy []int64
	RegisteredAt time.Time
	UpdatedAt    time.Time
}

// Profile is the profile with this ICCID, nil if the card has none such.
func (c *Card) Profile(iccid id.ICCID) *Profile {
	for i := range c.Profiles {
		if c.Profiles[i].ICCID == iccid {
			return &c.Profiles[i]
		}
	}
	return nil
}

// RegisterCard adds a card and its profiles in the name of an operator. What is
// said of its state is unsettled. The error matches ErrExists where the EID is
// registered.
func (s *Store) RegisterCard(ctx context.Context, operator int64, c Card) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var taken bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM cards WHERE eid = ?)`, c.EID.String()).Scan(&taken); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if taken {
			return fmt.Errorf("%w: card %s", ErrExists, c.EID)
		}
		now := millis(s.now())
		_, err := tx.ExecContext(ctx,
			`INSERT INTO cards (eid, public_keys, event_counter, unsettled, registered_by, registered_at, updated_at) VALUES (?, ?, ?, 1, ?, ?, ?)`,
			c.EID.String(), []byte(c.PublicKeys), c.EventCounter, operator, now, now)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		iccids := make([]string, len(c.Profiles))
		for i, p := range c.Profiles {
			iccids[i] = p.ICCID.String()
			if err := insertProfile(ctx, tx, c.EID, i, p); err != nil {
				return err
			}
		}
		_, err = s.vouch(ctx, tx, operator, c.EID, map[string]any{"event_counter": c.EventCounter, "profiles": iccids})
		return err
	})
}

// Vouch adds an operator to those that vouch for the keys of a card that is
// registered; fresh says that it did not before. The error matches ErrNotFound
// where there is no such card with a profile of the operator's.
func (s *Store) Vouch(ctx context.Context, op Operator, eid id.EID) (fresh bool, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		var owns bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM profiles WHERE eid = ? AND mccmnc = ?)`,
			eid.String(), op.MCCMNC.String()).Scan(&owns); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if !owns {
			return fmt.Errorf("%w: a profile of operator %s in card %s", ErrNotFound, op.MCCMNC, eid)
		}
		fresh, err = s.vouch(ctx, tx, op.ID, eid, nil)
		return err
	})
	return fresh, err
}

func (s *Store) vouch(ctx context.Context, tx *sql.Tx, operator int64, eid id.EID, detail map[string]any) (fresh bool, err error) {
	res, err := tx.ExecContext(ctx, `INSERT INTO registrations (eid, operator_id, registered_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		eid.String(), operator, millis(s.now()))
	if err := oneRow(res, err, ErrExists); errors.Is(err, ErrExists) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, s.addEvent(ctx, tx, Event{Kind: "card registered", EID: &eid, Operator: operator, Internal: true, Detail: detail})
}

func insertProfile(ctx context.Context, q querier, eid id.EID, position int, p Profile) error {
	_, err := q.ExecContext(ctx,
		`INSERT INTO profiles (eid, iccid, position, mccmnc, state, class, provider, name, ppr1, ppr2, fallback, disable_allowed)
		 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		eid.String(), p.ICCID.String(), position, p.Owner.String(), string(p.State), p.Class, p.Provider, p.Name,
		p.PPR1, p.PPR2, p.Fallback, p.DisableAllowed)
	if err != nil {
		return fmt.Errorf("store: profile %s: %w", p.ICCID, err)
	}
	return nil
}

// Card is a card's record, or ErrNotFound.
func (s *Store) Card(ctx context.Context, eid id.EID) (*Card, error) { return readCard(ctx, s.db, eid) }

func readCard(ctx context.Context, q querier, eid id.EID) (*Card, error) {
	c := &Card{EID: eid}
	var keys, registrants []byte
	var registered, updated int64
	// One statement, so that counter and profiles are of one moment.
	rows, err := q.QueryContext(ctx,
		`SELECT c.public_keys, c.event_counter, c.unsettled, c.registered_at, c.updated_at,
		        (SELECT json_group_array(operator_id ORDER BY rowid) FROM registrations WHERE eid = c.eid),
		        p.iccid, p.mccmnc, p.state, p.class, p.provider, p.name, p.ppr1, p.ppr2, p.fallback, p.disable_allowed
		 FROM cards c LEFT JOIN profiles p ON p.eid = c.eid WHERE c.eid = ? ORDER BY p.position`, eid.String())
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var (
			iccid, mccmnc, state, class, provider, name sql.NullString
			ppr1, ppr2, fallback, allowed               sql.NullBool
		)
		if err := rows.Scan(&keys, &c.EventCounter, &c.Unsettled, &registered, &updated, &registrants,
			&iccid, &mccmnc, &state, &class, &provider, &name, &ppr1, &ppr2, &fallback, &allowed); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		if !iccid.Valid {
			continue
		}
		p := Profile{
			State: ProfileState(state.String), Class: class.String, Provider: provider.String, Name: name.String,
			PPR1: ppr1.Bool, PPR2: ppr2.Bool, Fallback: fallback.Bool, DisableAllowed: allowed.Bool,
		}
		if p.ICCID, err = id.ParseICCID(iccid.String); err == nil {
			p.Owner, err = id.ParseMCCMNC(mccmnc.String)
		}
		if err != nil {
			return nil, fmt.Errorf("store: card %s: %w", eid, err)
		}
		c.Profiles = append(c.Profiles, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: card %s", ErrNotFound, eid)
	}
	if err := json.Unmarshal(registrants, &c.RegisteredBy); err != nil {
		return nil, fmt.Errorf("store: card %s: %w", eid, err)
	}
	c.PublicKeys, c.RegisteredAt, c.UpdatedAt = keys, fromMillis(registered), fromMillis(updated)
	return c, nil
}

// CardsOf lists the EIDs of the cards that an operator registered and owns a
// profile in, in ascending order after the EID after, at most limit.
func (s *Store) CardsOf(ctx context.Context, op Operator, after string, limit int) ([]id.EID, error) {
	scan := func(row scanner) (id.EID, error) {
		var text string
		if err := row.Scan(&text); err != nil {
			return id.EID{}, fmt.Errorf("store: %w", err)
		}
		return id.ParseEID(text)
	}
	return collect(ctx, s.db, scan,
		`SELECT eid FROM registrations r WHERE operator_id = ? AND eid > ?
		 AND EXISTS (SELECT 1 FROM profiles p WHERE p.eid = r.eid AND p.mccmnc = ?) ORDER BY eid LIMIT ?`,
		op.ID, after, op.MCCMNC.String(), limit)
}

// SetDisableAllowed sets a profile's POL2 in the name of an operator that owns
// it and registered the card. The error matches ErrNotFound where there is no
// such card, or no profile of that owner's in it.
func (s *Store) SetDisableAllowed(ctx context.Context, op Operator, eid id.EID, iccid id.ICCID, allowed bool) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx,
			`UPDATE profiles SET disable_allowed = ? WHERE eid = ? AND iccid = ? AND mccmnc = ?
			 AND EXISTS (SELECT 1 FROM registrations r WHERE r.eid = profiles.eid AND r.operator_id = ?)`,
			allowed, eid.String(), iccid.String(), op.MCCMNC.String(), op.ID)
		if err := oneRow(res, err, ErrNotFound); err != nil {
			return err
		}
		return s.addEvent(ctx, tx, Event{
			Kind: "policy set", EID: &eid, Operator: op.ID, Internal: true,
			Detail: map[string]any{"iccid": iccid.String(), "disable_allowed": allowed},
		})
	})
}

// oneRow turns an UPDATE that met no row into otherwise.
func oneRow(res sql.Result, err, otherwise error) error {
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if n == 0 {
		return otherwise
	}
	return nil
}

// CardState is what a verified answer says of a card.
type CardState struct {
	EventCounter uint32
	Profiles     []Profile
	// Complete says that these are all profiles the card has (GET STATUS), with
	// all that is to know of them; else they are those whose state is known to
	// have changed, of which ICCID and State alone count.
	Complete bool
}

// apply writes a card's state. A complete one settles the record; any other
// counts only where its event counter is above the recorded one.
func (s *Store) apply(ctx context.Context, tx *sql.Tx, eid id.EID, c CardState) error {
	before, err := readCard(ctx, tx, eid)
	if err != nil {
		return err
	}
	if !c.Complete && c.EventCounter <= before.EventCounter {
		return nil
	}
	if _, err := tx.ExecContext(ctx, `UPDATE cards SET event_counter = ?, unsettled = unsettled AND NOT ?, updated_at = ? WHERE eid = ?`,
		c.EventCounter, c.Complete, millis(s.now()), eid.String()); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	states := map[string]any{}
	set := func(iccid id.ICCID, state ProfileState) error {
		states[iccid.String()] = state
		_, err := tx.ExecContext(ctx, `UPDATE profiles SET state = ? WHERE eid = ? AND iccid = ?`, string(state), eid.String(), iccid.String())
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		return nil
	}
	there := map[id.ICCID]bool{}
	for _, p := range c.Profiles {
		there[p.ICCID] = true
		switch known := before.Profile(p.ICCID); {
		case !c.Complete:
			err = set(p.ICCID, p.State)
		case known == nil:
			p.DisableAllowed = true
			states[p.ICCID.String()] = p.State
			err = insertProfile(ctx, tx, eid, len(before.Profiles)+len(there), p)
		default:
			states[p.ICCID.String()] = p.State
			_, err = tx.ExecContext(ctx,
				`UPDATE profiles SET state = ?, mccmnc = ?, class = ?, provider = ?, name = ?, ppr1 = ?, ppr2 = ?, fallback = ?
				 WHERE eid = ? AND iccid = ?`,
				string(p.State), p.Owner.String(), p.Class, p.Provider, p.Name, p.PPR1, p.PPR2, p.Fallback,
				eid.String(), p.ICCID.String())
		}
		if err != nil {
			return err
		}
	}
	for _, p := range before.Profiles {
		if c.Complete && !there[p.ICCID] {
			if err := set(p.ICCID, Absent); err != nil {
				return err
			}
		}
	}
	return s.addEvent(ctx, tx, Event{
		Kind: "card recorded", EID: &eid, Internal: true,
		Detail: map[string]any{"event_counter": c.EventCounter, "profiles": states, "complete": c.Complete},
	})
}

// RecordCard writes what a card said of itself where no request ends by it.
func (s *Store) RecordCard(ctx context.Context, eid id.EID, c CardState) error {
	return s.write(ctx, func(tx *sql.Tx) error { return s.apply(ctx, tx, eid, c) })
}

// Unsettle says that a card may be in another state than the recorded one; why
// goes into the audit trail.
func (s *Store) Unsettle(ctx context.Context, eid id.EID, why Event) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		if err := s.unsettle(ctx, tx, eid); err != nil {
			return err
		}
		why.EID = &eid
		return s.addEvent(ctx, tx, why)
	})
}

func (s *Store) unsettle(ctx context.Context, tx *sql.Tx, eid id.EID) error {
	if _, err := tx.ExecContext(ctx, `UPDATE cards SET unsettled = 1 WHERE eid = ?`, eid.String()); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}
