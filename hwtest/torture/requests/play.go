package requests

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// eid is that of the n-th card of a world.
func eid(n int) id.EID {
	e := id.EID{0x89, 0x04, 0x90, 0x32}
	for i := 14; i > 7; i-- {
		e[i] = byte(n/10%10<<4 | n%10)
		n /= 100
	}
	return e.WithCheckDigits()
}

func eventCounter(image []byte) (uint32, error) {
	var im struct {
		EventCounter uint32 `json:"event_counter"`
	}
	err := json.Unmarshal(image, &im)
	return im.EventCounter, err
}

// play is a trial under way.
type play struct {
	*Trial
	w     *world
	ctx   context.Context
	began time.Time
	took  time.Duration
	cards []*tortured
	ops   [2]operator
	later sync.WaitGroup // what strikes left to be done

	mu         sync.Mutex
	armed      bool
	queue      []Strike
	count      int // how often the step of queue[0] was reached
	chance     *rand.Rand
	story      []string
	asked      []*asked
	struck     bool // Main happened
	jumped     time.Duration
	taken      bool // another server claimed the card of one that sleeps
	mismatches []string

	requests []store.Request // as they ended
	record   []string        // the audit trail, where there is a mismatch
}

// operator is one of the two, and its two users.
type operator struct{ asker, approver store.Operator }

// asked is what became of an askPlan, as the operator was told.
type asked struct {
	plan    askPlan
	key     string
	calls   int            // that were made
	answers []id.RequestID // that came
}

const longStory = 400 // lines of a story

func (p *play) tell(format string, args ...any) {
	line := fmt.Sprintf("%8.1f ms  ", float64(time.Since(p.began).Microseconds())/1000) + fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.story) < longStory {
		p.story = append(p.story, line)
	}
}

func (p *play) mismatch(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mismatches = append(p.mismatches, fmt.Sprintf(format, args...))
}

// within is a random time below d.
func (p *play) within(d time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(p.chance.Int64N(int64(d)))
}

func (p *play) either() bool { return p.within(2) == 0 }

// reached reports whether a strike is due at a step of a node. Then p.later is
// done once it has happened.
func (p *play) reached(n *node, s Step, m torture.Moment) (Strike, bool) {
	nodes := p.w.all()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fence(nodes, n, s, m)
	if !p.armed || len(p.queue) == 0 {
		return Strike{}, false
	}
	next := p.queue[0]
	if next.Step != s || next.Moment != m || next.Fault == Killed && n.child == nil {
		return Strike{}, false
	}
	if p.count++; p.count < next.Nth {
		return Strike{}, false
	}
	p.queue, p.count = p.queue[1:], 0
	p.struck = p.struck || next == p.Main
	p.later.Add(1) // the trial waits for the strike
	return next, true
}

// fence watches that a server whose card was claimed by another one while it
// slept writes nothing under its old claim.
func (p *play) fence(nodes []*node, n *node, s Step, m torture.Moment) {
	if m != torture.After {
		return
	}
	switch {
	case s == Claim:
		n.fenced = false
		for _, other := range nodes {
			if other != nil && other != n && other.sleeps() {
				other.fenced, p.taken = true, true
			}
		}
	case s == Submit:
		n.fenced = false // it may have come with a claim
	case s.underClaim() && n.fenced && p.Main.Fault == Slept && p.Second == nil && (p.Main.Step.onCard() || p.Main.Step.underClaim() || p.Main.Step == Claim):
		p.mismatches = append(p.mismatches, fmt.Sprintf("server %d wrote %q although another one had claimed the card while it slept", n.index, s))
	}
}

func (n *node) sleeps() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.awake != nil
}

// strike brings a fault about. The error is for whoever came to the step.
func (p *play) strike(n *node, s Strike, c *tortured) error {
	p.tell("STRIKE at server %d: %s", n.index, s)
	w := p.w
	// broken is the error of the step where the fault is in what the step uses.
	broken := errDropped
	if c != nil {
		broken = fmt.Errorf("struck: %w", apdu.ErrTransport)
	}
	switch s.Fault {
	case Died, Killed:
		n.die()
		if n.child != nil {
			n.child.kill()
		}
		p.resurrect(n.index)
		return errDead
	case Dropped:
		if !w.record.postgres() {
			n.losing.Store(1 + int32(p.within(2)))
			if c == nil && s.Moment == torture.After {
				return broken
			}
			return nil
		}
		if _, err := w.db.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`, n.name); err != nil {
			p.mismatch("the trial broke: %v", err)
		}
		if c == nil && s.Moment == torture.After && p.either() {
			return broken
		}
		return nil
	case Pulled:
		away := time.Millisecond + p.within(40*time.Millisecond)
		for _, one := range p.cards {
			if c == nil || c == one {
				p.pullFor(one, away)
			}
		}
		if c != nil {
			return errPulled
		}
		return nil
	case Answer:
		switch {
		case c == nil:
			return errAnswer
		case s.Moment == torture.Before:
			return broken
		}
		return fmt.Errorf("struck: %w", apdu.ErrTimeout)
	case delayed:
		time.Sleep(lease * 3 / 8) // a renewal comes within a third
		return nil
	case Slept:
		return p.sleep(n)
	case Jumped:
		by := []time.Duration{time.Second, 30 * time.Second, 11 * time.Minute, 2 * time.Hour, 30 * time.Hour}[p.within(5)]
		if p.either() {
			by = -by
		}
		w.offset.Add(int64(by))
		p.mu.Lock()
		p.jumped += by
		p.mu.Unlock()
		p.tell("the clock jumps by %s", by)
		return nil
	case Full:
		if err := w.fill(true); err != nil {
			p.mismatch("the trial broke: %v", err)
		}
		p.afterwards(5*time.Millisecond+p.within(60*time.Millisecond), func() {
			p.tell("the disk has room again")
			if err := w.fill(false); err != nil {
				p.mismatch("the trial broke: %v", err)
			}
		})
		return nil
	case Restarted:
		if err := w.restart.at(w); err != nil {
			p.mismatch("the trial broke: %v", err)
		}
		return nil
	}
	p.mismatch("the trial broke: no fault %q", s.Fault)
	return nil
}

// sleep has a server sleep until its leases have passed: a while, or until the
// clock that all share has gone on and another server took over.
func (p *play) sleep(n *node) error {
	n.doze()
	defer n.rouse()
	if p.within(20) == 0 {
		time.Sleep(lease * 5 / 4)
		return nil
	}
	p.w.offset.Add(int64(2 * lease))
	for range 60 {
		time.Sleep(2 * time.Millisecond)
		p.mu.Lock()
		taken := p.taken
		p.mu.Unlock()
		if taken {
			time.Sleep(p.within(20 * time.Millisecond)) // so far the other has come
			break
		}
	}
	return nil
}

// afterwards does something some time later.
func (p *play) afterwards(d time.Duration, do func()) {
	p.later.Go(func() {
		time.Sleep(d)
		do()
	})
}

func (p *play) pullFor(c *tortured, away time.Duration) {
	if p.w.pull(c) {
		p.tell("card %s is pulled", c.image.EID)
		p.afterwards(away, func() {
			p.tell("card %s is back", c.image.EID)
			p.w.insert(c)
		})
	}
}

// resurrect starts a server again, some time later.
func (p *play) resurrect(i int) {
	wait := p.within(30 * time.Millisecond)
	if p.w.record.servers() > 1 && p.either() {
		w := p.w
		w.offset.Add(int64(lease + lease/4)) // so that another one takes over
	}
	p.later.Go(func() {
		time.Sleep(wait)
		if err := p.w.revive(p.ctx, i); err != nil {
			p.mismatch("the trial broke: server %d does not come back: %v", i, err)
			return
		}
		p.tell("server %d is back", i)
	})
}

// set puts the operators and cards of the trial into the record.
func (p *play) set() error {
	w, ctx := p.w, p.ctx
	for i, owner := range []id.MCCMNC{servertest.Owner, servertest.Other} {
		name := fmt.Sprintf("operator %d of trial %d, cards from %d on", i, p.N, w.made)
		token := func(user string) store.Grant { return store.Grant{Hash: sha256.Sum256([]byte(name + user))} }
		o := &p.ops[i]
		var err error
		if o.asker, err = w.desk.Store.AddOperator(ctx, name, owner, store.User{Name: "asker", Roles: store.AllRoles}, token("asker")); err != nil {
			return err
		}
		if o.approver, err = w.desk.Store.AddUser(ctx, name, store.User{Name: "approver", Roles: store.AllRoles}, token("approver")); err != nil {
			return err
		}
	}
	var known []any
	for _, plan := range p.Trial.cards {
		c, err := w.newCard(p, plan)
		if err != nil {
			return err
		}
		p.cards = append(p.cards, c)
		for _, o := range p.ops {
			if _, _, err := w.desk.RegisterCard(ctx, o.asker, c.record); err != nil {
				return err
			}
			if plan.critical {
				if err := w.desk.Store.SetCardGroups(ctx, o.asker, c.image.EID, []string{critical}); err != nil {
					return err
				}
			}
		}
		if !plan.unsettled {
			known = append(known, c.image.EID.String())
		}
	}
	if len(known) > 0 {
		in := "$1"
		for i := range known[1:] {
			in += fmt.Sprintf(", $%d", i+2)
		}
		if _, err := w.db.ExecContext(ctx, `UPDATE cards SET unsettled = FALSE WHERE eid IN (`+in+`)`, known...); err != nil {
			return err
		}
	}
	return nil
}

const (
	critical    = "critical" // a group of the shipped rules that wants an approval
	criticalMax = 2          // and its budget
)

// run plays the trial and compares what is left.
func (w *world) run(ctx context.Context, t *Trial) (*play, error) {
	p := &play{Trial: t, w: w, ctx: ctx, began: time.Now(), chance: rand.New(&t.rand)}
	p.queue = append(append(p.queue, t.Prelude...), t.Main)
	if t.Second != nil {
		p.queue = append(p.queue, *t.Second)
	}
	w.set.Store(rulesWith(t.budget))
	if err := p.set(); err != nil {
		return p, fmt.Errorf("not set up: %w", err)
	}
	w.play.Store(p)
	defer w.play.Store(nil)
	w.mu.Lock()
	w.cards = p.cards
	w.mu.Unlock()
	if w.record.child() {
		if err := w.replace(ctx, 0, w.startChild); err != nil {
			return p, err
		}
	}
	for _, c := range p.cards {
		switch {
		case c.plan.absent:
		case c.plan.late == 0:
			w.insert(c)
		default:
			p.afterwards(c.plan.late, func() { w.insert(c) })
		}
	}
	p.arm(true)
	var asking sync.WaitGroup
	for i, a := range t.asks {
		one := &asked{plan: a}
		if a.key {
			one.key = fmt.Sprintf("key %d", i)
		}
		p.asked = append(p.asked, one)
		asking.Go(func() {
			time.Sleep(time.Duration(i) * a.gap)
			p.ask(one)
		})
	}
	asking.Wait()
	p.untilStruck()
	p.arm(false)
	if err := w.restart.leave(w); err != nil {
		return p, err
	}
	p.later.Wait()
	if w.record.child() {
		if n := w.node(0); n != nil && n.child != nil {
			p.tell("server 0 is killed, the trial is over")
			n.die()
			n.child.kill()
			if err := w.revive(ctx, 0); err != nil {
				return p, err
			}
		}
	}
	// The clock is put right again, and so much time passes that nobody holds
	// what died.
	w.offset.Add(int64(lease + lease/4 - p.jumped))
	p.compare()
	w.mu.Lock()
	w.cards = nil
	w.mu.Unlock()
	for _, c := range p.cards {
		w.pull(c)
	}
	return p, nil
}

func (p *play) arm(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = yes
}

// untilStruck waits until all strikes happened, or there is nothing under way
// that could come to their steps.
func (p *play) untilStruck() {
	for range 400 {
		p.mu.Lock()
		left := len(p.queue)
		p.mu.Unlock()
		if left == 0 {
			return
		}
		if _, busy := p.quiet(); busy == "" {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ask is an operator with a request.
func (p *play) ask(a *asked) {
	plan := a.plan
	o, c := p.ops[plan.operator], p.cards[plan.card]
	d := server.Deactivation{EID: c.image.EID, Reason: byte(plan.card), Timeout: plan.timeout, Key: a.key}
	if plan.named {
		d.ICCID = &c.image.Profiles[map[int]int{0: 0, 1: 2}[c.plan.owner]].ICCID
	}
	var twice sync.WaitGroup
	if plan.again {
		twice.Go(func() {
			time.Sleep(plan.wait)
			p.handIn(a, o, d, plan.node+1)
		})
	}
	r, ok := p.handIn(a, o, d, plan.node)
	if ok && plan.cancel {
		time.Sleep(plan.wait)
		p.try("cancel", plan.node, func(ctx context.Context, c client) error { return c.cancel(ctx, o.asker, r) })
	}
	if ok && plan.approve {
		p.approve(o, r, plan.node)
	}
	twice.Wait()
}

// handIn hands a request in until it is answered, where it has a key; one that
// has none is handed in once.
func (p *play) handIn(a *asked, o operator, d server.Deactivation, node int) (id.RequestID, bool) {
	for try, end := 0, time.Now().Add(p.w.bench.patience); time.Now().Before(end) && p.ctx.Err() == nil; try++ {
		n := p.w.node(node + try)
		if n == nil {
			time.Sleep(3 * time.Millisecond)
			continue
		}
		p.mu.Lock()
		a.calls++
		p.mu.Unlock()
		ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
		r, err := n.client.deactivate(ctx, o.asker, d)
		cancel()
		if err == nil && n.dead.Load() {
			err = errDead // the answer reaches nobody
		}
		if err == nil {
			p.tell("server %d takes request %s for card %s, %q", n.index, r, d.EID, d.Key)
			p.mu.Lock()
			a.answers = append(a.answers, r)
			p.mu.Unlock()
			return r, true
		}
		p.tell("server %d does not take a request for card %s, %q: %v", n.index, d.EID, d.Key, err)
		if d.Key == "" {
			return id.RequestID{}, false
		}
		time.Sleep(3 * time.Millisecond)
	}
	p.mismatch("no server takes request %q for card %s", d.Key, d.EID)
	return id.RequestID{}, false
}

// approve approves a request that waits for it, in the name of the asker first,
// who may not.
func (p *play) approve(o operator, r id.RequestID, node int) {
	for range 100 {
		now, err := p.w.desk.Store.Request(p.ctx, r)
		switch {
		case err != nil:
		case now.FinishedAt != nil:
			return
		case now.State == store.Held:
			if p.either() {
				p.try("approve alone", node, func(ctx context.Context, c client) error {
					err := c.approve(ctx, o.asker, r)
					if err == nil {
						p.mismatch("request %s was approved by the user who asked for it", r)
					}
					return err
				})
			}
			p.try("approve", node, func(ctx context.Context, c client) error { return c.approve(ctx, o.approver, r) })
			return
		case now.SentAt != nil:
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// try does something at a server until it answers.
func (p *play) try(what string, node int, do func(context.Context, client) error) {
	for try := range 20 {
		n := p.w.node(node + try)
		if n == nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
		err := do(ctx, n.client)
		cancel()
		p.tell("%s at server %d: %v", what, n.index, err)
		if err == nil || isAny(err, store.ErrState, store.ErrFourEyes, store.ErrTripped, store.ErrNotFound) {
			return
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// isAny reports whether err is one of some, also where it comes from another
// process.
func isAny(err error, some ...error) bool {
	for _, e := range some {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}
