package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api"
)

func newCardShowCmd() *cobra.Command {
	var r remote
	var eid string
	cmd := &cobra.Command{
		Use:   "show --server URL --token-file FILE --pin SHA256 --eid EID",
		Short: "Show a card as a server has it recorded",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := id.ParseEID(eid)
			if err != nil {
				return err
			}
			c, err := r.client()
			if err != nil {
				return err
			}
			var out api.Card
			if err := c.insist(cmd.Context(), http.MethodGet, "/v1/cards/"+e.String(), nil, nil, &out, clientTries); err != nil {
				return err
			}
			return printCard(newPrinter(cmd), out)
		},
	}
	r.addFlags(cmd)
	cmd.Flags().StringVar(&eid, "eid", "", "the card's EID")
	_ = cmd.MarkFlagRequired("eid")
	return cmd
}
