package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api"
)

func newCardShowCmd() *cobra.Command {
	return newCardRecordCmd("show", "Show a card as a server has it recorded", "", http.MethodGet)
}

func newCardRefreshCmd() *cobra.Command {
	return newCardRecordCmd("refresh", "Have a server read a card's state anew, after it was changed elsewhere", "/refresh", http.MethodPost)
}

// newCardRecordCmd is a command that asks for a card's record and prints it.
func newCardRecordCmd(name, short, path, method string) *cobra.Command {
	var r remote
	var eid string
	cmd := &cobra.Command{
		Use:   name + " --server URL --token-file FILE --pin SHA256 --eid EID",
		Short: short,
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
			if err := c.insist(cmd.Context(), method, "/v1/cards/"+e.String()+path, nil, nil, &out, clientTries); err != nil {
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
