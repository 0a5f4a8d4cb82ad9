package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
	"github.com/cardbridge/cardbridge/server/webhook"
)

type fixture struct {
	testing.TB
	api     *api.API
	store   *store.Store
	path    string // of its file
	readers *servertest.Readers
	token   string // of operator one, network Owner
	other   string // of operator other, network Other
	third   string // of a network without a profile anywhere
	doc     document
	config  server.Config
	options []api.Option
	stop    func() error // ends the server; once
}

// document is what the tests want of the OpenAPI document.
type document struct {
	Paths map[string]map[string]struct {
		OperationID string                     `json:"operationId"`
		Description string                     `json:"description"`
		Responses   map[string]json.RawMessage `json:"responses"`
	} `json:"paths"`
}

func TestMain(m *testing.M) { postgres.Main(m) }

func newFixture(t testing.TB) *fixture {
	return newFixtureOn(t, servertest.NewRecord(t, migrate), server.Config{})
}

func migrate(path string) error {
	s, err := store.Open(context.Background(), path)
	if err != nil {
		return err
	}
	return s.Close()
}

// newFixtureOn is a fixture whose record is at path, or at a URL.
func newFixtureOn(t testing.TB, path string, c server.Config, opts ...api.Option) *fixture {
	f := &fixture{TB: t, readers: servertest.NewReaders(), path: path, config: c, options: append([]api.Option{api.WithLimits(api.Limits{})}, opts...)}
	f.start()
	own, err := f.api.OpenAPI()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(own, &f.doc))
	_, f.token, err = server.AddOperator(t.Context(), f.store, "one", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	_, f.other, err = server.AddOperator(t.Context(), f.store, "other", servertest.Other, "", store.AllRoles)
	require.NoError(t, err)
	third := servertest.Owner
	third[2] = 0x21
	_, f.third, err = server.AddOperator(t.Context(), f.store, "third", third, "", store.AllRoles)
	require.NoError(t, err)
	return f
}

// start runs a server over the record at path.
func (f *fixture) start() {
	t, c := f.TB, f.config
	var err error
	f.store, err = store.Open(t.Context(), f.path)
	require.NoError(t, err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	c.Store, c.Inventory, c.Terminal, c.Log = f.store, inventory.New(f.readers, log), servertest.Terminal(), log
	c.Webhooks, c.Show = webhook.NewClient(webhook.Config{}), api.Show
	srv, err := server.New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	f.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		assert.NoError(t, f.stop())
		assert.NoError(t, f.store.Close())
	})
	f.api = api.New(srv, log, f.options...)
}

type reply struct {
	*httptest.ResponseRecorder
	testing.TB
}

func (f *fixture) do(method, path, token, body string, header ...string) reply {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, req)
	f.documented(req, w.Code)
	return reply{w, f.TB}
}

var (
	patterns  sync.Map // by path of the document
	parameter = regexp.MustCompile(`\{[a-z]+\}`)
)

// patternOf matches what a path of the document stands for.
func patternOf(path string) *regexp.Regexp {
	if p, ok := patterns.Load(path); ok {
		return p.(*regexp.Regexp)
	}
	p := regexp.MustCompile("^" + parameter.ReplaceAllString(path, "[^/]+") + "$")
	patterns.Store(path, p)
	return p
}

// documented checks that the document tells of a status that an operation
// answered with.
func (f *fixture) documented(req *http.Request, status int) {
	for path, methods := range f.doc.Paths {
		op, ok := methods[strings.ToLower(req.Method)]
		if ok && patternOf(path).MatchString(req.URL.Path) {
			if _, told := op.Responses[fmt.Sprint(status)]; !told { // no assert: fuzz targets come here too
				f.Errorf("%s %s answers %d, and the document does not tell of that", req.Method, path, status)
			}
		}
	}
}

func (r reply) into(v any) {
	r.Helper()
	require.NoError(r, json.Unmarshal(r.Body.Bytes(), v), "%s", r.Body)
}

func (r reply) problem(status int) api.Problem {
	r.Helper()
	assert.Equal(r, status, r.Code, "%s", r.Body)
	assert.Equal(r, "application/problem+json", r.Header().Get("Content-Type"))
	var p api.Problem
	r.into(&p)
	assert.Equal(r, status, p.Status)
	assert.NotEmpty(r, p.Detail)
	return p
}

// A server that ends takes nothing new in. What came before it answers under its
// key, as at any time.
func TestDeactivateWhileEnding(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	ask := func(reason int, key ...string) reply {
		if len(key) > 0 {
			key = append([]string{"Idempotency-Key"}, key...)
		}
		return f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q,"reason":%d}`, servertest.EID(1), reason), key...)
	}
	before := ask(3, "k-1")
	require.Equal(t, http.StatusAccepted, before.Code, before.Body)
	refused := ask(4, "k-2")
	require.NoError(t, f.stop())

	again := ask(3, "k-1")
	require.Equal(t, http.StatusAccepted, again.Code, again.Body)
	assert.Equal(t, "true", again.Header().Get("Idempotency-Replayed"))
	assert.Equal(t, before.Header().Get("Location"), again.Header().Get("Location"))
	assert.Equal(t, refused.Code, ask(4, "k-2").Code)
	ask(5, "k-1").problem(http.StatusUnprocessableEntity)
	n := f.count()
	for _, key := range [][]string{nil, {"k-3"}} {
		r := ask(3, key...)
		r.problem(http.StatusServiceUnavailable)
		assert.Equal(t, "5", r.Header().Get("Retry-After"))
	}
	assert.Equal(t, n, f.count(), "nothing is recorded")
}

func (f *fixture) register(n int) {
	f.Helper()
	r := f.do("POST", "/v1/cards", f.token, string(servertest.Record(servertest.Image(n))))
	require.Equal(f, http.StatusCreated, r.Code, "%s", r.Body)
}

func TestWholeWay(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	eid := servertest.EID(1).String()
	f.readers.Insert("reader", servertest.Card(servertest.Image(1)), nil)
	r := f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q,"reason":3,"timeout_seconds":60}`, eid), "Idempotency-Key", "k-1")
	require.Equal(t, http.StatusAccepted, r.Code, "%s", r.Body)
	var d api.Deactivation
	r.into(&d)
	assert.Equal(t, "/v1/deactivations/"+d.ID, r.Header().Get("Location"))

	var seen []string
	for after := int64(0); ; {
		var steps api.Steps
		r := f.do("GET", fmt.Sprintf("/v1/deactivations/%s/events?after=%d&wait_seconds=10", d.ID, after), f.token, "")
		require.Equal(t, http.StatusOK, r.Code, "%s", r.Body)
		r.into(&steps)
		for _, s := range steps.Steps {
			seen = append(seen, s.Step)
		}
		after = steps.Next
		if steps.Finished && len(steps.Steps) == 0 {
			break
		}
	}
	assert.Subset(t, seen, []string{"accepted", "authenticating", "sending", "done"})
	f.do("GET", "/v1/deactivations/"+d.ID, f.token, "").into(&d)
	assert.Equal(t, "done", d.State)
	require.NotNil(t, d.Answer)
	assert.Equal(t, "00", d.Answer.Result)
	assert.Equal(t, "9000", d.Answer.StatusWord)
	assert.Len(t, d.Answer.Receipt, 512)

	r = f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"timeout_seconds":60,"eid":%q,"reason":3}`, eid), "Idempotency-Key", "k-1")
	assert.Equal(t, http.StatusAccepted, r.Code)
	assert.Equal(t, "true", r.Header().Get("Idempotency-Replayed"))
	var again api.Deactivation
	r.into(&again)
	assert.Equal(t, d.ID, again.ID)
	f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q}`, eid), "Idempotency-Key", "k-1").problem(http.StatusUnprocessableEntity)

	var c api.Card
	f.do("GET", "/v1/cards/"+eid, f.token, "").into(&c)
	assert.Equal(t, uint32(6), c.EventCounter)
	assert.Equal(t, "disabled", c.Profiles[0].State)
	var list api.DeactivationList
	f.do("GET", "/v1/deactivations", f.token, "").into(&list)
	assert.Len(t, list.Deactivations, 1)
	var readers api.ReaderList
	f.do("GET", "/v1/readers", f.token, "").into(&readers)
	assert.Equal(t, []api.Reader{{Name: "reader", Card: true, EID: eid}}, readers.Readers)
	var strangers api.ReaderList
	f.do("GET", "/v1/readers", f.third, "").into(&strangers)
	assert.Equal(t, []api.Reader{{Name: "reader", Card: true}}, strangers.Readers)
}

func TestRefusalsAreProblemsWithCodes(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	eid := servertest.EID(1).String()
	ask := func(token, body string) reply { return f.do("POST", "/v1/deactivations", token, body) }
	one := fmt.Sprintf(`{"eid":%q}`, eid)

	r := f.do("PATCH", fmt.Sprintf("/v1/cards/%s/profiles/%s", eid, servertest.ICCID(1, 0)), f.token, `{"disable_allowed":false}`)
	require.Equal(t, http.StatusOK, r.Code, "%s", r.Body)
	for _, tt := range []struct {
		name, token, body, codes string
		status                   int
	}{
		{"POL2", f.token, one, "8.2.3/3.8", 409},
		{"not enabled", f.token, fmt.Sprintf(`{"eid":%q,"iccid":%q}`, eid, servertest.ICCID(1, 1)), "8.2.1/1.2", 409},
		{"unknown profile", f.token, fmt.Sprintf(`{"eid":%q,"iccid":%q}`, eid, servertest.ICCID(9, 1)), "8.2.1/3.9", 404},
		{"another's profile", f.token, fmt.Sprintf(`{"eid":%q,"iccid":%q}`, eid, servertest.ICCID(1, 2)), "8.2.1/3.9", 404},
		{"unknown card", f.token, fmt.Sprintf(`{"eid":%q}`, servertest.EID(9)), "8.1.1/1.1", 404},
		{"another's card", f.third, one, "8.1.1/1.1", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := ask(tt.token, tt.body).problem(tt.status)
			assert.Equal(t, tt.codes, p.SubjectCode+"/"+p.ReasonCode)
			assert.NotEmpty(t, p.Rule)
			var d api.Deactivation
			f.do("GET", "/v1/deactivations/"+p.RequestID, tt.token, "").into(&d)
			assert.Equal(t, "refused", d.State)
			assert.Equal(t, p.Rule, d.Refusal.Rule)
			var steps api.Steps
			f.do("GET", "/v1/deactivations/"+p.RequestID+"/events", tt.token, "").into(&steps)
			require.Len(t, steps.Steps, 1, "the decision's inputs are internal")
		})
	}
}

func TestAuthentication(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/v1/cards", "/v1/cards/" + servertest.EID(1).String(), "/v1/deactivations", "/v1/readers"} {
		for _, authorization := range []string{"", "Bearer", "Bearer ", "Bearer x", "Basic " + f.token, f.token, "Bearer " + f.token + "x", "Bearer " + strings.Repeat("A", 10000)} {
			r := f.do("GET", path, "", "", "Authorization", authorization)
			p := r.problem(http.StatusUnauthorized)
			assert.Contains(t, r.Header().Get("WWW-Authenticate"), "Bearer")
			assert.NotContains(t, p.Detail, f.token)
		}
	}
	// Who is nobody learns nothing of what is wrong with the rest.
	f.do("POST", "/v1/deactivations", "", "{").problem(http.StatusUnauthorized)
	assert.Equal(t, http.StatusOK, f.do("GET", "/v1/cards", "", "", "Authorization", "bearer "+f.token).Code)
	assert.Equal(t, http.StatusOK, f.do("GET", "/healthz", "", "").Code)
}

// What is another's reads to the byte like what is not there.
func TestNoOracle(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	eid := servertest.EID(1).String()
	r := f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q}`, eid))
	require.Equal(t, http.StatusAccepted, r.Code)
	var d api.Deactivation
	r.into(&d)
	none := "00000000-0000-4000-8000-000000000000"
	same := func(method, theirs, nothing, body, token string) {
		t.Helper()
		a, b := f.do(method, theirs, token, body), f.do(method, nothing, token, body)
		assert.Equal(t, http.StatusNotFound, a.Code, "%s %s: %s", method, theirs, a.Body)
		assert.Equal(t, a.Body.String(), b.Body.String())
	}
	for _, token := range []string{f.third, f.other} {
		same("GET", "/v1/deactivations/"+d.ID, "/v1/deactivations/"+none, "", token)
		same("GET", "/v1/deactivations/"+d.ID+"/events", "/v1/deactivations/"+none+"/events", "", token)
	}
	same("GET", "/v1/cards/"+eid, "/v1/cards/"+servertest.EID(7).String(), "", f.third)
	profile := func(n, i int) string {
		return fmt.Sprintf("/v1/cards/%s/profiles/%s", servertest.EID(n), servertest.ICCID(n, i))
	}
	same("PATCH", profile(1, 0), profile(7, 0), `{"disable_allowed":true}`, f.third)
	same("PATCH", profile(1, 0), profile(1, 9), `{"disable_allowed":true}`, f.other)
	same("GET", "/v1/cards/"+eid, "/v1/cards/"+servertest.EID(7).String(), "", f.other)
	same("PATCH", profile(1, 2), profile(7, 2), `{"disable_allowed":true}`, f.other)
	require.Equal(t, http.StatusCreated, f.do("POST", "/v1/cards", f.other, string(servertest.Record(servertest.Image(1)))).Code)
	same("PATCH", profile(1, 0), profile(1, 9), `{"disable_allowed":true}`, f.other)
	var c api.Card
	f.do("GET", "/v1/cards/"+eid, f.other, "").into(&c)
	require.Len(t, c.Profiles, 1)
	assert.NotContains(t, fmt.Sprint(c), servertest.ICCID(1, 0).String())
	var list api.CardList
	f.do("GET", "/v1/cards", f.third, "").into(&list)
	assert.Empty(t, list.Cards)
}

func TestBadInput(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	eid := servertest.EID(1).String()
	before := f.count()
	ok := map[string]any{"eid": eid}
	with := func(kv ...any) string {
		m := map[string]any{}
		for k, v := range ok {
			m[k] = v
		}
		for i := 0; i+1 < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		b, err := json.Marshal(m)
		require.NoError(t, err)
		return string(b)
	}
	badCheck := eid[:30] + "99"
	for _, body := range []string{
		"", "null", "[]", `"x"`, "1", "{", `{"eid"`, "{}", `{"eid":"` + eid + `"`, with() + "x", with() + with(),
		with("eid", nil), with("eid", 1), with("eid", ""), with("eid", eid[1:]), with("eid", eid+"0"), with("eid", strings.Repeat("x", 32)), with("eid", badCheck), with("eid", strings.Repeat("9", 100000)),
		with("iccid", nil), with("iccid", 5), with("iccid", ""), with("iccid", "8986"), with("iccid", strings.Repeat("8", 21)), with("iccid", "8986000000000000000F"), with("iccid", "8986 0000000000001"),
		with("reason", -1), with("reason", 256), with("reason", 1.5), with("reason", "1"), with("reason", nil), with("reason", 1e300),
		with("timeout_seconds", 0), with("timeout_seconds", -1), with("timeout_seconds", 604801), with("timeout_seconds", "1"), with("timeout_seconds", 1e18), with("timeout_seconds", true),
		with("unknown", 1), with("EID", eid), `{"EID":"` + eid + `"}`, with("", 1),
		`{"eid":"` + eid + `","eid":"` + eid + `"}`,
		`{"eid":"` + eid + `","iccid":"\u0000"}`, `{"eid":"` + eid + "\",\"iccid\":\"\x00\"}", "{\"eid\":\"\xff\"}", `{"eid":"\ud800"}`, "\xef\xbb\xbf" + with(),
		strings.Repeat("[", 100000), `{"eid":` + strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000) + "}",
		`{"eid":"` + strings.Repeat("0", 300<<10) + `"}`,
	} {
		r := f.do("POST", "/v1/deactivations", f.token, body)
		assert.True(t, r.Code >= 400 && r.Code < 500, "%d for %.80q: %s", r.Code, body, r.Body)
		assert.Equal(t, "application/problem+json", r.Header().Get("Content-Type"), "%.80q", body)
		assert.Less(t, r.Body.Len(), 4<<10, "what was sent is not repeated")
	}
	for _, header := range [][]string{
		{"Content-Type", "text/plain"}, {"Content-Type", "application/cbor"}, {"Content-Type", ";;"},
		{"Idempotency-Key", strings.Repeat("k", 256)}, {"Idempotency-Key", "a b"}, {"Idempotency-Key", "\x00"}, {"Idempotency-Key", "é"},
	} {
		r := f.do("POST", "/v1/deactivations", f.token, with(), header...)
		assert.True(t, r.Code >= 400 && r.Code < 500, "%d for %q: %s", r.Code, header, r.Body)
	}
	for _, path := range []string{
		"/v1/cards/1", "/v1/cards/" + badCheck, "/v1/cards/" + strings.Repeat("x", 32), "/v1/cards/" + eid + "0", "/v1/cards/" + eid + "/x",
		"/v1/cards?limit=0", "/v1/cards?limit=101", "/v1/cards?limit=x", "/v1/cards?cursor=x", "/v1/cards?x=1", "/v1/cards?cursor=" + strings.Repeat("1", 513), "/v1/cards?limit=1&limit=1", "/v1/cards?limit=%zz", "/v1/cards?limit=1;",
		"/v1/cards?unsettled=x", "/v1/cards?iccid=x", "/v1/cards?profile_state=x", "/v1/cards?group=A",
		"/v1/deactivations/x", "/v1/deactivations/" + strings.Repeat("z", 32), "/v1/deactivations/" + strings.Repeat("-", 36),
		"/v1/deactivations?state=x", "/v1/deactivations?state=held,x", "/v1/deactivations?reason=256", "/v1/deactivations?since=x", "/v1/deactivations?user=%00", "/v1/deactivations?user=%ff",
		"/v1/deactivations/00000000-0000-4000-8000-000000000000/events?after=-1", "/v1/deactivations/00000000-0000-4000-8000-000000000000/events?wait_seconds=31",
		"/", "/v1", "/v2/cards", "/docs", "/v1/cards/", "/..%2f..%2fetc",
	} {
		r := f.do("GET", path, f.token, "")
		assert.True(t, r.Code >= 400 && r.Code < 500, "%d for %s: %s", r.Code, path, r.Body)
		assert.Equal(t, "application/problem+json", r.Header().Get("Content-Type"), path)
	}
	for _, body := range []string{"", "{}", `{"disable_allowed":null}`, `{"disable_allowed":1}`, `{"disable_allowed":"false"}`, `{"disable_allowed":true,"x":1}`, `{"Disable_Allowed":true}`} {
		r := f.do("PATCH", fmt.Sprintf("/v1/cards/%s/profiles/%s", eid, servertest.ICCID(1, 0)), f.token, body)
		assert.True(t, r.Code >= 400 && r.Code < 500, "%d for %s", r.Code, body)
	}
	r := f.do("DELETE", "/v1/cards", f.token, "")
	r.problem(http.StatusMethodNotAllowed)
	assert.Contains(t, r.Header().Get("Allow"), "GET")
	assert.Equal(t, before, f.count(), "nothing is recorded")
}

// count is the length of the audit trail: everything recorded leaves a trace.
func (f *fixture) count() int {
	events, err := f.store.Events(context.Background(), 0, 1<<20)
	require.NoError(f, err)
	return len(events)
}

func TestBadCardRecords(t *testing.T) {
	f := newFixture(t)
	before := f.count()
	good := servertest.Record(servertest.Image(1))
	for name, change := range map[string]func(m map[string]any){
		"no eid":              func(m map[string]any) { delete(m, "eid") },
		"check digits":        func(m map[string]any) { m["eid"] = servertest.EID(1).String()[:30] + "99" },
		"no keys":             func(m map[string]any) { delete(m, "keys") },
		"keys a number":       func(m map[string]any) { m["keys"] = 5 },
		"two auth keys":       func(m map[string]any) { auth(m, func(a []any) []any { return a[:2] }) },
		"keys out of order":   func(m map[string]any) { auth(m, func(a []any) []any { return []any{a[1], a[0], a[2]} }) },
		"four auth keys":      func(m map[string]any) { auth(m, func(a []any) []any { return append(a, a[0]) }) },
		"no PEM":              func(m map[string]any) { auth(m, func([]any) []any { return []any{"x"} }) },
		"no suites":           func(m map[string]any) { m["suites"] = []any{} },
		"suite 2":             func(m map[string]any) { m["suites"] = []any{2} },
		"suite twice":         func(m map[string]any) { m["suites"] = []any{1, 1} },
		"unknown member":      func(m map[string]any) { m["runtime"] = map[string]any{} },
		"private keys beside": func(m map[string]any) { m["server_keysets"] = []any{} },
		"two enabled":         func(m map[string]any) { profile(m, 1)["state"] = "enabled" },
		"state":               func(m map[string]any) { profile(m, 1)["state"] = "absent" },
		"class":               func(m map[string]any) { profile(m, 1)["class"] = 2 },
		"iccid twice":         func(m map[string]any) { profile(m, 1)["iccid"] = profile(m, 0)["iccid"] },
		"mccmnc":              func(m map[string]any) { profile(m, 1)["mccmnc"] = "4601" },
		"name too long":       func(m map[string]any) { profile(m, 1)["name"] = strings.Repeat("n", 129) },
		"unknown in profile":  func(m map[string]any) { profile(m, 1)["x"] = 1 },
		"two fallbacks":       func(m map[string]any) { profile(m, 1)["fallback"], profile(m, 0)["fallback"] = true, true },
		"counter":             func(m map[string]any) { m["event_counter"] = int64(1) << 32 },
		"counter negative":    func(m map[string]any) { m["event_counter"] = -1 },
		"65 profiles": func(m map[string]any) {
			for i := range 65 {
				m["profiles"] = append(m["profiles"].([]any), map[string]any{"iccid": servertest.ICCID(5, i%10).String(), "mccmnc": "46011", "state": "disabled", "class": "test"})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var m map[string]any
			require.NoError(t, json.Unmarshal(good, &m))
			change(m)
			b, err := json.Marshal(m)
			require.NoError(t, err)
			p := f.do("POST", "/v1/cards", f.token, string(b)).problem(http.StatusUnprocessableEntity)
			assert.NotContains(t, p.Detail, "BEGIN")
		})
	}
	f.do("POST", "/v1/cards", f.third, string(good)).problem(http.StatusForbidden)
	assert.Equal(t, before, f.count(), "nothing is recorded")
	f.register(1)
	assert.Equal(t, http.StatusOK, f.do("POST", "/v1/cards", f.token, string(good)).Code, "again")
	assert.Equal(t, http.StatusCreated, f.do("POST", "/v1/cards", f.other, string(good)).Code, "another operator of the same card")
	forged := servertest.Record(servertest.Stranger(servertest.Image(1)))
	p := f.do("POST", "/v1/cards", f.token, string(forged)).problem(http.StatusConflict)
	assert.Contains(t, p.Detail, "registered with other keys")
}

func auth(m map[string]any, change func([]any) []any) {
	keys := m["keys"].(map[string]any)
	keys["auth"] = change(keys["auth"].([]any))
}

func profile(m map[string]any, i int) map[string]any {
	return m["profiles"].([]any)[i].(map[string]any)
}

func TestPages(t *testing.T) {
	f := newFixture(t)
	for n := range 3 {
		f.register(n)
	}
	var seen []string
	for next := ""; ; {
		var list api.CardList
		f.do("GET", "/v1/cards?limit=2&cursor="+next, f.token, "").into(&list)
		for _, c := range list.Cards {
			seen = append(seen, c.EID)
		}
		if next = list.Next; next == "" {
			break
		}
	}
	assert.Len(t, seen, 3)
	for range 3 {
		f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q}`, servertest.EID(9)))
	}
	var list api.DeactivationList
	f.do("GET", "/v1/deactivations?limit=2", f.token, "").into(&list)
	require.Len(t, list.Deactivations, 2)
	f.do("GET", "/v1/deactivations?limit=2&cursor="+list.Next, f.token, "").into(&list)
	assert.Len(t, list.Deactivations, 1)
}

// A record that cannot be written is no server that can work.
func TestHealthOfARecordThatCannotBeWritten(t *testing.T) {
	f := newFixture(t)
	require.Equal(t, http.StatusOK, f.do("GET", "/healthz", "", "").Code)
	mend := servertest.Break(t, f.path, "INSERT ON events", "UPDATE ON health")
	assert.Equal(t, http.StatusInternalServerError, f.do("POST", "/v1/cards", f.token, string(servertest.Record(servertest.Image(1)))).Code)
	p := f.do("GET", "/healthz", "", "").problem(http.StatusServiceUnavailable)
	assert.NotContains(t, p.Detail, "full")
	mend()
	assert.Equal(t, http.StatusOK, f.do("GET", "/healthz", "", "").Code)
}

func TestOpenAPI(t *testing.T) {
	f := newFixture(t)
	r := f.do("GET", "/openapi.json", "", "")
	require.Equal(t, http.StatusOK, r.Code)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string                     `json:"operationId"`
			Responses   map[string]json.RawMessage `json:"responses"`
			Security    []map[string][]string      `json:"security"`
		} `json:"paths"`
		Components struct {
			Schemas         map[string]json.RawMessage `json:"schemas"`
			SecuritySchemes map[string]json.RawMessage `json:"securitySchemes"`
		} `json:"components"`
	}
	r.into(&doc)
	assert.True(t, strings.HasPrefix(doc.OpenAPI, "3.1."))
	ids := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			assert.False(t, ids[op.OperationID], "%s %s", method, path)
			ids[op.OperationID] = true
			assert.NotEmpty(t, op.Responses)
			if path != "/healthz" {
				assert.Equal(t, []map[string][]string{{"bearer": {}}, {"mutualTLS": {}}}, op.Security, "%s %s", method, path)
				assert.Contains(t, op.Responses, "401", "%s %s", method, path)
			}
		}
	}
	assert.Len(t, ids, 25)
	// Every reference leads somewhere.
	for _, part := range strings.Split(r.Body.String(), `"$ref":"`)[1:] {
		ref, _, _ := strings.Cut(part, `"`)
		name, found := strings.CutPrefix(ref, "#/components/schemas/")
		assert.True(t, found, ref)
		assert.Contains(t, doc.Components.Schemas, name)
	}
	assert.Contains(t, string(doc.Components.Schemas["Problem"]), "subject_code")
	yaml := f.do("GET", "/openapi.yaml", "", "")
	assert.Equal(t, http.StatusOK, yaml.Code)
	assert.Contains(t, yaml.Body.String(), "openapi: 3.1.")
	own, err := f.api.OpenAPI()
	require.NoError(t, err)
	assert.JSONEq(t, string(own), r.Body.String())
}

// The body of a client that stops in the middle, or lies about its length.
func TestBodyCutOff(t *testing.T) {
	f := newFixture(t)
	req := httptest.NewRequest("POST", "/v1/deactivations", io.MultiReader(strings.NewReader(`{"eid":`), failing{}))
	req.Header.Set("Authorization", "Bearer "+f.token)
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, req)
	reply{w, t}.problem(http.StatusBadRequest)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func FuzzDeactivate(f *testing.F) {
	x := newFixture(f)
	x.register(1)
	eid := servertest.EID(1).String()
	f.Add([]byte(fmt.Sprintf(`{"eid":%q}`, eid)))
	f.Add([]byte(fmt.Sprintf(`{"eid":%q,"iccid":%q,"reason":255,"timeout_seconds":1}`, eid, servertest.ICCID(1, 0))))
	f.Add([]byte(`{"eid":"\ud800"}`))
	f.Add(bytes.Repeat([]byte("["), 50))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := x.do("POST", "/v1/deactivations", x.token, string(body))
		if r.Code >= 500 {
			t.Fatalf("%d: %s", r.Code, r.Body)
		}
	})
}
