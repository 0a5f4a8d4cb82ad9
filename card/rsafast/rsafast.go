// Package rsafast is the throughput path: many private-key operations at once.
//
// An engine computes in the lanes of vector registers. A private-key operation
// takes two lanes, one for each prime, so a call of an engine serves two
// operations, or four, in the time of one; they may be under one key or under
// several of the same size. Run takes any number of operations and fills the
// lanes; Width says how many fill them. Public operations take one lane each.
//
// Everything about a secret is constant in time: the exponentiation, the
// reduction of the operand modulo both primes, the recombination. Every result
// is checked with the public exponent before it leaves.
//
// Where the processor has no such registers, and for keys whose primes differ
// in length, portable code does the same work one operation at a time. Engine
// says what is used. The environment can rule engines out when a program starts:
// GODEBUG=cpu.avx512ifma=off leaves fma52, GODEBUG=cpu.avx2=off the portable code.
package rsafast

import (
	"crypto/rsa"
	"errors"
	"fmt"
)

// Exponent is the public exponent of every key.
const Exponent = 65537

var (
	// ErrKey is matched by every error that says a key is refused.
	ErrKey = errors.New("rsafast: bad key")
	// ErrOperand says that an operand is not below the modulus or not exactly as
	// long.
	ErrOperand = errors.New("rsafast: bad operand")
	// ErrFault says that a private-key operation came out wrong and its value
	// was withheld: hardware fails, or somebody makes it fail.
	ErrFault = errors.New("rsafast: private-key operation failed its check")
)

// checkPublic refuses what is not the public half of a key of 2048, 3072 or
// 4096 bits with e = 65537.
func checkPublic(k *rsa.PublicKey) error {
	if k == nil || k.N == nil {
		return fmt.Errorf("%w: no key", ErrKey)
	}
	switch k.N.BitLen() {
	case 2048, 3072, 4096:
	default:
		return fmt.Errorf("%w: modulus of %d bits, 2048, 3072 or 4096 wanted", ErrKey, k.N.BitLen())
	}
	if k.N.Sign() < 0 || k.N.Bit(0) == 0 {
		return fmt.Errorf("%w: modulus negative or even", ErrKey)
	}
	if k.E != Exponent {
		return fmt.Errorf("%w: public exponent %d, %d wanted", ErrKey, k.E, Exponent)
	}
	return nil
}

// below reports whether x < n, in constant time for x and n of equal length.
func below(x, n []byte) bool {
	borrow := 0
	for i := len(x) - 1; i >= 0; i-- {
		borrow = (int(x[i]) - int(n[i]) - borrow) >> 8 & 1
	}
	return borrow == 1
}

// result is b at length n where its capacity allows, else new.
func result(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
