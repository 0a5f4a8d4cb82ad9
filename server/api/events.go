package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/negotiation"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

const (
	eventStream = "text/event-stream"
	jsonType    = "application/json"

	heartbeat    = 15 * time.Second
	slowClient   = 10 * time.Second
	maxStream    = 15 * time.Minute // then the client comes again
	lookAgain    = 4                // heartbeats after which whoever has a stream has to be somebody still
	streamsOfOne = 256              // of one operator
	streamsOfAll = 2048
	// ended is the id of a stream's last event. Who comes back with it has seen
	// everything.
	ended = "end"
)

// Step is something that happened to a request.
type Step struct {
	Seq    int64          `json:"seq"`
	At     time.Time      `json:"at"`
	Step   string         `json:"step" example:"sending"`
	Detail map[string]any `json:"detail,omitempty"`
}

func stepOf(e store.Event) Step { return Step{Seq: e.Seq, At: e.At, Step: e.Kind, Detail: e.Detail} }

// Steps is what happened to a request, oldest first.
type Steps struct {
	Steps    []Step `json:"steps" nullable:"false"`
	Next     int64  `json:"next" doc:"Ask again with this as after"`
	State    string `json:"state" enum:"accepted,held,waiting,authenticating,sending,done,refused,failed,expired,cancelled,unknown"`
	Finished bool   `json:"finished" doc:"Nothing more will happen"`
}

type stepsQuery struct {
	RequestPath
	After  int64  `query:"after" minimum:"0" doc:"Steps after this one"`
	Wait   int    `query:"wait_seconds" minimum:"0" maximum:"30" doc:"How long to wait for a step; of no meaning to a stream"`
	Accept string `header:"Accept" doc:"text/event-stream for a stream"`
	LastID string `header:"Last-Event-ID" maxLength:"19" pattern:"^([0-9]+|end)$" doc:"Of a stream: the id of the last event that came, before after"`
}

// seen is the number of the last step that the client has; all says that it has
// the end too.
func (q *stepsQuery) seen() (after int64, all bool, err error) {
	switch q.LastID {
	case "":
		return q.After, false, nil
	case ended:
		return 0, true, nil
	}
	after, err = strconv.ParseInt(q.LastID, 10, 64)
	return after, false, located(err, "header.Last-Event-ID")
}

func (a *API) registerSteps() {
	schema := func(v any) *huma.Schema {
		return a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(v), true, "")
	}
	event := func(name string, data any, id *huma.Schema) *huma.Schema {
		return &huma.Schema{
			Type: huma.TypeObject, Title: name, Required: []string{"event", "id", "data"},
			Properties: map[string]*huma.Schema{"event": {Type: huma.TypeString, Enum: []any{name}}, "id": id, "data": schema(data)},
		}
	}
	op := secured(reads, huma.Operation{
		OperationID: "list-steps", Method: http.MethodGet, Path: "/v1/deactivations/{id}/events", Summary: "What happened to a request",
		Description: "In JSON, with wait_seconds, the answer comes when there is a step to tell of, or the request is finished, or the time is over. " +
			"With Accept: text/event-stream it is a stream of server-sent events: a step for each step, whose id is its seq, and at last finished, " +
			"with the request's record. A client that was cut off comes back with Last-Event-ID and misses nothing; " +
			"the server ends a stream from time to time, and answers 204 to who has seen finished. Comments are sent while nothing happens.",
		Errors: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusTooManyRequests},
	})
	op.Responses = map[string]*huma.Response{
		"200": {Content: map[string]*huma.MediaType{
			jsonType: {Schema: schema(Steps{})},
			eventStream: {Schema: &huma.Schema{
				Type: huma.TypeArray, Description: "The events, each as its fields",
				Items: &huma.Schema{OneOf: []*huma.Schema{
					event("step", Step{}, &huma.Schema{Type: huma.TypeInteger, Format: "int64"}),
					event("finished", Deactivation{}, &huma.Schema{Type: huma.TypeString, Enum: []any{ended}}),
				}},
			}},
		}},
		"204": {Description: "The stream's last event was seen already"},
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *stepsQuery) (*huma.StreamResponse, error) {
		request, err := in.parse()
		if err != nil {
			return nil, err
		}
		if negotiation.SelectQValue(in.Accept, []string{jsonType, eventStream}) == eventStream {
			return a.openStream(ctx, in, request)
		}
		events, r, err := a.server.Steps(ctx, operator(ctx), request, in.After, time.Duration(in.Wait)*time.Second)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		out := Steps{Steps: []Step{}, Next: in.After, State: string(r.State), Finished: r.FinishedAt != nil}
		for _, e := range events {
			out.Steps = append(out.Steps, stepOf(e))
			out.Next = e.Seq
		}
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			ctx.SetHeader("Content-Type", jsonType)
			ctx.SetStatus(http.StatusOK)
			_ = a.huma.Marshal(ctx.BodyWriter(), jsonType, out) // a client that is gone does not read it
		}}, nil
	})
}

// openStream answers with a stream, of a request that is there and the
// operator's own.
func (a *API) openStream(ctx context.Context, in *stepsQuery, request id.RequestID) (*huma.StreamResponse, error) {
	after, all, err := in.seen()
	if err != nil {
		return nil, err
	}
	op := operator(ctx)
	if _, err := a.server.Request(ctx, op, request); err != nil {
		return nil, a.problem(ctx, err)
	}
	if all {
		return &huma.StreamResponse{Body: func(ctx huma.Context) { ctx.SetStatus(http.StatusNoContent) }}, nil
	}
	if !a.streams.enter(op.ID) {
		return nil, huma.ErrorWithHeaders(newProblem(http.StatusTooManyRequests, "too many streams are open; close some, or ask for JSON with wait_seconds").as(streamsExhausted),
			http.Header{"Retry-After": {"5"}})
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer a.streams.leave(op.ID)
		r, w := humago.Unwrap(hctx)
		w.Header().Set("Content-Type", eventStream)
		w.Header().Set("X-Accel-Buffering", "no") // proxies that gather replies would keep it
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		s := &stream{w: w, rc: http.NewResponseController(w), slow: a.slow, still: func() error {
			now, err := a.identify(hctx, bearerOf(hctx))
			if err == nil && now.User.Roles&reads == 0 {
				err = errMayNotRead
			}
			return err
		}}
		if err := a.stream(ctx, s, op, request, after); err != nil && ctx.Err() == nil {
			a.log.InfoContext(ctx, "event stream cut off", "request", request, "operator", op.Name, "error", err)
		}
		_ = s.rc.SetWriteDeadline(time.Now().Add(a.slow)) // for the end of the reply
	}}, nil
}

var errMayNotRead = errors.New("the user may not read any more")

// stream writes the events after one until the request is finished, the client
// is gone, too slow, or nobody any more, or the server ends.
func (a *API) stream(ctx context.Context, s *stream, op store.Operator, request id.RequestID, after int64) error {
	// The server's bounds are for replies that are short.
	if err := s.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if err := s.comment(); err != nil {
		return err
	}
	began := time.Now()
	for looked := began; time.Since(began) < maxStream; {
		if time.Since(looked) >= lookAgain*a.heartbeat {
			if err := s.still(); err != nil {
				return err
			}
			looked = time.Now()
		}
		events, r, err := a.server.Steps(ctx, op, request, after, a.heartbeat)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := s.event("step", strconv.FormatInt(e.Seq, 10), stepOf(e)); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(events) > 0 {
			continue
		}
		if r.FinishedAt != nil {
			d, err := a.deactivation(ctx, r)
			if err != nil {
				return err
			}
			return s.event("finished", ended, d)
		}
		select {
		case <-a.server.Ending():
			return nil
		default:
		}
		if err := s.comment(); err != nil {
			return err
		}
	}
	return nil
}

// stream is a client's (WHATWG HTML §9.2).
type stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	slow  time.Duration
	still func() error // says why whoever has it is not let in any more
	b     bytes.Buffer
}

func (s *stream) comment() error {
	s.b.WriteString(":\n\n")
	return s.flush()
}

func (s *stream) event(name, id string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	fmt.Fprintf(&s.b, "event: %s\nid: %s\ndata: %s\n\n", name, id, text)
	return s.flush()
}

// flush writes what is there, within the time that a client has.
func (s *stream) flush() error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(s.slow)); err != nil {
		return err
	}
	defer s.b.Reset()
	if _, err := s.w.Write(s.b.Bytes()); err != nil {
		return err
	}
	if err := s.rc.Flush(); err != nil {
		return err
	}
	return s.rc.SetWriteDeadline(time.Time{}) // HTTP/2 cuts streams off by it while they are silent
}

// streams counts those that are open.
type streams struct {
	mu  sync.Mutex
	of  map[int64]int // by operator
	all int
}

func (s *streams) enter(operator int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= streamsOfAll || s.of[operator] >= streamsOfOne {
		return false
	}
	if s.of == nil {
		s.of = map[int64]int{}
	}
	s.all++
	s.of[operator]++
	return true
}

func (s *streams) leave(operator int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[operator]--; s.of[operator] == 0 {
		delete(s.of, operator)
	}
}
