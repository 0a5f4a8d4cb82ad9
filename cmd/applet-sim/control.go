package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/control"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
)

// errControl is matched by what fails about the control socket.
var errControl = errors.New("no control socket")

// controlled keeps the card in its reader, if it has one, and has programs drive
// it, until ctx ends or one of them says quit.
func controlled(ctx context.Context, o options, c *appletsim.Card, stdout, stderr io.Writer) error {
	l, err := control.Listen(o.control)
	if err != nil {
		return fmt.Errorf("%w: %w", errControl, err)
	}
	fmt.Fprintf(stdout, "control %s\n", l.Addr())
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	ended := make(chan error, 1)
	go func() {
		defer quit() // without its control the card is of no use
		ended <- control.New(c, quit).Serve(ctx, l)
	}()
	if o.vpcd != "" || o.vscard != "" {
		err = attach(ctx, o, c, stdout, stderr)
		quit()
	}
	cerr := <-ended
	if err == nil && !errors.Is(cerr, context.Canceled) {
		err = fmt.Errorf("%w: %w", errControl, cerr)
	}
	return err
}

func parseFaults(texts []string) (all []appletsim.Fault, err error) {
	for _, text := range texts {
		f, err := fault.Parse([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("--fault %.200q: %w", text, err)
		}
		all = append(all, f)
	}
	return all, nil
}
