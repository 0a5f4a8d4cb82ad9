package server_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// receiver is an endpoint on loopback that keeps what it is told.
type receiver struct {
	*httptest.Server
	testing.TB
	answer atomic.Pointer[http.HandlerFunc] // nil: 204

	mu       sync.Mutex
	received []told
}

// told is one message as it came.
type told struct {
	id, timestamp, signature string
	body                     string
	message                  struct {
		Type      string
		Timestamp time.Time
		Data      struct {
			ID, State, Detail, Webhook string
			Finished                   bool
		}
	}
}

func receive(t testing.TB) *receiver {
	r := &receiver{TB: t}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		assert.NoError(t, err)
		m := told{id: req.Header.Get("webhook-id"), timestamp: req.Header.Get("webhook-timestamp"), signature: req.Header.Get("webhook-signature"), body: string(b)}
		assert.NoError(t, json.Unmarshal(b, &m.message))
		r.mu.Lock()
		r.received = append(r.received, m)
		r.mu.Unlock()
		if answer := r.answer.Load(); answer != nil {
			(*answer)(w, req)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	t.Cleanup(r.Close)
	return r
}

// answers has the receiver answer so; nil: well.
func (r *receiver) answers(f http.HandlerFunc) {
	if f == nil {
		r.answer.Store(nil)
		return
	}
	r.answer.Store(&f)
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

func (r *receiver) all() []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]told{}, r.received...)
}

// got waits for n messages.
func (r *receiver) got(n int) []told {
	r.Helper()
	require.Eventually(r, func() bool { return len(r.all()) >= n }, 20*time.Second, 2*time.Millisecond, "%d messages", n)
	return r.all()
}

// signedBy checks a signature by the specification's words alone.
func (m told) signedBy(t testing.TB, secrets ...string) {
	t.Helper()
	var want []string
	for _, s := range secrets {
		text, found := strings.CutPrefix(s, "whsec_")
		require.True(t, found)
		key, err := base64.StdEncoding.DecodeString(text)
		require.NoError(t, err)
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", m.id, m.timestamp, m.body)
		want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	assert.Equal(t, strings.Join(want, " "), m.signature)
}

// roots trusts the receivers' certificates.
func roots(list ...*receiver) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, r := range list {
		pool.AddCert(r.Certificate())
	}
	return pool
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// house is servers over one record, on either database.
type house struct {
	testing.TB
	where   string
	store   *store.Store
	faults  atomic.Pointer[func(write string, committed bool) error]
	readers *servertest.Readers
	log     *logBuffer
	op      store.Operator
	client  webhook.Config
	rules   func() *rules.Set
	servers []*server.Server
	ends    []func()
}

// drivers runs a test on SQLite and on PostgreSQL.
func drivers(t *testing.T, f func(*house)) {
	for name, where := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return servertest.NewRecord(t, migrate) },
		"postgres": func(t *testing.T) string { return postgres.Shared(t).NewDatabase(t, "") },
	} {
		t.Run(name, func(t *testing.T) {
			h := &house{TB: t, where: where(t), readers: servertest.NewReaders(), log: &logBuffer{}, rules: servertest.Rules}
			h.client = webhook.Config{
				Allow: loopback, Timeout: 2 * time.Second,
				Schedule: []time.Duration{time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond},
			}
			h.store = h.open()
			var err error
			h.op, _, err = server.AddOperator(t.Context(), h.store, "one", servertest.Owner, "", store.AllRoles)
			require.NoError(t, err)
			t.Cleanup(h.stop)
			f(h)
		})
	}
}

func (h *house) open() *store.Store {
	s, err := store.Open(h.Context(), h.where, store.WithFaults(func(write string, committed bool) error {
		if f := h.faults.Load(); f != nil {
			return (*f)(write, committed)
		}
		return nil
	}))
	require.NoError(h, err)
	h.Cleanup(func() { s.Close() })
	return s
}

// serve starts a server on a store.
func (h *house) serve(s *store.Store) *server.Server {
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	srv, err := server.New(server.Config{
		Store: s, Inventory: inventory.New(h.readers, log), Terminal: servertest.Terminal(), Log: log, Rules: h.rules, Poll: 10 * time.Millisecond,
		Drain: time.Second, Retry: server.Backoff{Min: 2 * time.Millisecond, Max: 50 * time.Millisecond},
		Webhooks: webhook.NewClient(h.client), Show: func(r store.Request, _, _ string) any {
			return map[string]any{"id": r.ID, "state": r.State, "detail": r.Detail, "finished": r.FinishedAt != nil}
		},
	})
	require.NoError(h, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	select {
	case <-srv.Started():
	case err := <-ended:
		require.NoError(h, err)
	}
	h.servers = append(h.servers, srv)
	h.ends = append(h.ends, func() {
		cancel()
		assert.NoError(h, <-ended)
	})
	return srv
}

// stop ends the servers.
func (h *house) stop() {
	for _, end := range h.ends {
		end()
	}
	h.servers, h.ends = nil, nil
}

// hook registers an endpoint.
func (h *house) hook(r *receiver, types ...string) store.Webhook {
	w, _, err := h.servers[0].AddWebhook(h.Context(), h.op, r.URL+"/told?key=in-the-url", types, "")
	require.NoError(h, err)
	return w
}

// refuse has a request for a card that is not registered refused, which finishes
// it at once.
func (h *house) refuse(n int) store.Request {
	r, _, err := h.servers[0].Deactivate(h.Context(), h.op, server.Deactivation{EID: servertest.EID(n)})
	require.NoError(h, err)
	require.NotNil(h, r.Refusal)
	return r
}

func (h *house) deliveries(w store.Webhook) []store.Delivery {
	list, err := h.store.Deliveries(h.Context(), h.op.ID, w.ID, 0, 1000)
	require.NoError(h, err)
	return list
}

// ended waits until no message is pending.
func (h *house) ended(w store.Webhook) []store.Delivery {
	h.Helper()
	require.Eventually(h, func() bool {
		for _, d := range h.deliveries(w) {
			if d.State == store.Pending {
				return false
			}
		}
		return true
	}, 20*time.Second, 5*time.Millisecond)
	return h.deliveries(w)
}

func TestWebhooksTellOfARequest(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots = roots(r)
		srv := h.serve(h.store)
		w := h.hook(r)
		im := servertest.Image(1)
		_, _, err := srv.RegisterCard(h.Context(), h.op, servertest.Record(im))
		require.NoError(h, err)
		// The answer to the first command gets lost, and so the outcome is unknown
		// for a while.
		var lost atomic.Bool
		h.readers.Insert("reader", servertest.Card(im), func(capdu []byte, next servertest.Next) ([]byte, error) {
			out, err := next(capdu)
			if isSecured(capdu, servertest.INSDeactivate) && lost.CompareAndSwap(false, true) {
				return nil, errors.New("lost")
			}
			return out, err
		})
		req, _, err := srv.Deactivate(h.Context(), h.op, server.Deactivation{EID: im.EID})
		require.NoError(h, err)
		all := r.got(2)
		for i, want := range []struct{ kind, state string }{{webhook.Unknown, "unknown"}, {webhook.Finished, "done"}} {
			m := all[i]
			assert.Equal(h, want.kind, m.message.Type)
			assert.Equal(h, want.state, m.message.Data.State)
			assert.Equal(h, req.ID.String(), m.message.Data.ID)
			assert.WithinDuration(h, time.Now(), m.message.Timestamp, time.Minute)
			m.signedBy(h, w.Secret.Reveal())
		}
		assert.NotEqual(h, all[0].id, all[1].id)
		for _, d := range h.ended(w) {
			assert.Equal(h, store.Delivered, d.State)
			require.Len(h, d.Attempts, 1)
			assert.Equal(h, 204, d.Attempts[0].Status)
		}
		assert.Len(h, r.all(), 2, "each once")
	})
}

// A message that fails comes again under its id and with its body, until the
// receiver takes it; then all that waited comes too.
func TestWebhookReceiverDownThenUp(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots = roots(r)
		// The receiver is up again before the last of them, however slow the machine.
		h.client.Schedule = append([]time.Duration{time.Millisecond, 2 * time.Millisecond}, slices.Repeat([]time.Duration{300 * time.Millisecond}, 28)...)
		h.serve(h.store)
		w := h.hook(r)
		r.answers(status(http.StatusInternalServerError))
		h.refuse(1)
		down := r.got(3)
		listed, err := h.servers[0].ListWebhooks(h.Context(), h.op)
		require.NoError(h, err)
		require.NotNil(h, listed[0].FailingSince)
		r.answers(nil)
		d := h.ended(w)[0]
		assert.Equal(h, store.Delivered, d.State)
		assert.Equal(h, 500, d.Attempts[0].Status)
		assert.Equal(h, "it answers 500", d.Attempts[0].Error)
		assert.Equal(h, 204, d.Attempts[len(d.Attempts)-1].Status)
		for _, m := range r.all() {
			assert.Equal(h, down[0].id, m.id)
			assert.Equal(h, down[0].body, m.body)
			m.signedBy(h, w.Secret.Reveal())
		}
		require.Eventually(h, func() bool {
			listed, err := h.servers[0].ListWebhooks(h.Context(), h.op)
			return err == nil && listed[0].FailingSince == nil
		}, 10*time.Second, 5*time.Millisecond)
	})
}

func TestWebhookAnswers(t *testing.T) {
	drivers(t, func(h *house) {
		slow := make(chan struct{})
		r, elsewhere := receive(h), receive(h)
		h.Cleanup(func() { close(slow) }) // before the receivers close
		h.client.Roots, h.client.Timeout = roots(r, elsewhere), 300*time.Millisecond
		h.client.Schedule = []time.Duration{time.Millisecond}
		h.serve(h.store)
		for name, c := range map[string]struct {
			answer http.HandlerFunc
			status int
			text   string
		}{
			"redirect": {status(http.StatusTemporaryRedirect, "Location", elsewhere.URL), 307, "redirects"},
			"refused":  {status(http.StatusBadRequest), 400, "answers 400"},
			"silent":   {func(http.ResponseWriter, *http.Request) { <-slow }, 0, "no answer in time"},
			"huge header": {func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X", strings.Repeat("x", 100_000))
			}, 0, "cut off"},
			"cut off": {func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, 0, "cut off"},
			"slow body": {func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "10")
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
				<-slow
			}, 200, ""},
			"huge body": {func(w http.ResponseWriter, req *http.Request) {
				for b := make([]byte, 1<<16); ; {
					if _, err := w.Write(b); err != nil {
						return // it is not read to its end, which there is not
					}
				}
			}, 200, ""},
		} {
			w := h.hook(r)
			r.answers(c.answer)
			_, _, err := h.servers[0].TestWebhook(h.Context(), h.op, w.ID, "")
			require.NoError(h, err)
			d := h.ended(w)[0]
			last := d.Attempts[len(d.Attempts)-1]
			assert.Equal(h, c.status, last.Status, name)
			if c.text == "" {
				assert.Equal(h, store.Delivered, d.State, name)
			} else {
				assert.Equal(h, store.GivenUp, d.State, name)
				assert.Len(h, d.Attempts, 2, name)
				assert.Contains(h, last.Error, c.text, name)
			}
			require.NoError(h, h.servers[0].RemoveWebhook(h.Context(), h.op, w.ID))
		}
		assert.Empty(h, elsewhere.all(), "no redirect is followed")
	})
}

func TestWebhookRetryAfterAndGone(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots = roots(r)
		h.serve(h.store)
		w := h.hook(r)
		r.answers(status(http.StatusTooManyRequests, "Retry-After", "3600"))
		h.refuse(1)
		r.got(1)
		require.Eventually(h, func() bool { return len(h.deliveries(w)[0].Attempts) == 1 }, 10*time.Second, 5*time.Millisecond)
		d := h.deliveries(w)[0]
		assert.Equal(h, store.Pending, d.State)
		assert.WithinDuration(h, time.Now().Add(time.Hour), *d.DueAt, time.Minute)

		// Somebody does not want to wait; and the endpoint wants no more.
		r.answers(status(http.StatusGone))
		_, err := h.servers[0].Redeliver(h.Context(), h.op, w.ID, d.ID)
		require.NoError(h, err)
		assert.Equal(h, store.GivenUp, h.ended(w)[0].State)
		listed, err := h.servers[0].ListWebhooks(h.Context(), h.op)
		require.NoError(h, err)
		require.NotNil(h, listed[0].DisabledAt)
		assert.Contains(h, listed[0].DisabledWhy, "410")
		_, _, err = h.servers[0].TestWebhook(h.Context(), h.op, w.ID, "")
		assert.ErrorIs(h, err, store.ErrState)
		r.answers(nil)
		h.refuse(2)
		assert.Len(h, h.deliveries(w), 1, "it is told nothing any more")

		_, err = h.servers[0].EnableWebhook(h.Context(), h.op, w.ID)
		require.NoError(h, err)
		h.refuse(3)
		r.got(3)
		assert.Equal(h, store.Delivered, h.ended(w)[0].State)
	})
}

// An endpoint whose messages all fail for days is told nothing any more.
func TestWebhookPatience(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots, h.client.Patience = roots(r), 100*time.Millisecond
		h.client.Schedule = []time.Duration{time.Millisecond, 150 * time.Millisecond, time.Hour}
		h.serve(h.store)
		w := h.hook(r)
		r.answers(status(http.StatusBadGateway))
		h.refuse(1)
		require.Eventually(h, func() bool {
			listed, err := h.servers[0].ListWebhooks(h.Context(), h.op)
			return err == nil && listed[0].DisabledAt != nil
		}, 10*time.Second, 5*time.Millisecond)
		assert.Equal(h, store.Pending, h.deliveries(w)[0].State, "it waits until somebody enables the endpoint")
		r.answers(nil)
		_, err := h.servers[0].EnableWebhook(h.Context(), h.op, w.ID)
		require.NoError(h, err)
		_, err = h.servers[0].Redeliver(h.Context(), h.op, w.ID, h.deliveries(w)[0].ID)
		require.NoError(h, err)
		assert.Equal(h, store.Delivered, h.ended(w)[0].State)
		events, err := h.store.Events(h.Context(), 0, 1000)
		require.NoError(h, err)
		var kinds []string
		for _, e := range events {
			if strings.HasPrefix(e.Kind, "webhook") {
				kinds = append(kinds, e.Kind)
			}
		}
		assert.Equal(h, []string{"webhook added", "webhook disabled", "webhook enabled", "webhook message sent again"}, kinds)
	})
}

// Endpoints that hang do not keep others from being told.
func TestDeadWebhooksLeaveOthersAlone(t *testing.T) {
	drivers(t, func(h *house) {
		hang := make(chan struct{})
		dead, alive := receive(h), receive(h)
		h.Cleanup(func() { close(hang) })
		dead.answers(func(http.ResponseWriter, *http.Request) { <-hang })
		h.client.Roots, h.client.Timeout = roots(dead, alive), 30*time.Second
		h.serve(h.store)
		h.hook(dead)
		h.hook(dead)
		w := h.hook(alive)
		for n := range 30 {
			h.refuse(n)
		}
		alive.got(30)
		h.ended(w)
		assert.LessOrEqual(h, len(dead.all()), 2*4, "at once to each")
	})
}

// The outbox is written with the step that it tells of, and outlives whoever
// wrote it; messages under way when a server ends are sent again by the next.
func TestWebhookOutboxSurvives(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots = roots(r)
		h.serve(h.store)
		w := h.hook(r)
		fail := func(write string, _ bool) error {
			if write == "claim deliveries" {
				return errors.New("no")
			}
			return nil
		}
		h.faults.Store(&fail)
		h.refuse(1) // committed, and this server dies before it sends
		h.stop()
		assert.Empty(h, r.all())
		assert.Equal(h, store.Pending, h.deliveries(w)[0].State)
		h.faults.Store(nil)
		h.serve(h.store)
		r.got(1)
		h.ended(w)

		// What was sent and could not be recorded comes again: at least once.
		lose := func(write string, _ bool) error {
			if write == "record delivery" {
				return errors.New("no")
			}
			return nil
		}
		h.faults.Store(&lose)
		h.refuse(2)
		sent := r.got(2)
		h.stop()
		h.faults.Store(nil)
		h.serve(h.store)
		_, err := h.servers[0].Redeliver(h.Context(), h.op, w.ID, sent[1].id) // not to wait for the lease
		require.NoError(h, err)
		again := r.got(3)
		assert.Equal(h, sent[1].id, again[2].id)
		assert.Equal(h, sent[1].body, again[2].body)

		// Cut off in the middle by the end of the server.
		hang := make(chan struct{})
		r.answers(func(http.ResponseWriter, *http.Request) { <-hang })
		h.ended(w)
		h.refuse(3)
		cut := r.got(4)
		h.stop()
		close(hang)
		d := h.deliveries(w)[0]
		assert.Equal(h, store.Pending, d.State)
		assert.Zero(h, d.Failures, "that is no failure of the receiver's")
		r.answers(nil)
		h.serve(h.store)
		assert.Equal(h, cut[3].id, r.got(5)[4].id)
	})
}

// Servers that share a record send each message once while all goes well.
func TestTwoServersTellOnce(t *testing.T) {
	h := &house{TB: t, where: postgres.Shared(t).NewDatabase(t, ""), readers: servertest.NewReaders(), log: &logBuffer{}, rules: servertest.Rules}
	h.client = webhook.Config{Allow: loopback}
	h.store = h.open()
	var err error
	h.op, _, err = server.AddOperator(t.Context(), h.store, "one", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	t.Cleanup(h.stop)
	r := receive(t)
	h.client.Roots = roots(r)
	h.serve(h.store)
	h.serve(h.open())
	h.serve(h.open())
	w := h.hook(r)
	const n = 100
	for i := range n {
		h.refuse(i)
	}
	r.got(n)
	for _, d := range h.ended(w) {
		assert.Len(t, d.Attempts, 1)
	}
	seen := map[string]bool{}
	for _, m := range r.all() {
		assert.False(t, seen[m.id], "once")
		seen[m.id] = true
		m.signedBy(t, w.Secret.Reveal())
	}
	assert.Len(t, seen, n)
}

func TestWebhookRotation(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots = roots(r)
		srv := h.serve(h.store)
		first := h.hook(r)
		second, err := srv.RotateWebhook(h.Context(), h.op, first.ID, time.Hour)
		require.NoError(h, err)
		h.refuse(1)
		r.got(1)[0].signedBy(h, second.Secret.Reveal(), first.Secret.Reveal())
		third, err := srv.RotateWebhook(h.Context(), h.op, first.ID, time.Hour)
		require.NoError(h, err)
		h.refuse(2)
		r.got(2)[1].signedBy(h, third.Secret.Reveal(), second.Secret.Reveal())
		fourth, err := srv.RotateWebhook(h.Context(), h.op, first.ID, 0)
		require.NoError(h, err)
		h.refuse(3)
		r.got(3)[2].signedBy(h, fourth.Secret.Reveal())
		for _, overlap := range []time.Duration{-1, server.MaxOverlap + 1} {
			_, err := srv.RotateWebhook(h.Context(), h.op, first.ID, overlap)
			assert.ErrorIs(h, err, server.ErrInvalid)
		}

		// No secret is in what is written for others to read, nor the URL's path.
		h.stop()
		events, err := h.store.Events(h.Context(), 0, 1000)
		require.NoError(h, err)
		text, err := json.Marshal(events)
		require.NoError(h, err)
		written := string(text) + h.log.String() + fmt.Sprintf("%v %+v %#v %s %x %q", first, first, first, first.Secret, first.Secret, second.Secret)
		for _, w := range []store.Webhook{first, second, third, fourth} {
			for _, secret := range []string{w.Secret.Reveal()[6:], fmt.Sprintf("%x", w.Secret.Bytes()), fmt.Sprint(w.Secret.Bytes())} {
				assert.NotContains(h, written, secret)
			}
		}
		assert.NotContains(h, string(text)+h.log.String(), "in-the-url")
	})
}

func TestWebhookTypesAndBounds(t *testing.T) {
	drivers(t, func(h *house) {
		r, all := receive(h), receive(h)
		h.client.Roots = roots(r, all)
		srv := h.serve(h.store)
		h.hook(r, webhook.Unknown, webhook.Held, webhook.Held)
		h.hook(all)
		h.refuse(1)
		all.got(1)
		assert.Empty(h, r.all(), "only what it was to be told")
		for range store.MaxWebhooks - 2 {
			h.hook(all)
		}
		_, _, err := srv.AddWebhook(h.Context(), h.op, all.URL, nil, "")
		assert.ErrorIs(h, err, store.ErrTooMany)

		other, _, err := server.AddOperator(h.Context(), h.store, "other", servertest.Other, "", store.AllRoles)
		require.NoError(h, err)
		weak, _, err := server.AddUser(h.Context(), h.store, "one", "weak", store.MayRead|store.MayRequest|store.MayApprove)
		require.NoError(h, err)
		list, err := srv.ListWebhooks(h.Context(), h.op)
		require.NoError(h, err)
		id := list[0].ID
		for op, want := range map[*store.Operator]error{&other: store.ErrNotFound, &weak: server.ErrForbidden} {
			assert.ErrorIs(h, srv.RemoveWebhook(h.Context(), *op, id), want)
			_, err = srv.RotateWebhook(h.Context(), *op, id, 0)
			assert.ErrorIs(h, err, want)
			_, err = srv.EnableWebhook(h.Context(), *op, id)
			assert.ErrorIs(h, err, want)
			_, _, err = srv.TestWebhook(h.Context(), *op, id, "")
			assert.ErrorIs(h, err, want)
			_, err = srv.Deliveries(h.Context(), *op, id, 0, 10)
			assert.ErrorIs(h, err, want)
			_, err = srv.Redeliver(h.Context(), *op, id, "msg_x")
			assert.ErrorIs(h, err, want)
		}
		_, err = srv.ListWebhooks(h.Context(), weak)
		assert.ErrorIs(h, err, server.ErrForbidden)
		_, _, err = srv.AddWebhook(h.Context(), weak, all.URL, nil, "")
		assert.ErrorIs(h, err, server.ErrForbidden)
		for _, w := range list {
			require.NoError(h, srv.RemoveWebhook(h.Context(), h.op, w.ID))
		}
		before := len(all.all())
		h.refuse(2)
		scopes, err := h.store.Guard(h.Context(), h.op.ID)
		require.NoError(h, err)
		assert.Zero(h, scopes[0].Webhooks)
		assert.Len(h, all.all(), before)
	})
}

// What waits for an approval is told of, and so is every other end, in order,
// also where the endpoint was registered after the request.
func TestWebhooksTellOfApprovals(t *testing.T) {
	drivers(t, func(h *house) {
		h.rules = func() *rules.Set { return servertest.RulesWith("{max: 1}") }
		r := receive(h)
		h.client.Roots = roots(r)
		srv := h.serve(h.store)
		second, _, err := server.AddUser(h.Context(), h.store, "one", "second", store.AllRoles)
		require.NoError(h, err)
		ask := func(n int) store.Request {
			req, _, err := srv.Deactivate(h.Context(), h.op, server.Deactivation{EID: servertest.EID(n)})
			require.NoError(h, err)
			return req
		}
		for n := range 5 {
			_, _, err := srv.RegisterCard(h.Context(), h.op, servertest.Record(servertest.Image(n)))
			require.NoError(h, err)
		}
		before, early := ask(0), ask(1)
		require.Equal(h, store.Waiting, before.State)
		require.Equal(h, store.Held, early.State)
		h.hook(r)
		rejected, cancelled := ask(2), ask(3)
		_, err = h.store.Reject(h.Context(), second, rejected.ID, store.Refusal{Rule: "four-eyes", Text: "no"})
		require.NoError(h, err)
		for _, req := range []store.Request{cancelled, early, before} {
			_, err = h.store.Cancel(h.Context(), h.op, req.ID)
			require.NoError(h, err)
		}
		states := map[string][]string{}
		for _, m := range r.got(6) {
			states[m.message.Data.ID] = append(states[m.message.Data.ID], m.message.Data.State)
		}
		assert.Equal(h, map[string][]string{
			rejected.ID.String(): {"held", "refused"}, cancelled.ID.String(): {"held", "cancelled"},
			early.ID.String(): {"cancelled"}, before.ID.String(): {"cancelled"},
		}, states)
	})
}

// Whoever claimed a message and is not heard of any more loses it.
func TestWebhookLease(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots = roots(r)
		h.serve(h.store)
		w := h.hook(r)
		h.stop()
		d, _, err := h.store.TestWebhook(h.Context(), h.op, w.ID, uuid.NewString())
		require.NoError(h, err)
		const lease = 300 * time.Millisecond
		dead, err := h.store.ClaimDeliveries(h.Context(), w.ID, lease, 10)
		require.NoError(h, err)
		require.Len(h, dead, 1)
		again, err := h.store.ClaimDeliveries(h.Context(), w.ID, lease, 10)
		require.NoError(h, err)
		assert.Empty(h, again, "it is somebody's")
		h.serve(h.store)
		assert.Equal(h, d.ID, r.got(1)[0].id)
		h.ended(w)
		late := store.Attempted{Attempt: store.Attempt{Error: "x"}}
		assert.ErrorIs(h, h.store.RecordDelivery(h.Context(), w, dead[0], late), store.ErrFenced)
		require.NoError(h, h.store.ReturnDelivery(h.Context(), dead[0]))
		assert.Equal(h, store.Delivered, h.deliveries(w)[0].State)
	})
}

// Old messages are forgotten, what still waits later than the rest.
func TestWebhookMessagesArePruned(t *testing.T) {
	drivers(t, func(h *house) {
		r := receive(h)
		h.client.Roots = roots(r)
		h.serve(h.store)
		w := h.hook(r)
		h.refuse(1)
		h.ended(w)
		h.stop()
		_, _, err := h.store.TestWebhook(h.Context(), h.op, w.ID, uuid.NewString())
		require.NoError(h, err)
		for _, c := range []struct {
			after        time.Duration
			pruned, left int64
		}{{0, 0, 2}, {store.KeepEnded + time.Minute, 1, 1}, {store.KeepPending - time.Minute, 0, 1}, {store.KeepPending + time.Minute, 1, 0}} {
			later, err := store.Open(h.Context(), h.where, store.WithClock(func() time.Time { return time.Now().Add(c.after) }))
			require.NoError(h, err)
			n, err := later.PruneDeliveries(h.Context(), 1000)
			require.NoError(h, err)
			assert.Equal(h, c.pruned, n, "after %s", c.after)
			assert.Len(h, h.deliveries(w), int(c.left))
			require.NoError(h, later.Close())
		}
	})
}
