package pcsc_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
)

// BenchmarkTransmit is a round trip through pcscd and its virtual reader. For the
// same in C beside it, see hwtest/benchpcsc.
func BenchmarkTransmit(b *testing.B) {
	slot := rig.Start(b, rig.Options{Slots: 1}).Slots()[0]
	insert(b, slot, atrT1)
	_, err := pcsc.New().WaitCard(b.Context(), slot.Reader)
	require.NoError(b, err)
	c, err := pcsc.New().Connect(b.Context(), slot.Reader, pcsc.Options{})
	require.NoError(b, err)
	defer c.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Transmit(b.Context(), hello); err != nil {
			b.Fatal(err)
		}
	}
}
