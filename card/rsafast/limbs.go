package rsafast

import (
	"encoding/binary"
	"math/bits"
)

// The functions here are constant in time for numbers of given lengths. Limbs
// are of 52 bits, words of 64; the lowest comes first.

// limbsOf takes limbs from off on out of a big-endian number.
func limbsOf(x []uint64, b []byte, off int) {
	for i := range x {
		bit := limbBits * (off + i)
		end := len(b) - bit/8
		var v uint64
		switch {
		case end >= 8:
			v = binary.BigEndian.Uint64(b[end-8:])
		case end > 0:
			for _, c := range b[:end] {
				v = v<<8 | uint64(c)
			}
		}
		x[i] = v >> (bit % 8) & limbMask
	}
}

// wordsOf packs limbs; what does not fit into w is zero.
func wordsOf(w, x []uint64) {
	acc, have, j := uint64(0), 0, 0
	for _, v := range x {
		acc |= v << have
		have += limbBits
		if have < 64 {
			continue
		}
		have -= 64
		if j < len(w) {
			w[j] = acc
		}
		j++
		acc = v >> (limbBits - have)
	}
	for ; j < len(w); j++ {
		w[j], acc = acc, 0
	}
}

// bytesOf is the words in big-endian bytes.
func bytesOf(b []byte, w []uint64) {
	for i := range len(b) / 8 {
		binary.BigEndian.PutUint64(b[len(b)-8*(i+1):], w[i])
	}
}

// subtract is d = x - y and the borrow.
func subtract(d, x, y []uint64) uint64 {
	borrow := uint64(0)
	for i := range d {
		v := x[i] - y[i] - borrow
		d[i] = v & limbMask
		borrow = v >> 63
	}
	return borrow
}

// subtractIfNotBelow is x - n where x >= n, else x.
func subtractIfNotBelow(x, n []uint64) {
	var d [maxLimbs]uint64
	keep := -subtract(d[:len(x)], x, n)
	for i := range x {
		x[i] = x[i]&keep | d[i]&^keep
	}
}

// subtractMod is x - y mod n for x, y below n.
func subtractMod(d, x, y, n []uint64) {
	mask := -subtract(d, x, y)
	carry := uint64(0)
	for i := range d {
		carry += d[i] + n[i]&mask
		d[i] = carry & limbMask
		carry >>= limbBits
	}
}

// multiplyAdd is w = x y + z in words, len(w) = len(x) + len(y), z shorter.
func multiplyAdd(w, x, y, z []uint64) {
	clear(w[copy(w, z):])
	for i, v := range x {
		var carry uint64
		for j, u := range y {
			hi, lo := bits.Mul64(v, u)
			var c uint64
			lo, c = bits.Add64(lo, w[i+j], 0)
			hi += c
			w[i+j], c = bits.Add64(lo, carry, 0)
			carry = hi + c
		}
		for j := i + len(y); j < len(w); j++ {
			w[j], carry = bits.Add64(w[j], carry, 0)
		}
	}
}
