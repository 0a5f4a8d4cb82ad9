package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/interchange"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/explain"
	"github.com/cardbridge/cardbridge/card/keyfile"
)

// showing is the flags of trace show.
type showing struct {
	from   string
	html   string
	keys   []string
	source *keySource
}

func newTraceShowCmd() *cobra.Command {
	s := showing{source: newKeySource()}
	cmd := &cobra.Command{
		Use:   "show FILE…",
		Short: "Say in words what the APDUs of traces do",
		Long: `Says in words what every APDU of the traces does: the command, the file or the
application by name, data objects by name, the status word, the time it took.
The format of a FILE is recognised; - stands for standard input.

With the keys of the card protocol (docs/protocol.md) it opens what is under
secure messaging and says whether MACs and receipts verify:
  --keys CARD IMAGE                 opens M2, and with it the session
  --keys KEY SET --keys CARD RECORD opens M1: the card's proof, and no more
PINs, keys, results of AUTHENTICATE and decrypted nonces are never shown.

--html writes one page with a timeline, which needs nothing but itself; of a long
trace it has the first 5000 exchanges and then the failures. --json prints one
object for each session and each APDU, on a line of its own.

Exit status: 0 shown, maybe with warnings; 1 anything else.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&s.from, "from", "", "`FORMAT` of the files, where it is not recognised")
	f.StringVar(&s.html, "html", "", "write a page to this `FILE` instead")
	f.StringArrayVar(&s.keys, "keys", nil, "`FILE` with a key set, card image or card record whose keys open the sessions; may be repeated")
	s.source.addFlags(f)
	f.Bool("json", false, "print one JSON object for each session and each APDU, on one line; all else goes to standard error")
	return cmd
}

func (s *showing) run(cmd *cobra.Command, files []string) error {
	p := newPrinter(cmd)
	for _, name := range files {
		if err := differentFiles(name, s.html); err != nil {
			return err
		}
	}
	defer s.source.Close()
	keys, err := s.load(cmd.Context())
	if err != nil {
		return err
	}
	var to []explain.Renderer
	switch {
	case p.json:
		to = append(to, explain.NewJSON(p.out))
	case s.html == "":
		to = append(to, explain.NewText(p.out, p.colour))
	}
	show := func(to ...explain.Renderer) error {
		for _, name := range files {
			if err := s.file(cmd, name, len(files) > 1, keys, to); err != nil {
				return err
			}
		}
		return nil
	}
	if s.html == "" {
		err = show(to...)
	} else {
		err = writeBeside(s.html, func(w io.Writer) error {
			page := explain.NewHTML(w)
			return errors.Join(show(append(to, page)...), page.Close())
		})
	}
	for _, r := range to { // what was explained before an error is told
		err = errors.Join(err, r.Close())
	}
	return err
}

// load reads the keys; nil where there are none.
func (s *showing) load(ctx context.Context) (*explain.Keys, error) {
	if len(s.keys) == 0 {
		return nil, nil
	}
	keys := &explain.Keys{}
	for _, name := range s.keys {
		b, err := keyfile.ReadKeys(name)
		if err != nil {
			return nil, err
		}
		if set, err := cryptogram.ParseKeySet(b); err == nil && !inTheClear(set) {
			server, err := s.source.open(ctx, name, plainSoftware)
			if err != nil {
				return nil, err
			}
			if err := keys.AddServer(server); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		} else if err := keys.Add(b); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return keys, nil
}

// file shows one file; named says that its sessions have its name.
func (s *showing) file(cmd *cobra.Command, name string, named bool, keys *explain.Keys, to []explain.Renderer) (err error) {
	in, err := openTrace(cmd, name, interchange.Format(s.from))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	src := shown{Source: in, ctx: cmd.Context()}
	if named {
		src.name = name
	}
	warn := func(err error) { fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", in.name, err) }
	if err := explain.Show(src, keys, warn, to...); err != nil {
		return fmt.Errorf("%s: %w", in.name, err)
	}
	return nil
}

// shown is a source that ends with its context, and that has the name of its
// file, where it has one, in the titles of its sessions.
type shown struct {
	trace.Source
	ctx  context.Context
	name string
}

func (s shown) NextSession() (trace.Header, error) {
	h, err := s.Source.NextSession()
	switch {
	case s.name == "":
	case h.Title == "":
		h.Title = s.name
	default:
		h.Title = s.name + ": " + h.Title
	}
	return h, err
}

func (s shown) Next() (trace.Entry, error) {
	if err := s.ctx.Err(); err != nil {
		return trace.Entry{}, err
	}
	return s.Source.Next()
}
