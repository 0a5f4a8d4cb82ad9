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
	var states []string
	var ask client.ListDeactivationsParams
	var limit int64
	cmd := remoteCmd("requests [--held] [--state STATE,…] [--eid EID] [--iccid ICCID] [--user USER] [--group GROUP] [--limit N]", "List the operator's requests, newest first",
		`Lists the operator's requests, newest first. With --held those alone that wait for
a second user's approval, and until when. With --json each is one JSON object on
one line.`,
		cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: at least 1", limit)
			}
			var rows [][]string
			if held {
				states = []string{"held"}
			}
			for _, s := range states {
				ask.State = append(ask.State, client.DeactivationState(s))
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
				if ask.Cursor = page.Next; ask.Cursor == "" {
					break
				}
			}
			if !p.json {
				p.table("REQUEST|EID|STATE|HOW|ASKED BY|ASKED AT|DEADLINE|WHY", rows)
			}
			return nil
		})
	f := cmd.Flags()
	f.BoolVar(&held, "held", false, "only those that wait for an approval")
	f.StringSliceVar(&states, "state", nil, "only those in one of these `STATES`, such as waiting,unknown")
	f.StringVar(&ask.EID, "eid", "", "only those for the card with this `EID`")
	f.StringVar(&ask.ICCID, "iccid", "", "only those for the profile with this `ICCID`")
	f.StringVar(&ask.User, "user", "", "only those that this `USER` asked for")
	f.StringVar(&ask.Group, "group", "", "only those for cards of this `GROUP`")
	cmd.MarkFlagsMutuallyExclusive("held", "state")
	f.Int64Var(&limit, "limit", requestsPage, "at most `N`")
	return cmd
}
