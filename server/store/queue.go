package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/guard"
)

// CountsTo is where Queue stops counting, so that looking costs the same however
// much there is.
const CountsTo = 10_000

// Queue is what is open at a moment. Each number is CountsTo where there is as
// much or more.
type Queue struct {
	Open    int64 // let in and not finished
	Held    int64 // waits for an approval
	Sending int64
	Unknown int64      // sent, with no verified answer
	Oldest  *time.Time // when the oldest of Open was let in; nil for none
	Sent    *time.Time // when the oldest of Sending and Unknown was sent

	Deliveries       int64 // of webhooks, to be sent
	WebhooksFailing  int64
	WebhooksDisabled int64
}

// Queue looks at what is open. It takes no lock.
func (s *Store) Queue(ctx context.Context) (Queue, error) {
	var q Queue
	var oldest, sent sql.NullInt64
	r := reads{s, ctx}
	for _, one := range []struct {
		query string
		args  []any
		into  []any
	}{
		{queueOpen, []any{CountsTo}, []any{&q.Open}},
		{queueHeld, []any{CountsTo}, []any{&q.Held}},
		{queueSent, []any{CountsTo}, []any{&q.Sending, &q.Unknown, &sent}},
		{queueOldest, nil, []any{&oldest}},
		{queueDeliveries, []any{CountsTo}, []any{&q.Deliveries}},
		{queueWebhooks, nil, []any{&q.WebhooksFailing, &q.WebhooksDisabled}},
	} {
		if err := r.row(one.query, one.args...).Scan(one.into...); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return Queue{}, fmt.Errorf("store: %w", err)
		}
	}
	q.Oldest, q.Sent = fromNullMillis(oldest), fromNullMillis(sent)
	return q, nil
}

const (
	queueOpen = `SELECT count(*) FROM (SELECT 1 FROM deactivations WHERE finished_at IS NULL AND state <> 'held' LIMIT ?) AS t`
	queueHeld = `SELECT count(*) FROM (SELECT 1 FROM deactivations WHERE state = 'held' LIMIT ?) AS t`
	queueSent = `SELECT count(*) FILTER (WHERE state = 'sending'), count(*) FILTER (WHERE state = 'unknown'), min(sent_at) FROM
		(SELECT state, sent_at FROM deactivations WHERE finished_at IS NULL AND sent_at IS NOT NULL ORDER BY seq LIMIT ?) AS t`
	queueOldest     = `SELECT COALESCE(approved_at, created_at) FROM deactivations WHERE finished_at IS NULL AND state <> 'held' ORDER BY seq LIMIT 1`
	queueDeliveries = `SELECT count(*) FROM (SELECT 1 FROM webhook_deliveries WHERE due_at IS NOT NULL LIMIT ?) AS t`
	queueWebhooks   = `SELECT count(*) FILTER (WHERE failing_since IS NOT NULL AND disabled_at IS NULL), count(*) FILTER (WHERE disabled_at IS NOT NULL) FROM webhooks`
)

// Guarded is an operator and its own scope of the guard.
type Guarded struct {
	Operator
	Scope guard.Scope
}

// Guarded lists operators, the first of them first, at most limit.
func (s *Store) Guarded(ctx context.Context, limit int) ([]Guarded, error) {
	return collect(reads{s, ctx}, func(row scanner) (Guarded, error) {
		var g Guarded
		var mccmnc string
		scope, err := scanScope(prefixed{row, []any{&g.Operator.ID, &g.Operator.Name, &mccmnc}})
		if err != nil {
			return g, err
		}
		g.Scope = scope
		g.MCCMNC, err = id.ParseMCCMNC(mccmnc)
		return g, err
	}, guarded, limit)
}

const guarded = `SELECT o.id AS operator, o.name, o.mccmnc, s.id, s.card_group, s.fleet, s.pending, s.epoch, s.counts, s.tripped_at, s.tripped_why, s.webhooks
	FROM operators o JOIN guard_scopes s ON s.operator_id = o.id AND s.card_group = '' ORDER BY o.id LIMIT ?`

// prefixed is a row with columns before those that another scan is for.
type prefixed struct {
	scanner
	before []any
}

// Scan implements scanner.
func (p prefixed) Scan(dest ...any) error { return p.scanner.Scan(append(p.before, dest...)...) }
