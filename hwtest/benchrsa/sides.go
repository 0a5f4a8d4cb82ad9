package main

import (
	"crypto"
	"crypto/rsa"
	"math/big"

	"github.com/cardbridge/cardbridge/card/rsafast"
)

// message is as long as the longest that goes under the private-key layer.
var message = make([]byte, 100)

// goPrivate is crypto/rsa's private operation with its check by the public
// exponent, as ours and OpenSSL's have. It exports none without padding; this
// one adds and takes off no more than T1 (docs/protocol.md §3).
func goPrivate(k *rsa.PrivateKey) contestant {
	return loop(1, func() error {
		_, err := rsa.SignPKCS1v15(nil, k, crypto.Hash(0), message)
		return err
	})
}

func goPublic(k *rsa.PrivateKey) (contestant, error) {
	signed, err := rsa.SignPKCS1v15(nil, k, crypto.Hash(0), message)
	return loop(64, func() error {
		for range 64 {
			if err := rsa.VerifyPKCS1v15(&k.PublicKey, crypto.Hash(0), message, signed); err != nil {
				return err
			}
		}
		return nil
	}), err
}

// fastPrivate is batches of n operations under one key.
func fastPrivate(k *rsa.PrivateKey, n int) (contestant, error) {
	key, err := rsafast.NewKey(k)
	if err != nil {
		return nil, err
	}
	ops := make([]*rsafast.Op, n)
	for i := range ops {
		ops[i] = &rsafast.Op{Key: key, C: operand(k.N, i), M: make([]byte, k.Size())}
	}
	return loop(n, func() error {
		rsafast.Run(ops...)
		for _, op := range ops {
			if op.Err != nil {
				return op.Err
			}
		}
		return nil
	}), nil
}

// fastPublic is batches of n operations under keys that were never seen before:
// what a key needs first is done each time.
func fastPublic(k *rsa.PrivateKey, n int) contestant {
	ops := make([]*rsafast.PublicOp, n)
	for i := range ops {
		ops[i] = &rsafast.PublicOp{X: operand(k.N, i), Y: make([]byte, k.Size())}
	}
	return loop(n, func() error {
		for _, op := range ops {
			var err error
			if op.Key, err = rsafast.NewPublicKey(&k.PublicKey); err != nil {
				return err
			}
		}
		rsafast.RunPublic(ops...)
		for _, op := range ops {
			if op.Err != nil {
				return op.Err
			}
		}
		return nil
	})
}

// operand is a value below n that looks like none in particular.
func operand(n *big.Int, i int) []byte {
	v := new(big.Int).Exp(big.NewInt(int64(i+3)), big.NewInt(int64(n.BitLen())), n)
	return v.FillBytes(make([]byte, n.BitLen()/8))
}
