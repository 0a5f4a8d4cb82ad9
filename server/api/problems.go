package api

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// problemPage is where docs/problems.md is read. A problem's type is its place
// there, and never changes.
const problemPage = "https://github.com/cardbridge/cardbridge/blob/main/docs/problems.md#"

// Types of problems that a status alone does not give.
const (
	refusedByRule    = "refused-by-rule"
	fourEyes         = "four-eyes"
	breakerTripped   = "breaker-tripped"
	wrongState       = "wrong-state"
	otherKeys        = "other-keys"
	limitReached     = "limit-reached"
	keyReused        = "idempotency-key-reused"
	alreadyThere     = "already-there"
	notTheOwner      = "not-the-owner"
	streamsExhausted = "too-many-streams"
)

// problemTitles are those of all types.
var problemTitles = map[string]string{
	"malformed-request":      "The request cannot be read",
	"unauthenticated":        "A valid token is needed",
	"forbidden":              "The user may not do this",
	"not-found":              "There is no such thing, or it is not yours",
	"method-not-allowed":     "Not with this method",
	"request-timeout":        "The request did not come in time",
	"conflict":               "Something stands in the way",
	"too-large":              "The request is too large",
	"unsupported-media-type": "The body is not JSON",
	"invalid-request":        "The request has values that it may not have",
	"too-many-requests":      "Too many requests",
	"internal":               "The server failed",
	"unavailable":            "The server cannot work now",
	refusedByRule:            "A management rule refuses the request",
	fourEyes:                 "Who asked cannot approve",
	breakerTripped:           "The mass-deactivation breaker has tripped",
	wrongState:               "Not in this state",
	otherKeys:                "The card is registered with other keys",
	limitReached:             "There are as many as there may be",
	keyReused:                "The Idempotency-Key came with another request",
	alreadyThere:             "It is there already",
	notTheOwner:              "The operator owns none of the card's profiles",
	streamsExhausted:         "Too many streams are open",
}

var problemOfStatus = map[int]string{
	http.StatusBadRequest:            "malformed-request",
	http.StatusUnauthorized:          "unauthenticated",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "not-found",
	http.StatusMethodNotAllowed:      "method-not-allowed",
	http.StatusRequestTimeout:        "request-timeout",
	http.StatusConflict:              "conflict",
	http.StatusRequestEntityTooLarge: "too-large",
	http.StatusUnsupportedMediaType:  "unsupported-media-type",
	http.StatusUnprocessableEntity:   "invalid-request",
	http.StatusTooManyRequests:       "too-many-requests",
	http.StatusInternalServerError:   "internal",
	http.StatusServiceUnavailable:    "unavailable",
}

// newProblem is a problem of the type that its status has by default.
func newProblem(status int, detail string) *Problem {
	p := &Problem{ErrorModel: huma.ErrorModel{Status: status, Detail: detail}}
	return p.as(problemOfStatus[status])
}

// problemAt says of one value of a request that it cannot be.
func problemAt(location, message string) *Problem {
	p := newProblem(http.StatusUnprocessableEntity, "validation failed")
	p.Add(&huma.ErrorDetail{Message: message, Location: location})
	return p
}

// as makes it a problem of a type.
func (p *Problem) as(kind string) *Problem {
	p.Type, p.Title = problemPage+kind, problemTitles[kind]
	if p.Title == "" {
		p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	}
	return p
}

func (p *Problem) coded(subject, reason string) *Problem {
	p.SubjectCode, p.ReasonCode = subject, reason
	return p
}
