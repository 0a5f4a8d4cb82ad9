package pcsc_test

import (
	"context"
	"encoding/binary"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func TestMain(m *testing.M) {
	rig.Enter()
	os.Exit(m.Run())
}

// Answers to reset of cards that offer T=0, T=1, both (ISO/IEC 7816-3 §8).
var (
	atrT0   = []byte{0x3B, 0x00}
	atrT1   = []byte{0x3B, 0x80, 0x01, 0x81}
	atrBoth = []byte{0x3B, 0x80, 0x80, 0x01, 0x01}
)

// What the test card does, by INS. Any other is answered with the command
// itself and 9000.
const (
	insMute  = 0x01 // no answer ever
	insShort = 0x02 // one byte
	insPull  = 0x03 // the card leaves before it answers
	insLong  = 0x04 // as many bytes as the four bytes of data say, 9000 among them
	insSum   = 0x05 // the command's length, four bytes
)

// card is a test card; it is in its reader until pulled.
type card struct {
	t    testing.TB
	addr string
	atr  []byte
	away time.Duration // after insPull

	mu       sync.Mutex
	commands [][]byte

	cancel context.CancelFunc
	ended  chan struct{}
}

// insert puts a card into a virtual reader.
func insert(t testing.TB, slot rig.Slot, atr []byte) *card {
	c := &card{t: t, addr: slot.Addr, atr: atr, away: time.Second}
	c.insert()
	t.Cleanup(c.pull)
	return c
}

func (c *card) insert() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	c.cancel, c.ended = cancel, ended
	go func() {
		defer close(ended)
		err := vpcd.Serve(ctx, c.addr, c, vpcd.WithPull(func(capdu, _ []byte) (time.Duration, bool) {
			return c.away, capdu[1] == insPull
		}))
		assert.ErrorIs(c.t, err, context.Canceled)
	}()
}

func (c *card) pull() {
	c.cancel()
	<-c.ended
}

func (c *card) ATR() []byte { return c.atr }
func (c *card) Power(bool)  {}
func (c *card) Reset()      {}
func (c *card) Process(capdu []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commands = append(c.commands, append([]byte(nil), capdu...))
	switch capdu[1] {
	case insMute:
		return nil
	case insShort:
		return []byte{0x90}
	case insLong:
		return append(make([]byte, binary.BigEndian.Uint32(capdu[5:])-2), 0x90, 0x00)
	case insSum:
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(capdu))), 0x90, 0x00)
	}
	return append(append([]byte(nil), capdu...), 0x90, 0x00)
}

func (c *card) last() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commands[len(c.commands)-1]
}

// deadline bounds what must come to pass.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// inReader waits for a card in the slot.
func inReader(t *testing.T, slot rig.Slot) reader.Reader {
	r, err := pcsc.New().WaitCard(deadline(t), slot.Reader)
	require.NoError(t, err)
	return r
}

func connect(t *testing.T, slot rig.Slot, o pcsc.Options) *pcsc.Conn {
	c, err := pcsc.New().Connect(deadline(t), slot.Reader, o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

var hello = []byte{0x00, 0xA4, 0x00, 0x00}

// answers holds that the card on c does answer.
func answers(t *testing.T, c *pcsc.Conn) {
	t.Helper()
	rapdu, err := c.Transmit(deadline(t), hello)
	require.NoError(t, err)
	assert.Equal(t, []byte{0x00, 0xA4, 0x00, 0x00, 0x90, 0x00}, rapdu)
}
