package rsafast_test

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"log"

	"github.com/cardbridge/cardbridge/card/rsafast"
)

// Two private-key operations share a call of the engine; both results are
// checked by a public one.
func ExampleRun() {
	std, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	key, err := rsafast.NewKey(std)
	if err != nil {
		log.Fatal(err)
	}
	c := make([]byte, 256)
	c[255] = 2
	first, second := &rsafast.Op{Key: key, C: c}, &rsafast.Op{Key: key, C: make([]byte, 256)}
	rsafast.Run(first, second)

	public, err := rsafast.NewPublicKey(key.Public())
	if err != nil {
		log.Fatal(err)
	}
	for _, op := range []*rsafast.Op{first, second} {
		back, err := public.Public(op.M)
		fmt.Println(op.Err, err, back[255])
	}
	// Output:
	// <nil> <nil> 2
	// <nil> <nil> 0
}
