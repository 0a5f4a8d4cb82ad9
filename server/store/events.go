package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/audit"
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
	insertEvents = `INSERT INTO events (at, kind, request_id, eid, operator_id, internal, detail, chain, n, hash) VALUES `
	eventValues  = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	eventArgs    = 10
)

// insertEventsOf are statements for one event, two, and so on.
var insertEventsOf = func() (out [6]string) {
	for n := range out {
		out[n] = insertEvents + eventValues + strings.Repeat(", "+eventValues, n)
	}
	return out
}()

// addEvents stamps events and writes them in the session's chain.
func (t *tx) addEvents(list ...Event) error {
	if t.s.unaudited {
		return nil
	}
	list, err := t.chained(list)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		n := min(len(list), len(insertEventsOf))
		args := make([]any, 0, eventArgs*n)
		head := t.head
		for _, e := range list[:n] {
			entry, err := t.entry(&e)
			if err != nil {
				return err
			}
			t.buf = head.Extend(&entry, t.buf)
			args = append(args, entry.At, entry.Kind, orNull(entry.Request), orNull(entry.EID), orNull(entry.Operator), entry.Internal, entry.Detail,
				entry.Chain[:], entry.N, entry.Hash[:])
		}
		if _, err := t.exec(insertEventsOf[n-1], args...); err != nil {
			return err
		}
		t.head, list = head, list[n:]
	}
	return nil
}

// Note writes an event of the server's own, such as that it was started.
func (s *Store) Note(ctx context.Context, e Event) error {
	return s.write(ctx, "note", func(tx *tx) error { return tx.addEvents(e) })
}

// entry is an event as it is stored.
func (t *tx) entry(e *Event) (audit.Entry, error) {
	out := audit.Entry{Kind: e.Kind, Operator: e.Operator, Internal: e.Internal, Detail: "{}"}
	if len(e.Detail) > 0 {
		detail, err := json.Marshal(e.Detail)
		if err != nil {
			return out, fmt.Errorf("store: event %s: %w", e.Kind, err)
		}
		out.Detail = string(detail)
	}
	if e.RequestID != nil {
		out.Request = e.RequestID.String()
	}
	if e.EID != nil {
		out.EID = e.EID.String()
	}
	at := e.At
	if at.IsZero() {
		at = t.now
	}
	out.At = millis(at)
	return out, nil
}

// orNull is NULL for what is empty.
func orNull[T comparable](v T) any {
	var none T
	if v == none {
		return nil
	}
	return v
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
