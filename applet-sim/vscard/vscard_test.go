package vscard_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/vscard"
)

var _ vscard.Card = (*appletsim.Card)(nil)

var atr = []byte{0x3B, 0x80, 0x01, 0x81}

// echo answers a command with its own bytes and 9000, and notes what was done
// to it.
type echo struct {
	mu   sync.Mutex
	done []string
	mute bool
	atr  []byte
}

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

func (e *echo) ATR() []byte   { return e.atr }
func (e *echo) Power(on bool) { e.note("power %t", on) }
func (e *echo) Process(capdu []byte) []byte {
	e.note("command of %d", len(capdu))
	if e.mute {
		return nil
	}
	return append(append([]byte(nil), capdu...), 0x90, 0x00)
}

// qemu is the reader's side.
type qemu struct {
	t *testing.T
	net.Conn
}

type message struct {
	kind uint32
	data []byte
}

func frame(kind uint32, data ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, kind)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func (q qemu) send(kind uint32, data ...byte) {
	_, err := q.Write(frame(kind, data...))
	require.NoError(q.t, err)
}

func (q qemu) receive() message {
	var h [12]byte
	_, err := io.ReadFull(q, h[:])
	require.NoError(q.t, err)
	m := message{binary.BigEndian.Uint32(h[:]), make([]byte, binary.BigEndian.Uint32(h[8:]))}
	_, err = io.ReadFull(q, m.data)
	require.NoError(q.t, err)
	return m
}

// success acknowledges.
func (q qemu) success() { q.send(2, 0, 0, 0, 0) }

var initData = []byte{'V', 'S', 'C', 'D', 0, 0, 0, 2, 0, 0, 0, 0}

// connect serves the card to a peer.
func connect(t *testing.T, card vscard.Card, opts ...vscard.Option) (qemu, <-chan error) {
	a, b := net.Pipe()
	require.NoError(t, b.SetDeadline(time.Now().Add(10*time.Second)))
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() { defer close(done); ended <- vscard.ServeConn(t.Context(), a, card, opts...) }()
	t.Cleanup(func() { b.Close(); <-done })
	return qemu{t, b}, ended
}

// greet goes on until the card is in.
func (q qemu) greet() {
	assert.Equal(q.t, message{1, initData}, q.receive())
	q.send(1, initData...)
	assert.Equal(q.t, uint32(3), q.receive().kind)
	q.success()
	assert.Equal(q.t, message{5, atr}, q.receive())
	q.success()
}

func TestACardInAReader(t *testing.T) {
	card := &echo{atr: atr}
	attached := make(chan bool, 4)
	q, ended := connect(t, card, vscard.OnAttached(func() { attached <- true }))
	q.greet()
	<-attached
	q.send(7, 0, 0xA4, 4, 0)
	assert.Equal(t, message{7, []byte{0, 0xA4, 4, 0, 0x90, 0}}, q.receive())
	q.send(99, 1, 2, 3) // of no concern
	q.send(8)
	assert.Equal(t, message{9, []byte{}}, q.receive())
	q.success() // of nothing
	q.send(7, make([]byte, 65524)...)
	assert.Equal(t, message{7, []byte{0x6F, 0}}, q.receive(), "longer than QEMU holds")
	q.send(7, make([]byte, 65522)...)
	assert.Len(t, q.receive().data, 65524)
	q.Close()
	assert.NoError(t, <-ended)
	assert.Equal(t, []string{"power true", "command of 4", "command of 65524", "command of 65522", "power false"}, card.history())
}

func TestPull(t *testing.T) {
	card := &echo{atr: atr}
	q, _ := connect(t, card, vscard.WithPull(func(capdu, rapdu []byte) (time.Duration, bool) {
		assert.Equal(t, append(bytes.Clone(capdu), 0x90, 0), rapdu)
		return time.Millisecond, capdu[0] == 1
	}))
	q.greet()
	q.send(7, 1, 0, 0, 0)
	assert.Equal(t, message{6, []byte{}}, q.receive(), "the card leaves, and its answer is lost")
	assert.Equal(t, message{5, atr}, q.receive())
	q.send(2, 0, 0, 0, 3) // whatever it has against the removal
	q.success()
	q.send(7, 2, 0, 0, 0)
	assert.Equal(t, message{7, []byte{2, 0, 0, 0, 0x90, 0}}, q.receive())
	assert.Equal(t, []string{"power true", "command of 4", "power false", "power true", "command of 4"}, card.history())
}

func TestAReaderThatAcknowledgesNothing(t *testing.T) {
	q, ended := connect(t, &echo{atr: atr}, vscard.WithPull(func(_, _ []byte) (time.Duration, bool) { return 0, true }))
	q.greet()
	go func() { _, _ = io.Copy(io.Discard, q) }()
	for {
		if _, err := q.Write(frame(7, 1, 0, 0, 0)); err != nil {
			break
		}
	}
	assert.ErrorIs(t, <-ended, vscard.ErrMalformed)
}

func TestAMuteCard(t *testing.T) {
	q, _ := connect(t, &echo{atr: atr, mute: true})
	q.greet()
	q.send(7, 1, 0, 0, 0)
	q.send(8)
	assert.Equal(t, uint32(9), q.receive().kind)

	q, _ = connect(t, &echo{})
	q.receive()
	q.send(1, initData...)
	q.receive()
	q.success()
	q.send(8)
	assert.Equal(t, uint32(9), q.receive().kind, "no ATR: nothing is inserted")
}

func TestPeersThatAreNone(t *testing.T) {
	for name, tt := range map[string]struct {
		sent []byte
		want error
	}{
		"too long":      {[]byte{0, 0, 0, 7, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF}, vscard.ErrMalformed},
		"magic":         {frame(1, []byte("VSCX\x00\x00\x00\x02")...), vscard.ErrMalformed},
		"short init":    {frame(1, 'V'), vscard.ErrMalformed},
		"short error":   {frame(2, 0), vscard.ErrMalformed},
		"refuses":       {append(frame(1, initData...), frame(2, 0, 0, 0, 1)...), vscard.ErrRefused},
		"ends in a few": {[]byte{0, 0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			q, ended := connect(t, &echo{atr: atr})
			go func() { _, _ = io.Copy(io.Discard, q) }()
			_, err := q.Write(tt.sent)
			require.NoError(t, err)
			if tt.want == nil {
				q.Close()
			}
			err = <-ended
			assert.True(t, errors.Is(err, tt.want), "%v", err)
		})
	}
}

func TestServe(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "card"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	card := &echo{atr: atr}
	go func() { ended <- vscard.Serve(ctx, l, card) }()
	for range 2 {
		conn, err := net.Dial("unix", l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		q := qemu{t, conn}
		q.greet()
		conn.Close()
	}
	conn, err := net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	qemu{t, conn}.receive()
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)
	_, err = net.Dial("unix", l.Addr().String())
	assert.Error(t, err)

	l, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	assert.ErrorIs(t, vscard.Serve(t.Context(), l, card), net.ErrClosed)
}

// FuzzServe holds that whatever a peer sends, the card's side ends with the
// connection, and each message of its own is whole.
func FuzzServe(f *testing.F) {
	f.Add(append(frame(1, initData...), frame(2, 0, 0, 0, 0)...))
	f.Add(frame(7, 0, 0xA4, 4, 0))
	f.Add([]byte{0, 0, 0, 7, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0})
	f.Fuzz(func(t *testing.T, sent []byte) {
		var answers bytes.Buffer
		err := vscard.ServeConn(t.Context(), script{bytes.NewReader(sent), &answers}, &echo{atr: atr})
		assert.True(t, err == nil || errors.Is(err, vscard.ErrMalformed) || errors.Is(err, vscard.ErrRefused), "%v", err)
		for b := answers.Bytes(); len(b) > 0; {
			require.GreaterOrEqual(t, len(b), 12)
			n := int(binary.BigEndian.Uint32(b[8:]))
			require.GreaterOrEqual(t, len(b), 12+n)
			b = b[12+n:]
		}
	})
}

type script struct {
	io.Reader
	io.Writer
}

func (script) Close() error { return nil }

func ExampleServe() {
	l, err := net.Listen("tcp", "127.0.0.1:0") // in its place: the socket of QEMU's -chardev
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(time.Millisecond, cancel)
	fmt.Println(vscard.Serve(ctx, l, &echo{atr: atr}))
	// Output: context canceled
}
