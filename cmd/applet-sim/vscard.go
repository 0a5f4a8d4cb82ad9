package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cardbridge/cardbridge/applet-sim/control"
	"github.com/cardbridge/cardbridge/applet-sim/vscard"
)

// errSocket is matched by what fails about the socket for QEMU.
var errSocket = errors.New("no socket for QEMU")

// serveQEMU puts the card into the reader of each QEMU that connects to the
// socket at path.
func serveQEMU(ctx context.Context, path string, c card, stdout, stderr io.Writer) error {
	l, err := control.ListenUnix(path)
	if err != nil {
		return fmt.Errorf("%w: %w", errSocket, err)
	}
	fmt.Fprintf(stderr, "waiting for QEMU at %s\n", path)
	return vscard.Serve(ctx, l, c,
		vscard.OnAttached(func() { fmt.Fprintf(stdout, "attached %s\n", path) }),
		vscard.WithAway(c.Away),
	)
}
