package main

import (
	"cmp"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api"
)

func newApproveCmd() *cobra.Command {
	return newStepCmd("approve", "approval", "Approve a request that waits for a second user", `Approves a request that is held: beyond the guard's budget, of a critical group, or
let in before the breaker tripped. Whoever asked cannot approve it, and it has to
be done before the deadline that requests --held shows. The role approve is
needed.`)
}

func newRejectCmd() *cobra.Command {
	var in api.Rejection
	cmd := newStepCmd("reject", "rejection", "Reject a request that waits for a second user", `Rejects a request that is held, and so ends it. Whoever asked gets to read the
reason, and cannot reject it, but cancel it. The role approve is needed.

  cardbridge reject --server … --token-file … --pin … --reason "these meters stay" ID`, &in)
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, up to 200 characters")
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

func newCancelCmd() *cobra.Command {
	return newStepCmd("cancel", "cancellation", "Cancel a request of which nothing was sent to the card", `Cancels a request of the operator's, whoever asked. One of which a command may be
on its way to the card is not cancelled any more. The role request is needed.`)
}

// newStepCmd is a command by which a user takes a step on a request; in is the
// body where there is one.
func newStepCmd(name, path, short, long string, in ...any) *cobra.Command {
	var r remote
	cmd := &cobra.Command{
		Use:   name + " --server URL --token-file FILE --pin SHA256 ID",
		Short: short,
		Long:  long,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := id.ParseRequestID(args[0])
			if err != nil {
				return err
			}
			c, err := r.client()
			if err != nil {
				return err
			}
			var body any
			if len(in) > 0 {
				body = in[0]
			}
			var out api.Deactivation
			if err := c.insist(cmd.Context(), http.MethodPost, "/v1/deactivations/"+request.String()+"/"+path, nil, body, &out, clientTries); err != nil {
				return err
			}
			p := newPrinter(cmd)
			if p.json {
				return p.object(out)
			}
			p.request(out)
			return nil
		},
	}
	r.addFlags(cmd)
	return cmd
}

// request prints a request as a server has it.
func (p *printer) request(d api.Deactivation) {
	p.field("request", d.ID)
	p.field("EID", d.EID)
	p.field("ICCID", d.ICCID)
	p.field("state", p.paint(stateColour(d.State), d.State))
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
