package apdu

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestParseCapabilities(t *testing.T) {
	least := Capabilities{Channels: 1}
	for _, c := range []struct {
		name, atr string
		want      Capabilities
	}{
		{"T=0 and T=1, all announced", "3B94 80 1F 80 73 0000F7", least}, // one historical byte short, as K says 4
		{"compact-TLV", "3B85 80 01 80 73 0000D3", Capabilities{CommandChaining: true, ExtendedLength: true, Channels: 4}},
		{"compact-TLV and status", "3B88 80 01 00 73 000040 000000", Capabilities{ExtendedLength: true, Channels: 1}},
		{"status behind too few bytes", "3B03 00 7300", least},
		{"other objects first", "3B08 80 3180 73 000080 00", Capabilities{CommandChaining: true, Channels: 1}},
		{"channels assigned by the interface", "3B05 80 73 00000F", Capabilities{Channels: 8}},
		{"channels without an assignment", "3B05 80 73 000007", least},
		{"capabilities of two bytes", "3B04 80 72 0000", least},
		{"object cut off", "3B04 80 73 00C0", least},
		{"category not interindustry", "3B05 81 73 0000C0", least},
		{"historical bytes cut off", "3B0F 80 73 0000C0", least},
		{"interface bytes cut off", "3BF5 80", least},
		{"a TD that never comes", "3B80", least},
		{"TD after TD", "3B85 80 80 01 80 73 0000C0", Capabilities{CommandChaining: true, ExtendedLength: true, Channels: 1}},
		{"TA TB TC TD", "3BF5 11 22 33 F1 11 22 33 01 80 73 0000C0", Capabilities{CommandChaining: true, ExtendedLength: true, Channels: 1}},
		{"nothing", "", least},
		{"one byte", "3B", least},
		{"no historical bytes", "3B00", least},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, ParseCapabilities(unhex(t, c.atr)))
		})
	}
}

func FuzzParseCapabilities(f *testing.F) {
	for _, s := range []string{"", "3B8580018073000053", "3B88800100730000400000 00", "3BF511223301807300 00C0"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, atr []byte) {
		caps := ParseCapabilities(atr)
		assert.GreaterOrEqual(t, caps.Channels, 1)
		assert.LessOrEqual(t, caps.Channels, 8)
	})
}
