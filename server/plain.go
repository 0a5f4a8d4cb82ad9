package server

import (
	"context"
	"errors"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/server/store"
)

// errApplet says that a card which is registered as a plain eUICC is none: what
// proves itself is not managed by what proves nothing.
var errApplet = errors.New("the card is registered as a plain eUICC and has the management applet")

// errSeveral says that all but one of several readers lie about a plain eUICC,
// which proves nothing: asking one of them could record a liar's state.
var errSeveral = errors.New("several readers say that they have this card, and nothing tells which of them does")

// plain is one attempt at a request on a plain eUICC, by ES10c: nothing is
// authenticated, nothing is signed, and what is read after a reset is the
// outcome (docs/adr/0010-plain-euiccs.md). Recovery reads alone: whatever goes
// out was let through by the rules in the transaction of its own mark.
func (a *attempt) plain(ctx context.Context) again {
	began, req := time.Now(), a.work.Request
	kind, try := "reading", a.disable
	if req.SentAt != nil {
		kind, try = "recovering", a.readBack
	}
	a.step(kind, map[string]any{"reader": a.place.Name, "reader_id": a.place.ID, "how": store.ES10c})
	rep, err := try(ctx)
	a.s.Log.Info("attempt", "request", req.ID, "eid", req.EID, "reader", a.place.Name, "reader_id", a.place.ID, "how", store.ES10c, "outcome", rep.Outcome,
		"sent", rep.Sent, "took", time.Since(began).Round(time.Microsecond), "error", err)
	a.s.Observer.Attempted(a.place, outcomeOf(card.Report{Outcome: rep.Outcome, Sent: rep.Sent}), err, time.Since(began))
	switch {
	case errors.Is(err, store.ErrRefused) || errors.Is(err, store.ErrHeld):
		return no
	case !rep.Sent:
		return a.unsent(err)
	case rep.After == nil:
		return a.lost(card.Report{}, err)
	}
	a.s.trust(suspect{req.EID, a.place})
	return a.finish(a.outcome(rep, err))
}

// disable sends the request's command for the first time.
func (a *attempt) disable(ctx context.Context) (es10.Report, error) {
	req := a.work.Request
	if req.ICCID == nil {
		return es10.Report{}, errors.New("no profile is meant")
	}
	conn, err := a.open(ctx)
	if err != nil {
		return es10.Report{}, err
	}
	defer a.s.disconnect(conn, a.place)
	if _, err := card.Select(ctx, apdu.BasicChannel(conn)); !card.NoApplet(err) {
		if err == nil {
			err = errApplet
		}
		return es10.Report{}, err
	}
	return es10.Attempt(ctx, conn, es10.Change{
		Op: es10.OpDisable, EID: &req.EID, ICCID: req.ICCID,
		BeforeSend: func(ctx context.Context, rep es10.Report) error {
			a.read = plainState(a.work.Card, rep.Before)
			if err := a.mark(ctx, false, map[string]any{"how": store.ES10c, "isdr": rep.ISDR, "iccid": req.ICCID.String()}); err != nil {
				return errors.Join(errInternal, err)
			}
			return nil
		},
	})
}

// readBack finds out what came of a command that was sent.
func (a *attempt) readBack(ctx context.Context) (es10.Report, error) {
	req := a.work.Request
	rep := es10.Report{Sent: true, Outcome: card.OutcomeUnknown, ICCID: req.ICCID}
	conn, err := a.open(ctx)
	if err != nil {
		return rep, err
	}
	defer a.s.disconnect(conn, a.place)
	if rep.After, err = es10.Read(ctx, conn, req.EID, true); err != nil {
		return rep, err
	}
	if rep.After == nil {
		rep.After = []es10.Profile{} // a card without profiles was read too
	}
	switch p, there := rep.Profile(); {
	case there && p.State == es10.Disabled:
		rep.Outcome = card.OutcomeDone
	case there:
		rep.Outcome = card.OutcomeFailed
	}
	return rep, nil
}

// outcome is how a request ends whose card was read after its command.
func (a *attempt) outcome(rep es10.Report, cause error) store.Outcome {
	o := store.Outcome{Card: plainState(a.work.Card, rep.After)}
	detail := map[string]any{"how": store.ES10c}
	answer := rep.Answer
	if answer == nil {
		answer = cause
	}
	if answer != nil {
		detail["answer"] = text(answer)
	}
	switch rep.Outcome {
	case card.OutcomeDone:
		o.State, o.Detail = store.Done, "done by ES10c: the card was reset and read, and the profile is disabled; nothing is authenticated, nothing is signed"
	case card.OutcomeRefused:
		o.State, o.Detail = store.Refused, "the card refuses, unsigned: "+text(answer)
		detail["by"] = "card"
	case card.OutcomeFailed:
		o.State, o.Detail = store.Failed, "the card was reset and read, and the profile is still enabled"
		if answer != nil {
			o.Detail += ": " + text(answer)
		}
	default:
		o.State, o.Detail = store.Unknown, "the profile is no longer on the card; whether this request was carried out cannot be known any more"
	}
	detail["text"] = o.Detail
	o.Steps = a.take(a.apdus.take(store.Event{Kind: string(o.State), Detail: detail})...)
	return o
}

// readPlain reads the state of a plain eUICC.
func readPlain(ctx context.Context, conn apdu.Conn, c *store.Card, reset bool) (*store.CardState, error) {
	list, err := es10.Read(ctx, conn, c.EID, reset)
	if err != nil {
		return nil, err
	}
	return plainState(c, list), nil
}

// plainState is what was read of a plain eUICC. Where the card does not say whose
// a profile is, it is whose the record says, or nobody's.
func plainState(c *store.Card, list []es10.Profile) *store.CardState {
	state := &store.CardState{Complete: true}
	for _, p := range list {
		out := store.Profile{
			ICCID: p.ICCID, State: store.Disabled, Class: p.Class.String(), Provider: p.Provider, Name: p.Name, PPR1: p.PPR1, PPR2: p.PPR2,
		}
		if p.State == es10.Enabled {
			out.State = store.Enabled
		}
		if known := c.Profile(p.ICCID); known != nil {
			out.Owner = known.Owner
		}
		if p.Owner != nil {
			out.Owner = *p.Owner
		}
		state.Profiles = append(state.Profiles, out)
	}
	return state
}
