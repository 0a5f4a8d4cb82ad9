package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// Health says how the server is.
type Health struct {
	Status string `json:"status" enum:"ok"`
}

// Reader is a card reader and what is in it.
type Reader struct {
	Name string `json:"name"`
	Card bool   `json:"card" doc:"A card is in it"`
	EID  string `json:"eid,omitempty" doc:"As the card claims it, where the operator registered that card and owns a profile of it"`
	// Plain is the card's own word too.
	Plain bool `json:"plain,omitempty" doc:"With eid: the card shows an ISD-R and no management applet"`
}

// ReaderList is a page of the server's readers.
type ReaderList struct {
	Readers []Reader `json:"readers" nullable:"false"`
	Next    string   `json:"next,omitempty" doc:"There is more: ask again with this as cursor"`
}

func (a *API) registerOperations() {
	huma.Register(a.huma, huma.Operation{
		OperationID: "health", Method: http.MethodGet, Path: "/healthz", Summary: "Whether the server can work",
		Errors: []int{http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable},
	}, func(ctx context.Context, _ *struct{}) (*struct{ Body Health }, error) {
		if err := a.server.Ready(ctx); err != nil {
			a.log.ErrorContext(ctx, "not ready", "error", err)
			return nil, newProblem(http.StatusServiceUnavailable, "the record cannot be written")
		}
		return &struct{ Body Health }{Health{Status: "ok"}}, nil
	})

	huma.Register(a.huma, secured(reads, huma.Operation{
		OperationID: "list-readers", Method: http.MethodGet, Path: "/v1/readers", Summary: "The readers and what is in them, by name",
		Errors: []int{http.StatusBadRequest},
	}), func(ctx context.Context, in *Page) (*struct{ Body ReaderList }, error) {
		after, err := in.place(readerCursor)
		if err != nil {
			return nil, err
		}
		list, more, err := a.server.Readers(ctx, operator(ctx), after, in.Limit)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		out := ReaderList{Readers: []Reader{}}
		for _, e := range list {
			r := Reader{Name: e.Reader, Card: e.Card}
			if e.EID != nil {
				r.EID, r.Plain = e.EID.String(), e.Plain
			}
			out.Readers = append(out.Readers, r)
		}
		if more {
			out.Next = cursorOf(readerCursor, list[len(list)-1].Reader)
		}
		return &struct{ Body ReaderList }{out}, nil
	})
}
