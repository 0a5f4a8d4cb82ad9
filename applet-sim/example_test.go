package appletsim_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
)

// A card in the same process: read its EID, as any server would.
func Example() {
	b, err := os.ReadFile("testdata/card.json")
	if err != nil {
		log.Fatal(err)
	}
	image, err := appletsim.ParseImage(b)
	if err != nil {
		log.Fatal(err)
	}
	card, err := appletsim.New(image)
	if err != nil {
		log.Fatal(err)
	}
	conn := card.Connect()
	defer conn.Close()

	ctx := context.Background()
	ch := apdu.BasicChannel(conn)
	for _, cmd := range []apdu.Command{
		{INS: 0xA4, P1: 0x04, Data: []byte("\xF0cardbridge"), Ne: ch.MaxNe()}, // SELECT
		{CLA: 0x80, INS: 0xCA, P2: 0x5A, Ne: ch.MaxNe()},                      // GET DATA EID
	} {
		data, sw, err := ch.Transmit(ctx, cmd)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%X %s\n", data, sw.Hex())
	}
	// Output:
	// 6F1A840BF063617264627269646765A50B8001018102010382020800 9000
	// 5A1089049032000000000000000000424247 9000
}
