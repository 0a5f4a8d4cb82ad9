package cardtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// link is a way to authenticate: a channel, a key set, a suite.
type link struct {
	*bench
	ch     *apdu.Channel
	server cryptogram.ServerKeys
	suite  cryptogram.Suite
}

// link is the card's usual one, on the basic channel.
func (b *bench) link() link {
	return link{bench: b, ch: b.basic, server: b.card.Server, suite: b.rec.Target().Suite}
}

func (l link) over(ch *apdu.Channel) link {
	l.ch = ch
	return l
}

func (l link) in(s cryptogram.Suite) link {
	l.suite = s
	return l
}

func (l link) by(k cryptogram.ServerKeys) link {
	l.server = k
	return l
}

func (l link) internal(rs []byte) apdu.Command {
	return apdu.Command{INS: insInternal, P1: byte(l.suite), P2: l.server.KID, Data: rs, Ne: l.ch.MaxNe()}
}

func (l link) external(m2 []byte) apdu.Command {
	return apdu.Command{INS: insExternal, P1: byte(l.suite), P2: l.server.KID, Data: m2}
}

// challenge is a card that is CHALLENGED (§4).
type challenge struct {
	link
	cryptogram.Challenge
	rc [32]byte
	m1 []byte
}

// challenge carries out INTERNAL AUTHENTICATE and opens M1.
func (l link) challenge() *challenge {
	l.Helper()
	c := l.draw()
	data, sw := l.exchange(l.ch, l.internal(c.RS[:]))
	require.Equal(l, apdu.SWSuccess.Hex(), sw.Hex(), "INTERNAL AUTHENTICATE")
	c.take(data)
	return c
}

// draw draws RS for a challenge.
func (l link) draw() *challenge {
	return &challenge{link: l, Challenge: cryptogram.Challenge{
		Suite: l.suite, KID: l.server.KID, RS: [16]byte(random(16)), SID: l.server.SID(), EID: l.rec.EID,
	}}
}

// take opens M1.
func (c *challenge) take(m1 []byte) {
	c.Helper()
	var err error
	c.m1 = m1
	c.rc, err = c.OpenM1(c.Context(), c.server.PrivateKeys, c.rec.Keys, m1)
	require.NoError(c, err, "M1 opens under the registered keys and matches")
}

// secrets draws RK.
func (c *challenge) secrets(hc [32]byte) *cryptogram.Session {
	return &cryptogram.Session{RC: c.rc, RK: [16]byte(random(16)), HC: hc}
}

// seal is M2.
func (c *challenge) seal(s *cryptogram.Session) []byte {
	c.Helper()
	m2, err := c.SealM2(c.Context(), rand.Reader, c.server.PrivateKeys, c.rec.Keys, s)
	require.NoError(c, err)
	return m2
}

// answer is a good M2, for a session that only reads.
func (c *challenge) answer() []byte {
	c.Helper()
	return c.seal(c.secrets([32]byte{}))
}

// try carries out EXTERNAL AUTHENTICATE and expects a status word.
func (c *challenge) try(want apdu.StatusWord, m2 []byte, what ...any) {
	c.Helper()
	assert.Empty(c, c.expect(want, c.ch, c.external(m2), what...), what...)
}

// session ends the authentication.
func (c *challenge) session(hc [32]byte) *session {
	c.Helper()
	s := c.secrets(hc)
	_, sw := c.exchange(c.ch, c.external(c.seal(s)))
	require.Equal(c, apdu.SWSuccess.Hex(), sw.Hex(), "EXTERNAL AUTHENTICATE")
	return c.start(s)
}

func (l link) session(hc [32]byte) *session {
	l.Helper()
	return l.challenge().session(hc)
}

// reading is a session that only reads.
func (l link) reading() *session {
	l.Helper()
	return l.session([32]byte{})
}

// message is m2, in a slice of its own.
func (c *challenge) message() []byte {
	bind := sha256.New()
	bind.Write(c.RS[:])
	bind.Write(c.SID[:])
	bind.Write(c.EID[:])
	m := append([]byte{0xA2, 0x01, byte(c.Suite), c.KID}, c.rc[:]...)
	m = append(m, random(16)...)       // RK
	m = append(m, make([]byte, 32)...) // HC
	return append(m, bind.Sum(nil)[:16]...)
}

// block is T1(m, k).
func block(m []byte, k int) []byte {
	b := make([]byte, k)
	b[1] = 0x01
	for i := 2; i < k-len(m)-1; i++ {
		b[i] = 0xFF
	}
	copy(b[k-len(m):], m)
	return b
}

// sign runs a block through private keys in order.
func (b *bench) sign(keys []cryptogram.PrivateKey, x []byte) []byte {
	b.Helper()
	for _, k := range keys {
		var err error
		x, err = k.Private(b.Context(), x)
		require.NoError(b, err)
	}
	return x
}

// keys is the auth keys of the link's suite.
func (l link) keys() []cryptogram.PrivateKey { return l.server.Auth[:l.suite.Layers()] }

// width is k of the link's auth keys, bytes.
func (l link) width() int { return l.server.Auth[0].Public().Size() }

// envelope is Env(pk, x) in parts that can be spoilt: what OAEP gets, and the
// tail before encryption, padded; the tail is empty where x fits OAEP.
type envelope struct {
	head, tail []byte
	key        [16]byte
}

const oaepOver = 66 // bytes that OAEP with SHA-256 adds

func newEnvelope(pk *rsa.PublicKey, x []byte) envelope {
	room := pk.Size() - oaepOver
	if len(x) <= room {
		return envelope{head: x}
	}
	e := envelope{key: [16]byte(random(16))}
	n := room - len(e.key)
	e.head = append(e.key[:], x[:n]...)
	e.tail = append(append(e.tail, x[n:]...), 0x80)
	for len(e.tail)%aes.BlockSize != 0 {
		e.tail = append(e.tail, 0)
	}
	return e
}

// seal is the envelope's bytes.
func (b *bench) envelope(pk *rsa.PublicKey, e envelope) []byte {
	b.Helper()
	out, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pk, e.head, nil)
	require.NoError(b, err)
	return append(out, e.closedTail()...)
}

func (e envelope) closedTail() []byte {
	key, err := aes.NewCipher(e.key[:])
	if err != nil {
		panic(err) // 16 bytes are always a key
	}
	tail := make([]byte, len(e.tail))
	cipher.NewCBCEncrypter(key, make([]byte, aes.BlockSize)).CryptBlocks(tail, e.tail)
	return tail
}

// above is x + n in as many bytes: the same residue, out of range. ok reports
// whether it fits.
func above(x []byte, n *big.Int) (y []byte, ok bool) {
	sum := new(big.Int).Add(new(big.Int).SetBytes(x), n)
	if sum.BitLen() > 8*len(x) {
		return nil, false
	}
	return sum.FillBytes(make([]byte, len(x))), true
}
