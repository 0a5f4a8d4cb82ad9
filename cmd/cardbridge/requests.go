package main

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/api"
)

const requestsPage = 100 // requests asked for at once

func newRequestsCmd() *cobra.Command {
	var r remote
	var held bool
	var limit int
	cmd := &cobra.Command{
		Use:   "requests --server URL --token-file FILE --pin SHA256 [--held] [--limit N]",
		Short: "List the operator's requests, newest first",
		Long: `Lists the operator's requests, newest first. With --held those alone that wait for
a second user's approval, and until when. With --json each is one JSON object on
one line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: at least 1", limit)
			}
			c, err := r.client()
			if err != nil {
				return err
			}
			p := newPrinter(cmd)
			var rows [][]string
			for left, before := limit, int64(0); left > 0; {
				path := fmt.Sprintf("/v1/deactivations?limit=%d", min(left, requestsPage))
				if held {
					path += "&state=held"
				}
				if before > 0 {
					path += fmt.Sprintf("&before=%d", before)
				}
				var page api.DeactivationList
				if err := c.insist(cmd.Context(), http.MethodGet, path, nil, nil, &page, clientTries); err != nil {
					return err
				}
				for _, d := range page.Deactivations {
					if p.json {
						if err := p.object(d); err != nil {
							return err
						}
					}
					why := cmp.Or(d.Detail, d.HeldWhy)
					rows = append(rows, []string{d.ID, d.EID, d.State, printable(d.User), when(d.CreatedAt), when(d.Deadline), printable(why)})
				}
				if left, before = left-len(page.Deactivations), page.Next; before == 0 {
					break
				}
			}
			if !p.json {
				p.table("REQUEST|EID|STATE|ASKED BY|ASKED AT|DEADLINE|WHY", rows)
			}
			return nil
		},
	}
	r.addFlags(cmd)
	cmd.Flags().BoolVar(&held, "held", false, "only those that wait for an approval")
	cmd.Flags().IntVar(&limit, "limit", requestsPage, "at most this many")
	return cmd
}
