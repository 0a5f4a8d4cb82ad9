package ccid_test

import (
	"context"
	"fmt"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
)

func Example() {
	// A reader in software; ccid.New().Connect opens one on this machine's USB.
	model := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU})
	model.Insert(0, ccidsim.WithATR(&echo{}, ccidsim.ATR{Protocols: []byte{1}, TA1: 0x96, IFSC: 254}))

	ctx := context.Background()
	descriptor, err := ccid.ParseDescriptor(model.ClassDescriptor())
	if err != nil {
		fmt.Println(err)
		return
	}
	device, err := ccid.Attach(ctx, model.Open(), descriptor, "a model")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer device.Close()
	card, err := device.Connect(ctx, 0, ccid.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer card.Close()
	rapdu, err := card.Transmit(ctx, []byte{0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00, 0x00})
	fmt.Printf("%v, %v: %X %v\n", card.Protocol(), card.Speed(), rapdu, err)

	model.Remove(0)
	_, err = card.Transmit(ctx, []byte{0x00, 0xA4, 0x00, 0x00})
	fmt.Println(err)
	// Output:
	// T=1, F=512 D=32: 3F009000 <nil>
	// ccid: transmit "a model slot 0": card removed: the card does not answer (ICC_MUTE)
}
