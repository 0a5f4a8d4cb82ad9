package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/pcsc"
)

// replaying is the flags of trace replay.
type replaying struct {
	bench
	emulator string
	rules    string
	record   string
	told     differences
}

func newTraceReplayCmd() *cobra.Command {
	var r replaying
	var keepGoing bool
	cmd := &cobra.Command{
		Use:   "replay {--reader NAME | --emulator IMAGE} FILE",
		Short: "Send a trace's commands to a card and compare what it answers",
		Long: `Sends the commands of a trace in any format to the card in a reader, or to an
emulated card, byte for byte, and tells of the first answer that differs and may
not (docs/trace-rules.md says what may). Commands of which bytes are redacted are
not sent. A session in which both sides drew random bytes does not go through a
second time: the card draws others.

--record FILE writes what passes now, differences and all, as a new golden file;
it may be the same file. Commands that are not sent are not in it.

Exit status: 0 nothing differs that may not, or it was recorded; 1 something
does, nothing could be compared, or the replay failed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.told.p = newPrinter(cmd)
			return r.run(cmd, args[0], keepGoing)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.emulator, "emulator", "", "replay on an emulated card of this card `IMAGE`, which stays as it is")
	r.addReaderFlags(f)
	r.onClose = pcsc.ResetCard
	f.StringVar(&r.rules, "rules", "", "`FILE` of rules that say what may differ")
	f.StringVar(&r.record, "record", "", "write what passes to this `FILE`")
	r.addUnredactedFlag(f)
	f.BoolVar(&keepGoing, "keep-going", false, "go on after what differs and may not")
	r.told.addFlags(cmd)
	return cmd
}

func (r *replaying) run(cmd *cobra.Command, file string, keepGoing bool) (err error) {
	if (r.reader == "") == (r.emulator == "") {
		return errors.New("say where to replay it: by --reader, or by --emulator and a card image")
	}
	p := trace.Replayer{Connect: r.openNow, KeepGoing: keepGoing || r.record != "", Unredacted: r.unredacted, Report: r.told.report}
	if p.Rules, err = rulesOf(r.rules); err != nil {
		return err
	}
	if r.emulator != "" {
		if p.Connect, err = r.emulated(); err != nil {
			return err
		}
	}
	in, err := openTrace(cmd, file, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	special := false
	if r.record != "" {
		if r.trace, special, err = destination(r.record); err != nil {
			return err
		}
	}
	to := r.trace
	if to != "" && !special {
		tmp, err := os.CreateTemp(filepath.Dir(to), ".replay-*.trace") // so that a replay that fails leaves what there is
		if err != nil {
			return err
		}
		tmp.Close()
		defer os.Remove(tmp.Name())
		r.trace = tmp.Name()
	}
	sum, err := p.Run(cmd.Context(), in)
	if err = errors.Join(err, r.close()); err != nil {
		return err
	}
	if r.recorder != nil && !special {
		if err := os.Rename(r.trace, to); err != nil {
			return err
		}
	}
	return r.told.finish(sum, r.record)
}

// emulated makes an emulated card, and gives what connects to it.
func (r *replaying) emulated() (func(context.Context) (apdu.Conn, error), error) {
	b, err := readFile(r.emulator)
	if err != nil {
		return nil, err
	}
	im, err := appletsim.ParseImage(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.emulator, err)
	}
	card, err := appletsim.New(im)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.emulator, err)
	}
	return func(context.Context) (apdu.Conn, error) {
		return r.bench.record(card.Connect(), trace.Header{Card: im.EID.String(), Origin: trace.Emulator})
	}, nil
}
