package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/interchange"
)

// converting is the flags of trace convert.
type converting struct {
	from, to   string
	unredacted bool
}

func newTraceConvertCmd() *cobra.Command {
	var c converting
	cmd := &cobra.Command{
		Use:   "convert IN OUT",
		Short: "Write a trace in another format",
		Long: fmt.Sprintf(`Reads a trace in whatever format, recognised unless --from names it, and writes
it to OUT in the format of --to, or else of OUT's ending; any other ending is
trace. - stands for standard input and output. What is not understood is left out, with a warning that names
the line. Secrets are redacted unless --unredacted is given.

Formats read:    %s
Formats written: %s

Exit status: 0 written, maybe with warnings; 1 anything else.`, names(interchange.Formats()), names(interchange.SinkFormats())),
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0], args[1]) },
	}
	f := cmd.Flags()
	f.StringVar(&c.from, "from", "", "`FORMAT` of IN, where it is not recognised")
	f.StringVar(&c.to, "to", "", "`FORMAT` of OUT")
	f.BoolVar(&c.unredacted, "unredacted", false, "leave PINs, keys and the results of AUTHENTICATE in")
	addJSONFlag(cmd)
	return cmd
}

func names(formats []interchange.Format) string {
	var out []string
	for _, f := range formats {
		out = append(out, string(f))
	}
	return strings.Join(out, ", ")
}

func (c *converting) run(cmd *cobra.Command, from, to string) (err error) {
	p := newPrinter(cmd)
	if p.json && to == stdStream {
		return errors.New("--json and a trace on standard output do not go together: name a file")
	}
	in, err := openTrace(cmd, from, interchange.Format(c.from))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	format, err := c.format(to)
	if err != nil {
		return err
	}
	var sessions, entries int
	write := func(w io.Writer) error {
		buffered := bufio.NewWriterSize(w, 64<<10)
		sink, err := interchange.NewSink(format, buffered)
		if err != nil {
			return err
		}
		out := &redacting{Sink: sink, clear: c.unredacted}
		err = trace.Copy(out, in)
		sessions, entries = out.sessions, out.entries
		if err == nil && entries == 0 && len(in.warnings) > 0 {
			err = fmt.Errorf("%s: nothing of it was understood as %s", in.name, in.Format)
		}
		return errors.Join(err, sink.Close(), buffered.Flush())
	}
	if to == stdStream {
		err = write(cmd.OutOrStdout())
	} else {
		err = writeBeside(to, write)
	}
	if err != nil {
		return err
	}
	if p.json {
		return p.object(struct {
			Outcome  string             `json:"outcome"`
			From     interchange.Format `json:"from"`
			To       interchange.Format `json:"to"`
			Sessions int                `json:"sessions"`
			Entries  int                `json:"entries"`
			Redacted bool               `json:"redacted"`
			Warnings []warning          `json:"warnings,omitempty"`
			More     int                `json:"more_warnings,omitempty"`
		}{"done", in.Format, format, sessions, entries, !c.unredacted, in.warnings, in.more})
	}
	fmt.Fprintf(p.err, "%s, %s: %s, %s to %s\n", in.name, in.Format, many(sessions, "session", "sessions"), many(entries, "entry", "entries"), format)
	return nil
}

// format is that of a file to write: by --to, or by its ending.
func (c *converting) format(file string) (interchange.Format, error) {
	if c.to != "" {
		return interchange.Format(c.to), nil
	}
	ending := interchange.Format(strings.ToLower(strings.TrimPrefix(filepath.Ext(file), ".")))
	switch {
	case slices.Contains(interchange.SinkFormats(), ending):
		return ending, nil
	case slices.Contains(interchange.Formats(), ending):
		return "", fmt.Errorf("%s: %s is read, not written: name another ending, or the format by --to", file, ending)
	}
	return interchange.Trace, nil
}

// redacting is a Sink that gets no secrets, and counts.
type redacting struct {
	trace.Sink
	clear             bool
	redactor          trace.Redactor
	sessions, entries int
}

func (r *redacting) Begin(h trace.Header) error {
	r.sessions++
	r.redactor = trace.Redactor{}
	h.Redacted = h.Redacted || !r.clear
	return r.Sink.Begin(h)
}

func (r *redacting) Write(e trace.Entry) error {
	r.entries++
	if !r.clear {
		e = r.redactor.Redact(e)
	}
	return r.Sink.Write(e)
}

// writeBeside writes a file that takes its place once it is whole, for this user
// alone; what is no file, a pipe or a device, it writes into.
func writeBeside(name string, write func(io.Writer) error) error {
	name, special, err := destination(name)
	if err != nil {
		return err
	}
	if special {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // where it is still there
	if err := errors.Join(write(tmp), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// destination is where a file of this name goes, symbolic links followed. Special
// is what is there and must not be replaced: a pipe, a device.
func destination(name string) (to string, special bool, err error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return name, false, nil
	case err != nil:
		return "", false, err
	case info.IsDir():
		return "", false, fmt.Errorf("%s is a folder", name)
	case !info.Mode().IsRegular():
		return name, true, nil
	}
	to, err = filepath.EvalSymlinks(name)
	return to, false, err
}
