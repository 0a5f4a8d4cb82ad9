package reader_test

import (
	"fmt"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func ExampleEvent() {
	e := reader.Event{Kind: reader.CardInserted, Reader: reader.Reader{Name: "Virtual PCD 00 00", Card: true}}
	fmt.Printf("%s: %s\n", e.Reader.Name, e.Kind)
	// Output: Virtual PCD 00 00: card inserted
}
