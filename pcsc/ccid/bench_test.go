package ccid

import (
	"context"
	"errors"
	"testing"
)

// mirror answers each command at once.
type mirror struct{ slot, seq, kind byte }

func (m *mirror) Out(_ context.Context, b []byte) error {
	m.kind, m.slot, m.seq = answers[b[0]], b[5], b[6]
	return nil
}

func (m *mirror) In(_ context.Context, b []byte) (int, error) {
	data := []byte{0x90, 0x00}
	if m.seq == 3 { // to IccPowerOn
		data = []byte{0x3B, 0x80, 0x01, 0x81}
	}
	icc := byte(iccInactive)
	if m.seq > 2 {
		icc = iccActive
	}
	copy(b, []byte{m.kind, byte(len(data)), 0, 0, 0, m.slot, m.seq, icc, 0, 0})
	return headerLength + copy(b[headerLength:], data), nil
}

func (m *mirror) Interrupt(context.Context, []byte) (int, error) { return 0, errors.ErrUnsupported }
func (m *mirror) Control(context.Context, uint8, uint8, uint16, uint16, []byte) (int, error) {
	return 0, nil
}
func (m *mirror) Close() error { return nil }

// BenchmarkTransmit is what the driver itself adds to an exchange.
func BenchmarkTransmit(b *testing.B) {
	ctx := context.Background()
	d, err := Attach(ctx, &mirror{}, Descriptor{Features: LevelExtAPDU | AutoNegotiation, Voltages: 7, MaxMessageLength: maxMessage}, "mirror")
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	c, err := d.Connect(ctx, 0, Options{})
	if err != nil {
		b.Fatal(err)
	}
	capdu := make([]byte, 5)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Transmit(ctx, capdu); err != nil {
			b.Fatal(err)
		}
	}
}
