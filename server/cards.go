package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/store"
)

// ErrForbidden says that an operator is known and may not do this.
var ErrForbidden = errors.New("not allowed")

// RegisterCard registers the card of a card record file (docs/protocol.md §9)
// in the name of an operator, which must own one of its profiles. The error
// matches ErrInvalid, ErrForbidden or store.ErrExists.
func (s *Server) RegisterCard(ctx context.Context, op store.Operator, record []byte) (*store.Card, error) {
	r, err := card.ParseRecord(record)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c := store.Card{EID: r.EID, EventCounter: r.EventCounter}
	owns := false
	for _, p := range r.Profiles {
		owns = owns || p.Owner == op.MCCMNC
		out := profileOf(p)
		out.DisableAllowed = true
		c.Profiles = append(c.Profiles, out)
	}
	if !owns {
		return nil, fmt.Errorf("%w: none of the card's profiles is of operator %s", ErrForbidden, op.MCCMNC)
	}
	keys := *r
	keys.Profiles, keys.EventCounter = []card.Profile{}, 0 // these live in the store's own columns
	if c.PublicKeys, err = json.Marshal(&keys); err != nil {
		return nil, fmt.Errorf("card %s: %w", r.EID, err)
	}
	if err := s.Store.RegisterCard(ctx, op.ID, c); err != nil {
		return nil, err
	}
	s.Log.Info("card registered", "eid", r.EID, "operator", op.Name)
	return s.Store.Card(ctx, r.EID)
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

// target is who has to prove to be the card.
func target(c *store.Card) (card.Target, error) {
	r, err := card.ParseRecord(c.PublicKeys)
	if err != nil {
		return card.Target{}, fmt.Errorf("keys of card %s: %w", c.EID, err)
	}
	return r.Target(), nil
}

// Card is a card's record as an operator may see it: its own profiles alone.
// The error matches store.ErrNotFound also where it owns none of them.
func (s *Server) Card(ctx context.Context, op store.Operator, eid id.EID) (*store.Card, error) {
	c, err := s.Store.Card(ctx, eid)
	if err != nil {
		return nil, err
	}
	var own []store.Profile
	for _, p := range c.Profiles {
		if p.Owner == op.MCCMNC {
			own = append(own, p)
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("%w: card %s", store.ErrNotFound, eid)
	}
	c.Profiles = own
	return c, nil
}

// Cards lists the cards in which an operator owns a profile, by EID, after the
// EID after, at most limit.
func (s *Server) Cards(ctx context.Context, op store.Operator, after string, limit int) ([]*store.Card, error) {
	eids, err := s.Store.CardsOf(ctx, op.MCCMNC, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]*store.Card, 0, len(eids))
	for _, eid := range eids {
		c, err := s.Card(ctx, op, eid)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// SetDisableAllowed sets POL2 of a profile that the operator owns. The error
// matches store.ErrNotFound where it owns no such one.
func (s *Server) SetDisableAllowed(ctx context.Context, op store.Operator, eid id.EID, iccid id.ICCID, allowed bool) (*store.Card, error) {
	if err := s.Store.SetDisableAllowed(ctx, op, eid, iccid, allowed); err != nil {
		return nil, err
	}
	s.Log.Info("policy set", "eid", eid, "iccid", iccid, "disable_allowed", allowed, "operator", op.Name)
	return s.Card(ctx, op, eid)
}

// Readers is what is in the readers, with the EIDs of those cards alone in which
// the operator owns a profile.
func (s *Server) Readers(ctx context.Context, op store.Operator) ([]inventory.Entry, error) {
	list := s.Inventory.List()
	for i, e := range list {
		if e.EID == nil {
			continue
		}
		switch _, err := s.Card(ctx, op, *e.EID); {
		case errors.Is(err, store.ErrNotFound):
			list[i].EID = nil
		case err != nil:
			return nil, err
		}
	}
	return list, nil
}
