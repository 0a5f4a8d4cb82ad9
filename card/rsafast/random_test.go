package rsafast

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// operations is how many random operations are compared: 10,000, or what
// RSAFAST_OPERATIONS says, a million by night.
func operations(t *testing.T) int {
	s, ok := os.LookupEnv("RSAFAST_OPERATIONS")
	if !ok {
		return 10_000
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, "RSAFAST_OPERATIONS")
	return n
}

// Random operations under every engine: each against math/big (m^65537 = c,
// which has one solution below n), every fiftieth against crypto/rsa too.
func TestRandomOperations(t *testing.T) {
	type pair struct {
		std *rsa.PrivateKey
		key *Key
	}
	const lot = 24
	// Of 16 lots as many are of each size under the fastest engine and the next.
	var plan [][]pair
	add := func(lots int, e *engine, names ...string) {
		var pairs []pair
		for _, name := range names {
			r := stored(t, name)
			pairs = append(pairs, pair{r, loaded(t, r, e)})
		}
		for range lots {
			plan = append(plan, pairs)
		}
	}
	if len(engines) == 0 {
		add(1, nil, "rsa2048a", "rsa2048b")
	}
	for _, e := range engines {
		add(20, e, "rsa2048a", "rsa2048b")
		add(3, e, "rsa3072a", "rsa3072b", "rsa2048a")
		add(1, e, "rsa4096a")
	}
	total := operations(t)
	jobs := make(chan int)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			var seed [32]byte
			_, _ = rand.Read(seed[:])
			random := mathrand.NewChaCha8(seed)
			for i := range jobs {
				pairs := plan[i%len(plan)]
				ops := make([]*Op, lot)
				for j := range ops {
					p := pairs[j%len(pairs)]
					c := make([]byte, p.std.Size())
					_, _ = random.Read(c)
					c[0] &= 0x7F // below n, whose highest bit is one
					ops[j] = &Op{Key: p.key, C: c}
				}
				digest := make([]byte, 32)
				_, _ = random.Read(digest)
				p := pairs[0]
				signature, err := rsa.SignPKCS1v15(nil, p.std, crypto.Hash(0), digest)
				if !assert.NoError(t, err) {
					continue
				}
				ops[0].C = padded(digest, p.std.Size())
				Run(ops...)
				assert.Equal(t, signature, ops[0].M)
				for _, op := range ops {
					if assert.NoError(t, op.Err) {
						assert.Equal(t, op.C, power(op.M, op.Key.Public().N))
					}
				}
			}
		})
	}
	for i := range (total + lot - 1) / lot {
		jobs <- i
	}
	close(jobs)
	all.Wait()
}

// padded is EMSA-PKCS1-v1_5 without a DigestInfo.
func padded(m []byte, size int) []byte {
	em := make([]byte, size)
	em[1] = 1
	for i := 2; i < size-len(m)-1; i++ {
		em[i] = 0xFF
	}
	copy(em[size-len(m):], m)
	return em
}

// Engine against engine, and both against the portable code, which has no code
// in common with them but bytes in and out.
func FuzzEngines(f *testing.F) {
	type set struct {
		private []*Key
		public  []*PublicKey
	}
	var sets []set
	for _, name := range []string{"rsa2048a", "rsa3072a"} {
		r := stored(f, name)
		var s set
		for _, e := range forced() {
			k, err := newPublicKey(&r.PublicKey, e)
			require.NoError(f, err)
			s.private, s.public = append(s.private, loaded(f, r, e)), append(s.public, k)
		}
		sets = append(sets, s)
		for _, v := range patterns(f, r.N.BitLen()-1) {
			f.Add(uint8(len(sets)), v.Bytes())
		}
	}
	f.Add(uint8(0), []byte{})
	f.Fuzz(func(t *testing.T, which uint8, c []byte) {
		s := sets[int(which)%len(sets)]
		size := len(s.public[0].n)
		if len(c) < size {
			c = append(make([]byte, size-len(c)), c...)
		}
		var ops []*Op
		for _, k := range s.private {
			ops = append(ops, &Op{Key: k, C: c}, &Op{Key: k, C: binary.BigEndian.AppendUint64(make([]byte, size-8), uint64(which))})
		}
		Run(ops...)
		for i, op := range ops {
			assert.Equal(t, ops[i%2].Err == nil, op.Err == nil)
			assert.Equal(t, ops[i%2].M, op.M)
			if op.Err != nil {
				assert.ErrorIs(t, op.Err, ErrOperand)
			}
		}
		for i, k := range s.public {
			y, err := k.Public(c)
			if ops[0].Err != nil {
				assert.ErrorIs(t, err, ErrOperand)
				continue
			}
			require.NoError(t, err)
			back, err := k.Public(ops[2*i].M)
			require.NoError(t, err)
			assert.Equal(t, c, back)
			first, err := s.public[0].Public(c)
			require.NoError(t, err)
			assert.Equal(t, first, y)
		}
	})
}
