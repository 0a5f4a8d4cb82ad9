package servertest_test

import (
	"context"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func Example() {
	readers := servertest.NewReaders()
	readers.Insert("reader", servertest.Card(servertest.Image(1)), nil)
	conn, err := readers.Open(context.Background(), "reader", reader.Shared)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Println(card.ReadEID(context.Background(), apdu.BasicChannel(conn)))
	fmt.Println(len(readers.Sent("reader")), "APDUs")
	// Output:
	// 89049032000000000000000000000163 <nil>
	// 2 APDUs
}
