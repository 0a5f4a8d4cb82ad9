package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// budget is what the guard allows where all there is may be asked for.
const budget = "{max: 100000000, ceiling: 1000000000}"

// keyPrefix begins each Idempotency-Key.
const keyPrefix = "benchapi-"

// world is a server with an operator and its registered cards, on loopback. It
// does nothing by itself while it is measured.
type world struct {
	*server.Server
	store   *store.Store
	readers *servertest.Readers
	op      store.Operator
	cards   int
	web     *api.API
	url     string
	token   string
	http    *http.Client
	made    atomic.Int64 // requests
	one     string       // the id of one of them
	end     func() error

	mu       sync.Mutex
	learning bool
	said     []statement
}

func newWorld(ctx context.Context, record string, cards int, opts ...store.Option) (w *world, err error) {
	w = &world{readers: servertest.NewReaders(), cards: cards}
	if w.store, err = store.Open(ctx, record, append(opts, store.WithTimings(w.hear))...); err != nil {
		return nil, err
	}
	set := servertest.RulesWith(budget)
	w.Server, err = server.New(server.Config{
		Store: w.store, Inventory: inventory.New(w.readers, quiet), Terminal: servertest.Terminal(), Log: quiet,
		Rules: func() *rules.Set { return set }, Poll: time.Hour,
	})
	if err != nil {
		return nil, err
	}
	if w.op, w.token, err = server.AddOperator(ctx, w.store, "bench", servertest.Owner, "", store.AllRoles); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.url = "http://" + ln.Addr().String()
	w.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	engine, served := make(chan error, 1), make(chan error, 1)
	w.web = api.New(w.Server, quiet, api.WithLimits(api.Limits{}))
	web := api.NewServer(w.web)
	go func() { engine <- w.Run(running) }()
	go func() { served <- web.Serve(ln) }()
	w.end = func() error {
		stop()
		err := errors.Join(<-engine, web.Close())
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return errors.Join(err, w.store.Close())
	}
	<-w.Started()
	for n := range cards {
		if _, _, err := w.RegisterCard(ctx, w.op, servertest.Record(servertest.Image(n))); err != nil {
			return nil, errors.Join(err, w.end())
		}
	}
	return w, nil
}

func (w *world) close() { _ = w.end() } // all of it is thrown away

// hear keeps the statements of a request that is learned.
func (w *world) hear(query string, args []any, _ time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.learning {
		return
	}
	kept := make([]any, len(args))
	for i, a := range args {
		if b, ok := a.([]byte); ok {
			a = slices.Clone(b)
		}
		kept[i] = a
	}
	w.said = append(w.said, statement{query, kept})
}

// learn gives the statements of one request.
func (w *world) learn(ctx context.Context, request func(context.Context) error) ([]statement, error) {
	if err := request(ctx); err != nil { // what is made once is made
		return nil, err
	}
	w.mu.Lock()
	w.learning, w.said = true, nil
	w.mu.Unlock()
	err := request(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.learning = false
	return w.said, err
}

// kind is what is asked of the interface at url.
type kind struct {
	name    string
	request func(ctx context.Context, url string) error
}

// at is a request of a kind to whoever is there.
func (k kind) at(url string) func(context.Context) error {
	return func(ctx context.Context) error { return k.request(ctx, url) }
}

// echo is net/http and nothing else: it answers what the interface answered to
// the first request.
func (w *world) echo() *httptest.Server {
	var once sync.Once
	var answer *httptest.ResponseRecorder
	return httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		once.Do(func() {
			answer = httptest.NewRecorder()
			r.Body = io.NopCloser(bytes.NewReader(body))
			w.web.ServeHTTP(answer, r)
		})
		maps.Copy(rw.Header(), answer.Header())
		rw.WriteHeader(answer.Code)
		_, _ = rw.Write(answer.Body.Bytes())
	}))
}

func (w *world) kinds() []kind {
	return []kind{
		{"read", func(ctx context.Context, url string) error {
			return w.call(ctx, http.MethodGet, url+"/v1/deactivations/"+w.one, nil, nil)
		}},
		{"list", func(ctx context.Context, url string) error {
			return w.call(ctx, http.MethodGet, url+"/v1/deactivations?limit=50", nil, nil)
		}},
		{"create", w.create},
	}
}

// create asks for the deactivation of a card that is in no reader: it waits.
func (w *world) create(ctx context.Context, url string) error {
	n := w.made.Add(1)
	var id struct{ ID string }
	body := []byte(`{"eid":"` + servertest.EID(int(n)%w.cards).String() + `"}`)
	if err := w.call(ctx, http.MethodPost, url+"/v1/deactivations", body, &id, "Idempotency-Key", keyPrefix+strconv.FormatInt(n, 10)); err != nil {
		return err
	}
	if n == 1 {
		w.one = id.ID
	}
	return nil
}

func (w *world) call(ctx context.Context, method, url string, body []byte, out any, header ...string) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, b)
	}
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// rate is how often a second clients do something, each as soon as it did it
// before, for a time.
func rate(ctx context.Context, clients int, during time.Duration, do func(context.Context) error) (float64, error) {
	began, until := time.Now(), time.Now().Add(during)
	var n atomic.Int64
	errs := make([]error, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for time.Now().Before(until) && errs[i] == nil {
				errs[i] = do(ctx)
				n.Add(1)
			}
		})
	}
	all.Wait()
	return float64(n.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

// insert puts all cards into readers, and waits until they are known and read.
func (w *world) insert(ctx context.Context) error {
	for n := range w.cards {
		w.readers.Insert(fmt.Sprintf("reader %04d", n), servertest.Card(servertest.Image(n)), nil)
	}
	for range 600 {
		ready := 0
		for n := range w.cards {
			if c, err := w.store.Card(ctx, servertest.EID(n), 0); err == nil && !c.Unsettled {
				ready++
			}
		}
		if ready == w.cards && len(w.Inventory.EIDs()) == w.cards {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the cards are not known after a minute")
}

// deactivations deactivates some cards, and gives how many a second.
func (w *world) deactivations(ctx context.Context, first, many, clients int) (float64, error) {
	began := time.Now()
	var next atomic.Int64
	errs := make([]error, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for errs[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= many {
					return
				}
				errs[i] = w.deactivate(ctx, first+n)
			}
		})
	}
	all.Wait()
	return float64(many) / time.Since(began).Seconds(), errors.Join(errs...)
}

// deactivate waits for the end of a request, by looking: without the audit trail
// nobody is told of steps.
func (w *world) deactivate(ctx context.Context, n int) error {
	req, _, err := w.Deactivate(ctx, w.op, server.Deactivation{EID: servertest.EID(n)})
	if err != nil {
		return err
	}
	for range 30_000 {
		r, err := w.store.Request(ctx, req.ID)
		if err != nil {
			return err
		}
		if r.FinishedAt != nil {
			if r.State != store.Done {
				return fmt.Errorf("request of card %d ended %s: %s", n, r.State, r.Detail)
			}
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("request of card %d does not end", n)
}
