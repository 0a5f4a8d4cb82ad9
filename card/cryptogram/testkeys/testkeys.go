// Package testkeys is a server's key set and a card's, PUBLIC in this repository,
// so that no test waits for keys to be made. They protect nothing: whoever has
// this package has the private keys.
package testkeys

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"github.com/cardbridge/cardbridge/card/cryptogram"
)

//go:embed keys.json
var file []byte

//go:embed known.txt
var known []byte // SHA-256 of the moduli, a line each

var keys = sync.OnceValue(func() (k struct {
	About  string               `json:"about"`
	Server cryptogram.KeySetPEM `json:"server"`
	Card   cryptogram.KeysPEM   `json:"card"`
}) {
	if err := cryptogram.DecodeStrict(file, &k); err != nil {
		panic(fmt.Sprintf("testkeys: keys.json: %v", err)) // it is compiled in, and a test has read it
	}
	return k
})

// Server is the server's key set, private, kid 1: suites 01 and 03, RSA-2048.
func Server() cryptogram.KeySetPEM {
	s := keys().Server
	s.Auth = slices.Clone(s.Auth)
	return s
}

// Card is the card's keys, private: suites 01 and 03, RSA-2048.
func Card() cryptogram.KeysPEM {
	k := keys().Card
	k.Auth = slices.Clone(k.Auth)
	return k
}

// Warning is what to tell of keys that are Known.
const Warning = "these are public test keys, whose private halves everybody has: they protect nothing"

// Known reports whether one of the keys is a public test key: this package's or
// one of the protocol's test vectors.
func Known(k cryptogram.PublicKeys) bool {
	return slices.ContainsFunc(append([]*rsa.PublicKey{k.Enc}, k.Auth...), func(p *rsa.PublicKey) bool {
		return p != nil && bytes.Contains(known, fingerprint(p))
	})
}

func fingerprint(p *rsa.PublicKey) []byte {
	h := sha256.Sum256(p.N.Bytes())
	return hex.AppendEncode(nil, h[:])
}
