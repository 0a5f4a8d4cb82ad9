package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// stepJSON is one step of a reset.
type stepJSON struct {
	Step   string  `json:"step"`
	Millis float64 `json:"ms"`
	Error  string  `json:"error,omitempty"`
}

type resetJSON struct {
	Reader string     `json:"reader"`
	ID     string     `json:"id"`
	ATR    string     `json:"atr"`
	Steps  []stepJSON `json:"steps"`
}

func newReaderResetCmd() *cobra.Command {
	var cold, force bool
	var wait time.Duration
	var driver string
	cmd := &cobra.Command{
		Use:   "reset [READER]",
		Short: "Reset the card in a reader; where that fails, cycle its power, then connect anew",
		Long: `Resets the card in a reader and tells each step. Where a warm reset fails, the
card's power is cycled; where that fails too, a new connection is made. Sessions
of other programs with the card end by it, so it takes --force while there are
any.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPrinter(cmd)
			if _, err := sourceOf(driver); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			s, err := look(ctx, false).find(argument(args))
			if err != nil {
				return err
			}
			reset := resetByPCSC
			switch byPCSC := s.in(worldPCSC); {
			case driver == driverUSB && s.device == nil, driver == driverPCSC && !byPCSC:
				return fmt.Errorf("reader %q is not seen by %s", s.Name, worldName(driver))
			case driver == driverUSB, driver == "" && !byPCSC:
				reset = resetByUSB
			}
			done := resetJSON{Reader: s.Name, ID: s.ID}
			answer, err := reset(ctx, s, cold, force, wait, func(step stepJSON) {
				done.Steps = append(done.Steps, step)
				if !p.json {
					p.step("%s: %s, %.0f ms", step.Step, cmp.Or(step.Error, "the card answers"), step.Millis)
				}
			})
			if err != nil {
				if errors.Is(err, apdu.ErrCardBusy) {
					return fmt.Errorf("%w%s; --force resets it all the same", err, candidates(pcscClients(procRoot)))
				}
				return err
			}
			done.ATR = fmt.Sprintf("%X", answer)
			if p.json {
				return p.object(done)
			}
			fmt.Fprintf(p.out, "%s %s answers %s\n", p.paint(green, "reset:"), visible(s.Name), done.ATR)
			return nil
		},
	}
	cmd.Flags().BoolVar(&cold, "cold", false, "cycle the card's power at once")
	cmd.Flags().BoolVar(&force, "force", false, "reset the card though other programs use it")
	cmd.Flags().DurationVar(&wait, "wait", 20*time.Second, "how long it may take in all")
	addDriverFlag(cmd.Flags(), &driver)
	addJSONFlag(cmd)
	return cmd
}

func resetByPCSC(ctx context.Context, s *slotView, cold, force bool, wait time.Duration, tell func(stepJSON)) ([]byte, error) {
	mode := reader.Exclusive
	if force {
		mode = reader.Shared
	}
	conn, err := pcsc.New().Connect(ctx, s.Name, pcsc.Options{Mode: mode, MaxWait: wait / 3, OnRecovery: func(step pcsc.Step) {
		tell(newStep(step.Rung.String(), step.Took, step.Err))
	}})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if cold {
		err = conn.ColdReset(ctx)
	} else {
		err = conn.Reset(ctx)
	}
	return conn.ATR(), err
}

func resetByUSB(ctx context.Context, s *slotView, cold, _ bool, wait time.Duration, tell func(stepJSON)) ([]byte, error) {
	start := time.Now()
	conn, err := ccid.New().Connect(ctx, s.ID, ccid.Options{MaxWait: wait / 3}) // which powers the card
	tell(newStep("power on", time.Since(start), err))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	start = time.Now()
	if cold {
		err = conn.ColdReset(ctx)
		tell(newStep(pcsc.RungPowerCycle.String(), time.Since(start), err))
	} else {
		err = conn.Reset(ctx)
		tell(newStep(pcsc.RungReset.String(), time.Since(start), err))
	}
	return conn.ATR(), err
}

func newStep(name string, took time.Duration, err error) stepJSON {
	step := stepJSON{Step: name, Millis: took.Seconds() * 1e3}
	if err != nil {
		step.Error = err.Error()
	}
	return step
}
