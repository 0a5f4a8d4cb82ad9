package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/store"
)

func newGuardCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "The mass-deactivation guard: what it counts, and the breaker's reset",
	}
	cmd.AddCommand(newGuardShowCmd(), newGuardResetCmd())
	return cmd
}

func newGuardShowCmd() *cobra.Command {
	return remoteCmd("show", "Show what the guard counts of the operator, and its breaker",
		`Shows the operator's breaker, and for all of its cards and for each card group:
how many cards there are, the budget of the window, what was sent in it and is
pending, what is left before requests wait for an approval, what was asked for,
and the ceiling at which the breaker trips.`,
		cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
			g, err := c.Insist(clientTries).GetGuard(ctx)
			if err != nil {
				return err
			}
			return p.guard(g)
		})
}

func (p *printer) guard(g *client.Guard) error {
	if p.json {
		return p.object(g)
	}
	breaker := p.paint(green, "closed")
	if g.Breaker.Tripped {
		breaker = p.paint(red, "tripped")
		if g.Breaker.Since != nil {
			breaker += " " + when(*g.Breaker.Since)
		}
		breaker += ": " + printable(g.Breaker.Why)
	}
	p.field("breaker", breaker)
	p.field("window", (time.Duration(g.WindowSeconds) * time.Second).String())
	var rows [][]string
	for _, s := range append([]client.Scope{g.Operator}, g.Groups...) {
		name, left := s.Group, "any"
		if name == "" {
			name = "all cards"
		}
		if s.Budget != nil {
			n := max(*s.Budget-s.Sent-s.Pending, 0)
			colour := green
			if n == 0 {
				colour = yellow
			}
			left = p.paint(colour, fmt.Sprint(n))
		}
		rows = append(rows, []string{
			name, fmt.Sprint(s.Fleet), orAny(s.Budget), fmt.Sprint(s.Sent), fmt.Sprint(s.Pending), fmt.Sprint(s.Asked), orAny(s.Ceiling), left,
		})
	}
	p.table("SCOPE|CARDS|BUDGET|SENT|PENDING|ASKED|CEILING|LEFT", rows)
	return nil
}

func orAny(n *int64) string {
	if n == nil {
		return "any"
	}
	return fmt.Sprint(*n)
}

func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// breakerJSON is what guard reset prints.
type breakerJSON struct {
	Operator  string    `json:"operator"`
	TrippedAt time.Time `json:"tripped_at"`
	Was       string    `json:"was"`
}

func newGuardResetCmd() *cobra.Command {
	var where recordFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset {--data DIR | --store URL} [--yes] OPERATOR",
		Short: "Reset the breaker of an operator, as the server's administrator",
		Long: `Resets the breaker of an operator, on the server's record. It is the
administrator's: no operator can do it. What was asked for until now is
forgotten, what was sent still counts, and everything that was not sent when the
breaker tripped needs a second user's approval anew. The server may run
meanwhile. Find out first why the operator asked for that many.

  cardbridge guard reset --data ./data "Example Mobile"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return where.with(cmd.Context(), func(records *store.Store) error {
				ctx, p := cmd.Context(), newPrinter(cmd)
				op, err := records.Operator(ctx, args[0])
				if err != nil {
					return err
				}
				scopes, err := records.Guard(ctx, op.ID)
				if err != nil {
					return err
				}
				at := scopes[0].TrippedAt
				if at == nil {
					return fmt.Errorf("the breaker of operator %q has not tripped", op.Name)
				}
				out := breakerJSON{op.Name, *at, scopes[0].TrippedWhy}
				if !yes {
					if err := confirm(cmd, fmt.Sprintf("The breaker of operator %q tripped at %s: %s.\nReset it?", op.Name, when(*at), out.Was)); err != nil {
						return err
					}
				}
				if _, err := records.ResetBreaker(ctx, op.Name); err != nil {
					return err
				}
				if p.json {
					return p.object(out)
				}
				fmt.Fprintf(p.out, "the breaker of operator %q is reset; it had tripped at %s: %s\n", op.Name, when(*at), out.Was)
				return nil
			})
		},
	}
	where.addFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	addJSONFlag(cmd)
	return cmd
}

// confirm asks a person at a terminal; the error says that it is not confirmed.
func confirm(cmd *cobra.Command, question string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return errors.New("nobody is at a terminal to confirm; say --yes")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); err != nil || a != "y" && a != "yes" {
		return errors.New("not confirmed; nothing is changed")
	}
	return nil
}
