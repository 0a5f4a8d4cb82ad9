package main

import (
	"context"
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
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// bench is how the bench tools reach a card: the flags that they share.
type bench struct {
	reader     string
	driver     string
	trace      string
	unredacted bool   // secrets stay in the trace
	title      string // of the trace
	protocol   string
	exclusive  bool
	wait       time.Duration
	onClose    pcsc.Disposition // what becomes of the card afterwards

	traceFile *os.File
	recorder  *trace.Recorder
}

func (b *bench) addFlags(f *pflag.FlagSet) {
	b.addReaderFlags(f)
	f.StringVar(&b.trace, "trace", "", "write the APDUs to this `FILE` as a text trace (docs/trace.md)")
	b.addUnredactedFlag(f)
}

// addUnredactedFlag is for what is written: --trace, or the file that a command
// makes.
func (b *bench) addUnredactedFlag(f *pflag.FlagSet) {
	f.BoolVar(&b.unredacted, "unredacted", false, "leave PINs, keys and the results of AUTHENTICATE in the trace")
}

// addReaderFlags is addFlags for commands that make traces otherwise, or none.
func (b *bench) addReaderFlags(f *pflag.FlagSet) {
	f.StringVar(&b.reader, "reader", "", "`READER` by name, by a part of it that only one reader has, or by identity (see cardbridge reader list)")
	addDriverFlag(f, &b.driver)
	f.StringVar(&b.protocol, "protocol", "any", "transmission `PROTOCOL`: T=0, T=1 or any")
	f.BoolVar(&b.exclusive, "exclusive", false, "keep other programs off the card meanwhile")
	f.DurationVar(&b.wait, "wait", 10*time.Second, "how long to wait for the card to be there or to come back")
}

// open waits for a card in the reader and connects to it. It records the APDUs
// where --trace says so.
func (b *bench) open(ctx context.Context) (apdu.Conn, error) {
	if b.reader == "" {
		return nil, errors.New("say which reader by --reader; cardbridge reader list shows them")
	}
	protocol, err := parseProtocol(b.protocol)
	if err != nil {
		return nil, err
	}
	var conn apdu.Conn
	name := b.reader
	switch b.driver {
	case driverUSB:
		conn, err = connectUSB(ctx, name, ccid.Options{Protocol: ccid.Protocol(protocol), MaxWait: maxAnswer})
	case driverPCSC, "":
		opts := pcsc.Options{Mode: reader.Shared, Protocol: protocol, OnClose: b.onClose, MaxWait: maxAnswer}
		if b.exclusive {
			opts.Mode = reader.Exclusive
		}
		conn, name, err = connect(ctx, b.reader, opts)
	default:
		_, err = sourceOf(b.driver)
	}
	if err != nil {
		return nil, err
	}
	return b.record(conn, trace.Header{Reader: name, Origin: origin(name)})
}

// record is conn, recorded where --trace says so. It closes conn where it fails.
func (b *bench) record(conn apdu.Conn, h trace.Header) (apdu.Conn, error) {
	if b.trace == "" {
		return conn, nil
	}
	if b.recorder == nil {
		var err error
		if b.traceFile, err = os.OpenFile(b.trace, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			conn.Close()
			return nil, err
		}
		h.Title, h.Date = b.title, time.Now()
		var opts []trace.Option
		if b.unredacted {
			opts = append(opts, trace.Unredacted())
		}
		b.recorder = trace.NewRecorder(b.traceFile, h, opts...)
	}
	return b.recorder.Wrap(conn), nil
}

func parseProtocol(s string) (pcsc.Protocol, error) {
	switch strings.ToUpper(s) {
	case "ANY", "":
		return pcsc.AnyProtocol, nil
	case "T=0", "T0":
		return pcsc.T0, nil
	case "T=1", "T1":
		return pcsc.T1, nil
	}
	return 0, fmt.Errorf("protocol %q is none of T=0, T=1, any", s)
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
func connect(ctx context.Context, name string, opts pcsc.Options) (apdu.Conn, string, error) {
	source := pcsc.New()
	powered := false
	var inTheWay error
	failed := func(err error) (apdu.Conn, string, error) {
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
				if commands[i], err = parseAPDU(a); err != nil {
					return fmt.Errorf("APDU %d: %w", i+1, err)
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
