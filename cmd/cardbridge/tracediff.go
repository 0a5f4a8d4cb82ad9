package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

func newTraceDiffCmd() *cobra.Command {
	var rules string
	var opts trace.DiffOptions
	var told differences
	cmd := &cobra.Command{
		Use:   "diff FILE FILE",
		Short: "Compare two traces, aligned by command",
		Long: `Compares two traces in any format, aligned by their commands, and tells what
differs and whether it may: nonces, cryptograms, MACs, counters and times may, by
built-in rules or by those of --rules (docs/trace-rules.md).

Exit status: 0 nothing differs that may not; 1 something does, there is nothing
to compare, or a file cannot be read.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			told.p = newPrinter(cmd)
			if opts.Rules, err = rulesOf(rules); err != nil {
				return err
			}
			if args[0] == stdStream && args[1] == stdStream {
				return errors.New("one of the traces at most is standard input")
			}
			a, err := openTrace(cmd, args[0], "")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, a.Close()) }()
			b, err := openTrace(cmd, args[1], "")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			sum, err := trace.Diff(a, b, opts, told.report)
			if err != nil {
				return err
			}
			return told.finish(sum, "")
		},
	}
	cmd.Flags().StringVar(&rules, "rules", "", "`FILE` of rules that say what may differ")
	cmd.Flags().BoolVar(&opts.Unredacted, "unredacted", false, "show PINs, keys and the results of AUTHENTICATE")
	told.addFlags(cmd)
	return cmd
}
