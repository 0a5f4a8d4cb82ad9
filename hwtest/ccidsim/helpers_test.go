package ccidsim_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

// echo answers case 1 and 3 with 9000, case 4 with its data, case 2 with Ne bytes
// counting up, but INS D6 with no more than 4. It notes what was done to it.
type echo struct {
	mu   sync.Mutex
	done []string
	mute bool
}

func (e *echo) note(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done = append(e.done, s)
}

func (e *echo) history() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.done
	e.done = nil
	return h
}

func (e *echo) ATR() []byte { return ccidsim.ATR{Historical: []byte("echo")}.Bytes() }

func (e *echo) Power(on bool) {
	if on {
		e.note("on")
	} else {
		e.note("off")
	}
}

func (e *echo) Reset() { e.note("reset") }

func (e *echo) Process(capdu []byte) []byte {
	e.note(hexOf(capdu[:min(len(capdu), 8)]))
	if e.mute {
		return nil
	}
	c, err := apdu.ParseCommand(capdu)
	if err != nil {
		return []byte{0x67, 0x00}
	}
	var data []byte
	switch {
	case c.INS == 0xD7: // answers though it was not asked
		data = counting(10)
	case c.Ne == 0:
	case len(c.Data) > 0:
		data = append(data, c.Data...)
	case c.INS == 0xCA:
		data = counting(4)
	default:
		data = counting(min(c.Ne, 65534))
	}
	return append(data, 0x90, 0x00)
}

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func hexOf(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }

func bytesOf(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// host is a hand-written host.
type host struct {
	t *testing.T
	*ccidsim.Pipes
	seq byte
}

func open(t *testing.T, d *ccidsim.Device) *host {
	p := d.Open()
	t.Cleanup(func() { p.Close() })
	return &host{t: t, Pipes: p}
}

func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	h.t.Cleanup(cancel)
	return ctx
}

// message is a bulk-OUT message with the next sequence number.
func (h *host) message(kind byte, slot int, specific [3]byte, data []byte) []byte {
	b := []byte{kind, 0, 0, 0, 0, byte(slot), h.seq, specific[0], specific[1], specific[2]}
	binary.LittleEndian.PutUint32(b[1:], uint32(len(data)))
	h.seq++
	return append(b, data...)
}

func (h *host) out(b []byte) { require.NoError(h.t, h.Out(h.ctx(), b)) }

func (h *host) in() []byte {
	b := make([]byte, 1<<17)
	n, err := h.In(h.ctx(), b)
	require.NoError(h.t, err)
	return b[:n]
}

// do sends a command and gives its answer's header and data, after the time
// extensions.
func (h *host) do(kind byte, slot int, specific [3]byte, data []byte) (head, body []byte) {
	m := h.message(kind, slot, specific, data)
	h.out(m)
	for {
		b := h.in()
		require.GreaterOrEqual(h.t, len(b), 10)
		require.Equal(h.t, uint32(len(b)-10), binary.LittleEndian.Uint32(b[1:]))
		require.Equal(h.t, m[5:7], b[5:7], "slot and sequence number")
		if b[7]&0xC0 != 0x80 {
			return b[:10], b[10:]
		}
	}
}

// power powers the card in slot 0 and gives its ATR.
func (h *host) power() []byte {
	head, atr := h.do(0x62, 0, [3]byte{1}, nil)
	require.Equal(h.t, "800000000000", hexOf(append(head[:1:1], head[5], head[7], head[8], head[9], 0)), "% X", head)
	return atr
}

// xfr is XfrBlock on slot 0, which succeeds.
func (h *host) xfr(b []byte) []byte {
	head, data := h.do(0x6F, 0, [3]byte{}, b)
	require.Equal(h.t, []byte{0, 0}, head[7:9], "% X", head)
	return data
}

// fails is XfrBlock on slot 0, which fails; it gives bError.
func (h *host) fails(b []byte) byte {
	head, data := h.do(0x6F, 0, [3]byte{}, b)
	require.Equal(h.t, byte(0x40), head[7]&0xC0, "% X", head)
	require.Empty(h.t, data)
	return head[8]
}

// working has every command wait until release is called.
func working(cfg *ccidsim.Config) (release func()) {
	released := make(chan struct{})
	cfg.Hooks.Before = func(int, []byte) ccidsim.Fate {
		<-released
		return ccidsim.Fate{}
	}
	return sync.OnceFunc(func() { close(released) })
}

// reader makes a device with a card in slot 0, and powers it.
func reader(t *testing.T, cfg ccidsim.Config, card ccidsim.Card) (*ccidsim.Device, *host) {
	if cfg.Patience == 0 {
		cfg.Patience = 20 * time.Millisecond
	}
	d := ccidsim.New(cfg)
	d.Insert(0, card)
	h := open(t, d)
	h.power()
	return d, h
}
