package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/cardbridge/cardbridge/server/audit"
	"github.com/cardbridge/cardbridge/server/store"
)

// verifying is the flags of audit verify.
type verifying struct {
	recordFlags
	file string
	keys []string
	kept []string
}

// verifiedJSON is what audit verify prints.
type verifiedJSON struct {
	Whole bool `json:"whole"`
	audit.Report
}

func newAuditVerifyCmd() *cobra.Command {
	var v verifying
	cmd := &cobra.Command{
		Use:   "verify {--data DIR | --store URL | --file FILE} [--key LINE]... [--checkpoint FILE]...",
		Short: "Prove that nothing in an audit trail was removed or changed",
		Long: `Proves, of a server's record or of an export of its audit trail, that nothing was
removed, changed or put in up to the last checkpoint, that servers whose keys are
trusted signed all checkpoints, and that each recorded outcome has the signature
of its card; of a record also that its requests and cards are as the trail says
(docs/audit.md says what is proven, and what is not). It needs no server.

--key is a verifier line as audit key prints it, or a file of such lines; give one
for each server that wrote the record. Without it the key in the data directory
is trusted.

Whoever can write in the record can cut off its end, checkpoints and all. A
checkpoint that was kept elsewhere shows it: --checkpoint takes a file with one,
or a server's log, of which it takes the last one.

  cardbridge audit verify --data ./data
  cardbridge audit verify --file trail.jsonl --key servers.keys --checkpoint server.log`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return v.run(cmd) },
	}
	v.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&v.file, "file", "", "verify this `FILE`, an export; - is standard input")
	f.StringArrayVar(&v.keys, "key", nil, "verifier `LINE` of a server's key, or a file of them; may be given again")
	f.StringArrayVar(&v.kept, "checkpoint", nil, "`FILE` with a checkpoint that was kept, such as a server's log; may be given again")
	addJSONFlag(cmd)
	return cmd
}

func (v *verifying) run(cmd *cobra.Command) error {
	if v.file != "" && (v.data != "" || v.store != "") {
		return errors.New("--file is an export, --data and --store are a record: give one of them")
	}
	trusted, err := v.trusted()
	if err != nil {
		return err
	}
	var kept []string
	for _, path := range v.kept {
		c, err := readCheckpoint(path)
		if err != nil {
			return err
		}
		kept = append(kept, c)
	}
	check, err := audit.NewVerifier(trusted, kept...)
	if err != nil {
		return err
	}
	defer check.Close()
	var report audit.Report
	if v.file != "" {
		report, err = v.export(cmd, check)
	} else {
		err = v.withTrail(cmd, func(t *store.Trail, progress func()) (err error) {
			report, err = t.Verify(check, progress)
			return err
		})
	}
	if err != nil {
		return err
	}
	return newPrinter(cmd).verified(report, v.file == "")
}

// trusted are the keys that the user trusts, or the one in the data directory.
func (v *verifying) trusted() (note.Verifiers, error) {
	var lines []string
	for _, k := range v.keys {
		if strings.Count(k, "+") >= 2 {
			lines = append(lines, k)
			continue
		}
		b, err := readFile(k)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		lines = append(lines, strings.Fields(string(b))...)
	}
	if len(v.keys) == 0 && v.data != "" {
		key, err := auditKeyOf(v.data)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			lines = append(lines, key.Verifier())
		}
	}
	if len(lines) == 0 {
		return nil, errors.New("whose checkpoints are trusted? Give --key with the line that audit key prints on each server's machine")
	}
	return audit.Trust(lines...)
}

// export verifies an export of the trail.
func (v *verifying) export(cmd *cobra.Command, check *audit.Verifier) (audit.Report, error) {
	in := cmd.InOrStdin()
	if v.file != "-" {
		f, err := os.Open(v.file)
		if err != nil {
			return audit.Report{}, err
		}
		defer f.Close()
		in = f
	}
	progress := newPrinter(cmd).counting()
	for r := audit.NewReader(in); ; {
		l, err := r.Next()
		var syntax *audit.SyntaxError
		switch {
		case errors.Is(err, io.EOF):
			return check.End(), nil
		case errors.As(err, &syntax):
			return check.Fail(syntax), nil
		case err != nil:
			return audit.Report{}, err
		}
		if err := check.Add(l); err != nil {
			return audit.Report{}, err
		}
		progress()
	}
}

// verified prints a report. One with problems is an error.
func (p *printer) verified(r audit.Report, record bool) error {
	if p.json {
		if err := p.object(verifiedJSON{r.Found == 0, r}); err != nil {
			return err
		}
		if r.Found > 0 {
			return exitStatus(exitError)
		}
		return nil
	}
	for _, problem := range r.Problems {
		fmt.Fprintf(p.out, "%s %s\n", p.paint(red, "✗"), problem)
	}
	if more := r.Found - int64(len(r.Problems)); more > 0 {
		fmt.Fprintf(p.out, "  and %d more\n", more)
	}
	p.field("events", fmt.Sprintf("%d in %s, %d from before there were chains", r.Events, many(r.Chains, "chain", "chains"), r.Earlier))
	p.field("checkpoints", strconv.FormatInt(r.Checkpoints, 10))
	if r.CheckedUntil != nil {
		p.field("the last is of", fmt.Sprintf("%s; %s after it, not proven yet", r.CheckedUntil.Local().Format(time.RFC3339), many(r.Unproven, "event", "events")))
	}
	p.field("receipts", fmt.Sprintf("%d of cards, verified; %s of plain eUICCs, which give none", r.Receipts, many(r.NoReceipts, "outcome", "outcomes")))
	if r.UnknownCards > 0 {
		p.field("not checked", many(r.UnknownCards, "outcome", "outcomes")+" of cards that were registered before the trail had their keys")
	}
	if record {
		p.field("requests", fmt.Sprintf("%d in the record", r.Requests))
	}
	if r.Found > 0 {
		return fmt.Errorf("the audit trail is not whole: %s. Leave the record, its backups and the logs as they are; "+
			"a backup from before, or an export, that verifies shows what was changed", many(r.Found, "problem", "problems"))
	}
	_, err := fmt.Fprintf(p.out, "%s\n", p.paint(green, "the audit trail is whole"))
	return err
}

// readCheckpoint is the checkpoint in a file, or the last one in a log.
func readCheckpoint(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	const begins = `"` + audit.CheckpointTitle + `\n`
	last, first := "", true
	for in := bufio.NewReaderSize(f, 1<<20); ; first = false {
		line, err := in.ReadString('\n')
		if first && strings.TrimSuffix(line, "\n") == audit.CheckpointTitle {
			rest, rerr := io.ReadAll(io.LimitReader(in, 1<<20))
			return line + string(rest), rerr
		}
		if at := strings.Index(line, begins); at >= 0 {
			if quoted, qerr := strconv.QuotedPrefix(line[at:]); qerr == nil {
				if text, qerr := strconv.Unquote(quoted); qerr == nil {
					last = text
				}
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return "", err
		case last == "":
			return "", fmt.Errorf("%s: no checkpoint is in it, as a server logs one (audit checkpoint note=…)", path)
		default:
			return last, nil
		}
	}
}
