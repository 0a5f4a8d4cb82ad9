package cryptogram

import (
	"context"
	"crypto/rsa"
	"errors"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/rsafast"
)

// scheduled is a set of the vectors' keys in a scheduler's hands.
func scheduled(t testing.TB, s *rsafast.Scheduler, auth []string, enc string) PrivateKeys {
	t.Helper()
	f := vectors.Load(t)
	keys, err := KeysPEM{Auth: f.PEM(auth...), Enc: f.Keys[enc]}.PrivateBy(func(k *rsa.PrivateKey) (PrivateKey, error) { return s.Load(k) })
	require.NoError(t, err)
	keys.Ops = s
	return keys
}

// The vectors hold, whoever does the operations.
func TestVectorsOnRSAFast(t *testing.T) {
	fast := rsafast.NewScheduler(rsafast.Config{})
	defer fast.Close()
	for _, s := range vectors.Load(t).Sets {
		server, card := scheduled(t, fast, s.Keys.ServerAuth, s.Keys.ServerEnc), scheduled(t, fast, s.Keys.CardAuth, s.Keys.CardEnc)
		var _ CheckedKey = server.Enc.(CheckedKey)
		for _, q := range s.Sessions {
			t.Run(s.Name+"/"+q.Purpose, func(t *testing.T) {
				testSession(t, &s, &q, server, card)
				for _, e := range q.Exchanges {
					if v := e.Receipt; v != nil {
						r := Receipt{Suite: Suite(s.Suite), EID: challenge(t, &s, &q).EID, Command: [32]byte(v.CommandHash), Response: v.SignedResponse}
						assert.NoError(t, r.VerifyBy(fast, card.Public(), v.Value))
						r.EID[0]++
						var open *OpenError
						assert.ErrorAs(t, r.VerifyBy(fast, card.Public(), v.Value), &open)
					}
				}
			})
		}
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) PublicTo(context.Context, *rsa.PublicKey, []byte, []byte) error { return errBroken }

func TestOperationsThatFail(t *testing.T) {
	s, q := first(t)
	server, card := sides(t, s)
	c := challenge(t, s, q)
	server.Ops, card.Ops = broken{}, broken{}
	rc := [32]byte(q.RC)
	_, err := c.SealM1(t.Context(), randomOf(&q.M1), card, server.Public(), rc)
	assert.ErrorIs(t, err, errBroken)
	var open *OpenError
	_, err = c.OpenM1(t.Context(), server, card.Public(), q.M1.Envelope)
	assert.ErrorIs(t, err, errBroken)
	assert.False(t, errors.As(err, &open), "it is no fault of the card's")
	_, err = c.SealM2(t.Context(), randomOf(&q.M2), server, card.Public(), &Session{})
	assert.ErrorIs(t, err, errBroken)
	_, err = c.OpenM2(t.Context(), card, server.Public(), rc, q.M2.Envelope)
	assert.ErrorIs(t, err, errBroken)

	v := q.Exchanges[1].Receipt
	r := Receipt{Suite: Suite01, EID: c.EID, Command: [32]byte(v.CommandHash), Response: v.SignedResponse}
	assert.NoError(t, r.VerifyBy(broken{}, card.Public(), v.Value), "this package does it then")
	r.EID[0]++
	assert.ErrorAs(t, r.VerifyBy(broken{}, card.Public(), v.Value), &open)
}

func TestKeysMadeByOthers(t *testing.T) {
	f := vectors.Load(t)
	set := KeySetPEM{ID: 1, KeysPEM: KeysPEM{Auth: f.PEM("server-auth-1"), Enc: f.Keys["server-enc"]}}
	calls := 0
	keys, err := set.PrivateBy(func(r *rsa.PrivateKey) (PrivateKey, error) {
		calls++
		return NewKey(r)
	})
	require.NoError(t, err)
	assert.Equal(t, 2, calls)
	plain, err := set.Private()
	require.NoError(t, err)
	assert.Equal(t, plain.SID(), keys.SID())
	_, err = set.PrivateBy(func(*rsa.PrivateKey) (PrivateKey, error) { return nil, errBroken })
	assert.ErrorIs(t, err, ErrKey)
	assert.ErrorIs(t, err, errBroken)
	set.ID = 16
	_, err = set.PrivateBy(func(*rsa.PrivateKey) (PrivateKey, error) { panic("asked") })
	assert.ErrorIs(t, err, ErrKey)
}

// ofLength is something like a public key of so many bits.
func ofLength(bits int) *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: Exponent}
}

func TestKeysOfOtherSizesAreRefused(t *testing.T) {
	s, q := first(t)
	server, _ := sides(t, s)
	c := challenge(t, s, q)
	for _, bits := range []int{1024, 2040, 8192} {
		odd := ofLength(bits)
		peer := PublicKeys{Auth: []*rsa.PublicKey{odd}, Enc: odd}
		_, err := Seal(randomOf(&q.M1), odd, make([]byte, 8))
		assert.ErrorIs(t, err, ErrKey, "%d bits", bits)
		_, err = PubDec(peer.Auth, make([]byte, bits/8), 8)
		assert.ErrorIs(t, err, ErrKey)
		_, err = c.SealM2(t.Context(), randomOf(&q.M2), server, peer, &Session{})
		assert.ErrorIs(t, err, ErrKey)
		_, err = c.OpenM1(t.Context(), server, peer, make([]byte, EnvelopeLen(server.Enc.Public(), bits/8)))
		assert.ErrorIs(t, err, ErrKey)
		_ = ServerID(1, peer) // any size has an identity
		assert.Error(t, (&Receipt{Suite: Suite01}).Verify(peer, make([]byte, bits/8)))
	}
}

// The longest envelope fits a workspace, whichever keys it is for.
func TestWorkspaceIsLongEnough(t *testing.T) {
	for _, bits := range []int{2048, 3072, 4096} {
		k := ofLength(bits)
		for m := range maxModulus + 1 {
			require.LessOrEqual(t, EnvelopeLen(k, m), len(workspace{}))
		}
	}
}
