package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// Event is one entry of the audit trail.
type Event struct {
	Seq       int64
	At        time.Time
	Kind      string
	RequestID *id.RequestID
	EID       *id.EID
	Operator  int64 // 0: the server itself
	// Internal events tell what operators must not learn: which check of an
	// authentication failed, whose a profile is that is not theirs.
	Internal bool
	Detail   map[string]any
}

// addEvent stamps and writes e.
func (s *Store) addEvent(ctx context.Context, q querier, e Event) error {
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
	_, err := q.ExecContext(ctx,
		`INSERT INTO events (at, kind, request_id, eid, operator_id, internal, detail) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		millis(s.now()), e.Kind, request, eid, operator, e.Internal, string(detail))
	if err != nil {
		return fmt.Errorf("store: %w", err)
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
	return collect(ctx, s.db, scanEvent,
		`SELECT `+eventColumns+` FROM events WHERE request_id = ? AND seq > ? AND internal <= ? ORDER BY seq LIMIT ?`,
		request.String(), after, internal, limit)
}

// Events is the audit trail after the event numbered after, oldest first, at
// most limit.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]Event, error) {
	return collect(ctx, s.db, scanEvent,
		`SELECT `+eventColumns+` FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, after, limit)
}
