package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/pcsc"
)

func newTraceRecordCmd() *cobra.Command {
	var b bench
	var script string
	cmd := &cobra.Command{
		Use:   "record --reader NAME FILE [-- HEX…]",
		Short: "Send commands to a card and record what passes",
		Long: `Sends commands to the card in a reader, byte for byte, and records them and what
it answers in FILE (docs/trace.md). The commands are the arguments, or those of
--script: a trace in any format, of which the answers do not matter, or what
scriptor takes, one command a line in hexadecimal and the word reset. - is
standard input.

Other commands record what they do by their flag --trace, a server by its own.

Exit status: 0 all was sent and answered, by whatever status words; 1 anything
else, and FILE has what passed until then.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			p := newPrinter(cmd)
			if err := differentFiles(script, args[0]); err != nil {
				return err
			}
			src, err := commandsOf(cmd, args[1:], script)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, src.Close()) }()
			b.trace = args[0]
			conn, err := b.openNow(cmd.Context())
			if err != nil {
				return err
			}
			rec := recording{ctx: cmd.Context(), p: p, conn: conn, unredacted: b.unredacted}
			if err := errors.Join(rec.send(src), conn.Close(), b.close()); err != nil {
				return err
			}
			if p.json {
				return p.object(struct {
					Outcome  string `json:"outcome"`
					Commands int    `json:"commands"`
					Trace    string `json:"trace"`
				}{"done", rec.commands, b.trace})
			}
			return nil
		},
	}
	b.onClose = pcsc.ResetCard
	b.addReaderFlags(cmd.Flags())
	b.addUnredactedFlag(cmd.Flags())
	cmd.Flags().StringVar(&b.title, "title", "", "`TEXT` for the trace's header: what it shows")
	cmd.Flags().StringVar(&script, "script", "", "take the commands from this `FILE`, - for standard input")
	addJSONFlag(cmd)
	return cmd
}

// commands is a Source that is closed.
type commands interface {
	trace.Source
	io.Closer
}

// commandsOf is the commands to send: those of the command line, or of a script.
func commandsOf(cmd *cobra.Command, args []string, script string) (commands, error) {
	switch {
	case script != "" && len(args) > 0:
		return nil, errors.New("commands as arguments and --script do not go together")
	case script != "":
		return openTrace(cmd, script, "")
	case len(args) == 0:
		return nil, errors.New("nothing to send: give commands after --, or --script")
	}
	list := &trace.Trace{}
	for i, a := range args {
		b, err := parseAPDU(a)
		if err != nil {
			return nil, fmt.Errorf("APDU %d: %w", i+1, err)
		}
		list.Entries = append(list.Entries, trace.Entry{Kind: trace.Command, Data: b})
	}
	return struct {
		trace.Source
		io.Closer
	}{trace.Sessions(list), io.NopCloser(nil)}, nil
}

// parseAPDU takes a command in hexadecimal, with spaces and colons as one likes.
func parseAPDU(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(s))
	if err != nil {
		return nil, err // without the text, which may have a PIN
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("%d bytes, a command has 4 or more", len(b))
	}
	return b, nil
}

// recording sends commands to a card.
type recording struct {
	ctx        context.Context
	p          *printer
	conn       apdu.Conn // recorded
	unredacted bool
	commands   int
	redactor   trace.Redactor
}

// send sends the commands of all sessions; each but the first begins with a
// reset.
func (r *recording) send(src trace.Source) error {
	for n := 0; ; n++ {
		switch _, err := src.NextSession(); {
		case errors.Is(err, io.EOF) && r.commands == 0:
			return errors.New("there is no command in it")
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if n > 0 {
			if err := r.reset(); err != nil {
				return err
			}
		}
		for {
			e, err := src.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = r.entry(e)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (r *recording) entry(e trace.Entry) error {
	switch {
	case e.Kind == trace.Event && e.Name == trace.Reset:
		return r.reset()
	case e.Kind != trace.Command:
		return nil
	case len(e.Mask) > 0:
		return fmt.Errorf("line %d: bytes of the command are redacted", e.Line)
	}
	r.commands++
	r.tell(e)
	rapdu, err := r.conn.Transmit(r.ctx, e.Data)
	if err != nil {
		return err
	}
	r.tell(trace.Entry{Kind: trace.Response, Data: rapdu})
	return nil
}

func (r *recording) reset() error {
	if err := r.conn.Reset(r.ctx); err != nil {
		return err
	}
	r.tell(trace.Entry{Kind: trace.Event, Name: trace.Reset, Data: r.conn.ATR()})
	return nil
}

// tell shows an entry as its line has it.
func (r *recording) tell(e trace.Entry) {
	if r.p.json {
		return
	}
	if !r.unredacted {
		e = r.redactor.Redact(e)
	}
	words := ""
	if _, sw, err := apdu.ParseResponse(e.Data); e.Kind == trace.Response && err == nil && len(e.Mask) == 0 {
		words = "  # " + sw.String()
	}
	fmt.Fprintf(r.p.out, "%c %s%s\n", e.Kind, strings.TrimSpace(e.Name+" "+e.Content()), words)
}
