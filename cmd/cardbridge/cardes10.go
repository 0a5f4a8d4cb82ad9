package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/card/id"
)

// plain is the flags by which a command is for an eUICC without the management
// applet.
type plain struct {
	on      bool // --es10
	aids    []string
	segment int
	eid     string
	refresh bool
	sent    bool
}

func (e *plain) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&e.on, "es10", false, "by SGP.22 ES10c, for an eUICC without the management applet: nothing is authenticated, nothing is signed")
	f.StringSliceVar(&e.aids, "isdr", nil, "with --es10: `AID` of the ISD-R, in hexadecimal; several are tried in turn (default: the standard's and some makers')")
	f.IntVar(&e.segment, "segment", apdu.MaxShortData, "with --es10: at most `N` bytes in one STORE DATA, 1 to 255")
	f.StringVar(&e.eid, "eid", "", "with --es10: `EID` of the card that it must be")
}

func (e *plain) addChangeFlags(f *pflag.FlagSet) {
	f.BoolVar(&e.refresh, "refresh", false, "with --es10: have the card send a REFRESH; the card is reset afterwards in any case")
	f.BoolVar(&e.sent, "sent", false, "with --es10: it was sent before and its outcome is unknown; a card that is as it should be is done")
}

// check refuses flags that are for the other kind of card.
func (e *plain) check(flags *pflag.FlagSet) error {
	others, why := []string{"isdr", "segment", "eid", "refresh", "sent"}, "is for --es10 alone"
	if e.on {
		others = []string{"keyset", "card", "suite", "operator", "request-id", "counter", "reason"}
		why = "has no meaning with --es10: without the management applet there are no keys, no operators and no receipts"
	}
	for _, name := range others {
		if flags.Changed(name) {
			return fmt.Errorf("--%s %s", name, why)
		}
	}
	return nil
}

// options are the flags as package es10 has them.
func (e *plain) options() (es10.Options, *id.EID, error) {
	o := es10.Options{AIDs: e.aids, Segment: e.segment}
	if e.segment < 1 || e.segment > apdu.MaxShortData {
		return o, nil, fmt.Errorf("--segment %d, 1 to %d wanted", e.segment, apdu.MaxShortData)
	}
	if e.eid == "" {
		return o, nil, nil
	}
	eid, err := id.ParseEID(e.eid)
	return o, &eid, err
}

// status is card status --es10.
func (e *plain) status(cmd *cobra.Command, b *bench) error {
	p, ctx := newPrinter(cmd), cmd.Context()
	res := cardResult{How: es10.How}
	run := func() (err error) {
		options, want, err := e.options()
		if err != nil {
			return err
		}
		conn, err := b.openNow(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		euicc, err := es10.Open(ctx, conn, options)
		if err != nil {
			return err
		}
		res.ISDR = euicc.AID()
		eid, err := euicc.EID(ctx)
		if err != nil {
			return err
		}
		res.EID = eid.String()
		if want != nil && *want != eid {
			return fmt.Errorf("the card's EID is %s, %s wanted", eid, want)
		}
		profiles, err := euicc.Profiles(ctx)
		if err != nil {
			return err
		}
		res.setProfiles(profiles)
		for _, q := range profiles {
			if q.State == es10.Enabled {
				res.ICCID, res.State = q.ICCID.String(), q.State.String()
			}
		}
		return euicc.Close(ctx)
	}
	err := errors.Join(run(), b.close())
	outcome := card.OutcomeDone
	if err != nil {
		outcome = card.OutcomeFailed
	}
	return p.finish(res, outcome, err)
}

// change is card deactivate --es10 and card activate --es10.
func (e *plain) change(cmd *cobra.Command, b *bench, op es10.Op, iccid string, attempts int) error {
	p := newPrinter(cmd)
	res := cardResult{How: es10.How}
	var rep es10.Report
	run := func() error {
		change := es10.Change{Op: op, Refresh: e.refresh, Sent: e.sent}
		var err error
		if change.Options, change.EID, err = e.options(); err != nil {
			return err
		}
		if attempts < 1 {
			return fmt.Errorf("--attempts %d, 1 or more wanted", attempts)
		}
		if iccid != "" {
			c, err := id.ParseICCID(iccid)
			if err != nil {
				return err
			}
			change.ICCID = &c
		} else if e.sent {
			return errors.New("say by --iccid which profile it was; without it another one may be changed")
		}
		change.BeforeSend = func(_ context.Context, r es10.Report) error {
			p.step("EID %s, ISD-R %s, profiles: %d; sending %s for %s", r.EID, r.ISDR, len(r.Before), op, r.ICCID)
			return nil
		}
		rep, err = es10.Run(cmd.Context(), change, es10.Recovery{Open: b.open, Wait: b.wait, Attempts: attempts, Step: p.step})
		return err
	}
	err := run()
	if cerr := b.close(); cerr != nil {
		fmt.Fprintf(p.err, "cardbridge: trace: %v\n", cerr)
	}
	res.setChange(rep)
	switch {
	case rep.Outcome == card.OutcomeRefused:
		fmt.Fprintf(p.err, "cardbridge: the card refuses, and does not sign it: %v\n", rep.Answer)
	case rep.Outcome == card.OutcomeDone && rep.Answer != nil:
		fmt.Fprintf(p.err, "cardbridge: it is done, as the card was read afterwards; its answer was: %v\n", rep.Answer)
	}
	err = p.finish(res, rep.Outcome, err)
	if rep.Outcome == card.OutcomeUnknown && rep.ICCID != nil {
		flags := cmd.Flags()
		for name, value := range map[string]string{"iccid": rep.ICCID.String(), "sent": "true"} {
			_ = flags.Set(name, value) // they are there
		}
		if rep.EID != nil {
			_ = flags.Set("eid", rep.EID.String())
		}
		fmt.Fprintf(p.err, "            %s\n", commandLine(cmd))
	}
	return err
}

// setChange is what a change came to, as it was read.
func (res *cardResult) setChange(rep es10.Report) {
	res.ISDR = rep.ISDR
	if rep.EID != nil {
		res.EID = rep.EID.String()
	}
	if rep.ICCID != nil {
		res.ICCID = rep.ICCID.String()
	}
	var code *es10.Error
	var sw apdu.StatusWord
	switch {
	case rep.Outcome == card.OutcomeDone && rep.Answer != nil:
		// What was read says more.
	case errors.As(rep.Answer, &code):
		res.Result = fmt.Sprintf("%02X", code.Code)
	case errors.As(rep.Answer, &sw):
		res.setSW(sw)
	case rep.Answer == nil && rep.After != nil && rep.Sent:
		res.Result = "00"
	}
	if rep.Outcome == card.OutcomeRefused {
		res.Error = rep.Answer.Error()
	}
	if rep.After != nil {
		res.setProfiles(rep.After)
		if q, there := rep.Profile(); there {
			res.State = q.State.String()
		}
	}
}

// setProfiles is the profiles of an eUICC.
func (res *cardResult) setProfiles(list []es10.Profile) {
	res.Profiles = []profileState{}
	res.header = "ICCID|STATE|CLASS|NICKNAME|PROVIDER|NAME|RULES"
	for _, q := range list {
		res.Profiles = append(res.Profiles, profileState{q.ICCID, card.State(q.State)})
		res.rows = append(res.rows, []string{
			q.ICCID.String(), q.State.String(), q.Class.String(), q.Nickname, q.Provider, q.Name, profileRules(q.PPR1, q.PPR2, false),
		})
	}
}

// profileRules are a profile's, in words.
func profileRules(ppr1, ppr2, fallback bool) string {
	var out []string
	for _, rule := range []struct {
		name string
		on   bool
	}{{"PPR1", ppr1}, {"PPR2", ppr2}, {"fallback", fallback}} {
		if rule.on {
			out = append(out, rule.name)
		}
	}
	return strings.Join(out, " ")
}

// esOp is the operation of ES10c that stands for one of the management applet.
func esOp(ins byte) es10.Op {
	if ins == card.INSActivate {
		return es10.OpEnable
	}
	return es10.OpDisable
}
