package corpus_test

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/hwtest/corpus"
)

func Example() {
	t, err := corpus.Open("lpac-chip-info.apdu")
	if err != nil {
		panic(err)
	}
	card := trace.NewCard(t) // offline, a terminal's tests have it for a card
	fmt.Printf("%s, ATR %X\n", t.Title, card.ATR())
	fmt.Printf("%X\n", card.Process([]byte{0x80, 0xAA, 0x00, 0x00, 0x0A, 0xA9, 0x08, 0x81, 0x00, 0x82, 0x01, 0x01, 0x83, 0x01, 0x07}))
	// Output:
	// lpac chip info: EID, addresses, eUICC information, ATR 3B9F96801FC78031A073BE21136743200718000001A5
	// 9000
}
