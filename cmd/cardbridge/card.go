package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/server/store"
)

func newCardCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "card", Short: "One card: in a reader, or in a server's record"}
	addGroup(cmd, "A card in a reader, and its files:",
		newCardInfoCmd(),
		newCardStatusCmd(),
		newCardAuthenticateCmd(),
		newCardOperationCmd("deactivate", "Disable a profile (DEACTIVATE), recovering an unknown outcome", card.INSDeactivate),
		newCardOperationCmd("activate", "Enable a profile (ACTIVATE): the lab's way back", card.INSActivate),
		newCardNewCmd(),
	)
	addGroup(cmd, "A card in a server's record:", newCardRegisterCmd(), newCardShowCmd(), newCardRefreshCmd(), newCardPolicyCmd(), newCardGroupsCmd())
	return cmd
}

// cardResult is what the commands on one card print with --json. Members are
// absent where they do not apply.
type cardResult struct {
	EID             string         `json:"eid,omitempty"`
	How             string         `json:"how,omitempty"`  // with --es10
	ISDR            string         `json:"isdr,omitempty"` // its AID
	Authenticated   bool           `json:"authenticated"`
	Result          string         `json:"result,omitempty"`
	SW              string         `json:"sw,omitempty"`
	ICCID           string         `json:"iccid,omitempty"`
	State           string         `json:"state,omitempty"`
	EventCounter    *uint32        `json:"event_counter,omitempty"`
	RequestID       string         `json:"request_id,omitempty"`
	ReceiptVerified *bool          `json:"receipt_verified,omitempty"`
	Outcome         string         `json:"outcome"`
	Error           string         `json:"error,omitempty"`
	Profiles        []profileState `json:"profiles,omitzero"`

	header string // of the same in words
	rows   [][]string
}

// profileState is a profile as --json has it; in words there is more.
type profileState struct {
	ICCID id.ICCID   `json:"iccid"`
	State card.State `json:"state"`
}

// secured is the flags of the commands that authenticate.
type secured struct {
	bench
	keyset string
	keys   *keySource
	card   string
	suite  uint8
}

func (s *secured) addFlags(cmd *cobra.Command) {
	s.bench.addFlags(cmd.Flags())
	s.onClose = pcsc.ResetCard // a session does not outlive its command, nor the protocol that it chose
	cmd.Flags().StringVar(&s.keyset, "keyset", "", "`FILE` with the server's key set, private keys too")
	s.keys = newKeySource()
	s.keys.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&s.card, "card", "", "`FILE` with the card's record")
	cmd.Flags().Uint8Var(&s.suite, "suite", 0, "`SUITE`, 1 or 3 (default: 3 if the record requires it, else 1)")
	addJSONFlag(cmd)
}

// load reads the key set and the record that the flags name; res gets the EID,
// stderr a warning of test keys.
func (s *secured) load(ctx context.Context, stderr io.Writer, res *cardResult) (*card.Terminal, card.Target, error) {
	keys, err := s.keys.open(ctx, s.keyset, plainSoftware)
	if err != nil {
		return nil, card.Target{}, err
	}
	if s.card == "" {
		return nil, card.Target{}, errors.New("say which card is meant by --card, its record file; cardbridge card new makes one")
	}
	b, err := readFile(s.card)
	if err != nil {
		return nil, card.Target{}, err
	}
	if card.IsPlainRecord(b) {
		return nil, card.Target{}, fmt.Errorf("%s is of a plain eUICC, which has no keys: use --es10", s.card)
	}
	record, err := card.ParseRecord(b)
	if err != nil {
		return nil, card.Target{}, fmt.Errorf("%s: %w", s.card, err)
	}
	warnOfTestKeys(stderr, s.keyset, keys.Public())
	warnOfTestKeys(stderr, s.card, record.Keys)
	target := record.Target()
	res.EID = target.EID.String()
	if s.suite != 0 {
		if s.suite != 1 && s.suite != 3 {
			return nil, card.Target{}, fmt.Errorf("--suite %d: 1 or 3 wanted", s.suite)
		}
		target.Suite = cryptogram.Suite(s.suite)
	}
	if !target.Keys.Supports(target.Suite) {
		return nil, target, fmt.Errorf("suite %s with %s in %s: use --suite 1, or a record with three", target.Suite, many(len(target.Keys.Auth), "auth key", "auth keys"), s.card)
	}
	if !keys.Public().Supports(target.Suite) {
		return nil, target, fmt.Errorf("suite %s with %s in %s: use --suite 1, or a key set with three", target.Suite, many(len(keys.Auth), "auth key", "auth keys"), s.keyset)
	}
	return &card.Terminal{Keys: keys}, target, nil
}

// again is the command line that sends a command again, for a shell.
func again(cmd *cobra.Command, suite cryptogram.Suite, sent card.Command) string {
	flags := cmd.Flags()
	set := func(name, value string) { _ = flags.Set(name, value) } // it was such a flag, or might have been
	set("suite", fmt.Sprint(uint8(suite)))
	set("operator", sent.Operator.String())
	if sent.ICCID != nil {
		set("iccid", sent.ICCID.String())
	}
	set("request-id", fmt.Sprintf("%X", sent.RequestID[:]))
	set("counter", fmt.Sprint(sent.Counter))
	set("reason", fmt.Sprint(sent.Reason))
	return commandLine(cmd)
}

// commandLine is a command with the flags that were set, for a shell.
func commandLine(cmd *cobra.Command) string {
	line := quote(os.Args[0]) + strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name())
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "trace" { // which would be overwritten
			value := f.Value.String()
			if s, ok := f.Value.(pflag.SliceValue); ok {
				value = strings.Join(s.GetSlice(), ",")
			}
			line += " --" + f.Name + "=" + quote(value)
		}
	})
	return line
}

// quote makes one word of s for a POSIX shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./=:", c))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// finish prints a result and gives the program's exit status.
func (p *printer) finish(res cardResult, outcome card.Outcome, err error) error {
	res.Outcome = outcome.String()
	if err != nil {
		res.Error = err.Error()
	}
	if p.json {
		if perr := p.object(res); perr != nil {
			return perr
		}
	} else {
		p.result(res, outcome)
	}
	if err != nil {
		fmt.Fprintf(p.err, "cardbridge: %v\n", err)
		if hint := hintFor(err); hint != "" {
			fmt.Fprintf(p.err, "            %s\n", hint)
		}
	}
	switch outcome {
	case card.OutcomeDone:
		return nil
	case card.OutcomeRefused:
		return exitStatus(exitCardRefused)
	case card.OutcomeUnknown:
		return exitStatus(exitUnknown)
	}
	return exitStatus(exitError)
}

// result prints a result in words.
func (p *printer) result(res cardResult, outcome card.Outcome) {
	colour := map[card.Outcome]string{card.OutcomeDone: green, card.OutcomeUnknown: yellow}[outcome]
	if colour == "" {
		colour = red
	}
	p.field("EID", res.EID)
	p.field("how", res.How)
	p.field("ISD-R", res.ISDR)
	p.field("outcome", p.paint(colour, res.Outcome))
	if res.Result != "" {
		p.field("result", res.Result)
	}
	p.field("status word", res.SW)
	p.field("ICCID", res.ICCID)
	p.field("state", res.State)
	if res.EventCounter != nil {
		p.field("event counter", fmt.Sprint(*res.EventCounter))
	}
	p.field("request id", res.RequestID)
	if res.ReceiptVerified != nil {
		p.field("receipt", map[bool]string{true: "verified", false: "none verified"}[*res.ReceiptVerified])
	}
	if len(res.rows) > 0 {
		p.table(res.header, res.rows)
	}
}

// hintFor is what to do next about an error, where there is something.
func hintFor(err error) string {
	var auth *card.AuthError
	switch {
	case errors.As(err, &auth):
		return "check that --card is this card's record and --keyset the key set whose public half the card holds"
	case errors.Is(err, apdu.SWAuthenticationBlocked):
		return "15 authentications failed since the last reset: find out why, then reset the card"
	case errors.Is(err, apdu.SWAuthenticationFailed):
		return "the card does not accept this server: check that it holds the public half of --keyset, and the EID in --card"
	case errors.Is(err, apdu.SWReferenceNotFound):
		return "the card has no such key set, or one key where the suite wants three"
	case errors.Is(err, es10.ErrNoISDR):
		return "if it is an eUICC whose ISD-R has an AID of its own, say which by --isdr"
	case errors.Is(err, es10.ErrCATBusy):
		return "a proactive session goes on in the card: end other programs that use it, and try again"
	case errors.Is(err, apdu.SWFileNotFound):
		return "the card has no management applet; with --es10 a plain eUICC needs none"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is it running, and is the address right?"
	case errors.Is(err, store.ErrNotFound):
		return "cardbridge operator list shows operators and users, operator user token list what one proves itself by"
	case errors.Is(err, card.ErrOutcomeUnknown):
		return "the card may have carried it out; the same command again recovers the outcome:"
	}
	return ""
}

func newCardInfoCmd() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Read what a card says of itself in the clear",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			p, ctx := newPrinter(cmd), cmd.Context()
			conn, err := b.openNow(ctx)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, conn.Close(), b.close()) }()
			ch := apdu.BasicChannel(conn)
			eid, err := card.ReadEID(ctx, ch)
			if err != nil {
				return err
			}
			applet, err := card.Select(ctx, ch)
			if err != nil {
				return err
			}
			info, err := card.ReadInfo(ctx, ch)
			if err != nil {
				return err
			}
			type failures struct {
				KID   byte   `json:"kid"`
				Count uint16 `json:"failures"`
			}
			fs := []failures{}
			var rows [][]string
			for _, f := range info.Failures {
				fs = append(fs, failures(f))
				rows = append(rows, []string{fmt.Sprint(f.KID), fmt.Sprint(f.Count)})
			}
			suites, suiteNames := []int{}, []string{}
			for _, s := range applet.Suites {
				suites, suiteNames = append(suites, int(s)), append(suiteNames, cryptogram.Suite(s).String())
			}
			if p.json {
				return p.object(map[string]any{
					"eid": eid, "atr": fmt.Sprintf("%X", conn.ATR()), "suites": suites, "extended_length": ch.Extended(),
					"max_command_data": applet.MaxCommandData, "event_counter": info.EventCounter, "key_sets": fs,
				})
			}
			lengths := "by command chaining"
			if ch.Extended() {
				lengths = "extended length"
			}
			p.field("EID", eid.String())
			p.field("ATR", fmt.Sprintf("%X", conn.ATR()))
			p.field("suites", strings.Join(suiteNames, ", "))
			p.field("command data", fmt.Sprintf("%d bytes at most, %s", applet.MaxCommandData, lengths))
			p.field("event counter", fmt.Sprint(info.EventCounter))
			if len(rows) > 0 {
				p.table("KEY SET|FAILED AUTHENTICATIONS", rows)
			}
			return nil
		},
	}
	b.addFlags(cmd.Flags())
	addJSONFlag(cmd)
	return cmd
}

// once runs fn on the card in a session of its own and prints the result.
func (s *secured) once(cmd *cobra.Command, fn func(ctx context.Context, t *card.Terminal, target card.Target, conn apdu.Conn, res *cardResult) error) error {
	p, ctx := newPrinter(cmd), cmd.Context()
	var res cardResult
	run := func() error {
		defer s.keys.Close()
		t, target, err := s.load(ctx, cmd.ErrOrStderr(), &res)
		if err != nil {
			return err
		}
		conn, err := s.openNow(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		return fn(ctx, t, target, conn, &res)
	}
	err := errors.Join(run(), s.close())
	outcome := card.OutcomeDone
	if err != nil {
		outcome = card.OutcomeFailed
	}
	return p.finish(res, outcome, err)
}

func (res *cardResult) setSW(sw apdu.StatusWord) {
	if sw != 0 {
		res.SW = sw.Hex()
	}
}

func newCardStatusCmd() *cobra.Command {
	var s secured
	var e plain
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Authenticate and read the profiles and the event counter (GET STATUS)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.check(cmd.Flags()); err != nil {
				return err
			}
			if e.on {
				return e.status(cmd, &s.bench)
			}
			return s.once(cmd, func(ctx context.Context, t *card.Terminal, target card.Target, conn apdu.Conn, res *cardResult) error {
				status, rep, err := t.ReadStatus(ctx, apdu.BasicChannel(conn), target)
				res.Authenticated = rep.Authenticated
				res.setSW(rep.SW)
				if err != nil {
					return err
				}
				res.setStatus(status)
				res.header, res.Profiles = "ICCID|STATE|OWNER|CLASS|PROVIDER|NAME|RULES", []profileState{}
				for _, p := range status.Profiles {
					res.Profiles = append(res.Profiles, profileState{p.ICCID, p.State})
					res.rows = append(res.rows, []string{
						p.ICCID.String(), p.State.String(), p.Owner.String(), p.Class.String(), p.Provider, p.Name, profileRules(p.PPR1, p.PPR2, p.Fallback),
					})
				}
				if p, ok := status.Enabled(); ok {
					res.ICCID, res.State = p.ICCID.String(), p.State.String()
				}
				return nil
			})
		},
	}
	s.addFlags(cmd)
	e.addFlags(cmd.Flags())
	return cmd
}

func (res *cardResult) setStatus(status *card.Status) {
	res.EventCounter = &status.EventCounter
}

func newCardAuthenticateCmd() *cobra.Command {
	var s secured
	cmd := &cobra.Command{
		Use:   "authenticate",
		Short: "Prove server and card to each other, and do nothing else",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.once(cmd, func(ctx context.Context, t *card.Terminal, target card.Target, conn apdu.Conn, res *cardResult) error {
				ch := apdu.BasicChannel(conn)
				_, err := card.Select(ctx, ch)
				if err == nil {
					_, err = t.Authenticate(ctx, ch, target, [32]byte{})
				}
				var sw apdu.StatusWord
				if errors.As(err, &sw) {
					res.setSW(sw)
				}
				if err != nil {
					return err
				}
				res.Authenticated = true
				res.setSW(apdu.SWSuccess)
				return nil
			})
		},
	}
	s.addFlags(cmd)
	return cmd
}

func newCardOperationCmd(name, short string, ins byte) *cobra.Command {
	var s secured
	var e plain
	var operator, iccid, requestID string
	var counter uint32
	var reason uint8
	var attempts int
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Long: short + `.

The card authenticates the server and the server the card; the card checks its
policy rules, carries it out and signs what it did. An answer that is lost, or
does not verify, is recovered by sending the same command again. Exit status: 0
done, 3 refused by the card (signed), 4 outcome unknown, 1 anything else.

With --es10 it is an eUICC without the management applet, and the profile is
changed by SGP.22 ES10c: nobody is authenticated and nothing is signed, a refusal
(3) neither. The outcome is what is read from the card after a reset.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.check(cmd.Flags()); err != nil {
				return err
			}
			if e.on {
				return e.change(cmd, &s.bench, esOp(ins), iccid, attempts)
			}
			p := newPrinter(cmd)
			var res cardResult
			var rep card.Report
			var resend string
			run := func() error {
				defer s.keys.Close()
				t, target, err := s.load(cmd.Context(), cmd.ErrOrStderr(), &res)
				if err != nil {
					return err
				}
				op := card.Operation{INS: ins, Reason: reason, Attempts: attempts, Wait: s.wait, Open: s.open, Step: p.step}
				if attempts < 1 {
					return fmt.Errorf("--attempts %d, 1 or more wanted", attempts)
				}
				if requestID == "" {
					op.RequestID = id.RequestID(uuid.New())
					requestID = fmt.Sprintf("%X", op.RequestID[:])
				} else if op.RequestID, err = id.ParseRequestID(requestID); err != nil {
					return err
				}
				res.RequestID = requestID
				if operator != "" {
					m, err := id.ParseMCCMNC(operator)
					if err != nil {
						return err
					}
					op.Operator = &m
				}
				if iccid != "" {
					c, err := id.ParseICCID(iccid)
					if err != nil {
						return err
					}
					op.ICCID = &c
				}
				if cmd.Flags().Changed("counter") {
					op.Counter = &counter
				}
				var sent card.Command
				sent, rep, err = t.Run(cmd.Context(), target, op)
				res.setOperation(sent, rep)
				if rep.Outcome == card.OutcomeUnknown {
					resend = again(cmd, target.Suite, sent)
				}
				return err
			}
			err := run()
			if cerr := s.close(); cerr != nil {
				fmt.Fprintf(p.err, "cardbridge: trace: %v\n", cerr)
			}
			if rep.Outcome == card.OutcomeRefused {
				fmt.Fprintf(p.err, "cardbridge: the card refuses, and signs it: %s\n", rep.Answer.Result)
			}
			if rep.StatusErr != nil {
				fmt.Fprintf(p.err, "cardbridge: the status could not be read afterwards: %v\n", rep.StatusErr)
			}
			err = p.finish(res, rep.Outcome, err)
			if resend != "" {
				fmt.Fprintf(p.err, "            %s\n", resend)
			}
			return err
		},
	}
	s.addFlags(cmd)
	e.addFlags(cmd.Flags())
	e.addChangeFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&operator, "operator", "", "`MCCMNC` of the operator that asks (default: the profile's owner)")
	f.StringVar(&iccid, "iccid", "", "`ICCID` of the profile (default: the enabled one)")
	f.StringVar(&requestID, "request-id", "", "request `ID`, 32 hexadecimal digits (default: a new one)")
	f.Uint32Var(&counter, "counter", 0, "event counter, `N`, that the card is expected to have (default: read from the card)")
	f.Uint8Var(&reason, "reason", 0, "reason code, `N`, 0 to 255; the card does not interpret it")
	f.IntVar(&attempts, "attempts", 4, "send the command `N` times at most")
	return cmd
}

func (res *cardResult) setOperation(cmd card.Command, rep card.Report) {
	res.Authenticated = rep.Authenticated
	res.setSW(rep.SW)
	if cmd.ICCID != nil {
		res.ICCID = cmd.ICCID.String()
	}
	if rep.Sent {
		verified := rep.Answer != nil
		res.ReceiptVerified = &verified
	}
	if a := rep.Answer; a != nil {
		res.Result = a.Result.Hex()
		res.EventCounter = &a.Counter
		if a.ICCID != nil {
			res.ICCID, res.State = a.ICCID.String(), a.State.String()
		}
	}
	if rep.Status != nil {
		// What GET STATUS says is the card's state now; a stored answer's is
		// that of its time.
		res.setStatus(rep.Status)
		if iccid, err := id.ParseICCID(res.ICCID); err == nil {
			if p, ok := rep.Status.Profile(iccid); ok {
				res.State = p.State.String()
			}
		}
	}
}
