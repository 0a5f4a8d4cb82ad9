package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/cardbridge/cardbridge/applet-sim/vscard"
)

// errSocket is matched by what fails about the socket for QEMU.
var errSocket = errors.New("no socket for QEMU")

// serveQEMU puts the card into the reader of each QEMU that connects to the
// socket at path; pull is vscard.WithPull's.
func serveQEMU(ctx context.Context, path string, card vscard.Card, pull func(_, _ []byte) (time.Duration, bool), stdout, stderr io.Writer) error {
	l, err := listen(path)
	if err != nil {
		return fmt.Errorf("%w: %w", errSocket, err)
	}
	fmt.Fprintf(stderr, "waiting for QEMU at %s\n", path)
	return vscard.Serve(ctx, l, card,
		vscard.OnAttached(func() { fmt.Fprintf(stdout, "attached %s\n", path) }),
		vscard.WithPull(pull),
	)
}

// listen makes a socket, in place of one where nobody listens any more.
func listen(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err == nil {
		return l, nil
	}
	info, statErr := os.Lstat(path)
	if statErr != nil || info.Mode()&os.ModeSocket == 0 {
		return nil, err
	}
	if conn, dialErr := net.Dial("unix", path); dialErr == nil {
		conn.Close()
		return nil, err
	}
	if removeErr := os.Remove(path); removeErr != nil {
		return nil, removeErr
	}
	return net.Listen("unix", path)
}
