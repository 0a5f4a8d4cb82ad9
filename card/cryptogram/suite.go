// Package cryptogram is the cryptography of the card protocol, docs/protocol.md
// §2 to §4 and §8: the two RSA layers, the messages that server and card prove
// themselves with, the session keys and the receipts.
//
// Both sides use it. Everything that opens what a peer sent takes constant time
// in the secrets and gives one error, whatever failed.
package cryptogram

import "fmt"

// Suite says how many RSA keys make the private-key layer.
type Suite byte

// The suites of §3.
const (
	Suite01 Suite = 0x01 // one key
	Suite03 Suite = 0x03 // three keys, the patent's triple RSA
)

// Layers is L of §3: 1 or 3; 0 for a suite that does not exist.
func (s Suite) Layers() int {
	if s == Suite01 || s == Suite03 {
		return int(s)
	}
	return 0
}

func (s Suite) String() string { return fmt.Sprintf("%02X", byte(s)) }
