package main

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// qemu is QEMU's end of a connection.
type qemu struct {
	t *testing.T
	net.Conn
}

func (q qemu) send(kind byte, data ...byte) {
	b := append([]byte{0, 0, 0, kind, 0, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(data)))...)
	_, err := q.Write(append(b, data...))
	require.NoError(q.t, err)
}

func (q qemu) receive(kind byte) []byte {
	var h [12]byte
	_, err := io.ReadFull(q, h[:])
	require.NoError(q.t, err)
	require.Equal(q.t, kind, h[3])
	data := make([]byte, binary.BigEndian.Uint32(h[8:]))
	_, err = io.ReadFull(q, data)
	require.NoError(q.t, err)
	return data
}

// TestInQEMU: the card is put into the reader of one QEMU after another, and the
// program ends well. A socket that a program left is no obstacle.
func TestInQEMU(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "card")
	left, err := net.Listen("unix", socket)
	require.NoError(t, err)
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, left.Close())

	cmd, out := program(t, "--card", cardFile(t), "--vscard", socket)
	for range 2 {
		var conn net.Conn
		require.Eventually(t, func() bool { conn, err = net.Dial("unix", socket); return err == nil }, 10*time.Second, time.Millisecond)
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		q := qemu{t, conn}
		hello := q.receive(1)
		q.send(1, hello...)
		q.receive(3)
		q.send(2, 0, 0, 0, 0)
		assert.Equal(t, byte(0x3B), q.receive(5)[0])
		q.send(2, 0, 0, 0, 0)
		require.True(t, out.Scan())
		assert.Equal(t, "attached "+socket, out.Text())
		q.send(7, 0x00, 0x70, 0x00, 0x00, 0x01)
		assert.Equal(t, []byte{1, 0x90, 0}, q.receive(7), "MANAGE CHANNEL")
		conn.Close()
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, cmd.Wait())
	_, err = os.Stat(socket)
	assert.ErrorIs(t, err, os.ErrNotExist)
}
