//go:build !(linux && amd64)

package vm

import (
	"context"
	"fmt"
	"os"
)

// Enter ends the program: the machine is an amd64 one, run by Linux.
func Enter(Config) {
	fmt.Fprintln(os.Stderr, ErrUnsupported)
	os.Exit(1)
}

// Fetch does nothing but fail here.
func Fetch(context.Context) error { return ErrUnsupported }
