package apdu_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// card answers SELECT in two parts and knows nothing else.
type card struct{}

func (card) Transmit(_ context.Context, capdu []byte) ([]byte, error) {
	cmd, err := apdu.ParseCommand(capdu)
	if err != nil {
		return apdu.SWWrongLength.Append(nil), nil
	}
	switch cmd.INS {
	case 0xA4:
		return []byte{0x61, 0x04}, nil
	case 0xC0:
		return apdu.SWSuccess.Append([]byte{0x6F, 0x02, 0x84, 0x00}), nil
	}
	return apdu.SWInstructionNotSupported.Append(nil), nil
}

func Example() {
	ctx := context.Background()
	ch := apdu.BasicChannel(card{})
	data, sw, err := ch.Transmit(ctx, apdu.Command{INS: 0xA4, P1: 0x04, Data: []byte{0xA0, 0, 0, 0x87, 0x10}, Ne: apdu.MaxShortNe})
	fmt.Printf("%X %s %v\n", data, sw, err)

	_, err = ch.Open(ctx)
	fmt.Println(err, errors.Is(err, apdu.SWInstructionNotSupported))
	// Output:
	// 6F028400 status 9000 (success) <nil>
	// MANAGE CHANNEL: card answers status 6D00 (instruction not supported or invalid) true
}
