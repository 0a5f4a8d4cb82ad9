package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api/client"
)

const (
	pollSeconds = 20               // of one wait for a step
	waitGrace   = 30 * time.Second // beyond the deadline: a command that was sent may still be recovered
)

// asking is the flags of deactivate.
type asking struct {
	remote
	eid, iccid string
	reason     uint8
	timeout    time.Duration
	unconnect  bool
	wait       bool
	record     string
	key        string
}

func newDeactivateCmd() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "deactivate --server URL --token-file FILE --pin SHA256 --eid EID [--iccid ICCID] [--wait]",
		Short: "Ask a server to deactivate a profile",
		Long: `Asks a server to deactivate a profile. With --wait it tells each step as it
happens and ends in the card's receipt, which it verifies itself: under the keys
that the server has for the card, or, with --card, under those of your own card
record. A plain eUICC gives no receipt: that it is done is the server's word, which
read the card again after a reset, and the output says so. For a card that has
keys, on file or in --card, a receipt is always wanted.

A request beyond the guard's budget, or for a card of a critical group, is held:
it waits for another user's approval (cardbridge approve), which --wait waits for
too, until the server's deadline for it. Interrupt it as you like, the request
stays.

Exit status: 0 done (without --wait: accepted), 2 refused by a management rule or
rejected by a second user, 3 refused by the card, 4 outcome unknown, 5 held for an
approval, nothing was sent; 1 anything else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd.Context(), newPrinter(cmd)) },
	}
	a.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&a.eid, "eid", "", "the card's `EID`")
	f.StringVar(&a.iccid, "iccid", "", "the profile's `ICCID` (default: the one that is recorded as enabled)")
	f.Uint8Var(&a.reason, "reason", 0, "reason, `N`, 0 to 255, as it goes to the card")
	f.DurationVar(&a.timeout, "timeout", server.DefaultTimeout, "ends the request if nothing was sent to the card by then")
	f.BoolVar(&a.unconnect, "leave-unconnected", false, "the card may be left without a working profile")
	f.BoolVar(&a.wait, "wait", false, "wait for the end and tell each step")
	f.StringVar(&a.record, "card", "", "verify the receipt under the keys in this `FILE`, a card record")
	f.StringVar(&a.key, "idempotency-key", "", "the same `KEY` gives the same request (default: a new one)")
	_ = cmd.MarkFlagRequired("eid")
	return cmd
}

// deactivateJSON is what deactivate prints. Members are absent where they do
// not apply.
type deactivateJSON struct {
	RequestID       string                   `json:"request_id,omitempty"`
	EID             string                   `json:"eid"`
	ICCID           string                   `json:"iccid,omitempty"`
	State           client.DeactivationState `json:"state,omitempty"`
	How             client.DeactivationHow   `json:"how,omitempty"` // es10c: nothing is authenticated or signed
	HeldWhy         string                   `json:"held_why,omitempty"`
	ApprovedBy      string                   `json:"approved_by,omitempty"`
	Outcome         string                   `json:"outcome,omitempty"`
	RefusedBy       string                   `json:"refused_by,omitempty"` // rule, user, card
	Rule            string                   `json:"rule,omitempty"`
	SubjectCode     string                   `json:"subject_code,omitempty"`
	ReasonCode      string                   `json:"reason_code,omitempty"`
	Result          string                   `json:"result,omitempty"`
	SW              string                   `json:"sw,omitempty"`
	EventCounter    *int64                   `json:"event_counter,omitempty"`
	Receipt         string                   `json:"receipt,omitempty"`
	ReceiptVerified *bool                    `json:"receipt_verified,omitempty"`
	Detail          string                   `json:"detail,omitempty"`
	IdempotencyKey  string                   `json:"idempotency_key,omitempty"` // where it is not known whether the server has the request
	Error           string                   `json:"error,omitempty"`
}

func (a *asking) run(ctx context.Context, p *printer) error {
	in := client.DeactivationRequest{ICCID: a.iccid, Reason: int64(a.reason), LeaveUnconnected: a.unconnect, TimeoutSeconds: int64((a.timeout + time.Second - 1) / time.Second)}
	eid, err := id.ParseEID(a.eid)
	if err != nil {
		return err
	}
	a.eid = eid.String()
	in.EID = a.eid
	if a.iccid != "" {
		if _, err := id.ParseICCID(a.iccid); err != nil {
			return err
		}
	}
	if a.timeout <= 0 || a.timeout > server.MaxTimeout {
		return fmt.Errorf("--timeout %s: up to %s wanted", a.timeout, server.MaxTimeout)
	}
	if a.key == "" {
		a.key = uuid.NewString()
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	d, err := c.Insist(clientTries).Deactivate(ctx, client.DeactivateParams{IdempotencyKey: a.key}, in)
	var report *client.Problem
	if errors.As(err, &report) && report.Rule != "" {
		res := deactivateJSON{EID: in.EID, ICCID: in.ICCID, State: "refused", RequestID: report.RequestID}
		return p.refusedByRule(res, report.Rule, report.SubjectCode, report.ReasonCode, report.Detail)
	}
	var lost *client.LostError
	if errors.As(err, &lost) {
		res := deactivateJSON{EID: in.EID, ICCID: in.ICCID, Outcome: "unknown", IdempotencyKey: a.key, Error: "the server may have taken the request in: " + err.Error()}
		hint := "ask again with --idempotency-key " + a.key + ": if the request is there, that gives it, and makes no second one"
		return errors.Join(p.ended(res, hint), exitStatus(exitUnknown))
	}
	if err != nil {
		return err
	}
	if !a.wait {
		res := deactivateJSON{RequestID: d.ID, EID: d.EID, ICCID: d.ICCID, State: d.State}
		if d.State == "held" {
			return p.held(res, d)
		}
		return p.ended(res, "")
	}
	p.step("request %s", d.ID)
	ended, err := a.follow(ctx, p, c, d)
	return a.report(ctx, p, c, ended, err)
}

// follow tells the steps of a request until it is finished, or the time for it
// is over; the error says that its end was not seen.
func (a *asking) follow(ctx context.Context, p *printer, c *client.Client, d *client.Deactivation) (*client.Deactivation, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	over := time.AfterFunc(a.timeout+waitGrace, func() { cancel(context.DeadlineExceeded) })
	defer cancel(nil)
	defer over.Stop()
	c = c.Insist(untilDone)
	for after, finished := int64(0), false; !finished; {
		steps, err := c.ListSteps(ctx, d.ID, client.ListStepsParams{After: after, WaitSeconds: pollSeconds})
		if err != nil {
			return d, cmp.Or(context.Cause(ctx), err)
		}
		for _, s := range steps.Steps {
			p.step("%s", describe(s))
			switch s.Step {
			case "sending", "unknown":
				d.SentAt = &s.At
			case "held":
				d.HeldWhy = fmt.Sprint(s.Detail["text"])
				// By the server's clock alone.
				if until, err := time.Parse(time.RFC3339, fmt.Sprint(s.Detail["until"])); err == nil {
					d.Deadline = until
					over.Reset(until.Sub(s.At) + waitGrace)
				}
				if steps.State == "held" {
					p.step("%s", approvalOf(d))
				}
			case "approved":
				over.Reset(a.timeout + waitGrace)
			}
		}
		d.State = steps.State
		after, finished = steps.Next, steps.Finished && len(steps.Steps) == 0
	}
	end, err := c.GetDeactivation(ctx, d.ID)
	if err != nil {
		return d, cmp.Or(context.Cause(ctx), err)
	}
	if end.ID != d.ID {
		return d, errors.New("the server tells of another request")
	}
	return end, nil
}

// approvalOf says what a request waits for that is held.
func approvalOf(d *client.Deactivation) string {
	return fmt.Sprintf("it waits for another user, with the role approve, until %s: cardbridge approve %s", when(d.Deadline), d.ID)
}

// describe says a step in words.
func describe(s client.Step) string {
	at := s.At.Local().Format("15:04:05.000")
	get := func(name string) string {
		if v, ok := s.Detail[name]; ok {
			return fmt.Sprint(v)
		}
		return ""
	}
	text := get("text")
	switch s.Step {
	case "accepted":
		text = "the management rules allow it"
		if iccid := get("iccid"); iccid != "" {
			text += ", profile " + iccid
		}
	case "authenticating", "recovering", "reading":
		text = "reader " + get("reader")
	case "sending":
		if isPlain(get("how")) {
			text = "by ES10c, unauthenticated: DisableProfile for " + get("iccid") + " goes out"
			break
		}
		text = "authenticated both ways in suite " + get("suite")
		if kid := get("kid"); kid != "" {
			text += " under key set " + kid
		}
		text += ", DEACTIVATE goes out at event counter " + get("event_counter")
		if get("again") != "" {
			text += ", the same command again"
		}
	case "approved", "cancelled":
		if user := get("user"); user != "" {
			text = "by user " + printable(user)
		}
	}
	return fmt.Sprintf("%s  %-14s %s", at, s.Step, text)
}

// report verifies what there is to verify and prints how a request ended. What
// the server says the card did is believed with a receipt for it alone: without
// one the outcome is unknown, whatever the server calls it. Of a plain eUICC,
// which gives none, it is told as the server's word.
func (a *asking) report(ctx context.Context, p *printer, c *client.Client, d *client.Deactivation, cause error) error {
	res := deactivateJSON{
		RequestID: d.ID, EID: d.EID, ICCID: d.ICCID, State: d.State, How: d.How, Detail: d.Detail, Outcome: string(d.State), HeldWhy: d.HeldWhy, ApprovedBy: d.ApprovedBy,
	}
	if d.Refusal != nil && d.SentAt == nil && d.Answer == nil {
		return p.refusedByRule(res, d.Refusal.Rule, d.Refusal.SubjectCode, d.Refusal.ReasonCode, d.Refusal.Text)
	}
	status := error(exitStatus(exitError))
	unknown := func(why string) {
		if d.State != "unknown" {
			res.Detail = "" // it tells of what is not believed
		}
		res.State, res.Outcome, res.Error, status = "unknown", "unknown", why, exitStatus(exitUnknown)
	}
	verified := false
	if ans := d.Answer; ans != nil {
		res.Receipt, res.ReceiptVerified = ans.Receipt, &verified
		if err := a.verify(ctx, c, d); err != nil {
			unknown("the server says that the card answered, and its receipt does not verify: " + err.Error())
		} else {
			verified = true
			res.Result, res.SW, res.EventCounter = ans.Result, ans.StatusWord, &ans.EventCounter
		}
	}
	switch {
	case d.Answer != nil && !verified:
	case cause != nil || !d.Finished:
		res.Outcome = ""
		if d.SentAt != nil || slices.Contains([]client.DeactivationState{"sending", "unknown", "done", "refused"}, d.State) {
			unknown("")
		}
		if cause != nil {
			res.Error = "the end was not seen: " + cause.Error()
		}
		if d.State == "held" && d.SentAt == nil {
			return p.held(res, d)
		}
	case d.State == "unknown":
		status = exitStatus(exitUnknown)
	case d.State != "done" && d.State != "refused":
	default:
		if !verified {
			if err := a.mayBePlain(ctx, c, d); err != nil {
				unknown(fmt.Sprintf("the server says %s, and shows no answer of the card: %v", d.State, err))
				break
			}
		}
		if d.State == "done" {
			status = nil
		} else {
			res.RefusedBy, status = "card", exitStatus(exitCardRefused)
		}
	}
	if err := p.ended(res, ""); err != nil {
		return err
	}
	return status
}

// held prints a request that waits for an approval, and who can give it.
func (p *printer) held(res deactivateJSON, d *client.Deactivation) error {
	res.HeldWhy = d.HeldWhy
	if err := p.ended(res, approvalOf(d)); err != nil {
		return err
	}
	return exitStatus(exitHeld)
}

// ended prints how a request ended, and what to do about it.
func (p *printer) ended(res deactivateJSON, hint string) error {
	if p.json {
		if err := p.object(res); err != nil {
			return err
		}
	} else {
		p.deactivation(res)
	}
	if res.Error != "" {
		fmt.Fprintf(p.err, "cardbridge: %s\n", res.Error)
	}
	if hint != "" {
		fmt.Fprintf(p.err, "            %s\n", hint)
	}
	return nil
}

func (p *printer) refusedByRule(res deactivateJSON, rule, subject, reason, text string) error {
	res.Outcome, res.RefusedBy, res.Rule, res.SubjectCode, res.ReasonCode, res.Detail = "refused", "rule", rule, subject, reason, text
	if rule == server.FourEyes {
		res.RefusedBy = "user"
	}
	if err := p.ended(res, ""); err != nil {
		return err
	}
	return exitStatus(exitRuleRefused)
}

// deactivation prints a request in words.
func (p *printer) deactivation(res deactivateJSON) {
	p.field("request", res.RequestID)
	p.field("EID", res.EID)
	p.field("ICCID", res.ICCID)
	outcome := res.Outcome
	if res.RefusedBy != "" {
		outcome += " by the " + res.RefusedBy
	}
	if outcome != "" {
		p.field("outcome", p.paint(stateColour(res.Outcome), outcome))
	} else {
		p.field("state", string(res.State))
	}
	if isPlain(res.How) {
		p.field("how", p.paint(yellow, notSigned))
	}
	p.field("held", printable(res.HeldWhy))
	p.field("approved by", printable(res.ApprovedBy))
	p.field("why", res.Detail)
	if res.Rule != "" {
		p.field("rule", fmt.Sprintf("%s (GSMA subject %s, reason %s); no command went to the card", res.Rule, res.SubjectCode, res.ReasonCode))
	}
	if res.Result != "" {
		p.field("result", res.Result+" "+res.SW)
	}
	if res.EventCounter != nil {
		p.field("event counter", fmt.Sprint(*res.EventCounter))
	}
	if res.ReceiptVerified != nil {
		p.field("receipt", map[bool]string{true: p.paint(green, "verified"), false: p.paint(red, "does not verify")}[*res.ReceiptVerified])
		for rest := res.Receipt; rest != ""; {
			n := min(64, len(rest))
			p.field(" ", rest[:n])
			rest = rest[n:]
		}
	}
}

// notSigned is how a request was carried out by ES10c.
const notSigned = "ES10c: not authenticated, not signed; the server's word, which read the card back after a reset"

// verify checks that an answer is the card's, about what was asked for, and
// says what the server makes of it.
func (a *asking) verify(ctx context.Context, c *client.Client, d *client.Deactivation) error {
	record, err := a.cardRecord(ctx, c, d.EID)
	if err != nil {
		return err
	}
	if record.EID.String() != a.eid || d.EID != a.eid {
		return fmt.Errorf("it is about card %s", record.EID)
	}
	cmd := card.Command{INS: card.INSDeactivate, Reason: a.reason}
	var command, response, receipt []byte
	for _, f := range []struct {
		to   *[]byte
		text string
	}{{&command, d.Answer.Command}, {&response, d.Answer.Response}, {&receipt, d.Answer.Receipt}} {
		if *f.to, err = hex.DecodeString(f.text); err != nil {
			return err
		}
	}
	if cmd.RequestID, err = id.ParseRequestID(d.ID); err != nil {
		return err
	}
	if cmd.Operator, err = id.ParseMCCMNC(d.MCCMNC); err != nil {
		return err
	}
	if d.ICCID != "" {
		iccid, err := id.ParseICCID(d.ICCID)
		if err != nil {
			return err
		}
		cmd.ICCID = &iccid
	}
	if a.iccid != "" && !strings.EqualFold(a.iccid, d.ICCID) {
		return fmt.Errorf("it is about profile %s", d.ICCID)
	}
	// The expected event counter alone is the server's to choose: the last
	// object of the command.
	if len(command) < 4 {
		return errors.New("the command is cut off")
	}
	cmd.Counter = binary.BigEndian.Uint32(command[len(command)-4:])
	if !bytes.Equal(cmd.Data(), command) {
		return errors.New("it is about another command")
	}
	if err := card.Verify(record.Target(), cmd, response, receipt); err != nil {
		return err
	}
	result, _, err := tlv.Expect(response, 0x90)
	if err != nil {
		return err
	}
	if hex.EncodeToString(result) != strings.ToLower(d.Answer.Result) || d.State == "done" != bytes.Equal(result, []byte{byte(card.Done)}) {
		return fmt.Errorf("the card's result is %X", result)
	}
	return nil
}

// mayBePlain says why a request cannot have been carried out without a receipt:
// it was not by ES10c, or the card is no plain eUICC, but one whose keys are known.
func (a *asking) mayBePlain(ctx context.Context, c *client.Client, d *client.Deactivation) error {
	if !isPlain(d.How) {
		return errors.New("a receipt is wanted")
	}
	if a.record != "" {
		b, err := readFile(a.record)
		if err == nil && !card.IsPlainRecord(b) {
			err = errors.New("--card has keys under which a receipt must verify")
		}
		return err
	}
	out, err := c.Insist(clientTries).GetCard(ctx, d.EID)
	if err == nil && !isPlain(out.Management) {
		err = errors.New("the card is registered with keys under which a receipt must verify")
	}
	return err
}

// cardRecord has the keys that the receipt must verify under.
func (a *asking) cardRecord(ctx context.Context, c *client.Client, eid string) (*card.Record, error) {
	if a.record != "" {
		b, err := readFile(a.record)
		if err != nil {
			return nil, err
		}
		return card.ParseRecord(b)
	}
	out, err := c.Insist(clientTries).GetCard(ctx, eid)
	if err != nil {
		return nil, err
	}
	return card.ParseRecord(out.Record)
}
