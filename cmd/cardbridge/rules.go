package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/rules"
)

// rulesRequest is the example of docs/rules.md too.
const rulesRequest = `{
  "request": {"eid": "89049032000000000000000000424247", "reason": 1, "user": "kim"},
  "operator": {"name": "Lab operator", "mccmnc": "46011"},
  "card": {
    "groups": ["meters"],
    "profiles": [
      {"iccid": "89860000000000000018", "mccmnc": "46011", "state": "enabled", "enabled_at": "2026-01-05T08:00:00Z"},
      {"iccid": "89860000000000000026", "mccmnc": "46011", "state": "disabled", "fallback": true}
    ]
  },
  "now": "2026-03-02T23:30:00+01:00"
}
`

func newRulesCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Check management rules, or print those that are built in",
		Long: `The management rules of a server are a file (docs/rules.md): copy the one that is
built in, change it, check it, try it on requests.

  cardbridge rules show > rules.yaml
  cardbridge rules check --rules rules.yaml --request r.json`,
	}
	cmd.AddCommand(newRulesCheckCmd(), newRulesShowCmd())
	return cmd
}

func newRulesShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the file of rules that is built in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newPrinter(cmd)
			if p.json {
				return p.object(map[string]string{"yaml": string(rules.DefaultYAML)})
			}
			_, err := p.out.Write(rules.DefaultYAML)
			return err
		},
	}
	addJSONFlag(cmd)
	return cmd
}

func newRulesCheckCmd() *cobra.Command {
	var file, request string
	cmd := &cobra.Command{
		Use:   "check [--rules FILE] [--request FILE]",
		Short: "Check a file of management rules; try it on a request",
		Long: `Checks a file of management rules (docs/rules.md), without --rules the one that
is built in, and prints everything that is wrong as FILE:LINE:COLUMN: MESSAGE.

With --request it then holds the rules against a request, dry: which rules were
asked, what each said, and what the operator would read. The request is JSON by
the names that rules have. Only request.eid must be there. Without operator or
card that is not known; the operator has registered the card and POL2 lets a
profile be disabled unless it says false; the limits in history are the file's
and the clock's time is now where they are not there.

Exit status: 0 the file is good and the request allowed; 2 the request is
refused or needs a second user's approval; 1 anything else.`,
		Example: "  cardbridge rules check --request - <<.\n" + rulesRequest + ".",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newPrinter(cmd)
			set, err := openRules(file)
			if faults := rules.Faults(err); len(faults) > 0 {
				return p.faults(faults)
			}
			if err != nil {
				return err
			}
			if request == "" {
				return p.goodRules(file, set)
			}
			in, err := readRequest(cmd, request)
			if err != nil {
				return err
			}
			limits(set, in)
			return p.decision(set.Evaluate(in))
		},
	}
	cmd.Flags().StringVar(&file, "rules", "", "`FILE` of rules (the one that is built in)")
	cmd.Flags().StringVar(&request, "request", "", "`FILE` of a request to try them on; - is standard input")
	addJSONFlag(cmd)
	return cmd
}

// openRules reads a file of rules, the built-in one where none is named.
func openRules(path string) (*rules.Set, error) {
	if path == "" {
		return rules.Default(), nil
	}
	f, err := rules.Open(path)
	if err != nil {
		return nil, err
	}
	return f.Current(), nil
}

func readRequest(cmd *cobra.Command, path string) (*rules.Input, error) {
	var b []byte
	var err error
	if path == stdStream {
		path = "standard input"
		b, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), rules.MaxInput+1))
	} else {
		b, err = readFile(path)
	}
	if err != nil {
		return nil, err
	}
	in, err := rules.ParseInput(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return in, nil
}

// limits fills in what the guard would have put there: the budgets of the file.
func limits(set *rules.Set, in *rules.Input) {
	fill := func(c *rules.Counts, b rules.Budget) {
		if c.Max == 0 {
			c.Max = b.Allowance(c.Fleet)
		}
		if c.Ceiling == 0 {
			c.Ceiling = b.Ceiling
		}
	}
	if in.Operator != nil {
		fill(&in.History.Operator, set.OperatorBudget(in.Operator.MCCMNC))
	}
	if in.Card == nil {
		return
	}
	if in.History.Groups == nil {
		in.History.Groups = map[string]rules.Counts{}
	}
	for _, g := range in.Card.Groups {
		c := in.History.Groups[g]
		fill(&c, set.GroupBudget(g))
		in.History.Groups[g] = c
	}
}

// faults prints what is wrong with a file; it always gives an error.
func (p *printer) faults(faults []*rules.Error) error {
	for _, f := range faults {
		fmt.Fprintln(p.err, f)
	}
	if p.json {
		out := struct {
			Outcome string         `json:"outcome"`
			Error   string         `json:"error"`
			Faults  []*rules.Error `json:"faults"`
		}{"failed", faults[0].Error(), faults}
		return errors.Join(p.object(out), exitStatus(exitError))
	}
	return exitStatus(exitError)
}

func (p *printer) goodRules(file string, set *rules.Set) error {
	if file == "" {
		file = "built in"
	}
	if p.json {
		return p.object(struct {
			File   string   `json:"file"`
			Digest string   `json:"digest"`
			Rules  []string `json:"rules"`
			ES10c  []string `json:"es10c"`
		}{file, set.Digest(), set.Rules(), set.Allowances()})
	}
	p.field("file", file)
	p.field("SHA-256", set.Digest())
	p.field("rules", strings.Join(set.Rules(), ", "))
	p.field("plain eUICCs", cmp.Or(strings.Join(set.Allowances(), ", "), "none is touched"))
	return nil
}

func (p *printer) decision(d rules.Decision) error {
	verdict, read, colour, status := "allowed", (*rules.Refusal)(nil), green, error(nil)
	switch {
	case d.Refusal != nil:
		verdict, read, colour, status = "refused", d.Face, red, exitStatus(exitRuleRefused)
	case d.Approval != nil:
		verdict, read, colour, status = "needs approval", d.Approval, yellow, exitStatus(exitRuleRefused)
	}
	if p.json {
		return errors.Join(p.object(struct {
			Verdict string `json:"decision"`
			rules.Decision
		}{verdict, d}), status)
	}
	said := map[rules.Outcome]string{rules.Holds: green, rules.Refuses: red, rules.Failed: red, rules.NeedsApproval: yellow, rules.Allows: yellow}
	var rows [][]string
	for _, r := range d.Ran {
		words := string(r.Outcome)
		if c := said[r.Outcome]; c != "" {
			words = p.paint(c, words)
		}
		if r.Text != "" {
			words += ": " + printable(r.Text)
		}
		rows = append(rows, []string{r.Rule, words})
	}
	p.table("RULE|SAID", rows)
	fmt.Fprintln(p.out)
	p.field("decision", p.paint(colour, verdict))
	p.field("ES10c allowed by", d.AllowedBy)
	if d.ICCID != nil {
		p.field("profile", d.ICCID.String())
	}
	if read != nil {
		p.field("operator reads", read.Error())
	}
	return status
}
