//go:build linux && amd64

package vm

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFrames(t *testing.T) {
	var line bytes.Buffer
	var mu sync.Mutex
	out := &frameWriter{mu: &mu, line: &line, kind: frameStdout}
	long := strings.Repeat("x", maxFrame+1)
	for _, s := range []string{"hello", "", long} {
		n, err := io.WriteString(out, s)
		require.NoError(t, err)
		assert.Equal(t, len(s), n)
	}
	_, err := (&frameWriter{mu: &mu, line: &line, kind: frameExit}).Write([]byte{3})
	require.NoError(t, err)

	var buf [maxFrame]byte
	var said string
	for {
		kind, data, err := readFrame(&line, &buf)
		require.NoError(t, err)
		if kind == frameExit {
			assert.Equal(t, []byte{3}, data)
			break
		}
		assert.Equal(t, frameStdout, kind)
		said += string(data)
	}
	assert.Equal(t, "hello"+long, said)
	_, _, err = readFrame(&line, &buf)
	assert.Equal(t, io.EOF, err)
}

func TestListenRefuses(t *testing.T) {
	for name, b := range map[string]string{
		"nothing":             "",
		"half a header":       "o\x00",
		"half a frame":        "o\x00\x00\x00\x02x",
		"too long":            "o\x00\x01\x00\x01",
		"unknown":             "?\x00\x00\x00\x00",
		"exit without status": "x\x00\x00\x00\x00",
	} {
		_, err := listen(strings.NewReader(b))
		assert.Error(t, err, name)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x02hix\x00\x00\x00\x01\x00"))
	f.Add([]byte("o\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var buf [maxFrame]byte
		r := bytes.NewReader(b)
		for {
			before := r.Len()
			_, data, err := readFrame(r, &buf)
			if err != nil {
				return
			}
			assert.Equal(t, before-r.Len(), frameHeader+len(data))
		}
	})
}
