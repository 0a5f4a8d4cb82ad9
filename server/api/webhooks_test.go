package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/store"
	"github.com/cardbridge/cardbridge/server/webhook"
)

// endpoint is a public address that nothing listens at (RFC 5737's are not
// public).
const endpoint = "https://webhook.invalid/told?key=1"

func (f *fixture) webhook(body string) api.Webhook {
	r := f.do("POST", "/v1/webhooks", f.token, body)
	require.Equal(f, http.StatusCreated, r.Code, "%s", r.Body)
	var w api.Webhook
	r.into(&w)
	return w
}

func TestWebhooks(t *testing.T) {
	f := newFixture(t)
	w := f.webhook(fmt.Sprintf(`{"url":%q,"types":["deactivation.finished","deactivation.held"]}`, endpoint))
	first, err := webhook.ParseSecret(w.Secret)
	require.NoError(t, err)
	assert.Len(t, first.Bytes(), 32)
	assert.Equal(t, endpoint, w.URL)
	assert.Equal(t, []string{"deactivation.finished", "deactivation.held"}, w.Types)
	path := "/v1/webhooks/" + w.ID

	var rotated api.Webhook
	f.do("POST", path+"/rotate", f.token, `{}`).into(&rotated)
	assert.NotEqual(t, w.Secret, rotated.Secret)
	require.NotNil(t, rotated.OverlapUntil)
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), *rotated.OverlapUntil, time.Minute)
	var at api.Webhook
	f.do("POST", path+"/rotate", f.token, `{"overlap_seconds":0}`).into(&at)
	assert.Nil(t, at.OverlapUntil)

	r := f.do("POST", path+"/test", f.token, "")
	require.Equal(t, http.StatusAccepted, r.Code, "%s", r.Body)
	var d api.Delivery
	r.into(&d)
	assert.Equal(t, "webhook.test", d.Type)
	assert.Equal(t, "pending", d.State)
	var list api.DeliveryList
	require.Eventually(t, func() bool {
		f.do("GET", path+"/deliveries", f.token, "").into(&list)
		return len(list.Deliveries) == 1 && len(list.Deliveries[0].Attempts) > 0
	}, 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, d.ID, list.Deliveries[0].ID)
	assert.NotEmpty(t, list.Deliveries[0].Attempts[0].Error, "there is no such name")
	r = f.do("POST", path+"/deliveries/"+d.ID+"/retry", f.token, "")
	assert.Equal(t, http.StatusAccepted, r.Code, "%s", r.Body)
	for range 2 {
		f.do("POST", path+"/test", f.token, "")
	}
	f.do("GET", path+"/deliveries?limit=2", f.token, "").into(&list)
	require.Len(t, list.Deliveries, 2)
	f.do("GET", path+"/deliveries?limit=2&cursor="+list.Next, f.token, "").into(&list)
	assert.Len(t, list.Deliveries, 1)

	// Once they were shown, secrets are not shown again.
	for _, get := range []string{"/v1/webhooks", path + "/deliveries", "/openapi.json"} {
		body := f.do("GET", get, f.token, "").Body.String()
		for _, w := range []api.Webhook{w, rotated, at} {
			assert.NotContains(t, body, w.Secret[6:])
		}
	}
	body := f.do("POST", path+"/enable", f.token, "").Body.String()
	assert.NotContains(t, body, "whsec_")

	r = f.do("DELETE", path, f.token, "")
	assert.Equal(t, http.StatusNoContent, r.Code)
	assert.Empty(t, r.Body.String())
	f.do("DELETE", path, f.token, "").problem(http.StatusNotFound)
	var all api.WebhookList
	f.do("GET", "/v1/webhooks", f.token, "").into(&all)
	assert.Equal(t, []api.Webhook{}, all.Webhooks)
}

func TestWebhooksRefuse(t *testing.T) {
	f := newFixture(t)
	_, weak, err := server.AddUser(t.Context(), f.store, "one", "weak", store.MayRead|store.MayRequest|store.MayApprove)
	require.NoError(t, err)
	w := f.webhook(fmt.Sprintf(`{"url":%q}`, endpoint))
	path, none := "/v1/webhooks/"+w.ID, "/v1/webhooks/00000000-0000-4000-8000-000000000000"
	for name, body := range map[string]string{
		"no url":           `{}`,
		"url empty":        `{"url":""}`,
		"url a number":     `{"url":1}`,
		"url null":         `{"url":null}`,
		"url twice":        `{"url":"https://a.example","url":"https://b.example"}`,
		"no https":         `{"url":"http://example.com"}`,
		"no scheme":        `{"url":"example.com"}`,
		"a user":           `{"url":"https://a:b@example.com"}`,
		"loopback":         `{"url":"https://127.0.0.1/"}`,
		"loopback in IPv6": `{"url":"https://[::ffff:127.0.0.1]/"}`,
		"metadata":         `{"url":"https://169.254.169.254/"}`,
		"a fragment":       `{"url":"https://example.com/#a"}`,
		"too long":         `{"url":"https://example.com/` + strings.Repeat("x", 2100) + `"}`,
		"types no list":    fmt.Sprintf(`{"url":%q,"types":"deactivation.held"}`, endpoint),
		"types unknown":    fmt.Sprintf(`{"url":%q,"types":["deactivation.*"]}`, endpoint),
		"types of SQL":     fmt.Sprintf(`{"url":%q,"types":["%%"]}`, endpoint),
		"types the test":   fmt.Sprintf(`{"url":%q,"types":["webhook.test"]}`, endpoint),
		"types many":       fmt.Sprintf(`{"url":%q,"types":[%s"deactivation.held"]}`, endpoint, strings.Repeat(`"deactivation.held",`, 8)),
		"a secret":         fmt.Sprintf(`{"url":%q,"secret":%q}`, endpoint, w.Secret),
	} {
		t.Run(name, func(t *testing.T) {
			r := f.do("POST", "/v1/webhooks", f.token, body)
			assert.Contains(t, []int{http.StatusBadRequest, http.StatusUnprocessableEntity}, r.Code, "%s", r.Body)
			r.problem(r.Code)
		})
	}
	for _, body := range []string{`{"overlap_seconds":-1}`, `{"overlap_seconds":604801}`, `{"overlap_seconds":"1"}`, `{"overlap_seconds":1.5}`, `{"x":1}`, `[]`} {
		assert.Contains(t, []int{http.StatusBadRequest, http.StatusUnprocessableEntity}, f.do("POST", path+"/rotate", f.token, body).Code, body)
	}
	f.do("GET", path+"/deliveries?limit=0", f.token, "").problem(http.StatusUnprocessableEntity)
	f.do("GET", path+"/deliveries?limit=101", f.token, "").problem(http.StatusUnprocessableEntity)
	f.do("GET", path+"/deliveries?cursor=x", f.token, "").problem(http.StatusUnprocessableEntity)
	f.do("POST", path+"/deliveries/%25/retry", f.token, "").problem(http.StatusUnprocessableEntity)
	f.do("POST", path+"/deliveries/msg_x/retry", f.token, "").problem(http.StatusNotFound)
	f.do("POST", "/v1/webhooks/x/test", f.token, "").problem(http.StatusUnprocessableEntity)

	// Another's reads to the byte like what is not there; who may not, may not.
	for _, c := range []struct{ method, rest, body string }{
		{"DELETE", "", ""}, {"POST", "/rotate", "{}"}, {"POST", "/enable", ""}, {"POST", "/test", ""}, {"GET", "/deliveries", ""}, {"POST", "/deliveries/msg_x/retry", ""},
	} {
		theirs, nothing := f.do(c.method, path+c.rest, f.other, c.body), f.do(c.method, none+c.rest, f.other, c.body)
		assert.Equal(t, http.StatusNotFound, theirs.Code, "%s %s", c.method, c.rest)
		assert.Equal(t, theirs.Body.String(), nothing.Body.String())
		f.do(c.method, path+c.rest, weak, c.body).problem(http.StatusForbidden)
		f.do(c.method, path+c.rest, "", c.body).problem(http.StatusUnauthorized)
	}
	f.do("GET", "/v1/webhooks", weak, "").problem(http.StatusForbidden)
	f.do("POST", "/v1/webhooks", weak, fmt.Sprintf(`{"url":%q}`, endpoint)).problem(http.StatusForbidden)
	for range store.MaxWebhooks - 1 {
		f.webhook(fmt.Sprintf(`{"url":%q}`, endpoint))
	}
	p := f.do("POST", "/v1/webhooks", f.token, fmt.Sprintf(`{"url":%q}`, endpoint)).problem(http.StatusConflict)
	assert.Contains(t, p.Detail, "at most")
}

func FuzzWebhook(f *testing.F) {
	x := newFixture(f)
	f.Add([]byte(fmt.Sprintf(`{"url":%q}`, endpoint)))
	f.Add([]byte(`{"url":"https://[::1","types":["deactivation.held"]}`))
	f.Add([]byte(`{"url":"\ud800"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := x.do("POST", "/v1/webhooks", x.token, string(body))
		if r.Code >= 500 {
			t.Fatalf("%d: %s", r.Code, r.Body)
		}
		if r.Code == http.StatusCreated {
			var w api.Webhook
			require.NoError(t, json.Unmarshal(r.Body.Bytes(), &w))
			x.do("DELETE", "/v1/webhooks/"+w.ID, x.token, "")
		}
	})
}
