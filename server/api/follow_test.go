package api_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// Who follows a request is told each step once, whatever cuts the stream off,
// and at last its record.
func TestFollow(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	var streams atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := streams.Add(1)
		if n == 3 {
			f.readers.Insert("reader", servertest.Card(servertest.Image(1)), nil)
		}
		if n <= 3 {
			ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
			defer cancel()
			f.api.ServeHTTP(w, r.WithContext(ctx))
			panic(http.ErrAbortHandler)
		}
		f.api.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	defer srv.Close()
	c, err := client.New(srv.URL, f.token, nil)
	require.NoError(t, err)
	var steps []client.Step
	end, err := c.Follow(t.Context(), d.ID, func(s client.Step) { steps = append(steps, s) })
	require.NoError(t, err)
	assert.Equal(t, client.DeactivationStateDone, end.State)
	assert.Greater(t, streams.Load(), int32(2))
	all, err := c.ListSteps(t.Context(), d.ID, client.ListStepsParams{})
	require.NoError(t, err)
	assert.Equal(t, all.Steps, steps)

	_, err = c.Follow(t.Context(), "01890a5d-ac96-774b-bcce-b302099a8057", nil)
	var report *client.Problem
	require.ErrorAs(t, err, &report)
	assert.EqualValues(t, http.StatusNotFound, report.Status)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Follow(ctx, d.ID, func(client.Step) {})
	assert.ErrorIs(t, err, context.Canceled)
}
