package tlv

import (
	"bytes"
	"encoding/hex"
	"fmt"
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

func TestRead(t *testing.T) {
	for _, c := range []struct {
		in    string
		tag   Tag
		value int
		rest  string
	}{
		{"5A00", 0x5A, 0, ""},
		{"5A02 0102 97", 0x5A, 2, "97"},
		{"9F70 01 01", 0x9F70, 1, ""},
		{"DF01 01 00 94", 0xDF01, 1, "94"},
		{"5F1F 00", 0x5F1F, 0, ""},
		{"9F7F 00", 0x9F7F, 0, ""},
		{"87 7F" + strings.Repeat("00", 127), 0x87, 127, ""},
		{"87 8180" + strings.Repeat("00", 128) + "01", 0x87, 128, "01"},
		{"87 81FF" + strings.Repeat("00", 255), 0x87, 255, ""},
		{"87 820100" + strings.Repeat("00", 256), 0x87, 256, ""},
		{"87 82FFFF" + strings.Repeat("00", 65535), 0x87, 65535, ""},
	} {
		in := unhex(t, c.in)
		o, rest, err := Read(in)
		require.NoError(t, err)
		assert.Equal(t, c.tag, o.Tag)
		assert.Len(t, o.Value, c.value)
		assert.Equal(t, unhex(t, c.rest), append([]byte{}, rest...))
		assert.Equal(t, in[:len(in)-len(rest)], o.Raw)
		assert.Equal(t, len(o.Value), cap(o.Value), "append must not reach what follows")
		assert.Equal(t, len(o.Raw), cap(o.Raw))
	}
}

func TestReadMalformed(t *testing.T) {
	for in, why := range map[string]string{
		"":                                     "nothing",
		"5A":                                   "no length",
		"9F":                                   "half a tag",
		"9F70":                                 "no length behind two bytes of tag",
		"9F8101 00":                            "a tag of three bytes",
		"5A01":                                 "no value",
		"5A02 01":                              "half a value",
		"5A80 0000":                            "indefinite length",
		"5A81":                                 "length cut off",
		"5A8101 01":                            "length not minimal",
		"5A817F" + strings.Repeat("00", 127):   "length not minimal",
		"5A8200FF" + strings.Repeat("00", 255): "length not minimal",
		"5A82 01":                              "length cut off",
		"5A820100 00":                          "value cut off",
		"5A83000001 01":                        "three bytes of length",
		"5A84FFFFFFFF":                         "four bytes of length",
		"5AFF":                                 "reserved",
	} {
		_, _, err := Read(unhex(t, in))
		assert.ErrorIs(t, err, ErrMalformed, "%s: %s", in, why)
	}
}

func TestExpect(t *testing.T) {
	v, rest, err := Expect(unhex(t, "5A0101 94"), 0x5A)
	require.NoError(t, err)
	assert.Equal(t, []byte{1}, v)
	assert.Equal(t, []byte{0x94}, rest)
	for _, in := range []string{"", "5B0101", "5A02"} {
		_, _, err := Expect(unhex(t, in), 0x5A)
		assert.ErrorIs(t, err, ErrMalformed, in)
	}
}

func TestAppend(t *testing.T) {
	for n, header := range map[int]string{
		0: "8700", 127: "877F", 128: "878180", 255: "8781FF", 256: "87820100", 65535: "8782FFFF",
	} {
		got := Append([]byte{0xEE}, 0x87, make([]byte, n)...)
		assert.Equal(t, append(unhex(t, "EE"+header), make([]byte, n)...), got)
	}
	assert.Equal(t, unhex(t, "9F700101"), Append(nil, 0x9F70, 1))
	assert.Panics(t, func() { AppendHeader(nil, 0x87, 65536) })
	assert.Panics(t, func() { AppendHeader(nil, 0x87, -1) })
}

func TestAllocations(t *testing.T) {
	in := Append(nil, 0x9F70, make([]byte, 300)...)
	buf := make([]byte, 0, 400)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = Read(in) }))
	assert.Zero(t, testing.AllocsPerRun(100, func() { buf = Append(buf[:0], 0x87, in...) }))
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"", "5A020102", "9F700101", "5A8101", "87818000", "9F8101", "E3045A020102"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for rest := in; len(rest) > 0; {
			o, next, err := Read(rest)
			if err != nil {
				assert.ErrorIs(t, err, ErrMalformed)
				return
			}
			require.Less(t, len(next), len(rest))
			assert.Equal(t, rest, append(bytes.Clone(o.Raw), next...))
			assert.Equal(t, o.Raw, Append(nil, o.Tag, o.Value...), "one object has one coding")
			rest = next
		}
	})
}

func BenchmarkRead(b *testing.B) {
	in := Append(nil, 0x9F70, make([]byte, 300)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Read(in); err != nil {
			b.Fatal(err)
		}
	}
}

func Example() {
	b := Append(nil, 0x9F70, 1)
	b = Append(b, 0x92, []byte("Everyday")...)
	state, rest, err := Expect(b, 0x9F70)
	fmt.Println(state, err)
	o, _, err := Read(rest)
	fmt.Printf("%X %s %v\n", uint16(o.Tag), o.Value, err)
	// Output:
	// [1] <nil>
	// 92 Everyday <nil>
}
