package vpcd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
)

// echo answers a command with its own bytes and 9000, and notes what was done
// to it.
type echo struct {
	mu   sync.Mutex
	done []string
	mute bool
}

var atr = []byte{0x3B, 0x80, 0x01, 0x81}

func (e *echo) note(format string, a ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done = append(e.done, fmt.Sprintf(format, a...))
}

func (e *echo) history() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.done...)
}

func (e *echo) ATR() []byte   { return atr }
func (e *echo) Power(on bool) { e.note("power %t", on) }
func (e *echo) Reset()        { e.note("reset") }
func (e *echo) Process(capdu []byte) []byte {
	e.note("command of %d", len(capdu))
	if e.mute {
		return nil
	}
	return append(append([]byte(nil), capdu...), 0x90, 0x00)
}

// reader is vpcd's side: it accepts a card and sends it messages.
type reader struct {
	t *testing.T
	net.Conn
}

func listen(t *testing.T, addr string) net.Listener {
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t *testing.T, l net.Listener) *reader {
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(10*time.Second)))
	c, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	t.Cleanup(func() { c.Close() })
	return &reader{t, c}
}

func message(b ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func (r *reader) send(b []byte) {
	_, err := r.Write(b)
	require.NoError(r.t, err)
}

func (r *reader) receive() []byte {
	var n [2]byte
	_, err := io.ReadFull(r, n[:])
	require.NoError(r.t, err)
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err = io.ReadFull(r, b)
	require.NoError(r.t, err)
	return b
}

// serve runs Serve for the test and checks what it returns.
func serve(t *testing.T, addr string, card vpcd.Card, opts ...vpcd.Option) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- vpcd.Serve(ctx, addr, card, opts...) }()
	t.Cleanup(func() {
		cancel()
		assert.ErrorIs(t, <-ended, context.Canceled)
	})
}

func TestMessages(t *testing.T) {
	card := &echo{}
	l := listen(t, "127.0.0.1:0")
	attached := make(chan string, 8)
	serve(t, l.Addr().String(), card, vpcd.OnAttached(func(addr string) { attached <- addr }))
	r := accept(t, l)
	assert.Equal(t, l.Addr().String(), <-attached)

	t.Run("coalesced", func(t *testing.T) {
		both := append(append(message(1), message(2)...), message(4)...)
		both = append(both, message(0, 0xA4, 0, 0)...)
		r.send(both)
		assert.Equal(t, atr, r.receive())
		assert.Equal(t, []byte{0, 0xA4, 0, 0, 0x90, 0}, r.receive())
	})
	t.Run("split", func(t *testing.T) {
		for _, b := range message(0x80, 0xCA, 0, 0x5A, 0) {
			r.send([]byte{b})
		}
		assert.Equal(t, []byte{0x80, 0xCA, 0, 0x5A, 0, 0x90, 0}, r.receive())
	})
	t.Run("garbage is ignored", func(t *testing.T) {
		r.send(append(append(message(), message(3)...), message(0xFF)...))
		r.send(message(4))
		assert.Equal(t, atr, r.receive())
	})
	t.Run("longest", func(t *testing.T) {
		capdu := make([]byte, 65533)
		r.send(message(capdu...))
		assert.Len(t, r.receive(), 65535)
	})
	t.Run("answer that no message holds", func(t *testing.T) {
		r.send(message(make([]byte, 65534)...))
		assert.Equal(t, []byte{0x6F, 0}, r.receive())
	})
	t.Run("power", func(t *testing.T) {
		r.send(append(message(0), message(1)...))
		r.send(message(4))
		r.receive()
	})
	assert.Equal(t, []string{"power true", "reset", "command of 4", "command of 5",
		"command of 65533", "command of 65534", "power false", "power true"}, card.history())
}

func TestAReaderThatGoesAway(t *testing.T) {
	card := &echo{}
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close()
	attached := make(chan string, 8)
	waiting := make(chan string, 8)
	serve(t, addr, card, vpcd.OnAttached(func(addr string) { attached <- addr }), vpcd.OnWaiting(func(addr string) { waiting <- addr }))

	for range 2 {
		assert.Equal(t, addr, <-waiting) // nobody listens
		l = listen(t, addr)
		r := accept(t, l)
		<-attached
		r.send(message(1))
		r.send(message(4))
		assert.Equal(t, atr, r.receive())
		l.Close()
		r.Close()
	}
	assert.Equal(t, addr, <-waiting)
	r := accept(t, listen(t, addr))
	assert.Empty(t, waiting, "once each time")
	r.send(message(0, 0, 0, 0)) // never powered by this reader: it is when used
	assert.Equal(t, []byte{0, 0, 0, 0, 0x90, 0}, r.receive())
	assert.Equal(t, []string{"power true", "power false", "power true", "power false", "power true", "command of 4"}, card.history())
}

func TestPull(t *testing.T) {
	card := &echo{}
	l := listen(t, "127.0.0.1:0")
	var commands int
	serve(t, l.Addr().String(), card, vpcd.WithPull(func(capdu, rapdu []byte) (time.Duration, bool) {
		commands++
		assert.Equal(t, append(append([]byte(nil), capdu...), 0x90, 0), rapdu)
		return 20 * time.Millisecond, commands == 2
	}))
	r := accept(t, l)
	r.send(message(0, 1, 0, 0))
	assert.Equal(t, []byte{0, 1, 0, 0, 0x90, 0}, r.receive())
	r.send(message(0, 2, 0, 0))
	_, err := r.Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF, "the answer is lost")

	r = accept(t, l)
	r.send(message(0, 3, 0, 0))
	assert.Equal(t, []byte{0, 3, 0, 0, 0x90, 0}, r.receive())
	assert.Equal(t, []string{"power true", "command of 4", "command of 4", "power false", "power true", "command of 4"}, card.history())
}

func TestAMuteCardSendsNothing(t *testing.T) {
	card := &echo{mute: true}
	l := listen(t, "127.0.0.1:0")
	serve(t, l.Addr().String(), card)
	r := accept(t, l)
	r.send(message(0, 0xA4, 0, 0))
	r.send(message(4))
	assert.Equal(t, atr, r.receive())
	assert.Contains(t, card.history(), "command of 4")
}

func TestNoAnswerToReset(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	serve(t, l.Addr().String(), silent{&echo{}})
	r := accept(t, l)
	r.send(message(4))
	assert.Empty(t, r.receive(), "a message of no bytes, for which the reader waits")
}

type silent struct{ *echo }

func (silent) ATR() []byte { return nil }

func TestAddressThatIsNone(t *testing.T) {
	var addrErr *net.AddrError
	err := vpcd.Serve(t.Context(), "35963", &echo{})
	assert.True(t, errors.As(err, &addrErr), "%v", err)
}

func ExampleServe() {
	l, err := net.Listen("tcp", "127.0.0.1:0") // in its place: pcscd with vpcd
	if err != nil {
		panic(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	err = vpcd.Serve(ctx, l.Addr().String(), &echo{}, vpcd.OnAttached(func(string) {
		fmt.Println("attached")
		cancel()
	}))
	fmt.Println(err)
	// Output:
	// attached
	// context canceled
}
