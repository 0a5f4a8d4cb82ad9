package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api"
)

func newCardPolicyCmd() *cobra.Command {
	var (
		r          remote
		eid, iccid string
		allowed    bool
	)
	cmd := &cobra.Command{
		Use:   "policy --server URL --token-file FILE --pin SHA256 --eid EID --iccid ICCID --disable-allowed=false",
		Short: "Set the rule (POL2) of a profile in a server's record",
		Long: `Sets whether a profile that the operator owns may be disabled (POL2). It is the
server's rule, not the card's (PPR1): what it forbids does not reach the card.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := id.ParseEID(eid)
			if err != nil {
				return err
			}
			i, err := id.ParseICCID(iccid)
			if err != nil {
				return err
			}
			c, err := r.client()
			if err != nil {
				return err
			}
			in := map[string]bool{"disable_allowed": allowed}
			var out api.Card
			if err := c.insist(cmd.Context(), http.MethodPatch, "/v1/cards/"+e.String()+"/profiles/"+i.String(), nil, in, &out, clientTries); err != nil {
				return err
			}
			return printCard(newPrinter(cmd), out)
		},
	}
	r.addFlags(cmd)
	cmd.Flags().StringVar(&eid, "eid", "", "the card's EID")
	cmd.Flags().StringVar(&iccid, "iccid", "", "the profile's ICCID")
	cmd.Flags().BoolVar(&allowed, "disable-allowed", true, "whether the profile may be disabled")
	for _, name := range []string{"eid", "iccid", "disable-allowed"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}
