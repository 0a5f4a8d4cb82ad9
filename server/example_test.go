package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// A server on one emulated card carries out one request.
func Example() {
	ctx, end := context.WithTimeout(context.Background(), 20*time.Second)
	defer end()
	dir, err := os.MkdirTemp("", "cardbridge")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	records, err := store.Open(ctx, filepath.Join(dir, "record.db"))
	if err != nil {
		panic(err)
	}
	defer records.Close()
	readers := servertest.NewReaders()
	readers.Insert("reader", servertest.Card(servertest.Image(1)), nil)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := server.New(server.Config{Store: records, Inventory: inventory.New(readers, log), Terminal: servertest.Terminal(), Log: log})
	if err != nil {
		panic(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- s.Run(running) }()

	op, token, err := server.AddOperator(ctx, records, "example", servertest.Owner, "", store.AllRoles)
	if err != nil {
		panic(err)
	}
	if op, err = s.Authenticate(ctx, token); err != nil {
		panic(err)
	}
	if _, _, err := s.RegisterCard(ctx, op, servertest.Record(servertest.Image(1))); err != nil {
		panic(err)
	}
	req, _, err := s.Deactivate(ctx, op, server.Deactivation{EID: servertest.EID(1)})
	if err != nil {
		panic(err)
	}
	for after := int64(0); ; {
		steps, now, err := s.Steps(ctx, op, req.ID, after, time.Second)
		if err != nil {
			panic(err)
		}
		if len(steps) == 0 && now.FinishedAt != nil {
			fmt.Println(now.State, len(now.Answer.Receipt), "bytes of receipt")
			break
		}
		for _, e := range steps {
			after = e.Seq
		}
	}
	stop()
	fmt.Println(<-ended)
	// Output:
	// done 256 bytes of receipt
	// <nil>
}
