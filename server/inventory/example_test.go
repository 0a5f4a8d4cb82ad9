package inventory_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func Example() {
	readers := servertest.NewReaders()
	readers.Insert("reader 1", servertest.Card(servertest.Image(1)), nil)
	inv := inventory.New(readers, slog.New(slog.NewTextHandler(io.Discard, nil)))
	seen := make(chan id.EID)
	inv.Notify(func(eid id.EID, _ *uint32) { seen <- eid })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- inv.Run(ctx) }()
	eid := <-seen
	for _, place := range inv.Readers(eid) {
		fmt.Println(eid, "in", place.Name)
	}
	stop()
	<-ended
	// Output: 89049032000000000000000000000163 in reader 1
}
