package cardtest_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
)

// slot is a virtual reader whose card is changed without pulling it: fast, and
// the reset that follows makes it a new one. Its cards have one ATR.
type slot struct {
	name string
	mu   sync.Mutex
	card *appletsim.Card
}

func (s *slot) now() *appletsim.Card {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.card
}

func (s *slot) put(c *appletsim.Card) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.card = c
}

func (s *slot) ATR() []byte                            { return s.now().ATR() }
func (s *slot) Power(on bool)                          { s.now().Power(on) }
func (s *slot) Reset()                                 { s.now().Reset() }
func (s *slot) Process(capdu []byte) []byte            { return s.now().Process(capdu) }
func (s *slot) pull(_, _ []byte) (time.Duration, bool) { return s.now().Away() }

// reach connects to the slot's card and resets it.
func (s *slot) reach(protocol pcsc.Protocol) func(*testing.T) apdu.Conn {
	return func(t *testing.T) apdu.Conn {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		source := pcsc.New()
		_, err := source.WaitCard(ctx, s.name)
		require.NoError(t, err)
		conn, err := source.Connect(ctx, s.name, pcsc.Options{Protocol: protocol})
		require.NoError(t, err)
		require.NoError(t, conn.ColdReset(ctx))
		return conn
	}
}

// pcscd gives cards through a real pcscd.
func pcscd(t *testing.T, protocol pcsc.Protocol) cardtest.Source {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	t.Cleanup(func() { cancel(); serving.Wait() })
	daemon := rig.Start(t, rig.Options{Slots: 2})
	slots := map[bool]*slot{}
	return func(t *testing.T, p cardtest.Personality) (*cardtest.Card, error) {
		sim, c := emulate(t, p)
		s, ok := slots[p.ShortOnly]
		if ok {
			s.put(sim)
		} else {
			at := daemon.Slots()[len(slots)]
			s = &slot{name: at.Reader, card: sim}
			slots[p.ShortOnly] = s
			serving.Add(1)
			go func() {
				defer serving.Done()
				_ = vpcd.Serve(ctx, at.Addr, s, vpcd.WithPull(s.pull)) // ends with ctx
			}()
		}
		c.Open = s.reach(protocol)
		c.PowerCycle = func(t *testing.T, conn apdu.Conn) {
			require.NoError(t, conn.(*pcsc.Conn).ColdReset(t.Context()))
		}
		return c, nil
	}
}

func TestPCSC(t *testing.T) {
	sum := cardtest.Run(t, pcscd(t, pcsc.T1))
	assert.Empty(t, sum.NotRun, "an emulator behind pcscd can do everything over T=1")
}

// TestPCSCT0 leaves out what T=0 cannot carry, and nothing else.
func TestPCSCT0(t *testing.T) {
	sum := cardtest.Run(t, pcscd(t, pcsc.T0))
	for _, o := range sum.NotRun {
		assert.Contains(t, []string{
			"the transport does not carry Le as it is (T=0)",
			"no extended length on this card and transport",
		}, o.Reason, o.Test)
	}
	assert.Len(t, sum.NotRun, 11)
}
