package appletsim

import "testing"

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
