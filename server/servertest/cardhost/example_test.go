package cardhost_test

import (
	"context"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest/cardhost"
)

func Example() {
	ctx := context.Background()
	host, err := cardhost.Start(ctx, cardhost.Config{Cards: 10}) // cardhost.Enter has been called
	if err != nil {
		panic(err)
	}
	defer host.Stop()
	control, readers := host.Control(), host.Source(nil)
	defer control.Close()
	defer readers.Close()

	// The answer to the second APDU is lost.
	if err := control.Arm(ctx, 3, cardhost.Fault{Kind: cardhost.LoseAnswer, APDU: 2}); err != nil {
		panic(err)
	}
	conn, err := readers.Open(ctx, cardhost.Name(3), reader.Exclusive)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	for range 2 {
		fmt.Println(card.ReadEID(ctx, apdu.BasicChannel(conn)))
	}
	states, err := control.States(ctx, 3, 1)
	if err != nil {
		panic(err)
	}
	fmt.Println(states[0].EID, states[0].EventCounter, states[0].APDUs, states[0].FaultsMet)
	// Output:
	// 00000000000000000000000000000000 GET DATA: reader 3: transport failed: the answer is lost
	// 89049032000000000000000000000357 <nil>
	// 89049032000000000000000000000357 5 4 1
}
