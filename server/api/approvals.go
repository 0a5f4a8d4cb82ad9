package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

// Rejection is a second user's no.
type Rejection struct {
	Reason string `json:"reason" minLength:"1" maxLength:"200" doc:"What whoever asked gets to read"`
}

func (a *API) registerApprovals() {
	conflicts := []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict}
	judge := func(name, id, what, how string, role store.Roles) huma.Operation {
		return secured(role, huma.Operation{
			OperationID: id, Method: http.MethodPost, Path: "/v1/deactivations/{id}/" + name, Summary: what, Description: how,
			DefaultStatus: http.StatusOK, Errors: conflicts,
		})
	}
	huma.Register(a.huma, judge("approval", "approve-deactivation", "Approve a request that is held",
		"By a user other than the one who asked (403), before the deadline of the request (409), and not while the breaker has tripped (409). "+
			"The request is then carried out as if it had been asked for now, beyond any budget.", store.MayApprove),
		func(ctx context.Context, in *RequestPath) (*recordReply, error) {
			return a.step(ctx, in, a.server.Approve)
		})

	huma.Register(a.huma, judge("rejection", "reject-deactivation", "Reject a request that is held",
		"By a user other than the one who asked (403), before the deadline of the request (409). It ends the request, which is then refused by the rule four-eyes.",
		store.MayApprove),
		func(ctx context.Context, in *struct {
			RequestPath
			Body Rejection
		}) (*recordReply, error) {
			return a.step(ctx, &in.RequestPath, func(ctx context.Context, op store.Operator, r id.RequestID) (store.Request, error) {
				return a.server.Reject(ctx, op, r, in.Body.Reason)
			})
		})

	huma.Register(a.huma, judge("cancellation", "cancel-deactivation", "Cancel a request of which nothing was sent to the card",
		"One of which a command may be on its way is not cancelled any more (409).", store.MayRequest),
		func(ctx context.Context, in *RequestPath) (*recordReply, error) {
			return a.step(ctx, in, a.server.Cancel)
		})
}

// step has a user take a step on a request.
func (a *API) step(ctx context.Context, path *RequestPath, take func(context.Context, store.Operator, id.RequestID) (store.Request, error)) (*recordReply, error) {
	request, err := path.parse()
	if err != nil {
		return nil, err
	}
	r, err := take(ctx, operator(ctx), request)
	if err != nil {
		return nil, a.problem(ctx, err)
	}
	return a.record(ctx, r)
}
