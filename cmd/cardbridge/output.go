package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// printer writes what a command has to say: one JSON object on one line of
// standard output with --json, tables and words in colour in a terminal, plain
// words in a pipe.
type printer struct {
	out, err io.Writer
	json     bool
	colour   bool
}

func newPrinter(cmd *cobra.Command) *printer {
	p := &printer{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
	p.json, _ = cmd.Flags().GetBool("json")
	if f, ok := p.out.(*os.File); ok {
		p.colour = !p.json && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd()))
	}
	return p
}

func addJSONFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "print one JSON object on one line; all else goes to standard error")
}

// object prints v on one line.
func (p *printer) object(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", b)
	return err
}

// many is a number of things: 1 breaker, 2 breakers.
func many[N int | int64](n N, one, more string) string {
	if n == 1 {
		more = one
	}
	return fmt.Sprint(n, " ", more)
}

// step tells what happens while it does, on standard error.
func (p *printer) step(format string, args ...any) {
	fmt.Fprintf(p.err, "  … "+format+"\n", args...)
}

// table prints rows under a header, aligned.
func (p *printer) table(header string, rows [][]string) {
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(header, "|", "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
}

// field prints one name and value; an empty value prints nothing.
func (p *printer) field(name, value string) {
	if value != "" {
		fmt.Fprintf(p.out, "%-16s %s\n", name, value)
	}
}

const (
	green  = "32"
	red    = "31"
	yellow = "33"
)

// paint colours s where the output is a terminal.
func (p *printer) paint(colour, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}
