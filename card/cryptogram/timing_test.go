package cryptogram

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"math"
	mrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/rsafast"
)

var timing = flag.Int("timing", 0, "`samples` of each timing test; by hand, on a quiet machine: go test -run TestTiming -v -timeout 0 -timing 1000000 (whole operations take a tenth)")

// samples of a timing test where nobody asks for more: that it runs is tested,
// times are not.
const fewSamples = 20

// variants is how many inputs a class has.
func variants() int {
	if *timing == 0 {
		return 2
	}
	return 64
}

// timed is a dudect-style test (Reparaz, Balasch, Verbauwhede 2017): the times
// of f on inputs of two classes, in random order, are held against each other by
// Welch's t-test, with and without the slowest. |t| above 4.5 says that they
// differ. All inputs are made beforehand and put into one place.
func timed(t *testing.T, name string, divide int, classes [2][][]byte, f func(in []byte)) {
	t.Helper()
	n := max(fewSamples, *timing/divide)
	in := make([]byte, len(classes[0][0]))
	times, class := make([]float64, n), make([]byte, n)
	random := mrand.New(mrand.NewPCG(1, 2)) // which class is not a secret
	for i := range times {
		class[i] = byte(random.IntN(2))
		from := classes[class[i]]
		copy(in, from[random.IntN(len(from))])
		start := time.Now()
		f(in)
		times[i] = float64(time.Since(start))
	}
	sorted := slices.Clone(times)
	slices.Sort(sorted)
	worst, at := 0.0, 0.0
	for _, share := range []float64{1, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5} {
		if v := math.Abs(welch(times, class, sorted[int(share*float64(n-1))])); v > math.Abs(worst) {
			worst, at = v, share
		}
	}
	t.Logf("|t| %5.2f  %-44s %8d samples, median %8.0f ns, worst with the fastest %.1f %%", worst, name, n, sorted[n/2], 100*at)
}

// welch is t of the times up to most.
func welch(times []float64, class []byte, most float64) float64 {
	var n, mean, m2 [2]float64
	for i, x := range times {
		if x > most {
			continue
		}
		c := class[i]
		n[c]++
		d := x - mean[c]
		mean[c] += d / n[c]
		m2[c] += d * (x - mean[c])
	}
	if n[0] < 2 || n[1] < 2 {
		return 0
	}
	v := m2[0]/(n[0]-1)/n[0] + m2[1]/(n[1]-1)/n[1]
	if v == 0 {
		return 0
	}
	return (mean[0] - mean[1]) / math.Sqrt(v)
}

func TestWelch(t *testing.T) {
	times, class := make([]float64, 2000), make([]byte, 2000)
	for i := range times {
		times[i], class[i] = float64(100+i/2%10), byte(i%2)
	}
	assert.InDelta(t, 0, welch(times, class, math.Inf(1)), 1e-9)
	for i := range times {
		times[i] += float64(class[i])
	}
	// Means 1 apart, variance 8.25 × 1000/999 each, 1000 samples each.
	assert.InDelta(t, -1/math.Sqrt(2*8.25/999), welch(times, class, math.Inf(1)), 1e-9)
}

// inputs are a class: one kind of value, in variants.
func inputs(f func() []byte) [][]byte {
	out := make([][]byte, variants())
	for i := range out {
		out[i] = f()
	}
	return out
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestTimingOfUnpadding(t *testing.T) {
	const n = 190
	oaep := func(spoil func(em, db []byte)) [][]byte {
		return inputs(func() []byte {
			em := make([]byte, 256)
			seed, db := em[1:1+hashLen], em[1+hashLen:]
			rand.Read(seed)
			rand.Read(db)
			copy(db, emptyHash[:])
			clear(db[hashLen : len(db)-n])
			db[len(db)-n-1] = 1
			spoil(em, db)
			mgf1XOR(db, seed)
			mgf1XOR(seed, db)
			return em
		})
	}
	short := 150 // a message with a PS before it
	decode := func(n int) func([]byte) { return func(em []byte) { decodeOAEP(em, n) } }
	good := oaep(func(_, _ []byte) {})
	timed(t, "OAEP: fixed against random message", 1, [2][][]byte{good[:1], good}, decode(n))
	timed(t, "OAEP: good against garbage", 1, [2][][]byte{good, inputs(func() []byte { return randomBytes(256) })}, decode(n))
	timed(t, "OAEP: good against first byte", 1, [2][][]byte{good, oaep(func(em, _ []byte) { em[0] = 1 })}, decode(n))
	timed(t, "OAEP: good against first byte of lHash", 1, [2][][]byte{good, oaep(func(_, db []byte) { db[0] ^= 1 })}, decode(n))
	timed(t, "OAEP: good against last byte of lHash", 1, [2][][]byte{good, oaep(func(_, db []byte) { db[hashLen-1] ^= 1 })}, decode(n))
	timed(t, "OAEP: good against no 01", 1, [2][][]byte{good, oaep(func(_, db []byte) { db[len(db)-n-1] = 0 })}, decode(n))
	timed(t, "OAEP: good against a longer PS's 01", 1, [2][][]byte{
		oaep(func(_, db []byte) { clear(db[hashLen : len(db)-short]); db[len(db)-short-1] = 1 }),
		oaep(func(_, db []byte) { clear(db[hashLen : len(db)-short]); db[hashLen+3] = 1 }),
	}, decode(short))

	t1 := func(spoil func(x []byte)) [][]byte {
		return inputs(func() []byte { x := t1Of(randomBytes(lenM1), 256); spoil(x); return x })
	}
	check := func(x []byte) { checkT1(x, lenM1) }
	goodT1 := t1(func([]byte) {})
	timed(t, "T1: fixed against random message", 1, [2][][]byte{goodT1[:1], goodT1}, check)
	timed(t, "T1: good against garbage", 1, [2][][]byte{goodT1, inputs(func() []byte { return randomBytes(256) })}, check)
	timed(t, "T1: good against block type", 1, [2][][]byte{goodT1, t1(func(x []byte) { x[1] = 2 })}, check)
	timed(t, "T1: good against first byte FF", 1, [2][][]byte{goodT1, t1(func(x []byte) { x[2] = 0 })}, check)
	timed(t, "T1: good against last byte FF", 1, [2][][]byte{goodT1, t1(func(x []byte) { x[256-lenM1-2] = 0xFE })}, check)
	timed(t, "T1: good against no 00", 1, [2][][]byte{goodT1, t1(func(x []byte) { x[256-lenM1-1] = 1 })}, check)

	pk := key(t, "card-auth-1").Public()
	lower := inputs(func() []byte { x := randomBytes(256); x[0] = 0; return x })
	timed(t, "clamp: below n against not below", 1, [2][][]byte{lower, inputs(func() []byte { return bytes.Repeat([]byte{0xFF}, 256) })}, func(x []byte) { clamp(x, pk) })
	timed(t, "tail: good padding against none", 1, [2][][]byte{{append([]byte{0x80}, make([]byte, 15)...)}, {make([]byte, 16)}}, func(x []byte) { checkPadding(x) })
}

// Whole operations of the server, on the engine that it uses.
func TestTimingOfM1(t *testing.T) {
	s, q := first(t)
	server, card := sides(t, s)
	own := PrivateKeys{}
	for _, k := range append(server.Auth[:1:1], server.Enc) {
		fast, err := rsafast.NewKey(named(t, k))
		require.NoError(t, err)
		if len(own.Auth) == 0 {
			own.Auth = []PrivateKey{fast}
		} else {
			own.Enc = fast
		}
	}
	public := card.Public()
	c := challenge(t, s, q)
	seal := func(x []byte) []byte {
		out, err := Seal(rand.Reader, server.Enc.Public(), x)
		require.NoError(t, err)
		return out
	}
	signed := func(m []byte) []byte {
		x, err := PrivEnc(t.Context(), card.Auth[:1], m)
		require.NoError(t, err)
		return x
	}
	m1 := func(change func(c *Challenge)) [][]byte {
		return inputs(func() []byte {
			c := *c
			change(&c)
			m := c.m1([32]byte(randomBytes(32)))
			return seal(signed(m[:]))
		})
	}
	good := m1(func(*Challenge) {})
	oaep := func(change func(em []byte)) [][]byte {
		return inputs(func() []byte { return spoiledOAEP(t, server.Enc.(*Key).pub, named(t, server.Enc), good[0], change) })
	}
	tail := func(at int, bit byte) [][]byte {
		out := m1(func(*Challenge) {})
		for _, x := range out {
			x[at] ^= bit
		}
		return out
	}
	last := len(good[0]) - 1
	open := func(in []byte) { c.OpenM1(t.Context(), own, public, in) }
	for _, kind := range []struct {
		name string
		bad  [][]byte
	}{
		{"another good one", m1(func(*Challenge) {})},
		{"OAEP: first byte", oaep(func(em []byte) { em[0] = 1 })},
		{"OAEP: lHash, 01 and message", oaep(func(em []byte) { em[100] ^= 1 })},
		{"OAEP: garbage", inputs(func() []byte { x := randomBytes(len(good[0])); x[0] = 0; return x })},
		{"OAEP: not below n", inputs(func() []byte { return append(bytes.Repeat([]byte{0xFF}, 8), randomBytes(len(good[0])-8)...) })},
		{"tail: its padding", tail(last, 1)},
		{"tail: its first byte", tail(256, 1)},
		{"T1: another card's", inputs(func() []byte { m := c.m1([32]byte(randomBytes(32))); return seal(signedBy(t, server.Auth[0], m[:])) })},
		{"T1: another length", inputs(func() []byte { return seal(signed(randomBytes(lenM1 - 1))) })},
		{"tag", inputs(func() []byte { m := c.m1([32]byte(randomBytes(32))); m[0]++; return seal(signed(m[:])) })},
		{"RS", m1(func(c *Challenge) { c.RS[15]++ })},
		{"SID", m1(func(c *Challenge) { c.SID[0]++ })},
		{"EID", m1(func(c *Challenge) { c.EID[15]++ })},
	} {
		require.Len(t, kind.bad[0], len(good[0]), kind.name)
		t.Run(kind.name, func(t *testing.T) {
			timed(t, "M1: good against "+kind.name, 10, [2][][]byte{good, kind.bad}, open)
		})
	}
	random := inputs(func() []byte { x := randomBytes(256); x[0] = 0; return x })
	private := func(x []byte) { own.Enc.Private(t.Context(), x) }
	timed(t, "private operation: fixed against random", 10, [2][][]byte{random[:1], random}, private)
}

func signedBy(t *testing.T, k PrivateKey, m []byte) []byte {
	x, err := PrivEnc(t.Context(), []PrivateKey{k}, m)
	require.NoError(t, err)
	return x
}

// spoiledOAEP is an envelope whose encoded message was changed before it was
// encrypted.
func spoiledOAEP(t *testing.T, pk *rsa.PublicKey, k *rsa.PrivateKey, envelope []byte, change func(em []byte)) []byte {
	own, err := NewKey(k)
	require.NoError(t, err)
	em, err := own.Private(t.Context(), envelope[:256])
	require.NoError(t, err)
	change(em)
	x, err := publicOf(pk, em)
	require.NoError(t, err)
	return append(x, envelope[256:]...)
}
