package rsafast

import (
	"math/big"
	"math/bits"

	"filippo.io/bigmod"
)

// modulus is an odd number with what Montgomery's reduction by five limbs wants.
type modulus struct {
	n []uint64
	k [block]uint64 // -1/N mod 2^260
	m []uint64      // (N k + 1) / 2^260
}

// newModulus is constant in time for a given length.
func newModulus(b []byte, limbs int) modulus {
	memory := make([]uint64, 2*limbs)
	m := modulus{n: memory[:limbs:limbs], m: memory[limbs:]}
	limbsOf(m.n, b, 0)
	inv := m.n[0] // -1/n mod 2^52: each step doubles the bits that are right, from 3 on
	for range 5 {
		inv *= 2 - m.n[0]*inv
	}
	inv = -inv & limbMask
	// t = 1 + N k, the digits of k such that the low five of t vanish.
	var t [maxLimbs + block + 1]uint64
	t[0] = 1
	for i := range m.k {
		q := t[i] * inv & limbMask
		m.k[i] = q
		carry := uint64(0)
		for j, v := range m.n {
			hi, lo := bits.Mul64(q<<(64-limbBits), v) // q v in two halves of 52 bits
			carry += t[i+j] + lo>>(64-limbBits)
			t[i+j] = carry & limbMask
			carry = carry>>limbBits + hi
		}
		t[i+limbs] += carry
	}
	copy(m.m, t[block:])
	return m
}

// prime is a secret modulus with the powers of R = 2^(52 limbs) modulo it.
type prime struct {
	modulus
	exponent    []byte // d mod p-1 in digits of the window, the highest first
	one, r2, r3 []uint64
}

func newPrime(p *bigmod.Modulus, b, exponent []byte, limbs, window int) prime {
	r := prime{modulus: newModulus(b, limbs), exponent: digitsOf(exponent, p.BitLen(), window)}
	for i, to := range []*[]uint64{&r.one, &r.r2, &r.r3} {
		*to = make([]uint64, limbs)
		limbsOf(*to, powerOfTwo((i+1)*limbs*limbBits, p).Bytes(p), 0)
	}
	return r
}

// powerOfTwo is 2^e mod p.
func powerOfTwo(e int, p *bigmod.Modulus) *bigmod.Nat {
	two := bigmod.NewNat().Mod(bigmod.NewNat().SetUint(2), p)
	return bigmod.NewNat().ExpShortVarTime(two, uint(e), p)
}

// limbsFor is how many limbs a kernel has for a modulus.
func limbsFor(bits int) int {
	return (bits + block*limbBits - 1) / (block * limbBits) * block
}

// digitsOf cuts an exponent of up to n bits into digits of the window.
func digitsOf(b []byte, n, window int) []byte {
	digits := make([]byte, (n+window-1)/window)
	for i := range digits {
		d := byte(0)
		for j := window - 1; j >= 0; j-- {
			bit := i*window + j
			d <<= 1
			if at := len(b) - 1 - bit/8; at >= 0 {
				d |= b[at] >> (bit % 8) & 1
			}
		}
		digits[len(digits)-1-i] = d
	}
	return digits
}

// publicModulus is a modulus with a power of two to get at R^2 from.
type publicModulus struct {
	modulus
	seed      []uint64 // 2^k R mod N, where k 2^squarings = 52 limbs
	squarings int
}

func newPublicModulus(n *big.Int, b []byte) publicModulus {
	limbs := limbsFor(n.BitLen())
	p := publicModulus{modulus: newModulus(b, limbs), seed: make([]uint64, limbs)}
	k := limbs * limbBits
	for k%2 == 0 {
		k /= 2
		p.squarings++
	}
	power := new(big.Int).SetBit(new(big.Int), limbs*limbBits+k, 1)
	limbsOf(p.seed, power.Rem(power, n).FillBytes(make([]byte, len(b))), 0)
	return p
}
