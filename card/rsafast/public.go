package rsafast

import (
	"crypto/rsa"
	"fmt"
)

// PublicKey is a public key that is ready for operations. Making one costs
// little beside an operation; it may be used once and dropped. It is safe for
// concurrent use.
type PublicKey struct {
	n      []byte // the modulus, big-endian
	engine *engine
	vector publicModulus
}

// NewPublicKey takes a key of 2048, 3072 or 4096 bits with e = 65537. The error
// matches ErrKey.
func NewPublicKey(k *rsa.PublicKey) (*PublicKey, error) { return newPublicKey(k, best) }

// newPublicKey is NewPublicKey for one engine; nil is the portable code.
func newPublicKey(k *rsa.PublicKey, e *engine) (*PublicKey, error) {
	if err := checkPublic(k); err != nil {
		return nil, err
	}
	key := &PublicKey{n: k.N.Bytes(), engine: e}
	if e != nil {
		key.vector = newPublicModulus(k.N, key.n)
	}
	return key, nil
}

// PublicOp is one public-key operation of a batch.
type PublicOp struct {
	Key *PublicKey
	// X is the operand: a value below n in exactly the modulus's length.
	X []byte
	// Y is x^65537 mod n while Err is nil, else nil. Its capacity is used where
	// it suffices. It may be X; it must not share memory with another operation.
	Y []byte
	// Err is nil or matches ErrOperand.
	Err error
}

// Public is RSAVP1 = RSAEP of RFC 8017 on x, one operation by itself, constant
// in time as to x. The error matches ErrOperand.
func (k *PublicKey) Public(x []byte) ([]byte, error) {
	op := PublicOp{Key: k, X: x}
	RunPublic(&op)
	return op.Y, op.Err
}

// RunPublic does operations, any number, under any keys. Those of one size share
// the calls of the engine, in order; see PublicWidth.
func RunPublic(ops ...*PublicOp) {
	for _, op := range ops {
		op.Err = op.Key.check(op.X)
		if op.Err == nil && op.Key.engine == nil {
			op.Y, op.Err = portablePublic(op.Y, op.Key.n, op.X)
		}
	}
	for _, size := range [...]int{2048 / 8, 3072 / 8, 4096 / 8} {
		runPublicSize(ops, size)
	}
	for _, op := range ops {
		if op.Err != nil {
			op.Y = nil
		}
	}
}

func runPublicSize(ops []*PublicOp, size int) {
	var batch [maxLanes]*PublicOp
	n := 0
	for _, op := range ops {
		if op.Err != nil || op.Key.engine == nil || len(op.Key.n) != size {
			continue
		}
		if n > 0 && (op.Key.engine != batch[0].Key.engine || n == op.Key.engine.lanes) {
			batch[0].Key.engine.public(batch[:n])
			n = 0
		}
		batch[n] = op
		n++
	}
	if n > 0 {
		batch[0].Key.engine.public(batch[:n])
	}
}

// PublicWidth is how many public-key operations of one size fill a call of the
// engine: fewer take as long as that many.
func PublicWidth() int {
	if best == nil {
		return 1
	}
	return best.lanes
}

func (k *PublicKey) check(x []byte) error {
	if len(x) != len(k.n) {
		return fmt.Errorf("%w: %d bytes for a modulus of %d", ErrOperand, len(x), len(k.n))
	}
	if !below(x, k.n) {
		return fmt.Errorf("%w: not below the modulus", ErrOperand)
	}
	return nil
}
