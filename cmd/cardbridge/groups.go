package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api/client"
)

func newCardGroupsCmd() *cobra.Command {
	var eid string
	var none bool
	cmd := remoteCmd("groups --eid EID {--none | GROUP…}", "Set the groups in which a server's guard counts a card",
		`Sets the groups in which the mass-deactivation guard counts a card, and by which
management rules know it: up to 8 names of a to z, 0 to 9 and -. Budgets of groups
are in the server's file of rules. card show shows them. The role administer is
needed.

  cardbridge card groups --server … --token-file … --pin … --eid … critical meters-north`,
		cobra.ArbitraryArgs, func(ctx context.Context, p *printer, c *client.Client, groups []string) error {
			e, err := id.ParseEID(eid)
			if err != nil {
				return err
			}
			if none != (len(groups) == 0) {
				return errors.New("name the groups, or say --none")
			}
			out, err := c.Insist(clientTries).SetGroups(ctx, e.String(), client.CardGroups{Groups: append([]string{}, groups...)})
			if err != nil {
				return err
			}
			return p.card(out)
		})
	cmd.Flags().StringVar(&eid, "eid", "", "the card's `EID`")
	cmd.Flags().BoolVar(&none, "none", false, "the card is in no group")
	_ = cmd.MarkFlagRequired("eid")
	return cmd
}
