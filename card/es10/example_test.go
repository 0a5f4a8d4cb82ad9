package es10_test

import (
	"context"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/es10"
)

// noEUICC is a card that knows no command.
type noEUICC struct{}

func (noEUICC) Transmit(context.Context, []byte) ([]byte, error) { return []byte{0x6A, 0x82}, nil }

func ExampleOpen() {
	list := func(ctx context.Context, card apdu.Transmitter) error {
		e, err := es10.Open(ctx, card, es10.Options{})
		if err != nil {
			return err
		}
		defer e.Close(ctx)
		profiles, err := e.Profiles(ctx)
		if err != nil {
			return err
		}
		for _, p := range profiles {
			fmt.Println(p.ICCID, p.State, p.Provider, p.Name)
		}
		return nil
	}
	fmt.Println(list(context.Background(), noEUICC{}))
	// Output: es10: no ISD-R: not an eUICC: SELECT ISD-R: card answers status 6A82 (file or application not found)
}
