package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// Event is one entry of the audit trail.
type Event struct {
	Seq       int64
	At        time.Time // zero, where it is written: the time of the transaction
	Kind      string
	RequestID *id.RequestID
	EID       *id.EID
	Operator  int64 // 0: the server itself
	// Internal events tell what operators must not learn: which check of an
	// authentication failed, whose a profile is that is not theirs.
	Internal bool
	Detail   map[string]any
}

const (
	insertEvents = `INSERT INTO events (at, kind, request_id, eid, operator_id, internal, detail) VALUES `
	eventValues  = `(?, ?, ?, ?, ?, ?, ?)`
)

// insertEventsOf are statements for one event, two, and so on.
var insertEventsOf = func() (out [5]string) {
	for n := range out {
		out[n] = insertEvents + eventValues + strings.Repeat(", "+eventValues, n)
	}
	return out
}()

// addEvents stamps and writes events.
func (t *tx) addEvents(list ...Event) error {
	for len(list) > 0 {
		n := min(len(list), len(insertEventsOf))
		args := make([]any, 0, 7*n)
		for _, e := range list[:n] {
			detail := []byte("{}")
			if len(e.Detail) > 0 {
				var err error
				if detail, err = json.Marshal(e.Detail); err != nil {
					return fmt.Errorf("store: event %s: %w", e.Kind, err)
				}
			}
			var request, eid, operator any
			if e.RequestID != nil {
				request = e.RequestID.String()
			}
			if e.EID != nil {
				eid = e.EID.String()
			}
			if e.Operator != 0 {
				operator = e.Operator
			}
			at := e.At
			if at.IsZero() {
				at = t.now
			}
			args = append(args, millis(at), e.Kind, request, eid, operator, e.Internal, string(detail))
		}
		if _, err := t.exec(insertEventsOf[n-1], args...); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

const eventColumns = `seq, at, kind, request_id, eid, operator_id, internal, detail`

func scanEvent(row scanner) (Event, error) {
	var (
		e                    Event
		at                   int64
		request, eid, detail sql.NullString
		operator             sql.NullInt64
	)
	if err := row.Scan(&e.Seq, &at, &e.Kind, &request, &eid, &operator, &e.Internal, &detail); err != nil {
		return Event{}, found(err)
	}
	e.At, e.Operator = fromMillis(at), operator.Int64
	if request.Valid {
		r, err := id.ParseRequestID(request.String)
		if err != nil {
			return Event{}, fmt.Errorf("store: event %d: %w", e.Seq, err)
		}
		e.RequestID = &r
	}
	if eid.Valid {
		c, err := id.ParseEID(eid.String)
		if err != nil {
			return Event{}, fmt.Errorf("store: event %d: %w", e.Seq, err)
		}
		e.EID = &c
	}
	if err := json.Unmarshal([]byte(detail.String), &e.Detail); err != nil {
		return Event{}, fmt.Errorf("store: event %d: %w", e.Seq, err)
	}
	return e, nil
}

// RequestEvents is a request's events after the one numbered after, oldest
// first, at most limit.
func (s *Store) RequestEvents(ctx context.Context, request id.RequestID, after int64, internal bool, limit int) ([]Event, error) {
	return collect(reads{s, ctx}, scanEvent, requestEvents, request.String(), after, internal, limit)
}

const requestEvents = `SELECT ` + eventColumns + ` FROM events WHERE request_id = ? AND seq > ? AND internal <= ? ORDER BY seq LIMIT ?`

// Events is the audit trail after the event numbered after, oldest first, at
// most limit.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]Event, error) {
	return collect(reads{s, ctx}, scanEvent,
		`SELECT `+eventColumns+` FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, after, limit)
}

// LastEvents are the numbers of the last events of requests, of those that have
// any.
func (s *Store) LastEvents(ctx context.Context, requests []id.RequestID) (map[id.RequestID]int64, error) {
	texts := make([]string, len(requests))
	for i, r := range requests {
		texts[i] = r.String()
	}
	out := make(map[id.RequestID]int64, len(requests))
	_, err := collect(reads{s, ctx}, func(row scanner) (struct{}, error) {
		var text string
		var seq int64
		if err := row.Scan(&text, &seq); err != nil {
			return struct{}{}, fmt.Errorf("store: %w", err)
		}
		r, err := id.ParseRequestID(text)
		out[r] = seq
		return struct{}{}, err
	}, `SELECT request_id, max(seq) FROM events WHERE `+s.dialect.in("request_id")+` GROUP BY request_id`, s.dialect.list(texts))
	return out, err
}
