package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/cardbridge/cardbridge/server/store"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// MaxOverlap is how long the secret before a rotation may stay good.
const MaxOverlap = 7 * 24 * time.Hour

const (
	sendingsOfOne  = 4   // to one endpoint at once; one to an endpoint that fails
	sendingsOfAll  = 256 // so that many slow endpoints leave places for others
	deliveryMargin = 45 * time.Second
	pruneEvery     = 10 * time.Minute
	pruneAtOnce    = 1000
)

// administers is nil where a user may change what its operator's server does.
func administers(op store.Operator) error {
	if op.User.Roles&store.MayAdminister == 0 {
		return fmt.Errorf("%w: it takes a user with the role administer", ErrForbidden)
	}
	return nil
}

// AddWebhook registers an endpoint of an operator's, for messages of some types;
// none: all. What is given has the secret, which is not shown again but to who
// asks for the same under the same key, where that is not empty. The error
// matches ErrForbidden, ErrInvalid, store.ErrTooMany or store.ErrKeyReused.
func (s *Server) AddWebhook(ctx context.Context, op store.Operator, url string, types []string, key string) (w store.Webhook, replayed bool, err error) {
	if err := administers(op); err != nil {
		return store.Webhook{}, false, err
	}
	if s.Webhooks == nil {
		return store.Webhook{}, false, fmt.Errorf("%w: this server sends no webhooks", ErrInvalid)
	}
	if err := s.Webhooks.CheckURL(url); err != nil {
		return store.Webhook{}, false, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	types = slices.Clone(types)
	slices.Sort(types)
	types = slices.Compact(types)
	for _, t := range types {
		if !slices.Contains(webhook.Types, t) {
			return store.Webhook{}, false, fmt.Errorf("%w: there are no messages of type %q", ErrInvalid, t)
		}
	}
	secret, err := webhook.NewSecret()
	if err != nil {
		return store.Webhook{}, false, err
	}
	return s.Store.AddWebhook(ctx, op, store.Webhook{ID: keyed(op, "webhook", key), URL: url, Types: types, Secret: secret})
}

// keyed is the id of what an operator makes under an idempotency key; a random
// one where that is empty.
func keyed(op store.Operator, what, key string) string {
	if key == "" {
		return uuid.NewString()
	}
	return uuid.NewHash(sha256.New(), uuid.Nil, fmt.Appendf(nil, "%d %s %s", op.ID, what, key), 8).String() // RFC 9562: version 8 is ours to fill
}

// Webhook is an operator's endpoint.
func (s *Server) Webhook(ctx context.Context, op store.Operator, id string) (store.Webhook, error) {
	if err := administers(op); err != nil {
		return store.Webhook{}, err
	}
	return s.Store.Webhook(ctx, op.ID, id)
}

// ListWebhooks are an operator's endpoints.
func (s *Server) ListWebhooks(ctx context.Context, op store.Operator) ([]store.Webhook, error) {
	if err := administers(op); err != nil {
		return nil, err
	}
	return s.Store.Webhooks(ctx, op.ID)
}

// RemoveWebhook removes an operator's endpoint. The error matches ErrForbidden or
// store.ErrNotFound, as those of all below.
func (s *Server) RemoveWebhook(ctx context.Context, op store.Operator, id string) error {
	if err := administers(op); err != nil {
		return err
	}
	return s.Store.RemoveWebhook(ctx, op, id)
}

// RotateWebhook gives an endpoint a new secret. The one before stays good for
// overlap. The error matches ErrInvalid too.
func (s *Server) RotateWebhook(ctx context.Context, op store.Operator, id string, overlap time.Duration) (store.Webhook, error) {
	if err := administers(op); err != nil {
		return store.Webhook{}, err
	}
	if overlap < 0 || overlap > MaxOverlap {
		return store.Webhook{}, fmt.Errorf("%w: an overlap of %s, at most %s", ErrInvalid, overlap, MaxOverlap)
	}
	secret, err := webhook.NewSecret()
	if err != nil {
		return store.Webhook{}, err
	}
	return s.Store.RotateWebhook(ctx, op, id, secret, overlap)
}

// EnableWebhook has an endpoint told again that was disabled.
func (s *Server) EnableWebhook(ctx context.Context, op store.Operator, id string) (store.Webhook, error) {
	if err := administers(op); err != nil {
		return store.Webhook{}, err
	}
	return s.Store.EnableWebhook(ctx, op, id)
}

// TestWebhook sends an endpoint a message that tells of nothing, one for each
// key where that is not empty. The error matches store.ErrState where it is
// disabled.
func (s *Server) TestWebhook(ctx context.Context, op store.Operator, id, key string) (d store.Delivery, replayed bool, err error) {
	if err := administers(op); err != nil {
		return store.Delivery{}, false, err
	}
	return s.Store.TestWebhook(ctx, op, id, "msg_"+keyed(op, "test", key))
}

// Deliveries are what an endpoint was or is to be told, as store.Deliveries lists
// it.
func (s *Server) Deliveries(ctx context.Context, op store.Operator, id string, before int64, limit int) ([]store.Delivery, error) {
	if err := administers(op); err != nil {
		return nil, err
	}
	return s.Store.Deliveries(ctx, op.ID, id, before, limit)
}

// Redeliver sends an endpoint a message again, at once.
func (s *Server) Redeliver(ctx context.Context, op store.Operator, id, message string) (store.Delivery, error) {
	if err := administers(op); err != nil {
		return store.Delivery{}, err
	}
	return s.Store.Redeliver(ctx, op, id, message)
}

// deliver sends endpoints what they are to be told until ctx ends, and waits for
// what is under way then. Any server sends what any server wrote; a lease keeps
// them from sending the same.
func (s *Server) deliver(ctx context.Context) {
	var (
		mu       sync.Mutex
		underWay = map[string]int{} // by endpoint
		all      int
		sending  sync.WaitGroup
	)
	defer sending.Wait()
	free := func(w *store.Webhook) int {
		mu.Lock()
		defer mu.Unlock()
		most := sendingsOfOne
		if w.FailingSince != nil {
			most = 1
		}
		return min(most-underWay[w.ID], sendingsOfAll-all)
	}
	count := func(id string, n int) {
		mu.Lock()
		defer mu.Unlock()
		all += n
		if underWay[id] += n; underWay[id] == 0 {
			delete(underWay, id)
		}
	}
	ended := make(chan struct{}, 1)
	tick := time.NewTicker(s.Poll)
	defer tick.Stop()
	var pruned time.Time
	for {
		select {
		case <-tick.C:
		case <-ended: // there may be more
		case <-ctx.Done():
			return
		}
		if time.Since(pruned) >= pruneEvery {
			pruned = time.Now()
			s.prune(ctx)
		}
		due, err := s.Store.DueWebhooks(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Error("webhooks not looked at", "error", err)
			}
			continue
		}
		for i := range due {
			w := &due[i]
			n := free(w)
			if n <= 0 {
				continue
			}
			list, err := s.Store.ClaimDeliveries(ctx, w.ID, s.Webhooks.Timeout+deliveryMargin, n)
			if err != nil {
				if ctx.Err() == nil {
					s.Log.Error("webhook's messages not claimed", "webhook", w.ID, "error", err)
				}
				continue
			}
			for _, d := range list {
				count(w.ID, 1)
				sending.Go(func() {
					s.tellOf(w, d)
					count(w.ID, -1)
					select {
					case ended <- struct{}{}:
					default:
					}
				})
			}
		}
	}
}

// tellOf sends one message and records what came of it.
func (s *Server) tellOf(w *store.Webhook, d store.Delivery) {
	payload, err := s.payload(s.work, d)
	if err != nil {
		s.Log.Error("webhook's message not written", "webhook", w.ID, "message", d.ID, "error", err)
		return // it is due again after its lease
	}
	r := s.Webhooks.Send(s.work, w.URL, d.ID, payload, w.Secrets(s.Store.Now())...)
	s.Observer.Delivered(r.Delivered(), r.Took)
	ctx, cancel := s.recording()
	defer cancel()
	if !r.Delivered() && s.work.Err() != nil {
		err = s.Store.ReturnDelivery(ctx, d) // it was cut off here
	} else {
		a := store.Attempted{
			Attempt:   store.Attempt{At: r.At.UTC(), Took: r.Took, Status: r.Status, Error: r.Error},
			Delivered: r.Delivered(), Patience: s.Webhooks.Patience,
		}
		if r.Gone {
			a.Disable = "it answered 410 Gone"
		}
		a.Again, _ = s.Webhooks.Next(d.Failures+1, r)
		err = s.Store.RecordDelivery(ctx, *w, d, a)
	}
	if err != nil && !errors.Is(err, store.ErrFenced) {
		s.Log.Error("webhook's message not recorded", "webhook", w.ID, "message", d.ID, "error", err)
		return
	}
	s.Log.Debug("webhook", "webhook", w.ID, "message", d.ID, "type", d.Type, "status", r.Status, "error", r.Error, "took", r.Took)
}

// payload is a message's body: the same each time that it is sent.
func (s *Server) payload(ctx context.Context, d store.Delivery) ([]byte, error) {
	m := webhook.Message{Type: d.Type, Timestamp: d.CreatedAt}
	data := any(map[string]string{"webhook": d.Webhook})
	if d.Request != nil {
		asked, approved, err := s.Users(ctx, *d.Request)
		if err != nil {
			return nil, err
		}
		data = s.Show(*d.Request, asked, approved)
	}
	var err error
	if m.Data, err = json.Marshal(data); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func (s *Server) prune(ctx context.Context) {
	for n := int64(pruneAtOnce); n == pruneAtOnce; {
		var err error
		if n, err = s.Store.PruneDeliveries(ctx, pruneAtOnce); err != nil {
			if ctx.Err() == nil {
				s.Log.Error("webhooks' messages not pruned", "error", err)
			}
			return
		}
	}
}
