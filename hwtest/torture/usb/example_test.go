package usb_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/hwtest/torture/usb"
)

func ExampleNewPipes() {
	trial, err := torture.ParseTrial("operation/extended/1/5:unplugged:before")
	if err != nil {
		panic(err)
	}
	r := torture.Run(context.Background(), usb.NewPipes(), trial, torture.Options{Wait: 5 * time.Second, Limit: time.Minute})
	fmt.Println(r.Cell())
	// Output: done in 2
}
