package main

import (
	"context"
	"crypto/rsa"
	"math/big"
	"runtime"
	"sync"
	"time"

	"filippo.io/bigmod"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// operations are the RSA operations that a deactivation costs the server: M1 is
// opened (its envelope, the card's layers), M2 is made (the server's layers, its
// envelope), the receipt is opened (the card's layers).
type operations struct{ Private, Public int64 }

func operationsOf(s cryptogram.Suite) operations {
	layers := int64(s.Layers())
	return operations{Private: 1 + layers, Public: layers + 1 + layers}
}

// bare is the server's RSA with nothing around it: as many workers as the
// server's scheduler has, full calls of the engine.
type bare struct {
	private, public func() (n int, err error) // one call of n operations
}

// cost is the processor time of one operation.
type cost struct{ private, public time.Duration }

// of is what operations cost.
func (c cost) of(o operations) time.Duration {
	return time.Duration(o.Private)*c.private + time.Duration(o.Public)*c.public
}

// between is the mean of what was measured before and after.
func between(a, b cost) cost { return cost{(a.private + b.private) / 2, (a.public + b.public) / 2} }

// newBare takes the server's first key: all are of 2048 bits.
func newBare(plain bool) (*bare, error) {
	set, err := cryptogram.ParseKeySet(servertest.KeySetFile())
	if err != nil {
		return nil, err
	}
	var key *rsa.PrivateKey
	own, err := set.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) {
		key = k
		return cryptogram.NewKey(k)
	})
	if err != nil {
		return nil, err
	}
	c := operand(key.N)
	if plain {
		return &bare{
			private: func() (int, error) {
				_, err := own.Enc.Private(context.Background(), c)
				return 1, err
			},
			public: func() (int, error) { return 1, plainPublic(&key.PublicKey, c) },
		}, nil
	}
	fast, err := rsafast.NewKey(key)
	if err != nil {
		return nil, err
	}
	return &bare{
		private: func() (int, error) {
			ops := make([]*rsafast.Op, rsafast.Width())
			for i := range ops {
				ops[i] = &rsafast.Op{Key: fast, C: c}
			}
			rsafast.Run(ops...)
			for _, op := range ops {
				if op.Err != nil {
					return 0, op.Err
				}
			}
			return len(ops), nil
		},
		public: func() (int, error) {
			ops := make([]*rsafast.PublicOp, rsafast.PublicWidth())
			for i := range ops {
				k, err := rsafast.NewPublicKey(&key.PublicKey)
				if err != nil {
					return 0, err
				}
				ops[i] = &rsafast.PublicOp{Key: k, X: c}
			}
			rsafast.RunPublic(ops...)
			for _, op := range ops {
				if op.Err != nil {
					return 0, op.Err
				}
			}
			return len(ops), nil
		},
	}, nil
}

// plainPublic is what package cryptogram does where nobody does it for it.
func plainPublic(k *rsa.PublicKey, x []byte) error {
	n, err := bigmod.NewModulus(k.N.Bytes())
	if err != nil {
		return err
	}
	v, err := bigmod.NewNat().SetBytes(x, n)
	if err != nil {
		return err
	}
	bigmod.NewNat().ExpShortVarTime(v, cryptogram.Exponent, n).Bytes(n)
	return nil
}

// operand is a value below n that looks like none in particular.
func operand(n *big.Int) []byte {
	return new(big.Int).Exp(big.NewInt(3), big.NewInt(int64(n.BitLen())), n).FillBytes(make([]byte, n.BitLen()/8))
}

// measure measures both kinds for about d each.
func (b *bare) measure(d time.Duration) (c cost, err error) {
	if c.private, err = costOf(d, b.private); err != nil {
		return c, err
	}
	c.public, err = costOf(d, b.public)
	return c, err
}

func costOf(d time.Duration, call func() (int, error)) (time.Duration, error) {
	var workers sync.WaitGroup
	var mu sync.Mutex
	var total int
	var failed error
	began, spent := time.Now(), processorTime()
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			n := 0
			for time.Since(began) < d || n == 0 {
				some, err := call()
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				n += some
			}
			mu.Lock()
			total += n
			mu.Unlock()
		})
	}
	workers.Wait()
	if failed != nil {
		return 0, failed
	}
	return (processorTime() - spent) / time.Duration(total), nil
}
