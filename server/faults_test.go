package server_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// hostile carries APDUs and does something bad to some of them, from a seed.
type hostile struct {
	mu     sync.Mutex
	rand   *rand.Rand
	left   int // bad things still to do
	after  int // APDUs until the next
	before []byte
	armed  bool
	card   *appletsim.Card
}

func (h *hostile) carry(capdu []byte, next servertest.Next) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		if len(b) > 0 {
			b[h.rand.IntN(len(b))] ^= byte(1 + h.rand.IntN(255))
		}
		return b
	}
	if h.after--; !h.armed || h.left == 0 || h.after >= 0 {
		b, err := next(capdu)
		h.before = b
		return b, err
	}
	h.left--
	h.after = h.rand.IntN(6)
	switch h.rand.IntN(8) {
	case 0: // dropped
		return nil, apdu.ErrTransport
	case 1: // carried out, the answer dropped
		_, err := next(capdu)
		return nil, fmt.Errorf("%w: %w", apdu.ErrTimeout, err)
	case 2: // the answer changed
		b, err := next(capdu)
		return flip(b), err
	case 3: // the command changed
		return next(flip(capdu))
	case 4: // an earlier answer again
		_, err := next(capdu)
		return h.before, err
	case 5: // an answer made up
		return []byte{0x90, 0x00}, nil
	case 6: // sent twice
		if _, err := next(capdu); err != nil {
			return nil, err
		}
		return next(capdu)
	default: // the card pulled
		h.card.Remove()
		h.card.Insert()
		return nil, apdu.ErrCardRemoved
	}
}

// Whatever whoever carries the APDUs does, the record ends as the card is, and
// nothing is done twice.
func TestHostileCarrier(t *testing.T) {
	const trials = 40
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := newRig(t)
	for n := range trials {
		im := servertest.Image(n)
		h := &hostile{rand: rand.New(rand.NewPCG(seed, uint64(n)))}
		h.left, h.after = 1+h.rand.IntN(4), h.rand.IntN(8)
		if h.rand.IntN(4) == 0 {
			im.Policy.RequireTriple = true
		}
		r.register(im)
		h.card = servertest.Card(im)
		reader := im.EID.String()
		r.readers.Insert(reader, h.card, h.carry)
		r.seen(im.EID)
		h.mu.Lock()
		h.armed = true
		h.mu.Unlock()
		req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
		now := h.card.Image()
		switch req.State {
		case store.Done:
			assert.Equal(t, uint32(6), now.EventCounter, "trial %d", n)
			r.proven(req, im)
		case store.Refused, store.Unknown:
			// A lie about the event counter costs a 14; where that answer gets
			// lost too, the one in recovery proves nothing (§8).
			assert.Equal(t, byte(card.CounterNotExpected), req.Answer.Result, "trial %d", n)
			assert.Equal(t, uint32(5), now.EventCounter, "trial %d", n)
		default:
			t.Errorf("trial %d: %s: %s", n, req.State, req.Detail)
		}
		assert.Eventually(t, func() bool {
			c, err := r.store.Card(t.Context(), im.EID, 0)
			return err == nil && !c.Unsettled
		}, 10*time.Second, time.Millisecond)
		r.sameAs(now)
		r.readers.Remove(reader)
	}
}
