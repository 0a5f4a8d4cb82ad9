package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
)

// fleet is cards that have answered INTERNAL AUTHENTICATE already: their M1 for
// an RS that is known beforehand, so that no card's work is in the measure.
type fleet struct {
	server cryptogram.KeySetPEM
	cards  []answered
	opened map[string][]byte // private operations under the server's enc key that M1 need
}

type answered struct {
	target card.Target
	rs     [16]byte
	m1     []byte
}

func newFleet(ctx context.Context, n int) (*fleet, error) {
	keys, err := cryptogram.Generate(1, 2048)
	if err != nil {
		return nil, err
	}
	f := &fleet{server: cryptogram.KeySetPEM{ID: 1, KeysPEM: keys}, opened: map[string][]byte{}}
	server, err := f.server.Private()
	if err != nil {
		return nil, err
	}
	for i := range n {
		pem, err := cryptogram.Generate(1, 2048)
		if err != nil {
			return nil, err
		}
		keys, err := pem.Private()
		if err != nil {
			return nil, err
		}
		a := answered{target: card.Target{Suite: cryptogram.Suite01, Keys: keys.Public()}}
		a.target.EID[15] = byte(i)
		rand.Read(a.rs[:])
		c := cryptogram.Challenge{Suite: a.target.Suite, KID: server.KID, RS: a.rs, SID: server.SID(), EID: a.target.EID}
		if a.m1, err = c.SealM1(ctx, rand.Reader, keys, server.Public(), [32]byte{byte(i)}); err != nil {
			return nil, err
		}
		head := a.m1[:server.Enc.Public().Size()]
		if f.opened[string(head)], err = server.Enc.Private(ctx, head); err != nil {
			return nil, err
		}
		f.cards = append(f.cards, a)
	}
	return f, nil
}

// onRSAFast is the server's keys as a server has them: in a scheduler's hands.
func (f *fleet) onRSAFast(s *rsafast.Scheduler) (cryptogram.ServerKeys, error) {
	keys, err := f.server.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return s.Load(k) })
	keys.Ops = s
	return keys, err
}

// onCryptoRSA is the same keys on crypto/rsa.
func (f *fleet) onCryptoRSA() (cryptogram.ServerKeys, error) {
	return f.server.PrivateBy(func(r *rsa.PrivateKey) (cryptogram.PrivateKey, error) {
		return &standardKey{r, f.opened}, nil
	})
}

// standardKey is crypto/rsa's private operation as a key of package cryptogram.
// crypto/rsa exports the operation with paddings alone. T1 is one of them, so
// what the server signs, it signs truly. For what it decrypts the work is done
// on a message of its own, and the value is one that is known beforehand.
type standardKey struct {
	*rsa.PrivateKey
	known map[string][]byte
}

func (k *standardKey) Public() *rsa.PublicKey { return &k.PublicKey }

func (k *standardKey) Private(_ context.Context, c []byte) ([]byte, error) {
	if c[0] == 0 && c[1] == 1 {
		i := 2
		for c[i] == 0xFF {
			i++
		}
		return rsa.SignPKCS1v15(nil, k.PrivateKey, crypto.Hash(0), c[i+1:])
	}
	m, ok := k.known[string(c)]
	if !ok {
		return nil, fmt.Errorf("a value that is not known beforehand")
	}
	_, err := rsa.SignPKCS1v15(nil, k.PrivateKey, crypto.Hash(0), message)
	return m, err
}

// PrivateTo makes it a cryptogram.CheckedKey: crypto/rsa has checked the value.
func (k *standardKey) PrivateTo(ctx context.Context, dst, c []byte) error {
	m, err := k.Private(ctx, c)
	copy(dst, m)
	return err
}

// handshakes is a contestant that authenticates the fleet's cards, n at a time,
// with all that package card does for it: APDUs, both layers, session keys.
func (f *fleet) handshakes(ctx context.Context, keys cryptogram.ServerKeys, n int) contestant {
	pace := time.Duration(0) // of a handshake, as the last slice had it
	return func(d time.Duration) (result, error) {
		if pace == 0 {
			start := processorTime()
			if err := f.authenticate(ctx, keys, 0); err != nil {
				return result{}, err
			}
			pace = max(1, processorTime()-start)
		}
		// The same number for each, so that they end together.
		each := max(1, int(d/pace)/n)
		var all sync.WaitGroup
		var failed atomic.Pointer[error]
		start := processorTime()
		for i := range n {
			all.Go(func() {
				for j := range each {
					if err := f.authenticate(ctx, keys, i*each+j); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		all.Wait()
		r := result{count: n * each, spent: processorTime() - start}
		pace = max(1, r.spent/time.Duration(r.count))
		if err := failed.Load(); err != nil {
			return r, *err
		}
		return r, nil
	}
}

func (f *fleet) authenticate(ctx context.Context, keys cryptogram.ServerKeys, i int) error {
	a := &f.cards[i%len(f.cards)]
	t := card.Terminal{Keys: keys, Rand: io.MultiReader(&once{a.rs[:]}, rand.Reader)}
	_, err := t.Authenticate(ctx, apdu.BasicChannel(answering{a.m1}), a.target, [32]byte{})
	return err
}

// once reads as its bytes, and then no more.
type once struct{ rest []byte }

func (o *once) Read(b []byte) (int, error) {
	if len(o.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// answering is a card that has its answers already. It takes extended length.
type answering struct{ m1 []byte }

func (a answering) Transmit(_ context.Context, capdu []byte) ([]byte, error) {
	const internalAuthenticate = 0x88
	if capdu[1] == internalAuthenticate {
		return append(append(make([]byte, 0, len(a.m1)+2), a.m1...), 0x90, 0x00), nil
	}
	return []byte{0x90, 0x00}, nil
}

func (answering) ATR() []byte {
	return []byte{0x3B, 0x85, 0x01, 0x80, 0x73, 0x80, 0x21, 0xC0, 0x96}
}

func (answering) Reset(context.Context) error { return nil }
func (answering) Close() error                { return nil }
