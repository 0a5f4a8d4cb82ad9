package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api/client"
)

func newCardShowCmd() *cobra.Command {
	return cardRecordCmd("show", "Show a card as a server has it recorded", (*client.Client).GetCard)
}

func newCardRefreshCmd() *cobra.Command {
	return cardRecordCmd("refresh", "Have a server read a card's state anew, after it was changed elsewhere", (*client.Client).RefreshCard)
}

// cardRecordCmd is a command that asks for a card's record and prints it.
func cardRecordCmd(name, short string, ask func(*client.Client, context.Context, string) (*client.Card, error)) *cobra.Command {
	var eid string
	cmd := remoteCmd(name+" --eid EID", short, "", cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
		e, err := id.ParseEID(eid)
		if err != nil {
			return err
		}
		out, err := ask(c.Insist(clientTries), ctx, e.String())
		if err != nil {
			return err
		}
		return p.card(out)
	})
	cmd.Flags().StringVar(&eid, "eid", "", "the card's `EID`")
	_ = cmd.MarkFlagRequired("eid")
	return cmd
}
