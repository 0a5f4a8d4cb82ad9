// Package milenage is the authentication and key generation of 3GPP TS 35.206,
// with AES-128 and the constants that it sets (c1 to c5, r1 to r5), and the
// conversion functions of TS 33.102 §6.8.1.2 for GSM.
package milenage

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// Key is a subscriber's K with the operator's OPc, ready to use. It is safe for
// concurrent use.
type Key struct {
	block cipher.Block
	opc   [16]byte
}

// New is the key of K and OPc.
func New(k, opc [16]byte) *Key {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // 16 bytes are a key
	}
	return &Key{block: block, opc: opc}
}

// OPc is OP under K (TS 35.206 §4.1): what a card has in place of OP.
func OPc(k, op [16]byte) [16]byte {
	var out [16]byte
	New(k, out).block.Encrypt(out[:], op[:])
	return xor(out, op)
}

func xor(a, b [16]byte) [16]byte {
	subtle.XORBytes(a[:], a[:], b[:])
	return a
}

// temp is E_K(RAND ⊕ OPc).
func (key *Key) temp(rand [16]byte) [16]byte {
	t := xor(rand, key.opc)
	key.block.Encrypt(t[:], t[:])
	return t
}

// out is E_K(rot(in ⊕ OPc, r bytes) ⊕ c) ⊕ OPc, add being what comes in before
// the encryption; only the last byte of a constant c is not 0.
func (key *Key) out(in [16]byte, r int, c byte, add [16]byte) [16]byte {
	in = xor(in, key.opc)
	var x [16]byte
	for i := range x {
		x[i] = in[(i+r)%16]
	}
	x[15] ^= c
	x = xor(x, add)
	key.block.Encrypt(x[:], x[:])
	return xor(x, key.opc)
}

// F1 is f1 and f1*: MAC-A of a network that authenticates itself, MAC-S of a
// card that asks for resynchronisation.
func (key *Key) F1(rand [16]byte, sqn [6]byte, amf [2]byte) (macA, macS [8]byte) {
	var in [16]byte
	copy(in[0:], sqn[:])
	copy(in[6:], amf[:])
	copy(in[8:], in[:8])
	out := key.out(in, 8, 0, key.temp(rand))
	return [8]byte(out[:8]), [8]byte(out[8:])
}

// Response is what the two ends have of one RAND.
type Response struct {
	RES    [8]byte  // f2
	CK, IK [16]byte // f3, f4
	AK     [6]byte  // f5
}

// F2345 is f2, f3, f4 and f5.
func (key *Key) F2345(rand [16]byte) (r Response) {
	t := key.temp(rand)
	out2 := key.out(t, 0, 1, [16]byte{})
	copy(r.AK[:], out2[:6])
	copy(r.RES[:], out2[8:])
	r.CK = key.out(t, 4, 2, [16]byte{})
	r.IK = key.out(t, 8, 4, [16]byte{})
	return r
}

// F5Star is f5*: the AK that hides SQN in AUTS.
func (key *Key) F5Star(rand [16]byte) [6]byte {
	out := key.out(key.temp(rand), 12, 8, [16]byte{})
	return [6]byte(out[:6])
}

// GSM is SRES by c2 and Kc by c3.
func (r *Response) GSM() (sres [4]byte, kc [8]byte) {
	for i := range sres {
		sres[i] = r.RES[i] ^ r.RES[i+4]
	}
	for i := range kc {
		kc[i] = r.CK[i] ^ r.CK[i+8] ^ r.IK[i] ^ r.IK[i+8]
	}
	return sres, kc
}
