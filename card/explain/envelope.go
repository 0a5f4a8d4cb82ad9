package explain

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"

	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// openEnvelope opens Env (docs/protocol.md §3) of a message whose length is not
// known. package cryptogram does that for the two sides, in constant time and
// each with what it expects; here is whoever reads along afterwards, has the
// keys, and nobody to hide anything from. nil where it does not open.
func openEnvelope(key *rsa.PrivateKey, b []byte) []byte {
	k := key.Size()
	if len(b) < k {
		return nil
	}
	head, err := rsa.DecryptOAEP(sha256.New(), nil, key, b[:k], nil)
	if err != nil || len(b) == k {
		return head
	}
	tail := bytes.Clone(b[k:])
	if len(tail)%aes.BlockSize != 0 || len(head) < aes.BlockSize {
		return nil
	}
	block, err := aes.NewCipher(head[:aes.BlockSize])
	if err != nil {
		return nil
	}
	cipher.NewCBCDecrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(tail, tail)
	end := bytes.LastIndexByte(tail, 0x80)
	if end < 0 || !allOf(tail[end+1:], 0) {
		return nil
	}
	return append(head[aes.BlockSize:], tail[:end]...)
}

const lenM2 = 100 // bytes of m2 (§4)

// readM2 reads A2 ‖ 01 ‖ suite ‖ kid ‖ RC ‖ RK ‖ HC ‖ H(RS ‖ SID ‖ EID)[0:16] and
// reports whether it is this challenge's.
func readM2(ch cryptogram.Challenge, m []byte) (s cryptogram.Session, ok bool) {
	if len(m) != lenM2 || !bytes.Equal(m[:4], []byte{0xA2, 0x01, byte(ch.Suite), ch.KID}) {
		return s, false
	}
	h := sha256.New()
	h.Write(ch.RS[:])
	h.Write(ch.SID[:])
	h.Write(ch.EID[:])
	if !bytes.Equal(m[84:], h.Sum(nil)[:16]) {
		return s, false
	}
	copy(s.RC[:], m[4:36])
	copy(s.RK[:], m[36:52])
	copy(s.HC[:], m[52:84])
	return s, true
}
