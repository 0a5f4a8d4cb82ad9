package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/api/client"
)

const requestsPage = 100 // requests asked for at once

func newRequestsCmd() *cobra.Command {
	var held bool
	var limit int64
	cmd := remoteCmd("requests [--held] [--limit N]", "List the operator's requests, newest first",
		`Lists the operator's requests, newest first. With --held those alone that wait for
a second user's approval, and until when. With --json each is one JSON object on
one line.`,
		cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: at least 1", limit)
			}
			var rows [][]string
			var ask client.ListDeactivationsParams
			if held {
				ask.State = client.ListDeactivationsParamsStateHeld
			}
			for left := limit; left > 0; {
				ask.Limit = min(left, requestsPage)
				page, err := c.Insist(clientTries).ListDeactivations(ctx, ask)
				if err != nil {
					return err
				}
				for _, d := range page.Deactivations {
					if p.json {
						if err := p.object(d); err != nil {
							return err
						}
					}
					why := cmp.Or(d.Detail, d.HeldWhy)
					rows = append(rows, []string{d.ID, d.EID, string(d.State), string(d.How), printable(d.User), when(d.CreatedAt), when(d.Deadline), printable(why)})
				}
				left -= int64(len(page.Deactivations))
				if ask.Before = page.Next; ask.Before == 0 {
					break
				}
			}
			if !p.json {
				p.table("REQUEST|EID|STATE|HOW|ASKED BY|ASKED AT|DEADLINE|WHY", rows)
			}
			return nil
		})
	cmd.Flags().BoolVar(&held, "held", false, "only those that wait for an approval")
	cmd.Flags().Int64Var(&limit, "limit", requestsPage, "at most this many")
	return cmd
}
