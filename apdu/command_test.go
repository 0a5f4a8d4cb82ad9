package apdu

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func TestCommandCases(t *testing.T) {
	long := bytes.Repeat([]byte{0xAB}, 300)
	longHex := strings.Repeat("AB", 300)
	most := bytes.Repeat([]byte{0xCD}, MaxExtendedData)
	for _, c := range []struct {
		name string
		cmd  Command
		wire string
	}{
		{"1", Command{CLA: 0x00, INS: 0x70, P1: 0x80, P2: 1}, "00708001"},
		{"2S", Command{CLA: 0x80, INS: 0xCA, P2: 0x5A, Ne: 18}, "80CA005A12"},
		{"2S, Le 00", Command{CLA: 0x80, INS: 0xCA, P2: 0x5A, Ne: 256}, "80CA005A00"},
		{"2E", Command{INS: 0xB0, Ne: 257}, "00B00000000101"},
		{"2E, Le 0000", Command{INS: 0xB0, Ne: 65536}, "00B00000000000"},
		{"3S", Command{INS: 0xA4, P1: 4, Data: []byte{1, 2}}, "00A40400020102"},
		{"3S, 255", Command{INS: 0xD6, Data: long[:255]}, "00D60000FF" + longHex[:510]},
		{"3E", Command{INS: 0xD6, Data: long}, "00D6000000012C" + longHex},
		{"3E, 65535", Command{INS: 0xD6, Data: most}, "00D6000000FFFF" + strings.Repeat("CD", MaxExtendedData)},
		{"4S", Command{INS: 0xA4, P1: 4, Data: []byte{1}, Ne: 256}, "00A40400010100"},
		{"4S, Lc 1 looks like 2 bytes of Le", Command{INS: 0xA4, Data: []byte{0}, Ne: 1}, "00A40000010001"},
		{"4E by its data", Command{INS: 0xD6, Data: long, Ne: 1}, "00D6000000012C" + longHex + "0001"},
		{"4E by its Ne", Command{INS: 0xD6, Data: []byte{7}, Ne: 65536}, "00D6000000000107" + "0000"},
		{"4E, Ne 257", Command{INS: 0xD6, Data: []byte{7}, Ne: 257}, "00D6000000000107" + "0101"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.cmd.AppendBinary([]byte{0xEE})
			require.NoError(t, err)
			wire := unhex(t, c.wire)
			assert.Equal(t, append([]byte{0xEE}, wire...), got)
			back, err := ParseCommand(wire)
			require.NoError(t, err)
			assert.Equal(t, c.cmd, back)
			extended := strings.Contains(c.name, "E")
			assert.Equal(t, extended, IsExtended(wire))
		})
	}
}

// A sender may use extended fields where short ones would do.
func TestParseCommandNotMinimal(t *testing.T) {
	for _, c := range []struct {
		wire string
		want Command
	}{
		{"00B00000 000001", Command{INS: 0xB0, Ne: 1}},
		{"00A40400 000002 3F00", Command{INS: 0xA4, P1: 4, Data: []byte{0x3F, 0}}},
		{"00A40400 000002 3F00 0100", Command{INS: 0xA4, P1: 4, Data: []byte{0x3F, 0}, Ne: 256}},
	} {
		got, err := ParseCommand(unhex(t, c.wire))
		require.NoError(t, err, c.wire)
		assert.Equal(t, c.want, got)
		assert.True(t, IsExtended(unhex(t, c.wire)))
	}
}

func TestParseCommandMalformed(t *testing.T) {
	for _, wire := range []string{
		"", "00", "00A404", // no header
		"00A40400 02 01", "00A40400 02 01020304", // Lc and what follows
		"00A40400 FF 01",
		"00A40400 00 01",        // an extended length cut off
		"00A40400 000000 01",    // extended Lc of 0
		"00A40400 000000 0000",  // the same with Le
		"00A40400 000002 01",    // data cut off
		"00A40400 000001 01 00", // half an extended Le
		"00A40400 000001 010000" + "00",
	} {
		_, err := ParseCommand(unhex(t, wire))
		assert.ErrorIs(t, err, ErrMalformed, wire)
	}
}

func TestAppendBinaryBounds(t *testing.T) {
	for _, c := range []Command{
		{Data: make([]byte, MaxExtendedData+1)},
		{Ne: MaxExtendedNe + 1},
		{Ne: -1},
	} {
		b, err := c.AppendBinary([]byte{1})
		assert.ErrorIs(t, err, ErrMalformed)
		assert.Equal(t, []byte{1}, b, "nothing is appended")
	}
}

func TestParseResponse(t *testing.T) {
	for _, c := range []struct {
		wire string
		data string
		sw   StatusWord
	}{
		{"9000", "", SWSuccess},
		{"01029000", "0102", SWSuccess},
		{"6A82", "", SWFileNotFound},
		{"6110", "", 0x6110},
		{"9110", "", 0x9110},
	} {
		data, sw, err := ParseResponse(unhex(t, c.wire))
		require.NoError(t, err)
		assert.Equal(t, unhex(t, c.data), append([]byte{}, data...))
		assert.Equal(t, c.sw, sw)
		assert.Equal(t, len(data), cap(data), "append must not reach the status word")
	}
	for _, wire := range []string{"", "90", "0000", "FFFF", "5A00", "01028000"} {
		_, _, err := ParseResponse(unhex(t, wire))
		assert.ErrorIs(t, err, ErrMalformed, wire)
	}
}

func TestAllocations(t *testing.T) {
	cmd := Command{CLA: 0x8C, INS: 0x04, Data: make([]byte, 90), Ne: 256}
	buf := make([]byte, 0, 300)
	wire, err := cmd.AppendBinary(nil)
	require.NoError(t, err)
	rapdu := append(make([]byte, 300), 0x90, 0x00)
	for name, fn := range map[string]func(){
		"AppendBinary":  func() { buf, _ = cmd.AppendBinary(buf[:0]) },
		"ParseCommand":  func() { cmd, _ = ParseCommand(wire) },
		"ParseResponse": func() { _, _, _ = ParseResponse(rapdu) },
	} {
		assert.Zero(t, testing.AllocsPerRun(100, fn), name)
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{
		"", "00708001", "80CA005A00", "00B00000000000", "00A40400020102", "00A40400010100",
		"00D600000000010700", "00D60000000001070000", "00A404000000", "00A404000000000000",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		cmd, err := ParseCommand(wire)
		if err != nil {
			assert.ErrorIs(t, err, ErrMalformed)
			return
		}
		again, err := cmd.AppendBinary(nil)
		require.NoError(t, err)
		assert.LessOrEqual(t, len(again), len(wire), "the shortest form")
		back, err := ParseCommand(again)
		require.NoError(t, err)
		assert.Equal(t, cmd, back)
		if !IsExtended(wire) {
			assert.Equal(t, wire, again)
		}
	})
}

func FuzzParseResponse(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x90})
	f.Add([]byte{0x01, 0x90, 0x00})
	f.Add([]byte{0x6A, 0x82})
	f.Fuzz(func(t *testing.T, wire []byte) {
		data, sw, err := ParseResponse(wire)
		if err != nil {
			assert.ErrorIs(t, err, ErrMalformed)
			return
		}
		assert.Equal(t, wire, sw.Append(bytes.Clone(data)))
	})
}

func BenchmarkAppendBinary(b *testing.B) {
	for _, c := range benchCommands {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				var err error
				if buf, err = c.cmd.AppendBinary(buf[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseCommand(b *testing.B) {
	for _, c := range benchCommands {
		b.Run(c.name, func(b *testing.B) {
			wire, err := c.cmd.AppendBinary(nil)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseCommand(wire); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseResponse(b *testing.B) {
	rapdu := append(make([]byte, 256), 0x90, 0x00)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ParseResponse(rapdu); err != nil {
			b.Fatal(err)
		}
	}
}

var benchCommands = []struct {
	name string
	cmd  Command
}{
	{"case2S", Command{CLA: 0x80, INS: 0xCA, P2: 0x5A, Ne: 256}},
	{"case4S", Command{CLA: 0x8C, INS: 0x04, Data: make([]byte, 90), Ne: 256}},
	{"case4E", Command{INS: 0x82, P1: 1, P2: 1, Data: make([]byte, 352), Ne: 65536}},
}
