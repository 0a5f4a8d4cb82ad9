package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

// DeactivationRequest asks that a profile is disabled.
type DeactivationRequest struct {
	EID            string `json:"eid" minLength:"32" maxLength:"32" pattern:"^[0-9]{32}$" doc:"EID, 32 digits"`
	ICCID          string `json:"iccid,omitempty" minLength:"18" maxLength:"20" pattern:"^[0-9A-Ea-e]+$" doc:"The profile; left out: the one that is recorded as enabled"`
	Reason         int    `json:"reason,omitempty" minimum:"0" maximum:"255" doc:"Goes to the card as it is; 0 is none"`
	TimeoutSeconds int    `json:"timeout_seconds,omitempty" minimum:"1" maximum:"604800" doc:"Ends what was not sent to the card by then, counted from when it is let in; 600 if left out"`
	// LeaveUnconnected says that the asker knows that no profile may stay enabled.
	LeaveUnconnected bool `json:"leave_unconnected,omitempty" doc:"The card may be left without a working profile"`
}

// Deactivation is a request's record.
type Deactivation struct {
	ID               string     `json:"id" doc:"Also the request id that the card signs"`
	EID              string     `json:"eid"`
	ICCID            string     `json:"iccid,omitempty"`
	MCCMNC           string     `json:"mccmnc"`
	Reason           int        `json:"reason"`
	LeaveUnconnected bool       `json:"leave_unconnected,omitempty" doc:"The card may be left without a working profile"`
	User             string     `json:"user" doc:"Who asked"`
	State            string     `json:"state" enum:"accepted,held,waiting,authenticating,sending,done,refused,failed,expired,cancelled,unknown"`
	Finished         bool       `json:"finished" doc:"Nothing more will happen"`
	Deadline         time.Time  `json:"deadline" doc:"Of the approval, while it is held; then of sending"`
	HeldWhy          string     `json:"held_why,omitempty" doc:"What it waits, or waited, for"`
	ApprovedBy       string     `json:"approved_by,omitempty" doc:"The second user"`
	ApprovedAt       *time.Time `json:"approved_at,omitempty"`
	CreatedAt        time.Time  `json:"created_at"`
	UpdatedAt        time.Time  `json:"updated_at"`
	SentAt           *time.Time `json:"sent_at,omitempty" doc:"From here on a command may be on its way: the deadline ends nothing any more"`
	How              string     `json:"how,omitempty" enum:"applet,es10c" doc:"How it was sent. applet: authenticated both ways, and answered with a signed receipt. es10c, to a plain eUICC: not authenticated, not signed; the outcome is what was read back after a reset"`
	FinishedAt       *time.Time `json:"finished_at,omitempty"`
	Detail           string     `json:"detail,omitempty"`
	Refusal          *Refusal   `json:"refusal,omitempty" doc:"Of a management rule, or of a second user (four-eyes): no card was touched"`
	Answer           *Answer    `json:"answer,omitempty" doc:"Of the card, verified by the server; there is none where how is es10c"`
}

// Refusal is a management rule's.
type Refusal struct {
	Rule        string `json:"rule"`
	SubjectCode string `json:"subject_code" doc:"GSMA"`
	ReasonCode  string `json:"reason_code" doc:"GSMA"`
	Text        string `json:"text"`
}

// Answer is a card's, with the bytes that let anybody verify it under the
// card's public keys (docs/protocol.md §8).
type Answer struct {
	Result       string `json:"result" example:"00"`
	StatusWord   string `json:"status_word" example:"9000"`
	Suite        int    `json:"suite"`
	EventCounter uint32 `json:"event_counter" format:"int64"`
	Command      string `json:"command" doc:"Command data, hexadecimal"`
	Response     string `json:"response" doc:"Response data before the receipt, hexadecimal"`
	Receipt      string `json:"receipt" doc:"Hexadecimal"`
}

// Show gives a request's record as operators are shown it, with the names of the
// users who asked for it and approved it.
func Show(r store.Request, asked, approved string) any { return deactivationOf(r, asked, approved) }

func deactivationOf(r store.Request, asked, approved string) Deactivation {
	d := Deactivation{
		ID: r.ID.String(), EID: r.EID.String(), MCCMNC: r.MCCMNC.String(), Reason: int(r.Reason), State: string(r.State),
		Finished: r.FinishedAt != nil, Deadline: r.Deadline, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		SentAt: r.SentAt, How: string(r.How), FinishedAt: r.FinishedAt, Detail: r.Detail,
		LeaveUnconnected: r.LeaveUnconnected, User: asked, HeldWhy: r.HeldWhy, ApprovedBy: approved, ApprovedAt: r.ApprovedAt,
	}
	if r.ICCID != nil {
		d.ICCID = r.ICCID.String()
	}
	if f := r.Refusal; f != nil {
		d.Refusal = &Refusal{Rule: f.Rule, SubjectCode: f.SubjectCode, ReasonCode: f.ReasonCode, Text: f.Text}
	}
	if a := r.Answer; a != nil {
		d.Answer = &Answer{
			Result: fmt.Sprintf("%02X", a.Result), StatusWord: fmt.Sprintf("%04X", a.SW), Suite: int(a.Suite), EventCounter: a.EventCounter,
			Command: hex.EncodeToString(a.Command), Response: hex.EncodeToString(a.Response), Receipt: hex.EncodeToString(a.Receipt),
		}
	}
	return d
}

// deactivation is a request's record, with its users by name.
func (a *API) deactivation(ctx context.Context, r store.Request) (Deactivation, error) {
	asked, approved, err := a.server.Users(ctx, r)
	return deactivationOf(r, asked, approved), err
}

type recordReply struct{ Body Deactivation }

// record is the reply with a request's record.
func (a *API) record(ctx context.Context, r store.Request) (*recordReply, error) {
	d, err := a.deactivation(ctx, r)
	if err != nil {
		return nil, a.problem(ctx, err)
	}
	return &recordReply{d}, nil
}

// DeactivationList is a page of requests, newest first.
type DeactivationList struct {
	Deactivations []Deactivation `json:"deactivations" nullable:"false"`
	Next          string         `json:"next,omitempty" doc:"There is more: ask again with this as cursor"`
}

// RequestPath is the request that a path names.
type RequestPath struct {
	ID string `path:"id" minLength:"32" maxLength:"36" pattern:"^[0-9a-fA-F-]+$" doc:"The request's id"`
}

func (p *RequestPath) parse() (id.RequestID, error) {
	r, err := id.ParseRequestID(p.ID)
	return r, located(err, "path.id")
}

type deactivationReply struct {
	Location string `header:"Location"`
	Replayed string `header:"Idempotency-Replayed" doc:"true: the request came before under this key"`
	Body     Deactivation
}

func (a *API) registerDeactivations() {
	huma.Register(a.huma, secured(asks, huma.Operation{
		OperationID: "deactivate", Method: http.MethodPost, Path: "/v1/deactivations", DefaultStatus: http.StatusAccepted,
		Summary: "Ask that a profile is deactivated",
		Description: "The management rules are held against the request at once, and again before the card is touched. " +
			"What they refuse is answered with an error report and recorded. What they let in is carried out when the card is there. " +
			"What is beyond a budget of the mass-deactivation guard, or of a critical group, is held until a second user approves it; " +
			"beyond the ceiling the breaker trips, and everything is refused (409) until the server's administrator resets it.",
		Errors: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict},
	}), a.deactivate)

	huma.Register(a.huma, secured(reads, huma.Operation{
		OperationID: "list-deactivations", Method: http.MethodGet, Path: "/v1/deactivations", Summary: "The operator's requests, newest first",
		Errors:      []int{http.StatusBadRequest},
		Description: "What stands in the way of a filter ends a page early, not the list: go on while there is a next.",
	}), a.listDeactivations)

	huma.Register(a.huma, secured(reads, huma.Operation{
		OperationID: "get-deactivation", Method: http.MethodGet, Path: "/v1/deactivations/{id}", Summary: "A request's record",
		Errors: []int{http.StatusNotFound},
	}), func(ctx context.Context, in *RequestPath) (*recordReply, error) {
		request, err := in.parse()
		if err != nil {
			return nil, err
		}
		r, err := a.server.Request(ctx, operator(ctx), request)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return a.record(ctx, r)
	})

	a.registerSteps()
}

func (a *API) deactivate(ctx context.Context, in *struct {
	IdempotencyKey
	Body DeactivationRequest
}) (*deactivationReply, error) {
	d := server.Deactivation{
		Reason: byte(in.Body.Reason), LeaveUnconnected: in.Body.LeaveUnconnected,
		Timeout: time.Duration(in.Body.TimeoutSeconds) * time.Second, Key: in.Key,
	}
	var err error
	if d.EID, err = id.ParseEID(in.Body.EID); err != nil {
		return nil, located(err, "body.eid")
	}
	if in.Body.ICCID != "" {
		iccid, err := id.ParseICCID(in.Body.ICCID)
		if err != nil {
			return nil, located(err, "body.iccid")
		}
		d.ICCID = &iccid
	}
	r, again, err := a.server.Deactivate(ctx, operator(ctx), d)
	if errors.Is(err, server.ErrEnding) {
		return nil, huma.ErrorWithHeaders(newProblem(http.StatusServiceUnavailable, err.Error()), http.Header{"Retry-After": {"5"}})
	}
	if err != nil {
		return nil, a.problem(ctx, err)
	}
	if r.Refusal != nil {
		return nil, refused(r)
	}
	body, err := a.deactivation(ctx, r)
	if err != nil {
		return nil, a.problem(ctx, err)
	}
	return &deactivationReply{"/v1/deactivations/" + r.ID.String(), replayed(again), body}, nil
}

func (a *API) listDeactivations(ctx context.Context, in *struct {
	Page
	State  []string      `query:"state" maxItems:"11" enum:"accepted,held,waiting,authenticating,sending,done,refused,failed,expired,cancelled,unknown" doc:"In one of these states; held: those that wait for an approval"`
	EID    string        `query:"eid" minLength:"32" maxLength:"32" pattern:"^[0-9]{32}$" doc:"Of this card"`
	ICCID  string        `query:"iccid" minLength:"18" maxLength:"20" pattern:"^[0-9A-Ea-e]+$" doc:"Of this profile"`
	User   string        `query:"user" maxLength:"64" doc:"Asked by this user"`
	Group  string        `query:"group" maxLength:"32" pattern:"^[a-z0-9][a-z0-9-]*$" doc:"Of cards that are in this group now"`
	Reason optional[int] `query:"reason" minimum:"0" maximum:"255" doc:"With this reason"`
	Since  time.Time     `query:"since" doc:"Asked for then or later"`
	Until  time.Time     `query:"until" doc:"Asked for before"`
}) (*struct{ Body DeactivationList }, error) {
	f := store.RequestFilter{User: in.User, Group: in.Group, Since: in.Since, Until: in.Until}
	for _, state := range in.State {
		f.States = append(f.States, store.State(state))
	}
	if in.Reason.IsSet {
		reason := byte(in.Reason.Value)
		f.Reason = &reason
	}
	if in.EID != "" {
		eid, err := id.ParseEID(in.EID)
		if err != nil {
			return nil, located(err, "query.eid")
		}
		f.EID = &eid
	}
	if in.ICCID != "" {
		iccid, err := id.ParseICCID(in.ICCID)
		if err != nil {
			return nil, located(err, "query.iccid")
		}
		f.ICCID = &iccid
	}
	text, err := in.place(requestCursor)
	if err != nil {
		return nil, err
	}
	var after store.Place
	if text != "" {
		_, _ = fmt.Sscanf(text, "%d.%d", &after.At, &after.Seq)
		if placeText(after) != text {
			return nil, errCursor
		}
	}
	list, next, err := a.server.Requests(ctx, operator(ctx), f, after, in.Limit)
	if err != nil {
		return nil, a.problem(ctx, err)
	}
	out := DeactivationList{Deactivations: []Deactivation{}}
	if next != nil {
		out.Next = cursorOf(requestCursor, placeText(*next))
	}
	for _, r := range list {
		d, err := a.deactivation(ctx, r)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		out.Deactivations = append(out.Deactivations, d)
	}
	return &struct{ Body DeactivationList }{out}, nil
}

func placeText(p store.Place) string { return fmt.Sprintf("%d.%d", p.At, p.Seq) }
