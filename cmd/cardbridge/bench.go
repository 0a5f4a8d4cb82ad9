package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// bench is how the bench tools reach a card: the flags that they share.
type bench struct {
	reader    string
	trace     string
	protocol  string
	exclusive bool
	wait      time.Duration
	onClose   pcsc.Disposition // what becomes of the card afterwards

	traceFile *os.File
	recorder  *trace.Recorder
}

func (b *bench) addFlags(f *pflag.FlagSet) {
	f.StringVar(&b.reader, "reader", "", "reader by name, or by a part of it that only one reader has (see cardbridge reader list)")
	f.StringVar(&b.trace, "trace", "", "write the APDUs to this file as a text trace (docs/trace.md)")
	f.StringVar(&b.protocol, "protocol", "any", "transmission protocol: T=0, T=1 or any")
	f.BoolVar(&b.exclusive, "exclusive", false, "keep other programs off the card meanwhile")
	f.DurationVar(&b.wait, "wait", 10*time.Second, "how long to wait for the card to be there or to come back")
}

// open waits for a card in the reader and connects to it. It records the APDUs
// where --trace says so.
func (b *bench) open(ctx context.Context) (apdu.Conn, error) {
	if b.reader == "" {
		return nil, errors.New("say which reader by --reader; cardbridge reader list shows them")
	}
	opts := pcsc.Options{Mode: reader.Shared, OnClose: b.onClose, MaxWait: maxAnswer}
	if b.exclusive {
		opts.Mode = reader.Exclusive
	}
	switch strings.ToUpper(b.protocol) {
	case "ANY", "":
	case "T=0", "T0":
		opts.Protocol = pcsc.T0
	case "T=1", "T1":
		opts.Protocol = pcsc.T1
	default:
		return nil, fmt.Errorf("protocol %q is none of T=0, T=1, any", b.protocol)
	}
	conn, name, err := connect(ctx, b.reader, opts)
	if err != nil {
		return nil, err
	}
	if b.trace == "" {
		return conn, nil
	}
	if b.recorder == nil {
		if b.traceFile, err = os.OpenFile(b.trace, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			conn.Close()
			return nil, err
		}
		b.recorder = trace.NewRecorder(b.traceFile, trace.Header{Reader: name, Origin: origin(name), Date: time.Now()})
	}
	return b.recorder.Wrap(conn), nil
}

// origin of a trace taken in a reader: vpcd's readers hold emulated cards.
func origin(reader string) trace.Origin {
	if strings.HasPrefix(reader, "Virtual PCD") {
		return trace.Emulator
	}
	return trace.Hardware
}

// connect waits for a card in the reader, and for its turn where another program
// holds the card, and keeps others from it until the connection is closed: one
// SELECT of theirs would end a session.
func connect(ctx context.Context, name string, opts pcsc.Options) (*pcsc.Conn, string, error) {
	source := pcsc.New()
	powered := false
	var inTheWay error
	failed := func(err error) (*pcsc.Conn, string, error) {
		if ctx.Err() != nil && inTheWay != nil {
			err = inTheWay // what was waited for tells more than that the time is over
		}
		return nil, "", err
	}
	for {
		r, err := source.WaitCard(ctx, name)
		if err != nil {
			return failed(err)
		}
		conn, err := source.Connect(ctx, r.Name, opts)
		if err == nil {
			if err = conn.Begin(ctx); err == nil {
				return conn, r.Name, nil
			}
			conn.Close()
		}
		switch {
		case errors.Is(err, pcsc.CodeProtoMismatch) && !powered:
			// The card speaks another protocol since it was powered; only
			// without power it forgets.
			perr := powerOff(ctx, r.Name)
			if perr == nil {
				powered = true
				continue
			}
			if !errors.Is(perr, apdu.ErrCardBusy) {
				return failed(perr)
			}
			inTheWay = fmt.Errorf("another program uses the card in reader %q by another protocol: end it, or use --protocol any: %w", r.Name, err)
		case errors.Is(err, apdu.ErrCardBusy):
			inTheWay = err
		default:
			return failed(err)
		}
		select {
		case <-time.After(busyRetry):
		case <-ctx.Done():
			return failed(err)
		}
	}
}

// powerOff takes the power from a card, whatever protocol it speaks, where no
// other program is connected to it: the error matches apdu.ErrCardBusy else.
func powerOff(ctx context.Context, name string) error {
	conn, err := pcsc.New().Connect(ctx, name, pcsc.Options{Mode: reader.Exclusive, OnClose: pcsc.UnpowerCard})
	if err != nil {
		return err
	}
	return conn.Close()
}

// maxAnswer is how long a card may take for one APDU: a slow one needs some
// seconds for three RSA-4096 operations.
const maxAnswer = 20 * time.Second

const busyRetry = 100 * time.Millisecond

// openNow is open for a command that has no recovery of its own.
func (b *bench) openNow(ctx context.Context) (apdu.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	return b.open(ctx)
}

// close ends the trace.
func (b *bench) close() error {
	if b.recorder == nil {
		return nil
	}
	return errors.Join(b.recorder.Err(), b.traceFile.Close())
}

func newReaderCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "reader", Short: "Card readers"}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the PC/SC readers and what is in them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newPrinter(cmd)
			readers, err := pcsc.New().Readers(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				if readers == nil {
					readers = []reader.Reader{}
				}
				return p.object(struct {
					Readers []readerJSON `json:"readers"`
				}{readersJSON(readers)})
			}
			if len(readers) == 0 {
				fmt.Fprintln(p.out, "no readers: plug one in, or attach an emulated card by applet-sim to a virtual one")
				return nil
			}
			var rows [][]string
			for _, r := range readers {
				state := "empty"
				switch {
				case r.Card && r.Mute:
					state = "card, mute"
				case r.Card && r.Exclusive:
					state = "card, in exclusive use"
				case r.Card && r.InUse:
					state = "card, in use"
				case r.Card:
					state = "card"
				}
				rows = append(rows, []string{r.Name, state, fmt.Sprintf("%X", r.ATR)})
			}
			p.table("READER|STATE|ATR", rows)
			return nil
		},
	}
	addJSONFlag(list)
	cmd.AddCommand(list)
	return cmd
}

type readerJSON struct {
	Name      string `json:"name"`
	Card      bool   `json:"card"`
	ATR       string `json:"atr,omitempty"`
	Mute      bool   `json:"mute,omitempty"`
	InUse     bool   `json:"in_use,omitempty"`
	Exclusive bool   `json:"exclusive,omitempty"`
}

func readersJSON(readers []reader.Reader) []readerJSON {
	out := make([]readerJSON, len(readers))
	for i, r := range readers {
		out[i] = readerJSON{r.Name, r.Card, fmt.Sprintf("%X", r.ATR), r.Mute, r.InUse, r.Exclusive}
	}
	return out
}

func newAPDUCmd() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "apdu --reader NAME HEX…",
		Short: "Send command APDUs as they are and print the responses",
		Long: `Sends each argument to the card as one command APDU, byte for byte, and prints
the response APDU: no chaining, no GET RESPONSE, no correction of Le. Spaces
and colons within an argument are ignored.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			p := newPrinter(cmd)
			commands := make([][]byte, len(args))
			for i, a := range args {
				if commands[i], err = hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(a)); err != nil {
					return fmt.Errorf("APDU %d, %.40q: %w", i+1, a, err)
				}
				if len(commands[i]) < 4 {
					return fmt.Errorf("APDU %d has %d bytes, a command has 4 or more", i+1, len(commands[i]))
				}
			}
			conn, err := b.openNow(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, conn.Close(), b.close()) }()
			type exchange struct {
				Command  string  `json:"command"`
				Response string  `json:"response"`
				SW       string  `json:"sw"`
				Millis   float64 `json:"ms"`
			}
			var done []exchange
			for _, c := range commands {
				if !p.json {
					fmt.Fprintf(p.out, "> %X\n", c)
				}
				start := time.Now()
				rapdu, err := conn.Transmit(cmd.Context(), c)
				if err != nil {
					return err
				}
				elapsed := time.Since(start)
				_, sw, err := apdu.ParseResponse(rapdu)
				if err != nil {
					return err
				}
				if !p.json {
					fmt.Fprintf(p.out, "< %X  # %s, %.1f ms\n", rapdu, sw, elapsed.Seconds()*1e3)
				}
				done = append(done, exchange{fmt.Sprintf("%X", c), fmt.Sprintf("%X", rapdu), sw.Hex(), elapsed.Seconds() * 1e3})
			}
			if p.json {
				return p.object(struct {
					Exchanges []exchange `json:"exchanges"`
				}{done})
			}
			return nil
		},
	}
	b.addFlags(cmd.Flags())
	addJSONFlag(cmd)
	return cmd
}
