package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// MaxWebhooks is how many endpoints an operator may have.
const MaxWebhooks = 16

// maxAttempts is how many attempts of a delivery are kept.
const maxAttempts = 32

// Webhook is an endpoint that is told what becomes of an operator's requests.
type Webhook struct {
	ID       string
	Operator int64
	URL      string   // may have secrets in it
	Types    []string // of messages; none: all
	Secret   webhook.Secret
	// Before is the secret before the last rotation, good until Until.
	Before       webhook.Secret
	Until        *time.Time
	CreatedAt    time.Time
	FailingSince *time.Time // all attempts failed since then
	DisabledAt   *time.Time // it is told nothing any more
	DisabledWhy  string
}

// Secrets are those that a message is signed under at a time.
func (w *Webhook) Secrets(now time.Time) []webhook.Secret {
	if w.Until == nil || !w.Until.After(now) {
		return []webhook.Secret{w.Secret}
	}
	return []webhook.Secret{w.Secret, w.Before}
}

// event is an event of the endpoint's. Its path may be a secret.
func (w *Webhook) event(kind string, by User) Event {
	e := Event{Kind: kind, Operator: w.Operator, Internal: true, Detail: map[string]any{"webhook": w.ID}}
	if u, err := url.Parse(w.URL); err == nil {
		e.Detail["host"] = u.Host
	}
	if by.ID != 0 {
		e.Detail["user"] = by.Name
	}
	return e
}

// Attempt is one sending of a message.
type Attempt struct {
	At     time.Time     `json:"at"`
	Took   time.Duration `json:"took"`
	Status int           `json:"status,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// DeliveryState is where a message to an endpoint stands.
type DeliveryState string

// The states of a delivery.
const (
	Pending   DeliveryState = "pending"
	Delivered DeliveryState = "delivered"
	GivenUp   DeliveryState = "failed"
)

// Delivery is a message to an endpoint.
type Delivery struct {
	Seq       int64
	ID        string // of the message; the same for all of an operator's endpoints
	Webhook   string
	Type      string
	RequestID *id.RequestID // nil: of a test
	Request   *Request      // as it was then, where it was claimed
	State     DeliveryState
	CreatedAt time.Time
	DueAt     *time.Time // nil once it is not pending; while it is sent, when another server may send it
	EndedAt   *time.Time
	Failures  int
	Attempts  []Attempt // the last ones, oldest first

	token int64 // grows with each claim
}

const webhookColumns = `id, operator_id, url, types, secret, secret_before, secret_until, created_at, failing_since, disabled_at, disabled_why`

func scanWebhook(row scanner) (Webhook, error) {
	var (
		w                        Webhook
		types                    string
		secret, before           []byte
		created                  int64
		until, failing, disabled sql.NullInt64
	)
	if err := row.Scan(&w.ID, &w.Operator, &w.URL, &types, &secret, &before, &until, &created, &failing, &disabled, &w.DisabledWhy); err != nil {
		return w, found(err)
	}
	w.Types, w.CreatedAt = strings.Fields(types), fromMillis(created)
	w.Until, w.FailingSince, w.DisabledAt = fromNullMillis(until), fromNullMillis(failing), fromNullMillis(disabled)
	var err error
	if w.Secret, err = webhook.SecretOf(secret); err == nil && w.Until != nil {
		w.Before, err = webhook.SecretOf(before)
	}
	if err != nil {
		return w, fmt.Errorf("store: webhook %s: %w", w.ID, err)
	}
	return w, nil
}

const deliveryColumns = `seq, id, webhook_id, type, request_id, record, state, created_at, due_at, ended_at, failures, attempts, token`

func scanDelivery(row scanner) (Delivery, error) {
	var (
		d               Delivery
		request         sql.NullString
		record, attempt string
		created         int64
		due, ended      sql.NullInt64
	)
	err := row.Scan(&d.Seq, &d.ID, &d.Webhook, &d.Type, &request, &record, &d.State, &created, &due, &ended, &d.Failures, &attempt, &d.token)
	if err != nil {
		return d, found(err)
	}
	d.CreatedAt, d.DueAt, d.EndedAt = fromMillis(created), fromNullMillis(due), fromNullMillis(ended)
	err = json.Unmarshal([]byte(attempt), &d.Attempts)
	if err == nil && request.Valid {
		d.RequestID = new(id.RequestID)
		d.Request = new(Request)
		if *d.RequestID, err = id.ParseRequestID(request.String); err == nil {
			err = json.Unmarshal([]byte(record), d.Request)
		}
	}
	if err != nil {
		return d, fmt.Errorf("store: delivery %d: %w", d.Seq, err)
	}
	return d, nil
}

// AddWebhook adds an endpoint of an operator's. It is told of requests that are
// decided on, or sent to their card, from then on. Where its ID is there already
// that one is given, and replayed set. The error matches ErrTooMany, or
// ErrKeyReused where that one is for another URL or other types.
func (s *Store) AddWebhook(ctx context.Context, op Operator, w Webhook) (out Webhook, replayed bool, err error) {
	err = s.changeWebhooks(ctx, "add webhook", op.ID, func(tx *tx) error {
		was, err := readWebhook(tx, op.ID, w.ID)
		replayed = err == nil
		switch {
		case replayed && (was.URL != w.URL || !slices.Equal(was.Types, w.Types)):
			return ErrKeyReused
		case replayed:
			out = was
			return nil
		case !errors.Is(err, ErrNotFound):
			return err
		}
		out = w
		var n int64
		if err := tx.row(`SELECT count(*) FROM webhooks WHERE operator_id = ?`, op.ID).Scan(&n); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if n >= MaxWebhooks {
			return fmt.Errorf("%w: an operator has %d webhooks at most", ErrTooMany, MaxWebhooks)
		}
		out.Operator, out.CreatedAt = op.ID, fromMillis(millis(tx.now))
		types := ""
		if len(w.Types) > 0 {
			types = " " + strings.Join(w.Types, " ") + " "
		}
		if _, err := tx.exec(`INSERT INTO webhooks (id, operator_id, url, types, secret, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
			w.ID, op.ID, w.URL, types, w.Secret.Bytes(), millis(tx.now)); err != nil {
			return err
		}
		e := out.event("webhook added", op.User)
		e.Detail["types"] = w.Types
		return tx.addEvents(e)
	})
	return out, replayed && err == nil, err
}

// changeWebhooks changes an operator's endpoints and counts those that are told.
func (s *Store) changeWebhooks(ctx context.Context, name string, operator int64, change func(*tx) error) error {
	return s.write(ctx, name, func(tx *tx) error {
		if err := tx.lockWebhooks(operator); err != nil {
			return err
		}
		if err := change(tx); err != nil {
			return err
		}
		return tx.countWebhooks(operator)
	})
}

// lockWebhooks keeps the operator's endpoints as they are: its own guard scope is
// locked before them.
func (t *tx) lockWebhooks(operator int64) error {
	_, err := t.scopes(operator, nil)
	return err
}

func (t *tx) countWebhooks(operator int64) error {
	_, err := t.exec(`UPDATE guard_scopes SET webhooks = (SELECT count(*) FROM webhooks WHERE operator_id = ? AND disabled_at IS NULL)
	                  WHERE operator_id = ? AND card_group = ''`, operator, operator)
	return err
}

// Webhooks lists an operator's endpoints, oldest first.
func (s *Store) Webhooks(ctx context.Context, operator int64) ([]Webhook, error) {
	return collect(reads{s, ctx}, scanWebhook, `SELECT `+webhookColumns+` FROM webhooks WHERE operator_id = ? ORDER BY created_at, id`, operator)
}

// Webhook is an operator's endpoint, or ErrNotFound.
func (s *Store) Webhook(ctx context.Context, operator int64, webhook string) (Webhook, error) {
	return readWebhook(reads{s, ctx}, operator, webhook)
}

func readWebhook(q querier, operator int64, webhook string) (Webhook, error) {
	return scanWebhook(q.row(`SELECT `+webhookColumns+` FROM webhooks WHERE id = ? AND operator_id = ?`, webhook, operator))
}

// RemoveWebhook removes an operator's endpoint and all that it was or is still to
// be told. The error matches ErrNotFound.
func (s *Store) RemoveWebhook(ctx context.Context, op Operator, webhook string) error {
	return s.changeWebhooks(ctx, "remove webhook", op.ID, func(tx *tx) error {
		w, err := readWebhook(tx, op.ID, webhook)
		if err != nil {
			return err
		}
		if _, err := tx.exec(`DELETE FROM webhooks WHERE id = ?`, w.ID); err != nil {
			return err
		}
		if _, err := tx.exec(`DELETE FROM webhook_deliveries WHERE webhook_id = ?`, w.ID); err != nil {
			return err
		}
		return tx.addEvents(w.event("webhook removed", op.User))
	})
}

// RotateWebhook gives an operator's endpoint another secret. Messages are signed
// under the one until now too while overlap lasts. The error matches ErrNotFound.
func (s *Store) RotateWebhook(ctx context.Context, op Operator, webhook string, secret webhook.Secret, overlap time.Duration) (Webhook, error) {
	var w Webhook
	err := s.changeWebhooks(ctx, "rotate webhook", op.ID, func(tx *tx) (err error) {
		if w, err = readWebhook(tx, op.ID, webhook); err != nil {
			return err
		}
		until := fromMillis(millis(tx.now.Add(overlap)))
		w.Secret, w.Before, w.Until = secret, w.Secret, &until
		if _, err := tx.exec(`UPDATE webhooks SET secret = ?, secret_before = ?, secret_until = ? WHERE id = ?`,
			w.Secret.Bytes(), w.Before.Bytes(), millis(until), w.ID); err != nil {
			return err
		}
		e := w.event("webhook rotated", op.User)
		e.Detail["until"] = until
		return tx.addEvents(e)
	})
	return w, err
}

// EnableWebhook has an endpoint told again after it was disabled, of what waited
// too. The error matches ErrNotFound.
func (s *Store) EnableWebhook(ctx context.Context, op Operator, webhook string) (Webhook, error) {
	var w Webhook
	err := s.changeWebhooks(ctx, "enable webhook", op.ID, func(tx *tx) (err error) {
		if w, err = readWebhook(tx, op.ID, webhook); err != nil || w.DisabledAt == nil {
			return err
		}
		w.DisabledAt, w.DisabledWhy, w.FailingSince = nil, "", nil
		if _, err := tx.exec(`UPDATE webhooks SET disabled_at = NULL, disabled_why = '', failing_since = NULL WHERE id = ?`, w.ID); err != nil {
			return err
		}
		return tx.addEvents(w.event("webhook enabled", op.User))
	})
	return w, err
}

// tell has an operator's endpoints told of a request as it is now. It costs
// nothing where there was no endpoint when the request was sent.
func (t *tx) tell(kind string, r *Request) error {
	if r.SentAt != nil && !r.told {
		return nil
	}
	record, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("store: request %s: %w", r.ID, err)
	}
	_, err = t.exec(`INSERT INTO webhook_deliveries (id, webhook_id, type, request_id, record, created_at, due_at)
		SELECT ?, id, ?, ?, ?, ?, ? FROM webhooks WHERE operator_id = ? AND disabled_at IS NULL AND (types = '' OR types LIKE ?)`,
		newMessageID(), kind, r.ID.String(), string(record), millis(t.now), millis(t.now), r.Operator, "% "+kind+" %")
	return err
}

// tellUnknown does so for one whose outcome is not known any more.
func (t *tx) tellUnknown(r Request) error {
	r.State, r.UpdatedAt = Unknown, fromMillis(millis(t.now))
	return t.tell(webhook.Unknown, &r)
}

func newMessageID() string { return "msg_" + uuid.NewString() }

// TestWebhook has an operator's endpoint told of nothing, by a message of an id.
// Where that is there already it is given, and replayed set. The error matches
// ErrNotFound, or ErrState where it is disabled.
func (s *Store) TestWebhook(ctx context.Context, op Operator, hook, message string) (d Delivery, replayed bool, err error) {
	err = s.write(ctx, "test webhook", func(tx *tx) error {
		w, err := readWebhook(tx, op.ID, hook)
		if err != nil {
			return err
		}
		if w.DisabledAt != nil {
			return fmt.Errorf("%w: the webhook is disabled: %s", ErrState, w.DisabledWhy)
		}
		d, err = readDelivery(tx, w.ID, message, "")
		if replayed = err == nil; !errors.Is(err, ErrNotFound) {
			return err
		}
		if _, err := tx.exec(`INSERT INTO webhook_deliveries (id, webhook_id, type, created_at, due_at) VALUES (?, ?, ?, ?, ?)`,
			message, w.ID, webhook.Test, millis(tx.now), millis(tx.now)); err != nil {
			return err
		}
		if d, err = readDelivery(tx, w.ID, message, ""); err != nil {
			return err
		}
		return tx.addEvents(w.event("webhook tested", op.User))
	})
	return d, replayed && err == nil, err
}

func readDelivery(q querier, webhook, message, lock string) (Delivery, error) {
	return scanDelivery(q.row(`SELECT `+deliveryColumns+` FROM webhook_deliveries WHERE webhook_id = ? AND id = ?`+lock, webhook, message))
}

// Deliveries lists what an operator's endpoint was or is to be told, newest
// first, before the one whose Seq is before (0: from the newest), at most limit.
// The error matches ErrNotFound.
func (s *Store) Deliveries(ctx context.Context, operator int64, webhook string, before int64, limit int) ([]Delivery, error) {
	if _, err := s.Webhook(ctx, operator, webhook); err != nil {
		return nil, err
	}
	if before <= 0 {
		before = 1<<63 - 1
	}
	return collect(reads{s, ctx}, scanDelivery,
		`SELECT `+deliveryColumns+` FROM webhook_deliveries WHERE webhook_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?`, webhook, before, limit)
}

// Redeliver has a message sent to an operator's endpoint at once, also where it
// was delivered or given up. The error matches ErrNotFound.
func (s *Store) Redeliver(ctx context.Context, op Operator, webhook, message string) (Delivery, error) {
	var d Delivery
	err := s.write(ctx, "redeliver", func(tx *tx) error {
		w, err := readWebhook(tx, op.ID, webhook)
		if err != nil {
			return err
		}
		if d, err = readDelivery(tx, w.ID, message, s.dialect.forUpdate("webhook_deliveries")); err != nil {
			return err
		}
		now := fromMillis(millis(tx.now))
		d.State, d.DueAt, d.EndedAt = Pending, &now, nil
		if _, err = tx.exec(`UPDATE webhook_deliveries SET state = 'pending', due_at = ?, ended_at = NULL WHERE seq = ?`, millis(now), d.Seq); err != nil {
			return err
		}
		e := w.event("webhook message sent again", op.User)
		e.RequestID, e.Detail["message"] = d.RequestID, d.ID
		return tx.addEvents(e)
	})
	return d, err
}

// DueWebhooks are the endpoints to which something is to be sent now.
func (s *Store) DueWebhooks(ctx context.Context) ([]Webhook, error) {
	now, args := `now_ms()`, []any{}
	if s.clock != nil {
		now, args = `?`, []any{millis(s.now())}
	}
	return collect(reads{s, ctx}, scanWebhook, dueWebhooks+now+`)`, args...)
}

const dueWebhooks = `SELECT ` + webhookColumns + ` FROM webhooks w WHERE disabled_at IS NULL
	AND EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.due_at <= `

// ClaimDeliveries takes at most limit messages to an endpoint that are due, for
// the time of a lease: after that another server may send them. Those of one
// request come one after the other, until one fails.
func (s *Store) ClaimDeliveries(ctx context.Context, webhook string, lease time.Duration, limit int) ([]Delivery, error) {
	var out []Delivery
	err := s.write(ctx, "claim deliveries", func(tx *tx) (err error) {
		out, err = collect(tx, scanDelivery, dueDeliveries+s.dialect.skipLocked, webhook, millis(tx.now), limit)
		if err != nil {
			return err
		}
		until := fromMillis(millis(tx.now.Add(lease)))
		for i := range out {
			out[i].token++
			out[i].DueAt = &until
			if _, err := tx.exec(`UPDATE webhook_deliveries SET token = ?, due_at = ? WHERE seq = ?`, out[i].token, millis(until), out[i].Seq); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

const dueDeliveries = `SELECT ` + deliveryColumns + ` FROM webhook_deliveries d WHERE webhook_id = ? AND due_at <= ?
	AND NOT EXISTS (SELECT 1 FROM webhook_deliveries e WHERE e.webhook_id = d.webhook_id AND e.request_id = d.request_id AND e.seq < d.seq
	                AND e.due_at IS NOT NULL AND e.failures = 0)
	ORDER BY due_at, seq LIMIT ?`

// Attempted is what came of sending a message.
type Attempted struct {
	Attempt
	Delivered bool
	// Again is after what time to send it again where it was not delivered; 0:
	// never.
	Again time.Duration
	// Disable, where it is not empty, says why the endpoint is to be told nothing
	// any more.
	Disable string
	// Patience is how long all of an endpoint's messages may fail until it is.
	Patience time.Duration
}

// RecordDelivery records an attempt at a claimed message. The error matches
// ErrFenced where the lease has passed and another server has claimed it, or it
// is gone.
func (s *Store) RecordDelivery(ctx context.Context, w Webhook, d Delivery, a Attempted) error {
	return s.write(ctx, "record delivery", func(tx *tx) error {
		since := w.FailingSince
		if a.Delivered {
			since = nil
		} else if since == nil {
			since = &tx.now
		}
		disable := a.Disable
		if disable == "" && since != nil && !tx.now.Before(since.Add(a.Patience)) {
			disable = "all that was sent to it failed since " + since.UTC().Format(time.RFC3339)
		}
		if disable != "" {
			if err := tx.lockWebhooks(w.Operator); err != nil {
				return err
			}
		}
		next := d
		next.Attempts = append(slices.Clone(d.Attempts), a.Attempt)
		next.Attempts = next.Attempts[max(len(next.Attempts)-maxAttempts, 0):]
		attempts, err := json.Marshal(next.Attempts)
		if err != nil {
			return fmt.Errorf("store: delivery %d: %w", d.Seq, err)
		}
		var due, ended any
		switch {
		case a.Delivered:
			next.State, ended = Delivered, millis(tx.now)
		case a.Again == 0:
			next.State, ended = GivenUp, millis(tx.now)
		default:
			due = millis(tx.now.Add(a.Again))
		}
		if !a.Delivered {
			next.Failures++
		}
		res, err := tx.exec(`UPDATE webhook_deliveries SET state = ?, due_at = ?, ended_at = ?, failures = ?, attempts = ? WHERE seq = ? AND token = ?`,
			string(next.State), due, ended, next.Failures, string(attempts), d.Seq, d.token)
		if err := oneRow(res, err, fmt.Errorf("%w: delivery %s", ErrFenced, d.ID)); err != nil {
			return err
		}
		if a.Delivered {
			if w.FailingSince == nil {
				return nil
			}
			_, err = tx.exec(`UPDATE webhooks SET failing_since = NULL WHERE id = ?`, w.ID)
			return err
		}
		if _, err := tx.exec(`UPDATE webhooks SET failing_since = COALESCE(failing_since, ?) WHERE id = ?`, millis(tx.now), w.ID); err != nil || disable == "" {
			return err
		}
		if _, err := tx.exec(`UPDATE webhooks SET disabled_at = ?, disabled_why = ? WHERE id = ?`, millis(tx.now), disable, w.ID); err != nil {
			return err
		}
		e := w.event("webhook disabled", User{})
		e.Detail["text"] = disable
		if err := tx.addEvents(e); err != nil {
			return err
		}
		return tx.countWebhooks(w.Operator)
	})
}

// ReturnDelivery gives a claimed message back that was not sent, or not to its
// end.
func (s *Store) ReturnDelivery(ctx context.Context, d Delivery) error {
	return s.write(ctx, "return delivery", func(tx *tx) error {
		_, err := tx.exec(`UPDATE webhook_deliveries SET due_at = ? WHERE seq = ? AND token = ? AND due_at IS NOT NULL`, millis(tx.now), d.Seq, d.token)
		return err
	})
}

// How long messages are kept.
const (
	KeepEnded   = 7 * 24 * time.Hour
	KeepPending = 30 * 24 * time.Hour // to an endpoint that is disabled
)

// PruneDeliveries forgets old messages, at most limit of them, and says how many.
func (s *Store) PruneDeliveries(ctx context.Context, limit int) (n int64, err error) {
	err = s.write(ctx, "prune deliveries", func(tx *tx) error {
		res, err := tx.exec(`DELETE FROM webhook_deliveries WHERE seq IN
			(SELECT seq FROM webhook_deliveries WHERE created_at < ? AND (due_at IS NULL OR created_at < ?) ORDER BY created_at LIMIT ?)`,
			millis(tx.now.Add(-KeepEnded)), millis(tx.now.Add(-KeepPending)), limit)
		if err != nil {
			return err
		}
		if n, err = res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return tx.addEvents(Event{Kind: "webhook messages forgotten", Internal: true, Detail: map[string]any{"messages": n}})
	})
	return n, err
}
