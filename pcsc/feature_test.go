package pcsc_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc"
)

func TestParseFeatures(t *testing.T) {
	found, err := pcsc.ParseFeatures([]byte{0x12, 4, 0x42, 0x33, 0, 0x12, 0x06, 4, 0x42, 0x33, 0, 0x06})
	require.NoError(t, err)
	assert.Equal(t, []pcsc.Feature{
		{Tag: pcsc.FeatureGetTLVProperties, Code: 0x42330012}, {Tag: pcsc.FeatureVerifyPINDirect, Code: 0x42330006},
	}, found)
	assert.Equal(t, "GET_TLV_PROPERTIES", found[0].Tag.String())
	assert.Equal(t, "0x7F", pcsc.FeatureTag(0x7F).String())
	found, err = pcsc.ParseFeatures(nil)
	assert.NoError(t, err)
	assert.Empty(t, found)
	for name, b := range map[string][]byte{
		"cut short":    {0x12, 4, 0x42, 0x33, 0},
		"other length": {0x12, 3, 0x42, 0x33, 0, 0x12},
		"too long":     make([]byte, 6*256),
		"one too much": {0x12, 4, 0x42, 0x33, 0, 0x12, 0},
	} {
		_, err := pcsc.ParseFeatures(b)
		assert.ErrorIs(t, err, apdu.ErrMalformed, name)
	}
}

func TestParseProperties(t *testing.T) {
	p, err := pcsc.ParseProperties([]byte{
		1, 2, 0x10, 0x02, 2, 1, 7, 3, 1, 15, 4, 2, 16, 0, 5, 2, 2, 0, 6, 1, 4, 7, 1, 8,
		8, 6, '1', '.', 0x1B, '0', 0, 'x', 9, 1, 1, 0x0A, 4, 0, 0, 1, 0, 0x0B, 2, 0x6B, 0x07, 0x0C, 2, 0x21, 0x30,
		0x7F, 1, 0xFF,
	})
	require.NoError(t, err)
	assert.Equal(t, uint16(0x0210), *p.LCDLayout)
	assert.Equal(t, uint8(7), *p.EntryValidationCondition)
	assert.Equal(t, uint8(15), *p.TimeOut2)
	assert.Equal(t, uint16(16), *p.LCDMaxCharacters)
	assert.Equal(t, uint16(2), *p.LCDMaxLines)
	assert.Equal(t, uint8(4), *p.MinPINSize)
	assert.Equal(t, uint8(8), *p.MaxPINSize)
	assert.Equal(t, "1.0", p.Firmware, "nothing for a terminal to obey")
	assert.Equal(t, uint8(1), *p.PPDUSupport)
	assert.Equal(t, uint32(0x10000), *p.MaxAPDUData)
	assert.Equal(t, uint16(0x076B), *p.Vendor)
	assert.Equal(t, uint16(0x3021), *p.Product)
	p, err = pcsc.ParseProperties(nil)
	assert.NoError(t, err)
	assert.Nil(t, p.Vendor)
	for name, b := range map[string][]byte{
		"no length": {1}, "past its end": {1, 2, 0}, "8 bits": {2, 2, 0, 0}, "16 bits": {1, 1, 0}, "32 bits": {0x0A, 2, 0, 0},
		"too long": make([]byte, 4097),
	} {
		_, err := pcsc.ParseProperties(b)
		assert.ErrorIs(t, err, apdu.ErrMalformed, name)
	}
}

func FuzzParseFeatures(f *testing.F) {
	f.Add([]byte{0x12, 4, 0x42, 0x33, 0, 0x12})
	f.Add([]byte{0x12, 3, 0x42})
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := pcsc.ParseFeatures(b)
		if err != nil {
			assert.ErrorIs(t, err, apdu.ErrMalformed)
			return
		}
		assert.Len(t, b, 6*len(found))
	})
}

func FuzzParseProperties(f *testing.F) {
	f.Add([]byte{0x0A, 4, 0, 0, 1, 0, 0x0B, 2, 0x6B, 0x07, 8, 3, '1', '.', '0'})
	f.Add([]byte{1, 2, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := pcsc.ParseProperties(b)
		if err != nil {
			assert.ErrorIs(t, err, apdu.ErrMalformed)
			assert.Equal(t, pcsc.Properties{}, p)
		}
		for _, r := range p.Firmware {
			assert.GreaterOrEqual(t, r, ' ')
		}
	})
}
