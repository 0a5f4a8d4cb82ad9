package torture_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/hwtest/torture/usb"
)

func ExampleRun() {
	// The card is pulled after it carried out DEACTIVATE, the server's sixth
	// command, and before it answered.
	trial, err := torture.ParseTrial("server/extended/1/6:pulled:after")
	if err != nil {
		panic(err)
	}
	r := torture.Run(context.Background(), usb.NewPipes(), trial, torture.Options{Wait: 5 * time.Second, Limit: time.Minute})
	fmt.Println(r.Cell())
	fmt.Println(len(r.Mismatches), "mismatches")
	// Output:
	// done in 2, stored
	// 0 mismatches
}
