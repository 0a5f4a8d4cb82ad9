package usbip_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/hwtest/usbip"
)

var _ usbip.Device = (*ccidsim.Device)(nil)

// device echoes what comes by endpoint 1 on endpoint 82, one transfer for one;
// every control request of type 40 stalls, and endpoint 83 breaks.
type device struct {
	mu   sync.Mutex
	echo [][]byte
	more chan struct{}
	gone chan struct{}
}

func newDevice() *device {
	return &device{more: make(chan struct{}, 1000), gone: make(chan struct{})}
}

func (d *device) HighSpeed() bool            { return true }
func (d *device) Unplugged() <-chan struct{} { return d.gone }

func (d *device) Control(_ context.Context, requestType, request uint8, value, index uint16, b []byte) (int, error) {
	if requestType == 0x40 {
		return 0, syscall.EPIPE
	}
	return copy(b, []byte{requestType, request, byte(value), byte(value >> 8), byte(index), byte(index >> 8)}), nil
}

func (d *device) Transfer(ctx context.Context, endpoint byte, b []byte) (int, error) {
	switch endpoint {
	case 0x01:
		d.mu.Lock()
		d.echo = append(d.echo, append([]byte(nil), b...))
		d.mu.Unlock()
		d.more <- struct{}{}
		return len(b), nil
	case 0x82:
		select {
		case <-d.more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		next := d.echo[0]
		d.echo = d.echo[1:]
		return copy(b, next), nil
	}
	return 0, errors.New("broken")
}

// kernel is a hand-written peer.
type kernel struct {
	t *testing.T
	net.Conn
}

func serve(t *testing.T, d usbip.Device) (k kernel, ended <-chan error) {
	a, b := net.Pipe()
	end := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); end <- usbip.Serve(ctx, a, d) }()
	t.Cleanup(func() { cancel(); b.Close(); <-done })
	require.NoError(t, b.SetDeadline(time.Now().Add(20*time.Second)))
	return kernel{t, b}, end
}

// submit is USBIP_CMD_SUBMIT.
func submit(seq uint32, in bool, ep, flags, length uint32, setup []byte, data []byte) []byte {
	b := make([]byte, 48)
	put := func(offset int, v uint32) { binary.BigEndian.PutUint32(b[offset:], v) }
	put(0, 1)
	put(4, seq)
	put(8, 0x10001)
	if in {
		put(12, 1)
	}
	put(16, ep)
	put(20, flags)
	put(24, length)
	copy(b[40:], setup)
	return append(b, data...)
}

// unlink is USBIP_CMD_UNLINK.
func unlink(seq, what uint32) []byte {
	b := make([]byte, 48)
	binary.BigEndian.PutUint32(b, 2)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[20:], what)
	return b
}

func (k kernel) send(b []byte) {
	_, err := k.Write(b)
	require.NoError(k.t, err)
}

// answer is a message of the server's.
type answer struct {
	command, seq uint32
	status       int32
	actual       int
	data         []byte
}

// receive reads one answer; in says whether data follows.
func (k kernel) receive(in bool) answer {
	var h [48]byte
	_, err := io.ReadFull(k, h[:])
	require.NoError(k.t, err)
	u := func(offset int) uint32 { return binary.BigEndian.Uint32(h[offset:]) }
	a := answer{command: u(0), seq: u(4), status: int32(u(20)), actual: int(u(24))}
	assert.Equal(k.t, make([]byte, 12), h[8:20], "device, direction and endpoint are 0")
	if in && a.actual > 0 {
		a.data = make([]byte, a.actual)
		_, err = io.ReadFull(k, a.data)
		require.NoError(k.t, err)
	}
	return a
}

func TestTransfers(t *testing.T) {
	k, _ := serve(t, newDevice())
	t.Run("control in", func(t *testing.T) {
		k.send(submit(1, true, 0, 0, 64, []byte{0x80, 6, 1, 2, 3, 4, 5, 0}, nil))
		assert.Equal(t, answer{3, 1, 0, 5, []byte{0x80, 6, 1, 2, 3}}, k.receive(true), "no more than wLength")
	})
	t.Run("control out", func(t *testing.T) {
		k.send(submit(2, false, 0, 0, 2, []byte{0x00, 9, 1, 0, 0, 0, 2, 0}, []byte{7, 8}))
		assert.Equal(t, answer{3, 2, 0, 2, nil}, k.receive(false))
	})
	t.Run("stall", func(t *testing.T) {
		k.send(submit(3, false, 0, 0, 0, []byte{0x40, 9, 1, 0, 0, 0, 0, 0}, nil))
		assert.Equal(t, answer{3, 3, -32, 0, nil}, k.receive(false))
	})
	t.Run("broken", func(t *testing.T) {
		k.send(submit(4, true, 3, 0, 8, nil, nil))
		assert.Equal(t, answer{3, 4, -71, 0, nil}, k.receive(true))
	})
	t.Run("bulk, reads first", func(t *testing.T) {
		for seq := uint32(10); seq < 13; seq++ {
			k.send(submit(seq, true, 2, 0, 512, nil, nil))
		}
		for seq := uint32(20); seq < 23; seq++ {
			k.send(submit(seq, false, 1, 0, 3, nil, []byte{byte(seq), 1, 2}))
		}
		ins, outs := uint32(10), uint32(20)
		for range 6 {
			a := k.receive(false)
			if a.seq >= 20 {
				assert.Equal(t, answer{3, outs, 0, 3, nil}, a)
				outs++
				continue
			}
			assert.Equal(t, answer{3, ins, 0, 3, nil}, a, "in their order")
			data := make([]byte, 3)
			_, err := io.ReadFull(k, data)
			require.NoError(t, err)
			assert.Equal(t, []byte{byte(ins + 10), 1, 2}, data)
			ins++
		}
	})
	t.Run("a short one that must not be", func(t *testing.T) {
		k.send(submit(30, false, 1, 0, 1, nil, []byte{9}))
		k.receive(false)
		k.send(submit(31, true, 2, 1, 512, nil, nil))
		assert.Equal(t, answer{3, 31, -121, 1, []byte{9}}, k.receive(true))
	})
	t.Run("a full one with an empty packet", func(t *testing.T) {
		k.send(submit(40, false, 1, 0x40, 512, nil, make([]byte, 512)))
		k.receive(false)
		for seq, n := range map[uint32]int{41: 512} {
			k.send(submit(seq, true, 2, 0, 1024, nil, nil))
			assert.Equal(t, n, k.receive(true).actual)
		}
		k.send(submit(42, true, 2, 0, 1024, nil, nil))
		assert.Zero(t, k.receive(true).actual)
	})
}

func TestUnlink(t *testing.T) {
	k, _ := serve(t, newDevice())
	k.send(submit(1, true, 2, 0, 512, nil, nil))
	k.send(submit(2, true, 2, 0, 512, nil, nil))
	k.send(submit(3, true, 2, 0, 512, nil, nil))
	k.send(unlink(4, 2))
	assert.Equal(t, answer{4, 4, -104, 0, nil}, k.receive(false), "one that waits")
	k.send(unlink(5, 1))
	assert.Equal(t, answer{4, 5, -104, 0, nil}, k.receive(false), "one under way")
	k.send(unlink(6, 1))
	assert.Equal(t, answer{4, 6, 0, 0, nil}, k.receive(false), "one that is not there")
	k.send(submit(7, false, 1, 0, 1, nil, []byte{5}))
	got := map[uint32]int{}
	for range 2 {
		a := k.receive(false)
		got[a.seq] = a.actual
		if a.seq == 3 {
			_, err := io.ReadFull(k, make([]byte, 1))
			require.NoError(t, err)
		}
	}
	assert.Equal(t, map[uint32]int{3: 1, 7: 1}, got, "the third one has it")
}

func TestEnds(t *testing.T) {
	t.Run("of the peer", func(t *testing.T) {
		k, ended := serve(t, newDevice())
		k.send(submit(1, true, 2, 0, 512, nil, nil))
		k.Close()
		assert.NoError(t, <-ended)
	})
	t.Run("of the device", func(t *testing.T) {
		d := newDevice()
		k, ended := serve(t, d)
		k.send(submit(1, true, 2, 0, 512, nil, nil))
		close(d.gone)
		assert.NoError(t, <-ended)
		_, err := k.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
	})
}

func TestMalformed(t *testing.T) {
	iso := submit(1, true, 2, 0, 512, nil, nil)
	iso[35] = 3
	for name, b := range map[string][]byte{
		"command":        append([]byte{0, 0, 0, 9}, make([]byte, 44)...),
		"endpoint":       submit(1, true, 16, 0, 1, nil, nil),
		"length":         submit(1, true, 2, 0, 1<<20+1, nil, nil),
		"isochronous":    iso,
		"unlink nothing": unlink(1, 0),
		"twice":          append(submit(1, true, 2, 0, 1, nil, nil), submit(1, true, 2, 0, 1, nil, nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			k, ended := serve(t, newDevice())
			_, _ = k.Write(b)
			assert.ErrorIs(t, <-ended, usbip.ErrMalformed)
		})
	}
	t.Run("too many", func(t *testing.T) {
		k, ended := serve(t, newDevice())
		for seq := uint32(1); ; seq++ {
			if _, err := k.Write(submit(seq, true, 2, 0, 1, nil, nil)); err != nil {
				break
			}
			require.Less(t, seq, uint32(1000))
		}
		assert.ErrorIs(t, <-ended, usbip.ErrMalformed)
	})
}

// TestAReader: a CCID reader is enumerated and asked for its slot's status as
// the kernel does it.
func TestAReader(t *testing.T) {
	d := ccidsim.New(ccidsim.Config{Serial: "7"})
	k, ended := serve(t, d)
	k.send(submit(1, true, 0, 0, 18, []byte{0x80, 6, 0, 1, 0, 0, 18, 0}, nil))
	assert.Equal(t, d.DeviceDescriptor(), k.receive(true).data)
	k.send(submit(2, false, 0, 0, 0, []byte{0x00, 9, 1, 0, 0, 0, 0, 0}, nil))
	assert.Equal(t, answer{3, 2, 0, 0, nil}, k.receive(false))
	k.send(submit(3, true, 3, 0, 16, nil, nil)) // pends: no slot has changed
	k.send(submit(4, true, 2, 0, 65556, nil, nil))
	k.send(submit(5, false, 1, 0, 10, nil, []byte{0x65, 0, 0, 0, 0, 0, 1, 0, 0, 0}))
	out, in := k.receive(false), answer{}
	if out.seq == 4 {
		in, out = out, answer{}
	}
	if in.seq == 0 {
		in = k.receive(true)
	} else {
		_, err := io.ReadFull(k, make([]byte, in.actual))
		require.NoError(t, err)
		out = k.receive(false)
	}
	assert.Equal(t, uint32(5), out.seq)
	assert.Equal(t, 10, in.actual)
	k.send(submit(6, true, 0, 0, 8, []byte{0xC0, 1, 0, 0, 0, 0, 8, 0}, nil))
	assert.Equal(t, int32(-32), k.receive(true).status)
	d.Unplug()
	assert.NoError(t, <-ended)
}

type script struct {
	io.Reader
	io.Writer
}

func (script) Close() error { return nil }

// FuzzUSBIP holds that whatever the peer sends, the server ends with it and has
// written whole messages.
func FuzzUSBIP(f *testing.F) {
	f.Add(submit(1, true, 0, 0, 64, []byte{0x80, 6, 1, 2, 3, 4, 5, 0}, nil))
	f.Add(append(submit(1, true, 2, 0, 512, nil, nil), unlink(2, 1)...))
	f.Add(append(submit(1, false, 1, 0, 2, nil, []byte{1, 2}), submit(2, true, 2, 0, 512, nil, nil)...))
	f.Add(submit(1, false, 1, 0, 1<<20, nil, nil))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) > 48*500 {
			return
		}
		d := ccidsim.New(ccidsim.Config{})
		var written countingWriter
		err := usbip.Serve(context.Background(), script{&slow{sent}, &written}, d)
		if err != nil {
			assert.ErrorIs(t, err, usbip.ErrMalformed)
		}
	})
}

// slow is a reader that gives bytes in pieces.
type slow struct{ b []byte }

func (s *slow) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 100)], s.b)
	s.b = s.b[n:]
	return n, nil
}

type countingWriter struct {
	mu sync.Mutex
	n  int
}

func (w *countingWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n += len(b)
	return len(b), nil
}
