package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/store"
)

// Errors that those of this package match.
var (
	// ErrForbidden says that an operator is known and may not do this.
	ErrForbidden = errors.New("not allowed")
	// ErrOtherKeys says that an EID is registered with other keys, suites or
	// policy, or without any as a plain eUICC.
	ErrOtherKeys = errors.New("this EID is registered with other keys, or as a card of the other kind; ask the server's administrator")
)

// RegisterCard registers the card of a card record file (docs/protocol.md §9)
// in the name of an operator, which must own one of its profiles, and vouches
// for the card's keys; or a plain eUICC (card.PlainRecord), which has none. Each operator that acts on a card registers it; what the
// first one's record says of the card's state stands until the card is asked.
// fresh says that this operator had not registered it. The error matches
// ErrInvalid, ErrForbidden or ErrOtherKeys.
func (s *Server) RegisterCard(ctx context.Context, op store.Operator, record []byte) (c *store.Card, fresh bool, err error) {
	reg, err := registration(record)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !slices.ContainsFunc(reg.Profiles, func(p store.Profile) bool { return p.Owner == op.MCCMNC }) {
		return nil, false, fmt.Errorf("%w: none of the card's profiles is of operator %s", ErrForbidden, op.MCCMNC)
	}
	fresh = true
	err = s.Store.RegisterCard(ctx, op, reg)
	if errors.Is(err, store.ErrExists) {
		fresh, err = s.vouch(ctx, op, reg)
	}
	if err != nil {
		return nil, false, err
	}
	if fresh {
		s.Log.InfoContext(ctx, "card registered", "eid", reg.EID, "operator", op.Name, "management", reg.Management)
		s.kick(reg.EID, nil, false)
	}
	c, err = s.Card(ctx, op, reg.EID)
	return c, fresh, err
}

// registration is the card of a card record file, or of the record of a plain
// eUICC, as it is to be recorded.
func registration(record []byte) (c store.Card, err error) {
	var profiles []card.Profile
	if card.IsPlainRecord(record) {
		r, err := card.ParsePlainRecord(record)
		if err != nil {
			return c, err
		}
		c, profiles = store.Card{EID: r.EID, Management: store.ES10c}, r.Profiles
	} else {
		r, err := card.ParseRecord(record)
		if err != nil {
			return c, err
		}
		c, profiles = store.Card{EID: r.EID, Management: store.Applet, EventCounter: r.EventCounter}, r.Profiles
		if c.PublicKeys, err = keysOf(r); err != nil {
			return c, err
		}
	}
	for _, p := range profiles {
		out := profileOf(p)
		out.DisableAllowed = true
		c.Profiles = append(c.Profiles, out)
	}
	return c, nil
}

// vouch registers a card that is registered already in the name of another
// operator. What it is compared with never changes: a card that has keys does
// not become one without, nor the other way round.
func (s *Server) vouch(ctx context.Context, op store.Operator, reg store.Card) (fresh bool, err error) {
	c, err := s.Store.Card(ctx, reg.EID, op.ID)
	if err != nil {
		return false, err
	}
	if c.Management != reg.Management || !bytes.Equal(reg.PublicKeys, c.PublicKeys) {
		return false, ErrOtherKeys
	}
	fresh, err = s.Store.Vouch(ctx, op, reg.EID)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: none of the card's profiles, as they are recorded, is of operator %s", ErrForbidden, op.MCCMNC)
	}
	return fresh, err
}

// keysOf is the keys, suites and policy of a card, in one form.
func keysOf(r *card.Record) (json.RawMessage, error) {
	keys := *r
	keys.Profiles, keys.EventCounter = []card.Profile{}, 0 // these live in the store's own columns
	keys.Suites = slices.Sorted(slices.Values(r.Suites))
	b, err := json.Marshal(&keys)
	if err != nil {
		return nil, fmt.Errorf("card %s: %w", r.EID, err)
	}
	return b, nil
}

func profileOf(p card.Profile) store.Profile {
	return store.Profile{
		ICCID: p.ICCID, Owner: p.Owner, State: profileState(p.State), Class: p.Class.String(),
		Provider: p.Provider, Name: p.Name, PPR1: p.PPR1, PPR2: p.PPR2, Fallback: p.Fallback,
	}
}

func profileState(s card.State) store.ProfileState {
	if s == card.Enabled {
		return store.Enabled
	}
	return store.Disabled
}

// target is who has to prove to be the card; nobody, of a plain eUICC.
func target(c *store.Card) (card.Target, error) {
	if c.Management == store.ES10c {
		return card.Target{}, nil
	}
	r, err := card.ParseRecord(c.PublicKeys)
	if err != nil {
		return card.Target{}, fmt.Errorf("keys of card %s: %w", c.EID, err)
	}
	return r.Target(), nil
}

// Card is a card's record as an operator may see it: its own profiles alone.
// The error matches store.ErrNotFound also where it owns none of them or has not
// registered the card.
func (s *Server) Card(ctx context.Context, op store.Operator, eid id.EID) (*store.Card, error) {
	c, err := s.Store.Card(ctx, eid, op.ID)
	if err != nil {
		return nil, err
	}
	if !c.Registered {
		return nil, fmt.Errorf("%w: card %s", store.ErrNotFound, eid)
	}
	if c.Profiles = ownProfiles(c, op); len(c.Profiles) == 0 {
		return nil, fmt.Errorf("%w: card %s", store.ErrNotFound, eid)
	}
	return c, nil
}

// Cards lists the cards that an operator registered and owns a profile in, by
// EID, after the EID after, at most limit, each as Card gives it; next as
// store.ListCards does.
func (s *Server) Cards(ctx context.Context, op store.Operator, f store.CardFilter, after string, limit int) (list []*store.Card, next string, err error) {
	list, next, err = s.Store.ListCards(ctx, op, f, after, limit)
	for _, c := range list {
		c.Profiles = ownProfiles(c, op)
	}
	return list, next, err
}

// ownProfiles are those of a card's that an operator may see.
func ownProfiles(c *store.Card, op store.Operator) []store.Profile {
	return slices.DeleteFunc(c.Profiles, func(p store.Profile) bool { return p.Owner != op.MCCMNC })
}

// SetDisableAllowed sets POL2 of a profile that the operator owns. The error
// matches store.ErrNotFound where it owns no such one.
func (s *Server) SetDisableAllowed(ctx context.Context, op store.Operator, eid id.EID, iccid id.ICCID, allowed bool) (*store.Card, error) {
	if err := s.Store.SetDisableAllowed(ctx, op, eid, iccid, allowed); err != nil {
		return nil, err
	}
	s.Log.InfoContext(ctx, "policy set", "eid", eid, "iccid", iccid, "disable_allowed", allowed, "operator", op.Name)
	return s.Card(ctx, op, eid)
}

// Refresh reads the state of an operator's card anew, in an authenticated
// session: the way to tell the server of what was done to the card elsewhere. A
// card that is in no reader, or does not answer in time, stays unsettled and is
// read when it is there. The error matches store.ErrNotFound.
func (s *Server) Refresh(ctx context.Context, op store.Operator, eid id.EID) (*store.Card, error) {
	if _, err := s.Card(ctx, op, eid); err != nil {
		return nil, err
	}
	if err := s.Store.Unsettle(ctx, eid, store.Event{Kind: "card refresh", Operator: op.ID, Detail: map[string]any{"user": op.User.Name}}); err != nil {
		return nil, err
	}
	s.awaitSettled(ctx, eid)
	return s.Card(ctx, op, eid)
}

// Readers is what is in the readers whose names come after a name, at most
// limit, with the EIDs of those cards alone in which the operator registered and
// owns a profile. more says that there are more.
func (s *Server) Readers(ctx context.Context, op store.Operator, after string, limit int) (list []inventory.Entry, more bool, err error) {
	list = slices.DeleteFunc(s.Inventory.List(), func(e inventory.Entry) bool { return e.Reader <= after })
	if more = len(list) > limit; more {
		list = list[:limit]
	}
	for i, e := range list {
		if e.EID == nil {
			continue
		}
		switch _, err := s.Card(ctx, op, *e.EID); {
		case errors.Is(err, store.ErrNotFound):
			list[i].EID = nil
		case err != nil:
			return nil, false, err
		}
	}
	return list, more, nil
}
