package cardtest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"maps"
	"math/big"
	"slices"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

var layers = []test{
	{section: "§3", name: "M1 is an envelope of its receiver's length, and never the same", on: standard, run: func(b *bench) {
		links := []link{b.link()}
		if b.card.Other != nil {
			links = append(links, b.link().in(1).by(*b.card.Other))
		} else {
			b.omit("no second key set with another enc key")
		}
		for _, l := range links {
			first, second := l.challenge(), l.challenge()
			want := cryptogram.EnvelopeLen(l.server.Enc.Public(), l.rec.Keys.Auth[0].Size())
			assert.Len(b, first.m1, want, "key set %d", l.server.KID)
			assert.NotEqual(b, first.rc, second.rc, "RC")
			assert.NotEqual(b, first.m1[:16], second.m1[:16], "OAEP part")
		}
	}},
	{section: "§3", name: "M2 with a spoilt private-key layer, suite 01", on: standard, needs: twoSuites, run: func(b *bench) {
		b.link().in(1).rejects(spoiltSignatures)
	}},
	{section: "§3", name: "M2 with a spoilt private-key layer, suite 03", on: standard, needs: twoSuites, run: func(b *bench) {
		b.link().in(3).rejects(spoiltSignatures)
	}},
	{section: "§3", name: "M2 with a spoilt envelope", on: standard, run: func(b *bench) { b.link().rejects(spoiltEnvelopes) }},
	{section: "§3", name: "M2 in one OAEP block", on: largeEnc, run: func(b *bench) {
		b.link().reading().alive()
		b.link().rejects(spoiltEnvelopes)
	}},
}

// spoilt is M2s that are wrong in one thing, by name; each is made when it is
// sent.
type spoilt map[string]func() []byte

// rejects expects that a card answers each M2 with 6300 and no data. A card
// takes 14 between two resets; one more closes it.
func (l link) rejects(spoil func(*challenge) spoilt) {
	l.Helper()
	names := slices.Sorted(maps.Keys(spoil(l.challenge())))
	for i, name := range names {
		if i%(failuresPerReset-1) == 0 {
			l.reset()
			l.ch = l.basic
		}
		c := l.challenge()
		m2 := spoil(c)[name]()
		c.try(apdu.SWAuthenticationFailed, m2, name)
		c.try(apdu.SWConditionsNotSatisfied, c.answer(), "%s: the RC is spent", name)
	}
	l.reset()
	l.ch = l.basic
	l.reading().alive("a good M2 still does it")
}

// roomAbove reports whether one number in 64 or more, below n, still has n's
// length after n is added to it.
func (b *bench) roomAbove(n *big.Int) bool {
	if n.Bytes()[0] < 0xFC {
		return true
	}
	b.omit("a number not below n: n is too near to a power of 2")
	return false
}

// spoiltSignatures is wrong messages, wrong blocks and wrong private-key
// operations, each in a good envelope.
func spoiltSignatures(c *challenge) spoilt {
	k := c.width()
	message := c.message()
	good := block(message, k)
	sep := k - len(message) - 1
	out := spoilt{}
	put := func(name string, x func() []byte) {
		out[name] = func() []byte { return c.envelope(c.rec.Keys.Enc, newEnvelope(c.rec.Keys.Enc, x())) }
	}
	signed := func(name string, blk []byte) { put(name, func() []byte { return c.sign(c.keys(), blk) }) }
	by := func(name string, keys []cryptogram.PrivateKey) {
		put(name, func() []byte { return c.sign(keys, good) })
	}

	with := func(name string, at int, v byte) {
		m := bytes.Clone(message)
		m[at] = v
		signed(name, block(m, k))
	}
	with("tag of M1", 0, 0xA1)
	with("tag of a receipt", 0, 0xA3)
	with("version 02", 1, 0x02)
	with("other suite inside", 2, byte(4-c.Suite))
	with("other kid inside", 3, c.KID^0x01)
	for _, at := range []int{4, 35, 84, 99} { // RC, H(RS ‖ SID ‖ EID)
		with(fmt.Sprintf("byte %d of m2 wrong", at), at, message[at]^0x01)
	}
	signed("m2 one byte short", block(message[:len(message)-1], k))
	signed("m2 one byte long", block(append(bytes.Clone(message), 0), k))
	signed("m2 one byte long in front", block(append([]byte{0x00}, message...), k))

	edit := func(name string, at int, v byte) {
		b := bytes.Clone(good)
		b[at] = v
		signed(name, b)
	}
	edit("T1 begins with 01", 0, 0x01)
	edit("block type 00", 1, 0x00)
	edit("block type 02", 1, 0x02)
	edit("padding byte FE first", 2, 0xFE)
	edit("padding byte FE last", sep-1, 0xFE)
	edit("padding byte 00", sep-20, 0x00)
	edit("separator 01", sep, 0x01)
	edit("separator FF", sep, 0xFF)
	front := append([]byte{0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0}, message...)
	signed("m2 in front, rubbish behind", append(front, bytes.Repeat([]byte{0xFF}, k-len(front))...))

	by("no signature", nil)
	put("a bit of the signature", func() []byte {
		x := c.sign(c.keys(), good)
		x[k-1] ^= 0x01
		return x
	})
	if n := c.keys()[len(c.keys())-1].Public().N; c.roomAbove(n) {
		put("x not below n", func() []byte {
			for { // another RK each time, until x + n fits into k bytes
				if y, ok := above(c.sign(c.keys(), block(c.message(), k)), n); ok {
					return y
				}
			}
		})
	}
	switch auth := c.server.Auth; {
	case c.suite == cryptogram.Suite03:
		by("one signature for three", auth[:1])
		by("two signatures for three", auth[:2])
	case len(auth) == 3:
		by("three signatures for one", auth)
		by("the second key for the first", auth[1:2])
	}
	bound := func(name string, change func(*challenge)) {
		d := *c
		change(&d)
		signed(name, block(d.message(), k))
	}
	bound("H over another RS", func(d *challenge) { d.RS[0] ^= 0x01 })
	bound("H over another EID", func(d *challenge) { d.EID[15] ^= 0x01 })
	bound("H over half of the SID", func(d *challenge) { d.SID[31] ^= 0x01 })
	if other := c.card.Other; other != nil {
		bound("H over another server's SID", func(d *challenge) { d.SID = other.SID() })
		if c.suite == cryptogram.Suite01 && other.Auth[0].Public().Size() == k {
			by("signed by another server", other.Auth)
		}
	}
	return out
}

// spoiltEnvelopes is a good signature in wrong envelopes of the right length.
func spoiltEnvelopes(c *challenge) spoilt {
	c.Helper()
	pk := c.rec.Keys.Enc
	k := pk.Size()
	e := newEnvelope(pk, c.sign(c.keys(), block(c.message(), c.width())))
	good := c.envelope(pk, e)
	out := spoilt{}
	put := func(name string, edit func(m2 []byte)) {
		out[name] = func() []byte {
			b := bytes.Clone(good)
			edit(b)
			return b
		}
	}
	put("OAEP part, a bit at its end", func(b []byte) { b[k-1] ^= 0x01 })
	put("OAEP part, a bit in its middle", func(b []byte) { b[k/2] ^= 0x01 })
	put("OAEP part 0", func(b []byte) { clear(b[:k]) })
	put("OAEP part 1", func(b []byte) { clear(b[:k]); b[k-1] = 1 })
	if c.roomAbove(pk.N) {
		out["OAEP part not below n"] = func() []byte {
			for { // another seed each time, until the number + n fits into k bytes
				b := c.envelope(pk, e)
				if y, ok := above(b[:k], pk.N); ok {
					return append(y, b[k:]...)
				}
			}
		}
	}
	out["OAEP message one byte short"] = func() []byte {
		short := e
		short.head = e.head[:len(e.head)-1]
		return c.envelope(pk, short)
	}
	oaep := func(name string, h func() hash.Hash, label string) {
		out[name] = func() []byte {
			b, err := rsa.EncryptOAEP(h(), rand.Reader, pk, e.head, []byte(label))
			require.NoError(c, err)
			return append(b, e.closedTail()...)
		}
	}
	oaep("OAEP with SHA-1", sha1.New, "")
	oaep("OAEP with a label", sha256.New, "M2")
	if len(e.tail) == 0 {
		return out
	}
	put("tail, its first bit", func(b []byte) { b[k] ^= 0x01 })
	put("tail, its last bit", func(b []byte) { b[len(b)-1] ^= 0x01 })
	tail := func(name string, edit func(plain []byte)) {
		out[name] = func() []byte {
			spoilt := e
			spoilt.tail = bytes.Clone(e.tail)
			edit(spoilt.tail)
			return c.envelope(pk, spoilt)
		}
	}
	tail("tail padded with 00", func(t []byte) { t[bytes.LastIndexByte(t, 0x80)] = 0x00 })
	tail("tail ends with 01", func(t []byte) { t[len(t)-1] ^= 0x01 })
	tail("tail ends with 80", func(t []byte) { t[len(t)-1] = 0x80 })
	return out
}
