package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api/client"
)

func newCardPolicyCmd() *cobra.Command {
	var eid, iccid string
	var in client.ProfilePolicy
	cmd := remoteCmd("policy --eid EID --iccid ICCID --disable-allowed=false", "Set the rule (POL2) of a profile in a server's record",
		`Sets whether a profile that the operator owns may be disabled (POL2). It is the
server's rule, not the card's (PPR1): what it forbids does not reach the card.`,
		cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
			e, err := id.ParseEID(eid)
			if err != nil {
				return err
			}
			i, err := id.ParseICCID(iccid)
			if err != nil {
				return err
			}
			out, err := c.Insist(clientTries).SetPolicy(ctx, e.String(), i.String(), in)
			if err != nil {
				return err
			}
			return p.card(out)
		})
	cmd.Flags().StringVar(&eid, "eid", "", "the card's `EID`")
	cmd.Flags().StringVar(&iccid, "iccid", "", "the profile's `ICCID`")
	cmd.Flags().BoolVar(&in.DisableAllowed, "disable-allowed", true, "whether the profile may be disabled")
	for _, name := range []string{"eid", "iccid", "disable-allowed"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}
