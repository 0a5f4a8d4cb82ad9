package trace

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// long is a trace of n exchanges as a Source, made as it is read. Each every-th
// answers otherwise on side b, and each 10 × every-th is on side a alone.
type long struct {
	n, every int
	b        bool
	at       int
	answer   bool
	begun    bool
}

func (l *long) NextSession() (Header, error) {
	if l.begun {
		return Header{}, io.EOF
	}
	l.begun = true
	return Header{Origin: Hand}, nil
}

func (l *long) Next() (Entry, error) {
	if l.answer {
		l.answer = false
		e := Entry{Kind: Response, Data: make([]byte, 66)}
		e.Data[64] = 0x90
		if l.b && l.at%l.every == 1 {
			e.Data[3] = 1
		}
		return e, nil
	}
	l.at++
	if l.b && l.at%(10*l.every) == 0 {
		l.at++
	}
	if l.at > l.n {
		return Entry{}, io.EOF
	}
	l.answer = true
	return Entry{Kind: Command, Data: []byte{0x80, 0xB0, byte(l.at >> 8), byte(l.at), 2, byte(l.at >> 16), 0, 0x40}, Line: l.at}, nil
}

// liveBytes is what is in use after a collection.
func liveBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkDiff compares two traces of a million APDUs (500,000 exchanges) in
// which one exchange in a hundred differs and one in a thousand is missing. Time
// for each APDU and memory do not depend on the length.
func BenchmarkDiff(b *testing.B) {
	for _, apdus := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("%dAPDUs", apdus), func(b *testing.B) {
			before, most := liveBytes(), uint64(0)
			for b.Loop() {
				n := 0
				sum, err := Diff(&long{n: apdus / 2, every: 100}, &long{n: apdus / 2, every: 100, b: true}, DiffOptions{}, func(Difference) error {
					if n++; n%(apdus/20) == 0 {
						b.StopTimer()
						most = max(most, liveBytes()-min(before, liveBytes()))
						b.StartTimer()
					}
					return nil
				})
				require.NoError(b, err)
				assert.Equal(b, apdus/2/1000, sum.Missing)
				assert.Equal(b, apdus/2/100, sum.Different)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*apdus), "ns/APDU")
			b.ReportMetric(float64(most)/1e6, "MB-live")
		})
	}
}

// BenchmarkDiffNothingAgrees is the worst case: no command of one is in the
// other.
func BenchmarkDiffNothingAgrees(b *testing.B) {
	const apdus = 200_000
	for b.Loop() {
		_, err := Diff(&long{n: apdus / 2, every: 100}, other{&long{n: apdus / 2, every: 100}}, DiffOptions{}, nil)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*apdus), "ns/APDU")
}

// other has another instruction in each command.
type other struct{ *long }

func (o other) Next() (Entry, error) {
	e, err := o.long.Next()
	if e.Kind == Command {
		e.Data[1] = 0xB2
	}
	return e, err
}

// What is held does not grow with the traces.
func TestDiffIsFlat(t *testing.T) {
	most := func(n int) (most int) {
		a, b := &long{n: n, every: 100}, &long{n: n, every: 100, b: true}
		d := differ{a: newWindow(a, "", DefaultRules()), b: newWindow(b, "", DefaultRules()), rules: DefaultRules()}
		d.report = func(Difference) error {
			most = max(most, len(d.a.list)+len(d.b.list))
			return nil
		}
		require.NoError(t, d.run())
		return most
	}
	assert.Equal(t, most(5_000), most(50_000))
}
