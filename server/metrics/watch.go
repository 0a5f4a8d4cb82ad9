package metrics

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/rules"
)

const (
	// maxOperators is how many operators have series of their own, those first
	// that were added first.
	maxOperators = 256
	// fresh is how old what was read from the record may be: whoever scrapes more
	// often costs no more.
	fresh       = 5 * time.Second
	readTimeout = 3 * time.Second
)

// Sources are what Watch looks at when it is asked.
type Sources struct {
	Server *server.Server
	Rules  *rules.File // nil where the rules are built in
	Queued func() int  // RSA operations that wait; nil: none
	Log    *slog.Logger
}

// Watch adds what is looked at when Prometheus asks: the queue, the guard, the
// readers and the rules.
func (m *Metrics) Watch(s Sources) { m.registry.MustRegister(&watcher{m: m, Sources: s}) }

type watcher struct {
	Sources
	m *Metrics

	mu     sync.Mutex
	read   time.Time // when kept was read from the record
	kept   []prometheus.Metric
	failed bool // and was told of
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	readers       = desc("readers", "Readers that there are.")
	cards         = desc("cards", "Cards that are in readers.")
	identified    = desc("cards_identified", "Cards in readers whose EID is known.")
	readerCard    = desc("reader_card", "1 where a card is in the reader; in other, how many.", "reader")
	workers       = desc("workers", "Cards that can be worked on at once.")
	workersBusy   = desc("workers_busy", "Cards that are worked on now.")
	rsaQueue      = desc("rsa_queue", "RSA operations that wait for their turn.")
	rulesInfo     = desc("rules_info", "1, with the digest of the management rules in force.", "digest")
	rulesReadings = desc("rules_readings_total", "Readings of the file of management rules.", "result")
	recordUp      = desc("record_up", "1 where the record could be read.")
	queue         = desc("queue_requests", "Open requests: waiting for their card, for an approval (held), for an answer (sending, unknown). Counted to 10000.", "state")
	queueAge      = desc("queue_age_seconds", "How long ago the oldest open request was let in, and the oldest was sent that has no answer; 0 for none.", "of")
	outbox        = desc("webhook_pending", "Messages of webhooks that are to be sent. Counted to 10000.")
	endpoints     = desc("webhook_endpoints", "Webhooks' endpoints that fail, and that are disabled for having failed too long.", "state")
	guardAsked    = desc("guard_asked", "Deactivations that an operator asked for in the guard's window.", "operator")
	guardSent     = desc("guard_sent", "Deactivations of an operator that were sent in the guard's window.", "operator")
	guardPending  = desc("guard_pending", "Deactivations of an operator that were let in and not sent yet.", "operator")
	guardBudget   = desc("guard_budget", "What an operator may send in the guard's window without an approval; none where there is no limit.", "operator")
	guardCeiling  = desc("guard_ceiling", "What an operator may ask for in the guard's window before its breaker trips; none where there is no limit.", "operator")
	guardTripped  = desc("guard_tripped", "1 where an operator's breaker has tripped.", "operator")
	guardFleet    = desc("guard_fleet", "Cards that an operator has registered.", "operator")
)

// Describe implements prometheus.Collector.
func (w *watcher) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		readers, cards, identified, readerCard, workers, workersBusy, rsaQueue, rulesInfo, rulesReadings, recordUp, queue, queueAge,
		outbox, endpoints, guardAsked, guardSent, guardPending, guardBudget, guardCeiling, guardTripped, guardFleet,
	} {
		ch <- d
	}
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// Collect implements prometheus.Collector.
func (w *watcher) Collect(ch chan<- prometheus.Metric) {
	w.collectReaders(ch)
	busy, most := w.Server.Busy()
	ch <- gauge(workersBusy, float64(busy))
	ch <- gauge(workers, float64(most))
	if w.Queued != nil {
		ch <- gauge(rsaQueue, float64(w.Queued()))
	}
	ch <- gauge(rulesInfo, 1, w.Server.Rules().Digest())
	if w.Rules != nil {
		good, bad := w.Rules.Readings()
		ch <- prometheus.MustNewConstMetric(rulesReadings, prometheus.CounterValue, float64(good), "ok")
		ch <- prometheus.MustNewConstMetric(rulesReadings, prometheus.CounterValue, float64(bad), "failed")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.read) > fresh {
		w.look()
	}
	for _, m := range w.kept {
		ch <- m
	}
}

func (w *watcher) collectReaders(ch chan<- prometheus.Metric) {
	list := w.Server.Inventory.List()
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Reader
	}
	labels := w.m.readers.present(names)
	in, known := 0, 0
	of := map[string]int{}
	for _, e := range list {
		n := 0
		if e.Card {
			n = 1
		}
		in += n
		of[labels[e.Reader]] += n
		if e.EID != nil {
			known++
		}
	}
	ch <- gauge(readers, float64(len(list)))
	ch <- gauge(cards, float64(in))
	ch <- gauge(identified, float64(known))
	for label, n := range of {
		ch <- gauge(readerCard, float64(n), label)
	}
}

// look reads what there is to know of the record; mu is held.
func (w *watcher) look() {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	w.read = time.Now()
	q, err := w.Server.Store.Queue(ctx)
	var guards []server.OperatorGuard
	if err == nil {
		guards, err = w.Server.Guards(ctx, maxOperators)
	}
	if err != nil {
		if !w.failed {
			w.Log.Error("metrics not read from the record", "error", err)
		}
		w.failed = true
		w.kept = []prometheus.Metric{gauge(recordUp, 0)}
		return
	}
	w.failed = false
	age := func(at *time.Time) float64 {
		if at == nil {
			return 0
		}
		return max(w.Server.Store.Now().Sub(*at).Seconds(), 0)
	}
	w.kept = []prometheus.Metric{
		gauge(recordUp, 1),
		gauge(queue, float64(q.Open-q.Sending-q.Unknown), "waiting"),
		gauge(queue, float64(q.Held), "held"),
		gauge(queue, float64(q.Sending), "sending"),
		gauge(queue, float64(q.Unknown), "unknown"),
		gauge(queueAge, age(q.Oldest), "waiting"),
		gauge(queueAge, age(q.Sent), "sent"),
		gauge(outbox, float64(q.Deliveries)),
		gauge(endpoints, float64(q.WebhooksFailing), "failing"),
		gauge(endpoints, float64(q.WebhooksDisabled), "disabled"),
	}
	for _, g := range guards {
		tripped := 0.0
		if g.TrippedAt != nil {
			tripped = 1
		}
		w.kept = append(w.kept,
			gauge(guardAsked, float64(g.Asked), g.Operator),
			gauge(guardSent, float64(g.Sent), g.Operator),
			gauge(guardPending, float64(g.Pending), g.Operator),
			gauge(guardTripped, tripped, g.Operator),
			gauge(guardFleet, float64(g.Fleet), g.Operator),
		)
		if g.Budget != nil {
			w.kept = append(w.kept, gauge(guardBudget, float64(*g.Budget), g.Operator))
		}
		if g.Ceiling != nil {
			w.kept = append(w.kept, gauge(guardCeiling, float64(*g.Ceiling), g.Operator))
		}
	}
}
