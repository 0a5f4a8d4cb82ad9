package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/cardbridge/cardbridge/server"
)

// Guard is what the mass-deactivation guard counts of an operator.
type Guard struct {
	WindowSeconds int64   `json:"window_seconds" doc:"How long a budget lasts; a sixtieth more may still count"`
	Breaker       Breaker `json:"breaker"`
	Operator      Scope   `json:"operator" doc:"All of the operator's cards"`
	Groups        []Scope `json:"groups" nullable:"false" doc:"Its card groups"`
}

// Breaker is an operator's: tripped, it refuses everything until the server's
// administrator resets it.
type Breaker struct {
	Tripped bool       `json:"tripped"`
	Since   *time.Time `json:"since,omitempty"`
	Why     string     `json:"why,omitempty"`
}

// Scope is what is counted of an operator, or of one of its card groups, in the
// window that ends now.
type Scope struct {
	Group   string `json:"group,omitempty"`
	Fleet   int64  `json:"fleet" doc:"Cards"`
	Budget  *int64 `json:"budget,omitempty" doc:"What may be sent without an approval; left out: any number"`
	Ceiling *int64 `json:"ceiling,omitempty" doc:"What may be asked for before the breaker trips; left out: any number"`
	Asked   int64  `json:"asked"`
	Sent    int64  `json:"sent"`
	Pending int64  `json:"pending" doc:"Let in and not sent yet; counts towards the budget"`
}

func guardOf(g server.GuardState) Guard {
	out := Guard{WindowSeconds: int64(g.Window / time.Second), Groups: []Scope{}}
	for _, s := range g.Scopes {
		scope := Scope{
			Group: s.Group, Fleet: s.Fleet, Budget: s.Budget, Ceiling: s.Ceiling, Asked: s.Asked, Sent: s.Sent, Pending: s.Pending,
		}
		if s.Group != "" {
			out.Groups = append(out.Groups, scope)
			continue
		}
		out.Operator, out.Breaker = scope, Breaker{Tripped: s.TrippedAt != nil, Since: s.TrippedAt, Why: s.TrippedWhy}
	}
	return out
}

// CardGroups are the groups in which the guard counts a card.
type CardGroups struct {
	Groups []string `json:"groups" maxItems:"8" nullable:"false" doc:"Names of 1 to 32 of a to z, 0 to 9 and -, not - first"`
}

func (a *API) registerGuard() {
	huma.Register(a.huma, secured(reads, huma.Operation{
		OperationID: "get-guard", Method: http.MethodGet, Path: "/v1/guard", Summary: "What the mass-deactivation guard counts",
		Errors: []int{http.StatusBadRequest},
	}), func(ctx context.Context, _ *struct{}) (*struct{ Body Guard }, error) {
		g, err := a.server.Guard(ctx, operator(ctx))
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return &struct{ Body Guard }{guardOf(g)}, nil
	})

	huma.Register(a.huma, secured(administers, huma.Operation{
		OperationID: "set-groups", Method: http.MethodPut, Path: "/v1/cards/{eid}/groups",
		Summary: "Set the groups in which the guard counts a card", Errors: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict},
		Description: "Budgets of groups, and rules about them, are in the server's file of rules. Each operator has groups of its own.",
	}), func(ctx context.Context, in *struct {
		EIDPath
		Body CardGroups
	}) (*cardReply, error) {
		eid, err := in.parse()
		if err != nil {
			return nil, err
		}
		c, err := a.server.SetCardGroups(ctx, operator(ctx), eid, in.Body.Groups)
		if errors.Is(err, server.ErrInvalid) {
			return nil, located(err, "body.groups")
		}
		if err != nil {
			return nil, a.cardProblem(ctx, err)
		}
		return &cardReply{cardOf(c)}, nil
	})
}
