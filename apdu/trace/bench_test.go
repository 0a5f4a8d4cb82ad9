package trace

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkRecorder is what recording adds to an exchange: a command of 5 bytes
// and an answer of 18, or of 258.
func BenchmarkRecorder(b *testing.B) {
	file := func(b *testing.B) *os.File {
		f, err := os.Create(filepath.Join(b.TempDir(), "trace"))
		require.NoError(b, err)
		b.Cleanup(func() { f.Close() })
		return f
	}
	buffered := func(b *testing.B) *bufio.Writer { return bufio.NewWriter(file(b)) }
	for _, c := range []struct {
		name    string
		answer  int
		to      func(*testing.B) io.Writer
		options []Option
	}{
		{"18 bytes", 18, func(*testing.B) io.Writer { return io.Discard }, nil},
		{"258 bytes", 258, func(*testing.B) io.Writer { return io.Discard }, nil},
		{"18 bytes, unredacted", 18, func(*testing.B) io.Writer { return io.Discard }, []Option{Unredacted()}},
		{"18 bytes, to a buffered file", 18, func(b *testing.B) io.Writer { return buffered(b) }, nil},
		{"18 bytes, to a file", 18, func(b *testing.B) io.Writer { return file(b) }, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			capdu, rapdu := []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, make([]byte, c.answer)
			rapdu[c.answer-2] = 0x90
			conn := NewRecorder(c.to(b), Header{}, c.options...).Wrap(&conn{answer: func([]byte) ([]byte, error) { return rapdu, nil }})
			b.ReportAllocs()
			for b.Loop() {
				_, _ = conn.Transmit(b.Context(), capdu)
			}
		})
	}
}

const anExchange = "> 00B0000000 # +1.000000s\n< 981010325476981032549810103254769000 # +1.000206s 0.206ms\n"

// BenchmarkReader reads a trace as it is written, an exchange an iteration.
func BenchmarkReader(b *testing.B) {
	r := NewReader(io.MultiReader(strings.NewReader(firstLine+"\n"), &repeated{text: anExchange, n: 1 << 40}))
	b.SetBytes(int64(len(anExchange)))
	b.ReportAllocs()
	for b.Loop() {
		for range 2 {
			if _, err := r.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkRedactor(b *testing.B) {
	t, err := Parse(strings.NewReader(firstLine + "\n" + anExchange + "> 0020000108 31323334FFFFFFFF\n< 9000\n"))
	require.NoError(b, err)
	var r Redactor
	b.ReportAllocs()
	for b.Loop() {
		for _, e := range t.Entries {
			r.Redact(e)
		}
	}
}
