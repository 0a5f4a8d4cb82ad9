package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// client is one that makes requests of the interface over HTTP.
func (f *fixture) client(token string) *client.Client {
	srv := httptest.NewServer(f.api)
	f.Cleanup(srv.Close)
	c, err := client.New(srv.URL, token, nil)
	require.NoError(f, err)
	return c
}

func TestFilters(t *testing.T) {
	f := newFixture(t)
	c := f.client(f.token)
	for n := 1; n <= 3; n++ {
		f.register(n)
	}
	eid := func(n int) string { return servertest.EID(n).String() }
	_, err := c.SetGroups(t.Context(), eid(2), client.CardGroups{Groups: []string{"meters"}})
	require.NoError(t, err)
	ids := map[string]int{}
	for n := 1; n <= 3; n++ {
		d, err := c.Deactivate(t.Context(), client.DeactivateParams{}, client.DeactivationRequest{EID: eid(n), Reason: int64(n)})
		require.NoError(t, err)
		ids[d.ID] = n
	}
	reason, yes, no := int64(3), true, false
	for _, tt := range []struct {
		ask  client.ListDeactivationsParams
		want []int
	}{
		{client.ListDeactivationsParams{}, []int{3, 2, 1}},
		{client.ListDeactivationsParams{EID: eid(2)}, []int{2}},
		{client.ListDeactivationsParams{ICCID: servertest.ICCID(1, 0).String()}, []int{1}},
		{client.ListDeactivationsParams{State: []client.DeactivationState{"waiting", "done"}}, []int{3, 2, 1}},
		{client.ListDeactivationsParams{State: []client.DeactivationState{"held"}}, nil},
		{client.ListDeactivationsParams{User: "default", Group: "meters"}, []int{2}},
		{client.ListDeactivationsParams{User: "who"}, nil},
		{client.ListDeactivationsParams{Reason: &reason}, []int{3}},
		{client.ListDeactivationsParams{Since: time.Now().Add(-time.Minute), Until: time.Now().Add(time.Minute)}, []int{3, 2, 1}},
		{client.ListDeactivationsParams{Since: time.Now().Add(time.Minute)}, nil},
	} {
		var got []int
		tt.ask.Limit = 1
		for pages := 0; ; pages++ {
			require.Less(t, pages, 5)
			page, err := c.ListDeactivations(t.Context(), tt.ask)
			require.NoError(t, err)
			for _, d := range page.Deactivations {
				got = append(got, ids[d.ID])
			}
			if tt.ask.Cursor = page.Next; page.Next == "" {
				break
			}
		}
		assert.Equal(t, tt.want, got, "%+v", tt.ask)
	}
	for _, tt := range []struct {
		ask  client.ListCardsParams
		want int
	}{
		{client.ListCardsParams{}, 3},
		{client.ListCardsParams{Group: "meters"}, 1},
		{client.ListCardsParams{ICCID: servertest.ICCID(3, 1).String()}, 1},
		{client.ListCardsParams{ProfileState: "absent"}, 0},
		{client.ListCardsParams{Unsettled: &yes}, 3},
		{client.ListCardsParams{Unsettled: &no}, 0},
	} {
		page, err := c.ListCards(t.Context(), tt.ask)
		require.NoError(t, err)
		assert.Len(t, page.Cards, tt.want, "%+v", tt.ask)
	}
}

// A cursor is of one kind of list, and of one shape.
func TestCursors(t *testing.T) {
	f := newFixture(t)
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for _, path := range []string{"/v1/cards", "/v1/deactivations", "/v1/readers"} {
		for _, cursor := range []string{"x", "====", encode("x1"), encode("w1"), encode("c"), encode("d1"), encode("d1.2x"), encode("d01.2"), encode("c12"), encode("\x00"), encode("d9223372036854775808.1")} {
			p := f.do("GET", path+"?cursor="+cursor, f.token, "").problem(http.StatusUnprocessableEntity)
			assert.Equal(t, "query.cursor", p.Errors[0].Location)
		}
	}
	for n := range 3 {
		f.readers.Insert(fmt.Sprint("reader ", n), servertest.Card(servertest.Image(n)), nil)
	}
	c := f.client(f.token)
	require.Eventually(t, func() bool {
		page, err := c.ListReaders(t.Context(), client.ListReadersParams{})
		return err == nil && len(page.Readers) == 3
	}, 10*time.Second, 10*time.Millisecond)
	var names []string
	for ask := (client.ListReadersParams{Limit: 2}); ; {
		page, err := c.ListReaders(t.Context(), ask)
		require.NoError(t, err)
		for _, r := range page.Readers {
			names = append(names, r.Name)
		}
		if ask.Cursor = page.Next; page.Next == "" {
			break
		}
	}
	assert.Equal(t, []string{"reader 0", "reader 1", "reader 2"}, names)
}

// A request that comes again under its key makes nothing anew, and gives the same.
func TestIdempotencyOfWebhooks(t *testing.T) {
	f := newFixture(t)
	c := f.client(f.token)
	ask := client.WebhookRequest{URL: "https://example.com/", Types: []client.WebhookRequestTypes{"deactivation.held", "deactivation.finished"}}
	first, err := c.AddWebhook(t.Context(), client.AddWebhookParams{IdempotencyKey: "k"}, ask)
	require.NoError(t, err)
	again := f.do("POST", "/v1/webhooks", f.token, `{"url":"https://example.com/","types":["deactivation.finished","deactivation.held"]}`, "Idempotency-Key", "k")
	assert.Equal(t, http.StatusCreated, again.Code)
	assert.Equal(t, "true", again.Header().Get("Idempotency-Replayed"))
	assert.Equal(t, "/v1/webhooks/"+first.ID, again.Header().Get("Location"))
	var w api.Webhook
	again.into(&w)
	assert.Equal(t, first.Secret, w.Secret)
	p := f.do("POST", "/v1/webhooks", f.token, `{"url":"https://example.com/other"}`, "Idempotency-Key", "k").problem(http.StatusUnprocessableEntity)
	assert.Contains(t, p.Type, "#idempotency-key-reused")
	theirs, err := f.client(f.other).AddWebhook(t.Context(), client.AddWebhookParams{IdempotencyKey: "k"}, ask)
	require.NoError(t, err)
	assert.NotEqual(t, first.ID, theirs.ID, "keys are an operator's own")
	one, err := c.GetWebhook(t.Context(), first.ID)
	require.NoError(t, err)
	assert.Empty(t, one.Secret)
	list, err := c.ListWebhooks(t.Context())
	require.NoError(t, err)
	assert.Len(t, list.Webhooks, 1)

	test, err := c.TestWebhook(t.Context(), first.ID, client.TestWebhookParams{IdempotencyKey: "k"})
	require.NoError(t, err)
	same, err := c.TestWebhook(t.Context(), first.ID, client.TestWebhookParams{IdempotencyKey: "k"})
	require.NoError(t, err)
	assert.Equal(t, test.ID, same.ID)
	other, err := c.TestWebhook(t.Context(), first.ID, client.TestWebhookParams{IdempotencyKey: "l"})
	require.NoError(t, err)
	assert.NotEqual(t, test.ID, other.ID)
	f.do("GET", "/v1/webhooks/"+first.ID, f.other, "").problem(http.StatusNotFound)
	r := f.do("POST", "/v1/cards", f.token, string(servertest.Record(servertest.Image(1))))
	assert.Equal(t, "/v1/cards/"+servertest.EID(1).String(), r.Header().Get("Location"))
}
