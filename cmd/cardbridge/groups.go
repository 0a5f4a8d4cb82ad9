package main

import (
	"errors"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api"
)

func newCardGroupsCmd() *cobra.Command {
	var r remote
	var eid string
	var none bool
	cmd := &cobra.Command{
		Use:   "groups --server URL --token-file FILE --pin SHA256 --eid EID {--none | GROUP…}",
		Short: "Set the groups in which a server's guard counts a card",
		Long: `Sets the groups in which the mass-deactivation guard counts a card, and by which
management rules know it: up to 8 names of a to z, 0 to 9 and -. Budgets of groups
are in the server's file of rules. card show shows them. The role administer is
needed.

  cardbridge card groups --server … --token-file … --pin … --eid … critical meters-north`,
		RunE: func(cmd *cobra.Command, groups []string) error {
			e, err := id.ParseEID(eid)
			if err != nil {
				return err
			}
			if none != (len(groups) == 0) {
				return errors.New("name the groups, or say --none")
			}
			c, err := r.client()
			if err != nil {
				return err
			}
			var out api.Card
			in := api.CardGroups{Groups: append([]string{}, groups...)}
			if err := c.insist(cmd.Context(), http.MethodPut, "/v1/cards/"+e.String()+"/groups", nil, in, &out, clientTries); err != nil {
				return err
			}
			return printCard(newPrinter(cmd), out)
		},
	}
	r.addFlags(cmd)
	cmd.Flags().StringVar(&eid, "eid", "", "the card's EID")
	cmd.Flags().BoolVar(&none, "none", false, "the card is in no group")
	_ = cmd.MarkFlagRequired("eid")
	return cmd
}
