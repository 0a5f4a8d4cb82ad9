package interchange

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// BenchmarkImport reads a megabyte of each format.
func BenchmarkImport(b *testing.B) {
	for _, name := range samples {
		head, body := sample(b, name)
		in := append(append([]byte(nil), head...), bytes.Repeat(body, 1<<20/len(body))...)
		f, ok := Detect(in)
		require.True(b, ok)
		b.Run(string(f), func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			entries := 0
			for b.Loop() {
				src, err := NewSource(f, bytes.NewReader(in), nil)
				require.NoError(b, err)
				entries = 0
				for {
					if _, err := src.Next(); err != nil {
						require.ErrorIs(b, err, io.EOF)
						break
					}
					entries++
				}
			}
			b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkExport writes an exchange an iteration.
func BenchmarkExport(b *testing.B) {
	command := trace.Entry{Kind: trace.Command, Data: []byte{0x00, 0xB0, 0x00, 0x00, 0x10}}
	response := trace.Entry{Kind: trace.Response, Data: make([]byte, 18)}
	response.Data[16] = 0x90
	for _, f := range SinkFormats() {
		b.Run(string(f), func(b *testing.B) {
			sink, err := NewSink(f, io.Discard)
			require.NoError(b, err)
			require.NoError(b, sink.Begin(trace.Header{}))
			b.ReportAllocs()
			for b.Loop() {
				_ = sink.Write(command)
				_ = sink.Write(response)
			}
		})
	}
}
