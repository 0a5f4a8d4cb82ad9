package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/server/api"
	apiclient "github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// client is an operator's.
type client struct {
	http  *http.Client
	base  string
	token string
}

// newClient keeps one connection alive for each request that is under way.
func newClient(s started, token string, atOnce int) (*client, error) {
	config, err := apiclient.PinnedTLS(s.Pin)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{TLSClientConfig: config, MaxIdleConns: 2 * atOnce, MaxIdleConnsPerHost: 2 * atOnce}
	return &client{&http.Client{Transport: t}, s.URL, token}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	return json.Unmarshal(b, out)
}

// deactivate asks that card n's enabled profile is deactivated, and waits until
// that is done: one request, and one that is answered when the first is
// finished.
func (c *client) deactivate(ctx context.Context, n int) error {
	var d api.Deactivation
	if err := c.call(ctx, http.MethodPost, "/v1/deactivations", api.DeactivationRequest{EID: servertest.EID(n).String()}, &d); err != nil {
		return err
	}
	const wait = 30 // seconds, the most that there is
	for asked := 0; ; asked++ {
		var s api.Steps
		path := fmt.Sprintf("/v1/deactivations/%s/events?after=%d&wait_seconds=%d", d.ID, int64(math.MaxInt64), wait)
		if err := c.call(ctx, http.MethodGet, path, nil, &s); err != nil {
			return err
		}
		switch {
		case s.Finished && s.State == "done":
			return nil
		case s.Finished || asked == 10:
			return fmt.Errorf("card %d: request %s is %s", n, d.ID, s.State)
		}
	}
}

// all deactivates cards, so many at once, and gives how long it took.
func (c *client) all(ctx context.Context, cards []int, atOnce int) (time.Duration, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	queue := make(chan int, len(cards))
	for _, n := range cards {
		queue <- n
	}
	close(queue)
	began := time.Now()
	var workers sync.WaitGroup
	for range min(atOnce, len(cards)) {
		workers.Go(func() {
			for n := range queue {
				if ctx.Err() != nil {
					return
				}
				if err := c.deactivate(ctx, n); err != nil {
					stop(err)
				}
			}
		})
	}
	workers.Wait()
	return time.Since(began), context.Cause(ctx)
}

// open deactivates cards as they come in, at a mean rate and independent of each
// other, and gives how long each took from when it was due.
func (c *client) open(ctx context.Context, cards []int, rate float64) ([]time.Duration, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	took := make([]time.Duration, len(cards))
	var all sync.WaitGroup
	random := rand.New(rand.NewPCG(5, uint64(len(cards))))
	next := time.Now()
	for i, n := range cards {
		next = next.Add(time.Duration(random.ExpFloat64() / rate * float64(time.Second)))
		due := next
		time.Sleep(time.Until(due))
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			if err := c.deactivate(ctx, n); err != nil {
				stop(err)
			}
			took[i] = time.Since(due)
		})
	}
	all.Wait()
	return took, context.Cause(ctx)
}

// quantile sorts v.
func quantile(v []time.Duration, q float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
