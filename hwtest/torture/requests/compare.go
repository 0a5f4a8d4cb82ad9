package requests

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

// patience is how long the servers may take to settle once the faults are gone.
const patience = 3 * time.Minute

// picture is the record of a trial.
type picture struct {
	cards    []*store.Card
	requests []store.Request
	events   map[id.RequestID][]store.Event
}

// readEvents adds the audit trail.
func (p *play) readEvents(pic *picture) error {
	pic.events = map[id.RequestID][]store.Event{}
	for _, r := range pic.requests {
		list, err := p.w.desk.Store.RequestEvents(p.ctx, r.ID, 0, true, 10_000)
		if err != nil {
			return err
		}
		pic.events[r.ID] = list
	}
	return nil
}

// quiet says what is still to be done; where that is nothing it gives the record,
// without its events.
func (p *play) quiet() (pic picture, left string) {
	s := p.w.desk.Store
	for _, o := range p.ops {
		list, _, err := s.ListRequests(p.ctx, o.asker.ID, store.RequestFilter{}, store.Place{}, 1000)
		if err != nil {
			return pic, err.Error()
		}
		pic.requests = append(pic.requests, list...)
	}
	for _, r := range pic.requests {
		waits := r.State == store.Held || p.cardOf(r.EID).plan.absent && r.SentAt == nil
		if r.FinishedAt == nil && !(waits && r.Deadline.After(p.w.now())) {
			return pic, fmt.Sprintf("request %s is %s", r.ID, r.State)
		}
	}
	// The cards come after them: where all requests have ended, so have the
	// records of their cards.
	for _, c := range p.cards {
		r, err := s.Card(p.ctx, c.image.EID, 0)
		switch {
		case err != nil:
			return pic, err.Error()
		case r.Unsettled && !c.plan.absent:
			return pic, fmt.Sprintf("card %s is unsettled", c.image.EID)
		}
		pic.cards = append(pic.cards, r)
	}
	return pic, ""
}

func (p *play) cardOf(e id.EID) *tortured {
	return p.cards[slices.IndexFunc(p.cards, func(c *tortured) bool { return c.image.EID == e })]
}

// compare waits until the servers have settled and holds what they recorded
// against the cards, and against what they said.
func (p *play) compare() {
	var pic picture
	left := ""
	for end := time.Now().Add(p.w.bench.patience); ; time.Sleep(8 * time.Millisecond) {
		if pic, left = p.quiet(); left == "" || time.Now().After(end) || p.ctx.Err() != nil {
			break
		}
	}
	if left != "" {
		p.mismatch("not settled after %s: %s", p.w.bench.patience, left)
	}
	err := p.readEvents(&pic)
	for i := len(pic.cards); i < len(p.cards) && err == nil; i++ {
		var r *store.Card
		r, err = p.w.desk.Store.Card(p.ctx, p.cards[i].image.EID, 0)
		pic.cards = append(pic.cards, r)
	}
	if err == nil {
		err = p.compareGuard(pic)
	}
	if err == nil {
		err = p.signTrail(pic)
	}
	if err != nil {
		p.mismatch("the trial broke: the record is not read: %v", err)
		return
	}
	done := map[id.EID]int{}
	for _, r := range pic.requests {
		if r.State == store.Done {
			done[r.EID]++
		}
		p.compareRequest(r, pic.events[r.ID])
	}
	for i, c := range p.cards {
		p.compareCard(c, pic.cards[i], done[c.image.EID])
	}
	p.compareOverlap(pic)
	p.compareAsked(pic)
	p.requests = pic.requests
	if len(p.mismatches) > 0 || p.w.bench.verbose {
		p.tellRecord(pic)
	}
}

// compareCard holds the record of a card against the card.
func (p *play) compareCard(c *tortured, r *store.Card, done int) {
	now := p.w.memory(c)
	if !c.plan.absent && r.Unsettled {
		p.mismatch("card %s: the record is unsettled", now.EID)
	}
	if r.EventCounter != now.EventCounter {
		p.mismatch("card %s: event counter %d, recorded %d", now.EID, now.EventCounter, r.EventCounter)
	}
	for _, is := range now.Profiles {
		switch recorded := r.Profile(is.ICCID); {
		case recorded == nil:
			p.mismatch("card %s: profile %s is not recorded", now.EID, is.ICCID)
		case string(recorded.State) != string(is.State):
			p.mismatch("card %s: profile %s is %s, recorded %s", now.EID, is.ICCID, is.State, recorded.State)
		}
	}
	if moved := int(now.EventCounter) - int(c.image.EventCounter); moved != done {
		p.mismatch("card %s: the event counter moved by %d, and %d requests are done", now.EID, moved, done)
	}
	if n := c.executions(); n != done {
		p.mismatch("card %s: it carried out %d commands, and %d requests are done", now.EID, n, done)
	}
}

// compareRequest checks how one request stands.
func (p *play) compareRequest(r store.Request, events []store.Event) {
	wrong := func(format string, args ...any) { p.mismatch("request %s: %s", r.ID, fmt.Sprintf(format, args...)) }
	c := p.cardOf(r.EID)
	marks := 0
	for _, e := range events {
		if e.Kind == string(store.Sending) && e.Detail["again"] == nil {
			marks++
		}
	}
	if marked := r.SentAt != nil; marks > 1 || marked != (marks == 1) {
		wrong("marked %v, and the audit trail has %d marks", marked, marks)
	}
	switch {
	case r.State == store.Done:
		p.proven(r, c)
	case r.SentAt != nil && r.State == store.Refused && r.Answer != nil:
		p.proven(r, c)
	case r.SentAt != nil && r.FinishedAt != nil:
		wrong("it was marked and ended as %s: %s", r.State, r.Detail)
	case r.SentAt != nil && !c.plan.absent:
		wrong("it was marked and is %s though the card is there", r.State)
	case r.State == store.Failed:
		wrong("it failed: %s", r.Detail)
	}
	if r.FinishedAt == nil {
		return
	}
	events = slices.DeleteFunc(slices.Clone(events), func(e store.Event) bool { return e.Internal })
	if n := len(events); n == 0 || events[n-1].Kind != string(r.State) {
		wrong("it ended as %s, and the audit trail does not end so", r.State)
	}
}

// proven checks the receipt under the card's key.
func (p *play) proven(r store.Request, c *tortured) {
	if r.Answer == nil {
		p.mismatch("request %s: %s without an answer", r.ID, r.State)
		return
	}
	cmd := card.Command{INS: card.INSDeactivate, RequestID: r.ID, Operator: r.MCCMNC, ICCID: r.ICCID, Reason: r.Reason, Counter: r.Counter}
	if !slices.Equal(cmd.Data(), r.Answer.Command) {
		p.mismatch("request %s: it was sent as %s", r.ID, hex.EncodeToString(r.Answer.Command))
	}
	if err := card.Verify(c.target, cmd, r.Answer.Response, r.Answer.Receipt); err != nil {
		p.mismatch("request %s: the receipt does not verify: %v", r.ID, err)
	}
}

// ends are the steps after which another command may be marked for the card.
var ends = []store.State{store.Done, store.Refused, store.Failed, store.Expired, store.Cancelled}

// compareOverlap checks that no two requests of a card were between mark and
// outcome at the same time.
func (p *play) compareOverlap(pic picture) {
	open := map[id.EID]id.RequestID{}
	for _, e := range pic.inOrder() {
		switch state := store.State(e.Kind); {
		case state == store.Sending && e.Detail["again"] == nil:
			if other, busy := open[*e.EID]; busy {
				p.mismatch("card %s: request %s was marked while %s had no outcome", e.EID, e.RequestID, other)
			}
			open[*e.EID] = *e.RequestID
		case slices.Contains(ends, state) && open[*e.EID] == *e.RequestID:
			delete(open, *e.EID)
		}
	}
}

// inOrder is the audit trail of all requests.
func (pic picture) inOrder() (all []store.Event) {
	for _, list := range pic.events {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b store.Event) int { return cmp.Compare(a.Seq, b.Seq) })
	return all
}

// compareAsked holds the requests against what the operators did and were told.
func (p *play) compareAsked(pic picture) {
	known := map[id.RequestID]bool{}
	for _, r := range pic.requests {
		known[r.ID] = true
	}
	most := 0
	for _, a := range p.asked {
		first := id.RequestID{}
		for i, r := range a.answers {
			if !known[r] {
				p.mismatch("request %s was taken in and is not in the record", r)
			}
			if i > 0 && r != first {
				p.mismatch("%q has two requests, %s and %s", a.key, first, r)
			}
			first = r
		}
		if a.key != "" {
			most++
		} else {
			most += a.calls
		}
	}
	if len(known) > most {
		p.mismatch("%d requests are in the record, and at most %d were made", len(known), most)
	}
}

// compareGuard holds the guard's counts against the requests.
func (p *play) compareGuard(pic picture) error {
	window := p.w.rules().Window()
	for i, o := range p.ops {
		scopes, err := p.w.desk.Store.Guard(p.ctx, o.asker.ID)
		if err != nil {
			return err
		}
		for _, scope := range scopes {
			in := func(r store.Request) bool {
				return r.Operator == o.asker.ID && (scope.Group == "" || p.cardOf(r.EID).plan.critical)
			}
			pending := int64(0)
			var marked []store.Request
			for _, r := range pic.requests {
				if in(r) && r.FinishedAt == nil && r.SentAt == nil && r.State != store.Held && r.Epoch == scope.Epoch {
					pending++
				}
				if in(r) && r.SentAt != nil {
					marked = append(marked, r)
				}
			}
			if scope.Pending != pending {
				p.mismatch("operator %d, group %q: %d requests are pending for the guard, and %d are", i, scope.Group, scope.Pending, pending)
			}
			limit := p.max
			if scope.Group != "" {
				limit = criticalMax
			}
			if limit == 0 {
				continue
			}
			// In the order of the marks, each of which looks back for a window.
			slices.SortFunc(marked, func(a, b store.Request) int { return cmp.Compare(pic.markOf(a), pic.markOf(b)) })
			for n, r := range marked {
				within := int64(0)
				for _, before := range marked[:n] {
					if before.SentAt.After(r.SentAt.Add(-window)) {
						within++
					}
				}
				if within >= limit && r.ApprovedAt == nil {
					p.mismatch("operator %d, group %q: request %s was sent without an approval after %d others within %s, and the budget is %d", i, scope.Group, r.ID, within, window, limit)
				}
				if r.ApprovedAt != nil && r.ApprovedBy == r.UserID {
					p.mismatch("request %s was approved by the user who asked for it", r.ID)
				}
			}
		}
	}
	return nil
}

// markOf is where in the audit trail a request was marked.
func (pic picture) markOf(r store.Request) int64 {
	for _, e := range pic.events[r.ID] {
		if e.Kind == string(store.Sending) {
			return e.Seq
		}
	}
	return 0
}

// tellRecord adds the audit trail to the story.
func (p *play) tellRecord(pic picture) {
	for i, c := range pic.cards {
		p.record = append(p.record, fmt.Sprintf("card %s: event counter %d, recorded %d, unsettled %v, in a reader %v",
			c.EID, p.w.memory(p.cards[i]).EventCounter, c.EventCounter, c.Unsettled, !p.cards[i].plan.absent))
	}
	for _, r := range pic.requests {
		p.record = append(p.record, fmt.Sprintf("request %s of operator %d for card %s: %s, marked %v: %s", r.ID, r.Operator, r.EID, r.State, r.SentAt != nil, r.Detail))
	}
	for _, e := range pic.inOrder() {
		detail, _ := json.Marshal(e.Detail) // it was read from JSON
		p.record = append(p.record, fmt.Sprintf("event %d, %s, request %s: %s %.300s", e.Seq, e.At.Format("15:04:05.000"), e.RequestID, e.Kind, detail))
	}
}
