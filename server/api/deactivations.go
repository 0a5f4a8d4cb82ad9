package api

import (
	"context"
	"encoding/hex"
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
	Next          int64          `json:"next,omitempty" doc:"There may be more: ask again with this as before"`
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
		Errors: []int{http.StatusBadRequest},
	}), func(ctx context.Context, in *struct {
		State  string `query:"state" enum:"held" doc:"Only those that wait for an approval"`
		Before int64  `query:"before" minimum:"1" doc:"Requests before this one"`
		Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"50"`
	}) (*struct{ Body DeactivationList }, error) {
		read := a.server.Requests
		if in.State != "" {
			read = a.server.Held
		}
		list, err := read(ctx, operator(ctx), in.Before, in.Limit)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		out := DeactivationList{Deactivations: []Deactivation{}}
		for _, r := range list {
			d, err := a.deactivation(ctx, r)
			if err != nil {
				return nil, a.problem(ctx, err)
			}
			out.Deactivations = append(out.Deactivations, d)
		}
		if len(list) == in.Limit {
			out.Next = list[len(list)-1].Seq
		}
		return &struct{ Body DeactivationList }{out}, nil
	})

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
	Key  string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]*$" doc:"The same key with the same body gives the same request"`
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
	r, replayed, err := a.server.Deactivate(ctx, operator(ctx), d)
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
	out := &deactivationReply{Location: "/v1/deactivations/" + r.ID.String(), Body: body}
	if replayed {
		out.Replayed = "true"
	}
	return out, nil
}
