package ccidsim_test

import (
	"context"
	"fmt"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

// A reader that works at the short APDU level, and a host that has its card
// carry out one command.
func Example() {
	d := ccidsim.New(ccidsim.Config{Level: ccidsim.ShortAPDU, Automatic: ccidsim.AutoVoltage})
	d.Insert(0, &echo{})
	pipes := d.Open()
	defer pipes.Close()

	ctx := context.Background()
	for _, command := range [][]byte{
		{0x62, 0, 0, 0, 0, 0, 0, 0, 0, 0},                   // PC_to_RDR_IccPowerOn
		{0x6F, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xA4, 0, 0x00}, // PC_to_RDR_XfrBlock
	} {
		if err := pipes.Out(ctx, command); err != nil {
			panic(err)
		}
		b := make([]byte, 512)
		n, err := pipes.In(ctx, b)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%X %X\n", b[:10], b[10:n])
	}
	// Output:
	// 80060000000000000000 3B046563686F
	// 80020000000001000000 9000
}
