package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
)

func newNewCommand() *cobra.Command {
	var number int
	var keyset, record string
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Make a card image with the public test keys",
		Long: `Makes the card image of a test card, at once: its keys, and those of the server
that it knows, are public test keys, which protect nothing. cardbridge card new
makes a card with keys of its own. No file is overwritten.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if number < 0 || number >= testcard.Max {
				return fmt.Errorf("%w: --number %d: 0 to %d wanted", errUsage, number, testcard.Max-1)
			}
			im := testcard.Image(number)
			image, err := im.Marshal()
			if err != nil {
				return err
			}
			registers, err := im.Record()
			if err != nil {
				return err
			}
			set, err := json.MarshalIndent(testkeys.Server(), "", "  ")
			if err != nil {
				return err
			}
			var made []string
			for _, f := range []struct {
				path string
				b    []byte
				mode os.FileMode
			}{{args[0], image, 0o600}, {keyset, append(set, '\n'), 0o600}, {record, registers, 0o644}} {
				if f.path == "" {
					continue
				}
				if err := writeNew(f.path, f.b, f.mode); err != nil {
					for _, path := range made {
						err = errors.Join(err, os.Remove(path)) // all or none
					}
					return err
				}
				made = append(made, f.path)
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "warning:", testkeys.Warning)
			if asJSON(cmd) {
				return printJSON(cmd, map[string]any{"eid": im.EID, "image": args[0], "keyset": keyset, "record": record, "profiles": im.Profiles})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "EID %s\n", im.EID)
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&number, "number", 0, "the `N`-th test card, from 0: each has an EID and ICCIDs of its own")
	f.StringVar(&keyset, "keyset", "", "write the server's key set, with private keys, to this `FILE` too")
	f.StringVar(&record, "record", "", "write the card record to this `FILE` too")
	addJSONFlag(cmd)
	return cmd
}

// writeNew makes a file that must not exist yet.
func writeNew(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path) // half a file is none
	}
	return err
}

func newInspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what is in a card image, secrets excepted",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			im, err := readImage(args[0])
			if err != nil {
				return err
			}
			fields, err := im.Fields()
			if err != nil {
				return err
			}
			if asJSON(cmd) {
				return printJSON(cmd, map[string]any{"file": args[0], "fields": fields})
			}
			inspect(cmd.OutOrStdout(), im, fields)
			if keys, err := im.Keys.Private(); err == nil && testkeys.Known(keys.Public()) {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", testkeys.Warning)
			}
			return nil
		},
	}
	addJSONFlag(cmd)
	return cmd
}

// inspect prints the profiles as a table, and everything else line by line.
func inspect(out io.Writer, im *appletsim.Image, fields []appletsim.Field) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "ICCID\tSTATE\tCLASS\tOWNER\tPROVIDER\tNAME\tRULES")
	for _, p := range im.Profiles {
		var rules []string
		for word, on := range map[string]bool{"ppr1": p.PPR1, "ppr2": p.PPR2, "fallback": p.Fallback} {
			if on {
				rules = append(rules, word)
			}
		}
		slices.Sort(rules)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ICCID, p.State, p.Class, p.Owner, printable(p.Provider), printable(p.Name), strings.Join(rules, " "))
	}
	w.Flush()
	fmt.Fprintln(w)
	for _, f := range fields {
		if strings.HasPrefix(f.Path, "profiles[") {
			continue
		}
		value := printable(f.Value)
		if f.Secret {
			value = "secret"
		}
		fmt.Fprintf(w, "%s\t%s\n", f.Path, value)
	}
}

func newDiffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what differs between two card images, secrets as changed",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readImage(args[0])
			if err != nil {
				return err
			}
			b, err := readImage(args[1])
			if err != nil {
				return err
			}
			changes, err := appletsim.Diff(a, b)
			if err != nil {
				return err
			}
			if asJSON(cmd) {
				return printJSON(cmd, map[string]any{"a": args[0], "b": args[1], "changes": append([]appletsim.Change{}, changes...)})
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, c := range changes {
				fmt.Fprintf(w, "%s\t%s\n", c.Path, describe(c))
			}
			return w.Flush()
		},
	}
	addJSONFlag(cmd)
	return cmd
}

// describe tells a change in words.
func describe(c appletsim.Change) string {
	switch {
	case c.Secret && c.Before == nil:
		return "new"
	case c.Secret && c.After == nil:
		return "gone"
	case c.Secret:
		return "changed"
	case c.Before == nil:
		return "new: " + printable(*c.After)
	case c.After == nil:
		return "gone: " + printable(*c.Before)
	}
	return printable(*c.Before) + " → " + printable(*c.After)
}

// printable is text of a card image without what would drive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7F && r < 0xA0 {
			return '·'
		}
		return r
	}, s)
}

// readImage reads a card image file, no more of it than shows that it is too
// long.
func readImage(path string) (*appletsim.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxImage))
	if err != nil {
		return nil, err
	}
	im, err := appletsim.ParseImage(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return im, nil
}

func addJSONFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "print one JSON object on one line")
}

func asJSON(cmd *cobra.Command) bool {
	on, _ := cmd.Flags().GetBool("json")
	return on
}

func printJSON(cmd *cobra.Command, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
	return err
}
