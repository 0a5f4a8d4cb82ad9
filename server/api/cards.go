package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

// CardRecord is a card record file (docs/protocol.md §9), as cards are
// registered with.
type CardRecord struct {
	EID          string          `json:"eid" minLength:"32" maxLength:"32" pattern:"^[0-9]{32}$" doc:"EID, 32 digits"`
	Management   string          `json:"management,omitempty" enum:"applet,es10c" doc:"es10c: a plain eUICC, without the management applet; it has no keys, suites and policy, and of its profiles iccid and mccmnc are enough"`
	Keys         *PublicKeys     `json:"keys,omitempty" doc:"Of the management applet"`
	Suites       []int           `json:"suites,omitempty" enum:"1,3" minItems:"1" maxItems:"2" nullable:"false" doc:"1 and 3, as the applet has them"`
	Policy       *CardPolicy     `json:"policy,omitempty"`
	Profiles     []RecordProfile `json:"profiles" maxItems:"64" nullable:"false"`
	EventCounter uint32          `json:"event_counter,omitempty" format:"int64" maximum:"4294967295"`
}

// file is the record as a file. The error is a Problem.
func (r CardRecord) file() ([]byte, error) {
	if r.Management == string(store.Applet) {
		r.Management = "" // card record files need not say so
	}
	if r.Management == "" {
		for i, p := range r.Profiles {
			if p.State == "" || p.Class == "" {
				return nil, located(errors.New("state and class are needed"), fmt.Sprintf("body.profiles[%d]", i))
			}
		}
	}
	return json.Marshal(r)
}

// PublicKeys is a card's public key set, as PKIX PEM.
type PublicKeys struct {
	Auth []string `json:"auth" minItems:"1" maxItems:"3" nullable:"false" doc:"One key, or three in ascending order of their moduli, PEM"`
	Enc  string   `json:"enc" maxLength:"16384" doc:"The key of the outer layer, PEM"`
}

// CardPolicy is what a card demands.
type CardPolicy struct {
	RequireTriple bool `json:"require_triple,omitempty" doc:"The card is deactivated in suite 03 only"`
}

// RecordProfile is a profile in a card record file.
type RecordProfile struct {
	ICCID    string `json:"iccid" minLength:"18" maxLength:"20" pattern:"^[0-9A-Ea-e]+$" doc:"ICCID, 18 to 20 digits"`
	MCCMNC   string `json:"mccmnc" minLength:"5" maxLength:"6" pattern:"^[0-9]+$" doc:"The owner, MCC and MNC"`
	State    string `json:"state,omitempty" enum:"enabled,disabled" doc:"Left out of a plain eUICC's alone, which is read"`
	Class    string `json:"class,omitempty" enum:"test,provisioning,operational" doc:"As state"`
	Provider string `json:"provider,omitempty" maxLength:"128"`
	Name     string `json:"name,omitempty" maxLength:"128"`
	PPR1     bool   `json:"ppr1,omitempty" doc:"The card does not allow that it is disabled"`
	PPR2     bool   `json:"ppr2,omitempty" doc:"The card does not allow that it is deleted"`
	Fallback bool   `json:"fallback,omitempty" doc:"Enabled when another is disabled"`
}

// Card is a card's record, with those of its profiles that are the operator's.
type Card struct {
	EID          string          `json:"eid"`
	Management   string          `json:"management" enum:"applet,es10c" doc:"es10c: a plain eUICC; nothing that it says is authenticated or signed"`
	EventCounter uint32          `json:"event_counter" format:"int64" doc:"As last recorded; 0 for a plain eUICC, which counts none"`
	Unsettled    bool            `json:"unsettled,omitempty" doc:"The state is about to be read from the card"`
	Record       json.RawMessage `json:"record,omitempty" doc:"Public keys, suites and policy that the card was registered with, as a card record without profiles"`
	Profiles     []Profile       `json:"profiles" nullable:"false"`
	Groups       []string        `json:"groups,omitempty" doc:"In which the guard counts the card for the operator"`
	RegisteredAt time.Time       `json:"registered_at"`
	UpdatedAt    time.Time       `json:"updated_at"`
}

// Profile is the record of a profile.
type Profile struct {
	ICCID          string `json:"iccid"`
	MCCMNC         string `json:"mccmnc"`
	State          string `json:"state" enum:"enabled,disabled,absent" doc:"As last recorded; absent: no longer on the card"`
	Class          string `json:"class"`
	Provider       string `json:"provider"`
	Name           string `json:"name"`
	PPR1           bool   `json:"ppr1"`
	PPR2           bool   `json:"ppr2"`
	Fallback       bool   `json:"fallback"`
	DisableAllowed bool   `json:"disable_allowed" doc:"POL2"`
}

// ProfilePolicy is POL2 of a profile: the server's rules about it.
type ProfilePolicy struct {
	DisableAllowed bool `json:"disable_allowed" doc:"false forbids that the profile is disabled"`
}

func cardOf(c *store.Card) Card {
	out := Card{
		EID: c.EID.String(), Management: string(c.Management), EventCounter: c.EventCounter, Unsettled: c.Unsettled, Record: c.PublicKeys,
		Profiles: []Profile{}, Groups: c.Groups, RegisteredAt: c.RegisteredAt, UpdatedAt: c.UpdatedAt,
	}
	for _, p := range c.Profiles {
		out.Profiles = append(out.Profiles, Profile{
			ICCID: p.ICCID.String(), MCCMNC: p.Owner.String(), State: string(p.State), Class: p.Class, Provider: p.Provider, Name: p.Name,
			PPR1: p.PPR1, PPR2: p.PPR2, Fallback: p.Fallback, DisableAllowed: p.DisableAllowed,
		})
	}
	return out
}

type cardReply struct{ Body Card }

type registeredReply struct {
	Status   int
	Location string `header:"Location"`
	Body     Card
}

// EIDPath is the card that a path names.
type EIDPath struct {
	EID string `path:"eid" minLength:"32" maxLength:"32" pattern:"^[0-9]{32}$" doc:"EID, 32 digits"`
}

// parse checks the digits; the error is a Problem that says where.
func (p *EIDPath) parse() (id.EID, error) {
	eid, err := id.ParseEID(p.EID)
	return eid, located(err, "path.eid")
}

// located is nil, or a Problem that says where what is wrong.
func located(err error, where string) error {
	if err == nil {
		return nil
	}
	return problemAt(where, err.Error())
}

func (a *API) registerCards() {
	huma.Register(a.huma, secured(administers, huma.Operation{
		OperationID: "register-card", Method: http.MethodPost, Path: "/v1/cards", DefaultStatus: http.StatusCreated,
		Summary: "Register a card",
		Description: "The operator must own one of the card's profiles. Each operator that acts on a card registers it, and so vouches for its keys: " +
			"with other keys, suites or policy than those on file it is refused (409). A plain eUICC is registered with management es10c; " +
			"nothing is done to it unless the management rules allow it by name. 201: registered; 200: this operator had registered it already.",
		Errors: []int{http.StatusBadRequest, http.StatusForbidden, http.StatusConflict},
		Responses: map[string]*huma.Response{"200": {
			Description: "Registered by this operator already",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Card](), true, "")}},
		}},
	}), func(ctx context.Context, in *struct{ Body CardRecord }) (*registeredReply, error) {
		record, err := in.Body.file()
		if err != nil {
			return nil, err
		}
		c, fresh, err := a.server.RegisterCard(ctx, operator(ctx), record)
		switch {
		case errors.Is(err, server.ErrForbidden):
			return nil, a.problem(ctx, err).as(notTheOwner)
		case err != nil:
			return nil, a.problem(ctx, err)
		}
		status := http.StatusCreated
		if !fresh {
			status = http.StatusOK
		}
		return &registeredReply{status, "/v1/cards/" + c.EID.String(), cardOf(c)}, nil
	})

	huma.Register(a.huma, secured(reads, huma.Operation{
		OperationID: "list-cards", Method: http.MethodGet, Path: "/v1/cards",
		Summary: "List the cards that the operator registered and owns a profile in", Errors: []int{http.StatusBadRequest},
		Description: "By EID. What stands in the way of a filter ends a page early, not the list: go on while there is a next.",
	}), func(ctx context.Context, in *struct {
		Page
		ICCID     string         `query:"iccid" minLength:"18" maxLength:"20" pattern:"^[0-9A-Ea-e]+$" doc:"The card with this profile of the operator's"`
		State     string         `query:"profile_state" enum:"enabled,disabled,absent" doc:"Cards with a profile of the operator's in this state; with iccid: where that one is"`
		Group     string         `query:"group" maxLength:"32" pattern:"^[a-z0-9][a-z0-9-]*$" doc:"Cards of this group"`
		Unsettled optional[bool] `query:"unsettled" doc:"Cards whose state is about to be read, or not"`
	}) (*struct{ Body CardList }, error) {
		f := store.CardFilter{State: store.ProfileState(in.State), Group: in.Group}
		if in.Unsettled.IsSet {
			f.Unsettled = &in.Unsettled.Value
		}
		after, err := in.place(cardCursor)
		if err != nil {
			return nil, err
		}
		if after != "" {
			if _, err := id.ParseEID(after); err != nil {
				return nil, errCursor
			}
		}
		if in.ICCID != "" {
			iccid, err := id.ParseICCID(in.ICCID)
			if err != nil {
				return nil, located(err, "query.iccid")
			}
			f.ICCID = &iccid
		}
		list, next, err := a.server.Cards(ctx, operator(ctx), f, after, in.Limit)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		out := CardList{Cards: []Card{}, Next: cursorOf(cardCursor, next)}
		for _, c := range list {
			out.Cards = append(out.Cards, cardOf(c))
		}
		return &struct{ Body CardList }{out}, nil
	})

	huma.Register(a.huma, secured(reads, huma.Operation{
		OperationID: "get-card", Method: http.MethodGet, Path: "/v1/cards/{eid}", Summary: "A card's record",
		Errors: []int{http.StatusNotFound},
	}), func(ctx context.Context, in *EIDPath) (*cardReply, error) { return a.card(ctx, in.EID) })

	huma.Register(a.huma, secured(asks, huma.Operation{
		OperationID: "refresh-card", Method: http.MethodPost, Path: "/v1/cards/{eid}/refresh",
		Summary: "Read the card's state anew", Errors: []int{http.StatusNotFound},
		Description: "For a card that something else changed. Where it is in no reader, or does not answer in time, the reply says unsettled, and it is read once it is there.",
	}), func(ctx context.Context, in *EIDPath) (*cardReply, error) {
		eid, err := in.parse()
		if err != nil {
			return nil, err
		}
		c, err := a.server.Refresh(ctx, operator(ctx), eid)
		if err != nil {
			return nil, a.cardProblem(ctx, err)
		}
		return &cardReply{cardOf(c)}, nil
	})

	huma.Register(a.huma, secured(administers, huma.Operation{
		OperationID: "set-policy", Method: http.MethodPatch, Path: "/v1/cards/{eid}/profiles/{iccid}",
		Summary: "Set POL2 of a profile that the operator owns", Errors: []int{http.StatusBadRequest, http.StatusNotFound},
	}), func(ctx context.Context, in *struct {
		EIDPath
		ICCID string `path:"iccid" minLength:"18" maxLength:"20" pattern:"^[0-9A-Ea-e]+$" doc:"ICCID, 18 to 20 digits"`
		Body  ProfilePolicy
	}) (*cardReply, error) {
		eid, err := in.parse()
		if err != nil {
			return nil, err
		}
		iccid, err := id.ParseICCID(in.ICCID)
		if err != nil {
			return nil, located(err, "path.iccid")
		}
		c, err := a.server.SetDisableAllowed(ctx, operator(ctx), eid, iccid, in.Body.DisableAllowed)
		if err != nil {
			p := a.problem(ctx, err)
			if p.Status == http.StatusNotFound {
				p.Detail = "no such card and profile of yours"
				p.coded("8.2.1", "3.9")
			}
			return nil, p
		}
		return &cardReply{cardOf(c)}, nil
	})
}

// CardList is a page of cards.
type CardList struct {
	Cards []Card `json:"cards" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"There is more: ask again with this as cursor"`
}

func (a *API) card(ctx context.Context, digits string) (*cardReply, error) {
	path := EIDPath{EID: digits}
	eid, err := path.parse()
	if err != nil {
		return nil, err
	}
	c, err := a.server.Card(ctx, operator(ctx), eid)
	if err != nil {
		return nil, a.cardProblem(ctx, err)
	}
	return &cardReply{cardOf(c)}, nil
}
