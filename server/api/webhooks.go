package api

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/cardbridge/cardbridge/server/store"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// WebhookRequest asks that an endpoint is told what becomes of requests.
type WebhookRequest struct {
	URL   string   `json:"url" minLength:"1" maxLength:"2048" example:"https://oss.example.com/cardbridge" doc:"HTTPS, of a public address"`
	Types []string `json:"types,omitempty" nullable:"false" maxItems:"8" enum:"deactivation.held,deactivation.unknown,deactivation.finished" doc:"Which messages; left out: all"`
}

// Rotation asks for a new secret.
type Rotation struct {
	OverlapSeconds *int `json:"overlap_seconds,omitempty" minimum:"0" maximum:"604800" doc:"How long messages are signed under the secret until now too; a day if left out"`
}

const defaultOverlap = 24 * 60 * 60 // seconds

// Webhook is an endpoint that is told what becomes of the operator's requests
// (docs/webhooks.md).
type Webhook struct {
	ID           string     `json:"id"`
	URL          string     `json:"url"`
	Types        []string   `json:"types" nullable:"false" doc:"Which messages; empty: all"`
	Secret       string     `json:"secret,omitempty" doc:"In the answers that make it, and never again"`
	CreatedAt    time.Time  `json:"created_at"`
	OverlapUntil *time.Time `json:"overlap_until,omitempty" doc:"So long messages are signed under the secret before the last rotation too"`
	FailingSince *time.Time `json:"failing_since,omitempty" doc:"Nothing got through since"`
	DisabledAt   *time.Time `json:"disabled_at,omitempty" doc:"It is told nothing any more"`
	DisabledWhy  string     `json:"disabled_why,omitempty"`
}

// WebhookList is all of an operator's.
type WebhookList struct {
	Webhooks []Webhook `json:"webhooks" nullable:"false"`
}

// Delivery is a message to an endpoint.
type Delivery struct {
	ID        string            `json:"id" doc:"The webhook-id header"`
	Type      string            `json:"type" enum:"deactivation.held,deactivation.unknown,deactivation.finished,webhook.test"`
	RequestID string            `json:"request_id,omitempty"`
	State     string            `json:"state" enum:"pending,delivered,failed"`
	CreatedAt time.Time         `json:"created_at"`
	DueAt     *time.Time        `json:"due_at,omitempty" doc:"When it is sent, or sent again"`
	EndedAt   *time.Time        `json:"ended_at,omitempty"`
	Attempts  []DeliveryAttempt `json:"attempts" nullable:"false" doc:"The last ones, oldest first"`
}

// DeliveryAttempt is one sending of a message.
type DeliveryAttempt struct {
	At         time.Time `json:"at"`
	TookMillis int64     `json:"took_ms"`
	Status     int       `json:"status,omitempty" doc:"Of the endpoint's answer"`
	Error      string    `json:"error,omitempty"`
}

// DeliveryList is a page of messages, newest first.
type DeliveryList struct {
	Deliveries []Delivery `json:"deliveries" nullable:"false"`
	Next       string     `json:"next,omitempty" doc:"There is more: ask again with this as cursor"`
}

func webhookOf(w store.Webhook) Webhook {
	out := Webhook{
		ID: w.ID, URL: w.URL, Types: w.Types, CreatedAt: w.CreatedAt, FailingSince: w.FailingSince, DisabledAt: w.DisabledAt, DisabledWhy: w.DisabledWhy,
	}
	if out.Types == nil {
		out.Types = []string{}
	}
	if w.Until != nil && w.Until.After(time.Now()) {
		out.OverlapUntil = w.Until
	}
	return out
}

// revealed is an endpoint with its secret.
func revealed(w store.Webhook) Webhook {
	out := webhookOf(w)
	out.Secret = w.Secret.Reveal()
	return out
}

func deliveryOf(d store.Delivery) Delivery {
	out := Delivery{
		ID: d.ID, Type: d.Type, State: string(d.State), CreatedAt: d.CreatedAt, DueAt: d.DueAt, EndedAt: d.EndedAt, Attempts: []DeliveryAttempt{},
	}
	if d.RequestID != nil {
		out.RequestID = d.RequestID.String()
	}
	for _, a := range d.Attempts {
		out.Attempts = append(out.Attempts, DeliveryAttempt{At: a.At, TookMillis: a.Took.Milliseconds(), Status: a.Status, Error: a.Error})
	}
	return out
}

// WebhookPath is the endpoint that a path names.
type WebhookPath struct {
	Webhook string `path:"webhook" minLength:"36" maxLength:"36" pattern:"^[0-9a-f-]+$" doc:"The webhook's id"`
}

type (
	webhookReply struct{ Body Webhook }
	addedReply   struct {
		Location string `header:"Location"`
		Replayed string `header:"Idempotency-Replayed" doc:"true: the request came before under this key"`
		Body     Webhook
	}
	deliveryReply struct {
		Replayed string `header:"Idempotency-Replayed" doc:"true: the request came before under this key"`
		Body     Delivery
	}
)

// IdempotencyKey makes a request that comes again the same request.
type IdempotencyKey struct {
	Key string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]*$" doc:"The same key with the same request gives the same answer"`
}

// replayed is the header that says so.
func replayed(yes bool) string {
	if yes {
		return "true"
	}
	return ""
}

func (a *API) registerWebhooks() {
	op := func(method, path, id, summary, description string, status int, errors ...int) huma.Operation {
		return secured(administers, huma.Operation{
			OperationID: id, Method: method, Path: "/v1/webhooks" + path, Summary: summary, Description: description, DefaultStatus: status,
			Errors: append(errors, http.StatusBadRequest, http.StatusForbidden),
		})
	}
	// described is a reply or the problem in its place.
	described := func(ctx context.Context, w store.Webhook, err error, show func(store.Webhook) Webhook) (*webhookReply, error) {
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return &webhookReply{show(w)}, nil
	}
	delivery := func(ctx context.Context, d store.Delivery, again bool, err error) (*deliveryReply, error) {
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return &deliveryReply{replayed(again), deliveryOf(d)}, nil
	}

	huma.Register(a.huma, op(http.MethodPost, "", "add-webhook", "Have an endpoint told what becomes of requests",
		"Messages are signed as Standard Webhooks says. It takes the role administer. The secret is in this answer and not shown again but to who asks again under the same Idempotency-Key. An operator has 16 at most.",
		http.StatusCreated, http.StatusConflict),
		func(ctx context.Context, in *struct {
			IdempotencyKey
			Body WebhookRequest
		}) (*addedReply, error) {
			w, again, err := a.server.AddWebhook(ctx, operator(ctx), in.Body.URL, in.Body.Types, in.Key)
			if err != nil {
				return nil, a.problem(ctx, err)
			}
			return &addedReply{"/v1/webhooks/" + w.ID, replayed(again), revealed(w)}, nil
		})

	huma.Register(a.huma, op(http.MethodGet, "/{webhook}", "get-webhook", "A webhook", "", http.StatusOK, http.StatusNotFound),
		func(ctx context.Context, in *WebhookPath) (*webhookReply, error) {
			w, err := a.server.Webhook(ctx, operator(ctx), in.Webhook)
			return described(ctx, w, err, webhookOf)
		})

	huma.Register(a.huma, op(http.MethodGet, "", "list-webhooks", "The operator's webhooks", "", http.StatusOK),
		func(ctx context.Context, _ *struct{}) (*struct{ Body WebhookList }, error) {
			list, err := a.server.ListWebhooks(ctx, operator(ctx))
			if err != nil {
				return nil, a.problem(ctx, err)
			}
			out := WebhookList{Webhooks: []Webhook{}}
			for _, w := range list {
				out.Webhooks = append(out.Webhooks, webhookOf(w))
			}
			return &struct{ Body WebhookList }{out}, nil
		})

	huma.Register(a.huma, op(http.MethodDelete, "/{webhook}", "remove-webhook", "Remove a webhook, and all that it is still to be told", "",
		http.StatusNoContent, http.StatusNotFound),
		func(ctx context.Context, in *WebhookPath) (*struct{}, error) {
			if err := a.server.RemoveWebhook(ctx, operator(ctx), in.Webhook); err != nil {
				return nil, a.problem(ctx, err)
			}
			return nil, nil
		})

	huma.Register(a.huma, op(http.MethodPost, "/{webhook}/rotate", "rotate-webhook", "Give a webhook a new secret",
		"Two secrets are good at once at most: that before the one until now is not any more. The new one is in this answer and never shown again.",
		http.StatusOK, http.StatusNotFound),
		func(ctx context.Context, in *struct {
			WebhookPath
			Body Rotation
		}) (*webhookReply, error) {
			overlap := defaultOverlap
			if in.Body.OverlapSeconds != nil {
				overlap = *in.Body.OverlapSeconds
			}
			w, err := a.server.RotateWebhook(ctx, operator(ctx), in.Webhook, time.Duration(overlap)*time.Second)
			return described(ctx, w, err, revealed)
		})

	huma.Register(a.huma, op(http.MethodPost, "/{webhook}/enable", "enable-webhook", "Have a webhook told again that was disabled",
		"What waited since is sent too.", http.StatusOK, http.StatusNotFound),
		func(ctx context.Context, in *WebhookPath) (*webhookReply, error) {
			w, err := a.server.EnableWebhook(ctx, operator(ctx), in.Webhook)
			return described(ctx, w, err, webhookOf)
		})

	huma.Register(a.huma, op(http.MethodPost, "/{webhook}/test", "test-webhook", "Send a webhook a message of type "+webhook.Test, "",
		http.StatusAccepted, http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			WebhookPath
			IdempotencyKey
		}) (*deliveryReply, error) {
			d, again, err := a.server.TestWebhook(ctx, operator(ctx), in.Webhook, in.Key)
			return delivery(ctx, d, again, err)
		})

	huma.Register(a.huma, op(http.MethodGet, "/{webhook}/deliveries", "list-deliveries", "What a webhook was or is to be told, newest first",
		"Messages that ended are kept for a week.", http.StatusOK, http.StatusNotFound),
		func(ctx context.Context, in *struct {
			WebhookPath
			Page
		}) (*struct{ Body DeliveryList }, error) {
			text, err := in.place(deliveryCursor)
			if err != nil {
				return nil, err
			}
			before, err := strconv.ParseInt(cmp.Or(text, "0"), 10, 64)
			if err != nil || before < 0 {
				return nil, errCursor
			}
			list, err := a.server.Deliveries(ctx, operator(ctx), in.Webhook, before, in.Limit+1)
			if err != nil {
				return nil, a.problem(ctx, err)
			}
			out := DeliveryList{Deliveries: []Delivery{}}
			if len(list) > in.Limit {
				list = list[:in.Limit]
				out.Next = cursorOf(deliveryCursor, strconv.FormatInt(list[in.Limit-1].Seq, 10))
			}
			for _, d := range list {
				out.Deliveries = append(out.Deliveries, deliveryOf(d))
			}
			return &struct{ Body DeliveryList }{out}, nil
		})

	huma.Register(a.huma, op(http.MethodPost, "/{webhook}/deliveries/{delivery}/retry", "retry-delivery", "Send a webhook a message at once",
		"Also one that was delivered or given up.", http.StatusAccepted, http.StatusNotFound),
		func(ctx context.Context, in *struct {
			WebhookPath
			Delivery string `path:"delivery" minLength:"1" maxLength:"64" pattern:"^[0-9A-Za-z_-]+$" doc:"The message's id"`
		}) (*deliveryReply, error) {
			d, err := a.server.Redeliver(ctx, operator(ctx), in.Webhook, in.Delivery)
			return delivery(ctx, d, false, err)
		})
}
