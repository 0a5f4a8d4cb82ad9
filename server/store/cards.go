package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/audit"
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
	Owner                id.MCCMNC // zero: nobody says whose it is (plain eUICCs alone)
	State                ProfileState
	Class                string
	Provider, Name       string
	PPR1, PPR2, Fallback bool
	// DisableAllowed is the owner's rule (POL2): false forbids that the profile
	// is disabled. It is the server's data, true unless set.
	DisableAllowed bool
	// EnabledAt is since when the server knows it enabled; zero where it does not.
	EnabledAt time.Time
}

// Management is how a card is managed, as it was registered. It never changes.
type Management string

// What manages a card.
const (
	Applet Management = "applet" // the management applet, under the card's keys
	// ES10c is SGP.22's, of a plain eUICC: it has no keys and gives no receipt.
	ES10c Management = "es10c"
)

// Card is the record of one card.
type Card struct {
	EID        id.EID
	Management Management
	// PublicKeys is the card's key set, suites and policy as it was registered
	// with; the store does not look into it. A plain eUICC has none.
	PublicKeys   json.RawMessage
	EventCounter uint32 // of the management applet; 0 for a plain eUICC
	Profiles     []Profile
	// Unsettled says that the card may be in another state than the recorded
	// one, until GET STATUS is read.
	Unsettled bool
	// Registered says that the operator for whom the card was read vouches for
	// its keys; Groups are the names under which it counts the card.
	Registered   bool
	Groups       []string
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
func (s *Store) RegisterCard(ctx context.Context, op Operator, c Card) error {
	return s.writeFor(ctx, op.ID, "register card", func(tx *tx) error {
		now := millis(tx.now)
		res, err := tx.exec(
			`INSERT INTO cards (eid, management, public_keys, event_counter, unsettled, registered_by, registered_at, updated_at)
			 VALUES (?, ?, ?, ?, TRUE, ?, ?, ?) ON CONFLICT (eid) DO NOTHING`,
			c.EID.String(), string(c.Management), append([]byte{}, c.PublicKeys...), c.EventCounter, op.ID, now, now)
		if err := oneRow(res, err, ErrExists); err != nil {
			return fmt.Errorf("card %s: %w", c.EID, err)
		}
		iccids := make([]string, len(c.Profiles))
		for i, p := range c.Profiles {
			iccids[i] = p.ICCID.String()
			if err := tx.insertProfile(c.EID, i, p); err != nil {
				return err
			}
		}
		detail := map[string]any{"event_counter": c.EventCounter, "profiles": iccids, "public_keys": c.PublicKeys}
		if c.Management == ES10c {
			detail = map[string]any{"management": ES10c, "profiles": iccids}
		}
		_, err = tx.vouch(op, c.EID, detail)
		return err
	})
}

// Vouch adds an operator to those that vouch for the keys of a card that is
// registered; fresh says that it did not before. The error matches ErrNotFound
// where there is no such card with a profile of the operator's.
func (s *Store) Vouch(ctx context.Context, op Operator, eid id.EID) (fresh bool, err error) {
	err = s.writeFor(ctx, op.ID, "vouch", func(tx *tx) error {
		var owns bool
		if err := tx.row(`SELECT EXISTS (SELECT 1 FROM profiles WHERE eid = ? AND mccmnc = ?)`, eid.String(), op.MCCMNC.String()).Scan(&owns); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if !owns {
			return fmt.Errorf("%w: a profile of operator %s in card %s", ErrNotFound, op.MCCMNC, eid)
		}
		var err error
		fresh, err = tx.vouch(op, eid, map[string]any{})
		return err
	})
	return fresh, err
}

func (t *tx) vouch(op Operator, eid id.EID, detail map[string]any) (fresh bool, err error) {
	res, err := t.exec(`INSERT INTO registrations (eid, operator_id, registered_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		eid.String(), op.ID, millis(t.now))
	if err := oneRow(res, err, ErrExists); errors.Is(err, ErrExists) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if _, err := t.exec(`UPDATE guard_scopes SET fleet = fleet + 1 WHERE operator_id = ? AND card_group = ''`, op.ID); err != nil {
		return false, err
	}
	detail["user"] = op.User.Name
	return true, t.addEvents(Event{Kind: audit.Registered, EID: &eid, Operator: op.ID, Internal: true, Detail: detail})
}

// storable has no NUL in what a card says of a profile: PostgreSQL keeps none,
// and what a card proved must not be lost for it.
func storable(p Profile) Profile {
	for _, text := range []*string{&p.Class, &p.Provider, &p.Name} {
		*text = strings.ReplaceAll(*text, "\x00", "\uFFFD")
	}
	return p
}

func (t *tx) insertProfile(eid id.EID, position int, p Profile) error {
	p = storable(p)
	var enabled any
	if p.State == Enabled {
		enabled = millis(t.now)
	}
	_, err := t.exec(
		`INSERT INTO profiles (eid, iccid, position, mccmnc, state, class, provider, name, ppr1, ppr2, fallback, disable_allowed, enabled_at)
		 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		eid.String(), p.ICCID.String(), position, p.Owner.String(), string(p.State), p.Class, p.Provider, p.Name,
		p.PPR1, p.PPR2, p.Fallback, p.DisableAllowed, enabled)
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.ICCID, err)
	}
	return nil
}

// Card is a card's record as it is to one operator (0: nobody's), or
// ErrNotFound.
func (s *Store) Card(ctx context.Context, eid id.EID, operator int64) (*Card, error) {
	c, _, err := readCard(reads{s, ctx}, eid, operator, "")
	return c, err
}

// One statement, so that counter and profiles are of one moment.
const (
	selectCards = `SELECT c.eid, c.management, c.public_keys, c.event_counter, c.unsettled, c.registered_at, c.updated_at, c.claim_token, c.claim_until, r.card_groups,
	       p.iccid, p.mccmnc, p.state, p.class, p.provider, p.name, p.ppr1, p.ppr2, p.fallback, p.disable_allowed, p.enabled_at
	FROM cards c LEFT JOIN registrations r ON r.eid = c.eid AND r.operator_id = ? LEFT JOIN profiles p ON p.eid = c.eid
	WHERE `
	selectCard = selectCards + `c.eid = ? ORDER BY p.position`
)

// claimed is who works on a card.
type claimed struct{ token, until int64 }

func readCard(q querier, eid id.EID, operator int64, lock string) (*Card, claimed, error) {
	list, by, err := readCards(q, selectCard+lock, operator, eid.String())
	if err != nil {
		return nil, claimed{}, err
	}
	if len(list) == 0 {
		return nil, claimed{}, fmt.Errorf("%w: card %s", ErrNotFound, eid)
	}
	return list[0], by, nil
}

// cards are the records of cards, by EID, as they are to one operator.
func (s *Store) cards(ctx context.Context, operator int64, eids []string) ([]*Card, error) {
	if len(eids) == 0 {
		return nil, nil
	}
	list, _, err := readCards(reads{s, ctx}, selectCards+s.dialect.in(`c.eid`)+` ORDER BY c.eid, p.position`, operator, s.dialect.list(eids))
	return list, err
}

// readCards gives who works on the last of them, too.
func readCards(q querier, query string, args ...any) (list []*Card, by claimed, err error) {
	rows, done, err := q.rows(query, args...)
	if err != nil {
		return nil, by, err
	}
	defer done()
	for rows.Next() {
		var (
			eid                                         string
			c                                           Card
			keys                                        []byte
			registered, updated                         int64
			groups                                      sql.NullString
			iccid, mccmnc, state, class, provider, name sql.NullString
			ppr1, ppr2, fallback, allowed               sql.NullBool
			enabled                                     sql.NullInt64
		)
		if err := rows.Scan(&eid, &c.Management, &keys, &c.EventCounter, &c.Unsettled, &registered, &updated, &by.token, &by.until, &groups,
			&iccid, &mccmnc, &state, &class, &provider, &name, &ppr1, &ppr2, &fallback, &allowed, &enabled); err != nil {
			return nil, by, fmt.Errorf("store: %w", err)
		}
		if c.EID, err = id.ParseEID(eid); err != nil {
			return nil, by, fmt.Errorf("store: card %s: %w", eid, err)
		}
		if n := len(list); n == 0 || list[n-1].EID != c.EID {
			c.Registered, c.Groups = groups.Valid, strings.Fields(groups.String)
			c.PublicKeys, c.RegisteredAt, c.UpdatedAt = keys, fromMillis(registered), fromMillis(updated)
			list = append(list, &c)
		}
		if !iccid.Valid {
			continue
		}
		p := Profile{
			State: ProfileState(state.String), Class: class.String, Provider: provider.String, Name: name.String,
			PPR1: ppr1.Bool, PPR2: ppr2.Bool, Fallback: fallback.Bool, DisableAllowed: allowed.Bool,
		}
		if enabled.Valid {
			p.EnabledAt = fromMillis(enabled.Int64)
		}
		if p.ICCID, err = id.ParseICCID(iccid.String); err == nil {
			p.Owner, err = id.ParseMCCMNC(mccmnc.String)
		}
		if err != nil {
			return nil, by, fmt.Errorf("store: card %s: %w", eid, err)
		}
		last := list[len(list)-1]
		last.Profiles = append(last.Profiles, p)
	}
	if err := rows.Err(); err != nil {
		return nil, by, fmt.Errorf("store: %w", err)
	}
	return list, by, nil
}

// SetDisableAllowed sets a profile's POL2 in the name of an operator that owns
// it and registered the card. The error matches ErrNotFound where there is no
// such card, or no profile of that owner's in it.
func (s *Store) SetDisableAllowed(ctx context.Context, op Operator, eid id.EID, iccid id.ICCID, allowed bool) error {
	return s.write(ctx, "set policy", func(tx *tx) error {
		res, err := tx.exec(
			`UPDATE profiles SET disable_allowed = ? WHERE eid = ? AND iccid = ? AND mccmnc = ?
			 AND EXISTS (SELECT 1 FROM registrations r WHERE r.eid = profiles.eid AND r.operator_id = ?)`,
			allowed, eid.String(), iccid.String(), op.MCCMNC.String(), op.ID)
		if err := oneRow(res, err, ErrNotFound); err != nil {
			return err
		}
		return tx.addEvents(Event{
			Kind: "policy set", EID: &eid, Operator: op.ID, Internal: true,
			Detail: map[string]any{"iccid": iccid.String(), "disable_allowed": allowed, "user": op.User.Name},
		})
	})
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

// As is the card as a complete state will have it recorded at a moment.
func (c *Card) As(state CardState, at time.Time) *Card {
	out := *c
	out.Profiles = nil
	there := map[id.ICCID]bool{}
	for _, p := range state.Profiles {
		there[p.ICCID] = true
		p.DisableAllowed = true
		if p.State == Enabled {
			p.EnabledAt = at
		}
		if known := c.Profile(p.ICCID); known != nil {
			p.DisableAllowed = known.DisableAllowed
			if p.State == Enabled && known.State == Enabled {
				p.EnabledAt = known.EnabledAt
			}
		}
		out.Profiles = append(out.Profiles, p)
	}
	for _, p := range c.Profiles {
		if !there[p.ICCID] {
			p.State, p.EnabledAt = Absent, time.Time{}
			out.Profiles = append(out.Profiles, p)
		}
	}
	return &out
}

// apply writes a card's state over the record of before and gives the event
// that tells of it. A complete one settles the record; any other counts only
// where its event counter is above the recorded one. nil changes nothing.
func (t *tx) apply(before *Card, c *CardState) ([]Event, error) {
	if c == nil || !c.Complete && c.EventCounter <= before.EventCounter {
		return nil, nil
	}
	eid := before.EID
	if _, err := t.exec(`UPDATE cards SET event_counter = ?, unsettled = unsettled AND NOT ?, updated_at = ? WHERE eid = ?`,
		c.EventCounter, c.Complete, millis(t.now), eid.String()); err != nil {
		return nil, err
	}
	states := map[string]any{}
	there := map[id.ICCID]bool{}
	var fresh []Profile
	for _, p := range c.Profiles {
		there[p.ICCID] = true
		states[p.ICCID.String()] = p.State
		known := before.Profile(p.ICCID)
		if known == nil {
			if c.Complete {
				p.DisableAllowed = true
				fresh = append(fresh, p)
			}
			continue
		}
		if !c.Complete {
			state := p.State
			p = *known
			p.State = state
		}
		if err := t.updateProfile(eid, *known, p); err != nil {
			return nil, err
		}
	}
	for _, p := range before.Profiles {
		if c.Complete && !there[p.ICCID] {
			gone := p
			gone.State = Absent
			states[p.ICCID.String()] = Absent
			if err := t.updateProfile(eid, p, gone); err != nil {
				return nil, err
			}
		}
	}
	detail := map[string]any{"event_counter": c.EventCounter, "profiles": states, "complete": c.Complete}
	if len(fresh) > 0 {
		forgotten, err := t.addProfiles(eid, fresh, len(before.Profiles)+len(fresh)-maxProfiles)
		if err != nil {
			return nil, err
		}
		if len(forgotten) > 0 {
			detail["forgotten"] = forgotten
		}
	}
	return []Event{{Kind: "card recorded", EID: &eid, Internal: true, Detail: detail}}, nil
}

// maxProfiles is how many profiles the record keeps of one card, absent ones too:
// twice what a card can say that it has. A plain eUICC that lies, or whoever
// answers for it, has others each time.
const maxProfiles = 256

// addProfiles adds profiles to a card's record, and drops so many absent ones for
// them, where there are, the oldest first. It drops them rather than turn a
// reading away, for what was just read has to be on record: a request may end by
// it. Those that a request names, or whose policy was set, are kept whatever a
// card says: no liar has the server forget that a profile must not be disabled.
// They are as many as operators made, not as a card did.
func (t *tx) addProfiles(eid id.EID, fresh []Profile, drop int) (dropped []string, err error) {
	var last int
	if err := t.row(`SELECT coalesce(max(position), 0) FROM profiles WHERE eid = ?`, eid.String()).Scan(&last); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if drop > 0 {
		dropped, err = collect(t, func(row scanner) (s string, err error) { return s, row.Scan(&s) },
			`SELECT iccid FROM profiles p WHERE eid = ? AND state = 'absent' AND disable_allowed
			 AND NOT EXISTS (SELECT 1 FROM deactivations d WHERE d.eid = p.eid AND d.iccid = p.iccid) ORDER BY position LIMIT ?`, eid.String(), drop)
		if err != nil {
			return nil, err
		}
		if len(dropped) > 0 {
			if _, err := t.exec(`DELETE FROM profiles WHERE eid = ? AND `+t.s.dialect.in("iccid"), eid.String(), t.s.dialect.list(dropped)); err != nil {
				return nil, err
			}
		}
	}
	for i, p := range fresh {
		if err := t.insertProfile(eid, last+1+i, p); err != nil {
			return nil, err
		}
	}
	return dropped, nil
}

// updateProfile writes what has changed of a profile but its policy, which is
// the server's.
func (t *tx) updateProfile(eid id.EID, was, is Profile) error {
	is = storable(is)
	is.DisableAllowed, is.EnabledAt = was.DisableAllowed, was.EnabledAt
	if is == was {
		return nil
	}
	var enabled any
	switch {
	case is.State == Enabled && was.State != Enabled:
		enabled = millis(t.now)
	case is.State == Enabled && !was.EnabledAt.IsZero():
		enabled = millis(was.EnabledAt)
	}
	_, err := t.exec(
		`UPDATE profiles SET state = ?, mccmnc = ?, class = ?, provider = ?, name = ?, ppr1 = ?, ppr2 = ?, fallback = ?, enabled_at = ?
		 WHERE eid = ? AND iccid = ?`,
		string(is.State), is.Owner.String(), is.Class, is.Provider, is.Name, is.PPR1, is.PPR2, is.Fallback, enabled,
		eid.String(), is.ICCID.String())
	return err
}

// RecordCard writes what a card said of itself where no request ends by it, with
// the steps that led to it, and gives the claim back.
func (s *Store) RecordCard(ctx context.Context, claim Claim, c CardState, steps ...Event) error {
	return s.write(ctx, "record card", func(tx *tx) error {
		before, _, err := tx.hold(claim, 0)
		if err != nil {
			return err
		}
		events, err := tx.apply(before, &c)
		if err != nil {
			return err
		}
		if err := tx.addEvents(append(of(claim.EID, steps), events...)...); err != nil {
			return err
		}
		return tx.giveBack(claim)
	})
}

// Unsettle says that a card may be in another state than the recorded one; why
// goes into the audit trail.
func (s *Store) Unsettle(ctx context.Context, eid id.EID, why Event) error {
	return s.write(ctx, "unsettle", func(tx *tx) error {
		if err := tx.unsettle(eid); err != nil {
			return err
		}
		why.EID = &eid
		return tx.addEvents(why)
	})
}

func (t *tx) unsettle(eid id.EID) error {
	_, err := t.exec(`UPDATE cards SET unsettled = TRUE WHERE eid = ?`, eid.String())
	return err
}
