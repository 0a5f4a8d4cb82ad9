package cryptogram

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

// loaded is the keys of the vectors, parsed once.
var loaded = map[string]PrivateKey{}

func key(t testing.TB, name string) PrivateKey {
	t.Helper()
	if k, ok := loaded[name]; ok {
		return k
	}
	r, err := ParsePrivate(vectors.Load(t).Keys[name])
	require.NoError(t, err)
	k, err := NewKey(r)
	require.NoError(t, err)
	loaded[name] = k
	return k
}

func keys(t testing.TB, auth []string, enc string) PrivateKeys {
	t.Helper()
	set := PrivateKeys{Enc: key(t, enc)}
	for _, name := range auth {
		set.Auth = append(set.Auth, key(t, name))
	}
	require.NoError(t, set.Public().Validate())
	return set
}

// sides is the server's and the card's keys of a set.
func sides(t testing.TB, s *vectors.Set) (server, card PrivateKeys) {
	t.Helper()
	return keys(t, s.Keys.ServerAuth, s.Keys.ServerEnc), keys(t, s.Keys.CardAuth, s.Keys.CardEnc)
}

func challenge(t testing.TB, s *vectors.Set, q *vectors.Session) *Challenge {
	t.Helper()
	c := &Challenge{Suite: Suite(s.Suite), KID: s.KID, SID: [32]byte(s.SID), RS: [16]byte(q.RS)}
	for i := range c.EID {
		c.EID[i] = (s.EID[2*i]-'0')<<4 | (s.EID[2*i+1] - '0')
	}
	return c
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// randomOf is what Seal reads: K, where there is a tail, then the seed.
func randomOf(e *vectors.Envelope) io.Reader {
	return bytes.NewReader(join(e.EnvelopeKey, e.OAEPSeed))
}

func TestVectors(t *testing.T) {
	f := vectors.Load(t)
	for _, s := range f.Sets {
		t.Run(s.Name, func(t *testing.T) {
			server, card := sides(t, &s)
			sum := sha256.Sum256(s.SIDInput)
			assert.Equal(t, []byte(s.SID), sum[:])
			sid := ServerID(s.KID, server.Public())
			assert.Equal(t, []byte(s.SID), sid[:])
			assert.Equal(t, sid, ServerKeys{KID: s.KID, PrivateKeys: server}.SID())
			for _, q := range s.Sessions {
				t.Run(q.Purpose, func(t *testing.T) { testSession(t, &s, &q, server, card) })
			}
		})
	}
}

func testSession(t *testing.T, s *vectors.Set, q *vectors.Session, server, card PrivateKeys) {
	ctx := t.Context()
	c := challenge(t, s, q)
	session := &Session{RC: [32]byte(q.RC), RK: [16]byte(q.RK), HC: HashCommand(q.HCInput[0], q.HCInput[1:])}
	assert.Equal(t, []byte(q.HC), session.HC[:])

	m1, m2 := c.m1(session.RC), c.m2(session)
	testEnvelope(t, &q.M1, m1[:], card.Auth[:c.Suite.Layers()], server.Enc)
	testEnvelope(t, &q.M2, m2[:], server.Auth[:c.Suite.Layers()], card.Enc)

	sealed, err := c.SealM1(ctx, randomOf(&q.M1), card, server.Public(), session.RC)
	require.NoError(t, err)
	assert.Equal(t, []byte(q.M1.Envelope), sealed)
	rc, err := c.OpenM1(ctx, server, card.Public(), sealed)
	require.NoError(t, err)
	assert.Equal(t, session.RC, rc)
	sealed, err = c.SealM2(ctx, randomOf(&q.M2), server, card.Public(), session)
	require.NoError(t, err)
	assert.Equal(t, []byte(q.M2.Envelope), sealed)
	opened, err := c.OpenM2(ctx, card, server.Public(), rc, sealed)
	require.NoError(t, err)
	assert.Equal(t, *session, *opened)

	for _, k := range []struct{ input, want vectors.Hex }{{q.KencInput, q.Kenc}, {q.KmacInput, q.Kmac}} {
		sum := sha256.Sum256(k.input)
		assert.Equal(t, []byte(k.want), sum[:16])
	}
	sk := c.Keys(session)
	assert.Equal(t, []byte(q.Kenc), sk.Enc[:])
	assert.Equal(t, []byte(q.Kmac), sk.Mac[:])

	for _, e := range q.Exchanges {
		if e.Receipt == nil {
			continue
		}
		v := e.Receipt
		r := Receipt{Suite: c.Suite, EID: c.EID, Command: HashCommand(e.HeaderInMAC[1], e.CommandData), Response: v.SignedResponse}
		assert.Equal(t, []byte(v.CommandHash), r.Command[:])
		sum := sha256.Sum256(r.Response)
		assert.Equal(t, []byte(v.ResponseHash), sum[:])
		m := r.message()
		assert.Equal(t, []byte(v.Message), m[:])
		testLayers(t, v.T1, v.AfterPrivateKey, m[:], card.Auth[:c.Suite.Layers()])
		value, err := r.Sign(ctx, card)
		require.NoError(t, err)
		assert.Equal(t, []byte(v.Value), value)
		assert.NoError(t, r.Verify(card.Public(), value))
	}
}

// testLayers checks T1 and the value after each private key.
func testLayers(t *testing.T, t1 []byte, after []vectors.Hex, m []byte, auth []PrivateKey) {
	t.Helper()
	k := auth[0].Public().Size()
	assert.Equal(t, t1, t1Of(m, k))
	require.Len(t, after, len(auth))
	x := t1
	for i, a := range auth {
		var err error
		x, err = a.Private(t.Context(), x)
		require.NoError(t, err)
		assert.Equal(t, []byte(after[i]), x, "after key %d", i+1)
	}
	signed, err := PrivEnc(t.Context(), auth, m)
	require.NoError(t, err)
	assert.Equal(t, x, signed)
	pub := PrivateKeys{Auth: auth, Enc: auth[0]}.Public().Auth
	back, err := PubDec(pub, signed, len(m))
	require.NoError(t, err)
	assert.Equal(t, m, back)
}

func testEnvelope(t *testing.T, v *vectors.Envelope, m []byte, auth []PrivateKey, enc PrivateKey) {
	t.Helper()
	assert.Equal(t, []byte(v.Message), m)
	testLayers(t, v.T1, v.AfterPrivateKey, m, auth)
	x := v.AfterPrivateKey[len(auth)-1]
	assert.Equal(t, []byte(v.OAEPPlaintext), join(v.EnvelopeKey, x)[:len(v.OAEPPlaintext)])

	// The parts, made with the standard library.
	oaep, err := oaepOf(bytes.NewReader(v.OAEPSeed), enc.Public(), v.OAEPPlaintext)
	require.NoError(t, err)
	assert.Equal(t, []byte(v.OAEPCiphertext), oaep)
	assert.Equal(t, []byte(v.OAEPPlaintext), decryptOAEPStd(t, enc, oaep))
	assert.Equal(t, []byte(v.Envelope), join(v.OAEPCiphertext, v.TailCiphertext))
	if v.EnvelopeKey != nil {
		assert.Equal(t, []byte(v.TailPadded), cbcDecrypt(t, v.EnvelopeKey, v.TailCiphertext))
	} else {
		assert.Empty(t, v.TailPadded)
		assert.Empty(t, v.TailCiphertext)
	}
	assert.Equal(t, len(v.Envelope), EnvelopeLen(enc.Public(), len(x)))
	sealed, err := Seal(randomOf(v), enc.Public(), x)
	require.NoError(t, err)
	assert.Equal(t, []byte(v.Envelope), sealed)
	opened, ok, err := open(t.Context(), enc, nil, sealed, len(x))
	require.NoError(t, err)
	assert.Equal(t, 1, ok)
	assert.Equal(t, []byte(x), opened)
}

func TestNegativeVectors(t *testing.T) {
	f := vectors.Load(t)
	for _, n := range f.Negative {
		s, q := f.Find(n)
		require.NotNil(t, s, n.Name)
		server, card := sides(t, s)
		c := challenge(t, s, q)
		switch n.InputIs {
		case "M1":
			rc, err := c.OpenM1(t.Context(), server, card.Public(), n.Input)
			var open *OpenError
			require.ErrorAs(t, err, &open, n.Name)
			assert.EqualError(t, err, (&OpenError{}).Error(), "one text for all reasons")
			assert.Zero(t, rc)
			reason := map[string]string{"M1 for another RS": "RS", "M1 for another server": "SID", "M1 of another card": "EID"}[n.Name]
			assert.Equal(t, "M1: "+reason, open.Reason, n.Name)
		case "M2":
			_, err := c.OpenM2(t.Context(), card, server.Public(), [32]byte(q.RC), n.Input)
			if n.Must == "6700" {
				assert.ErrorIs(t, err, ErrLength, n.Name)
				continue
			}
			assert.Equal(t, &OpenError{Reason: "M2"}, err, n.Name)
		case "answer":
			// 90 to 95, then 9E 82 01 00.
			at := len(n.Input) - 256 - 4
			r := Receipt{Suite: c.Suite, EID: c.EID, Command: [32]byte(q.HC), Response: n.Input[:at]}
			var open *OpenError
			require.ErrorAs(t, r.Verify(card.Public(), n.Input[at+4:]), &open, n.Name)
			r.Command = HashCommand(0x44, q.HCInput[1:])
			assert.NoError(t, r.Verify(card.Public(), n.Input[at+4:]), n.Why)
		}
	}
}

func t1Of(m []byte, k int) []byte {
	x := make([]byte, k)
	putT1(x, m)
	return x
}

func oaepOf(rand io.Reader, pk *rsa.PublicKey, m []byte) ([]byte, error) {
	em := make([]byte, pk.Size())
	copy(em[len(em)-len(m):], m)
	return em, encryptOAEP(context.Background(), nil, rand, pk, em, len(m))
}

func publicOf(pk *rsa.PublicKey, x []byte) ([]byte, error) {
	x = bytes.Clone(x)
	return x, public(context.Background(), nil, pk, x)
}

func first(t testing.TB) (*vectors.Set, *vectors.Session) {
	f := vectors.Load(t)
	return &f.Sets[0], &f.Sets[0].Sessions[0]
}

func triple(t testing.TB) (*vectors.Set, *vectors.Session) {
	f := vectors.Load(t)
	return &f.Sets[1], &f.Sets[1].Sessions[0]
}

// Whatever a message's receiver expects otherwise makes it reject.
func TestEveryFieldOfTheChallengeCounts(t *testing.T) {
	s, q := triple(t)
	server, card := sides(t, s)
	good := challenge(t, s, q)
	changes := map[string]func(*Challenge){
		"suite":     func(c *Challenge) { c.Suite = Suite01 },
		"kid":       func(c *Challenge) { c.KID++ },
		"RS":        func(c *Challenge) { c.RS[15] ^= 1 },
		"SID":       func(c *Challenge) { c.SID[0] ^= 1 },
		"EID":       func(c *Challenge) { c.EID[7] ^= 1 },
		"SID's end": func(c *Challenge) { c.SID[31] ^= 1 }, // M2 has all of it, M1 the first half
	}
	for name, change := range changes {
		c := *good
		change(&c)
		var open *OpenError
		_, err := c.OpenM1(t.Context(), server, card.Public(), q.M1.Envelope)
		if name == "SID's end" {
			assert.NoError(t, err)
		} else {
			assert.ErrorAs(t, err, &open, name)
		}
		_, err = c.OpenM2(t.Context(), card, server.Public(), [32]byte(q.RC), q.M2.Envelope)
		assert.ErrorAs(t, err, &open, name)
	}
	rc := [32]byte(q.RC)
	rc[31] ^= 0x80
	_, err := good.OpenM2(t.Context(), card, server.Public(), rc, q.M2.Envelope)
	assert.Equal(t, &OpenError{Reason: "M2"}, err)
}

func TestReceiptOfAnything(t *testing.T) {
	s, q := first(t)
	_, card := sides(t, s)
	v := q.Exchanges[1].Receipt
	good := Receipt{Suite: Suite01, EID: challenge(t, s, q).EID, Command: [32]byte(v.CommandHash), Response: v.SignedResponse}
	pub := card.Public()
	require.NoError(t, good.Verify(pub, v.Value))
	for name, change := range map[string]func(*Receipt){
		"EID":            func(r *Receipt) { r.EID[0] ^= 1 },
		"command":        func(r *Receipt) { r.Command[0] ^= 1 },
		"response":       func(r *Receipt) { r.Response = append(slices.Clone(r.Response), 0) },
		"suite 03":       func(r *Receipt) { r.Suite = Suite03 },
		"no such suite":  func(r *Receipt) { r.Suite = 2 },
		"suite 00":       func(r *Receipt) { r.Suite = 0 },
		"a suite of 255": func(r *Receipt) { r.Suite = 255 },
	} {
		r := good
		change(&r)
		var open *OpenError
		assert.ErrorAs(t, r.Verify(pub, v.Value), &open, name)
	}
	for _, value := range [][]byte{nil, v.Value[1:], append(slices.Clone(v.Value), 0), make([]byte, 256), bytes.Repeat([]byte{0xFF}, 256)} {
		var open *OpenError
		assert.ErrorAs(t, good.Verify(pub, value), &open)
	}
}

func TestSuitesWithoutKeys(t *testing.T) {
	s, q := first(t)
	server, card := sides(t, s) // one auth key each
	for _, suite := range []Suite{0, 2, Suite03, 255} {
		c := challenge(t, s, q)
		c.Suite = suite
		_, err := c.SealM1(t.Context(), randomOf(&q.M1), card, server.Public(), [32]byte{})
		assert.ErrorIs(t, err, ErrKey)
		_, err = c.OpenM1(t.Context(), server, card.Public(), q.M1.Envelope)
		assert.ErrorIs(t, err, ErrKey)
		_, err = c.SealM2(t.Context(), randomOf(&q.M2), server, card.Public(), &Session{})
		assert.ErrorIs(t, err, ErrKey)
		_, err = c.OpenM2(t.Context(), card, server.Public(), [32]byte{}, q.M2.Envelope)
		assert.ErrorIs(t, err, ErrKey)
		_, err = (&Receipt{Suite: suite}).Sign(t.Context(), card)
		assert.ErrorIs(t, err, ErrKey)
		assert.False(t, card.Public().Supports(suite))
	}
	assert.True(t, card.Public().Supports(Suite01))
	assert.Equal(t, "03", Suite03.String())
}

// failing gives n bytes and then no more.
type failing int

func (f *failing) Read(b []byte) (int, error) {
	n := min(len(b), int(*f))
	*f -= failing(n)
	if n == 0 {
		return 0, io.ErrNoProgress
	}
	return n, nil
}

func TestNoRandomness(t *testing.T) {
	s, q := first(t)
	server, card := sides(t, s)
	for n := range 16 + 32 { // K and the seed
		f := failing(n)
		_, err := challenge(t, s, q).SealM2(t.Context(), &f, server, card.Public(), &Session{})
		assert.Error(t, err, "%d random bytes", n)
	}
	_, err := oaepOf(new(failing), card.Enc.Public(), nil)
	assert.ErrorIs(t, err, io.ErrNoProgress)
}

func TestNothingSecretIsPrinted(t *testing.T) {
	s, q := first(t)
	server, _ := sides(t, s)
	c := challenge(t, s, q)
	session := Session{RC: [32]byte(q.RC), RK: [16]byte(q.RK), HC: [32]byte(q.HC)}
	sk := c.Keys(&session)
	own := server.Auth[0].(*Key)
	pem := KeysPEM{Auth: []string{vectors.Load(t).Keys["server-auth-1"]}, Enc: vectors.Load(t).Keys["server-enc"]}
	secrets := [][]byte{q.RC, q.RK, q.Kenc, q.Kmac, own.dp, own.dq, own.p.Nat().Bytes(own.p), own.q.Nat().Bytes(own.q)}
	for _, v := range []any{
		session, &session, sk, &sk, own, *own, server, &server, server.Auth, ServerKeys{KID: 1, PrivateKeys: server},
		&ServerKeys{KID: 1, PrivateKeys: server}, pem, &pem, KeySetPEM{ID: 1, KeysPEM: pem}, &KeySetPEM{ID: 1, KeysPEM: pem},
		struct{ K PrivateKey }{own}, []Session{session}, map[string]SessionKeys{"a": sk},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X"} {
			out := fmt.Sprintf(verb, v)
			assert.NotContains(t, out, "PRIVATE KEY-----", "%T %s", v, verb)
			for _, secret := range secrets {
				for _, form := range []string{"%x", "%X", "%v", "%#v"} {
					printed := fmt.Sprintf(form, secret[:8])
					printed = printed[:len(printed)-1] // without a closing bracket
					assert.NotContains(t, out, printed[min(len(printed), 1):], "%T %s", v, verb)
				}
			}
		}
	}
}

func ExampleChallenge() {
	f, err := vectors.Read()
	if err != nil {
		panic(err)
	}
	serverKeys, _ := KeysPEM{Auth: f.PEM("server-auth-1"), Enc: f.Keys["server-enc"]}.Private()
	cardKeys, _ := KeysPEM{Auth: f.PEM("card-auth-1"), Enc: f.Keys["card-enc"]}.Private()
	ctx, random := context.Background(), bytes.NewReader(make([]byte, 1024)) // crypto/rand outside an example

	c := Challenge{Suite: Suite01, KID: 1, RS: [16]byte{1}, SID: ServerID(1, serverKeys.Public()), EID: [16]byte{0x89, 0x04}}
	rc := [32]byte{2}
	m1, err := c.SealM1(ctx, random, cardKeys, serverKeys.Public(), rc)
	fmt.Println(len(m1), err)
	opened, err := c.OpenM1(ctx, serverKeys, cardKeys.Public(), m1)
	fmt.Println(opened == rc, err)

	session := &Session{RC: opened, RK: [16]byte{3}, HC: HashCommand(0x04, []byte{0x82, 0x00})}
	m2, err := c.SealM2(ctx, random, serverKeys, cardKeys.Public(), session)
	fmt.Println(len(m2), err)
	atCard, err := c.OpenM2(ctx, cardKeys, serverKeys.Public(), rc, m2)
	fmt.Println(c.Keys(atCard) == c.Keys(session), err)
	// Output:
	// 352 <nil>
	// true <nil>
	// 352 <nil>
	// true <nil>
}
