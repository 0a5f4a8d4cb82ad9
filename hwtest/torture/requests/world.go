package requests

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// world is one record and the servers over it, for one trial after the other.
type world struct {
	bench  *bench
	record record
	where  string
	log    *slog.Logger
	db     *sql.DB // beside the stores
	desk   *server.Server
	drop   func() error // takes the record away
	offset atomic.Int64 // of the clock
	set    atomic.Pointer[rules.Set]
	play   atomic.Pointer[play] // the trial under way
	made   int                  // cards so far
	wrote  []wrote              // by each trial so far

	replacing sync.Mutex // one node at a time
	mu        sync.Mutex
	nodes     []*node
	cards     []*tortured // of the trial under way
	restart   *restart    // of the trials that go on at the same time; nil for none
}

// newWorld makes a record and starts its servers.
func (b *bench) newWorld(ctx context.Context, r record) (*world, error) {
	w := &world{bench: b, record: r, nodes: make([]*node, r.servers())}
	w.log = slog.New(slog.NewTextHandler(logTo{w}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	w.set.Store(rulesWith("{}"))
	var err error
	if r.postgres() {
		p := map[bool]*postgres.Server{false: b.steady, true: b.brittle}[r.restarts()]
		if w.where, err = p.CreateDatabase(ctx, template); err != nil {
			return nil, err
		}
		w.drop = func() error { return p.DropDatabase(context.WithoutCancel(ctx), w.where) }
	} else {
		w.where = filepath.Join(b.dir, fmt.Sprintf("record-%d.db", b.worlds.Add(1)))
		w.drop = func() error { return nil }
		if err := prepare(ctx, w.where); err != nil {
			return nil, err
		}
	}
	if w.db, err = openDB(w.where); err != nil {
		return nil, err
	}
	if b.sabotage != nil {
		if err := b.sabotage.breakRecord(ctx, w); err != nil {
			return nil, err
		}
	}
	s, err := store.Open(ctx, w.where, store.WithClock(w.now))
	if err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	if w.desk, err = server.New(server.Config{Store: s, Inventory: inventory.New(servertest.NewReaders(), quiet), Terminal: b.terminal, Log: quiet, Rules: w.rules}); err != nil {
		return nil, err
	}
	for i := range w.nodes {
		if err := w.revive(ctx, i); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) close() error {
	for _, n := range w.nodes {
		if n != nil {
			n.die()
			n.stop()
		}
	}
	return errors.Join(w.desk.Store.Close(), w.db.Close(), w.drop())
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

func (w *world) rules() *rules.Set { return w.set.Load() }

// node is the server of that number, nil while it is dead.
func (w *world) node(i int) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[i%len(w.nodes)]
	if n == nil || n.dead.Load() {
		return nil
	}
	return n
}

// all are the servers, dead or alive.
func (w *world) all() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

// revive starts a server anew once the one before it is gone, where it is dead.
func (w *world) revive(ctx context.Context, i int) error {
	if w.node(i) != nil {
		return nil
	}
	return w.replace(ctx, i, w.startNode)
}

// replace ends a server and starts another one in its place.
func (w *world) replace(ctx context.Context, i int, start func(context.Context, int) (*node, error)) error {
	w.replacing.Lock()
	defer w.replacing.Unlock()
	w.mu.Lock()
	old := w.nodes[i]
	w.mu.Unlock()
	if old != nil {
		old.die()
		old.stop()
	}
	for {
		n, err := start(ctx, i)
		if err == nil {
			w.mu.Lock()
			w.nodes[i] = n
			for _, c := range w.cards {
				if c.inside {
					n.readers.Insert(c.reader, c.sim, n.carry(c))
				}
			}
			w.mu.Unlock()
			return nil
		}
		// The record may be gone for a while.
		if p := w.play.Load(); p != nil {
			p.tell("server %d does not start: %v", i, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// fill sets whether the disk is full.
func (w *world) fill(yes bool) error {
	switch {
	case !w.record.postgres() && yes:
		full.Store(w.where, true)
	case !w.record.postgres():
		full.Delete(w.where)
	case yes:
		_, err := w.db.Exec(`INSERT INTO torture_full VALUES (TRUE)`)
		return err
	default:
		_, err := w.db.Exec(`DELETE FROM torture_full`)
		return err
	}
	return nil
}

// logTo is the log of a world's servers.
type logTo struct{ w *world }

func (l logTo) Write(b []byte) (int, error) {
	if p := l.w.play.Load(); p != nil {
		p.tell("%s", bytes.TrimSpace(b))
	}
	return len(b), nil
}

// tortured is a card of a trial.
type tortured struct {
	plan    cardPlan
	image   *appletsim.Image // as it was
	record  []byte           // the card record file
	target  card.Target
	sim     *appletsim.Card
	reader  string
	inside  bool // its reader; guarded by world.mu
	play    *play
	mu      sync.Mutex
	counter uint32
	done    []uint32 // event counters that its memory has had since
}

// mould is what the cards of one kind have in common: all but the EID. Keys take
// long to code, and to parse.
type mould struct {
	image  *appletsim.Image
	record []byte
	target card.Target
}

var moulds sync.Map // by mouldKey

type mouldKey struct {
	owner    int
	fallback bool
}

func mouldOf(plan cardPlan) (*mould, error) {
	key := mouldKey{plan.owner, plan.fallback}
	if m, ok := moulds.Load(key); ok {
		return m.(*mould), nil
	}
	im := servertest.Image(0)
	im.Keys.Auth, im.Suites = im.Keys.Auth[:1], []int{1} // one key is loaded faster than three
	if plan.owner == 1 {
		im.Profiles[0].State, im.Profiles[2].State = appletsim.Disabled, appletsim.Enabled
	}
	im.Profiles[1].Fallback = plan.fallback
	m := &mould{image: im, record: servertest.Record(im)}
	r, err := card.ParseRecord(m.record)
	if err != nil {
		return nil, err
	}
	m.target = r.Target()
	moulds.Store(key, m)
	return m, nil
}

// newCard makes the next card.
func (w *world) newCard(p *play, plan cardPlan) (*tortured, error) {
	m, err := mouldOf(plan)
	if err != nil {
		return nil, err
	}
	im := *m.image
	im.EID = eid(w.made)
	w.made++
	c := &tortured{plan: plan, image: &im, target: m.target, reader: "reader of " + im.EID.String(), play: p, counter: im.EventCounter}
	c.target.EID = im.EID
	c.record = bytes.ReplaceAll(m.record, []byte(m.image.EID.String()), []byte(im.EID.String()))
	c.sim, err = appletsim.New(&im, appletsim.WithKeys(w.bench.cardKeys), appletsim.WithStore(c))
	return c, err
}

// Save implements appletsim.Store: it logs what the card carries out.
func (c *tortured) Save(image []byte) error {
	counter, err := eventCounter(image)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if counter != c.counter {
		c.counter = counter
		c.done = append(c.done, counter)
	}
	return nil
}

func (c *tortured) executions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.done)
}

func (c *tortured) note(n *node, s Step, rapdu []byte, err error) {
	switch {
	case err != nil:
		c.play.tell("server %d, card %s: %s: %v", n.index, c.image.EID, s, err)
	case len(rapdu) >= 2:
		c.play.tell("server %d, card %s: %s: %d bytes, %X", n.index, c.image.EID, s, len(rapdu)-2, rapdu[len(rapdu)-2:])
	}
}

// insert puts a card into every server's reader of it.
func (w *world) insert(c *tortured) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.inside {
		return
	}
	c.inside = true
	for _, n := range w.nodes {
		if n != nil {
			n.readers.Insert(c.reader, c.sim, n.carry(c))
		}
	}
}

// pull takes it out of them; whether it was in there.
func (w *world) pull(c *tortured) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.inside {
		return false
	}
	c.inside = false
	for _, n := range w.nodes {
		if n != nil {
			n.readers.Remove(c.reader)
		}
	}
	return true
}

var errPulled = fmt.Errorf("pulled: %w", apdu.ErrCardRemoved)

// memory is what a card's persistent memory holds.
func (w *world) memory(c *tortured) *appletsim.Image {
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.sim.Image()
}
