// Command cardbridge is the card management server, its operators' client and
// the bench tools, in one program.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/pkcs11"
	"github.com/cardbridge/cardbridge/cmd/internal/help"
	"github.com/cardbridge/cardbridge/cmd/internal/man"
)

// Exit statuses.
const (
	exitError       = 1 // anything that is none of the others
	exitRuleRefused = 2 // a management rule refused; no APDU was sent
	exitCardRefused = 3 // the card refused, and signed it
	exitUnknown     = 4 // a command was sent and no answer to it verified
	exitHeld        = 5 // the request waits for a second user's approval; nothing was sent
	exitPIN         = 6 // a token refused the PIN, or was not asked lest it be locked; the unit file names it
)

// exitStatus is an error that was already told to the user and ends the program
// with that status.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; it gives the exit status. With --json a failure that the
// command has not told in an object of its own is one too.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCmd()
	began := help.Attach(root)
	root.SetArgs(args)
	root.SetErr(stderr)
	out := &watched{Writer: stdout}
	if wantsJSON(args) {
		root.SetOut(out)
	} else {
		root.SetOut(stdout)
	}
	cmd, err := root.ExecuteContextC(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintf(stderr, "cardbridge: %v\n", err)
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(stderr, "            %s\n", hint)
	}
	if !began() {
		fmt.Fprintf(stderr, "            %s --help says how it is called\n", cmd.CommandPath())
	}
	if wantsJSON(args) && !out.written {
		_ = (&printer{out: stdout}).object(failureOf(cmd, err)) // standard error has it too
	}
	if pkcs11.PINRefused(err) {
		return exitPIN
	}
	return exitError
}

// watched notes whether anything was written.
type watched struct {
	io.Writer
	written bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.written = true
	return w.Writer.Write(p)
}

// wantsJSON reports whether --json is among the arguments, which may be such
// that they do not parse.
func wantsJSON(args []string) (wants bool) {
	for _, a := range args {
		value, given := strings.CutPrefix(a, "--json=")
		switch {
		case a == "--":
			return wants
		case a == "--json":
			wants = true
		case given:
			wants, _ = strconv.ParseBool(value)
		}
	}
	return wants
}

// failureOf is the object of a failure.
func failureOf(cmd *cobra.Command, err error) any {
	failed := struct {
		Authenticated *bool  `json:"authenticated,omitempty"`
		Outcome       string `json:"outcome"`
		Error         string `json:"error"`
	}{Outcome: card.OutcomeFailed.String(), Error: err.Error()}
	if cmd.Flags().Lookup("keyset") != nil && cmd.Flags().Lookup("reader") != nil { // it is one that authenticates
		failed.Authenticated = new(bool)
	}
	return failed
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "cardbridge",
		Short: "Takes eSIM profiles out of service, provably",
		Long: `cardbridge takes eSIM profiles out of service: an operator asks, the server
checks its management rules, server and card prove themselves to each other,
and only then does the card disable its profile and sign what it did.

Exit status: 0 done, 2 refused by a management rule or a second user, 3 refused
by the card (signed), 4 outcome unknown, 5 waits for a second user's approval,
6 a token (PKCS#11) refused the PIN, 1 anything else.`,
		Version:       man.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	addGroup(root, "For a bench, without a server:", newReaderCmd(), newCardCmd(), newAPDUCmd(), newTraceCmd(), newKeysCmd())
	addGroup(root, "For an operator's users, with a server:", newDeactivateCmd(), newRequestsCmd(), newApproveCmd(), newRejectCmd(), newCancelCmd(), newGuardCmd(), newWebhookCmd())
	addGroup(root, "For a server's administrator:", newServeCmd(), newOperatorCmd(), newRulesCmd(), newAuditCmd(), newBackupCmd(), newRestoreCmd(), newMigrateCmd())
	root.AddCommand(man.Command())
	return root
}

// addGroup adds commands that --help shows under a title of their own.
func addGroup(parent *cobra.Command, title string, commands ...*cobra.Command) {
	parent.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, cmd := range commands {
		cmd.GroupID = title
	}
	parent.AddCommand(commands...)
}
