package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

// Problem is an error report (RFC 9457). Where a management rule, or the
// record, is the reason, it has the GSMA subject and reason codes that operators
// know from SGP.02.
type Problem struct {
	huma.ErrorModel
	SubjectCode string `json:"subject_code,omitempty" example:"8.2.3" doc:"GSMA subject code"`
	ReasonCode  string `json:"reason_code,omitempty" example:"3.8" doc:"GSMA reason code"`
	Rule        string `json:"rule,omitempty" example:"pol2-disable-allowed" doc:"The management rule that refuses"`
	RequestID   string `json:"request_id,omitempty" doc:"The request under which the refusal is recorded"`
	State       string `json:"state,omitempty" example:"done" doc:"Of the request, where it stands in the way"`
}

// problem maps an error to a reply. What is not mapped is "internal": its
// details are in the log alone.
func (a *API) problem(ctx context.Context, err error) *Problem {
	var conflict *store.Conflict
	switch {
	case errors.As(err, &conflict):
		return conflicting(conflict)
	case errors.Is(err, store.ErrTooMany):
		return newProblem(http.StatusConflict, strings.TrimPrefix(err.Error(), store.ErrTooMany.Error()+": ")).as(limitReached)
	case errors.Is(err, server.ErrUnauthenticated):
		return newProblem(http.StatusUnauthorized, err.Error())
	case errors.Is(err, server.ErrForbidden):
		return newProblem(http.StatusForbidden, err.Error())
	case errors.Is(err, server.ErrOtherKeys):
		return newProblem(http.StatusConflict, server.ErrOtherKeys.Error()).as(otherKeys)
	case errors.Is(err, server.ErrInvalid):
		return newProblem(http.StatusUnprocessableEntity, err.Error())
	case errors.Is(err, store.ErrKeyReused):
		return newProblem(http.StatusUnprocessableEntity, "this Idempotency-Key came before with another request; use a new key for a new request").as(keyReused)
	case errors.Is(err, store.ErrNotFound):
		return newProblem(http.StatusNotFound, "there is no such thing, or it is not yours")
	case errors.Is(err, store.ErrState):
		return newProblem(http.StatusConflict, strings.TrimPrefix(err.Error(), store.ErrState.Error()+": ")).as(wrongState)
	case errors.Is(err, store.ErrExists):
		return newProblem(http.StatusConflict, "it is there already").as(alreadyThere)
	case ctx.Err() != nil:
		return newProblem(http.StatusServiceUnavailable, "the request was given up")
	}
	a.log.ErrorContext(ctx, "internal error", "error", err)
	return newProblem(http.StatusInternalServerError, "internal error; the server's log has the details")
}

// conflicting is the error report on a user's step on a request.
func conflicting(c *store.Conflict) *Problem {
	p := newProblem(http.StatusConflict, c.Text).as(wrongState)
	p.State = string(c.State)
	switch c.Kind {
	case store.ErrFourEyes:
		p.as(fourEyes).Status, p.Rule = http.StatusForbidden, server.FourEyes
	case store.ErrTripped:
		p.as(breakerTripped).coded("8.2.3", "3.8").Rule = server.MassDeactivation
	}
	return p
}

// cardProblem is problem for what is about one card.
func (a *API) cardProblem(ctx context.Context, err error) *Problem {
	p := a.problem(ctx, err)
	if p.Status == http.StatusNotFound {
		p.Detail = "no such card is registered"
		return p.coded("8.1.1", "1.1")
	}
	return p
}

// refused is the error report on a request that a management rule refuses.
// What is not there, as far as this operator may know, is not found; all else
// is in the way of the request as things stand.
func refused(r store.Request) *Problem {
	status := http.StatusConflict
	switch r.Refusal.SubjectCode + "/" + r.Refusal.ReasonCode {
	case "8.1.1/1.1", "8.2.1/3.9":
		status = http.StatusNotFound
	}
	p := newProblem(status, r.Refusal.Text).as(refusedByRule).coded(r.Refusal.SubjectCode, r.Refusal.ReasonCode)
	p.Rule, p.RequestID = r.Refusal.Rule, r.ID.String()
	return p
}

// adaptHuma makes huma's own errors Problems, which do not repeat what was sent,
// and its reading of member names exact.
var adaptHuma = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		if status == http.StatusInternalServerError && msg == "cannot read request body" {
			status = http.StatusBadRequest // the client stopped in the middle
		}
		p := newProblem(status, msg)
		for _, err := range errs {
			var d huma.ErrorDetailer
			switch {
			case err == nil:
			case errors.As(err, &d):
				detail := d.ErrorDetail()
				p.Errors = append(p.Errors, &huma.ErrorDetail{Message: detail.Message, Location: detail.Location})
			default:
				p.Errors = append(p.Errors, &huma.ErrorDetail{Message: err.Error()})
			}
		}
		return p
	}
})

const problemType = "application/problem+json"

func writeProblem(ctx huma.Context, p *Problem) {
	ctx.SetHeader("Content-Type", problemType)
	ctx.SetStatus(p.Status)
	// A client that is gone does not read it.
	_ = json.NewEncoder(ctx.BodyWriter()).Encode(p)
}

// unknownRoute answers what no operation is for, with the mux's own idea of why.
func (a *API) unknownRoute(w http.ResponseWriter, r *http.Request) {
	said := &statusOnly{header: http.Header{}}
	a.mux.ServeHTTP(said, r)
	detail := "there is nothing here; /openapi.json says what there is"
	if allow := said.header.Get("Allow"); said.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allow)
		detail = "not with this method, only with " + allow
	}
	if said.status < 400 {
		said.status = http.StatusNotFound
	}
	replyProblem(w, newProblem(said.status, detail))
}

func replyProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a client that is gone does not read it
}

// statusOnly is a ResponseWriter that keeps the status and the header.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
