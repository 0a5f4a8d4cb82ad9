package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api/client"
)

func newApproveCmd() *cobra.Command {
	return stepCmd("approve", "Approve a request that waits for a second user", `Approves a request that is held: beyond the guard's budget, of a critical group, or
let in before the breaker tripped. Whoever asked cannot approve it, and it has to
be done before the deadline that requests --held shows. The role approve is
needed.`, (*client.Client).ApproveDeactivation)
}

func newRejectCmd() *cobra.Command {
	var in client.Rejection
	cmd := stepCmd("reject", "Reject a request that waits for a second user", `Rejects a request that is held, and so ends it. Whoever asked gets to read the
reason, and cannot reject it, but cancel it. The role approve is needed.

  cardbridge reject --server … --token-file … --pin … --reason "these meters stay" ID`,
		func(c *client.Client, ctx context.Context, id string) (*client.Deactivation, error) {
			return c.RejectDeactivation(ctx, id, in)
		})
	cmd.Flags().StringVar(&in.Reason, "reason", "", "`TEXT`: why, up to 200 characters")
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

func newCancelCmd() *cobra.Command {
	return stepCmd("cancel", "Cancel a request of which nothing was sent to the card", `Cancels a request of the operator's, whoever asked. One of which a command may be
on its way to the card is not cancelled any more. The role request is needed.`, (*client.Client).CancelDeactivation)
}

// stepCmd is a command by which a user takes a step on a request.
func stepCmd(name, short, long string, take func(*client.Client, context.Context, string) (*client.Deactivation, error)) *cobra.Command {
	return remoteCmd(name+" ID", short, long, cobra.ExactArgs(1), func(ctx context.Context, p *printer, c *client.Client, args []string) error {
		request, err := id.ParseRequestID(args[0])
		if err != nil {
			return err
		}
		d, err := take(c.Insist(clientTries), ctx, request.String())
		var lost *client.LostError
		if errors.As(err, &lost) {
			return fmt.Errorf("the server may have done it, for a reply of its was lost; cardbridge requests has the state of now: %w", err)
		}
		if err != nil {
			return err
		}
		if p.json {
			return p.object(d)
		}
		p.request(d)
		return nil
	})
}

// request prints a request as a server has it.
func (p *printer) request(d *client.Deactivation) {
	p.field("request", d.ID)
	p.field("EID", d.EID)
	p.field("ICCID", d.ICCID)
	p.field("state", p.paint(stateColour(string(d.State)), string(d.State)))
	p.field("asked by", printable(d.User))
	p.field("held", printable(d.HeldWhy))
	p.field("approved by", printable(d.ApprovedBy))
	p.field("why", printable(d.Detail))
	if !d.Finished {
		p.field("deadline", when(d.Deadline))
	}
}

func stateColour(state string) string {
	return cmp.Or(map[string]string{"done": green, "refused": red, "failed": red, "expired": red, "cancelled": red}[state], yellow)
}
