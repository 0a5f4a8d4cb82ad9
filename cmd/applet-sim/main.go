// Command applet-sim is an emulated UICC with the management applet, as a card
// in pcscd's virtual reader or in QEMU's.
package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/interchange"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/cmd/internal/help"
	"github.com/cardbridge/cardbridge/cmd/internal/man"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program; it gives the exit status. The end of ctx is a good end.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newCommand()
	began := help.Attach(cmd)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	called, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "applet-sim:", err)
	if !began() {
		fmt.Fprintf(stderr, "`%s --help` tells how it is called.\n", called.CommandPath())
	} else {
		fmt.Fprintln(stderr, hint(err))
	}
	return 1
}

// options are the program's flags.
type options struct {
	card       string
	trace      string
	bestMatch  bool
	rules      string
	vpcd       string
	vscard     string
	write      int
	away       time.Duration
	noExtended bool
	control    string
	faults     []string
}

func newCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "applet-sim {--card FILE | --trace FILE} {--vpcd HOST:PORT | --vscard SOCKET | --control SOCKET}",
		Short: "An emulated UICC in a virtual reader",
		Long: `applet-sim puts the card of a card image file into pcscd's virtual reader
(vpcd) or into QEMU's (ccid-card-passthru). What the card stores it stores in
that file. It waits for the reader, comes back whenever that goes away, and ends
with SIGTERM or SIGINT.

With --control other programs drive the card, with or without a reader: they
insert and remove it, reset it, send it commands, have faults strike
(docs/emulator.md). Every fault that strikes is told on standard error, with what
repeats it.

With --trace it is a card that answers as a trace says (docs/trace.md; other
tools' traces too): the commands in the trace's order, or by --best-match each
wherever it stands. What the trace does not have is answered by 6F00, with a line
on standard error.`,
		Version:       man.Version(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.card, "card", "", "card image `FILE`")
	f.StringVar(&o.trace, "trace", "", "be the card of this trace `FILE`, in place of --card")
	f.BoolVar(&o.bestMatch, "best-match", false, "with --trace: answer commands in any order")
	f.StringVar(&o.rules, "rules", "", "with --trace: `FILE` of rules that say what may differ in a command (docs/trace-rules.md)")
	f.StringVar(&o.vpcd, "vpcd", "", "where vpcd listens for the slot's card, `HOST:PORT`")
	f.StringVar(&o.vscard, "vscard", "", "the `SOCKET` to make for the -chardev of QEMU's ccid-card-passthru")
	f.IntVar(&o.write, "remove-after-write", 0, "take the card out after its `N`-th write to the card image, before it answers; 0: never")
	f.DurationVar(&o.away, "remove-for", 2*time.Second, "how long it then stays out")
	f.StringVar(&o.control, "control", "", "let programs drive the card by JSON lines at this `SOCKET`, a path or a HOST:PORT on the loopback interface")
	f.StringArrayVar(&o.faults, "fault", nil, "have this fault strike, in `JSON` (docs/emulator.md); may be given more than once")
	f.BoolVar(&o.noExtended, "no-extended", false, "a card without extended length: command chaining alone")
	cmd.AddCommand(newNewCommand(), newInspectCommand(), newDiffCommand(), man.Command())
	return cmd
}

// errUsage is matched by the errors that the command line is to blame for.
var errUsage = errors.New("bad command line")

func (o *options) check() error {
	switch {
	case o.card == "" && o.trace == "":
		return fmt.Errorf("%w: --card is missing, or --trace", errUsage)
	case o.card != "" && o.trace != "":
		return fmt.Errorf("%w: --card and --trace are two cards", errUsage)
	case o.trace == "" && (o.bestMatch || o.rules != ""):
		return fmt.Errorf("%w: --best-match and --rules go with --trace", errUsage)
	case o.trace != "" && (o.write != 0 || o.noExtended):
		return fmt.Errorf("%w: a trace says itself when its card is removed and what it announces", errUsage)
	case o.trace != "" && (o.control != "" || o.faults != nil):
		return fmt.Errorf("%w: --control and --fault go with --card", errUsage)
	case o.vpcd == "" && o.vscard == "" && o.control == "":
		return fmt.Errorf("%w: --vpcd is missing, or --vscard, or --control", errUsage)
	case o.vpcd != "" && o.vscard != "":
		return fmt.Errorf("%w: --vpcd and --vscard are two readers for one card", errUsage)
	case o.write < 0:
		return fmt.Errorf("%w: --remove-after-write %d is negative", errUsage, o.write)
	case o.away <= 0:
		return fmt.Errorf("%w: --remove-for %s is not more than nothing", errUsage, o.away)
	}
	return nil
}

func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.trace != "" {
		card, err := traceCard(o, stderr)
		if err != nil {
			return err
		}
		return attach(ctx, o, card, stdout, stderr)
	}
	faults, err := parseFaults(o.faults)
	if err != nil {
		return err
	}
	if o.write > 0 {
		faults = append(faults, appletsim.Fault{Write: o.write, Kind: appletsim.CutAfter, Away: o.away})
	}
	var opts []appletsim.Option
	if o.noExtended {
		opts = append(opts, appletsim.WithoutExtendedLength())
	}
	operations := rsafast.NewScheduler(rsafast.Config{})
	defer operations.Close()
	keys, err := keysFor(o.card, operations)
	if err != nil {
		return err
	}
	card, err := appletsim.Open(o.card, append(opts, appletsim.WithKeys(keys), appletsim.WithFaults(faults...),
		appletsim.OnFault(func(s fault.Strike) { fmt.Fprintln(stderr, s) }))...)
	if err != nil {
		return err
	}
	defer card.Close()
	defer context.AfterFunc(ctx, card.Remove)() // which ends a command that a fault makes slow
	if o.control == "" {
		return attach(ctx, o, card, stdout, stderr)
	}
	return controlled(ctx, o, card, stdout, stderr)
}

// card is what either reader takes.
type card interface {
	vpcd.Card
	Away() (left time.Duration, away bool)
}

// attach keeps the card in its reader until ctx ends.
func attach(ctx context.Context, o options, c card, stdout, stderr io.Writer) error {
	var err error
	if o.vscard != "" {
		err = serveQEMU(ctx, o.vscard, c, stdout, stderr)
	} else {
		err = vpcd.Serve(ctx, o.vpcd, c,
			vpcd.OnAttached(func(string) { fmt.Fprintf(stdout, "attached %s\n", o.vpcd) }),
			vpcd.OnWaiting(func(addr string) { fmt.Fprintf(stderr, "waiting for vpcd at %s\n", addr) }),
			vpcd.WithAway(c.Away),
		)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// maxImage is more bytes than a card image may have.
const maxImage = 2 << 20

// keysFor loads a card image's keys for a scheduler, which does the operations
// under them, and those under the servers' keys.
func keysFor(path string, s *rsafast.Scheduler) (cryptogram.PrivateKeys, error) {
	im, err := readImage(path)
	if err != nil {
		return cryptogram.PrivateKeys{}, err
	}
	keys, err := im.Keys.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return s.Load(k) })
	keys.Ops = s
	return keys, err
}

// hint says what to do about an error.
func hint(err error) string {
	switch {
	case errors.Is(err, errSocket):
		return "--vscard takes a path where no file is, or the socket that another applet-sim left."
	case errors.Is(err, errControl):
		return "--control takes a path where no file is, or a HOST:PORT on the loopback interface, as 127.0.0.1:0."
	case errors.Is(err, fault.ErrInvalid):
		return "docs/emulator.md has the table of faults, as {\"kind\":\"mute\",\"apdu\":3}."
	case errors.Is(err, appletsim.ErrImage):
		return "The card image is JSON as docs/protocol.md §9 has it; `applet-sim new` and `cardbridge card new` make one."
	case errors.Is(err, appletsim.ErrInUse):
		return "End the other applet-sim first, or use another card image."
	case errors.Is(err, os.ErrNotExist):
		return "Make a card image with `applet-sim new` or `cardbridge card new`, or name another file with --card or --trace."
	case errors.Is(err, os.ErrExist):
		return "No file is overwritten: name another, or remove it first."
	case errors.Is(err, os.ErrPermission):
		return "The card image and its directory must be readable and writable for this user, a trace readable."
	case errors.As(err, new(*interchange.UnknownFormatError)), errors.As(err, new(*trace.SyntaxError)):
		return "--trace takes a trace of ours (docs/trace.md) or of another tool that `cardbridge trace convert` reads."
	case errors.As(err, new(*trace.RulesError)):
		return "docs/trace-rules.md tells what a file of rules has."
	case errors.Is(err, errUsage):
		return "`applet-sim --help` tells the flags."
	}
	return "--vpcd takes HOST:PORT, the port of the reader's slot: 127.0.0.1:35963 for the first slot of a vpcd as it is installed."
}
