package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/interchange"
)

func newTraceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "APDU traces: record, show, convert, compare, replay",
		Long: `Records, shows, converts, compares and replays APDU traces (docs/trace.md).
Traces of other tools are read too: their format is recognised. What is secret
is redacted in all that is written, unless --unredacted says otherwise.`,
	}
	cmd.AddCommand(newTraceRecordCmd(), newTraceShowCmd(), newTraceConvertCmd(), newTraceDiffCmd(), newTraceReplayCmd())
	return cmd
}

const stdStream = "-" // stands for standard input or output

// maxWarnings is how many warnings of one file are told.
const maxWarnings = 1000

// traceInput is a trace file, or standard input, in whatever format.
type traceInput struct {
	trace.Source
	Format interchange.Format

	name     string
	file     io.ReadCloser
	err      io.Writer // gets warnings as they come; nil for none
	warnings []warning
	more     int // warnings that are not among them
}

// warning is one of a reader's as --json has it.
type warning struct {
	Line   int    `json:"line,omitempty"`
	Packet int    `json:"packet,omitempty"`
	Reason string `json:"reason"`
}

// openTrace opens a trace in the format of that name, or in the one that it is
// recognised to have.
func openTrace(cmd *cobra.Command, name string, format interchange.Format) (*traceInput, error) {
	in := &traceInput{name: printable(name), file: io.NopCloser(cmd.InOrStdin()), err: cmd.ErrOrStderr(), Format: format}
	if name != stdStream {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", in.name, reasonOf(err))
		}
		in.file = f
	}
	var err error
	if format != "" {
		in.Source, err = interchange.NewSource(format, in.file, in.warn)
	} else {
		in.Source, in.Format, err = interchange.Open(in.file, in.warn)
	}
	if err != nil {
		in.file.Close()
		return nil, fmt.Errorf("%s: %w", in.name, err)
	}
	return in, nil
}

// printable is a file's name without what would tell a terminal what to do.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, name)
}

// reasonOf is why a file cannot be opened, without its name.
func reasonOf(err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}

func (in *traceInput) warn(w interchange.Warning) {
	if len(in.warnings) == maxWarnings {
		in.more++
		return
	}
	in.warnings = append(in.warnings, warning(w))
	fmt.Fprintf(in.err, "%s: %s\n", in.name, w)
}

// Close closes the file.
func (in *traceInput) Close() error {
	if in.more > 0 {
		fmt.Fprintf(in.err, "%s: %s\n", in.name, many(in.more, "more warning", "more warnings"))
	}
	return in.file.Close()
}

// differentFiles fails where out, which will be written, is the file in, which is
// still to be read.
func differentFiles(in, out string) error {
	a, err := os.Stat(in)
	if err != nil || in == stdStream {
		return nil // whoever opens it tells
	}
	if b, err := os.Stat(out); err == nil && a.Mode().IsRegular() && os.SameFile(a, b) {
		return fmt.Errorf("%s would be written over while it is read", in)
	}
	return nil
}

// rulesOf reads --rules; nil, the built-in ones, where it is not given.
func rulesOf(file string) (*trace.Rules, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rules, err := trace.ParseRules(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return rules, nil
}

// differenceJSON is a difference as --json has it.
type differenceJSON struct {
	Verdict trace.Verdict `json:"verdict"`
	A       *exchangeJSON `json:"a,omitempty"`
	B       *exchangeJSON `json:"b,omitempty"`
	Fields  []fieldJSON   `json:"fields,omitempty"`
}

type exchangeJSON struct {
	Session int    `json:"session,omitempty"`
	Line    int    `json:"line,omitempty"`
	Command string `json:"command,omitempty"`
	Answer  string `json:"answer,omitempty"`
}

type fieldJSON struct {
	What string   `json:"what"`
	A    spanJSON `json:"a"`
	B    spanJSON `json:"b"`
	May  bool     `json:"may_differ"`
	Rule string   `json:"rule,omitempty"`
}

// spanJSON is bytes of a command or an answer, the one at To excluded.
type spanJSON struct {
	From int `json:"from"`
	To   int `json:"to"`
}

func differenceOf(d trace.Difference) differenceJSON {
	out := differenceJSON{Verdict: d.Verdict, A: exchangeOf(d.A), B: exchangeOf(d.B)}
	for _, f := range d.Fields {
		out.Fields = append(out.Fields, fieldJSON{f.What, spanJSON(f.A), spanJSON(f.B), f.May(), f.Rule})
	}
	return out
}

func exchangeOf(x trace.Exchange) *exchangeJSON {
	if x.Command.Kind == 0 && x.Answer.Kind == 0 {
		return nil
	}
	return &exchangeJSON{x.Session, x.Line(), x.Command.Content(), x.Answer.Content()}
}

// differences is what comparing came to: those that are to be told, and how many
// there were.
type differences struct {
	p     *printer
	all   bool // tell of equal exchanges too
	may   bool // tell of what differs and may
	limit int  // differences at most; 0 for no limit
	list  []differenceJSON
	more  int
}

func (ds *differences) report(d trace.Difference) error {
	switch {
	case d.Verdict == trace.Same && !ds.all, d.Verdict == trace.May && !ds.all && !ds.may:
		return nil
	case ds.limit > 0 && len(ds.list) == ds.limit:
		ds.more++
		return nil
	}
	if ds.p.json {
		ds.list = append(ds.list, differenceOf(d))
		return nil
	}
	if ds.limit > 0 {
		ds.list = append(ds.list, differenceJSON{})
	}
	for line := range strings.Lines(d.String()) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "  - "):
			line = ds.p.paint(red, line)
		case strings.HasPrefix(line, "  + "):
			line = ds.p.paint(green, line)
		case strings.HasSuffix(line, ")"):
			line = ds.p.paint(yellow, line)
		}
		if _, err := fmt.Fprintln(ds.p.out, line); err != nil {
			return err
		}
	}
	return nil
}

// comparedJSON is the end of a comparison as --json has it.
type comparedJSON struct {
	Outcome string `json:"outcome"`
	trace.Summary
	Differences []differenceJSON `json:"differences"`
	More        int              `json:"more,omitempty"` // differences beyond the limit
	Recorded    string           `json:"recorded,omitempty"`
}

// Outcomes of a comparison.
const (
	outcomeSame      = "same"
	outcomeDifferent = "different"
)

// finish tells what it came to, and gives the program's exit status.
func (ds *differences) finish(sum trace.Summary, recorded string) error {
	if sum.Same+sum.May+sum.Different+sum.Missing+sum.Extra == 0 {
		return fmt.Errorf("nothing was compared: no exchange, and %d skipped", sum.Skipped)
	}
	res := comparedJSON{Outcome: outcomeSame, Summary: sum, Differences: ds.list, More: ds.more, Recorded: recorded}
	colour := green
	if !sum.Equal() {
		res.Outcome, colour = outcomeDifferent, red
	}
	if ds.p.json {
		if res.Differences == nil {
			res.Differences = []differenceJSON{}
		}
		if err := ds.p.object(res); err != nil {
			return err
		}
	} else {
		if ds.more > 0 {
			fmt.Fprintf(ds.p.out, "… and %d more\n", ds.more)
		}
		fmt.Fprintf(ds.p.out, "%s: %d same, %d differ where they may, %d different, %d missing, %d extra, %d skipped\n",
			ds.p.paint(colour, res.Outcome), sum.Same, sum.May, sum.Different, sum.Missing, sum.Extra, sum.Skipped)
		ds.p.field("recorded", recorded)
	}
	if !sum.Equal() && recorded == "" {
		return exitStatus(exitError)
	}
	return nil
}

// addFlags is how much is told.
func (ds *differences) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&ds.may, "may", false, "tell of what differs and may, too")
	cmd.Flags().BoolVar(&ds.all, "all", false, "tell of every exchange")
	cmd.Flags().IntVar(&ds.limit, "limit", 1000, "tell of so many exchanges at most; 0: all, which --json keeps in memory")
	addJSONFlag(cmd)
}
