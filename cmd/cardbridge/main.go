// Command cardbridge is the card management server, its operators' client and
// the bench tools, in one program.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitError       = 1 // anything that is none of the others
	exitRuleRefused = 2 // a management rule refused; no APDU was sent
	exitCardRefused = 3 // the card refused, and signed it
	exitUnknown     = 4 // a command was sent and no answer to it verified
)

// exitStatus is an error that was already told to the user and ends the program
// with that status.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRootCmd().ExecuteContext(ctx)
	var status exitStatus
	switch {
	case err == nil:
	case errors.As(err, &status):
		os.Exit(int(status))
	default:
		fmt.Fprintf(os.Stderr, "cardbridge: %v\n", err)
		os.Exit(exitError)
	}
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "cardbridge",
		Short: "Takes eSIM profiles out of service, provably",
		Long: `cardbridge takes eSIM profiles out of service: an operator asks, the server
checks its management rules, server and card prove themselves to each other,
and only then does the card disable its profile and sign what it did.

The bench's side needs no server:  cardbridge reader list, card …, apdu, keys
The server:                        cardbridge serve, operator add
The operator's side:               cardbridge deactivate, card register, card policy

Exit status: 0 done, 2 refused by a management rule, 3 refused by the card
(signed), 4 outcome unknown, 1 anything else.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newReaderCmd(), newCardCmd(), newAPDUCmd(), newKeysCmd(), newServeCmd(), newOperatorCmd(), newDeactivateCmd())
	return root
}
