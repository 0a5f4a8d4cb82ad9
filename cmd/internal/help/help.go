// Package help is how our programs explain themselves: the text of --help, and
// what a command line that cannot be is answered with.
package help

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// Attach gives a program's commands our text of --help. One that only holds
// others answers a command that it does not have with an error. The result says
// whether a command had begun its work: until then the command line is to blame
// for an error.
func Attach(root *cobra.Command) (began func() bool) {
	var working bool
	var attach func(*cobra.Command)
	attach = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			attach(sub)
		}
		switch run := cmd.RunE; {
		case run != nil:
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				working = true
				return run(cmd, args)
			}
		case cmd.HasParent() && cmd.HasSubCommands(): // of the root cobra sees to it
			cmd.RunE = choose
		}
	}
	attach(root)
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		width := 0 // as long as they are
		if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
			width = w
		}
		return usage(cmd.OutOrStderr(), cmd, width)
	})
	return func() bool { return working }
}

// choose runs a command that only holds others.
func choose(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; is it " + strings.Join(near, ", or ") + "?"
	}
	return fmt.Errorf("%s", text)
}

// usage writes how a command is called, to lines of at most width characters
// where that is not 0.
func usage(w io.Writer, cmd *cobra.Command, width int) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if cmd.Runnable() && strings.Contains(cmd.UseLine(), " ") && !(cmd.HasAvailableSubCommands() && cmd.Use == cmd.Name() && cmd.HasParent()) {
		fmt.Fprintf(&b, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND\n", cmd.CommandPath())
	}
	list := func(title, group string) {
		i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.GroupID == group && listed(c) })
		if i < 0 {
			return
		}
		fmt.Fprintf(&b, "\n%s\n", title)
		for _, c := range cmd.Commands() {
			if c.GroupID == group && listed(c) {
				fmt.Fprintf(&b, "  %-*s %s\n", c.NamePadding(), c.Name(), c.Short)
			}
		}
	}
	for _, g := range cmd.Groups() {
		list(g.Title, g.ID)
	}
	if len(cmd.Groups()) == 0 {
		list("Commands:", "")
	} else {
		list("More:", "")
	}
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(&b, "\nFlags:\n%s", flags(cmd.LocalFlags(), width))
	}
	if cmd.HasAvailableInheritedFlags() {
		fmt.Fprintf(&b, "\nGlobal flags:\n%s", flags(cmd.InheritedFlags(), width))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n\"%s COMMAND --help\" says more about a command.\n", cmd.CommandPath())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func listed(cmd *cobra.Command) bool { return cmd.IsAvailableCommand() || cmd.Name() == "help" }

// flags is the lines of flags. What is on or off is --name here, not pflag's
// --name[=true|false].
func flags(set *pflag.FlagSet, width int) string {
	shown := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.VisitAll(func(f *pflag.Flag) {
		one := *f
		if one.Value.Type() == "bool" {
			one.Value = onOff{one.Value}
		}
		shown.AddFlag(&one)
	})
	return shown.FlagUsagesWrapped(width)
}

// onOff is a bool that pflag has no text of its own for.
type onOff struct{ pflag.Value }

func (onOff) Type() string { return "boolfunc" }
