package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/metrics"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

type fixture struct {
	testing.TB
	*metrics.Metrics
	readers *servertest.Readers
	store   *store.Store
	srv     *server.Server
	api     *api.API
	token   string
}

// newFixture is a server that works, watched.
func newFixture(t testing.TB) *fixture {
	f := &fixture{TB: t, Metrics: metrics.New(time.Now()), readers: servertest.NewReaders()}
	var err error
	f.store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "record.db"), store.WithArrivals(f.Arrived), store.WithCommits(f.Committed))
	require.NoError(t, err)
	_, f.token, err = server.AddOperator(t.Context(), f.store, "One", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(path, servertest.RulesFile("{max: 3, ceiling: 7}"), 0o600))
	file, err := rules.Open(path)
	require.NoError(t, err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	f.srv, err = server.New(server.Config{
		Store: f.store, Inventory: inventory.New(f.readers, log), Terminal: servertest.Terminal(), Log: log, Rules: file.Current, Observer: f.Metrics,
	})
	require.NoError(t, err)
	f.api = api.New(f.srv, log)
	f.api.Answered = f.Answered
	f.Watch(metrics.Sources{Server: f.srv, Rules: file, Queued: func() int { return 0 }, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
		assert.NoError(t, f.store.Close())
	})
	<-f.srv.Started()
	f.Ready()
	return f
}

func (f *fixture) do(method, path, token, body string) int {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, req)
	return w.Code
}

// scrape is what Prometheus reads.
func (f *fixture) scrape() map[string]*dto.MetricFamily {
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(f, http.StatusOK, w.Code)
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(w.Body)
	require.NoError(f, err)
	return families
}

// value is that of the metric with these labels, "name", "value" and so on; -1
// where there is none.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	for _, m := range families[name].GetMetric() {
		same := len(m.Label) == len(labels)/2
		for _, l := range m.Label {
			i := slices.Index(labels, l.GetName())
			same = same && i >= 0 && labels[i+1] == l.GetValue()
		}
		switch {
		case !same:
		case m.Counter != nil:
			return m.Counter.GetValue()
		case m.Histogram != nil:
			return float64(m.Histogram.GetSampleCount())
		default:
			return m.Gauge.GetValue()
		}
	}
	return -1
}

func TestWhatHappensIsCounted(t *testing.T) {
	f := newFixture(t)
	for n := 1; n <= 2; n++ {
		require.Equal(t, http.StatusCreated, f.do("POST", "/v1/cards", f.token, string(servertest.Record(servertest.Image(n)))))
	}
	f.readers.Insert("reader A", servertest.Card(servertest.Image(1)), nil)
	deactivate := func(n int) int {
		return f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q}`, servertest.EID(n)))
	}
	require.Equal(t, http.StatusAccepted, deactivate(1))
	require.Equal(t, http.StatusAccepted, deactivate(2), "it waits for its card")
	require.Equal(t, http.StatusNotFound, deactivate(3), "no such card")
	require.Equal(t, http.StatusUnauthorized, f.do("GET", "/v1/cards", "cbt_wrong", ""))
	require.Equal(t, http.StatusNotFound, f.do("GET", "/v1/"+servertest.EID(1).String(), f.token, ""))
	require.Equal(t, http.StatusOK, f.do("GET", "/v1/cards/"+servertest.EID(1).String(), f.token, ""))
	want := []struct {
		name   string
		labels string
		value  float64
	}{
		{"deactivations_total", "state done by card", 1},
		{"deactivations_total", "state accepted by server", 2},
		{"deactivations_total", "state refused by rule", 1},
		{"deactivations_total", "state unknown by server", 0},
		{"http_requests_total", "method POST route /v1/deactivations code 2xx", 2},
		{"http_requests_total", "method POST route /v1/deactivations code 4xx", 1},
		{"http_requests_total", "method GET route /v1/cards/{eid} code 2xx", 1},
		{"http_requests_total", "method other route other code 4xx", 1},
		{"http_request_seconds", "method POST route /v1/deactivations", 3},
		{"authentication_failures_total", "of user", 1},
		{"authentication_failures_total", "of card", 0},
		{"attempt_seconds", "outcome done", 1},
		{"readers", "", 1},
		{"cards", "", 1},
		{"workers", "", 16},
		{"record_up", "", 1},
		{"queue_age_seconds", "of sent", 0},
		{"guard_ceiling", "operator One", 7},
		{"guard_tripped", "operator One", 0},
		{"rules_readings_total", "result ok", 1},
		{"rsa_queue", "", 0},
	}
	var got map[string]*dto.MetricFamily
	// A scrape is of no one moment, and what comes from the record is seconds old.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		got = f.scrape()
		for _, w := range want {
			assert.Equal(c, w.value, value(got, "cardbridge_"+w.name, strings.Fields(w.labels)...), "%s %s", w.name, w.labels)
		}
		assert.Equal(c, 1.0, value(got, "cardbridge_reader_attempts_total", "reader", "reader A", "outcome", "done"))
		assert.Equal(c, 1.0, value(got, "cardbridge_reader_card", "reader", "reader A"))
	}, 20*time.Second, 10*time.Millisecond)
	assert.Positive(t, value(got, "cardbridge_record_commit_seconds"))
	assert.Positive(t, value(got, "cardbridge_start_seconds"))
	assert.Positive(t, value(got, "process_resident_memory_bytes"))
	for name, family := range got {
		for _, m := range family.Metric {
			for _, l := range m.Label {
				assert.NotRegexp(t, `[0-9]{18}|[0-9a-f]{8}-[0-9a-f]{4}|cbt_`, l.GetValue(), "%s: no card, request or token is a label", name)
			}
		}
	}
	problems, err := testutil.GatherAndLint(f.Gatherer())
	require.NoError(t, err)
	assert.Empty(t, problems)
}

// What comes from the record is of some seconds ago at most, whatever happens to
// the record.
func TestQueueAndGuard(t *testing.T) {
	f := newFixture(t)
	for n := 1; n <= 9; n++ {
		require.Equal(t, http.StatusCreated, f.do("POST", "/v1/cards", f.token, string(servertest.Record(servertest.Image(n)))))
		f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q}`, servertest.EID(n)))
	}
	got := f.scrape()
	assert.Equal(t, 3.0, value(got, "cardbridge_queue_requests", "state", "waiting"))
	assert.Equal(t, 4.0, value(got, "cardbridge_queue_requests", "state", "held"))
	assert.Equal(t, 1.0, value(got, "cardbridge_guard_tripped", "operator", "One"))
	assert.Equal(t, 3.0, value(got, "cardbridge_guard_budget", "operator", "One"))
	assert.Equal(t, 9.0, value(got, "cardbridge_guard_fleet", "operator", "One"))
	assert.Equal(t, 4.0, value(got, "cardbridge_deactivations_total", "state", "held", "by", "server"))
	assert.Positive(t, value(got, "cardbridge_queue_age_seconds", "of", "waiting"))
}

func TestErrorsOfReaders(t *testing.T) {
	m := metrics.New(time.Now())
	for _, err := range []error{
		nil, apdu.ErrCardRemoved, apdu.ErrTimeout, &card.AuthError{}, &apdu.Error{SW: 0x6A82}, errors.New("x"),
		fmt.Errorf("%w: y", store.ErrHeld), apdu.ErrTransport, context.DeadlineExceeded,
		fmt.Errorf("%w: the HSM is away", card.ErrKeys), fmt.Errorf("%w: %w", card.ErrKeys, context.Canceled),
	} {
		m.Attempted(inventory.Place{Name: "r"}, server.NotSent, err, time.Second)
	}
	assert.NoError(t, testutil.GatherAndCompare(m.Gatherer(), strings.NewReader(`
# HELP cardbridge_reader_errors_total What stood in the way of attempts, by reader.
# TYPE cardbridge_reader_errors_total counter
cardbridge_reader_errors_total{kind="authentication",reader="r"} 1
cardbridge_reader_errors_total{kind="card_removed",reader="r"} 1
cardbridge_reader_errors_total{kind="other",reader="r"} 2
cardbridge_reader_errors_total{kind="refused",reader="r"} 1
cardbridge_reader_errors_total{kind="timeout",reader="r"} 1
cardbridge_reader_errors_total{kind="transport",reader="r"} 1
# HELP cardbridge_key_errors_total Attempts in whose way the server's own keys stood, such as those of an HSM that is away.
# TYPE cardbridge_key_errors_total counter
cardbridge_key_errors_total 1
`), "cardbridge_reader_errors_total", "cardbridge_key_errors_total"))
}

// Readers come and go by the thousand; their series do not grow with them, and
// those that are there now have their own.
func TestReadersAreBounded(t *testing.T) {
	f := newFixture(t)
	series := func() map[string]bool {
		of := map[string]bool{}
		for _, m := range f.scrape()["cardbridge_reader_attempts_total"].GetMetric() {
			for _, l := range m.Label {
				if l.GetName() == "reader" {
					of[l.GetValue()] = true
				}
			}
		}
		return of
	}
	for i := range 1000 {
		f.Attempted(inventory.Place{Name: fmt.Sprintf("reader %d", i)}, "done", nil, time.Millisecond)
	}
	assert.Len(t, series(), 257, "256 and other")
	// Now that they were looked for and are gone, new ones take their places.
	for i := range 10 {
		f.Attempted(inventory.Place{Name: fmt.Sprintf("new %d", i)}, "done", nil, time.Millisecond)
	}
	of := series()
	assert.Len(t, of, 257)
	assert.True(t, of["new 9"])
}

// described are the metrics there can be, with their labels.
func described(t *testing.T, f *fixture) map[string][]string {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		f.Gatherer().(*prometheus.Registry).Describe(ch)
	}()
	line := regexp.MustCompile(`fqName: "([a-z_]+)".*variableLabels: \{([a-z_,]*)\}`)
	out := map[string][]string{}
	for d := range ch {
		if m := line.FindStringSubmatch(d.String()); m != nil && strings.HasPrefix(m[1], "cardbridge_") {
			out[m[1]] = strings.FieldsFunc(m[2], func(c rune) bool { return c == ',' })
		}
	}
	require.Greater(t, len(out), 30)
	return out
}

func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	told := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(cardbridge_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		told[m[1]] = strings.FieldsFunc(m[2], func(c rune) bool { return c == '`' || c == ',' || c == ' ' })
	}
	f := newFixture(t)
	assert.Equal(t, described(t, f), told)
}

// uses checks an expression: it parses, and each metric in it exists and has the
// labels that are asked for.
func uses(t *testing.T, f *fixture, known map[string][]string, scraped map[string]*dto.MetricFamily, expr string) {
	expr = strings.ReplaceAll(expr, "$__rate_interval", "5m")
	parsed, err := metricsql.Parse(expr)
	require.NoError(t, err, expr)
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		for _, filters := range m.LabelFilterss {
			require.Equal(t, "__name__", filters[0].Label, expr)
			name := filters[0].Value
			if name == "up" { // Prometheus' own
				continue
			}
			base := name
			if scraped[base] == nil {
				base = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			}
			labels, ours := known[base]
			if !ours && assert.NotNil(t, scraped[base], "%s: no metric %s", expr, name) {
				continue
			}
			for _, l := range filters[1:] {
				if l.Label != "job" && l.Label != "instance" { // Prometheus adds them
					assert.Contains(t, labels, l.Label, "%s: %s", expr, name)
				}
			}
		}
	})
}

// Each metric of the dashboard and of the alerts exists.
func TestDashboardAndAlerts(t *testing.T) {
	f := newFixture(t)
	known, scraped := described(t, f), f.scrape()

	b, err := os.ReadFile("../../docs/grafana/cardbridge.json")
	require.NoError(t, err)
	type source struct{ Type, UID string }
	var dash struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID          int
			Type, Title string
			Datasource  source
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct {
				RefID, Expr string
				Datasource  source
			}
		}
		Templating struct {
			List []struct{ Name, Type, Query any }
		}
	}
	require.NoError(t, json.Unmarshal(b, &dash))
	assert.GreaterOrEqual(t, dash.SchemaVersion, 36)
	assert.NotEmpty(t, dash.Title)
	assert.NotEmpty(t, dash.UID)
	require.Len(t, dash.Templating.List, 3)
	assert.Equal(t, "datasource", dash.Templating.List[0].Type)
	assert.Equal(t, "datasource", dash.Templating.List[0].Name)
	ids, places, used := map[int]bool{}, map[[2]int]string{}, map[string]bool{}
	for _, p := range dash.Panels {
		assert.False(t, ids[p.ID], "panel %d twice", p.ID)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				assert.Empty(t, places[[2]int{x, y}], "%s lies on another panel", p.Title)
				places[[2]int{x, y}] = p.Title
			}
		}
		assert.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		if p.Type == "row" {
			continue
		}
		assert.Contains(t, []string{"timeseries", "stat"}, p.Type)
		assert.Equal(t, source{"prometheus", "${datasource}"}, p.Datasource, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			assert.Equal(t, source{"prometheus", "${datasource}"}, target.Datasource, p.Title)
			uses(t, f, known, scraped, target.Expr)
			for name := range known {
				if strings.Contains(target.Expr, name) {
					used[name] = true
				}
			}
		}
	}
	for name := range known {
		if name != "cardbridge_build_info" && name != "cardbridge_ready_timestamp_seconds" && name != "cardbridge_reader_card" && name != "cardbridge_guard_fleet" {
			assert.True(t, used[name], "%s is on no panel", name)
		}
	}

	b, err = os.ReadFile("../../docs/grafana/alerts.yaml")
	require.NoError(t, err)
	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(b)))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&alerts))
	seen := map[string]bool{}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			assert.False(t, seen[r.Alert], r.Alert)
			seen[r.Alert] = true
			assert.NotEmpty(t, r.Annotations["summary"], r.Alert)
			assert.Contains(t, []string{"critical", "warning"}, r.Labels["severity"], r.Alert)
			uses(t, f, known, scraped, r.Expr)
		}
	}
	assert.Greater(t, len(seen), 10)
}

// A reader's name that is not UTF-8 is told of too, and ends nothing.
func TestNameOfAReader(t *testing.T) {
	f := newFixture(t)
	f.readers.Insert("odd \xff", servertest.Card(servertest.Image(1)), nil)
	f.Attempted(inventory.Place{Name: "odd \xff"}, server.Settled, errors.New("x"), time.Second)
	require.Eventually(t, func() bool { return len(f.srv.Inventory.List()) == 1 }, 10*time.Second, time.Millisecond)
	got := f.scrape()
	assert.Equal(t, 1.0, value(got, "cardbridge_reader_attempts_total", "reader", "odd \uFFFD", "outcome", server.Settled))
	assert.Equal(t, 1.0, value(got, "cardbridge_reader_card", "reader", "odd \uFFFD"))
}
