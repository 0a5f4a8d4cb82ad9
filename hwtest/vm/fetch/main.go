// Command fetch gets what the virtual machine of package vm is made of, so that
// later runs need no network.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/cardbridge/cardbridge/hwtest/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := vm.Fetch(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
