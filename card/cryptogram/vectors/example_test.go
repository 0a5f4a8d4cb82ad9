package vectors_test

import (
	"fmt"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

func Example() {
	f, err := vectors.Read()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, set := range f.Sets {
		fmt.Printf("suite %02X, %d sessions: %s\n", set.Suite, len(set.Sessions), set.Name)
	}
	// Output:
	// suite 01, 2 sessions: suite 01, keys of 2048 bits
	// suite 03, 2 sessions: suite 03, keys of 2048 bits
	// suite 01, 2 sessions: suite 01, the server's enc key of 3072 bits
}
