package appletsim

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

func benchmarkProcess(b *testing.B, capdu string) {
	c := newCard(b, testImage(b))
	c.Process(unhex(selectApplet))
	cmd := unhex(capdu)
	b.ReportAllocs()
	for b.Loop() {
		c.Process(cmd)
	}
}

func BenchmarkProcessSelect(b *testing.B)  { benchmarkProcess(b, selectApplet) }
func BenchmarkProcessGetEID(b *testing.B)  { benchmarkProcess(b, getEID) }
func BenchmarkProcessGetInfo(b *testing.B) { benchmarkProcess(b, "80CA00E100") }

// BenchmarkProcessDeactivate is a whole session with one operation, and the
// server's part of it.
func BenchmarkProcessDeactivate(b *testing.B) {
	c := newCard(b, testImage(b))
	m := newTerminal(b, c)
	for b.Loop() {
		data := order{1, eleven, nil, c.image.EventCounter}.data()
		m.authenticate(1, insDeactivate, data)
		m.secured(insDeactivate, data)
		c.image.Profiles[0].State = Enabled
		c.image.Runtime = nil
	}
}

func benchmarkUSIM(b *testing.B, capdu, want string) {
	c := newCard(b, testImage(b))
	for _, s := range []string{selectUSIM, "00A4000C026F07"} {
		require.Equal(b, "9000", send(c, s))
	}
	cmd := unhex(capdu)
	require.Equal(b, want, hexBytes(c.Process(cmd)))
	b.ReportAllocs()
	for b.Loop() {
		c.Process(cmd)
	}
}

func BenchmarkProcessSelectFile(b *testing.B) {
	benchmarkUSIM(b, "00A4000C026F07", "9000")
}

func BenchmarkProcessSelectFCP(b *testing.B) {
	benchmarkUSIM(b, "00A40004023F0000", "6229820278218302"+"3F00A5038001718A01058B032F0607C61290015083010183018195010083011183010A9000")
}

func BenchmarkProcessReadBinary(b *testing.B) {
	benchmarkUSIM(b, "00B0000000", "0849061121324400249000")
}

func BenchmarkProcessReadRecord(b *testing.B) {
	benchmarkUSIM(b, "00B2010C00", "11F2FF009000")
}

// BenchmarkProcessUpdateBinary changes the file each time.
func BenchmarkProcessUpdateBinary(b *testing.B) {
	c := newCard(b, testImage(b))
	require.Equal(b, "9000", send(c, selectUSIM))
	cmd := unhex("00D68D0003000000")
	b.ReportAllocs()
	for b.Loop() {
		cmd[5]++
		c.Process(cmd)
	}
}

// BenchmarkProcessAuthenticate is AUTHENTICATE with an SQN that is new each time,
// the network's part of it not measured.
func BenchmarkProcessAuthenticate(b *testing.B) {
	im := testImage(b)
	c := newCard(b, im)
	require.Equal(b, "9000", send(c, selectUSIM))
	cmd := unhex(authenticateCommand([16]byte{1}, 64))
	require.Equal(b, "6135", hexBytes(c.Process(cmd)))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		c.image.Runtime = nil
		c.changed()
		c.files.SelectUSIM(0, apdu.Command{P2: 0x0C})
		b.StartTimer()
		c.Process(cmd)
	}
}

// BenchmarkMemory is how many bytes a card has of its own, its keys being shared.
func BenchmarkMemory(b *testing.B) {
	im := testImage(b)
	keys := newCard(b, im).material.keys
	cards := make([]*Card, 256)
	var before, after runtime.MemStats
	for b.Loop() {
		clear(cards)
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range cards {
			cards[i] = newCard(b, im, WithKeys(keys))
			for _, s := range []string{selectUSIM, "00D68D0003000000", authenticateCommand([16]byte{1}, 64), "0020008108" + "30303030FFFFFFFF"} {
				send(cards[i], s)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(cards)), "bytes/card")
	runtime.KeepAlive(cards)
}
