package client_test

import (
	"fmt"

	"github.com/cardbridge/cardbridge/server/api/client"
)

func ExamplePinnedTLS() {
	_, err := client.PinnedTLS("not a pin")
	fmt.Println(err)
	// Output: pin "not a pin": 64 hexadecimal digits wanted, the SHA-256 of the server's public key (SPKI)
}
