//go:build !race

package cryptogram

import (
	"context"
	"crypto/rsa"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// known answers private and public operations out of what it has seen, in no
// memory of its own.
type known struct {
	PrivateKey
	seen map[[256]byte][256]byte
}

func (k known) PrivateTo(ctx context.Context, dst, c []byte) error {
	if y, ok := k.seen[[256]byte(c)]; ok {
		copy(dst, y[:])
		return nil
	}
	y, err := k.Private(ctx, c)
	if err != nil {
		return err
	}
	k.seen[[256]byte(c)] = [256]byte(y)
	copy(dst, y)
	return nil
}

type knownPublic map[*rsa.PublicKey]map[[256]byte][256]byte

func (ops knownPublic) PublicTo(_ context.Context, k *rsa.PublicKey, dst, x []byte) error {
	if y, ok := ops[k][[256]byte(x)]; ok {
		copy(dst, y[:])
		return nil
	}
	if ops[k] == nil {
		ops[k] = map[[256]byte][256]byte{}
	}
	in := [256]byte(x)
	if err := publicTo(k, dst, x); err != nil {
		return err
	}
	ops[k][in] = [256]byte(dst)
	return nil
}

// zeroes are random bytes that come again.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// Around the RSA operations themselves a message costs the memory of what it
// gives, the key schedule of an envelope's tail, which crypto/aes makes, and
// no other.
func TestAllocations(t *testing.T) {
	s, q := triple(t)
	server, card := sides(t, s)
	ops := knownPublic{}
	recall := func(k PrivateKeys) PrivateKeys {
		out := PrivateKeys{Enc: known{k.Enc, map[[256]byte][256]byte{}}, Ops: ops}
		for _, a := range k.Auth {
			out.Auth = append(out.Auth, known{a, map[[256]byte][256]byte{}})
		}
		return out
	}
	server, card = recall(server), recall(card)
	serverPublic, cardPublic := server.Public(), card.Public()
	c, ctx, rc := challenge(t, s, q), t.Context(), [32]byte(q.RC)
	var random io.Reader = zeroes{}
	var m1, m2, receipt []byte
	var session *Session
	var err error
	count := func(name string, want float64, f func()) {
		f()
		require.NoError(t, err, name)
		assert.Equal(t, want, testing.AllocsPerRun(100, f), name)
	}
	const keySchedule = 1
	count("SealM1", 1+keySchedule, func() { m1, err = c.SealM1(ctx, random, card, serverPublic, rc) })
	count("OpenM1", 0+keySchedule, func() { rc, err = c.OpenM1(ctx, server, cardPublic, m1) })
	session = &Session{RC: rc}
	count("SealM2", 1+keySchedule, func() { m2, err = c.SealM2(ctx, random, server, cardPublic, session) })
	count("OpenM2", 1+keySchedule, func() { session, err = c.OpenM2(ctx, card, serverPublic, rc, m2) })
	count("Keys", 0, func() { c.Keys(session) })
	count("HashCommand", 0, func() { HashCommand(4, m2) })
	r := Receipt{Suite: c.Suite, EID: c.EID, Response: m1}
	count("Receipt.Sign", 1, func() { receipt, err = r.Sign(ctx, card) })
	count("Receipt.VerifyBy", 0, func() { err = r.VerifyBy(ops, cardPublic, receipt) })
}
